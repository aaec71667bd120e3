//! The real audit log and the actor: what is on record, what never is, and what a crash costs.

#![expect(clippy::unwrap_used, reason = "tests")]

mod mock;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gateway::{
    Credentials, Deps, Gateway, Protocol,
    actor::{GatewayActor, Msg},
    record::Telemetry,
};
use http_body::Frame;
use http_body_util::BodyExt as _;
use mock::{KEY, Plain, Provider, both, caller, fetch, post};
use ractor::Actor;
use redactor::{Redactor, Secret, SharedRedactor};
use telemetry::{
    audit::{AuditLog, Options},
    metrics::Recorder,
};
use tokio::task::JoinHandle;

/// A gateway before `provider` that writes to the log in `dir`, the log, and its writer.
fn recorded(dir: &std::path::Path, provider: &Provider) -> (Gateway, AuditLog, JoinHandle<()>) {
    let redactor = SharedRedactor::new(Redactor::new([("provider", Secret::from(KEY))]).unwrap());
    let log = AuditLog::open(dir, redactor.clone(), Options::default()).unwrap();
    let gateway = Gateway::new(Deps {
        dial: Arc::new(Plain { protocol: Protocol::Http1, dialed: Arc::new(Mutex::default()) }),
        ledger: Arc::new(Telemetry::new(log.sink())),
        scrub: Arc::new(move |text: &str| redactor.load().redact(text).into_inner()),
        credentials: Credentials::new([("env:KEY".to_owned(), Secret::from(KEY))]),
        guesses: redactor::Guesses::default(),
        shelf: None,
    });
    gateway.publish(&serde_json::from_str(&both(provider.port)).unwrap()).unwrap();
    let writer = tokio::spawn({
        let log = log.clone();
        async move { log.write().await }
    });
    (gateway, log, writer)
}

/// How often it was decided so.
fn decisions(labels: &str) -> u64 {
    let line = format!("cofferdam_decisions_total{{{labels}}} ");
    let page = Recorder::install().unwrap().render();
    page.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |n| n.parse().unwrap())
}

/// What never went to a provider was allowed by nobody, and where no route matched, none decided.
#[tokio::test]
async fn what_is_answered_here_is_denied_on_record_and_counted() {
    Recorder::install().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start().await;
    let (gateway, log, writer) = recorded(dir.path(), &provider);
    let counted = [
        (r#"layer="inference",verdict="denied",policy="""#, 1),
        (r#"layer="inference",verdict="denied",policy="small""#, 1),
        (r#"layer="bad_request",verdict="denied",policy="""#, 2),
        (r#"layer="not_found",verdict="denied",policy="""#, 2),
        (r#"layer="inference",verdict="allowed",policy="claude-*""#, 1),
        (r#"layer="inference",verdict="denied",policy="none""#, 0),
    ];
    let before = counted.map(|(labels, _)| decisions(labels));
    provider.whole(404, &[("content-type", "application/json")], "{}").await;
    for (request, code) in [
        (post("/v1/chat/completions", r#"{"model":"unknown","messages":[{}]}"#), 403),
        (post("/v1/messages", r#"{"model":"small","max_tokens":5,"messages":[{}]}"#), 403),
        (post("/v1/chat/completions", r#"{"model":"small"}"#), 400),
        (fetch("/v1/chat/completions"), 405),
        (fetch("/api/tags"), 404),
        (fetch("/v1/models/unknown"), 404),
        // A provider's own 404 is an answer.
        (post("/v1/messages", r#"{"model":"claude-x","max_tokens":5,"messages":[{}]}"#), 404),
    ] {
        let path = request.uri().path().to_owned();
        assert_eq!(gateway.serve(request, caller(), "id").await.status(), code, "{path}");
    }
    for ((labels, more), before) in counted.into_iter().zip(before) {
        // Another test of this process may count, too.
        assert!(decisions(labels) >= before + more, "{labels}: {before} and {}", decisions(labels));
    }
    assert_eq!(decisions(counted[5].0), 0);
    assert!(log.flush(std::time::Duration::from_secs(60)).await);
    let text = std::fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
    let verdicts: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].take())
        .filter(|event| event["kind"] == "inference" && event["code"].is_u64())
        .map(|event| (event["code"].as_u64().unwrap(), event["verdict"].as_str().unwrap().to_owned()))
        .collect();
    let denied = [403, 403, 400, 405, 404, 404].map(|code| (code, "denied".to_owned()));
    assert_eq!(verdicts, [&denied[..], &[(404, "allowed".to_owned())]].concat(), "{text}");
    writer.abort();
}

#[tokio::test]
async fn a_request_is_on_record_and_the_key_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start().await;
    let (gateway, log, writer) = recorded(dir.path(), &provider);
    provider
        .whole(
            200,
            &[("content-type", "application/json")],
            r#"{"usage":{"prompt_tokens":3,"completion_tokens":4}}"#,
        )
        .await;
    let answer = gateway
        .serve(post("/v1/chat/completions", r#"{"model":"small","messages":[{}]}"#), caller(), "id-1")
        .await;
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), 51);
    provider.whole(403, &[("content-type", "application/json")], &format!(r#"{{"error":"{KEY}"}}"#)).await;
    let answer = gateway
        .serve(post("/v1/chat/completions", r#"{"model":"small","messages":[{}]}"#), caller(), "id-2")
        .await;
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(!text.windows(8).any(|w| KEY.as_bytes().starts_with(w)));
    // A model's name may be anything, also somebody's secret.
    let asked = format!(r#"{{"model":"{KEY}","messages":[{{}}]}}"#);
    let answer = gateway.serve(post("/v1/chat/completions", asked), caller(), "id-3").await;
    assert_eq!(answer.status(), 403);
    assert!(log.flush(std::time::Duration::from_secs(60)).await);
    let text = std::fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
    assert_eq!(text.matches("\"kind\":\"inference\"").count(), 5, "{text}");
    for wanted in [
        "id-1",
        "id-2",
        "id-3",
        "\"model\":\"small\"",
        "\"input_tokens\":3",
        "\"output_tokens\":4",
        "meta/llama-3.3-70b",
        "/usr/bin/python3",
    ] {
        assert!(text.contains(wanted), "{wanted} not in {text}");
    }
    assert!(!text.contains("0123456789abcdef"), "{text}");
    writer.abort();
}

#[tokio::test]
async fn a_spent_budget_is_on_record_by_its_layer_and_in_the_metrics() {
    Recorder::install().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start().await;
    let (gateway, log, writer) = recorded(dir.path(), &provider);
    let budgets = r#""budgets":[{"per":"day","tokens":400,"provider":"oai"},{"per":"hour","requests":8,"model":"s*"}],"routes""#;
    let section = both(provider.port).replace(r#""routes""#, budgets);
    gateway.publish(&serde_json::from_str(&section).unwrap()).unwrap();
    let before = decisions(r#"layer="budget",verdict="denied",policy="small""#);
    let usage = r#"{"usage":{"prompt_tokens":599,"completion_tokens":1}}"#;
    provider.whole(200, &[("content-type", "application/json")], usage).await;
    for (code, id) in [(200, "id-1"), (403, "id-2")] {
        let request = post("/v1/chat/completions", r#"{"model":"small","messages":[{}]}"#);
        let answer = gateway.serve(request, caller(), id).await;
        assert_eq!(answer.status(), code);
        answer.into_body().collect().await.unwrap();
    }
    assert_eq!(decisions(r#"layer="budget",verdict="denied",policy="small""#), before + 1);
    gateway.sweep();
    let page = Recorder::install().unwrap().render();
    for (labels, value) in [
        (r#"per="day",provider="oai",model="*",counts="tokens""#, "1.5"),
        (r#"per="hour",provider="*",model="s*",counts="requests""#, "0.125"),
    ] {
        let line = format!("cofferdam_inference_budget_used_ratio{{{labels}}} {value}");
        assert!(page.lines().any(|it| it == line), "{line} is not in {page}");
    }
    assert!(log.flush(std::time::Duration::from_secs(60)).await);
    let text = std::fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
    let refused = text.lines().find(|line| line.contains("id-2")).unwrap();
    let event: serde_json::Value = serde_json::from_str(refused).unwrap();
    let event = &event["event"];
    assert_eq!((&event["verdict"], &event["layer"]), (&"denied".into(), &"budget".into()), "{event}");
    assert_eq!((&event["provider"], &event["code"]), (&"oai".into(), &403.into()), "{event}");
    assert!(event["detail"].as_str().unwrap().contains("400 tokens a day, provider oai is spent"), "{event}");
    writer.abort();
}

#[tokio::test]
async fn a_crash_of_the_actor_cuts_no_stream_and_stops_no_request() {
    let provider = Provider::start().await;
    let house = mock::house(Protocol::Http1, r#"{"providers":{},"routes":[]}"#);
    let (actor, ended) = Actor::spawn(None, GatewayActor, house.gateway.clone()).await.unwrap();
    let inference = Box::new(serde_json::from_str(&both(provider.port)).unwrap());
    let published = ractor::call_t!(actor, |reply| Msg::Publish { inference, reply }, 1000).unwrap();
    assert_eq!(published, Ok(()));
    let mut sender = provider.stream(200, &[("content-type", "text/event-stream")]);
    let mut stream =
        house.ask(post("/v1/chat/completions", r#"{"model":"small","stream":true,"messages":[{}]}"#)).await;
    actor.cast(Msg::InjectPanic).unwrap();
    let _ = ended.await;
    // Down: the stream goes on, new requests are answered, from the table that was published.
    sender.send(Frame::data(Bytes::from_static(b"data: 1\n\n"))).await.unwrap();
    assert_eq!(stream.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "data: 1\n\n");
    provider.whole(200, &[("content-type", "application/json")], "{}").await;
    assert_eq!(
        house.whole(post("/v1/chat/completions", r#"{"model":"small","messages":[{}]}"#)).await.0,
        200
    );
    // Up again: it knows all that it knew.
    let (actor, ended) = Actor::spawn(None, GatewayActor, house.gateway.clone()).await.unwrap();
    let status = ractor::call_t!(actor, |reply| Msg::Status { reply }, 1000).unwrap();
    assert_eq!(status.len(), 2);
    let bad =
        Box::new(serde_json::from_str(r#"{"routes":[{"model":"x","to":[{"provider":"none"}]}]}"#).unwrap());
    let refused = ractor::call_t!(actor, |reply| Msg::Publish { inference: bad, reply }, 1000).unwrap();
    assert!(refused.is_err());
    assert_eq!(house.gateway.routes().listed(&caller()), ["claude-real", "small"]);
    actor.stop(None);
    let _ = ended.await;
}
