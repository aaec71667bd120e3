//! What is judged after the head, bodies and messages: allowed ones arrive byte for byte, refused ones never.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::bed::{Bed, Raw, json, read_head, rest};
use super::websockets::{agreed, handshake};

fn mcp(port: u16, more: &str) -> String {
    format!(
        "- {{ host: up.test, port: {port}, path: /mcp, protocol: mcp{more}, mcp: {{ max_body_bytes: 4096 }}, rules: [ \
         {{ allow: {{ method: initialize }} }}, {{ allow: {{ method: tools/call, tool: search_*, arguments: {{ scope: public }} }} }} ], \
         deny_rules: [ {{ method: tools/call, tool: search_secret }} ] }}"
    )
}

fn graphql(port: u16) -> String {
    format!(
        "- {{ host: up.test, port: {port}, path: /graphql, protocol: graphql, persisted_queries: allow_registered, \
         graphql_persisted_queries: {{ abc: {{ operation_type: query, fields: [viewer] }} }}, \
         rules: [ {{ allow: {{ operation_type: query, fields: [viewer, 'repo*'] }} }} ] }}"
    )
}

async fn post(bed: &Bed, port: u16, path: &str, headers: &str, body: &[u8]) -> String {
    let head = format!(
        "POST http://up.test:{port}{path} HTTP/1.1\r\nHost: up.test:{port}\r\nConnection: close\r\n{headers}"
    );
    bed.talk([head.as_bytes(), b"\r\n", body].concat()).await
}

/// Sends a body with the right headers, and returns whether it arrived whole.
async fn sent(bed: &Bed, up: &Raw, path: &str, body: &str) -> bool {
    let before = up.seen().len();
    let headers = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    let answer = post(bed, up.port, path, &headers, body.as_bytes()).await;
    let arrived = up.seen()[before..].ends_with(body);
    let passed = answer.starts_with("HTTP/1.1 200");
    if passed {
        assert!(arrived, "{body} passed and did not arrive whole: {}", up.seen());
    } else {
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        assert_eq!(
            (&json(&answer)["error"], &json(&answer)["layer"]),
            (&"policy_denied".into(), &"l7".into())
        );
        assert_eq!(up.seen().len(), before, "{body} was refused and something arrived");
    }
    passed
}

fn call(tool: &str, arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
    )
}

#[tokio::test]
async fn calls_and_tools_are_judged_and_what_was_judged_is_sent() {
    let up = Raw::ok().await;
    let bed = Bed::new(&mcp(up.port, "")).await;
    let init = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"x":[1, 2 ]}}"#.to_owned();
    let good = call("search_web", r#"{"scope":"public","q":"a"}"#);
    for (body, passes) in [
        (init.clone(), true),
        (good.clone(), true),
        (format!("[{init},{good}]"), true),
        (r#"{"jsonrpc":"2.0","id":3,"result":{}}"#.to_owned(), true),
        (call("search_web", "{}"), false),
        (call("search_web", r#"{"scope":"private"}"#), false),
        (call("search_web", r#"{"scope":"public","Scope":"private"}"#), false),
        (call("search_web", r#"{"scope":"public","scope":"private"}"#), false),
        (call("search_secret", r#"{"scope":"public"}"#), false),
        (call("delete", r#"{"scope":"public"}"#), false),
        (format!("[{init},{}]", call("delete", "{}")), false),
        (good.replace("tools/call", "tools\\/call"), true),
        (good.replace("\"name\"", "\"name\":\"delete\",\"name\""), false),
        (good.replace("\"method\"", "\"METHOD\":\"tools/list\",\"method\""), false),
        (format!("{good} {good}"), false),
        (good.replace("public", "\\ud800"), false),
        (format!("\u{feff}{good}"), false),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#.to_owned(), false),
        ("[]".to_owned(), false),
        (String::new(), false),
        (format!("{}{good}", " ".repeat(5000)), false),
    ] {
        assert_eq!(sent(&bed, &up, "/mcp", &body).await, passes, "{body}");
    }
}

#[tokio::test]
async fn heads_that_hide_a_body_are_refused_and_chunks_are_put_together() {
    let up = Raw::ok().await;
    let bed = Bed::new(&format!("{}\n{}", mcp(up.port, ""), graphql(up.port))).await;
    let good = call("search_web", r#"{"scope":"public"}"#);
    let length = format!("Content-Length: {}\r\n", good.len());
    for headers in [
        "".to_owned(),
        "Content-Type: text/plain\r\n".to_owned(),
        "Content-Type: application/json; charset=utf-16\r\n".to_owned(),
        "Content-Type: application/json\r\nContent-Type: text/plain\r\n".to_owned(),
        "Content-Type: application/json\r\nContent-Encoding: gzip\r\n".to_owned(),
        "Content-Type: multipart/form-data; boundary=x\r\n".to_owned(),
    ] {
        let answer = post(&bed, up.port, "/mcp", &format!("{headers}{length}"), good.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{headers} {answer}");
        assert!(json(&answer)["detail"].as_str().unwrap().contains("can't be judged"), "{answer}");
    }
    assert_eq!(up.seen(), "");
    let query = r#"{"query":"{viewer}"}"#;
    let json_headers = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", query.len());
    for path in ["/graphql?query=mutation{x}", "/graphql?Query=x", "/graphql?a=1&documentId=x"] {
        let answer = post(&bed, up.port, path, &json_headers, query.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{path} {answer}");
    }
    let get = format!(
        "GET http://up.test:{0}/graphql?query=%7Bviewer%7D HTTP/1.1\r\nHost: up.test:{0}\r\nConnection: close\r\n\r\n",
        up.port
    );
    assert!(bed.talk(get).await.starts_with("HTTP/1.1 403"));
    assert_eq!(up.seen(), "");

    let chunked = |body: &str| -> String {
        let chunk = |c: &[u8]| format!("{:x}\r\n{}\r\n", c.len(), String::from_utf8_lossy(c));
        body.as_bytes().chunks(7).map(chunk).chain(["0\r\n\r\n".to_owned()]).collect()
    };
    let headers = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    let answer = post(&bed, up.port, "/mcp", headers, chunked(&good).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(up.seen().ends_with(&good), "{}", up.seen());
    let evil = good.replace("search_", "delete_");
    let answer = post(&bed, up.port, "/mcp", headers, chunked(&evil).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");

    // MCP's own GET and DELETE hold no message; with a body they would.
    let before = up.seen().len();
    let stream = |method: &str, more: &str| {
        format!(
            "{method} http://up.test:{0}/mcp HTTP/1.1\r\nHost: up.test:{0}\r\nConnection: close\r\n{more}",
            up.port
        )
    };
    assert!(bed.talk(stream("GET", "\r\n")).await.starts_with("HTTP/1.1 200"));
    assert!(bed.talk(stream("DELETE", "\r\n")).await.starts_with("HTTP/1.1 200"));
    let after = up.seen().len();
    assert!(after > before);
    assert!(bed.talk(stream("GET", "Content-Length: 2\r\n\r\n{}")).await.starts_with("HTTP/1.1 403"));
    assert!(bed.talk(stream("PUT", "Content-Length: 2\r\n\r\n{}")).await.starts_with("HTTP/1.1 403"));
    assert_eq!(up.seen().len(), after);
}

#[tokio::test]
async fn operations_are_judged_by_their_real_root_fields() {
    let up = Raw::ok().await;
    let bed = Bed::new(&graphql(up.port)).await;
    let query = |text: &str| serde_json::json!({ "query": text }).to_string();
    for (body, passes) in [
        (query("{ viewer { login } repository { id } }"), true),
        (query("{ x: viewer { deleteAll } }"), true),
        (query("{ viewer: deleteAll }"), false),
        (query("{ viewer ...F } fragment F on Query { secrets }"), false),
        (query("{ viewer ... on Query { secrets } }"), false),
        (query("mutation { viewer }"), false),
        (query("query A { viewer } mutation B { x }"), false),
        (
            serde_json::json!({ "query": "query A { viewer } mutation B { x }", "operationName": "B" })
                .to_string(),
            false,
        ),
        (
            serde_json::json!({ "query": "query A { viewer } mutation B { x }", "operationName": "A" })
                .to_string(),
            true,
        ),
        (format!("[{},{}]", query("{viewer}"), query("{secrets}")), false),
        (format!("[{},{}]", query("{viewer}"), query("{repos}")), true),
        (r#"{"extensions":{"persistedQuery":{"version":1,"sha256Hash":"abc"}}}"#.to_owned(), true),
        (r#"{"extensions":{"persistedQuery":{"version":1,"sha256Hash":"abd"}}}"#.to_owned(), false),
        (r#"{"query":"{viewer}","query":"{secrets}"}"#.to_owned(), false),
    ] {
        assert_eq!(sent(&bed, &up, "/graphql", &body).await, passes, "{body}");
    }
}

/// Long bodies are judged as short ones are, though they are read in `block_in_place`.
#[tokio::test]
async fn long_operations_are_judged_all_the_same() {
    let up = Raw::ok().await;
    let long =
        graphql(up.port).replace("protocol: graphql,", "protocol: graphql, graphql_max_body_bytes: 200000,");
    let bed = Bed::new(&long).await;
    let wide = " ".repeat(100_000);
    for (body, passes) in [
        (format!(r#"[{{"query":"{{viewer}}"}},{wide}{{"query":"{{repos}}"}}]"#), true),
        (format!(r#"[{{"query":"{{viewer}}"}},{wide}{{"query":"{{secrets}}"}}]"#), false),
        (format!(r#"{{{wide}"id":"abc"}}"#), true),
        (format!(r#"{{{wide}"id":"abd","operationName":"A"}}"#), false),
        (format!(r#"{{{wide}"query":"{{"}}"#), false),
        (format!(r#"{{{wide}{wide}"query":"{{viewer}}"}}"#), false),
    ] {
        assert_eq!(sent(&bed, &up, "/graphql", &body).await, passes, "{}", body.trim_matches(' '));
    }
}

#[tokio::test]
async fn audit_sends_on_what_enforce_would_refuse_and_records_it() {
    let up = Raw::ok().await;
    let bed = Bed::new(&mcp(up.port, ", enforcement: audit")).await;
    let long = format!("{}{}", " ".repeat(9000), call("delete", "{}"));
    for body in [call("delete", "{}"), "no json".to_owned(), long] {
        assert!(sent(&bed, &up, "/mcp", &body).await, "{body}");
    }
    assert_eq!(bed.journal.lines().iter().filter(|line| line.starts_with("allow l7 POST")).count(), 3);
}

#[tokio::test]
async fn an_endpoint_for_all_paths_lets_no_body_through_that_another_judges() {
    let up = Raw::ok().await;
    let wide = format!("- {{ host: up.test, port: {}, protocol: rest, access: full }}", up.port);
    let bed = Bed::new(&format!("{wide}\n{}", graphql(up.port))).await;
    assert!(!sent(&bed, &up, "/graphql", r#"{"query":"{secrets}"}"#).await);
    assert!(sent(&bed, &up, "/graphql", r#"{"query":"{viewer}"}"#).await);
    assert!(sent(&bed, &up, "/other", "anything at all").await);
    let plain = Bed::new(&rest("up.test", up.port)).await;
    assert!(sent(&plain, &up, "/ok/x", "\u{feff}not json").await);
}

fn text(first: u8, payload: &str) -> Vec<u8> {
    let mask = [9, 8, 7, 6];
    let mut out = vec![first, 0x80 | payload.len() as u8];
    out.extend(mask);
    out.extend(payload.bytes().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
    out
}

/// A server that accepts a handshake, sends a hello in a text frame, and passes on all bytes that it gets.
async fn talkative() -> (u16, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = read_head(&mut stream).await;
            assert!(!head.to_ascii_lowercase().contains("sec-websocket-extensions"), "{head}");
            stream.write_all(agreed("").as_bytes()).await.unwrap();
            stream.write_all(b"\x81\x05hello").await.unwrap();
            let mut got = Vec::new();
            let _end = stream.read_to_end(&mut got).await;
            tell.send(got).unwrap();
        }
    });
    (port, told)
}

#[tokio::test]
async fn messages_are_judged_and_a_refused_one_closes_both_sides() {
    let good =
        [text(0x81, "{\"op\":1}"), text(0x89, "ping"), text(0x01, "{\"op\":"), text(0x80, "\"subscribe\"}")]
            .concat();
    let rules = "rules: [ { allow: { method: GET, path: /ws } }, \
                 { allow: { method: WEBSOCKET_TEXT, path: /ws, json: { op: { any: [1, subscribe] } } } } ], \
                 deny_rules: [ { method: WEBSOCKET_TEXT, path: /ws, text: '**secret**' } ]";
    let bad = [
        (text(0x81, "{\"op\":2}"), 1008_u16),
        (text(0x81, "{\"op\":1,\"x\":\"secret\"}"), 1008),
        ([text(0x01, "{\"op\":1,\"x\":\"sec"), text(0x80, "ret\"}")].concat(), 1008),
        (text(0x81, "{\"op\":1,\"op\":2}"), 1008),
        (text(0x82, "{\"op\":1}"), 1008),
        (b"\x81\x01x".to_vec(), 1002),
        (text(0xc1, "x"), 1002),
    ];
    good_ones_arrive_and_bad_ones_end_it(rules, &good, bad).await;
}

#[tokio::test]
async fn messages_of_graphql_are_judged_by_what_they_ask_for() {
    let asks =
        |kind: &str, query: &str| format!(r#"{{"id":"1","type":"{kind}","payload":{{"query":"{query}"}}}}"#);
    let good = [
        text(0x81, r#"{"type":"connection_init","payload":{"a":1}}"#),
        text(0x81, &asks("subscribe", "subscription { added { id } }")),
        text(0x01, r#"{"id":"2","type":"start","pay"#),
        text(0x80, r#"load":{"query":"{ me: viewer { id } }"}}"#),
        text(0x81, r#"{"id":"1","type":"complete"}"#),
        text(0x81, r#"{"type":"pong"}"#),
    ]
    .concat();
    let rules = "rules: [ { allow: { method: GET, path: /ws } }, { allow: { operation_type: query, fields: [viewer] } }, \
                 { allow: { operation_type: subscription } } ], deny_rules: [ { operation_type: '*', fields: [drop] } ]";
    let bad = [
        (text(0x81, &asks("subscribe", "mutation { viewer }")), 1008_u16),
        (text(0x81, &asks("subscribe", "{ viewer: secrets }")), 1008),
        (text(0x81, &asks("start", "subscription { added drop }")), 1008),
        (text(0x81, &asks("execute", "{ viewer }")), 1008),
        (text(0x81, r#"{"type":"ping","payload":1,"type":"start"}"#), 1008),
        (text(0x81, "{ viewer }"), 1008),
        (text(0x81, "not json"), 1008),
        (text(0x82, &asks("start", "{ viewer }")), 1008),
    ];
    good_ones_arrive_and_bad_ones_end_it(rules, &good, bad).await;
}

/// Opens a connection for each bad message, which is sent after the good ones.
async fn good_ones_arrive_and_bad_ones_end_it<const N: usize>(
    rules: &str,
    good: &[u8],
    bad: [(Vec<u8>, u16); N],
) {
    let (port, mut told) = talkative().await;
    let bed = Bed::new(&format!("- {{ host: up.test, port: {port}, protocol: websocket, {rules} }}")).await;
    let host = format!("up.test:{port}");
    let extensions = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let handshake = handshake(&format!("http://{host}/ws"), &host, extensions);
    for (bad, code) in bad {
        let mut stream = bed.open().await;
        stream.write_all(handshake.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        stream.write_all(good).await.unwrap();
        stream.write_all(&bad).await.unwrap();
        let mut answer = Vec::new();
        let _end = stream.read_to_end(&mut answer).await;
        let close = answer.strip_prefix(b"\x81\x05hello").expect("what the server said first");
        assert_eq!(close.first(), Some(&0x88), "{close:?}");
        assert_eq!(close[2..4], code.to_be_bytes(), "{}", String::from_utf8_lossy(&close[4..]));
        let got = told.recv().await.unwrap();
        // The ping overtakes nothing; the refused message never arrives, only the end does.
        assert!(got.starts_with(good), "{got:?}");
        let [high, low] = code.to_be_bytes();
        // The server learns that it is over, and not why.
        let reason = b"the client's side ends this";
        let frame = [0x88, 0x80 | (reason.len() as u8 + 2), 0, 0, 0, 0, high, low];
        assert_eq!(got[good.len()..], [&frame[..], reason].concat(), "{got:?}");
    }
    assert!(
        bed.journal.lines().iter().any(|line| line.starts_with("deny l7 WEBSOCKET_TEXT /ws")),
        "{:?}",
        bed.journal.lines()
    );
}
