//! Heads that every reader takes for the same, and those that readers disagree about.

use proptest::prelude::*;

use super::*;

fn verdict(text: &str) -> Result<Head, Violation> {
    judge(text.as_bytes())
}

#[test]
fn ordinary_heads_pass() {
    let plain = verdict("GET http://a.test/x?y=1 HTTP/1.1\r\nHost: a.test\r\nAccept: */*\r\n\r\n").unwrap();
    assert!(plain.framing.is_empty() && !plain.tunnel);
    assert!(verdict("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n").unwrap().tunnel);
    assert!(verdict("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap().tunnel);
    assert!(verdict("CONNECT a.test:443 HTTP/1.0\r\n\r\n").unwrap().tunnel);
    assert!(verdict("CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n").is_ok());
    assert!(
        verdict("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\r\n")
            .unwrap()
            .tunnel
    );
    assert_eq!(
        verdict("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n").unwrap().framing,
        Framing::length(12)
    );
    assert_eq!(
        verdict("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap().framing,
        Framing::chunked()
    );
}

#[test]
fn every_known_smuggling_form_is_refused() {
    let head = |lines: &str| verdict(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"));
    for (lines, violation) in [
        ("Content-Length: 1\r\nContent-Length: 1", Violation::ContentLength),
        ("Content-Length: 1, 1", Violation::ContentLength),
        ("Content-Length: +1", Violation::ContentLength),
        ("Content-Length: -1", Violation::ContentLength),
        ("Content-Length: 0x1", Violation::ContentLength),
        ("Content-Length: 01", Violation::ContentLength),
        ("Content-Length: 1 1", Violation::ContentLength),
        ("Content-Length:", Violation::ContentLength),
        ("Content-Length: 99999999999999999999", Violation::ContentLength),
        ("Content-Length: 1\r\nTransfer-Encoding: chunked", Violation::BothLengths),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Violation::TransferEncoding),
        ("Transfer-Encoding: gzip, chunked", Violation::TransferEncoding),
        ("Transfer-Encoding: chunked, identity", Violation::TransferEncoding),
        ("Transfer-Encoding: identity", Violation::TransferEncoding),
        ("Transfer-Encoding: xchunked", Violation::TransferEncoding),
        ("Transfer-Encoding: \"chunked\"", Violation::TransferEncoding),
        ("Transfer-Encoding : chunked", Violation::HeaderLine),
        (" Transfer-Encoding: chunked", Violation::HeaderLine),
        ("X: y\r\n folded", Violation::HeaderLine),
        ("X: y\r\n\tfolded: z", Violation::HeaderLine),
        ("X: y\nTransfer-Encoding: chunked", Violation::LineEnd),
        ("X: y\rZ: a", Violation::LineEnd),
        ("X: a\0b", Violation::HeaderValue),
        ("X: a\x0bb", Violation::HeaderValue),
        ("X: a\x7fb", Violation::HeaderValue),
        ("X", Violation::HeaderLine),
        (": y", Violation::HeaderLine),
        ("X(y): z", Violation::HeaderLine),
        ("Host: a", Violation::Host),
        ("Connection: upgrade\r\nUpgrade: spdy/3.1", Violation::Upgrade),
        ("Upgrade: websocket, tcp\r\nConnection: upgrade", Violation::Upgrade),
        ("Expect: 200-maybe", Violation::Expect),
    ] {
        assert_eq!(head(lines), Err(violation), "{lines:?}");
    }
    assert!(head("X: y").is_ok(), "the frame itself is good");
}

#[test]
fn an_upgrade_that_is_not_taken_is_no_tunnel() {
    let fields = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__";
    for rest in ["", "\r\nContent-Length: 3", "\r\nTransfer-Encoding: chunked"] {
        let head = verdict(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}{rest}\r\n\r\n")).unwrap();
        assert!(!head.tunnel && head.framing.is_empty() == rest.is_empty());
    }
    assert!(!verdict("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: tcp\r\n\r\n").unwrap().tunnel, "not asked for");
    let connect = format!("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n{fields}\r\n\r\n");
    assert_eq!(verdict(&connect), Err(Violation::Connect));
}

#[test]
fn request_lines_are_exact() {
    let line = |line: &str| verdict(&format!("{line}\r\nHost: a.test\r\n\r\n"));
    for (text, violation) in [
        ("GET  / HTTP/1.1", Violation::RequestLine),
        ("GET / HTTP/1.1 ", Violation::RequestLine),
        (" GET / HTTP/1.1", Violation::RequestLine),
        ("GET\t/ HTTP/1.1", Violation::RequestLine),
        ("G ET / HTTP/1.1", Violation::RequestLine),
        ("G\u{e9}T / HTTP/1.1", Violation::RequestLine),
        ("GET /", Violation::RequestLine),
        ("GET / HTTP/1.2", Violation::Version),
        ("GET / HTTP/0.9", Violation::Version),
        ("GET / http/1.1", Violation::Version),
        ("PRI * HTTP/2.0", Violation::Version),
        ("GET /\u{e9} HTTP/1.1", Violation::Target),
        ("GET /a#b HTTP/1.1", Violation::Target),
        ("GET a.test HTTP/1.1", Violation::Target),
        ("OPTIONS * HTTP/1.1", Violation::Target),
        ("GET ftp://a.test/ HTTP/1.1", Violation::Target),
        ("GET http:///x HTTP/1.1", Violation::Target),
        ("GET http://u@a.test/ HTTP/1.1", Violation::Target),
        ("GET http://b.test/ HTTP/1.1", Violation::Disagreement),
        ("GET http://a.test:8080/ HTTP/1.1", Violation::Disagreement),
        ("CONNECT b.test:443 HTTP/1.1", Violation::Disagreement),
        ("CONNECT a.test HTTP/1.1", Violation::Connect),
        ("CONNECT http://a.test:443/ HTTP/1.1", Violation::Connect),
        ("CONNECT u:p@a.test:443 HTTP/1.1", Violation::Connect),
    ] {
        assert_eq!(line(text), Err(violation), "{text:?}");
    }
    assert!(line("GET / HTTP/1.1").is_ok());
    assert!(line("GET http://a.test:80/ HTTP/1.1").is_ok());
    assert_eq!(verdict("GET / HTTP/1.1\r\n\r\n"), Err(Violation::Host));
    assert_eq!(verdict("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"), Err(Violation::Host));
    assert_eq!(verdict("GET / HTTP/1.1\r\nHost:\r\n\r\n"), Err(Violation::Host));
    assert_eq!(
        verdict("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Err(Violation::TransferEncoding)
    );
    assert_eq!(
        verdict("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 4\r\n\r\n"),
        Err(Violation::Connect)
    );
}

#[test]
fn too_many_headers_are_too_large() {
    let many = "X: y\r\n".repeat(MAX_HEADERS);
    assert_eq!(verdict(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")), Err(Violation::TooLarge));
}

#[test]
fn the_end_is_found_however_the_bytes_arrive() {
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
    for cut in 0..bytes.len() {
        let first = find_end(&bytes[..cut], 0);
        if cut >= 27 {
            assert_eq!(first, Some(27), "{cut}");
        } else {
            assert_eq!(first, None, "{cut}");
            assert_eq!(find_end(bytes, cut), Some(27), "{cut}");
        }
    }
    assert_eq!(find_end(b"\r\n\r\n", 0), Some(4));
    assert_eq!(find_end(b"GET / HTTP/1.1\n\n", 0), Some(16));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Some(end) = find_end(&bytes, 0) {
            let _ = judge(&bytes[..end]);
        }
        let _ = judge(&bytes);
    }

    /// What we let pass, the library reads as exactly one request with the same framing.
    #[test]
    fn the_library_agrees(
        method in "[A-Z]{1,8}", path in "/[!-\"$-~]{0,20}",
        fields in proptest::collection::vec(("[a-zA-Z0-9!-]{1,12}", "[ -~\t]{0,20}"), 0..6),
    ) {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n");
        for (name, value) in &fields {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        if judge(text.as_bytes()).is_ok() {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut headers);
            prop_assert_eq!(request.parse(text.as_bytes()).unwrap(), httparse::Status::Complete(text.len()));
            prop_assert_eq!(request.headers.len(), fields.len() + 1);
        }
    }
}
