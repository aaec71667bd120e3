//! What is alive when the policy changes, and when the accept tasks die.

use http::Request;
use http_body_util::BodyExt;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::bed::{Bed, Raw, echo, json, l4, read_head, read_to_close, rest};
use super::websockets;

async fn still_echoes(stream: &mut TcpStream) -> bool {
    let mut got = [0; 4];
    stream.write_all(b"ping").await.is_ok()
        && matches!(tokio::time::timeout(super::bed::PATIENCE, stream.read_exact(&mut got)).await, Ok(Ok(_)))
}

/// An upstream that begins an event stream and goes on when told.
async fn events() -> (u16, tokio::sync::broadcast::Sender<&'static str>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, _) = tokio::sync::broadcast::channel::<&'static str>(16);
    let teller = tell.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut told = teller.subscribe();
            tokio::spawn(async move {
                read_head(&mut stream).await;
                let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: first\n\n";
                stream.write_all(head).await.unwrap();
                while let Ok(event) = told.recv().await {
                    if stream.write_all(event.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, tell)
}

async fn read_until<T: tokio::io::AsyncRead + Unpin>(stream: &mut T, wanted: &str) {
    let mut got = Vec::new();
    while !String::from_utf8_lossy(&got).contains(wanted) {
        let byte = tokio::time::timeout(super::bed::PATIENCE, stream.read_u8()).await;
        got.push(byte.expect("comes in time").expect("the stream goes on"));
    }
}

#[tokio::test]
async fn a_reload_ends_only_what_it_refuses() {
    let (one, two) = (echo().await, echo().await);
    let (sse, tell) = events().await;
    let all = [l4("one.test", one), l4("two.test", two), rest("sse.test", sse)].join("\n");
    let bed = Bed::new(&all).await;
    let (_, mut kept) = bed.connect(&format!("one.test:{one}")).await;
    let (_, mut cut) = bed.connect(&format!("two.test:{two}")).await;
    assert!(still_echoes(&mut kept).await && still_echoes(&mut cut).await);
    let mut stream = bed.open().await;
    let get = format!("GET http://sse.test:{sse}/ok/s HTTP/1.1\r\nHost: sse.test:{sse}\r\n\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    read_until(&mut stream, "data: first").await;
    let mut second = bed.open().await;
    second.write_all(get.replace("/ok/s", "/ok/t").as_bytes()).await.unwrap();
    read_until(&mut second, "data: first").await;

    // The new policy changes nothing for any of them.
    bed.reload(&all);
    tell.send("data: second\n\n").unwrap();
    read_until(&mut stream, "data: second").await;
    read_until(&mut second, "data: second").await;
    assert!(still_echoes(&mut kept).await && still_echoes(&mut cut).await);
    assert_eq!(bed.deps.tracker.revoked_total(), 0);

    // One host goes, and one path of another.
    let narrower = format!(
        "{}\n- {{ host: sse.test, port: {sse}, protocol: rest, rules: [ {{ allow: {{ method: GET, path: \"/ok/s\" }} }} ] }}",
        l4("one.test", one)
    );
    bed.reload(&narrower);
    read_to_close(&mut cut).await;
    read_to_close(&mut second).await;
    tell.send("data: third\n\n").unwrap();
    read_until(&mut stream, "data: third").await;
    assert!(still_echoes(&mut kept).await);
    assert_eq!(bed.deps.tracker.revoked_total(), 2);
    let (head, _) = bed.connect(&format!("two.test:{two}")).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
}

/// The address of a kept connection is judged by the policy in force at each request, not by the one under
/// which it was dialled.
#[tokio::test]
async fn a_new_rule_for_addresses_holds_on_kept_connections() {
    let up = super::bed::Raw::ok().await;
    let target = format!("up.test:{}", up.port);
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let outside = |host| rest(host, up.port).replace("protocol:", "allowed_ips: [ 10.9.0.0/24 ], protocol:");
    let get = format!("GET /ok/x HTTP/1.1\r\nHost: {target}\r\n\r\n");
    let ask = async |stream: &mut TcpStream| {
        stream.write_all(get.as_bytes()).await.unwrap();
        let head = read_head(stream).await;
        if head.starts_with("HTTP/1.1 200") {
            stream.read_exact(&mut [0; 2]).await.unwrap();
        }
        head
    };
    let (_, mut used) = bed.connect(&target).await;
    // CONNECT has resolved the name, and no request has come yet.
    let (_, mut unused) = bed.connect(&target).await;
    for _ in 0..2 {
        assert!(ask(&mut used).await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(up.connections.load(std::sync::atomic::Ordering::Relaxed), 1);
    bed.reload(&outside("up.test"));
    for stream in [&mut used, &mut unused] {
        let head = ask(stream).await;
        assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    }
    assert_eq!(up.connections.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(up.seen().matches("GET ").count(), 2);
}

#[tokio::test]
async fn a_relayed_tunnel_ends_when_its_requests_are_to_be_judged() {
    let port = echo().await;
    let bed = Bed::new(&l4("one.test", port)).await;
    let (_, mut stream) = bed.connect(&format!("one.test:{port}")).await;
    assert!(still_echoes(&mut stream).await);
    bed.reload(&rest("one.test", port));
    read_to_close(&mut stream).await;
}

#[tokio::test]
async fn an_intercepted_tunnel_ends_with_its_host() {
    let port = echo().await;
    let bed = Bed::new(&rest("one.test", port)).await;
    let mut stream = bed.tls(&format!("one.test:{port}"), &[b"http/1.1"]).await;
    bed.reload(&l4("two.test", port));
    read_to_close(&mut stream).await;
    assert_eq!(bed.deps.tracker.revoked_total(), 1);
}

#[tokio::test]
async fn connections_outlive_the_accept_tasks() {
    let port = echo().await;
    let (sse, tell) = events().await;
    let mut bed = Bed::new(&[l4("one.test", port), rest("sse.test", sse)].join("\n")).await;
    let (_, mut tunnel) = bed.connect(&format!("one.test:{port}")).await;
    let mut stream = bed.open().await;
    let get = format!("GET http://sse.test:{sse}/ok/s HTTP/1.1\r\nHost: sse.test:{sse}\r\n\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    read_until(&mut stream, "data: first").await;
    assert!(still_echoes(&mut tunnel).await);
    bed.stop_accepting();
    tokio::task::yield_now().await;
    assert!(still_echoes(&mut tunnel).await);
    tell.send("data: second\n\n").unwrap();
    read_until(&mut stream, "data: second").await;
    assert_eq!(bed.deps.tracker.connections(), 2);
    drop((tunnel, stream));
    while bed.deps.tracker.connections() > 0 || bed.deps.tracker.live() > 0 {
        tell.send("data: more\n\n").ok();
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// An upload ends with the exchange's decision, even if the answer is complete already, or is not read.
#[tokio::test]
async fn an_upload_ends_with_its_decision() {
    for whole in [true, false] {
        let up = match whole {
            true => Raw::ok().await,
            false => Raw::new(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await,
        };
        let bed = Bed::new(&rest("up.test", up.port)).await;
        // No window for the answer, so that its body isn't asked for.
        let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(0)
            .handshake(TokioIo::new(bed.open().await))
            .await
            .unwrap();
        tokio::spawn(connection);
        let (mut tell, body) = http_body_util::channel::Channel::<Bytes, std::io::Error>::new(4);
        let uri = format!("http://up.test:{}/ok/x", up.port);
        let request = Request::post(uri).body(body.boxed_unsync()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        tell.send_data(Bytes::from_static(b"FIRST")).await.unwrap();
        while !up.seen().contains("FIRST") {
            tokio::task::yield_now().await;
        }
        bed.reload(&l4("other.test", 1));
        while bed.deps.tracker.revoked_total() == 0 {
            tokio::task::yield_now().await;
        }
        // Sends until the upload is refused, or until long after it would have arrived.
        for _ in 0..20 {
            if tell.send_data(Bytes::from_static(b"LATER")).await.is_err() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(!up.seen().contains("LATER"), "{}", up.seen());
    }
}

#[tokio::test]
async fn a_relayed_websocket_ends_when_its_messages_are_to_be_judged() {
    const DEFLATED: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let port = websockets::echo(DEFLATED).await;
    let bed = Bed::new(&l4("ws.test", port)).await;
    let mut stream = bed.open().await;
    let host = format!("ws.test:{port}");
    let handshake = websockets::handshake(&format!("http://{host}/ok/ws"), &host, DEFLATED);
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    bed.reload(&format!(
        "- {{ host: ws.test, port: {port}, protocol: websocket, rules: [ {{ allow: {{ method: GET, path: '/ok/**' }} }}, \
         {{ allow: {{ method: WEBSOCKET_TEXT, path: '/ok/**', text: 'good*' }} }} ] }}"
    ));
    // A close frame with 1008, and nothing of what is said from now on.
    let mut got = [0; 4];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!((got[0], &got[2..]), (0x88, &1008_u16.to_be_bytes()[..]));
}

/// The streams of one connection can't have more connections to servers than the sandbox may.
#[tokio::test]
async fn connections_to_servers_are_counted_each() {
    const CAPACITY: usize = 4;
    let up = Raw::new(b"").await;
    let bed = Bed::with_capacity(&rest("up.test", up.port), CAPACITY).await;
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(bed.open().await))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut refused = Vec::new();
    for n in 0..20 {
        let mut sender = sender.clone();
        let uri = format!("http://up.test:{}/ok/{n}", up.port);
        let request = Request::get(uri).body(crate::body::empty()).unwrap();
        refused.push(tokio::spawn(async move { sender.send_request(request).await }));
    }
    let mut answered = 0;
    while answered < 20 - CAPACITY {
        answered = refused.iter().filter(|answer| answer.is_finished()).count();
        tokio::task::yield_now().await;
    }
    assert_eq!(up.connections.load(std::sync::atomic::Ordering::Relaxed), CAPACITY);
    for answer in refused.into_iter().filter(tokio::task::JoinHandle::is_finished) {
        assert_eq!(answer.await.unwrap().unwrap().status(), 503);
    }
}

/// How many of twelve connections one agent may have while it is the only one.
const SHARE: usize = 11;

/// Whatever one agent does with its connections, another agent's are served.
#[tokio::test]
async fn one_agent_leaves_connections_to_the_others() {
    let up = Raw::ok().await;
    let get = format!("GET http://up.test:{0}/ok/x HTTP/1.1\r\nHost: up.test:{0}\r\n\r\n", up.port);
    let bed = Bed::with_capacity(&rest("up.test", up.port), 12).await;
    let is = |party| bed.who.party.store(party, std::sync::atomic::Ordering::Relaxed);
    // An agent that sends a request on each of its connections, and keeps them open.
    is(1);
    let mut open = Vec::new();
    let refused = loop {
        let mut stream = bed.open().await;
        stream.write_all(get.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        if !head.starts_with("HTTP/1.1 200 ") {
            break format!("{head}{}", read_to_close(&mut stream).await);
        }
        open.push(stream);
        assert!(open.len() <= SHARE, "one agent has all connections");
    };
    assert_eq!(open.len(), SHARE);
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert_eq!(json(&refused)["detail"], "this agent has as many connections open as one may have");
    is(2);
    assert!(
        bed.talk(get.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await.starts_with("HTTP/1.1 200 ")
    );
    drop(open);
    while bed.deps.tracker.connections() > 0 {
        tokio::task::yield_now().await;
    }
    // An agent that sends nothing at all: all places are taken until it is known whose the connections are.
    is(1);
    let asked = || bed.who.asked.load(std::sync::atomic::Ordering::Relaxed);
    let (mut silent, before) = (Vec::new(), asked());
    for _ in 0..12 {
        silent.push(bed.open().await);
    }
    while bed.deps.tracker.connections() < 12 {
        tokio::task::yield_now().await;
    }
    let settled = async {
        // Wait for all of them: one that is identified later would count as the other agent's.
        while bed.deps.tracker.connections() > SHARE || asked() < before + 12 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(super::bed::PATIENCE, settled).await.expect("those beyond its share are closed");
    assert!(bed.journal.lines().iter().any(|line| line == "deny unavailable - -"), "and that is on record");
    is(2);
    let answer = bed.talk(get.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}: {:?}", bed.journal.lines());
}

#[tokio::test]
async fn one_agent_leaves_connections_to_servers_to_the_others() {
    let bed = Bed::with_capacity(&rest("up.test", 1), 12).await;
    let tracker = &bed.deps.tracker;
    let ways: Vec<_> = std::iter::from_fn(|| tracker.way(policy::Party(1)).ok()).collect();
    assert_eq!(ways.len(), SHARE);
    let refused = tracker.way(policy::Party(1)).unwrap_err();
    assert!(refused.detail().contains("of this agent"), "{}", refused.detail());
    assert!(tracker.way(policy::Party(2)).is_ok());
}
