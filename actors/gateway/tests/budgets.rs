//! Budgets before real protocols: what is refused, how, and what counts.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod mock;

use std::{
    io,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use gateway::{Protocol, budgets::Shelf};
use http_body::Frame;
use http_body_util::BodyExt as _;
use mock::{House, Provider, Told, house, house_with, post};
use serde_json::Value;

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const SSE: &[(&str, &str)] = &[("content-type", "text/event-stream")];

/// Two providers behind `m`, one alone behind `n`.
fn section(port: u16, second: u16, budgets: &str) -> String {
    format!(
        r#"{{"providers":{{
            "one":{{"kind":"openai","base_url":"http://127.0.0.1:{port}/v1","credential":"env:KEY"}},
            "two":{{"kind":"openai","base_url":"http://127.0.0.1:{second}/v1"}},
            "ant":{{"kind":"anthropic","base_url":"http://127.0.0.1:{port}"}}}},
          "routes":[{{"model":"m","to":[{{"provider":"one"}},{{"provider":"two"}}]}},
                    {{"model":"n","to":[{{"provider":"one"}},{{"provider":"ant"}}],"timeouts":{{"first_byte":"2s"}}}}],
          "budgets":{budgets}}}"#
    )
}

fn chat(model: &str) -> http::Request<gateway::Body> {
    post("/v1/chat/completions", format!(r#"{{"model":"{model}","messages":[{{}}],"max_tokens":100}}"#))
}

fn usage(tokens: u64) -> String {
    format!(r#"{{"usage":{{"prompt_tokens":{},"completion_tokens":1}}}}"#, tokens - 1)
}

/// Tokens and requests of the n-th budget.
fn used(house: &House, n: usize) -> (u64, u64) {
    let (standing, fault) = house.gateway.budgets();
    assert_eq!(fault, None);
    (standing[n].tokens.0, standing[n].requests.0)
}

async fn refused(house: &House, request: http::Request<gateway::Body>) -> (u64, Value) {
    let (status, headers, body) = house.whole(request).await;
    let value: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &value["error"]), (403, &"policy_denied".into()), "{body}");
    assert_eq!(value["layer"], "budget");
    (headers["retry-after"].to_str().unwrap().parse().unwrap(), value)
}

#[tokio::test]
async fn a_spent_budget_refuses_and_says_until_when() {
    let provider = Provider::start().await;
    let house = house(
        Protocol::Http1,
        &section(
            provider.port,
            provider.port,
            r#"[{"per":"day","tokens":500},{"per":"hour","requests":100,"model":"n*"}]"#,
        ),
    );
    provider.whole(200, JSON, &usage(700)).await;
    assert_eq!(house.whole(chat("n")).await.0, 200);
    assert_eq!((used(&house, 0), used(&house, 1)), ((700, 1), (700, 1)));
    let (after, value) = refused(&house, chat("n")).await;
    let left = 86_400 - SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() % 86_400;
    assert!(after.abs_diff(left) < 120 || after.abs_diff(left) > 86_000, "{after} {left}");
    assert_eq!(value["detail"], "the budget of 500 tokens a day is spent");
    assert!(value["hint"].as_str().unwrap().contains("T00:00:00Z"), "{value}");
    assert_eq!(value["policy"], "n");
    assert_eq!((provider.count(), used(&house, 1)), (1, (700, 1)));
    assert!(house.told().contains(&Told::Spent { provider: Some("one".into()) }));
    // Of the list of models nothing is spent, and counting tokens uses none.
    assert_eq!(house.whole(mock::fetch("/v1/models")).await.0, 200);
    provider.whole(200, JSON, r#"{"input_tokens":14}"#).await;
    let count = post("/v1/messages/count_tokens", r#"{"model":"n","messages":[{}]}"#);
    assert_eq!(house.whole(count).await.0, 200);
    assert_eq!((used(&house, 0), used(&house, 1)), ((700, 2), (700, 2)));
    assert_eq!(house.book.standing.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_hundred_side_by_side_pass_no_limit_together() {
    let provider = Provider::start().await;
    let house =
        house(Protocol::Http1, &section(provider.port, provider.port, r#"[{"per":"day","tokens":1000}]"#));
    for _ in 0..100 {
        provider.whole(200, JSON, &usage(150)).await;
    }
    let house = Arc::new(house);
    let asked: Vec<_> = (0..100)
        .map(|n| {
            let house = Arc::clone(&house);
            tokio::spawn(async move {
                let answer = house.ask_as(n, chat("n")).await;
                let status = answer.status().as_u16();
                answer.into_body().collect().await.unwrap();
                status
            })
        })
        .collect();
    let mut codes = Vec::new();
    for asked in asked {
        codes.push(asked.await.unwrap());
    }
    let served = codes.iter().filter(|code| **code == 200).count() as u64;
    assert!(codes.iter().all(|code| [200, 403].contains(code)), "{codes:?}");
    // Each used more than its estimate, by 50 or less; and each was admitted with what was left.
    assert!((1..=9).contains(&served), "{served}");
    assert_eq!((used(&house, 0), provider.count() as u64), ((served * 150, served), served));
}

#[tokio::test]
async fn what_is_not_told_is_what_was_estimated() {
    let provider = Provider::start().await;
    let house =
        house(Protocol::Http1, &section(provider.port, provider.port, r#"[{"per":"day","tokens":100000}]"#));
    let before = || used(&house, 0).0;
    let estimate = (r#"{"model":"n","messages":[{}],"max_tokens":100}"#.len() as u64).div_ceil(2) + 100;
    // No usage.
    provider.whole(200, JSON, "{}").await;
    assert_eq!(house.whole(chat("n")).await.0, 200);
    assert_eq!(before(), estimate);
    // A stream that breaks off.
    let mut sender = provider.stream(200, SSE);
    let mut response = house.ask(chat("n")).await;
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1}}\n\n";
    sender.send(Frame::data(Bytes::from_static(usage.as_bytes()))).await.unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(before(), 2 * estimate);
    sender.abort(io::Error::other("broken").into());
    assert!(response.body_mut().frame().await.unwrap().is_err());
    drop(response);
    assert_eq!(before(), 2 * estimate);
    // One that its reader leaves.
    let _sender = provider.stream(200, SSE);
    drop(house.ask(chat("n")).await);
    assert_eq!(before(), 3 * estimate);
    // An error was not served; it counts as a request.
    provider.whole(400, JSON, "{}").await;
    assert_eq!(house.whole(chat("n")).await.0, 400);
    assert_eq!(used(&house, 0), (3 * estimate, 4));
    // What is refused before it is sent counts nowhere.
    house.book.full.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(house.whole(chat("n")).await.0, 503);
    assert_eq!(used(&house, 0), (3 * estimate, 4));
    house.book.full.store(false, std::sync::atomic::Ordering::Relaxed);
    // Silence: it may have served.
    assert_eq!(house.whole(chat("n")).await.0, 504);
    assert_eq!(used(&house, 0), (4 * estimate, 5));
}

const MOST: u64 = gateway::budgets::UNTOLD_MOST;

/// Whoever leaves before the answer doesn't know what it came to, and neither does the gateway.
#[tokio::test]
async fn what_is_left_before_its_first_byte_counts_with_all_that_it_may_have_come_to() {
    let provider = Provider::start().await;
    let house = house(
        Protocol::Http1,
        &section(provider.port, provider.port, r#"[{"per":"day","tokens":10000000}]"#),
    );
    let mut wanted = 0;
    for (sent, (members, output)) in
        [("", MOST), (r#","n":2"#, 2 * MOST), (r#","max_tokens":10"#, 10)].into_iter().enumerate()
    {
        let body = format!(r#"{{"model":"n","messages":[{{}}]{members}}}"#);
        wanted += (body.len() as u64).div_ceil(2) + output;
        {
            let mut asking = std::pin::pin!(house.ask(post("/v1/chat/completions", body)));
            while provider.count() == sent {
                let pause = tokio::time::timeout(Duration::from_millis(5), &mut asking).await;
                assert!(pause.is_err(), "answered");
            }
        }
        assert_eq!(used(&house, 0).0, wanted, "{members}");
    }
}

/// What a model thought before what was seen of its stream isn't seen.
#[tokio::test]
async fn what_is_left_in_the_middle_counts_so_too_and_what_is_over_as_it_says() {
    let body = r#"{"model":"n","messages":[{}],"stream":true}"#;
    let delta = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n";
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\n\n";
    let left = (body.len() as u64).div_ceil(2) + MOST;
    for (text, wanted) in [(delta.to_owned(), left), (format!("{delta}{usage}data: [DONE]\n\n"), 7)] {
        let provider = Provider::start().await;
        let budget = r#"[{"per":"day","tokens":10000000}]"#;
        let house = house(Protocol::Http1, &section(provider.port, provider.port, budget));
        let mut sender = provider.stream(200, SSE);
        let mut response = house.ask(post("/v1/chat/completions", body)).await;
        sender.send(Frame::data(Bytes::from(text))).await.unwrap();
        response.body_mut().frame().await.unwrap().unwrap();
        drop(response);
        assert_eq!(used(&house, 0).0, wanted);
    }
}

#[tokio::test]
async fn a_stream_that_its_reader_leaves_counts_at_least_what_was_seen_of_it() {
    let provider = Provider::start().await;
    let house =
        house(Protocol::Http1, &section(provider.port, provider.port, r#"[{"per":"day","tokens":100000}]"#));
    let text = "word".repeat(250);
    let delta = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
    // Of its estimate an agent can make what it likes, and its provider may not heed it.
    let body = r#"{"model":"n","messages":[{}],"stream":true,"max_tokens":1}"#;
    let mut sender = provider.stream(200, SSE);
    let mut response = house.ask(post("/v1/chat/completions", body)).await;
    for _ in 0..20 {
        sender.send(Frame::data(Bytes::from(delta.clone()))).await.unwrap();
        response.body_mut().frame().await.unwrap().unwrap();
    }
    drop(response);
    assert_eq!(used(&house, 0), ((body.len() as u64).div_ceil(2) + 20 * 500, 1));
    // The same of an end without a word of it. Of what isn't made of tokens nothing is taken for any.
    provider.whole(200, SSE, &delta.repeat(20)).await;
    assert_eq!(house.whole(post("/v1/chat/completions", body)).await.0, 200);
    let before = used(&house, 0).0;
    assert_eq!(before, 2 * ((body.len() as u64).div_ceil(2) + 20 * 500));
    let vector = format!(r#"{{"data":[{{"embedding":"{text}"}}],"usage":{{"prompt_tokens":3}}}}"#);
    provider.whole(200, JSON, &vector).await;
    assert_eq!(house.whole(post("/v1/embeddings", r#"{"model":"n","input":"x"}"#)).await.0, 200);
    assert_eq!(used(&house, 0), (before + 3, 3));
}

#[tokio::test]
async fn an_agent_that_declines_a_streams_usage_is_counted_by_it_all_the_same() {
    let delta = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"usage\":null}\n\n";
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":90000}}\n\n";
    let stream = format!("{delta}{usage}data: [DONE]\n\n");
    let asks = |options: &str| {
        format!(r#"{{"model":"n","messages":[{{}}],"stream":true,"stream_options":{options}}}"#)
    };
    for (budget, counted) in [(r#""tokens":1000000"#, true), (r#""requests":9"#, false)] {
        let provider = Provider::start().await;
        let budgets = format!(r#"[{{"per":"day",{budget}}}]"#);
        let house = house(Protocol::Http1, &section(provider.port, provider.port, &budgets));
        for options in ["{}", r#"{"include_usage":false}"#] {
            provider.whole(200, SSE, &stream).await;
            let (status, _, body) = house.whole(post("/v1/chat/completions", asks(options))).await;
            // Where it isn't counted the agent gets whatever came.
            let wanted = if counted { stream.replace(usage, "") } else { stream.clone() };
            assert_eq!((status, body), (200, wanted));
            let sent = if counted { r#"{"include_usage":true}"# } else { options };
            assert_eq!(provider.last().body, asks(sent));
        }
        assert_eq!(used(&house, 0), (2 * 90_005, 2));
        // Which of two counts readers disagree on.
        let twice = asks(r#"{"include_usage":true,"include_usage":false}"#);
        provider.whole(200, SSE, &stream).await;
        let (status, _, body) = house.whole(post("/v1/chat/completions", twice)).await;
        assert_eq!(
            (status, body.contains("stream_options")),
            if counted { (400, true) } else { (200, false) }
        );
        assert_eq!((provider.count(), used(&house, 0).1), if counted { (2, 2) } else { (3, 3) });
    }
}

#[tokio::test]
async fn an_answer_in_the_background_is_refused_where_its_tokens_count() {
    let ask = |members: &str| post("/v1/responses", format!(r#"{{"model":"m","input":"x",{members}}}"#));
    let queued = r#"{"id":"r","status":"queued","output":[],"usage":null}"#;
    let told = r#"{"id":"r","output":[],"usage":{"input_tokens":3,"output_tokens":4}}"#;
    let provider = Provider::start().await;
    let of = |budgets: &str| house(Protocol::Http1, &section(provider.port, provider.port, budgets));
    let counted = of(r#"[{"per":"day","tokens":1000000}]"#);
    for members in [r#""background":true"#, r#""background":false,"backGround":1"#] {
        let (status, _, body) = counted.whole(ask(members)).await;
        let value: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &value["error"]), (400, &"bad_request".into()), "{body}");
        assert_eq!((&value["layer"], &value["hint"]), (&"budget".into(), &"ask without `background`".into()));
    }
    assert_eq!((provider.count(), used(&counted, 0)), (0, (0, 0)));
    provider.whole(200, JSON, told).await;
    assert_eq!(counted.whole(ask(r#""background":false"#)).await.0, 200);
    assert_eq!(used(&counted, 0), (7, 1));
    // Requests alone are counted, and another provider's tokens.
    for budgets in [r#"[{"per":"day","requests":9}]"#, r#"[{"per":"day","tokens":9,"provider":"one"}]"#] {
        provider.whole(200, JSON, queued).await;
        assert_eq!(of(budgets).whole(ask(r#""background":true"#)).await.0, 200, "{budgets}");
    }
}

#[tokio::test]
async fn a_target_whose_own_budget_is_spent_is_passed_over() {
    let (one, two) = (Provider::start().await, Provider::start().await);
    let budgets = r#"[{"per":"day","requests":1,"provider":"one"},{"per":"day","requests":3}]"#;
    let house = house(Protocol::Http1, &section(one.port, two.port, budgets));
    one.whole(200, JSON, &usage(2)).await;
    two.whole(200, JSON, &usage(2)).await;
    for _ in 0..2 {
        assert_eq!(house.whole(chat("m")).await.0, 200);
    }
    assert_eq!((one.count(), two.count()), (1, 1));
    assert!(house.told().contains(&Told::Spent { provider: Some("one".into()) }));
    // Behind it nobody: then it is what refuses.
    let (_, value) = refused(&house, chat("n")).await;
    assert_eq!(value["detail"], "the budget of 1 requests a day, provider one is spent");
    // One that didn't serve used no tokens, and was a request.
    two.whole(503, JSON, "{}").await;
    assert_eq!(house.whole(chat("m")).await.0, 503);
    assert_eq!((used(&house, 0), used(&house, 1)), ((2, 1), (4, 3)));
    // One of all providers' refuses at once.
    let (_, value) = refused(&house, chat("m")).await;
    assert!(value["detail"].as_str().unwrap().contains("3 requests a day is spent"), "{value}");
    assert_eq!((one.count(), two.count()), (1, 2));
}

#[tokio::test]
async fn an_answer_of_a_providers_goes_before_a_budget_that_its_request_has_spent() {
    let (one, two) = (Provider::start().await, Provider::start().await);
    let house = house(Protocol::Http1, &section(one.port, two.port, r#"[{"per":"day","requests":1}]"#));
    one.whole(429, &[JSON[0], ("retry-after", "3")], "{}").await;
    let (status, headers, body) = house.whole(chat("m")).await;
    assert_eq!((status, headers["retry-after"].as_bytes()), (429, &b"3"[..]), "{body}");
    assert_eq!((two.count(), used(&house, 0)), (0, (0, 1)));
    assert!(house.told().contains(&Told::Spent { provider: Some("two".into()) }));
    refused(&house, chat("m")).await;
}

#[tokio::test]
async fn who_cannot_be_connected_to_used_nothing() {
    let two = Provider::start().await;
    let (_taken, dead) = mock::refusing();
    let house =
        house(Protocol::Http1, &section(dead, two.port, r#"[{"per":"day","tokens":1000,"requests":9}]"#));
    two.whole(200, JSON, &usage(7)).await;
    assert_eq!(house.whole(chat("m")).await.0, 200);
    assert_eq!(used(&house, 0), (7, 1));
    two.whole(429, JSON, "{}").await;
    assert_eq!(house.whole(chat("m")).await.0, 429);
    assert_eq!(used(&house, 0), (7, 2));
}

#[derive(Default)]
struct Disk {
    text: Mutex<Option<Vec<u8>>>,
    full: Mutex<bool>,
}

impl Shelf for Disk {
    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.text.lock().unwrap().clone())
    }
    fn write(&self, text: &[u8]) -> io::Result<()> {
        if *self.full.lock().unwrap() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *self.text.lock().unwrap() = Some(text.to_vec());
        Ok(())
    }
}

#[tokio::test]
async fn counts_outlive_the_process_and_damaged_ones_refuse() {
    let provider = Provider::start().await;
    let text = section(provider.port, provider.port, r#"[{"per":"day","tokens":500}]"#);
    let disk = Arc::<Disk>::default();
    let open = || house_with(Protocol::Http1, &text, Some(Arc::<Disk>::clone(&disk)));
    let first = open();
    // In flight when it is killed.
    let _sender = provider.stream(200, SSE);
    let response = first.ask(chat("n")).await;
    std::mem::forget(response);
    let second = open();
    assert_eq!(used(&second, 0), (123, 1));
    provider.whole(200, JSON, &usage(400)).await;
    assert_eq!(second.whole(chat("n")).await.0, 200);
    let settled = async |wanted| {
        let on_disk = async {
            while used(&open(), 0) != wanted {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), on_disk).await.unwrap();
    };
    settled((523, 2)).await;
    refused(&open(), chat("n")).await;
    // With a higher limit the count is the same; a full disk lets nothing through.
    let more = text.replace("500", "5000");
    let third = house_with(Protocol::Http1, &more, Some(Arc::<Disk>::clone(&disk)));
    *disk.full.lock().unwrap() = true;
    let (status, _, body) = third.whole(chat("n")).await;
    assert!(status == 503 && body.contains("put on disk") && body.contains("\"budget\""), "{body}");
    *disk.full.lock().unwrap() = false;
    provider.whole(200, JSON, &usage(1)).await;
    assert_eq!(third.whole(chat("n")).await.0, 200);
    // Cut short by somebody, once nobody writes it.
    settled((524, 3)).await;
    disk.text.lock().unwrap().as_mut().unwrap().truncate(20);
    let asked = provider.count();
    let fourth = open();
    for _ in 0..2 {
        let (status, _, body) = fourth.whole(chat("n")).await;
        assert!(status == 503 && body.contains("can't be read") && body.contains("budgets.json"), "{body}");
    }
    assert!(fourth.gateway.budgets().1.is_some());
    assert_eq!(provider.count(), asked);
    // Nothing is limited, so nothing is missed.
    let free = section(provider.port, provider.port, "[]");
    let free = house_with(Protocol::Http1, &free, Some(Arc::<Disk>::clone(&disk)));
    provider.whole(200, JSON, &usage(1)).await;
    assert_eq!(free.whole(chat("n")).await.0, 200);
}
