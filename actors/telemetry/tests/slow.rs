//! The metrics endpoint beside scrapers that take every place and read nothing.
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use cofferdam_telemetry::actor::{TelemetryActor, TelemetryArguments};
use cofferdam_telemetry::audit::{AuditLog, Options};
use cofferdam_telemetry::metrics::{self, Recorder};
use ractor::Actor;
use redactor::{Redactor, SharedRedactor};

/// More than what the kernel takes of a page that nobody reads (twice as much is on it).
const LONG: usize = 3 << 20;
/// Places of the endpoint: taken by those who read nothing, then by those who never finish asking.
const PLACES: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_or_asks_slowly_gives_its_place_to_others() {
    let state = tempfile::tempdir().unwrap();
    let redactor = SharedRedactor::new(Redactor::new::<&str>([]).unwrap());
    let audit = AuditLog::open(state.path(), redactor, Options::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let recorder = Recorder::install().unwrap();
    metrics::actor_up(&"x".repeat(LONG), true);
    let arguments = TelemetryArguments { audit, recorder, listener: Some(Arc::new(listener)) };
    let (actor, join) = TelemetryActor::spawn(None, TelemetryActor, arguments).await.unwrap();
    let answer = tokio::task::spawn_blocking(move || {
        let slow: Vec<TcpStream> = (0..2 * PLACES)
            .map(|n| {
                let mut stream = TcpStream::connect(address).unwrap();
                let request = if n < PLACES { "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n" } else { "GET /me" };
                stream.write_all(request.as_bytes()).unwrap();
                stream
            })
            .collect();
        // They are before this one in the listener's queue.
        let mut stream = TcpStream::connect(address).unwrap();
        // Far more than they get, and less than a minute, which each of them once had.
        stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        drop(slow);
        answer
    });
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    actor.stop(None);
    join.await.unwrap();
}
