//! Smuggling in every known form: lengths, codings, chunks, lines, names and fields. On every road.

use crate::case::{
    BAD, BAD_OR_DENIED, Case, DENIED, Expect, Road, arrives, arrives_without, get, post, smuggled,
};

/// All of them, on all roads.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for road in Road::ALL {
        let list =
            [controls(), lengths(), codings(), chunks(), lines(), hosts(), fields(), pipelines()].concat();
        for (name, text, expect, answers) in list {
            let case = Case::message(*road, name, text, expect);
            all.push(match answers {
                0 => case,
                n => case.answers(n),
            });
        }
    }
    all
}

type Row = (&'static str, Vec<u8>, Expect, usize);

fn row(name: &'static str, text: impl Into<Vec<u8>>, expect: Expect) -> Row {
    (name, text.into(), expect, 0)
}

fn controls() -> Vec<Row> {
    vec![
        row("control get", get("/ok/{M}", ""), arrives(&["GET /ok/{M} HTTP/1.1\r\n"])),
        row("control length", post("Content-Length: 2", "hi"), arrives(&["POST /ok/{M} ", "\r\n\r\nhi"])),
        row(
            "control chunked",
            post("Transfer-Encoding: chunked", "2\r\nhi\r\n3\r\nyou\r\n0\r\n\r\n"),
            arrives(&["POST /ok/{M} ", "hi", "you"]),
        ),
        row(
            "a request as a body is a body",
            post("Content-Length: 21", "GET /x/y HTTP/1.1\r\n\r\n"),
            arrives(&["POST /ok/{M} "]),
        ),
        row("method not allowed", get("/ok/{M}", "").replace("GET", "DELETE"), DENIED),
        row("place not allowed", smuggled(), DENIED),
    ]
}

fn lengths() -> Vec<Row> {
    let mut rows = Vec::new();
    let smuggled = smuggled();
    for (name, fields) in [
        ("two equal lengths", "Content-Length: 4\r\nContent-Length: 4"),
        ("two lengths", "Content-Length: 0\r\nContent-Length: 4"),
        ("a list of lengths", "Content-Length: 4, 4"),
        ("signed length", "Content-Length: +4"),
        ("negative length", "Content-Length: -4"),
        ("hexadecimal length", "Content-Length: 0x4"),
        ("empty length", "Content-Length:"),
        ("fraction", "Content-Length: 4.0"),
        ("exponent", "Content-Length: 4e0"),
        ("length with a space in it", "Content-Length: 4 0"),
        ("length beyond 64 bits", "Content-Length: 18446744073709551620"),
        ("length with a vertical tab", "Content-Length: \x0b4"),
        ("length with a NUL", "Content-Length: 4\0"),
        ("quoted length", "Content-Length: \"4\""),
        ("length in other digits", "Content-Length: \u{0664}"),
        ("length before a colon with space", "Content-Length : 4"),
        ("length and chunked", "Content-Length: 4\r\nTransfer-Encoding: chunked"),
        ("chunked and length", "Transfer-Encoding: chunked\r\nContent-Length: 4"),
    ] {
        rows.push(row(name, post(fields, &format!("0\r\n\r\n{smuggled}")), BAD));
    }
    rows
}

fn codings() -> Vec<Row> {
    let smuggled = smuggled();
    let mut rows: Vec<Row> = [
        ("gzip, chunked", "Transfer-Encoding: gzip, chunked"),
        ("chunked, gzip", "Transfer-Encoding: chunked, gzip"),
        ("chunked twice", "Transfer-Encoding: chunked, chunked"),
        ("two coding fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        ("identity", "Transfer-Encoding: identity"),
        ("unknown coding", "Transfer-Encoding: xchunked"),
        ("quoted coding", "Transfer-Encoding: \"chunked\""),
        ("coding with a parameter", "Transfer-Encoding: chunked;q=1"),
        ("coding with a comma behind", "Transfer-Encoding: chunked,"),
        ("coding with a comma before", "Transfer-Encoding: ,chunked"),
        ("empty coding", "Transfer-Encoding:"),
        ("coding after a vertical tab", "Transfer-Encoding:\x0bchunked"),
        ("coding before a form feed", "Transfer-Encoding: chunked\x0c"),
        ("coding with a NUL", "Transfer-Encoding: chun\0ked"),
        ("space before the colon", "Transfer-Encoding : chunked"),
        ("tab before the colon", "Transfer-Encoding\t: chunked"),
        ("folded coding", "Transfer-Encoding:\r\n chunked"),
        ("coding behind a bare LF", "X: a\nTransfer-Encoding: chunked"),
        ("coding behind a bare CR", "X: a\rTransfer-Encoding: chunked"),
    ]
    .into_iter()
    .map(|(name, fields)| row(name, post(fields, &format!("0\r\n\r\n{smuggled}")), BAD))
    .collect();
    rows.push(row(
        "chunked with HTTP/1.0",
        post("Transfer-Encoding: chunked", &format!("0\r\n\r\n{smuggled}"))
            .replace("HTTP/1.1\r\nHost: {H}\r\nT", "HTTP/1.0\r\nHost: {H}\r\nT"),
        BAD,
    ));
    rows
}

fn chunks() -> Vec<Row> {
    let smuggled = smuggled();
    [
        ("extension", "2;a=b\r\nhi\r\n0\r\n\r\n".to_owned()),
        ("prefixed size", "0x2\r\nhi\r\n0\r\n\r\n".to_owned()),
        ("signed size", "+2\r\nhi\r\n0\r\n\r\n".to_owned()),
        ("negative size", "-2\r\nhi\r\n0\r\n\r\n".to_owned()),
        ("size after a space", " 2\r\nhi\r\n0\r\n\r\n".to_owned()),
        ("size before a space", "2 \r\nhi\r\n0\r\n\r\n".to_owned()),
        ("size with an underscore", "0_2\r\nhi\r\n0\r\n\r\n".to_owned()),
        ("size beyond 64 bits", "10000000000000002\r\nhi\r\n0\r\n\r\n".to_owned()),
        ("size line ended by LF", "2\nhi\r\n0\r\n\r\n".to_owned()),
        ("data ended by LF", "2\r\nhi\n0\r\n\r\n".to_owned()),
        ("data ended by CR", "2\r\nhi\r0\r\n\r\n".to_owned()),
        ("data longer than its size", "2\r\nhiho\r\n0\r\n\r\n".to_owned()),
        ("empty size", "\r\nhi\r\n0\r\n\r\n".to_owned()),
        ("no hexadecimal digit", "g\r\nhi\r\n0\r\n\r\n".to_owned()),
        ("size line without end", format!("{}\r\nhi\r\n0\r\n\r\n", "0".repeat(64))),
        ("last chunk ended by LF", "2\r\nhi\r\n0\n\n".to_owned()),
        ("trailer with a length", "2\r\nhi\r\n0\r\nContent-Length: 5\r\n\r\n".to_owned()),
        ("trailer with a coding", "2\r\nhi\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()),
        ("trailer with a host", "2\r\nhi\r\n0\r\nHost: evil.bed.test\r\n\r\n".to_owned()),
        ("trailer without a colon", "2\r\nhi\r\n0\r\nGET\r\n\r\n".to_owned()),
        ("folded trailer", "2\r\nhi\r\n0\r\nX: a\r\n b\r\n\r\n".to_owned()),
        ("trailer with a NUL", "2\r\nhi\r\n0\r\nX: a\0\r\n\r\n".to_owned()),
    ]
    .into_iter()
    .map(|(name, body)| {
        let text = post("Transfer-Encoding: chunked", &format!("{body}{smuggled}"));
        row(name, text, Expect::Cut)
    })
    .collect()
}

fn lines() -> Vec<Row> {
    let ok = get("/ok/{M}", "");
    let line = |line: &str| format!("{line}\r\nHost: {{H}}\r\n\r\n");
    vec![
        row("bare LF", ok.replace("\r\n", "\n"), BAD),
        row("one bare LF", ok.replacen("\r\n", "\n", 1), BAD),
        row("CR CR LF", ok.replacen("\r\n", "\r\r\n", 1), BAD),
        row("two spaces", line("GET  {U}/ok/{M} HTTP/1.1"), BAD),
        row("a tab for a space", line("GET\t{U}/ok/{M} HTTP/1.1"), BAD),
        row("a space at the end", line("GET {U}/ok/{M} HTTP/1.1 "), BAD),
        row("a space at the beginning", line(" GET {U}/ok/{M} HTTP/1.1"), BAD),
        row("a space in the target", line("GET {U}/ok/{M} /x HTTP/1.1"), BAD),
        row("no version", line("GET {U}/ok/{M}"), BAD),
        row("HTTP/0.9", "GET {U}/ok/{M}\r\n\r\n".to_owned(), BAD),
        row("HTTP/1.2", line("GET {U}/ok/{M} HTTP/1.2"), BAD),
        row("HTTP/2.0", line("GET {U}/ok/{M} HTTP/2.0"), BAD),
        row("HTTP/11", line("GET {U}/ok/{M} HTTP/11"), BAD),
        row("HTTP/1.10", line("GET {U}/ok/{M} HTTP/1.10"), BAD),
        row("http/1.1", line("GET {U}/ok/{M} http/1.1"), BAD),
        row("a small method", line("get {U}/ok/{M} HTTP/1.1"), BAD_OR_DENIED),
        row("a method that is no token", line("GE(T {U}/ok/{M} HTTP/1.1"), BAD),
        row(
            "a long method",
            line(&format!("{} {{U}}/ok/{{M}} HTTP/1.1", "G".repeat(64))),
            Expect::Refused(&[400, 431]),
        ),
        row("a method that overrides", line("TRACE {U}/ok/{M} HTTP/1.1"), BAD_OR_DENIED),
        row("CONNECT with a path", line("CONNECT {U}/ok/{M} HTTP/1.1"), BAD),
        row(
            "the HTTP/2 preface before HTTP/1.1",
            format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{}", get("/ok/{M}", "")),
            Expect::Silent,
        ),
        row("TLS where there is none", b"\x16\x03\x01\x00\x05hello\r\n\r\n".to_vec(), Expect::Silent),
        row("an SSH banner", "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(), Expect::Silent),
        row("a NUL", b"\0\0\0\0\r\n\r\n".to_vec(), Expect::Silent),
        row("no colon", get("/ok/{M}", "Nonsense\r\n"), BAD),
        row("no field name", get("/ok/{M}", ": x\r\n"), BAD),
        row("a space in a field name", get("/ok/{M}", "X Y: z\r\n"), BAD),
        row(
            "a field that begins with a space",
            "GET {U}/ok/{M} HTTP/1.1\r\n Host: {H}\r\n\r\n".to_owned(),
            BAD,
        ),
        row("a folded field", get("/ok/{M}", "X: a\r\n b\r\n"), BAD),
        row("a NUL in a field", get("/ok/{M}", "X: a\0b\r\n"), BAD),
        row("a bare CR in a field", get("/ok/{M}", "X: a\rb\r\n"), BAD),
        row("DEL in a field", get("/ok/{M}", "X: a\x7fb\r\n"), BAD),
        row("a name that isn't ASCII", get("/ok/{M}", "X\u{e9}: a\r\n"), BAD),
        row("too many fields", get("/ok/{M}", &"X: y\r\n".repeat(200)), Expect::Refused(&[431])),
        row(
            "a field without end",
            get("/ok/{M}", &format!("X: {}\r\n", "y".repeat(100_000))),
            Expect::Refused(&[431]),
        ),
    ]
}

fn hosts() -> Vec<Row> {
    let with = |hosts: &str| format!("GET {{U}}/ok/{{M}} HTTP/1.1\r\n{hosts}\r\n");
    vec![
        row("two equal hosts", with("Host: {H}\r\nHost: {H}\r\n"), BAD),
        row("two hosts", with("Host: {H}\r\nHost: evil.bed.test\r\n"), BAD),
        row("another host", with("Host: evil.bed.test\r\n"), BAD),
        row("another port", with("Host: h1.bed.test:1\r\n"), BAD),
        row("an empty host", with("Host:\r\n"), BAD),
        row("hosts with a comma", with("Host: {H}, evil.bed.test\r\n"), BAD),
        row("a host with a user", with("Host: a@{H}\r\n"), BAD),
        row("a host with a path", with("Host: {H}/x\r\n"), BAD),
        row("a host with a space", with("Host: {H} evil.bed.test\r\n"), BAD),
        row("a host after a space in the name", with("Host : {H}\r\n"), BAD),
        row("a host as an address", with("Host: 127.0.0.1\r\n"), BAD),
        row("a host with a subdomain", with("Host: evil.{H}\r\n"), BAD),
        row(
            "another host in absolute form",
            "GET http://evil.bed.test/ok/{M} HTTP/1.1\r\nHost: {H}\r\n\r\n".to_owned(),
            BAD_OR_DENIED,
        ),
        row(
            "another scheme in absolute form",
            "GET ftp://{H}/ok/{M} HTTP/1.1\r\nHost: {H}\r\n\r\n".to_owned(),
            BAD,
        ),
        row(
            "a user in absolute form",
            "GET http://a:b@{H}/ok/{M} HTTP/1.1\r\nHost: {H}\r\n\r\n".to_owned(),
            BAD,
        ),
    ]
}

fn fields() -> Vec<Row> {
    let ok = |fields: &str| get("/ok/{M}", fields);
    let mut rows: Vec<Row> = [
        ("method override", "X-HTTP-Method-Override: DELETE"),
        ("method override by another name", "X-Method-Override: DELETE"),
        ("another URL", "X-Original-URL: /secret/x"),
        ("a rewritten URL", "X-Rewrite-URL: /secret/x"),
        ("method override as CGI spells it", "X_HTTP_Method_Override: DELETE"),
        ("another URL in a mixed spelling", "X-Original_URL: /secret/x"),
        ("method override as PHP reads it", "X.HTTP.Method.Override: DELETE"),
        ("another URL as lighttpd reads it", "X~Original~URL: /secret/x"),
        ("a forwarded host in an odd spelling", "X!Forwarded!Host: evil.bed.test"),
        ("framing in an odd spelling", "Transfer.Encoding: chunked"),
        ("another URI", "X-Original-URI: /secret/x"),
        ("where a program is mounted", "SCRIPT_NAME: /ok"),
        ("the rest of a path", "Path-Info: /secret/x"),
        ("a proxy for programs of CGI", "Proxy: http://evil.bed.test"),
        ("an original destination", "X-Envoy-Original-Dst-Host: 10.0.0.1:80"),
        ("a method of Rest.li", "X-RestLi-Method: BATCH_DELETE"),
        ("a forwarded URI", "X-Forwarded-Uri: /secret/x"),
        ("a forwarded host", "X-Forwarded-Host: evil.bed.test"),
        ("what was forwarded", "Forwarded: host=evil.bed.test"),
        ("framing as CGI spells it", "Transfer_Encoding: chunked"),
        ("a length as CGI spells it", "Content_Length: 5"),
        ("proxy credentials", "Proxy-Authorization: Basic YTpi"),
        ("a proxy's connection", "Proxy-Connection: keep-alive"),
        ("keep-alive", "Keep-Alive: timeout=5"),
    ]
    .into_iter()
    .map(|(name, field)| {
        let lost = field
            .lines()
            .last()
            .and_then(|line| line.split(':').next())
            .unwrap_or(field)
            .to_ascii_lowercase();
        let lost = format!("\r\n{lost}: ");
        (
            name,
            ok(&format!("{field}\r\n")).into_bytes(),
            Expect::Arrives { has: vec!["GET /ok/{M} ".into()], hasnt: vec![lost] },
            0,
        )
    })
    .collect();
    rows.push(row(
        "what Connection names is not passed on",
        ok("Connection: X-Hop\r\nX-Hop: 1\r\n"),
        arrives_without(&["GET /ok/{M} "], &["x-hop", "X-Hop"]),
    ));
    rows.push(row("an unasked upgrade", ok("Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n"), BAD));
    // HTTP/2 in the clear is not taken: the request goes on without asking for it.
    rows.push(row(
        "an upgrade to HTTP/2",
        ok("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
        arrives_without(&["GET /ok/{M} "], &["h2c", "pgrade", "ettings"]),
    ));
    // An upgrade that nothing allows is either refused or not passed on.
    rows.push(row("an unasked WebSocket", ok("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"), DENIED));
    rows.push(row(
        "an odd expectation",
        post("Content-Length: 2\r\nExpect: 200-ok", "hi"),
        Expect::Refused(&[400, 417]),
    ));
    rows
}

fn pipelines() -> Vec<Row> {
    let (ok, secret) = (get("/ok/{M}", ""), smuggled());
    vec![
        ("behind a denial nothing passes", format!("{secret}{ok}").into_bytes(), DENIED, 0),
        (
            "a denial behind an allowed one",
            format!("{ok}{secret}{ok}").into_bytes(),
            arrives_without(&["GET /ok/{M} "], &["/secret/"]),
            2,
        ),
        (
            "surplus behind a body is a request",
            format!("{}{secret}", post("Content-Length: 2", "hi")).into_bytes(),
            arrives_without(&["POST /ok/{M} "], &["/secret/"]),
            2,
        ),
        (
            "surplus behind chunks is a request",
            format!("{}{secret}", post("Transfer-Encoding: chunked", "2\r\nhi\r\n0\r\n\r\n")).into_bytes(),
            arrives_without(&["POST /ok/{M} "], &["/secret/"]),
            2,
        ),
        (
            "a body that GET has",
            format!("{}{secret}", get("/ok/{M}", "Content-Length: 2\r\n") + "hi").into_bytes(),
            arrives_without(&["GET /ok/{M} "], &["/secret/"]),
            2,
        ),
    ]
}
