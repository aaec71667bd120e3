//! Large bodies: whole, in both directions, and never held in memory.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::bed::{Bed, read_head, rest};
use crate::body::{Body, BoxError, full};
use crate::tls::Alpn;

const CHUNK: usize = 64 * 1024;
const CHUNKS: usize = 128;

fn chunk(n: usize) -> Bytes {
    Bytes::from(vec![(n % 251) as u8; CHUNK])
}

fn large() -> Body {
    let frames = (0..CHUNKS).map(|n| Ok::<_, BoxError>(Frame::data(chunk(n))));
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

fn whole() -> Bytes {
    (0..CHUNKS).flat_map(chunk).collect()
}

async fn serve(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let body = match request.uri().path() {
        "/ok/down" => large(),
        _ => {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            full(if body == whole() { "whole" } else { "broken" })
        }
    };
    Ok(Response::new(body))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_come_through_whole() {
    for (down, up) in [
        (&b"http/1.1"[..], Alpn::Http1),
        (b"http/1.1", Alpn::H2OrHttp1),
        (b"h2", Alpn::Http1),
        (b"h2", Alpn::H2OrHttp1),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let bed = Bed::new(&rest("up.test", port)).await;
        let acceptor = tokio_rustls::TlsAcceptor::from(bed.upstream_tls("up.test", up));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stream = acceptor.accept(stream).await.unwrap();
                tokio::spawn(async move {
                    let _ended = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service_fn(serve))
                        .await;
                });
            }
        });
        let target = format!("up.test:{port}");
        for (method, path, body) in [("GET", "/ok/down", crate::body::empty()), ("POST", "/ok/up", large())] {
            let stream = TokioIo::new(bed.tls(&target, &[down]).await);
            let request = Request::builder().method(method);
            let response = if down == b"h2" {
                let request = request.uri(format!("https://{target}{path}")).body(body).unwrap();
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(request).await.unwrap()
            } else {
                let request = request.uri(path).header("host", &target).body(body).unwrap();
                let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(request).await.unwrap()
            };
            assert_eq!(response.status(), 200);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let wanted = if path == "/ok/down" { whole() } else { Bytes::from_static(b"whole") };
            assert!(body == wanted, "{path} {down:?}: {} bytes", body.len());
        }
    }
}

/// A reader that doesn't read holds its upstream back: what is in flight stays within buffers.
#[tokio::test]
async fn backpressure_reaches_the_upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sent, seen) = tokio::sync::watch::channel(0_usize);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n").await.unwrap();
        let chunk = vec![0; CHUNK];
        while stream.write_all(&chunk).await.is_ok() {
            sent.send_modify(|sent| *sent += CHUNK);
        }
    });
    let bed = Bed::new(&rest("up.test", port)).await;
    let mut stream = bed.open().await;
    let get = format!("GET http://up.test:{port}/ok/x HTTP/1.1\r\nHost: up.test:{port}\r\n\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    read_head(&mut stream).await;
    let mut before = usize::MAX;
    while before != *seen.borrow() {
        before = *seen.borrow();
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    // Socket buffers of two connections on loopback may take some megabytes; the file is a gigabyte.
    assert!(before < 64 * 1024 * 1024, "{before} bytes left the upstream");
}
