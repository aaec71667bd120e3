//! Servers of HTTP/2 that don't take a request, and say that they have not looked at it (RFC 9113 section
//! 8.7).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Request, Response};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::bed::{Bed, exchange, rest};
use crate::body::{empty, full};
use crate::tls::Alpn;

/// How the server's first connection turns its first request away.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Turns {
    /// The stream is refused.
    Stream,
    /// The connection takes no more requests, and has not taken this one.
    Connection,
    /// The stream is ended for another reason.
    Otherwise,
}

/// An HTTP/2 server that turns the first request away and answers those of further connections. Returns the
/// number of requests that it has seen.
async fn server(bed: &Bed, listener: TcpListener, turns: Turns) -> Arc<AtomicUsize> {
    let seen = Arc::new(AtomicUsize::new(0));
    let acceptor = TlsAcceptor::from(bed.upstream_tls("up.test", Alpn::H2OrHttp1));
    let count = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            if count.load(Ordering::Relaxed) == 0 && turns == Turns::Connection {
                count.fetch_add(1, Ordering::Relaxed);
                goes_away(&mut stream).await;
                continue;
            }
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                while let Some(Ok((_request, mut answer))) = connection.accept().await {
                    match (count.fetch_add(1, Ordering::Relaxed), turns) {
                        (0, Turns::Stream) => answer.send_reset(h2::Reason::REFUSED_STREAM),
                        (0, _) => answer.send_reset(h2::Reason::INTERNAL_ERROR),
                        _ => {
                            let mut body = answer.send_response(Response::new(()), false).unwrap();
                            body.send_data(Bytes::from_static(b"taken"), true).unwrap();
                        }
                    }
                }
            });
        }
    });
    seen
}

/// Takes a connection's first frames and says that it has looked at none of its streams.
async fn goes_away<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(stream: &mut T) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY_OF_NONE: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const HEADERS: u8 = 1;
    stream.write_all(&SETTINGS).await.unwrap();
    stream.read_exact(&mut [0; 24]).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        if head[3] == HEADERS {
            break;
        }
    }
    stream.write_all(&GOAWAY_OF_NONE).await.unwrap();
    stream.flush().await.unwrap();
    // Until the client has closed it.
    let _ended = stream.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn what_a_server_has_not_looked_at_is_sent_once_more() {
    for (turns, method, status, requests) in [
        (Turns::Stream, Method::GET, 200, 2),
        (Turns::Connection, Method::GET, 200, 2),
        // The server may have looked at the request.
        (Turns::Otherwise, Method::GET, 502, 1),
        // The request's body is on its way, and isn't kept.
        (Turns::Stream, Method::POST, 502, 1),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let bed = Bed::new(&rest("up.test", port)).await;
        let seen = server(&bed, listener, turns).await;
        let stream = bed.tls(&format!("up.test:{port}"), &[b"http/1.1"]).await;
        let body = if method == Method::POST { full("a body") } else { empty() };
        let request =
            Request::builder().method(&method).uri("/ok/x").header("host", format!("up.test:{port}"));
        let (answer, body) = exchange(stream, request.body(body).unwrap()).await;
        assert_eq!(answer.status, status, "{turns:?} {method} {body:?}");
        assert_eq!(seen.load(Ordering::Relaxed), requests, "{turns:?} {method}");
        // One decision, however often the request is sent.
        let allowed = |line: &String| line.starts_with("allow") && line.ends_with("/ok/x");
        assert_eq!(bed.journal.lines().into_iter().filter(allowed).count(), 1);
    }
}
