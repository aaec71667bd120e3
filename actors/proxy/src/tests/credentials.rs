//! Placeholders on the road: filled where they are bound, refused before anything is dialled elsewhere, and
//! echoes masked.

use std::sync::atomic::Ordering;

use serde_json::json as value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::bed::{AGENT, Bed, Raw, json, read_head};
use super::websockets::{self, agreed};
use crate::credentials::tests::{KEY, credentials};
use crate::limits::{MAX_AHEAD_BYTES, MAX_REWRITTEN_BYTES};

const PLACEHOLDER: &str = "cofferdam:cred:github";

/// A proxy under `endpoints` with a credential for `/ok/**` of `up.test`.
async fn bed(port: u16, endpoints: &str) -> Bed {
    let uses = value!([{ "host": "up.test", "ports": [port], "path": "/ok/**", "binaries": [AGENT], "plain_http": true }]);
    Bed::with(endpoints, 64, credentials(uses)).await
}

fn endpoint(port: u16, more: &str) -> String {
    format!("- {{ host: up.test, port: {port}, protocol: rest, access: full{more} }}")
}

const REWRITES: &str = ", request_body_credential_rewrite: true";

fn request(port: u16, target: &str, headers: &str, body: &str) -> String {
    format!(
        "POST http://up.test:{port}{target} HTTP/1.1\r\nHost: up.test:{port}\r\nConnection: close\r\n{headers}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn refused(answer: &str, wanted: &str) {
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let told = json(answer);
    assert_eq!((told["error"].as_str(), told["layer"].as_str()), (Some("policy_denied"), Some("l7")));
    assert_eq!(told["policy"], "test");
    assert!(told["detail"].as_str().unwrap().contains(wanted), "{told}");
    assert!(!answer.contains("0123456789"), "{answer}");
}

#[tokio::test]
async fn heads_and_bodies_are_filled_where_they_are_bound() {
    let up = Raw::ok().await;
    let bed = bed(up.port, &endpoint(up.port, REWRITES)).await;
    let headers = format!(
        "Authorization: Bearer {PLACEHOLDER}\r\nContent-Type: application/json\r\nRange: bytes=0-3\r\n\
         x-ms-range: bytes=0-3\r\nX.Ms.Range: bytes=0-3\r\nConnect-Accept-Encoding: gzip\r\nAccept_Encoding: gzip\r\n\
         Accept-Charset: utf-7\r\nAccept: text/html;charset=utf-7, */*\r\n"
    );
    let body = format!(r#"{{ "a":"{PLACEHOLDER}" }}"#);
    let answer = bed.talk(request(up.port, "/ok/x?k=cofferdam%3Acred%3Agithub&b", &headers, &body)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = up.seen();
    let key = percent_encoding::utf8_percent_encode(KEY, percent_encoding::NON_ALPHANUMERIC).to_string();
    assert!(seen.starts_with(&format!("POST /ok/x?k={}&b HTTP/1.1\r\n", key.replace("%2D", "-"))), "{seen}");
    assert!(seen.contains(&format!("authorization: Bearer {KEY}\r\n")), "{seen}");
    assert!(seen.contains("accept-encoding: identity\r\n") && !seen.contains("range"), "{seen}");
    assert!(!seen.contains("gzip") && !seen.contains("utf-7"), "{seen}");
    assert!(seen.contains("accept: text/html, */*\r\n"), "{seen}");
    assert!(!seen.contains("gzip") && !seen.contains("utf-7"), "{seen}");
    assert!(seen.contains("accept: text/html, */*\r\n"), "{seen}");
    let sent = format!(r#"{{ "a":{} }}"#, serde_json::to_string(KEY).unwrap());
    assert!(seen.ends_with(&sent) && seen.contains(&format!("content-length: {}\r\n", sent.len())), "{seen}");
    let lines = bed.journal.lines().join("\n");
    assert!(lines.contains("allow l7 POST /ok/x") && !lines.contains("0123456789"), "{lines}");
}

#[tokio::test]
async fn elsewhere_nothing_is_dialled() {
    let up = Raw::ok().await;
    let bed = bed(
        up.port,
        &format!(
            "{}\n- {{ host: other.test, port: {}, protocol: rest, access: full }}",
            endpoint(up.port, ""),
            up.port
        ),
    )
    .await;
    let bearer = format!("X-Key: {PLACEHOLDER}\r\n");
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let json_type = "Content-Type: application/json\r\n";
    let octets = "Content-Type: application/octet-stream\r\n";
    let zipped = "Content-Encoding: gzip\r\n";
    for (target, headers, body, wanted) in [
        ("/other", bearer.as_str(), "", "is not for the path /other"),
        ("/ok/x", "X-Key: cofferdam:cred:nobody\r\n", "", "no credential is called `nobody`"),
        ("/ok/x?a=cofferdam:cred:nobody", "", "", "no credential is called `nobody`"),
        ("/ok/x?a=cofferdam%253Acred%253Agithub", "", "", "escapes"),
        ("/ok/cofferdam:cred:github", "", "", "may not stand in the path"),
        ("/ok/x", "cofferdam:cred:github: x\r\n", "", "may not stand in the name of a header"),
        // Bodies are not rewritten on this endpoint.
        (
            "/ok/x",
            json_type,
            r#"{"a":"\u0063offerdam:cred:github"}"#,
            "the body holds the placeholder of credential `github`",
        ),
        (
            "/ok/x",
            form,
            "a=cofferdam%3Acred%3Agithub",
            "the body holds the placeholder of credential `github`",
        ),
        (
            "/ok/x",
            octets,
            "\u{1}cofferdam:cred:github",
            "the body holds the placeholder of credential `github`",
        ),
        ("/ok/x", "", "cofferdam:cred:github", "the body holds the placeholder of credential `github`"),
        ("/ok/x", zipped, "said to be zipped: cofferdam:cred:github", "the body holds the placeholder"),
    ] {
        refused(&bed.talk(request(up.port, target, headers, body)).await, wanted);
    }
    let elsewhere = request(up.port, "/ok/x", &bearer, "").replace("up.test", "other.test");
    refused(&bed.talk(elsewhere).await, "is not for other.test");
    *bed.who.path.lock().unwrap() = "/usr/bin/another";
    let answer = bed.talk(request(up.port, "/ok/x", &bearer, "")).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    *bed.who.path.lock().unwrap() = AGENT;
    assert_eq!((up.connections.load(Ordering::Relaxed), up.seen()), (0, String::new()));
    assert!(bed.talk(request(up.port, "/ok/x", &bearer, "")).await.starts_with("HTTP/1.1 200"));
    assert!(up.seen().contains(KEY));
}

#[tokio::test]
async fn without_credentials_a_placeholder_leaves_no_head_either() {
    let up = Raw::ok().await;
    let bed = Bed::new(&endpoint(up.port, "")).await;
    let answer = bed.talk(request(up.port, "/ok/x", &format!("X-Key: {PLACEHOLDER}\r\n"), "")).await;
    refused(&answer, "no credential is called `github`");
    assert_eq!(up.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_long_upload_is_broken_off_before_the_placeholder_is_whole() {
    // An upstream that says nothing: the refusal is the only answer.
    let up = Raw::new(b"").await;
    let bed = bed(up.port, &endpoint(up.port, "")).await;
    for (first, second) in
        [("cofferdam:cr", "ed:github"), ("cofferdam%3", "Acred:github"), ("c", "offerdam:cred:")]
    {
        let before = up.seen().len();
        let mut stream = bed.open().await;
        let head = format!(
            "POST http://up.test:{0}/ok/x HTTP/1.1\r\nHost: up.test:{0}\r\nTransfer-Encoding: chunked\r\n\r\n",
            up.port
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
        stream.write_all(chunk(&format!("begin {first}")).as_bytes()).await.unwrap();
        while !up.seen()[before..].contains("begin") {
            tokio::task::yield_now().await;
        }
        stream.write_all(chunk(&format!("{second} end")).as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 403"), "{head}");
        assert!(!up.seen()[before..].contains("end"), "{}", up.seen());
    }
    assert!(bed.journal.lines().iter().any(|line| line == "deny l7 POST /ok/x"));
}

#[tokio::test]
async fn what_is_too_long_or_compressed_is_not_rewritten() {
    let up = Raw::ok().await;
    let bed = bed(up.port, &endpoint(up.port, REWRITES)).await;
    let text = "Content-Type: text/plain\r\n";
    let long = |length: u32| "x".repeat(usize::try_from(length).unwrap());
    let at_the_end = format!("{}{PLACEHOLDER}", long(MAX_REWRITTEN_BYTES - 21));
    assert!(bed.talk(request(up.port, "/ok/x", text, &at_the_end)).await.starts_with("HTTP/1.1 200"));
    assert!(up.seen().ends_with(KEY));
    let before = up.seen().len();
    let beyond = format!("{PLACEHOLDER}{}", long(MAX_REWRITTEN_BYTES));
    refused(&bed.talk(request(up.port, "/ok/x", text, &beyond)).await, "is not rewritten");
    let zipped = format!("{text}Content-Encoding: gzip\r\n");
    refused(&bed.talk(request(up.port, "/ok/x", &zipped, "x")).await, "compressed");
    assert_eq!(up.seen().len(), before);
    // Without a placeholder any length passes, whole.
    for length in [MAX_AHEAD_BYTES, MAX_AHEAD_BYTES + 1, 4 * MAX_REWRITTEN_BYTES] {
        let before = up.seen().len();
        let body = format!("{}end", long(length));
        let answer = bed.talk(request(up.port, "/ok/x", text, &body)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        while !up.seen()[before..].ends_with(&body) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn judged_bodies_are_judged_as_they_came_and_sent_filled() {
    let up = Raw::ok().await;
    let bed = bed(
        up.port,
        &format!(
            "- {{ host: up.test, port: {}, protocol: mcp, request_body_credential_rewrite: true, rules: [ {{ allow: {{ method: \
             tools/call, tool: read, arguments: {{ key: \"cofferdam:cred:*\" }} }} }} ] }}",
            up.port
        ),
    )
    .await;
    let call = |key: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"read","arguments":{{"key":"{key}"}}}}}}"#
        )
    };
    let headers = "Content-Type: application/json\r\n";
    let answer = bed.talk(request(up.port, "/ok/mcp", headers, &call(PLACEHOLDER))).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let key = serde_json::to_string(KEY).unwrap();
    assert!(up.seen().ends_with(&call(key.trim_matches('"'))), "{}", up.seen());
    for (body, wanted) in [(call("another"), "tools/call"), (call("cofferdam:cred:nobody"), "no credential")]
    {
        let before = up.seen().len();
        refused(&bed.talk(request(up.port, "/ok/mcp", headers, &body)).await, wanted);
        assert_eq!(up.seen().len(), before);
    }
}

#[tokio::test]
async fn echoes_are_masked_and_what_cant_be_searched_is_refused() {
    let answer = |more: &str, body: &str| -> &'static [u8] {
        let text = format!("HTTP/1.1 200 OK\r\n{more}content-length: {}\r\n\r\n{body}", body.len());
        Box::leak(text.into_bytes().into_boxed_slice())
    };
    let json = serde_json::to_string(KEY).unwrap();
    let up =
        Raw::new(answer(&format!("location: /to/{KEY}\r\nx-plain: kept\r\n"), &format!("[{json},\"kept\"]")))
            .await;
    let bed1 = bed(up.port, &endpoint(up.port, "")).await;
    // Masked even if the request itself has no placeholder: the value may have been left there before.
    for target in ["/ok/x", "/elsewhere"] {
        let got = bed1.talk(request(up.port, target, "", "")).await;
        assert!(got.starts_with("HTTP/1.1 200") && !got.contains("0123456789"), "{got}");
        assert!(got.contains(&format!("location: /to/{}\r\n", "*".repeat(KEY.len()))), "{got}");
        assert!(got.contains("x-plain: kept") && got.ends_with("\"kept\"]"), "{got}");
    }
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n8\r\nnot to b\r\n6\r\ne read\r\n0\r\n\r\n";
    for unsearchable in [
        answer("content-encoding: gzip\r\n", "not to be read"),
        answer("connect-content-encoding: gzip\r\n", "not to be read"),
        answer("content-type: text/plain; charset=utf-7\r\n", "not to be read"),
        answer("content-type: text/plain; charset=\"IBM500\"\r\n", "not to be read"),
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 14\r\n\r\nnot to be read",
        chunked.as_bytes(),
    ] {
        let up = Raw::new(unsearchable).await;
        let bed2 = bed(up.port, &endpoint(up.port, "")).await;
        let got = bed2.talk(request(up.port, "/ok/x", "", "")).await;
        assert!(
            got.starts_with("HTTP/1.1 502") && !got.contains("not to b"),
            "{}: {got}",
            String::from_utf8_lossy(unsearchable)
        );
    }
}

/// A WebSocket server that gives each message back, and keeps what it was sent.
async fn echo(listener: TcpListener, seen: std::sync::Arc<std::sync::Mutex<Vec<u8>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        read_head(&mut stream).await;
        stream.write_all(agreed("").as_bytes()).await.unwrap();
        while let Ok(head) = stream.read_u16().await {
            let mut frame = vec![0; 4 + usize::from(head & 0x7f)];
            if stream.read_exact(&mut frame).await.is_err() {
                break;
            }
            seen.lock().unwrap().extend_from_slice(&frame[4..]);
            let back = [&[0x81, u8::try_from(frame.len() - 4).unwrap()], &frame[4..]].concat();
            if stream.write_all(&back).await.is_err() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn messages_are_filled_where_the_endpoint_says_so_and_refused_elsewhere() {
    for (more, passes) in [(", websocket_credential_rewrite: true", true), ("", false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = std::sync::Arc::default();
        tokio::spawn(echo(listener, std::sync::Arc::clone(&seen)));
        let bed = bed(port, &endpoint(port, more).replace("protocol: rest", "protocol: websocket")).await;
        let mut stream = bed.open().await;
        stream.write_all(handshake(port).as_bytes()).await.unwrap();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 101"));
        let message = |text: &str| {
            let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
            frame.extend(text.as_bytes());
            frame
        };
        let mut got = vec![0; 7];
        stream.write_all(&message("plain")).await.unwrap();
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(got, b"\x81\x05plain");
        stream.write_all(&message(r#"["cofferdam:cred:github"]"#)).await.unwrap();
        if !passes {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            assert!(rest.starts_with(&[0x88]) && rest[2..].starts_with(&1008_u16.to_be_bytes()), "{rest:?}");
            assert_eq!(*seen.lock().unwrap(), b"plain");
            assert!(bed.journal.lines().iter().any(|line| line.starts_with("deny l7 WEBSOCKET_TEXT")));
            continue;
        }
        let sent = format!("[{}]", serde_json::to_string(KEY).unwrap());
        let mut got = vec![0; 2 + sent.len()];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&got[2..]), format!("[\"{}\"]", "*".repeat(sent.len() - 4)));
        assert!(seen.lock().unwrap().ends_with(sent.as_bytes()));
        assert_eq!(*bed.journal.carried.lock().unwrap(), ["github"]);
        stream.write_all(&message("cofferdam:cred:nobody")).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.starts_with(&[0x88]), "{rest:?}");
    }
}

/// What the handshake is judged by holds for its messages: no key goes where the rules would have refused the
/// handshake, or where it names a second resource that the key isn't for.
#[tokio::test]
async fn a_message_carries_no_key_that_its_handshake_could_not() {
    let text = "rules: [ { allow: { method: WEBSOCKET_TEXT, path: /ok/** } }";
    for (rules, fields) in [
        (format!("enforcement: audit, {text} ]"), ""),
        (format!("{text}, {{ allow: {{ method: GET, path: /ok/** }} }} ]"), "Destination: /other\r\n"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = std::sync::Arc::default();
        tokio::spawn(echo(listener, std::sync::Arc::clone(&seen)));
        let endpoint = format!(
            "- {{ host: up.test, port: {port}, path: /ok/**, protocol: websocket, websocket_credential_rewrite: true, {rules} }}\n\
             - {{ host: up.test, port: {port}, path: /other, protocol: rest, access: full }}"
        );
        let bed = bed(port, &endpoint).await;
        let host = format!("up.test:{port}");
        let mut stream = bed.open().await;
        let head = websockets::handshake(&format!("http://{host}/ok/ws"), &host, fields);
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_head(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{rules}: {answer}");
        let text = "cofferdam:cred:github";
        let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
        frame.extend(text.as_bytes());
        stream.write_all(&frame).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.starts_with(&[0x88]) && rest[2..].starts_with(&1008_u16.to_be_bytes()), "{rest:?}");
        assert!(seen.lock().unwrap().is_empty(), "{rules}");
    }
}

#[tokio::test]
async fn a_message_that_carries_a_credential_is_on_record_or_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = std::sync::Arc::default();
    tokio::spawn(echo(listener, std::sync::Arc::clone(&seen)));
    let rewrites = endpoint(port, ", websocket_credential_rewrite: true");
    let bed = bed(port, &rewrites.replace("protocol: rest", "protocol: websocket")).await;
    let mut stream = bed.open().await;
    stream.write_all(handshake(port).as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 101"));
    bed.journal.full.store(true, Ordering::Relaxed);
    let mut frame = vec![0x81, 0x80 | u8::try_from(PLACEHOLDER.len()).unwrap(), 0, 0, 0, 0];
    frame.extend(PLACEHOLDER.as_bytes());
    stream.write_all(&frame).await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.starts_with(&[0x88]), "{rest:?}");
    assert!(seen.lock().unwrap().is_empty());
}

/// The client is told a hash of a WebSocket's key.
#[tokio::test]
async fn a_websockets_key_is_no_place_for_a_credential() {
    let up = Raw::ok().await;
    let bed = bed(up.port, &endpoint(up.port, "").replace("protocol: rest", "protocol: websocket")).await;
    let answer = bed.talk(handshake(up.port).replace(websockets::KEY, PLACEHOLDER)).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(up.seen(), "");
}

fn handshake(port: u16) -> String {
    let host = format!("up.test:{port}");
    websockets::handshake(&format!("http://{host}/ok/ws"), &host, "")
}
