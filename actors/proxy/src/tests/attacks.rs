//! Raw bytes from a hostile agent. The upstream records what reaches it.

use std::sync::atomic::Ordering;

use tokio::io::AsyncWriteExt;

use super::bed::{AGENT, Bed, Raw, json, l4, read_head, read_to_close, rest};

fn get(port: u16, path: &str, extra: &str) -> String {
    format!("GET http://up.test:{port}{path} HTTP/1.1\r\nHost: up.test:{port}\r\n{extra}\r\n")
}

#[tokio::test]
async fn malformed_requests_are_answered_and_never_forwarded() {
    let up = Raw::ok().await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let port = up.port;
    let post = |lines: &str, body: &str| {
        format!("POST http://up.test:{port}/ok/x HTTP/1.1\r\nHost: up.test:{port}\r\n{lines}\r\n\r\n{body}")
    };
    let smuggled = format!("GET http://up.test:{port}/ok/smuggled HTTP/1.1\r\nHost: up.test:{port}\r\n\r\n");
    for bytes in [
        post("Content-Length: 1\r\nContent-Length: 1", "x"),
        post("Content-Length: 4\r\nTransfer-Encoding: chunked", &format!("0\r\n\r\n{smuggled}")),
        post("Transfer-Encoding: chunked\r\nContent-Length: 4", &format!("0\r\n\r\n{smuggled}")),
        post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"),
        post("Transfer-Encoding: Chunked, identity", "0\r\n\r\n"),
        post("Transfer-Encoding : chunked", "0\r\n\r\n"),
        post("Transfer-Encoding:\x0bchunked", "0\r\n\r\n"),
        post("Content-Length: +4", "abcd"),
        post("Content-Length: 4\n", "abcd"),
        post("X: y\r\n Transfer-Encoding: chunked", "0\r\n\r\n"),
        post(&format!("Host: up.test:{port}"), ""),
        post("Upgrade: TLS/1.0\r\nConnection: Upgrade", ""),
        post("Transfer-Encoding: chunked", "0x3\r\nabc\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked", "3;a=b\r\nabc\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked", "3\nabc\n0\n\n"),
        post("Transfer-Encoding: chunked", "FFFFFFFFFFFFFFFFF\r\nabc"),
        get(port, "/ok/\u{e9}", ""),
        get(port, "/ok/x", "X: a\0b\r\n"),
        get(port, "/ok/x", "").replace("HTTP/1.1", "HTTP/1.2"),
        get(port, "/ok/x", "").replace(&format!("Host: up.test:{port}"), "Host: other.test"),
        get(port, "/ok/x", "").replace("\r\n", "\n"),
        get(port, "/ok/../../x", ""),
        get(port, "/ok/%00", ""),
        format!("GET /ok/x HTTP/1.1\r\nHost: up.test:{port}\r\n\r\n"),
        format!("GET https://up.test:{port}/ok/x HTTP/1.1\r\nHost: up.test:{port}\r\n\r\n"),
        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_owned(),
        format!("CONNECT up.test:{port} HTTP/1.1\r\nHost: other.test:{port}\r\n\r\n"),
        format!("CONNECT up.test:{port} HTTP/1.1\r\nHost: up.test:{port}\r\nContent-Length: 4\r\n\r\nabcd"),
    ] {
        let answer = bed.talk(&bytes).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{bytes:?}\n{answer}");
        let body = json(&answer);
        assert_eq!(body["error"], "bad_request", "{bytes:?}");
        assert!(answer.contains(body["request_id"].as_str().unwrap()));
        assert_eq!(up.seen(), "", "{bytes:?}");
    }
    // The positive control.
    let answer = bed.talk(get(port, "/ok/x", "Connection: close\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("ok"), "{answer}");
    assert!(up.seen().starts_with("GET /ok/x HTTP/1.1\r\n"));
    assert!(bed.journal.lines().iter().any(|line| line == "allow l7 GET /ok/x"));
}

#[tokio::test]
async fn a_query_renames_no_request() {
    let up = Raw::ok().await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    for query in
        ["_method=DELETE", "a&_METHOD=%64elete", "_HttpMethod=PATCH", "method=delete", "_method=%20%20"]
    {
        let answer = bed.talk(get(up.port, &format!("/ok/x?{query}"), "")).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("its query"), "{query}: {answer}");
    }
    assert_eq!(up.seen(), "");
    for query in ["_method=post", "method=photos.search", "b=_method"] {
        let answer = bed.talk(get(up.port, &format!("/ok/x?{query}"), "Connection: close\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{query}: {answer}");
    }
}

#[tokio::test]
async fn oversized_heads_are_431() {
    let up = Raw::ok().await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    for extra in [
        format!("X: {}\r\n", "y".repeat(crate::limits::MAX_HEAD_BYTES)),
        "X: y\r\n".repeat(crate::limits::MAX_HEADERS + 1),
    ] {
        let answer = bed.talk(get(up.port, "/ok/x", &extra)).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        assert_eq!(json(&answer)["error"], "headers_too_large");
    }
    assert_eq!(up.seen(), "");
    // The maximal number of fields, `get`'s own included, is no more than hyper takes behind the strict
    // reader.
    let own = get(up.port, "/ok/x", "").matches("\r\n").count() - 2;
    let most = "X: y\r\n".repeat(crate::limits::MAX_HEADERS - own);
    let answer = bed.talk(get(up.port, "/ok/x", &most.replacen("X: y", "Connection: close", 1))).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(
        up.seen().matches("\nX: y\r").count() + up.seen().matches("\nx: y\r").count(),
        crate::limits::MAX_HEADERS - own - 1
    );
}

#[tokio::test]
async fn an_answer_may_have_so_many_fields_and_no_more() {
    for (fields, wanted) in
        [(crate::limits::MAX_RESPONSE_HEADERS, 200), (crate::limits::MAX_RESPONSE_HEADERS + 1, 502)]
    {
        let more = "x: y\r\n".repeat(fields - 1);
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{more}\r\nok");
        let up = Raw::new(answer.leak().as_bytes()).await;
        let bed = Bed::new(&rest("up.test", up.port)).await;
        let answer = bed.talk(get(up.port, "/ok/x", "Connection: close\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {wanted} ")), "{fields}: {answer}");
    }
}

#[tokio::test]
async fn nothing_pipelined_behind_a_denial_passes() {
    let up = Raw::ok().await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let denied = get(up.port, "/secret", "");
    let allowed = get(up.port, "/ok/behind", "");
    let answer = bed.talk(format!("{denied}{allowed}{allowed}")).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert_eq!(up.seen(), "");
    // Behind an allowed one, each is judged anew.
    let answer = bed.talk(format!("{allowed}{allowed}{denied}{allowed}")).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 403 ").count(), 1, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 3, "{answer}");
    assert_eq!(up.seen().matches("GET /ok/behind").count(), 2);
    assert!(!up.seen().contains("secret"));
}

#[tokio::test]
async fn a_good_request_before_a_malformed_one_is_answered_first() {
    let up = Raw::ok().await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let good = get(up.port, "/ok/x", "");
    let bad = "GET / HTTP/1.1\nHost: up.test\r\n\r\n";
    let answer = bed.talk(format!("{good}{bad}{good}")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("HTTP/1.1 400 "), "{answer}");
    assert_eq!(up.seen().matches("GET ").count(), 1);
}

#[tokio::test]
async fn surplus_behind_a_body_is_the_next_request() {
    let up = Raw::ok().await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let port = up.port;
    let post = format!(
        "POST http://up.test:{port}/ok/p HTTP/1.1\r\nHost: up.test:{port}\r\nContent-Length: 5\r\n\r\nhello"
    );
    let answer = bed.talk(format!("{post}{}", get(port, "/secret", ""))).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("HTTP/1.1 403 "), "{answer}");
    assert!(up.seen().contains("hello") && !up.seen().contains("secret"));
}

#[tokio::test]
async fn a_broken_chunk_aborts_the_upload_and_is_the_agents_fault() {
    let up = Raw::new(b"").await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let port = up.port;
    let mut stream = bed.open().await;
    let head = format!(
        "POST http://up.test:{port}/ok/p HTTP/1.1\r\nHost: up.test:{port}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(b"5\r\nhello\r\n").await.unwrap();
    while !up.seen().contains("hello") {
        tokio::task::yield_now().await;
    }
    stream.write_all(b"5;ext=1\r\nWORLD\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n").await.unwrap();
    let answer = read_to_close(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(!up.seen().contains("WORLD") && !up.seen().contains("smuggled"));
    assert!(!up.seen().ends_with("0\r\n\r\n"), "the upstream must not take it for a whole body");
}

#[tokio::test]
async fn bodies_are_framed_anew() {
    let up = Raw::ok().await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let port = up.port;
    let post = format!(
        "POST http://up.test:{port}/ok/p HTTP/1.1\r\nHost: up.test:{port}\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\
         X-HTTP-Method-Override: DELETE\r\nx-http-method: DELETE\r\nX-Method-Override: DELETE\r\nProxy-Authorization: Basic eA==\r\nTransfer-Encoding: chunked\r\n\r\n0005\r\nhello\r\n00\r\nX-T: 1\r\n\r\n"
    );
    let answer = bed.talk(post).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = up.seen().to_lowercase();
    assert!(seen.contains("transfer-encoding: chunked") && seen.contains("5\r\nhello\r\n"), "{seen}");
    for gone in ["0005", "x-hop", "proxy-authorization", "connection", "delete"] {
        assert!(!seen.contains(gone), "{gone}: {seen}");
    }
}

#[tokio::test]
async fn an_unasked_101_closes_both_sides() {
    let up =
        Raw::new(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nraw").await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let answer = bed.talk(get(up.port, "/ok/x", "")).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(!answer.contains("raw"));
}

#[tokio::test]
async fn redirects_pass_and_are_not_followed() {
    let up =
        Raw::new(b"HTTP/1.1 302 Found\r\nlocation: http://private.evil/\r\ncontent-length: 0\r\n\r\n").await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let answer = bed.talk(get(up.port, "/ok/x", "Connection: close\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 302 "), "{answer}");
    assert_eq!(up.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn destinations_and_addresses_that_are_refused() {
    let up = Raw::ok().await;
    let port = up.port;
    let endpoints = [rest("up.test", port), l4("metadata.evil", 80), l4("multicast.evil", 443)].join("\n");
    let bed = Bed::new(&endpoints).await;
    for (bytes, layer) in [
        (get(port, "/nope", ""), "l7"),
        (get(port, "/ok/x", "").replace("GET", "DELETE"), "l7"),
        (get(port, "/ok/x", "").replace("up.test", "other.test"), "l4"),
        (get(port + 1, "/ok/x", ""), "l4"),
        ("GET http://metadata.evil/ HTTP/1.1\r\nHost: metadata.evil\r\n\r\n".to_owned(), "ssrf"),
        (format!("CONNECT other.test:{port} HTTP/1.1\r\nHost: other.test:{port}\r\n\r\n"), "l4"),
        ("CONNECT multicast.evil:443 HTTP/1.1\r\nHost: multicast.evil:443\r\n\r\n".to_owned(), "ssrf"),
        (format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"), "l4"),
        ("CONNECT inference.local:22 HTTP/1.1\r\nHost: inference.local:22\r\n\r\n".to_owned(), "l4"),
    ] {
        let answer = bed.talk(&bytes).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{bytes:?}\n{answer}");
        let body = json(&answer);
        assert_eq!((&body["error"], &body["layer"]), (&"policy_denied".into(), &layer.into()), "{body}");
        assert_eq!(body["binary"], super::bed::AGENT);
    }
    assert_eq!(up.seen(), "");
}

/// The destination is told as far as it can be read: an address in an odd spelling is none.
#[tokio::test]
async fn a_bad_request_is_told_with_the_place_that_it_names() {
    let up = Raw::ok().await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let v6 = "GET http://[2001:db8::1]/%00 HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n".to_owned();
    let odd = "CONNECT 0x7f.1:443 HTTP/1.1\r\nHost: 0x7f.1:443\r\n\r\n".to_owned();
    let disagreeing = "CONNECT up.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n".to_owned();
    let tls = "GET https://up.test/ok/x HTTP/1.1\r\nHost: up.test\r\n\r\n".to_owned();
    for (bytes, method, host, port) in [
        (get(up.port, "/ok/../../x", ""), "GET", Some("up.test"), Some(up.port)),
        (get(up.port, "/ok/%00", ""), "GET", Some("up.test"), Some(up.port)),
        (v6, "GET", Some("2001:db8::1"), Some(80)),
        (tls, "GET", Some("up.test"), Some(443)),
        (odd, "CONNECT", None, None),
        // What the strict reader refuses, before there is a request.
        (get(up.port, "/ok/\u{e9}", ""), "GET", Some("up.test"), Some(up.port)),
        (get(up.port, "/ok/x", "X: a\0b\r\n"), "GET", Some("up.test"), Some(up.port)),
        (disagreeing, "CONNECT", Some("up.test"), Some(443)),
    ] {
        let told = json(&bed.talk(&bytes).await);
        assert_eq!((&told["error"], &told["method"]), (&"bad_request".into(), &method.into()), "{told}");
        assert_eq!((told["host"].as_str(), &told["port"]), (host, &port.into()), "{told}");
        assert!(told["policy"].is_null(), "{told}");
    }
}

#[tokio::test]
async fn without_an_identity_nothing_passes() {
    let up = Raw::ok().await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    bed.who.unknown.store(true, Ordering::Relaxed);
    let answer = bed.talk(get(up.port, "/ok/x", "")).await;
    assert_eq!(json(&answer)["layer"], "identity");
    assert_eq!(up.seen(), "");
    assert_eq!(bed.journal.refused(), ["- - 1"]);
    bed.who.unknown.store(false, Ordering::Relaxed);
    *bed.who.path.lock().unwrap() = "/tmp/other";
    assert_eq!(json(&bed.talk(get(up.port, "/ok/x", "")).await)["layer"], "l4");
    assert_eq!(up.seen(), "");
}

#[tokio::test]
async fn a_connection_that_changes_hands_is_denied_and_loses_its_upstream() {
    let up = Raw::ok().await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let mut stream = bed.open().await;
    stream.write_all(get(up.port, "/ok/1", "").as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
    *bed.who.path.lock().unwrap() = "/tmp/other";
    tokio::time::sleep(crate::limits::IDENTITY_FRESH * 2).await;
    stream.write_all(get(up.port, "/ok/2", "").as_bytes()).await.unwrap();
    let answer = read_to_close(&mut stream).await;
    assert!(answer.contains("HTTP/1.1 403 "), "{answer}");
    assert!(!up.seen().contains("/ok/2"));
    let told = json(&answer[answer.find("HTTP/1.1 403 ").unwrap()..]);
    assert_eq!((&told["layer"], &told["binary"]), (&"identity".into(), &"/tmp/other".into()), "{told}");
    assert_eq!(bed.journal.refused(), ["/tmp/other - 1"]);
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_done() {
    let up = Raw::ok().await;
    let bed = Bed::new(&[rest("up.test", up.port), l4("raw.test", up.port)].join("\n")).await;
    bed.journal.full.store(true, Ordering::Relaxed);
    let answer = bed.talk(get(up.port, "/ok/x", "")).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(json(&answer)["error"], "unavailable");
    let (head, _) = bed.connect(&format!("raw.test:{}", up.port)).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(up.connections.load(Ordering::Relaxed), 0);
    bed.journal.full.store(false, Ordering::Relaxed);
    assert!(bed.talk(get(up.port, "/ok/x", "Connection: close\r\n")).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn an_unreachable_destination_is_502() {
    // Bound but not listened on: the port refuses connections, and no other process can take it meanwhile.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let dead = taken.local_addr().unwrap().port();
    let bed =
        Bed::new(&[l4("raw.test", dead), rest("up.test", dead), l4("gone.example", 80)].join("\n")).await;
    let (head, _) = bed.connect(&format!("raw.test:{dead}")).await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    let answer = bed.talk(get(dead, "/ok/x", "")).await;
    assert_eq!(json(&answer)["error"], "upstream_unreachable");
    // The entry that had let the request come so far.
    assert_eq!(json(&answer)["policy"], "test");
    assert_eq!(bed.journal.refused(), [format!("{AGENT} test 1"), format!("{AGENT} test 1")]);
    let answer = bed.talk("GET http://gone.example/ HTTP/1.1\r\nHost: gone.example\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let up = Raw::ok().await;
    let bed = Bed::with_capacity(&rest("up.test", up.port), 2).await;
    let (mut one, two) = (bed.open().await, bed.open().await);
    one.write_all(get(up.port, "/ok/x", "").as_bytes()).await.unwrap();
    assert!(read_head(&mut one).await.starts_with("HTTP/1.1 200 "));
    let mut three = bed.open().await;
    let answer = read_to_close(&mut three).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    drop((one, two));
    while bed.deps.tracker.connections() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(bed.talk(get(up.port, "/ok/x", "Connection: close\r\n")).await.starts_with("HTTP/1.1 200 "));
}
