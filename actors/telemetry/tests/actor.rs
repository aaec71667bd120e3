//! The actor, killed over and over while it is scraped and recorded through, and the endpoint's answers.
#![expect(clippy::unwrap_used, reason = "a test may stop")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use cofferdam_telemetry::actor::{Msg, TelemetryActor, TelemetryArguments};
use cofferdam_telemetry::audit::{AuditLog, Event, Options, verify};
use cofferdam_telemetry::metrics::{self, Recorder};
use ractor::Actor;
use redactor::{Redactor, SharedRedactor};

fn arguments(state: &std::path::Path) -> (TelemetryArguments, SocketAddr) {
    arguments_at(state, "127.0.0.1:0")
}

fn arguments_at(state: &std::path::Path, listen: &str) -> (TelemetryArguments, SocketAddr) {
    let redactor = SharedRedactor::new(Redactor::new::<&str>([]).unwrap());
    let audit = AuditLog::open(state, redactor, Options { queue: 16, ..Options::default() }).unwrap();
    let listener = TcpListener::bind(listen).unwrap();
    let address = listener.local_addr().unwrap();
    let recorder = Recorder::install().unwrap();
    (TelemetryArguments { audit, recorder, listener: Some(Arc::new(listener)) }, address)
}

fn ask(address: SocketAddr, request: &str) -> String {
    ask_as(address, "localhost", request)
}

fn ask_as(address: SocketAddr, host: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn operator() -> Event {
    Event::Operator { action: "stop".into(), uid: None, detail: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_endpoint_serves_metrics_and_health_and_nothing_else() {
    let state = tempfile::tempdir().unwrap();
    let (arguments, address) = arguments(state.path());
    let sink = arguments.audit.sink();
    let (actor, join) = TelemetryActor::spawn(None, TelemetryActor, arguments).await.unwrap();
    metrics::build_info("0.0.0", "test");
    let get = |request: &'static str| tokio::task::spawn_blocking(move || ask(address, request));
    let page = get("GET /metrics").await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    assert!(page.contains("content-type: text/plain; version=0.0.4; charset=utf-8"));
    assert!(page.contains("cofferdam_build_info{version=\"0.0.0\",mode=\"test\"} 1"), "{page}");
    assert!(get("GET /healthz").await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(get("GET /").await.unwrap().starts_with("HTTP/1.1 404"));
    let refused = get("POST /metrics").await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 405") && refused.contains("allow: GET, HEAD"));
    assert!(sink.record(operator()).is_ok());
    actor.stop(None);
    join.await.unwrap();
}

/// A site whose name leads to this machine's loopback reads nothing there; where the operator serves the
/// network, names are the operator's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_of_somebody_elses_reads_no_metrics_on_the_loopback() {
    for (listen, is_loopback) in [("127.0.0.1:0", true), ("0.0.0.0:0", false)] {
        let state = tempfile::tempdir().unwrap();
        let (arguments, address) = arguments_at(state.path(), listen);
        let (actor, join) = TelemetryActor::spawn(None, TelemetryActor, arguments).await.unwrap();
        let served = SocketAddr::from(([127, 0, 0, 1], address.port()));
        let get = |host: String, path: &'static str| {
            tokio::task::spawn_blocking(move || ask_as(served, &host, &format!("GET {path}")))
        };
        for host in [served.to_string(), format!("localhost:{}", served.port())] {
            let page = get(host, "/metrics").await.unwrap();
            assert!(page.starts_with("HTTP/1.1 200") && page.contains("# HELP"), "{page}");
        }
        for path in ["/metrics", "/healthz", "/"] {
            let page = get(format!("rebound.example.com:{}", served.port()), path).await.unwrap();
            assert_eq!(page.starts_with("HTTP/1.1 403"), is_loopback, "{listen}{path}: {page}");
            assert!(!is_loopback || page.contains("localhost") && !page.contains("# HELP"), "{page}");
        }
        actor.stop(None);
        join.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_fifty_times_it_refuses_no_scrape_and_loses_no_record() {
    let state = tempfile::tempdir().unwrap();
    let (arguments, address) = arguments(state.path());
    let audit = arguments.audit.clone();
    let scraper = tokio::task::spawn_blocking(move || {
        // Connecting never fails; an answer may be cut off when the actor dies meanwhile.
        (0..100)
            .filter(|_| {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
                let mut answer = String::new();
                stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1")
            })
            .count()
    });
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..50 {
        let (actor, join) = TelemetryActor::spawn(None, TelemetryActor, arguments.clone()).await.unwrap();
        for _ in 0..10 {
            match audit.sink().record(operator()) {
                Ok(_) => taken += 1,
                Err(_) => refused += 1,
            }
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        actor.cast(Msg::InjectPanic).unwrap();
        join.await.unwrap();
    }
    let (actor, join) = TelemetryActor::spawn(None, TelemetryActor, arguments).await.unwrap();
    assert!(audit.flush(Duration::from_secs(20)).await);
    assert!(scraper.await.unwrap() > 50);
    let report = verify(state.path()).unwrap();
    assert!(report.intact(), "{:?}", report.findings);
    assert_eq!(report.records, taken, "{refused} refused");
    actor.stop(None);
    join.await.unwrap();
}
