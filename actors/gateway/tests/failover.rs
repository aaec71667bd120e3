//! A route's next target: when it is asked, with whose key, and what the agent gets where all fail.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod mock;

use std::time::Duration;

use bytes::Bytes;
use gateway::Protocol;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::BodyExt as _;
use mock::{House, KEY, OTHER_KEY, Provider, Told, house, post};
use serde_json::Value;

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const SSE: &[(&str, &str)] = &[("content-type", "text/event-stream")];

/// A route over two providers, each with its own key and its own name for the model; both ports may be any.
fn section(first: u16, second: u16) -> String {
    format!(
        r#"{{"providers":{{
            "one":{{"kind":"openai","base_url":"http://127.0.0.1:{first}/v1","credential":"env:KEY"}},
            "two":{{"kind":"openai","base_url":"http://127.0.0.1:{second}/v1","credential":"env:OTHER"}}}},
          "routes":[{{"model":"m","to":[{{"provider":"one","model":"a"}},{{"provider":"two","model":"b"}}],
                      "timeouts":{{"first_byte":"2s","idle":"2s"}}}}]}}"#
    )
}

struct Pair {
    one: Provider,
    two: Provider,
    house: House,
}

async fn pair(protocol: Protocol) -> Pair {
    let (one, two) = (Provider::start().await, Provider::start().await);
    let house = house(protocol, &section(one.port, two.port));
    Pair { one, two, house }
}

fn chat() -> http::Request<gateway::Body> {
    post("/v1/chat/completions", r#"{"model":"m","messages":[{}]}"#)
}

impl Pair {
    async fn ask(&self) -> (u16, HeaderMap, String) {
        self.house.whole(chat()).await
    }

    fn asked(&self) -> (usize, usize) {
        (self.one.count(), self.two.count())
    }

    /// No key of one provider's in anything that the other saw.
    fn keys_stay_apart(&self) {
        for (provider, own, other) in [(&self.one, KEY, OTHER_KEY), (&self.two, OTHER_KEY, KEY)] {
            for seen in &*provider.seen.lock().unwrap() {
                assert_eq!(seen.headers["authorization"], format!("Bearer {own}"));
                assert!(!format!("{:?} {:?}", seen.headers, seen.body).contains(other));
            }
        }
    }
}

fn passed(provider: &str, code: u16) -> Told {
    Told::PassedOver { provider: provider.into(), code }
}

#[tokio::test]
async fn what_one_does_not_serve_another_does_with_its_own_key_and_name() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for code in [429, 500, 503, 529] {
            let pair = pair(protocol).await;
            pair.one.whole(code, JSON, r#"{"error":{"message":"not now"}}"#).await;
            pair.two.whole(200, JSON, r#"{"usage":{"prompt_tokens":1,"completion_tokens":2}}"#).await;
            // Long enough that it isn't sent in one piece.
            let text = format!(r#"{{"model":"m","messages":[{{"c":"{}"}}]}}"#, "x".repeat(400_000));
            let (status, _, body) = pair.house.whole(post("/v1/chat/completions", text.clone())).await;
            assert_eq!(status, 200, "{body}");
            assert_eq!(pair.one.last().body, text.replace(r#""m""#, r#""a""#));
            assert_eq!(pair.two.last().body, text.replace(r#""m""#, r#""b""#));
            pair.keys_stay_apart();
            let told = pair.house.told();
            let admitted = |provider: &str| Told::Admitted { provider: provider.into(), route: "m".into() };
            assert_eq!(told[..3], [admitted("one"), passed("one", code), admitted("two")]);
            assert!(
                matches!(&told[3..], [Told::FirstByte, Told::Finished { code: 200, provider, .. }] if provider == "two")
            );
            assert_eq!(pair.house.gateway.in_flight(), 0);
        }
    }
}

#[tokio::test]
async fn any_other_answer_is_the_answer() {
    for code in [400, 401, 403, 404, 408, 409, 413, 422] {
        let pair = pair(Protocol::Http1).await;
        pair.one.whole(code, &[JSON[0], ("x-should-retry", "true")], "{}").await;
        assert_eq!(pair.ask().await.0, code);
        assert_eq!(pair.asked(), (1, 0), "{code}");
    }
    // A provider that says that it is of no use.
    for code in [429, 500] {
        let pair = pair(Protocol::Http1).await;
        pair.one.whole(code, &[JSON[0], ("x-should-retry", "false")], "{}").await;
        let (status, headers, _) = pair.ask().await;
        assert_eq!((status, headers["x-should-retry"].as_bytes()), (code, &b"false"[..]));
        assert_eq!(pair.asked(), (1, 0));
    }
}

#[tokio::test]
async fn an_answer_that_breaks_after_its_first_byte_is_not_asked_for_again() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let pair = pair(protocol).await;
        let mut sender = pair.one.stream(200, SSE);
        let request = post("/v1/chat/completions", r#"{"model":"m","stream":true,"messages":[{}]}"#);
        let mut response = pair.house.ask(request).await;
        sender.send(Frame::data(Bytes::from_static(b"data: 1\n\n"))).await.unwrap();
        let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "data: 1\n\n");
        sender.abort(std::io::Error::other("broken").into());
        assert!(response.body_mut().frame().await.unwrap().is_err());
        drop(response);
        assert!(matches!(pair.house.told().last(), Some(Told::Finished { complete: false, .. })));
        assert_eq!(pair.asked(), (1, 0));
    }
}

#[tokio::test]
async fn whoever_may_have_served_is_not_followed_by_another() {
    // Silent after the request came.
    let pair = pair(Protocol::Http1).await;
    let (status, _, body) = pair.ask().await;
    assert_eq!(status, 504, "{body}");
    assert_eq!(pair.asked(), (1, 0));
    // Broken off without a word.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            use tokio::io::AsyncReadExt as _;
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
        }
    });
    let house = house(Protocol::Http1, &section(port, pair.two.port));
    assert_eq!(house.whole(chat()).await.0, 502);
    assert_eq!(pair.two.count(), 0);
    // Also behind one that didn't serve: what that one said is not true of the whole any more.
    let house = mock::house(Protocol::Http1, &section(pair.two.port, port));
    pair.two.whole(429, JSON, "{}").await;
    let (status, _, body) = house.whole(chat()).await;
    assert!(status == 502 && body.contains("provider two"), "{body}");
}

#[tokio::test]
async fn one_that_failed_is_left_alone_for_as_long_as_it_asks() {
    let pair = pair(Protocol::Http1).await;
    pair.one.whole(429, &[JSON[0], ("retry-after", "30")], "{}").await;
    for _ in 0..3 {
        pair.two.whole(200, JSON, "{}").await;
        assert_eq!(pair.ask().await.0, 200);
    }
    assert_eq!(pair.asked(), (1, 3));
    // Both rest: they are asked all the same, in order, and one that serves rests no more.
    pair.two.whole(503, JSON, "{}").await;
    pair.one.whole(200, JSON, "{}").await;
    assert_eq!(pair.ask().await.0, 200);
    assert_eq!(pair.asked(), (2, 4));
    pair.one.whole(200, JSON, "{}").await;
    assert_eq!(pair.ask().await.0, 200);
    assert_eq!(pair.asked(), (3, 4));
    // A new table keeps who rests, and who doesn't, unless it leads elsewhere.
    pair.one.whole(429, &[JSON[0], ("retry-after-ms", "30000")], "{}").await;
    pair.two.whole(200, JSON, "{}").await;
    assert_eq!(pair.ask().await.0, 200);
    let again = section(pair.one.port, pair.two.port).replace(r#""model":"m""#, r#""model":"*""#);
    pair.house.gateway.publish(&serde_json::from_str(&again).unwrap()).unwrap();
    pair.two.whole(200, JSON, "{}").await;
    assert_eq!(pair.ask().await.0, 200);
    assert_eq!(pair.asked(), (4, 6));
    pair.keys_stay_apart();
}

#[tokio::test]
async fn a_rest_is_of_one_model_and_ends() {
    let pair = pair(Protocol::Http1).await;
    let more = section(pair.one.port, pair.two.port).replace(
        r#""routes":["#,
        r#""routes":[{"model":"n","to":[{"provider":"one","model":"c"},{"provider":"two"}]},"#,
    );
    pair.house.gateway.publish(&serde_json::from_str(&more).unwrap()).unwrap();
    pair.one.whole(429, &[JSON[0], ("retry-after-ms", "300")], "{}").await;
    pair.two.whole(200, JSON, "{}").await;
    assert_eq!(pair.ask().await.0, 200);
    pair.one.whole(200, JSON, "{}").await;
    let other = post("/v1/chat/completions", r#"{"model":"n","messages":[{}]}"#);
    assert_eq!(pair.house.whole(other).await.0, 200);
    assert_eq!(pair.asked(), (2, 1));
    tokio::time::sleep(Duration::from_millis(350)).await;
    pair.one.whole(200, JSON, "{}").await;
    assert_eq!(pair.ask().await.0, 200);
    assert_eq!(pair.asked(), (3, 1));
}

#[tokio::test]
async fn one_that_cannot_be_connected_to_is_not_tried_by_each_request() {
    let two = Provider::start().await;
    let (_taken, dead) = mock::refusing();
    let house = house(Protocol::Http1, &section(dead, two.port));
    for _ in 0..3 {
        two.whole(200, JSON, "{}").await;
        assert_eq!(house.whole(chat()).await.0, 200);
    }
    let dials = house.dialed.lock().unwrap().iter().filter(|to| to.port == dead).count();
    assert_eq!((dials, two.count()), (1, 3));
    // The attempt is on record, as one that got no answer.
    let refused = Told::Refused { code: "upstream_unreachable", status: 502, provider: Some("one".into()) };
    assert_eq!(house.told().iter().filter(|told| **told == refused).count(), 1);
}

#[tokio::test]
async fn where_all_fail_the_agent_gets_the_last_answer_there_was() {
    let pair = pair(Protocol::Http1).await;
    let said = |key: &str| format!(r#"{{"error":{{"message":"{key} is over its rate"}}}}"#);
    pair.one.whole(429, &[JSON[0], ("retry-after", "5")], &said(KEY)).await;
    pair.two.whole(503, &[JSON[0], ("retry-after", "7")], &said(OTHER_KEY)).await;
    let (status, headers, body) = pair.ask().await;
    assert_eq!((status, headers["retry-after"].as_bytes()), (503, &b"7"[..]), "{body}");
    assert!(body.contains("over its rate") && !body.contains(OTHER_KEY), "{body}");
    // Nobody behind it can be reached: then that of the one that spoke.
    let (_taken, dead) = mock::refusing();
    let house = house(Protocol::Http1, &section(pair.one.port, dead));
    pair.one.whole(429, &[JSON[0], ("retry-after", "5"), ("x-key", KEY)], &said(KEY)).await;
    let (status, headers, body) = house.whole(chat()).await;
    assert_eq!((status, headers["retry-after"].as_bytes()), (429, &b"5"[..]), "{body}");
    assert_eq!(headers["x-cofferdam-request-id"], "req-1");
    let value: Value = serde_json::from_str(&body).unwrap();
    let message = value["error"]["message"].as_str().unwrap();
    assert!(message.contains("[REDACTED:provider-key]") && !message.contains("0123"), "{message}");
    let told = house.told();
    let unreached = Told::Refused { code: "upstream_unreachable", status: 502, provider: Some("two".into()) };
    assert!(told.contains(&passed("one", 429)) && told.contains(&unreached), "{told:?}");
    assert_eq!(told.iter().filter(|it| matches!(it, Told::FirstByte)).count(), 1);
    assert_eq!(house.gateway.in_flight(), 0);
}

#[tokio::test]
async fn the_text_of_who_is_passed_over_holds_nobody_up_for_long() {
    let pair = pair(Protocol::Http1).await;
    let _never_sent = pair.one.stream(503, JSON);
    pair.two.whole(200, JSON, "{}").await;
    let began = std::time::Instant::now();
    assert_eq!(pair.ask().await.0, 200);
    assert!(began.elapsed() < gateway::TEXT_WITHIN + Duration::from_secs(30));
    assert!(pair.house.told().contains(&passed("one", 503)));
}

#[tokio::test]
async fn what_one_provider_keeps_is_asked_of_no_other() {
    for kept in [r#""previous_response_id":"r""#, r#""conversation":"c""#, r#""prompt":{"id":"p"}"#] {
        let pair = pair(Protocol::Http1).await;
        let ask = || post("/v1/responses", format!(r#"{{"model":"m","input":"x",{kept}}}"#));
        for _ in 0..2 {
            pair.one.whole(429, &[JSON[0], ("retry-after", "30")], "{}").await;
            let (status, headers, _) = pair.house.whole(ask()).await;
            assert_eq!((status, headers["retry-after"].as_bytes()), (429, &b"30"[..]));
        }
        assert_eq!(pair.asked(), (2, 0));
    }
}
