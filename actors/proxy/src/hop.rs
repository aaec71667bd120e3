//! Header hygiene between the two sides: what belongs to one connection stays there.
//!
//! Strips hop-by-hop fields (RFC 9110 section 7.6.1), each field that `Connection` names, and the proxy's
//! own. Must never add anything that identifies the agent or this proxy to an upstream.

use http::{HeaderMap, HeaderName, HeaderValue, header};

const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Removes what must not pass to the other side. `te: trailers` stays (gRPC needs it on HTTP/2).
pub fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let trailers = headers.get(header::TE).is_some_and(wants_trailers);
    for name in HOP_BY_HOP.iter().chain(&named) {
        // `Connection: host, content-length` is an attack on the next server: it must not remove these.
        if !matches!(*name, header::HOST | header::CONTENT_LENGTH | header::CONTENT_TYPE) {
            headers.remove(name);
        }
    }
    headers.remove(header::TE);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes the `Content-Length` of an answer that came in chunks. `Transfer-Encoding` overrides a
/// `Content-Length` beside it (RFC 9112 section 6.3), by which the client would cut the answer off.
///
/// # Errors
/// A transfer coding other than chunked: since the field is removed, the coded bytes would pass for plain
/// ones.
pub(crate) fn settle_length(headers: &mut HeaderMap) -> Result<(), UnknownCoding> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter().peekable();
    if codings.peek().is_none() {
        return Ok(());
    }
    let is_chunked = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_none_or(|first| !is_chunked(first)) || codings.next().is_some() {
        return Err(UnknownCoding);
    }
    headers.remove(header::CONTENT_LENGTH);
    Ok(())
}

/// A transfer coding that the proxy can't decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the destination's answer has a transfer coding other than chunked")]
pub(crate) struct UnknownCoding;

fn wants_trailers(value: &HeaderValue) -> bool {
    value
        .to_str()
        .is_ok_and(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case("trailers")))
}

/// Whether a list-valued header names `token`.
pub fn names(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(token)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_go_before_a_length_and_no_other_coding_passes() {
        let of = |fields: &[(&'static str, &'static str)]| {
            fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
        };
        let mut both: HeaderMap = of(&[("content-length", "5"), ("transfer-encoding", "Chunked ")]);
        assert_eq!(settle_length(&mut both), Ok(()));
        assert!(!both.contains_key("content-length"));
        let mut plain: HeaderMap = of(&[("content-length", "5")]);
        assert_eq!(settle_length(&mut plain), Ok(()));
        assert!(plain.contains_key("content-length"));
        for other in [
            &[("transfer-encoding", "gzip, chunked")][..],
            &[("transfer-encoding", "gzip")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "")],
        ] {
            assert_eq!(settle_length(&mut of(other)), Err(UnknownCoding), "{other:?}");
        }
    }

    #[test]
    fn what_connection_names_is_stripped() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret, host, content-length"),
            ("x-secret", "1"),
            ("host", "a"),
            ("content-length", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic eA=="),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length", "host", "te"]);
        assert_eq!(headers["te"], "trailers");
    }
}
