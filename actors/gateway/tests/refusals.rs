//! What the agent must not get: the key, an unrouted model, another provider's redirect; and what it gets
//! instead.

#![expect(clippy::unwrap_used, reason = "tests")]

mod mock;

use std::{sync::atomic::Ordering, time::Duration};

use base64::Engine as _;
use bytes::Bytes;
use gateway::{MAX_IN_FLIGHT, Protocol};
use http_body::Frame;
use http_body_util::BodyExt as _;
use mock::{KEY, Provider, Told, before_both, fetch, house, post};

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

fn chat(model: &str) -> http::Request<gateway::Body> {
    post("/v1/chat/completions", format!(r#"{{"model":"{model}","messages":[{{}}]}}"#))
}

/// The key in no spelling that gives it away.
fn assert_no_key(text: &str) {
    let base64 = base64::engine::general_purpose::STANDARD.encode(KEY);
    for needle in [KEY, "0123456789abcdef", "Zk9+QmVy", "Zk9%2BQmVy", &base64[..20]] {
        assert!(!text.contains(needle), "{needle} in {text}");
    }
}

/// A model that repeats what it is told, too, is asked a few times only how a key begins; then its words come
/// late, and whole.
#[tokio::test]
async fn a_model_that_repeats_guesses_tells_little() {
    let (provider, house) = before_both(Protocol::Http1).await;
    let words = format!("you said: {}", &KEY[..13]);
    for _ in 0..2 * redactor::guesses::MAX_OF_ONE {
        provider.whole(200, &[("content-type", "application/json")], &words).await;
        let (status, _, body) = house.whole(chat("small")).await;
        assert_eq!((status, body.as_str()), (200, words.as_str()));
    }
    let told = house.book.told.lock().unwrap();
    assert_eq!(told.iter().filter(|told| matches!(told, Told::Guessed)).count(), 1, "{told:?}");
}

#[tokio::test]
async fn an_error_that_echoes_the_key_is_scrubbed() {
    let (provider, house) = before_both(Protocol::Http1).await;
    let base64 = base64::engine::general_purpose::STANDARD.encode(format!("user:{KEY}"));
    let url = KEY.replace('/', "%2F").replace('+', "%2B");
    for (status, words) in [
        (400, format!("Bad key {KEY}")),
        (403, format!("no access for {}", KEY.replace('-', "\\u002d"))),
        (404, format!("basic {base64} is not known")),
        (429, format!("see https://x.example/?key={url}")),
        (500, "key sk-live********cdef is over quota, pass hunter2hunter2".to_owned()),
    ] {
        let text = format!(r#"{{"error":{{"message":"{words}","type":"bad","{KEY}":1,"code":"c"}}}}"#);
        let headers = [("content-type", "application/json"), ("x-request-id", KEY), ("retry-after", "7")];
        provider.whole(status, &headers, &text).await;
        let (got, headers, body) = house.whole(chat("small")).await;
        assert_eq!(got, status);
        assert_no_key(&body);
        assert_no_key(&format!("{headers:?}"));
        assert!(!body.contains("cdef") && !body.contains("hunter2"), "{body}");
        assert_eq!(headers["retry-after"], "7");
        // The shape is kept, so a client library still understands it.
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["error"]["type"], "bad");
    }
}

#[tokio::test]
async fn an_authentication_error_is_replaced_in_the_providers_shape() {
    let (provider, house) = before_both(Protocol::Http1).await;
    let text = r#"{"error":{"message":"Incorrect API key provided: sk-li...cdef"}}"#;
    provider
        .whole(401, &[("content-type", "application/json"), ("www-authenticate", "Bearer realm=x")], text)
        .await;
    let (status, headers, body) = house.whole(chat("small")).await;
    assert_eq!(status, 401);
    assert!(!body.contains("cdef") && !headers.contains_key("www-authenticate"));
    let value: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(value["error"]["type"], "authentication_error");
    provider.whole(401, JSON, text).await;
    let (_, _, body) =
        house.whole(post("/v1/messages", r#"{"model":"claude-x","max_tokens":5,"messages":[{}]}"#)).await;
    let value: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&value["type"], &value["error"]["type"]), (&"error".into(), &"authentication_error".into()));
}

#[tokio::test]
async fn an_error_that_is_no_json_is_replaced() {
    let (provider, house) = before_both(Protocol::Http1).await;
    let huge = format!("{{\"x\":\"{}\"}}", "y".repeat(100_000));
    for (kind, text) in
        [("text/html", "<h1>internal-host-17</h1>"), ("application/json", "{"), ("application/json", &huge)]
    {
        provider.whole(502, &[("content-type", kind)], text).await;
        let (status, headers, body) = house.whole(chat("small")).await;
        assert_eq!((status, &headers["content-type"]), (502, &"application/json".parse().unwrap()));
        assert!(body.contains("provider oai answered 502") && body.len() < 300, "{body}");
    }
}

#[tokio::test]
async fn the_key_is_masked_in_a_stream_too_however_it_is_split() {
    let (provider, house) = before_both(Protocol::Http1).await;
    let mut sender = provider.stream(200, &[("content-type", "text/event-stream")]);
    let response = house.ask(chat("small")).await;
    let text = format!("data: a {KEY} b\n\n");
    for piece in text.as_bytes().chunks(5) {
        sender.send(Frame::data(Bytes::copy_from_slice(piece))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(sender);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "data: a [REDACTED:provider-key] b\n\n");
}

#[tokio::test]
async fn redirects_and_unasked_compression_are_not_passed_on() {
    let (provider, house) = before_both(Protocol::Http1).await;
    for headers in [
        (307, ("location", "https://evil.example/v1")),
        (302, ("location", "http://127.0.0.1:1/")),
        (200, ("content-encoding", "gzip")),
    ] {
        let (code, header) = headers;
        provider.whole(code, &[("content-type", "application/json"), header], "{}").await;
        let (status, headers, body) = house.whole(chat("small")).await;
        assert_eq!(status, 502, "{body}");
        assert!(!headers.contains_key("location") && !body.contains("evil"));
        assert!(
            body.contains("\"error\":\"upstream_unreachable\"") && body.contains("\"layer\":\"inference\"")
        );
    }
    assert_eq!(provider.count(), 3);
}

#[tokio::test]
async fn refusals_have_the_shape_of_the_house_and_reach_nobody() {
    let (provider, house) = before_both(Protocol::Http1).await;
    let (status, headers, body) = house.whole(chat("gpt-9")).await;
    assert_eq!((status, &headers["content-type"]), (403, &"application/json".parse().unwrap()));
    assert_eq!(headers["x-cofferdam-request-id"], "req-1");
    let value: serde_json::Value = serde_json::from_str(&body).unwrap();
    for (field, wanted) in [
        ("error", "policy_denied"),
        ("layer", "inference"),
        ("host", "inference.local"),
        ("method", "POST"),
        ("path", "/v1/chat/completions"),
        ("binary", "/usr/bin/python3"),
        ("request_id", "req-1"),
        ("hint", "models with a route: claude-real, small"),
    ] {
        assert_eq!(value[field], wanted, "{field}");
    }
    assert_eq!(value["port"], 443);
    // A protocol that the route's providers don't speak.
    let (status, _, body) =
        house.whole(post("/v1/messages", r#"{"model":"small","max_tokens":5,"messages":[{}]}"#)).await;
    assert!(status == 403 && body.contains("anthropic"), "{body}");
    for (path, wanted) in [("/api/tags", 404), ("/props", 404), ("/v1/files", 404), ("/v1/messages", 405)] {
        let (status, _, body) = house.whole(fetch(path)).await;
        assert_eq!(status, wanted, "{body}");
        assert!(serde_json::from_str::<serde_json::Value>(&body).is_ok());
    }
    for bad in ["", "nonsense", "[1]", "{\"model\":\"small\",\"model\":\"small\"}", "{\"model\":1}"] {
        assert_eq!(house.whole(post("/v1/chat/completions", bad)).await.0, 400, "{bad}");
    }
    let (status, ..) = house.whole(post("/v1/chat/completions", vec![b' '; 33 << 20])).await;
    assert_eq!(status, 413);
    for (field, value) in [("content-encoding", "zstd"), ("content-type", "text/plain")] {
        let mut request = chat("small");
        request.headers_mut().insert(field, value.parse().unwrap());
        let (status, _, body) = house.whole(request).await;
        assert!(status == 400 && body.contains("\"bad_request\""), "{field}: {status} {body}");
    }
    assert_eq!(provider.count(), 0);
    assert!(house.told().iter().all(|t| matches!(t, Told::Refused { .. })));
}

#[tokio::test]
async fn a_request_without_what_its_endpoint_needs_reaches_nobody() {
    let (provider, house) = before_both(Protocol::Http1).await;
    for (path, body, field) in [
        ("/v1/chat/completions", r#"{"model":"small"}"#, "`messages`"),
        ("/v1/chat/completions", r#"{"model":"small","messages":"hello"}"#, "`messages`"),
        ("/v1/chat/completions", r#"{"model":"small","messages":[]}"#, "`messages`"),
        ("/v1/chat/completions", r#"{"model":"small","messages":["hello"]}"#, "`messages`"),
        ("/v1/completions", r#"{"model":"small","prompt":7}"#, "`prompt`"),
        ("/v1/embeddings", r#"{"model":"small","input":{}}"#, "`input`"),
        ("/v1/responses", r#"{"model":"small"}"#, "`previous_response_id`"),
        ("/v1/responses", r#"{"model":"small","input":true}"#, "`input`"),
        ("/v1/messages", r#"{"model":"claude-x","messages":[{}]}"#, "`max_tokens`"),
        ("/v1/messages", r#"{"model":"claude-x","messages":[{}],"max_tokens":0}"#, "`max_tokens`"),
        ("/v1/messages", r#"{"model":"claude-x","max_tokens":5}"#, "`messages`"),
        ("/v1/messages/count_tokens", r#"{"model":"claude-x"}"#, "`messages`"),
    ] {
        let (status, _, answer) = house.whole(post(path, body)).await;
        let value: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!((status, &value["error"]), (400, &"bad_request".into()), "{path} {body}: {answer}");
        assert!(value["detail"].as_str().unwrap().contains(field), "{path} {body}: {answer}");
    }
    assert_eq!(provider.count(), 0);
    assert!(house.told().iter().all(|t| matches!(t, Told::Refused { status: 400, provider: None, .. })));
}

#[tokio::test]
async fn nothing_is_sent_that_cannot_be_recorded() {
    let (provider, house) = before_both(Protocol::Http1).await;
    house.book.full.store(true, Ordering::Relaxed);
    let (status, _, body) = house.whole(chat("small")).await;
    assert!(status == 503 && body.contains("audit"), "{body}");
    assert!(provider.count() == 0 && house.dialed.lock().unwrap().is_empty());
    house.book.full.store(false, Ordering::Relaxed);
    provider.whole(200, JSON, "{}").await;
    assert_eq!(house.whole(chat("small")).await.0, 200);
}

#[tokio::test]
async fn a_later_target_is_asked_where_an_earlier_one_cannot_be_connected_to() {
    let provider = Provider::start().await;
    let (_taken, dead) = mock::refusing();
    let section = format!(
        r#"{{"providers":{{"dead":{{"kind":"openai","base_url":"http://127.0.0.1:{dead}/v1"}},
                          "live":{{"kind":"openai","base_url":"http://127.0.0.1:{}/v1","credential":"env:KEY"}}}},
            "routes":[{{"model":"*","to":[{{"provider":"dead","model":"a"}},{{"provider":"live","model":"b"}}]}}]}}"#,
        provider.port
    );
    let house = house(Protocol::Http1, &section);
    provider.whole(200, JSON, "{}").await;
    assert_eq!(house.whole(chat("x")).await.0, 200);
    assert_eq!(provider.last().body, r#"{"model":"b","messages":[{}]}"#);
    // What one of them answers is the answer, though one that rests is asked behind it.
    provider.whole(500, JSON, "{}").await;
    assert_eq!(house.whole(chat("x")).await.0, 500);
    assert_eq!(provider.count(), 2);
    let health: Vec<_> = house
        .gateway
        .status()
        .into_iter()
        .map(|p| (p.name.to_string(), p.health.failures_in_a_row))
        .collect();
    assert_eq!(health, [("dead".into(), 2), ("live".into(), 1)]);
    assert!(!serde_json::to_string(&house.gateway.status()).unwrap().contains(KEY));
}

#[tokio::test]
async fn unreachable_and_slow_providers() {
    let provider = Provider::start().await;
    let (_taken, dead) = mock::refusing();
    let section = format!(
        r#"{{"providers":{{"dead":{{"kind":"openai","base_url":"http://127.0.0.1:{dead}/v1"}},
                          "hole":{{"kind":"openai","base_url":"https://blackhole.example/v1"}},
                          "mute":{{"kind":"openai","base_url":"http://127.0.0.1:{}/v1"}}}},
            "routes":[{{"model":"dead","to":[{{"provider":"dead"}}]}},
                      {{"model":"hole","to":[{{"provider":"hole"}}],"timeouts":{{"connect":"50ms"}}}},
                      {{"model":"mute","to":[{{"provider":"mute"}}],"timeouts":{{"first_byte":"50ms"}}}}]}}"#,
        provider.port
    );
    let house = house(Protocol::Http1, &section);
    for (model, wanted, code) in
        [("dead", 502, "upstream_unreachable"), ("hole", 504, "timeout"), ("mute", 504, "timeout")]
    {
        let (status, _, body) = house.whole(chat(model)).await;
        assert_eq!(status, wanted, "{body}");
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["error"], code);
        // Where the operator's provider is, is no business of the agent's.
        assert!(!body.contains("127.0.0.1") && !body.contains("blackhole"), "{body}");
    }
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_cut_not_ended() {
    let (provider, house) = before_both(Protocol::Http1).await;
    let mut sender = provider.stream(200, &[("content-type", "text/event-stream")]);
    let asked = r#"{"model":"claude-x","max_tokens":5,"stream":true,"messages":[{}]}"#;
    let mut response = house.ask(post("/v1/messages", asked)).await;
    sender.send(Frame::data(Bytes::from_static(b"event: ping\n\n"))).await.unwrap();
    assert!(response.body_mut().frame().await.unwrap().is_ok());
    let cut = response.body_mut().frame().await.unwrap().unwrap_err();
    assert!(cut.to_string().contains("nothing for 2s"), "{cut}");
    drop(response);
    assert!(matches!(house.told().last(), Some(Told::Finished { complete: false, .. })));
}

#[tokio::test]
async fn requests_in_flight_are_bounded() {
    let (provider, house) = before_both(Protocol::Http2).await;
    let mut open = Vec::new();
    for _ in 0..MAX_IN_FLIGHT {
        let sender = provider.stream(200, &[("content-type", "text/event-stream")]);
        open.push((house.ask(chat("small")).await, sender));
    }
    let (status, _, body) = house.whole(chat("small")).await;
    assert!(status == 503 && body.contains("too many"), "{body}");
    open.pop();
    provider.whole(200, JSON, "{}").await;
    assert_eq!(house.whole(chat("small")).await.0, 200);
}

#[tokio::test]
async fn one_agent_that_reads_nothing_leaves_places_to_the_others() {
    let (provider, house) = before_both(Protocol::Http2).await;
    let mut open = Vec::new();
    let refused = loop {
        let sender = provider.stream(200, &[("content-type", "text/event-stream")]);
        let answer = house.ask_as(1, chat("small")).await;
        if answer.status() != 200 {
            break answer;
        }
        open.push((answer, sender));
        assert!(open.len() < MAX_IN_FLIGHT, "one agent has all places");
    };
    assert!(open.len() > MAX_IN_FLIGHT / 2, "alone it has most of them: {}", open.len());
    assert_eq!(refused.status(), 503);
    let body = refused.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&body["error"], &body["layer"]), (&"unavailable".into(), &"inference".into()));
    assert_eq!(body["detail"], "too many model requests of this agent at one time");
    assert!(body["hint"].as_str().unwrap().contains("try again"), "{body}");
    // The stream that the refused one would have had is the next one's.
    for agent in 2..6 {
        let answer = house.ask_as(agent, chat("small")).await;
        assert_eq!(answer.status(), 200, "agent {agent}");
        let sender = provider.stream(200, &[("content-type", "text/event-stream")]);
        open.push((answer, sender));
    }
    open.remove(0);
    assert_eq!(house.ask_as(1, chat("small")).await.status(), 503, "its share became smaller");
    open.clear();
    assert_eq!((house.gateway.in_flight(), house.ask_as(1, chat("small")).await.status().as_u16()), (0, 200));
}
