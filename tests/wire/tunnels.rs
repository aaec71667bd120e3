//! CONNECT: its targets, its heads, the contents of tunnels, and names that disagree.

use bed::raw::{HOST, PLAIN_PORT, TLS_PORT};

use crate::case::{BAD, BAD_OR_DENIED, Case, DENIED, Expect, Step, arrives, connect};

/// All of them.
pub fn cases() -> Vec<Case> {
    [targets(), heads(), disagreements(), contents(), endless()].concat()
}

fn ask(target: &str) -> Step {
    Step::Send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nX: {{M}}\r\n\r\n").into_bytes())
}

fn targets() -> Vec<Case> {
    [
        ("evil.bed.test:443", DENIED),
        ("h1.bed.test:22", DENIED),
        ("h1.bed.test", BAD),
        ("h1.bed.test:", BAD),
        ("h1.bed.test:0", BAD),
        ("h1.bed.test:65536", BAD),
        ("h1.bed.test:08490", BAD),
        ("h1.bed.test:+8490", BAD),
        ("h1.bed.test:8490:443", BAD),
        ("a@h1.bed.test:8490", BAD),
        ("h1.bed.test:8490@evil.bed.test:443", BAD),
        ("h1.bed.test:8490/ok/", BAD),
        ("h1.bed.test:8490?x", BAD),
        ("http://h1.bed.test:8490", BAD),
        ("h1.bed.test%00:8490", BAD),
        ("h1.bed.test%2eevil:443", BAD),
        ("h1..bed.test:8490", BAD_OR_DENIED),
        (".h1.bed.test:8490", BAD_OR_DENIED),
        ("-h1.bed.test:8490", BAD_OR_DENIED),
        ("h1.bed.test.evil:443", DENIED),
        ("xh1.bed.test:8490", DENIED),
        ("\u{ff48}1.bed.test:8490", BAD_OR_DENIED),
        ("h1\u{3002}bed.test:8490", BAD_OR_DENIED),
        ("127.0.0.1:3128", BAD_OR_DENIED),
        ("localhost:3128", DENIED),
        ("0:3128", BAD_OR_DENIED),
        ("127.1:8000", BAD_OR_DENIED),
        ("0x7f000001:8000", BAD_OR_DENIED),
        ("0177.0.0.1:8000", BAD_OR_DENIED),
        ("2130706433:8000", BAD_OR_DENIED),
        ("[::1]:8000", BAD_OR_DENIED),
        ("[::ffff:127.0.0.1]:8000", BAD_OR_DENIED),
        ("[::ffff:7f00:1]:8000", BAD_OR_DENIED),
        ("[64:ff9b::7f00:1]:8000", BAD_OR_DENIED),
        ("[2002:7f00:1::]:8000", BAD_OR_DENIED),
        ("[fe80::1%25lo]:8000", BAD_OR_DENIED),
        ("[::1:8000", BAD),
        ("::1:8000", BAD),
        ("169.254.169.254:80", DENIED),
        ("metadata.bed.test:80", DENIED),
        ("loopback.bed.test:8000", DENIED),
        ("inference.local:22", BAD_OR_DENIED),
    ]
    .into_iter()
    .map(|(target, expect)| Case::steps(&format!("connect {target}"), vec![ask(target)], 0, expect))
    .collect()
}

fn heads() -> Vec<Case> {
    let authority = format!("{HOST}:{TLS_PORT}");
    let with = |version: &str, fields: &str, rest: &str| {
        format!("CONNECT {authority} {version}\r\n{fields}X: {{M}}\r\n\r\n{rest}").into_bytes()
    };
    let host = format!("Host: {authority}\r\n");
    [
        ("another Host", with("HTTP/1.1", "Host: evil.bed.test:443\r\n", "")),
        ("two Hosts", with("HTTP/1.1", &format!("{host}{host}"), "")),
        ("a body", with("HTTP/1.1", &format!("{host}Content-Length: 4\r\n"), "abcd")),
        ("a chunked body", with("HTTP/1.1", &format!("{host}Transfer-Encoding: chunked\r\n"), "0\r\n\r\n")),
        ("an upgrade", with("HTTP/1.1", &format!("{host}Upgrade: h2c\r\nConnection: Upgrade\r\n"), "")),
        ("HTTP/1.2", with("HTTP/1.2", &host, "")),
        ("small letters", with("HTTP/1.1", &host, "").iter().map(u8::to_ascii_lowercase).collect()),
    ]
    .into_iter()
    .map(|(name, bytes)| {
        Case::steps(&format!("connect with {name}"), vec![Step::Send(bytes)], 0, BAD_OR_DENIED)
    })
    .collect()
}

fn request(fields: &str) -> Step {
    Step::Send(format!("GET /ok/{{M}} HTTP/1.1\r\n{fields}\r\n\r\n").into_bytes())
}

/// The name in CONNECT, in the ClientHello and in the request.
fn disagreements() -> Vec<Case> {
    let tls = connect(&format!("{HOST}:{TLS_PORT}"));
    let inner = request(&format!("Host: {HOST}:{TLS_PORT}"));
    let through = |name: &'static str| [tls.clone(), vec![Step::Tls(name, &["http/1.1"])]].concat();
    let then = |steps: Vec<Step>, last: Step| [steps, vec![last]].concat();
    vec![
        Case::steps("names agree", then(through(HOST), inner.clone()), 1, arrives(&["GET /ok/{M} "])),
        Case::steps("another SNI", then(through("evil.bed.test"), inner.clone()), 0, Expect::Silent),
        Case::steps("an SNI above", then(through("bed.test"), inner.clone()), 0, Expect::Silent),
        Case::steps("an SNI below", then(through("a.h1.bed.test"), inner.clone()), 0, Expect::Silent),
        Case::steps("the gateway's SNI", then(through("inference.local"), inner.clone()), 0, Expect::Silent),
        Case::steps(
            "another Host inside",
            then(through(HOST), request("Host: evil.bed.test")),
            0,
            BAD_OR_DENIED,
        ),
        Case::steps("no Host inside", then(through(HOST), request("X: y")), 0, BAD),
        Case::steps("another port inside", then(through(HOST), request("Host: h1.bed.test:443")), 0, BAD),
        Case::steps(
            "absolute form to another inside",
            then(
                through(HOST),
                Step::Send(
                    b"GET https://evil.bed.test/ok/{M} HTTP/1.1\r\nHost: evil.bed.test\r\n\r\n".to_vec(),
                ),
            ),
            0,
            BAD_OR_DENIED,
        ),
        Case::steps(
            "the other scheme inside",
            then(
                through(HOST),
                Step::Send(
                    format!(
                        "GET http://{HOST}:{TLS_PORT}/ok/{{M}} HTTP/1.1\r\nHost: {HOST}:{TLS_PORT}\r\n\r\n"
                    )
                    .into_bytes(),
                ),
            ),
            0,
            BAD,
        ),
        Case::steps("CONNECT in the tunnel", then(through(HOST), ask("evil.bed.test:443")), 0, BAD_OR_DENIED),
    ]
}

/// Contents that aren't HTTP where requests are judged.
fn contents() -> Vec<Case> {
    let hello: &[u8] = b"\x16\x03\x01\x00\x2a\x01\x00\x00\x26\x03\x03";
    let mut all = Vec::new();
    for (port, place) in [(PLAIN_PORT, "plain"), (TLS_PORT, "tls")] {
        let authority = format!("{HOST}:{port}");
        for (name, bytes) in [
            ("SSH", b"SSH-2.0-{M}\r\n\r\n".to_vec()),
            ("SMTP", b"EHLO {M}\r\n\r\n".to_vec()),
            ("redis", b"*1\r\n$4\r\nPING{M}\r\n\r\n".to_vec()),
            ("zeros", [&[0; 64][..], b"{M}\r\n\r\n"].concat()),
            ("a broken hello", [hello, &[0xff; 64][..]].concat()),
            ("an alert", b"\x15\x03\x03\x00\x02\x02\x28\r\n\r\n".to_vec()),
            ("an old hello", b"\x80\x2e\x01\x00\x02{M}................................\r\n\r\n".to_vec()),
            ("a broken HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec()),
            // A whole HTTP/2 preface, followed by an invalid frame.
            ("no HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{M}............................".to_vec()),
        ] {
            let steps = [connect(&authority), vec![Step::Send(bytes)]].concat();
            all.push(Case::steps(&format!("{name} in a {place} tunnel"), steps, 0, Expect::Silent));
        }
    }
    all
}

/// Endless input is cut off.
fn endless() -> Vec<Case> {
    let authority = format!("{HOST}:{PLAIN_PORT}");
    let field = Step::Many(format!("X: {}\r\n", "y".repeat(1000)).into_bytes(), 20_000);
    let line = Step::Many(vec![b'y'; 4096], 20_000);
    let head = |text: String| Step::Send(text.into_bytes());
    let chunked = format!(
        "POST http://{authority}/ok/{{M}} HTTP/1.1\r\nHost: {authority}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    vec![
        Case::steps(
            "a head without end",
            vec![
                head(format!("GET http://{authority}/ok/{{M}} HTTP/1.1\r\nHost: {authority}\r\n")),
                field.clone(),
            ],
            0,
            Expect::Silent,
        ),
        Case::steps(
            "a line without end",
            vec![head(format!("GET http://{authority}/ok/{{M}}")), line.clone()],
            0,
            Expect::Silent,
        ),
        Case::steps("a method without end", vec![line.clone()], 0, Expect::Silent),
        Case::steps(
            "a chunk's size without end",
            vec![head(chunked.clone()), Step::Many(b"0".repeat(4096), 20_000)],
            0,
            Expect::Cut,
        ),
        Case::steps(
            "trailers without end",
            vec![head(format!("{chunked}2\r\nhi\r\n0\r\n")), field],
            0,
            Expect::Cut,
        ),
    ]
}
