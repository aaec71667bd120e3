//! A tunnel's first bytes: what protocol they begin, and whether it may be spoken here. A ClientHello must
//! name the host that CONNECT named, and plain HTTP has no business at 443. Never passes a byte on.

use std::future::poll_fn;

use bytes::BytesMut;
use policy::{Denial, Destination, Layer};
use tokio::io::AsyncRead;
use tokio::time::timeout;

use crate::limits::{HELLO_DEADLINE, KEEP_ALIVE_IDLE};
use crate::relay::take;
use crate::tls::{BadHello, Hello, Parsed, parse_hello};
use crate::verdict::TLS_PORT;

/// Reads first bytes until they tell the protocol. `None` if the stream ends first or takes too long.
pub(crate) async fn look(stream: &mut (impl AsyncRead + Unpin), seen: &mut BytesMut) -> Option<First> {
    let mut patience = KEEP_ALIVE_IDLE;
    loop {
        match first_bytes(seen) {
            First::More => {}
            first => return Some(first),
        }
        if !seen.is_empty() {
            patience = HELLO_DEADLINE;
        }
        match timeout(patience, poll_fn(|cx| take(stream, cx))).await {
            Ok(Ok(bytes)) if !bytes.is_empty() => seen.extend_from_slice(&bytes),
            _ => return None,
        }
    }
}

/// What the first bytes of a tunnel are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// Too few to tell.
    More,
    /// A whole ClientHello.
    Tls(Hello),
    /// TLS that can't be judged.
    BadTls(BadHello),
    /// A request line, or the HTTP/2 preface.
    Http,
    /// Anything else.
    Opaque,
}

/// The methods that a first request may have: those of the IANA registry of HTTP methods, the two that caches
/// and UPnP use besides, and what stands in a method's place in the preface of HTTP/2 (RFC 9113 section 3.4).
const METHODS: [&[u8]; 44] = [
    b"ACL",
    b"BASELINE-CONTROL",
    b"BIND",
    b"CHECKIN",
    b"CHECKOUT",
    b"CONNECT",
    b"COPY",
    b"DELETE",
    b"GET",
    b"HEAD",
    b"LABEL",
    b"LINK",
    b"LOCK",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MKREDIRECTREF",
    b"MKWORKSPACE",
    b"MOVE",
    b"NOTIFY",
    b"OPTIONS",
    b"ORDERPATCH",
    b"PATCH",
    b"POST",
    b"PRI",
    b"PROPFIND",
    b"PROPPATCH",
    b"PURGE",
    b"PUT",
    b"QUERY",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"SUBSCRIBE",
    b"TRACE",
    b"UNBIND",
    b"UNCHECKOUT",
    b"UNLINK",
    b"UNLOCK",
    b"UNSUBSCRIBE",
    b"UPDATE",
    b"UPDATEREDIRECTREF",
    b"VERSION-CONTROL",
];

/// Returns what a beginning is. Any other method than those is opaque, since every protocol of words would
/// have to be waited for else.
pub(super) fn first_bytes(seen: &[u8]) -> First {
    let is_method =
        |method: &&[u8]| seen.strip_prefix(*method).is_some_and(|rest| rest.first() == Some(&b' '));
    match parse_hello(seen) {
        Parsed::NeedMore => First::More,
        Parsed::Hello(hello) => First::Tls(hello),
        Parsed::Bad(bad) => First::BadTls(bad),
        Parsed::NotTls if METHODS.iter().any(is_method) => First::Http,
        Parsed::NotTls if METHODS.iter().any(|method| method.starts_with(seen)) => First::More,
        Parsed::NotTls => First::Opaque,
    }
}

/// Judges a tunnel's first bytes against the name that CONNECT gave.
pub(super) fn judge_first(first: &First, destination: &Destination, relayed: bool) -> Result<(), Denial> {
    let detail = match first {
        First::Tls(hello) => match hello.check(&destination.host, relayed) {
            Ok(()) => return Ok(()),
            Err(mismatch) => mismatch.to_string(),
        },
        First::BadTls(bad) => bad.to_string(),
        First::Http if destination.port == TLS_PORT => format!("plain HTTP in a tunnel to {destination}"),
        First::Opaque if destination.port == TLS_PORT && !relayed => return Err(not_http()),
        // Where requests are judged, the strict reader comes next: what is not HTTP ends there.
        First::Http | First::Opaque | First::More => return Ok(()),
    };
    Err(Denial { layer: Layer::L4, detail, policy: None, hint: None })
}

fn not_http() -> Denial {
    Denial {
        layer: Layer::L7,
        detail: "this endpoint's requests are judged, and these bytes are no HTTP".to_owned(),
        policy: None,
        hint: Some("an entry without `protocol`, or with `tls: skip`, relays any bytes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use policy::{DomainName, Host};

    use super::*;

    fn at(port: u16) -> Destination {
        Destination { host: Host::parse("a.test").unwrap(), port }
    }

    #[test]
    fn plain_http_and_other_names_have_no_business_at_443() {
        for (bytes, port, relayed, fine) in [
            (&b"GET / HTTP/1.1"[..], 443, true, false),
            (b"GET / HTTP/1.1", 443, false, false),
            (b"PRI * HTTP/2.0", 443, true, false),
            (b"PROPFIND /dav HTTP/1.1", 443, true, false),
            (b"PROPFIND /dav HTTP/1.1", 8443, false, true),
            (b"GET / HTTP/1.1", 8080, true, true),
            (b"GET / HTTP/1.1", 8080, false, true),
            (b"SSH-2.0-x", 443, true, true),
            (b"SSH-2.0-x", 443, false, false),
            (b"\x16\x04\x01", 443, true, false),
        ] {
            let first = first_bytes(bytes);
            assert_eq!(judge_first(&first, &at(port), relayed).is_ok(), fine, "{first:?} {port} {relayed}");
        }
        assert_eq!(first_bytes(b""), First::More);
        assert_eq!(first_bytes(b"GE"), First::More);
        assert_eq!(first_bytes(b"REPORT"), First::More);
        assert_eq!(first_bytes(b"REPORT /"), First::Http);
        assert_eq!(first_bytes(b"get /"), First::Opaque);
        assert_eq!(first_bytes(b"\x16"), First::More);
        let hello = |name: &str| {
            let server_name = Some(DomainName::parse(name).unwrap());
            First::Tls(Hello { server_name, alpn: Vec::new(), encrypted: false })
        };
        assert!(judge_first(&hello("a.test"), &at(443), false).is_ok());
        assert!(judge_first(&hello("b.test"), &at(443), false).is_err());
        assert!(judge_first(&hello("b.test"), &at(8443), true).is_err());
    }
}
