//! HTTP/2 from the agent, HTTP/1.1 to the server: what can be put into frames and must never become lines of
//! HTTP/1.1.

use bed::raw::{HOST, PLAIN_PORT, TLS_PORT};

use crate::case::{Case, Expect, Step, arrives, arrives_without, connect};

/// RFC 9113 section 6: the frames' types.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
/// Their flags.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// All of them.
pub fn cases() -> Vec<Case> {
    [fields(), to_the_proxy(), in_the_clear(), bodies(), frames()].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Encodes a field as a literal never indexed (RFC 7541 section 6.2.3), without Huffman coding.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0x10];
    for text in [name, value] {
        // `{M}` is filled in later by a word of 24 bytes.
        let length = text.len() + text.matches("{M}").count() * (crate::WORD - 3);
        if length < 127 {
            out.push(length as u8);
        } else {
            let mut rest = length - 127;
            out.push(127);
            while rest >= 128 {
                out.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            out.push(rest as u8);
        }
        out.extend_from_slice(text.as_bytes());
    }
    out
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

/// A frame whose payload holds `n` words that are yet to be filled in.
fn worded(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let words = payload.windows(3).filter(|window| window == b"{M}").count();
    let length = u32::try_from(payload.len() + words * (crate::WORD - 3)).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn speak(name: &str, frames: Vec<u8>, expect: Expect) -> Case {
    let authority = format!("{HOST}:{TLS_PORT}");
    let mut steps = connect(&authority);
    steps.push(Step::Tls(HOST, &["h2"]));
    let preface = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    steps.push(Step::Send([preface, frames].concat()));
    steps.push(Step::Frames);
    Case::steps(&format!("h2/{name}"), steps, 0, expect)
}

/// What HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const PSEUDO: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "https"), (":authority", "h1.bed.test:8490"), (":path", "/ok/{M}")];

/// The good request with one pseudo-field of another value.
fn with(name: &str, value: &str) -> Vec<(String, String)> {
    PSEUDO
        .iter()
        .map(|(n, v)| ((*n).to_owned(), if *n == name { value.to_owned() } else { (*v).to_owned() }))
        .collect()
}

fn without(name: &str) -> Vec<(String, String)> {
    with("", "").into_iter().filter(|(n, _)| n != name).collect()
}

fn and(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut all = with("", "");
    all.extend(fields.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
    all
}

/// An extended CONNECT (RFC 8441).
fn by_connect(protocol: &str) -> Vec<(String, String)> {
    let mut all = with(":method", "CONNECT");
    all.push((":protocol".into(), protocol.into()));
    all.push(("sec-websocket-version".into(), "13".into()));
    all
}

fn request(fields: &[(String, String)]) -> Vec<u8> {
    let borrowed: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    worded(HEADERS, END_HEADERS | END_STREAM, 1, &block(&borrowed))
}

/// HTTP/2 to the proxy itself (RFC 9113 section 3.4), where a request has the form that a proxy takes.
fn to_the_proxy() -> Vec<Case> {
    let speak = |name: &str, fields: &[(&str, &str)], expect: Expect| {
        let frames = worded(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields));
        let steps = vec![Step::Send([PREFACE, &frame(SETTINGS, 0, 0, &[]), &frames].concat()), Step::Frames];
        Case::steps(&format!("h2 to the proxy/{name}"), steps, 0, expect)
    };
    const PLAIN: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "http"), (":authority", "h1.bed.test:8090"), (":path", "/ok/{M}")];
    let with = |name: &str, value: &'static str| PLAIN.map(|(n, v)| (n, if n == name { value } else { v }));
    let connect = |authority: &'static str| [(":method", "CONNECT"), (":authority", authority)];
    let silent = |name: &str, fields: &[(&str, &str)]| speak(name, fields, Expect::Silent);
    vec![
        speak("control", &PLAIN, arrives(&["GET /ok/{M} HTTP/1.1\r\n"])),
        silent("another path", &with(":path", "/secret/{M}")),
        silent("a path that climbs", &with(":path", "/ok/../secret/{M}")),
        silent("another host", &with(":authority", "evil.bed.test")),
        silent("another scheme", &with(":scheme", "https")),
        silent("an odd address", &with(":authority", "0x7f.1:8090")),
        silent("two hosts", &[&PLAIN[..], &[("host", "evil.bed.test")]].concat()),
        silent("CONNECT to another host", &connect("evil.bed.test:443")),
        silent("CONNECT to the metadata service", &connect("169.254.169.254:80")),
        silent("CONNECT without a port", &connect("h1.bed.test")),
        silent(
            "CONNECT with another Host",
            &[&connect("h1.bed.test:8490")[..], &[("host", "evil.bed.test")]].concat(),
        ),
        silent(
            "a WebSocket nobody allowed",
            &[
                &with(":method", "CONNECT")[..],
                &[(":protocol", "websocket"), ("sec-websocket-version", "13")],
            ]
            .concat(),
        ),
    ]
}

/// HTTP/2 without TLS in a tunnel, which goes on as HTTP/2: only a body's words are legible there.
fn in_the_clear() -> Vec<Case> {
    let authority = format!("{HOST}:{PLAIN_PORT}");
    let speak = |name: &str, fields: &[(&str, &str)], expect: Expect| {
        let frames =
            [worded(HEADERS, END_HEADERS, 1, &block(fields)), worded(DATA, END_STREAM, 1, b"{M}")].concat();
        let spoken = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frames].concat();
        let steps = [connect(&authority), vec![Step::Send(spoken), Step::Frames]].concat();
        Case::steps(&format!("h2 in the clear/{name}"), steps, 0, expect)
    };
    const PLAIN: [(&str, &str); 4] =
        [(":method", "POST"), (":scheme", "http"), (":authority", "h1.bed.test:8090"), (":path", "/ok/x")];
    let with = |name: &str, value: &'static str| PLAIN.map(|(n, v)| (n, if n == name { value } else { v }));
    let silent = |name: &str, fields: &[(&str, &str)]| speak(name, fields, Expect::Silent);
    vec![
        speak("control", &PLAIN, arrives(&["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "{M}"])),
        silent("another path", &with(":path", "/secret/x")),
        silent("a path that climbs", &with(":path", "/ok/../secret/x")),
        silent("another host", &with(":authority", "evil.bed.test")),
        silent("another port", &with(":authority", "h1.bed.test:8490")),
        silent("another scheme", &with(":scheme", "https")),
        silent("two hosts", &[&PLAIN[..], &[("host", "evil.bed.test")]].concat()),
        silent("a tunnel inside", &[(":method", "CONNECT"), (":authority", "evil.bed.test:443")]),
        silent(
            "a WebSocket nobody allowed",
            &[
                &with(":method", "CONNECT")[..],
                &[(":protocol", "websocket"), ("sec-websocket-version", "13")],
            ]
            .concat(),
        ),
        silent("a length that isn't its own", &[&PLAIN[..], &[("content-length", "5")]].concat()),
        silent("an upgrade", &[&PLAIN[..], &[("upgrade", "h2c"), ("connection", "upgrade")]].concat()),
    ]
}

fn fields() -> Vec<Case> {
    let injected = "x\r\n\r\nGET /secret/{M} HTTP/1.1\r\nHost: h1.bed.test:8490\r\n\r\n";
    let refused: Vec<(&str, Vec<(String, String)>)> = vec![
        ("no path", without(":path")),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no authority", without(":authority")),
        ("an empty path", with(":path", "")),
        ("a path without slash", with(":path", "ok/{M}")),
        ("a star", with(":path", "*")),
        ("a path with a space", with(":path", "/ok/{M} HTTP/1.1")),
        ("a path with a line", with(":path", "/ok/{M} HTTP/1.1\r\nX: y\r\n\r\nGET /secret/{M}")),
        ("a path with a tab", with(":path", "/ok/{M}\t")),
        ("a path with a NUL", with(":path", "/ok/{M}\0")),
        ("a path with another host", with(":path", "https://evil.bed.test/ok/{M}")),
        ("a path out of place", with(":path", "/ok/../secret/{M}")),
        ("an encoded path out of place", with(":path", "/ok/%2e%2e/secret/{M}")),
        ("a path not allowed", with(":path", "/secret/{M}")),
        ("a path that isn't ASCII", with(":path", "/ok/{M}\u{e9}")),
        ("two paths", and(&[(":path", "/secret/{M}")])),
        ("two methods", and(&[(":method", "DELETE")])),
        ("two authorities", and(&[(":authority", "evil.bed.test")])),
        ("two schemes", and(&[(":scheme", "http")])),
        ("a method not allowed", with(":method", "DELETE")),
        ("a small method", with(":method", "get")),
        ("a method with a line", with(":method", "GET /secret/{M} HTTP/1.1\r\nHost: h1.bed.test\r\n\r\nGET")),
        ("a method with a space", with(":method", "GET /secret/{M}")),
        ("an empty method", with(":method", "")),
        ("another scheme", with(":scheme", "ftp")),
        ("plain inside TLS", with(":scheme", "http")),
        ("a scheme with a slash", with(":scheme", "https://evil.bed.test/?")),
        ("another authority", with(":authority", "evil.bed.test")),
        ("an authority with a user", with(":authority", "a@h1.bed.test:8490")),
        ("an authority with a path", with(":authority", "h1.bed.test:8490/x")),
        ("an authority with a line", with(":authority", "h1.bed.test:8490\r\nX: y")),
        ("another port", with(":authority", "h1.bed.test:443")),
        ("another host field", and(&[("host", "evil.bed.test")])),
        ("two host fields", and(&[("host", "h1.bed.test:8490"), ("host", "h1.bed.test:8490")])),
        ("an unknown pseudo-field", and(&[(":x", "y")])),
        ("an answer's pseudo-field", and(&[(":status", "200")])),
        ("a capital name", and(&[("X-A", "b")])),
        ("an empty name", and(&[("", "b")])),
        ("a name with a colon", and(&[("x:y", "b")])),
        ("a name with a space", and(&[("x y", "b")])),
        ("a name with a line", and(&[("x\r\nhost", "evil.bed.test")])),
        ("a value with a line", and(&[("x", injected)])),
        ("a value with LF", and(&[("x", "a\nb: c")])),
        ("a value with CR", and(&[("x", "a\rb")])),
        ("a value with a NUL", and(&[("x", "a\0b")])),
        ("connection", and(&[("connection", "close")])),
        ("a coding", and(&[("transfer-encoding", "chunked")])),
        ("an upgrade", and(&[("upgrade", "h2c")])),
        ("te: gzip", and(&[("te", "gzip")])),
        ("two lengths", and(&[("content-length", "0"), ("content-length", "5")])),
        ("a length without a body", and(&[("content-length", "5")])),
        ("a signed length", and(&[("content-length", "+0")])),
        ("a length with zeros before it", and(&[("content-length", "00")])),
        (
            "CONNECT",
            vec![(":method".into(), "CONNECT".into()), (":authority".into(), "evil.bed.test:443".into())],
        ),
        ("a WebSocket by CONNECT that nobody allowed", by_connect("websocket")),
        ("a CONNECT for another protocol", by_connect("connect-udp")),
        (
            "a WebSocket nobody allowed",
            [and(&[]), vec![(":protocol".to_owned(), "websocket".to_owned())]].concat(),
        ),
    ];
    let mut all = vec![
        speak("control", request(&with("", "")), arrives(&["GET /ok/{M} HTTP/1.1\r\n"])),
        speak(
            "another URL is not passed on",
            request(&and(&[("x-original-url", "/secret/x")])),
            arrives_without(&["GET /ok/{M} "], &["/secret"]),
        ),
        speak(
            "cookies in pieces are one",
            request(&and(&[("cookie", "a=1"), ("cookie", "b=2")])),
            arrives(&["a=1; b=2"]),
        ),
    ];
    all.extend(refused.iter().map(|(name, fields)| speak(name, request(fields), Expect::Silent)));
    let mut late = with("", "");
    late.insert(0, ("x".into(), "y".into()));
    all.push(speak("a pseudo-field after the others", request(&late), Expect::Silent));
    all
}

fn bodies() -> Vec<Case> {
    let post = |fields: &[(&str, &str)]| {
        let all = [
            &[
                (":method", "POST"),
                (":scheme", "https"),
                (":authority", "h1.bed.test:8490"),
                (":path", "/ok/{M}"),
            ],
            fields,
        ]
        .concat();
        worded(HEADERS, END_HEADERS, 1, &block(&all))
    };
    let data = |flags: u8, text: &str| worded(DATA, flags, 1, text.as_bytes());
    let trailers = |fields: &[(&str, &str)]| worded(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields));
    let smuggled = "GET /secret/{M} HTTP/1.1\r\nHost: h1.bed.test:8490\r\n\r\n";
    let joined = |parts: &[Vec<u8>]| parts.concat();
    vec![
        speak(
            "control with a body",
            joined(&[post(&[]), data(END_STREAM, "hello")]),
            arrives(&["POST /ok/{M} ", "hello"]),
        ),
        speak(
            "control with a length",
            joined(&[post(&[("content-length", "5")]), data(END_STREAM, "hello")]),
            arrives(&["POST /ok/{M} ", "hello"]),
        ),
        speak(
            "a length with zeros before it, and a body",
            joined(&[post(&[("content-length", "0005")]), data(END_STREAM, "hello")]),
            Expect::Silent,
        ),
        speak(
            "more than the length",
            joined(&[post(&[("content-length", "5")]), data(0, "hello"), data(END_STREAM, smuggled)]),
            Expect::Cut,
        ),
        speak(
            "less than the length",
            joined(&[post(&[("content-length", "50")]), data(END_STREAM, "hello")]),
            Expect::Cut,
        ),
        speak(
            "length zero with a body",
            joined(&[post(&[("content-length", "0")]), data(END_STREAM, smuggled)]),
            Expect::Cut,
        ),
        speak(
            "a trailer with a coding",
            joined(&[post(&[]), data(0, "hello"), trailers(&[("transfer-encoding", "chunked")])]),
            Expect::Cut,
        ),
        speak(
            "a trailer with a pseudo-field",
            joined(&[post(&[]), data(0, "hello"), trailers(&[(":path", "/secret/{M}")])]),
            Expect::Cut,
        ),
        speak(
            "a trailer with a line",
            joined(&[post(&[]), data(0, "hello"), trailers(&[("x", "y\r\n\r\nGET /secret/{M} HTTP/1.1")])]),
            Expect::Cut,
        ),
        speak(
            "data after the end",
            joined(&[request(&with("", "")), data(END_STREAM, smuggled)]),
            Expect::Cut,
        ),
    ]
}

/// What frames can do to a server: nothing arrives, and the connection ends.
fn frames() -> Vec<Case> {
    let good = block(&with("", "").iter().map(|(n, v)| (n.as_str(), v.as_str())).collect::<Vec<_>>());
    let open = worded(HEADERS, END_STREAM, 1, &good);
    let resets: Vec<u8> = (0..500)
        .flat_map(|n| {
            let stream = 2 * n + 1;
            let post = block(&[
                (":method", "POST"),
                (":scheme", "https"),
                (":authority", "evil.bed.test"),
                (":path", "/secret/{M}"),
            ]);
            [worded(HEADERS, END_HEADERS, stream, &post), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])]
                .concat()
        })
        .collect();
    let many = |name: &str, first: Vec<u8>, again: Vec<u8>| {
        let mut case = speak(name, first, Expect::Silent);
        let last = case.steps.len() - 1;
        case.steps.insert(last, Step::Many(again, 20_000));
        case
    };
    vec![
        speak("data on the connection", frame(DATA, END_STREAM, 0, b"hello"), Expect::Silent),
        speak(
            "headers on the connection",
            worded(HEADERS, END_HEADERS | END_STREAM, 0, &good),
            Expect::Silent,
        ),
        speak("an even stream", worded(HEADERS, END_HEADERS | END_STREAM, 2, &good), Expect::Silent),
        speak("a push", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), Expect::Silent),
        speak("a continuation of nothing", worded(CONTINUATION, END_HEADERS, 1, &good), Expect::Silent),
        speak("an interrupted head", [open.clone(), frame(PING, 0, 0, &[0; 8])].concat(), Expect::Silent),
        speak("a frame that is too large", frame(DATA, 0, 1, &vec![0; 70_000]), Expect::Silent),
        speak(
            "an index out of the table",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0x7f]),
            Expect::Silent,
        ),
        speak(
            "a length out of the block",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x10, 0x7e, b'x']),
            Expect::Silent,
        ),
        speak("rapid resets", resets, Expect::Silent),
        many("continuations without end", open, frame(CONTINUATION, 0, 1, &literal("x", &"y".repeat(1000)))),
    ]
}
