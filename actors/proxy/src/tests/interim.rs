//! Interim answers, from the destination to the agent.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::bed::{Bed, PATIENCE, read_head, read_to_close, rest};
use crate::limits::{FIRST_BYTE_DEADLINE, MAX_INTERIM};
use crate::tls::Alpn;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";

fn hint(what: &str) -> String {
    format!(
        "HTTP/1.1 103 Early Hints\r\nLink: <{what}>; rel=preload\r\nConnection: x-mine\r\nX-Mine: 1\r\n\r\n"
    )
}

/// An interim answer as the agent gets it.
fn hinted(what: &str) -> String {
    format!("HTTP/1.1 103 Early Hints\r\nlink: <{what}>; rel=preload\r\n\r\n")
}

/// Answers by the path: `together` a hint and the answer at once, `first` the answer only when told to,
/// `late` a hint after its answer, `many` more hints than are passed on.
async fn upstream<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, go_on: &Semaphore) {
    loop {
        let head = read_head(&mut stream).await;
        let Some(path) = head.split(' ').nth(1).map(str::to_owned) else { return };
        let answer = String::from_utf8_lossy(ANSWER);
        let said = match path.rsplit('/').next().unwrap() {
            "together" => hint(&path) + &answer,
            "late" => answer.into_owned() + &hint(&path),
            "many" => hint(&path).repeat(4 * MAX_INTERIM) + &answer,
            "ours" => format!("HTTP/1.1 100 Continue\r\n\r\n{answer}"),
            "first" => {
                stream.write_all(hint(&path).as_bytes()).await.unwrap();
                go_on.acquire().await.unwrap().forget();
                answer.into_owned()
            }
            "never" => {
                while stream.write_all(hint(&path).as_bytes()).await.is_ok() {
                    tokio::time::sleep(FIRST_BYTE_DEADLINE / 8).await;
                }
                return;
            }
            _ => answer.into_owned(),
        };
        if stream.write_all(said.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A bed whose one destination is that upstream, in the clear or in TLS.
async fn bed(tls: bool) -> (Bed, String, Arc<Semaphore>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let bed = Bed::new(&rest("up.test", port)).await;
    let acceptor = TlsAcceptor::from(bed.upstream_tls("up.test", Alpn::Http1));
    let go_on = Arc::new(Semaphore::new(0));
    let told = Arc::clone(&go_on);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, told) = (acceptor.clone(), Arc::clone(&told));
            tokio::spawn(async move {
                match tls {
                    true => upstream(acceptor.accept(stream).await.unwrap(), &told).await,
                    false => upstream(stream, &told).await,
                }
            });
        }
    });
    (bed, format!("up.test:{port}"), go_on)
}

fn get(target: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {target}\r\n\r\n")
}

async fn read_answer<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let head = read_head(stream).await;
    let mut body = [0; 3];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut body)).await.unwrap().unwrap();
    assert_eq!(&body, b"ok\n");
    head
}

/// A hint that comes long before its answer is passed on at once, one that comes with its answer goes first,
/// and each belongs to its own request.
async fn hints_on<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    target: &str,
    origin: &str,
    go_on: &Semaphore,
) {
    for round in 0..3 {
        for name in ["first", "plain", "together", "ours", "many"] {
            let path = format!("/ok/{round}/{name}");
            stream.write_all(get(target, &format!("{origin}{path}")).as_bytes()).await.unwrap();
            let before = match name {
                "first" | "together" => 1,
                "many" => MAX_INTERIM,
                _ => 0,
            };
            for _ in 0..before {
                assert_eq!(read_head(&mut stream).await, hinted(&path));
            }
            if name == "first" {
                go_on.add_permits(1);
            }
            let head = read_answer(&mut stream).await;
            assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        }
    }
}

#[tokio::test]
async fn they_reach_a_client_of_http1() {
    let (bed, target, go_on) = bed(false).await;
    hints_on(bed.connect(&target).await.1, &target, "", &go_on).await;
    let (bed, target, go_on) = super::interim::bed(true).await;
    hints_on(bed.tls(&target, &[b"http/1.1"]).await, &target, "", &go_on).await;
}

/// A pipelining client reads each answer behind its own hints.
#[tokio::test]
async fn they_keep_their_place_among_pipelined_requests() {
    let (bed, target, go_on) = bed(false).await;
    go_on.add_permits(10);
    let paths: Vec<_> = (0..10)
        .flat_map(|n| [format!("/ok/{n}/together"), format!("/ok/{n}/plain"), format!("/ok/{n}/first")])
        .collect();
    let mut stream = bed.connect(&target).await.1;
    let all: String = paths.iter().map(|path| get(&target, path)).collect();
    stream.write_all(all.as_bytes()).await.unwrap();
    for path in &paths {
        let mut head = read_head(&mut stream).await;
        if head == hinted(path) {
            head = read_head(&mut stream).await;
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        let mut body = [0; 3];
        stream.read_exact(&mut body).await.unwrap();
    }
}

/// HTTP/1.0 has no interim answers, and one that comes after its answer belongs to no request.
#[tokio::test]
async fn who_takes_none_gets_none() {
    let (bed, target, _) = bed(false).await;
    let old = format!("GET /ok/together HTTP/1.0\r\nHost: {target}\r\n\r\n");
    let mut stream = bed.connect(&target).await.1;
    stream.write_all(old.as_bytes()).await.unwrap();
    let answer = read_to_close(&mut stream).await;
    assert!(
        answer.contains(" 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n") && !answer.contains("103"),
        "{answer}"
    );
    let mut stream = bed.connect(&target).await.1;
    for path in ["/ok/late", "/ok/plain", "/ok/late", "/ok/plain"] {
        stream.write_all(get(&target, path).as_bytes()).await.unwrap();
        let head = read_answer(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
    }
}

/// Some clients, such as Python's own, take a hint for the answer, and the answer for that to their next
/// request: it must not be another destination's.
#[tokio::test]
async fn where_requests_go_elsewhere_none_comes() {
    let (bed, target, _) = bed(false).await;
    let mut stream = bed.open().await;
    for name in ["together", "plain", "many", "together"] {
        stream.write_all(get(&target, &format!("http://{target}/ok/{name}")).as_bytes()).await.unwrap();
        let head = read_answer(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{name}: {head}");
    }
}

/// Hints are no answer: a server that sends nothing else gets no more time than a silent one.
#[tokio::test(start_paused = true)]
async fn hints_alone_are_no_answer() {
    let (bed, target, _) = bed(false).await;
    let mut stream = bed.connect(&target).await.1;
    let begun = tokio::time::Instant::now();
    stream.write_all(get(&target, "/ok/never").as_bytes()).await.unwrap();
    let mut head = hinted("/ok/never");
    while head == hinted("/ok/never") {
        let mut out = Vec::new();
        while !out.ends_with(b"\r\n\r\n") {
            out.push(stream.read_u8().await.unwrap());
        }
        head = String::from_utf8(out).unwrap();
    }
    assert!(head.starts_with("HTTP/1.1 504"), "{head}");
    assert!(begun.elapsed() < 2 * FIRST_BYTE_DEADLINE, "{:?}", begun.elapsed());
}
