//! Ordinary requests, plain and inside intercepted TLS, over HTTP/1.1 and HTTP/2 on both sides.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::bed::{AGENT, Bed, exchange, json, read_to_close, rest};
use crate::body::{Body, empty, full};
use crate::tls::Alpn;

/// Answers with what it was asked; `/ok/trailers` answers as gRPC does.
async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let collected = body.collect().await.unwrap();
    let told = collected.trailers().and_then(|trailers| trailers.get("x-sum")).cloned();
    let length = collected.to_bytes().len();
    if parts.uri.path() == "/ok/trailers" {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let frames = [
            Ok::<_, crate::body::BoxError>(Frame::data(Bytes::from_static(b"message"))),
            Ok(Frame::trailers(trailers)),
        ];
        let stream = StreamBody::new(futures_util::stream::iter(frames));
        return Ok(Response::new(stream.boxed_unsync()));
    }
    if parts.uri.path() == "/ok/nothing" {
        return Ok(Response::builder().status(StatusCode::NO_CONTENT).body(empty()).unwrap());
    }
    let authority = parts
        .uri
        .authority()
        .map(ToString::to_string)
        .or_else(|| parts.headers.get(header::HOST).map(|host| host.to_str().unwrap().to_owned()));
    Ok(Response::new(full(format!(
        "{:?} {} {} {} {length} te={:?} cookie={:?} sum={told:?}",
        parts.version,
        parts.method,
        authority.unwrap_or_default(),
        parts.uri.path_and_query().unwrap(),
        parts.headers.get(header::TE),
        parts.headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(),
    ))))
}

/// An upstream over TLS; counts its connections.
async fn tls_upstream(bed: &Bed, host: &str, listener: TcpListener, alpn: Alpn) -> Arc<AtomicUsize> {
    let acceptor = TlsAcceptor::from(bed.upstream_tls(host, alpn));
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let _ended = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection_with_upgrades(TokioIo::new(stream), service_fn(answer))
                    .await;
            });
        }
    });
    connections
}

pub(super) async fn bed_with_tls(alpn: Alpn) -> (Bed, String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let bed = Bed::new(&rest("up.test", port)).await;
    let connections = tls_upstream(&bed, "up.test", listener, alpn).await;
    (bed, format!("up.test:{port}"), connections)
}

fn request(method: &str, target: &str, host: &str, body: Body) -> Request<Body> {
    Request::builder().method(method).uri(target).header("host", host).body(body).unwrap()
}

#[tokio::test]
async fn intercepted_http1_to_both_kinds_of_upstream() {
    for (alpn, version) in [(Alpn::Http1, "HTTP/1.1"), (Alpn::H2OrHttp1, "HTTP/2.0")] {
        let (bed, target, _) = bed_with_tls(alpn).await;
        let stream = bed.tls(&target, &[b"http/1.1"]).await;
        let asked = request("POST", "/ok//a/./b?q=1", &target, full("hello"));
        let (parts, body) = exchange(stream, asked).await;
        assert_eq!(parts.status, 200);
        let told = String::from_utf8(body.to_vec()).unwrap();
        assert!(told.starts_with(&format!("{version} POST {target} /ok/a/b?q=1 5 ")), "{told}");
        // The same road refuses in the same stream.
        let stream = bed.tls(&target, &[b"http/1.1"]).await;
        let (parts, body) = exchange(stream, request("DELETE", "/ok/a", &target, empty())).await;
        assert_eq!(parts.status, 403);
        let refusal: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&refusal["layer"], &refusal["method"]), (&"l7".into(), &"DELETE".into()));
        assert_eq!(parts.headers["x-cofferdam-request-id"], refusal["request_id"].as_str().unwrap());
    }
}

/// The destination of a request is known before any of the request is read.
#[tokio::test]
async fn what_is_refused_unread_in_a_tunnel_is_told_with_its_destination() {
    let (bed, target, _) = bed_with_tls(Alpn::Http1).await;
    let (host, port) = target.split_once(':').unwrap();
    for bytes in [
        format!("GET /ok/../../x HTTP/1.1\r\nHost: {target}\r\n\r\n"),
        "GET /ok/x HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n".to_owned(),
        format!("GET /ok/x HTTP/1.1\r\nHost : {target}\r\n\r\n"),
    ] {
        let mut stream = bed.tls(&target, &[b"http/1.1"]).await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let refusal = json(&read_to_close(&mut stream).await);
        assert_eq!(refusal["error"], "bad_request", "{bytes:?}");
        assert_eq!((&refusal["host"], refusal["port"].to_string()), (&host.into(), port.into()), "{bytes:?}");
        let by = (&refusal["binary"], &refusal["policy"]);
        assert_eq!(by, (&super::bed::AGENT.into(), &"test".into()), "{bytes:?}");
    }
    assert_eq!(bed.journal.refused(), vec![format!("{} test 1", super::bed::AGENT); 3]);
}

#[tokio::test]
async fn intercepted_http2_with_trailers_and_many_streams() {
    let (bed, target, connections) = bed_with_tls(Alpn::H2OrHttp1).await;
    let stream = bed.tls(&target, &[b"h2"]).await;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let ask = |method: &str, path: &str| {
        Request::builder()
            .method(method)
            .uri(format!("https://{target}{path}"))
            .header("te", "trailers")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(empty())
            .unwrap()
    };
    let many = (0..50).map(|n| {
        let (mut sender, asked) = (sender.clone(), ask("GET", &format!("/ok/{n}")));
        async move {
            let response = sender.send_request(asked).await.unwrap();
            assert_eq!(response.status(), 200);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let told = String::from_utf8(body.to_vec()).unwrap();
            assert!(
                told.contains(&format!("/ok/{n} 0 te=Some(\"trailers\") cookie=[\"a=1; b=2\"]")),
                "{told}"
            );
        }
    });
    futures_util::future::join_all(many).await;
    assert_eq!(connections.load(Ordering::Relaxed), 1, "HTTP/2 is shared");
    let mut sender = sender;
    let response = sender.send_request(ask("GET", "/ok/trailers")).await.unwrap();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    // A refused stream leaves the others alone.
    assert_eq!(sender.send_request(ask("GET", "/secret")).await.unwrap().status(), 403);
    assert_eq!(sender.send_request(ask("GET", "/ok/nothing")).await.unwrap().status(), 204);
    let other = Request::builder().uri("https://other.test/ok/x").body(empty()).unwrap();
    assert_eq!(sender.send_request(other).await.unwrap().status(), 400);
}

/// Without TLS, a client that begins with HTTP/2 knows that its server speaks it (RFC 9113 section 3.3), so
/// the proxy speaks it too.
#[tokio::test]
async fn http2_in_the_clear_is_judged_stream_by_stream() {
    let (bed, target, connections) = bed_in_the_clear().await;
    let (head, tunnel) = bed.connect(&target).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let sender = http2(tunnel).await;
    let many = (0..20).map(|n| ask(&sender, "GET", format!("http://{target}/ok/{n}")));
    for (n, (status, told)) in futures_util::future::join_all(many).await.into_iter().enumerate() {
        assert_eq!(status, 200);
        assert!(told.starts_with(&format!("HTTP/2.0 GET {target} /ok/{n} 0 ")), "{told}");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1, "HTTP/2 is shared");
    let trailers = Request::get(format!("http://{target}/ok/trailers")).body(empty()).unwrap();
    let answer = sender.clone().send_request(trailers).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
    for (method, uri, refused) in [
        ("GET", format!("http://{target}/secret"), 403),
        ("DELETE", format!("http://{target}/ok/x"), 403),
        ("GET", format!("http://{target}/ok/../secret"), 403),
        ("GET", "http://other.test/ok/x".to_owned(), 400),
        ("GET", format!("https://{target}/ok/x"), 400),
    ] {
        let (status, told) = ask(&sender, method, uri.clone()).await;
        assert_eq!(status, refused, "{method} {uri}: {told}");
    }
    let allowed = bed.journal.lines().iter().filter(|line| line.starts_with("allow l7")).count();
    assert_eq!(allowed, 21, "{:?}", bed.journal.lines());

    // What a client speaks to the proxy itself says nothing of the server.
    let sender = http2(bed.open().await).await;
    let (_, told) = ask(&sender, "GET", format!("http://{target}/ok/x")).await;
    assert!(told.starts_with("HTTP/1.1 GET"), "{told}");
}

/// On a captured connection to an address that stands for no name, each stream's `:authority` says where it
/// goes.
#[tokio::test]
async fn http2_in_the_clear_to_an_address_goes_where_its_authority_says() {
    let (bed, target, _) = bed_in_the_clear().await;
    let port = target.rsplit_once(':').unwrap().1;
    let asked = format!("93.184.215.99:{port}").parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let claim = crate::caller::Claim::new(bed.deps.identify.clone(), bed.captured, bed.captured);
    let accepted = listener.accept().await.unwrap().0;
    tokio::spawn(crate::capture::serve(bed.deps.clone(), claim.into(), accepted, asked));
    let sender = http2(near).await;
    let (status, told) = ask(&sender, "GET", format!("http://{target}/ok/x")).await;
    assert_eq!(status, 200);
    assert!(told.starts_with(&format!("HTTP/2.0 GET {target} /ok/x ")), "{told}");
    assert_eq!(ask(&sender, "GET", format!("http://{target}/secret")).await.0, 403);
    assert_eq!(ask(&sender, "GET", "http://evil.test/ok/x".to_owned()).await.0, 403);
    assert_eq!(ask(&sender, "GET", "http://up.test:1/ok/x".to_owned()).await.0, 400, "another port");
}

async fn http2<T>(stream: T) -> hyper::client::conn::http2::SendRequest<Body>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Returns the status and the body of the answer to one stream.
async fn ask(
    sender: &hyper::client::conn::http2::SendRequest<Body>,
    method: &str,
    uri: String,
) -> (u16, String) {
    let asked = Request::builder().method(method).uri(uri).body(empty()).unwrap();
    let response = sender.clone().send_request(asked).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// An upstream without TLS; counts its connections.
async fn bed_in_the_clear() -> (Bed, String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let bed = Bed::new(&rest("up.test", port)).await;
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let _ended = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection_with_upgrades(TokioIo::new(stream), service_fn(answer))
                    .await;
            });
        }
    });
    (bed, format!("up.test:{port}"), connections)
}

#[tokio::test]
async fn http2_in_front_of_http1() {
    let (bed, target, connections) = bed_with_tls(Alpn::Http1).await;
    let stream = bed.tls(&target, &[b"h2"]).await;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let many = (0..5).map(|_| {
            let mut sender = sender.clone();
            let asked = Request::post(format!("https://{target}/ok/x")).body(full("12345")).unwrap();
            async move {
                let response = sender.send_request(asked).await.unwrap();
                assert_eq!(response.status(), 200);
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert!(body.starts_with(b"HTTP/1.1 POST"), "{body:?}");
            }
        });
        futures_util::future::join_all(many).await;
    }
    let opened = connections.load(Ordering::Relaxed);
    assert!(opened <= 5, "{opened} connections: idle ones are used again");
}

#[tokio::test]
async fn kept_alive_connections_are_used_again() {
    let (bed, target, connections) = bed_with_tls(Alpn::Http1).await;
    let stream = bed.tls(&target, &[b"http/1.1"]).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for path in ["/ok/1", "/ok/2", "/ok/nothing", "/ok/3"] {
        let response = sender.send_request(request("GET", path, &target, empty())).await.unwrap();
        assert!(response.status().is_success());
        response.into_body().collect().await.unwrap();
        sender.ready().await.unwrap();
    }
    let head = sender.send_request(request("HEAD", "/ok/1", &target, empty())).await.unwrap();
    assert_eq!(head.status(), 200);
    assert!(head.headers().contains_key("content-length"));
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_upstream_with_another_name_is_not_trusted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let bed = Bed::new(&rest("up.test", port)).await;
    let _connections = tls_upstream(&bed, "impostor.test", listener, Alpn::Http1).await;
    let target = format!("up.test:{port}");
    let stream = bed.tls(&target, &[b"http/1.1"]).await;
    let (parts, body) = exchange(stream, request("GET", "/ok/x", &target, empty())).await;
    assert_eq!(parts.status, 502, "{body:?}");
}

#[tokio::test]
async fn http10_and_expect_and_bodies_on_get() {
    let up = super::bed::Raw::ok().await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let port = up.port;
    let answer = bed.talk(format!("GET http://up.test:{port}/ok/old HTTP/1.0\r\n\r\n")).await;
    assert!(answer.contains(" 200 OK") && answer.ends_with("ok"), "{answer}");
    let mut stream = bed.open().await;
    let head = format!(
        "POST http://up.test:{port}/ok/e HTTP/1.1\r\nHost: up.test:{port}\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let go_on = super::bed::read_head(&mut stream).await;
    assert!(go_on.starts_with("HTTP/1.1 100 "), "{go_on}");
    stream.write_all(b"hello").await.unwrap();
    assert!(read_to_close(&mut stream).await.starts_with("HTTP/1.1 200 "));
    assert!(!up.seen().to_lowercase().contains("expect"));
    // A denied one is not told to go on.
    let denied = format!(
        "POST http://up.test:{port}/no HTTP/1.1\r\nHost: up.test:{port}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    );
    assert!(bed.talk(denied).await.starts_with("HTTP/1.1 403 "));
    let chunked = format!(
        "GET http://up.test:{port}/ok/g HTTP/1.1\r\nHost: up.test:{port}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    );
    assert!(bed.talk(chunked).await.starts_with("HTTP/1.1 200 "));
    assert!(up.seen().contains("3\r\nabc\r\n0\r\n\r\n"), "{}", up.seen());
}

#[tokio::test]
async fn the_gateway_answers_by_every_road() {
    let bed = Bed::new("- { host: up.test, port: 1 }").await;
    let answer =
        bed.talk("GET http://inference.local/v1/models?x=1 HTTP/1.1\r\nHost: inference.local\r\nConnection: close\r\n\r\n").await;
    assert!(
        answer.ends_with(&format!("local GET http://inference.local/v1/models?x=1 {AGENT} 0")),
        "{answer}"
    );
    let stream = bed.tls("inference.local:443", &[b"http/1.1"]).await;
    let (_, body) = exchange(stream, request("POST", "/v1/x", "inference.local", full("abc"))).await;
    assert_eq!(body, format!("local POST https://inference.local/v1/x {AGENT} 3"));
    let mut stream = tokio::net::TcpStream::connect(bed.inference).await.unwrap();
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: inference.local\r\nConnection: close\r\n\r\n").await.unwrap();
    let answer = read_to_close(&mut stream).await;
    assert!(answer.ends_with(&format!("local GET http://inference.local/a {AGENT} 0")), "{answer}");
    let stream = tokio::net::TcpStream::connect(bed.inference_tls).await.unwrap();
    let stream = bed.handshake(stream, "inference.local", &[b"h2"]).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let asked = Request::get("https://inference.local/h2").body(empty()).unwrap();
    let body = sender.send_request(asked).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, format!("local GET https://inference.local/h2 {AGENT} 0"));
    // No other name is served on the gateway's listeners.
    let mut stream = tokio::net::TcpStream::connect(bed.inference).await.unwrap();
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: up.test\r\n\r\n").await.unwrap();
    assert_eq!(json(&read_to_close(&mut stream).await)["error"], "bad_request");
    let stream = tokio::net::TcpStream::connect(bed.inference_tls).await.unwrap();
    assert!(bed.handshake(stream, "other.test", &[b"h2"]).await.is_err());
    // A caller that can't be identified doesn't get there.
    bed.who.unknown.store(true, Ordering::Relaxed);
    let answer = bed.talk("GET http://inference.local/ HTTP/1.1\r\nHost: inference.local\r\n\r\n").await;
    assert_eq!(json(&answer)["layer"], "identity");
}

/// The ancestors of a kept connection's holder may end, which changes its identity though not its program;
/// and two programs' connections may go to the same place. In neither case is a connection shared that
/// another identity opened.
#[tokio::test]
async fn no_request_rides_a_connection_that_another_identity_opened() {
    for (alpn, down) in [(Alpn::Http1, b"http/1.1".as_slice()), (Alpn::H2OrHttp1, b"h2")] {
        let (bed, target, connections) = bed_with_tls(alpn).await;
        let mut senders = Vec::new();
        for _ in 0..2 {
            let stream = bed.tls(&target, &[down]).await;
            let io = TokioIo::new(stream);
            senders.push(match down {
                b"h2" => {
                    let (sender, connection) =
                        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
                    tokio::spawn(connection);
                    Ask::Http2(sender)
                }
                _ => {
                    let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
                    tokio::spawn(connection);
                    Ask::Http1(sender)
                }
            });
        }
        let opened = |now: usize| assert_eq!(connections.load(Ordering::Relaxed), now, "{down:?}");
        for sender in &mut senders {
            sender.ask(&target).await;
            sender.ask(&target).await;
        }
        // One upstream connection for each, used again by it.
        opened(2);
        bed.who.ancestor.store(true, Ordering::Relaxed);
        tokio::time::sleep(crate::limits::IDENTITY_FRESH * 2).await;
        senders[0].ask(&target).await;
        senders[0].ask(&target).await;
        opened(3);
    }
}

enum Ask {
    Http1(hyper::client::conn::http1::SendRequest<Body>),
    Http2(hyper::client::conn::http2::SendRequest<Body>),
}

impl Ask {
    async fn ask(&mut self, target: &str) {
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request("GET", "/ok/x", target, empty())).await.unwrap()
            }
            Self::Http2(sender) => {
                let asked = Request::get(format!("https://{target}/ok/x")).body(empty()).unwrap();
                sender.send_request(asked).await.unwrap()
            }
        };
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
    }
}
