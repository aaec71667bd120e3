//! CONNECT: relayed tunnels, names that disagree inside them, WebSockets.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::ext::Protocol;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::bed::{AGENT, Bed, PATIENCE, Raw, echo, l4, read_head, read_to_close, rest, ws};
use super::websockets::handshake;
use crate::limits::UNNAMED_LOOKUPS_PER_MINUTE;
use crate::tls::Alpn;

#[tokio::test]
async fn relayed_bytes_and_half_close() {
    let port = echo().await;
    let bed = Bed::new(&l4("raw.test", port)).await;
    let (head, mut stream) = bed.connect(&format!("raw.test:{port}")).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    stream.write_all(b"\x00\x01 any bytes").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_to_close(&mut stream).await, "\x00\x01 any bytes");
    while !bed.journal.lines().iter().any(|line| line.starts_with("end None up 12 down 12")) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn bytes_sent_with_connect_are_not_lost() {
    let port = echo().await;
    let bed = Bed::new(&l4("raw.test", port)).await;
    let mut stream = bed.open().await;
    let bytes = format!("CONNECT raw.test:{port} HTTP/1.1\r\nHost: raw.test:{port}\r\n\r\nearly");
    stream.write_all(bytes.as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
    let mut got = [0; 5];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"early");
}

#[tokio::test]
async fn connect_over_http10_as_python_sends_it() {
    let port = echo().await;
    let bed = Bed::new(&l4("raw.test", port)).await;
    let mut stream = bed.open().await;
    stream.write_all(format!("CONNECT raw.test:{port} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.contains(" 200 ") && !head.to_lowercase().contains("content-length"), "{head}");
    stream.write_all(b"ping").await.unwrap();
    let mut got = [0; 4];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"ping");
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-server\r\n").await.unwrap();
        let mut got = [0; 4];
        stream.read_exact(&mut got).await.unwrap();
        stream.write_all(&got).await.unwrap();
    });
    let bed = Bed::new(&l4("raw.test", port)).await;
    let (_, mut stream) = bed.connect(&format!("raw.test:{port}")).await;
    let mut banner = [0; 16];
    stream.read_exact(&mut banner).await.unwrap();
    assert_eq!(&banner, b"SSH-2.0-server\r\n");
    stream.write_all(b"SSH!").await.unwrap();
    assert_eq!(read_to_close(&mut stream).await, "SSH!");
}

/// A tunnel may end before its client has sent enough to be judged: what its server sent has been passed on
/// all the same.
#[tokio::test]
async fn what_a_server_said_first_is_on_record_however_the_tunnel_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"SSH-2.0-server\r\n").await.unwrap();
            open.push(stream);
        }
    });
    let bed = Bed::new(&l4("raw.test", port)).await;
    for (before, falls) in [false, true].into_iter().enumerate() {
        let (_, mut stream) = bed.connect(&format!("raw.test:{port}")).await;
        stream.read_exact(&mut [0; 16]).await.unwrap();
        if falls {
            bed.reload(&l4("other.test", port));
            read_to_close(&mut stream).await;
        }
        drop(stream);
        let told = |line: &String| line.starts_with("end None up 0 down 16");
        let look = async {
            while bed.journal.lines().into_iter().filter(told).count() <= before {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        let lines = || format!("{:?}", bed.journal.lines());
        tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("falls: {falls}: {}", lines()));
    }
}

#[tokio::test]
async fn another_name_in_the_client_hello_is_refused() {
    let up = Raw::ok().await;
    let bed = Bed::new(&[l4("raw.test", up.port), rest("up.test", up.port)].join("\n")).await;
    for host in ["raw.test", "up.test"] {
        let (head, stream) = bed.connect(&format!("{host}:{}", up.port)).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(bed.handshake(stream, "front.test", &[b"http/1.1"]).await.is_err(), "{host}");
    }
    assert_eq!(up.seen(), "");
    assert_eq!(bed.journal.lines().iter().filter(|line| line.starts_with("deny l4 -")).count(), 2);
    // The record names the program, and the entry and generation that the tunnel was judged by.
    assert_eq!(bed.journal.refused(), [format!("{AGENT} test 1"), format!("{AGENT} test 1")]);
}

#[tokio::test]
async fn what_is_not_http_is_never_spliced_through_an_inspected_tunnel() {
    let up = Raw::ok().await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let target = format!("up.test:{}", up.port);
    for bytes in
        ["SSH-2.0-client\r\n\r\n", "\u{1}\u{2}\u{3}\r\n\r\n", "GET /ok/x HTTP/1.1\r\nHost: b.test\r\n\r\n"]
    {
        let (_, mut stream) = bed.connect(&target).await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        assert!(read_to_close(&mut stream).await.starts_with("HTTP/1.1 400 "), "{bytes:?}");
    }
    assert_eq!(up.seen(), "");
    // Plain HTTP inside it, where the port is not that of TLS, is judged like any other.
    let (_, mut stream) = bed.connect(&target).await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    stream.write_all(get("/ok/x").as_bytes()).await.unwrap();
    assert!(read_to_close(&mut stream).await.starts_with("HTTP/1.1 200 "));
    let (_, mut stream) = bed.connect(&target).await;
    stream.write_all(get("/no").as_bytes()).await.unwrap();
    assert!(read_to_close(&mut stream).await.starts_with("HTTP/1.1 403 "));
    let (_, mut stream) = bed.connect(&target).await;
    let connect = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream.write_all(connect.as_bytes()).await.unwrap();
    assert!(read_to_close(&mut stream).await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn relayed_tls_is_end_to_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let bed = Bed::new(&format!("- {{ host: raw.test, port: {port}, tls: skip }}")).await;
    let acceptor = tokio_rustls::TlsAcceptor::from(bed.upstream_tls("raw.test", Alpn::Http1));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        stream.write_all(b"secret").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let (_, stream) = bed.connect(&format!("raw.test:{port}")).await;
    let roots = vec![bed.world.certificate().clone()];
    let config = crate::tls::upstream_config_with_roots(roots).unwrap();
    let name = rustls_pki_types::ServerName::try_from("raw.test").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.unwrap();
    assert_eq!(read_to_close(&mut stream).await, "secret");
}

/// Returns the ClientHello of a client that wants this name.
fn hello(bed: &Bed, name: &'static str) -> Vec<u8> {
    let roots = vec![bed.world.certificate().clone()];
    let config = crate::tls::upstream_config_with_roots(roots).unwrap();
    let name = rustls_pki_types::ServerName::try_from(name).unwrap();
    let mut bytes = Vec::new();
    rustls::ClientConnection::new(config, name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

/// A HelloRetryRequest, as far as it is read by a side that doesn't answer it, followed by a compatibility
/// record.
fn retry() -> Vec<u8> {
    let random = b"\xcf\x21\xad\x74\xe5\x9a\x61\x11\xbe\x1d\x8c\x02\x1e\x65\xb8\x91\xc2\xa2\x11\x16\x7a\xbb\x8c\x5e\x07\x9e\x09\xe2\xc8\xa8\x33\x9c";
    [
        b"\x16\x03\x03\x00\x2a\x02\x00\x00\x26\x03\x03",
        &random[..],
        b"\x00\x13\x01\x00",
        b"\x14\x03\x03\x00\x01\x01",
    ]
    .concat()
}

/// What may come between the two hellos of one connection: nothing, a compatibility record, early data, an
/// alert.
const BETWEEN: [&[u8]; 4] =
    [b"", b"\x14\x03\x03\x00\x01\x01", b"\x17\x03\x03\x00\x03abc", b"\x15\x03\x03\x00\x02\x01\x5a"];

#[tokio::test]
async fn a_hello_that_is_said_again_is_judged_again() {
    for (name, between, at_once) in BETWEEN
        .into_iter()
        .flat_map(|between| [("raw.test", between), ("front.test", between)])
        .flat_map(|(name, between)| [(name, between, false), (name, between, true)])
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let bed = Bed::new(&l4("raw.test", port)).await;
        let (first, second) = (hello(&bed, "raw.test"), hello(&bed, name));
        let (_, mut stream) = bed.connect(&format!("raw.test:{port}")).await;
        let (mut server, _) = listener.accept().await.unwrap();
        stream.write_all(&first).await.unwrap();
        let rest = [between, &second, b"more"].concat();
        if at_once {
            stream.write_all(&rest).await.unwrap();
        }
        let mut got = vec![0; first.len()];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(got, first);
        server.write_all(&retry()).await.unwrap();
        let mut asked = vec![0; retry().len()];
        stream.read_exact(&mut asked).await.unwrap();
        assert_eq!(asked, retry());
        if !at_once {
            stream.write_all(&rest).await.unwrap();
        }
        if name == "raw.test" {
            let mut got = vec![0; rest.len()];
            server.read_exact(&mut got).await.unwrap();
            assert_eq!(got, rest);
        } else {
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, between, "not a byte of the second");
            assert!(bed.journal.lines().iter().any(|line| line.starts_with("deny l4 -")));
        }
    }
}

#[tokio::test]
async fn a_handshake_with_a_retry_is_relayed() {
    let group = |wanted: rustls::NamedGroup| {
        let mut provider = crate::tls::provider();
        Arc::make_mut(&mut provider).kx_groups.sort_by_key(|group| group.name() != wanted);
        provider
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let bed = Bed::new(&format!("- {{ host: raw.test, port: {port}, tls: skip }}")).await;
    let mut one = group(rustls::NamedGroup::X25519);
    Arc::make_mut(&mut one).kx_groups.truncate(1);
    let config = rustls::ServerConfig::builder_with_provider(one)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&bed.upstream_tls("raw.test", Alpn::Http1).cert_resolver));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        stream.write_all(b"secret").await.unwrap();
        stream.shutdown().await.unwrap();
        stream.get_ref().1.handshake_kind()
    });
    let (_, stream) = bed.connect(&format!("raw.test:{port}")).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(bed.world.certificate().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(group(rustls::NamedGroup::secp384r1))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls_pki_types::ServerName::try_from("raw.test").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap();
    assert_eq!(read_to_close(&mut stream).await, "secret");
    assert_eq!(served.await.unwrap(), Some(rustls::HandshakeKind::FullWithHelloRetryRequest));
}

const ACCEPT: &str =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";

/// A WebSocket server as far as the handshake goes, then an echo. Answers with `accept`.
async fn websocket(listener: TcpListener, accept: &'static str, tls: Option<tokio_rustls::TlsAcceptor>) {
    async fn serve<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(mut stream: T, accept: &str) {
        let head = read_head(&mut stream).await;
        assert!(head.to_lowercase().contains("upgrade: websocket"), "{head}");
        let answer = format!("{ACCEPT}{accept}\r\n\r\nhello");
        stream.write_all(answer.as_bytes()).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        let _ended = tokio::io::copy(&mut read, &mut write).await;
    }
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                match tls {
                    Some(tls) => serve(tls.accept(stream).await.unwrap(), accept).await,
                    None => serve(stream, accept).await,
                }
            });
        }
    });
}

/// The server of `evil` sees each name that is looked up.
#[tokio::test]
async fn what_no_endpoint_says_is_looked_up_so_many_times_a_minute() {
    let port = echo().await;
    let listed = "- { port: 5433, allowed_ips: [ 10.0.0.0/8 ] }";
    let bed = Bed::new(&format!("{listed}\n{}", l4("raw.test", port))).await;
    let connect = |name: String| format!("CONNECT {name}:5433 HTTP/1.1\r\nHost: {name}:5433\r\n\r\n");
    for n in 0..UNNAMED_LOOKUPS_PER_MINUTE {
        let answer = bed.talk(connect(format!("bytes-{n}.evil"))).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    }
    for n in 1000..1005 {
        let answer = bed.talk(connect(format!("bytes-{n}.evil"))).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("is not looked up"), "{answer}");
    }
    // A name that was looked up before tells the server nothing new, an address is no name, and names that an
    // endpoint has aren't counted.
    assert!(bed.talk(connect("bytes-0.evil".into())).await.starts_with("HTTP/1.1 502 "));
    let address = bed.talk(connect("127.0.0.1".into())).await;
    assert!(address.starts_with("HTTP/1.1 403 ") && !address.contains("is not looked up"), "{address}");
    assert!(bed.connect(&format!("raw.test:{port}")).await.0.starts_with("HTTP/1.1 200 "));
}

/// A text message as clients send it: masked (here by zeros), for only that passes.
const FRAME: &[u8; 11] = b"\x81\x85\0\0\0\0frame";

#[tokio::test]
async fn websockets_pass_where_a_rule_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let bed = Bed::new(&ws("ws.test", port)).await;
    websocket(listener, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", None).await;
    let host = format!("ws.test:{port}");
    let mut stream = bed.open().await;
    stream.write_all(handshake(&format!("http://{host}/ok/ws"), &host, "").as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut got = [0; 5];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello", "what came with the 101 is not lost");
    let mut got = [0; FRAME.len()];
    stream.write_all(FRAME).await.unwrap();
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(got, *FRAME);
    let answer = bed.talk(handshake(&format!("http://{host}/no"), &host, "")).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

#[tokio::test]
async fn websockets_inside_tls_and_a_forged_accept() {
    for (accept, good) in [("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", true), ("AAAAAAAAAAAAAAAAAAAAAAAAAAA=", false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let bed = Bed::new(&ws("ws.test", port)).await;
        let tls = tokio_rustls::TlsAcceptor::from(bed.upstream_tls("ws.test", Alpn::H2OrHttp1));
        websocket(listener, accept, Some(tls)).await;
        let host = format!("ws.test:{port}");
        let mut stream = bed.tls(&host, &[b"http/1.1"]).await;
        stream.write_all(handshake("/ok/ws", &host, "").as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        if !good {
            assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
            continue;
        }
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let mut got = [0; 5 + FRAME.len()];
        stream.write_all(FRAME).await.unwrap();
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(got[..], [b"hello", &FRAME[..]].concat());
    }
}

/// A server that speaks HTTP/2 alone, and WebSocket on it if `takes`: an echo.
async fn http2_alone(listener: TcpListener, tls: Arc<rustls::ServerConfig>, takes: bool) {
    let mut only = (*tls).clone();
    only.alpn_protocols = vec![b"h2".to_vec()];
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(only));
    let echo = |mut request: Request<Incoming>| async move {
        let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
        let is_websocket = request.method() == Method::CONNECT
            && request
                .extensions()
                .get::<Protocol>()
                .is_some_and(|protocol| protocol.as_str() == "websocket");
        let is_clean = ["upgrade", "connection", "sec-websocket-key", "host"]
            .iter()
            .all(|name| !headers.contains_key(*name));
        let mut response = Response::new(Empty::<Bytes>::new());
        if !is_websocket || !is_clean || path != "/ok/ws" {
            *response.status_mut() = StatusCode::NOT_FOUND;
            return Ok::<_, Infallible>(response);
        }
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            let _ended = tokio::io::copy(&mut read, &mut write).await;
        });
        Ok(response)
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                // A client that offers HTTP/1.1 alone gets an alert.
                let Ok(stream) = tls.accept(stream).await else { return };
                let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                if takes {
                    server.enable_connect_protocol();
                }
                let _ended = server.serve_connection(TokioIo::new(stream), service_fn(echo)).await;
            });
        }
    });
}

#[tokio::test]
async fn a_server_of_http2_alone_is_asked_on_a_stream() {
    for takes in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let bed = Bed::new(&ws("ws.test", port)).await;
        http2_alone(listener, bed.upstream_tls("ws.test", Alpn::H2OrHttp1), takes).await;
        let host = format!("ws.test:{port}");
        for _ in 0..2 {
            let mut stream = bed.tls(&host, &[b"http/1.1"]).await;
            stream.write_all(handshake("/ok/ws", &host, "").as_bytes()).await.unwrap();
            let head = read_head(&mut stream).await;
            if !takes {
                let answer = head + &read_to_close(&mut stream).await;
                assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("RFC 8441"), "{answer}");
                continue;
            }
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            assert!(
                head.to_lowercase().contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
                "{head}"
            );
            let mut got = [0; FRAME.len()];
            stream.write_all(FRAME).await.unwrap();
            stream.read_exact(&mut got).await.unwrap();
            assert_eq!(got, *FRAME);
        }
        let mut refused = bed.tls(&host, &[b"http/1.1"]).await;
        refused.write_all(handshake("/no", &host, "").as_bytes()).await.unwrap();
        assert!(read_head(&mut refused).await.starts_with("HTTP/1.1 403 "));
    }
}

#[tokio::test]
async fn a_refused_handshake_is_an_ordinary_answer_and_closes() {
    let up = Raw::new(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno").await;
    let bed = Bed::new(&ws("up.test", up.port)).await;
    let host = format!("up.test:{}", up.port);
    let smuggled = format!("GET http://{host}/ok/smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let bytes = format!("{}{smuggled}", handshake(&format!("http://{host}/ok/ws"), &host, ""));
    let answer = bed.talk(bytes).await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.ends_with("no"), "{answer}");
    assert!(!up.seen().contains("smuggled"));
}

/// Servers that skip an alert would read another name after it.
#[tokio::test]
async fn nothing_of_tls_goes_before_the_hello() {
    for before in [&[0x15, 3, 1, 0, 2, 1, 90][..], &[0x14, 3, 1, 0, 1, 1], &[0x18, 3, 3, 0, 3, 1, 0, 0]] {
        let up = Raw::new(b"").await;
        let bed = Bed::new(&format!("- {{ host: raw.test, port: {}, tls: skip }}", up.port)).await;
        let (_, mut stream) = bed.connect(&format!("raw.test:{}", up.port)).await;
        for byte in before {
            let _refused = stream.write_all(&[*byte]).await;
        }
        read_to_close(&mut stream).await;
        assert_eq!(up.seen(), "", "{before:?}");
        assert!(
            bed.journal.lines().iter().any(|line| line.starts_with("deny l4")),
            "{:?}",
            bed.journal.lines()
        );
    }
}
