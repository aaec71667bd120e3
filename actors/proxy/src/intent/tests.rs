//! What a request asks for, however it is written, and what names nothing at all.

use http::Request;

use super::*;

fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn fixed() -> Scope {
    Scope::Fixed { destination: Destination { host: Host::parse("a.test").unwrap(), port: 443 }, tls: true }
}

#[test]
fn one_destination_from_each_form() {
    let connect = Intent::of(&Scope::Explicit, &parts("CONNECT", "A.Test:443", &[])).unwrap();
    assert_eq!(connect.destination().to_string(), "a.test:443");
    let plain = Intent::of(&Scope::Explicit, &parts("GET", "http://a.test/a//b/../c?x", &[])).unwrap();
    assert_eq!(plain.destination().to_string(), "a.test:80");
    let Ask::Exchange(exchange) = plain.ask() else { panic!() };
    assert_eq!(exchange.path.as_str(), "/a/c");
    let inside = Intent::of(&fixed(), &parts("GET", "/x", &[("host", "a.test")])).unwrap();
    assert_eq!(inside.destination().to_string(), "a.test:443");
    assert!(Intent::of(&fixed(), &parts("GET", "/x", &[("host", "a.test:443")])).is_ok());
    assert!(Intent::of(&fixed(), &parts("GET", "https://a.test/x", &[("host", "a.test")])).is_ok());
}

#[test]
fn a_claimed_host_is_the_destination_at_the_port_connected_to() {
    let scope = Scope::Claimed { port: 8080 };
    for host in ["a.test", "A.test:8080"] {
        let intent = Intent::of(&scope, &parts("GET", "/x", &[("host", host)])).unwrap();
        assert_eq!(intent.destination().to_string(), "a.test:8080");
    }
    for (method, uri, headers) in [
        ("GET", "/x", &[][..]),
        ("GET", "/x", &[("host", "a.test:80")]),
        ("GET", "/x", &[("host", "a.test"), ("host", "b.test")]),
        ("GET", "http://b.test/x", &[("host", "a.test")]),
        ("GET", "https://a.test/x", &[("host", "a.test")]),
        ("GET", "/x", &[("host", "0x7f.1")]),
        ("CONNECT", "a.test:443", &[("host", "a.test:443")]),
    ] {
        assert!(Intent::of(&scope, &parts(method, uri, headers)).is_err(), "{method} {uri} {headers:?}");
    }
}

#[test]
fn a_websocket_over_http2_is_a_get_and_no_tunnel() {
    let extended = |protocol: &'static str, method: &str, uri: &str, headers: &[(&str, &str)]| {
        let mut parts = parts(method, uri, headers);
        parts.version = Version::HTTP_2;
        parts.extensions.insert(Protocol::from_static(protocol));
        parts
    };
    let thirteen = &[("sec-websocket-version", "13")][..];
    let (inside, to_proxy) = ("https://a.test/ws?x", "http://a.test/ws?x");
    for (scope, uri) in [(fixed(), inside), (Scope::Explicit, to_proxy)] {
        let intent = Intent::of(&scope, &extended("websocket", "CONNECT", uri, thirteen)).unwrap();
        let Ask::Exchange(exchange) = intent.ask() else { panic!("a tunnel") };
        assert!(exchange.websocket && exchange.method == Method::GET && exchange.path.as_str() == "/ws");
    }
    for (protocol, method, uri, headers) in [
        ("websocket", "CONNECT", inside, &[][..]),
        ("websocket", "CONNECT", inside, &[("sec-websocket-version", "8")]),
        ("websocket", "GET", inside, thirteen),
        ("connect-udp", "CONNECT", inside, thirteen),
        ("WebSocket", "CONNECT", inside, thirteen),
        ("websocket", "CONNECT", "https://b.test/ws", thirteen),
        ("websocket", "CONNECT", "http://a.test/ws", thirteen),
    ] {
        let parts = extended(protocol, method, uri, headers);
        assert!(Intent::of(&fixed(), &parts).is_err(), "{protocol} {method} {uri} {headers:?}");
    }
}

#[test]
fn names_that_disagree_are_refused() {
    let explicit = Scope::Explicit;
    for (scope, method, uri, headers) in [
        (&explicit, "GET", "/x", &[("host", "a.test")][..]),
        (&explicit, "GET", "https://a.test/", &[]),
        (&explicit, "CONNECT", "a.test:0", &[]),
        (&explicit, "CONNECT", "a.test:00443", &[]),
        (&explicit, "CONNECT", "0x7f000001:443", &[]),
        (&explicit, "CONNECT", "2130706433:443", &[]),
        (&explicit, "CONNECT", "[::ffff:127.0.0.1]:443", &[]),
        (&explicit, "GET", "http://a.test./", &[]),
        (&fixed(), "CONNECT", "a.test:443", &[("host", "a.test:443")]),
        (&fixed(), "GET", "/x", &[]),
        (&fixed(), "GET", "/x", &[("host", "b.test")]),
        (&fixed(), "GET", "/x", &[("host", "a.test:8443")]),
        (&fixed(), "GET", "/x", &[("host", "a.test"), ("host", "a.test")]),
        (&fixed(), "GET", "https://b.test/x", &[("host", "a.test")]),
        (&fixed(), "GET", "http://a.test/x", &[("host", "a.test")]),
        (&fixed(), "GET", "/x/%00", &[("host", "a.test")]),
        (&fixed(), "GET", "/../x", &[("host", "a.test")]),
        (&fixed(), "GET", "/x", &[("host", "a.test"), ("upgrade", "websocket"), ("connection", "upgrade")]),
    ] {
        assert!(Intent::of(scope, &parts(method, uri, headers)).is_err(), "{method} {uri} {headers:?}");
    }
}

#[test]
fn what_is_refused_for_another_reason_still_leads_somewhere() {
    let claimed = Scope::Claimed { port: 8080 };
    for (scope, method, uri, headers, wanted) in [
        (&Scope::Explicit, "GET", "http://a.test/..", &[][..], Some("a.test:80")),
        (&Scope::Explicit, "GET", "https://a.test/", &[], Some("a.test:443")),
        (&Scope::Explicit, "CONNECT", "a.test:443", &[("host", "b.test:443")], Some("a.test:443")),
        (&Scope::Explicit, "CONNECT", "0x7f000001:443", &[], None),
        (&Scope::Explicit, "GET", "/x", &[("host", "a.test")], None),
        (&claimed, "GET", "/%00", &[("host", "a.test")], Some("a.test:8080")),
        (&fixed(), "GET", "/%00", &[("host", "b.test")], Some("a.test:443")),
    ] {
        let parts = parts(method, uri, headers);
        assert!(Intent::of(scope, &parts).is_err(), "{method} {uri}");
        let place = Intent::place(scope, &parts).map(|place| place.to_string());
        assert_eq!(place.as_deref(), wanted, "{method} {uri}");
    }
}

#[test]
fn a_whole_handshake_is_a_websocket() {
    let headers = [
        ("host", "a.test"),
        ("upgrade", "websocket"),
        ("connection", "keep-alive, Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let intent = Intent::of(&fixed(), &parts("GET", "/ws", &headers)).unwrap();
    assert!(matches!(intent.ask(), Ask::Exchange(exchange) if exchange.websocket));
}

#[test]
fn a_length_is_one_plain_number_by_each_version() {
    let of = |version: Version, length: &str| {
        let mut parts = parts("POST", "https://a.test/x", &[("host", "a.test"), ("content-length", length)]);
        parts.version = version;
        Intent::of(&fixed(), &parts)
    };
    for version in [Version::HTTP_11, Version::HTTP_2] {
        assert!(of(version, "0").is_ok() && of(version, "5").is_ok());
        for length in ["0005", "00", "+5", "-0", "5, 5", "0x5", "5 5", "", "9999999999999999999"] {
            let refused = of(version, length).unwrap_err();
            assert_eq!(refused.detail(), Violation::ContentLength.to_string(), "{version:?} {length}");
        }
    }
}
