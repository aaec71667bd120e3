//! Refusals in the form that gRPC clients read: a status in the head and no body.
//!
//! A gRPC client that gets 403 with a JSON body derives the status from the 403 and never shows the body. One
//! client reports the stream as broken when that body ends, and then nothing says that policy refused. An
//! answer must contain nothing that is not in [`Refusal`] and [`Known`].

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::answer::{Known, REQUEST_ID_HEADER, Refusal};
use crate::body::{Body, empty};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The ASCII bytes that are percent-encoded in `grpc-message`; bytes that are not ASCII always are (gRPC over
/// HTTP/2, "Percent-Byte").
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// Maximal length of a message, in characters before encoding: clients accept 8 KiB of header fields by
/// default, and a path may be longer.
const MESSAGE_MAX: usize = 640;

/// The gRPC status codes that a proxy has a use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Internal = 13,
    Unavailable = 14,
}

impl Status {
    /// Returns the status by gRPC's "HTTP to gRPC Status Code Mapping", which a client would apply itself.
    /// That mapping has no line for 431 and 504.
    fn of(refusal: &Refusal) -> Self {
        match refusal.status() {
            StatusCode::FORBIDDEN => Self::PermissionDenied,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Self::ResourceExhausted,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => Self::Unavailable,
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => Self::DeadlineExceeded,
            _ => Self::Internal,
        }
    }
}

/// Whether a request asks in gRPC: a POST of `application/grpc`, with or without the name of its encoding.
/// gRPC-Web, which browsers speak over plain HTTP, is something else; and a refused CONNECT must never be
/// answered 200, whatever it says of itself.
pub(crate) fn asked(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::POST
        && headers.get(header::CONTENT_TYPE).is_some_and(|value| {
            let rest = value.as_bytes().strip_prefix(b"application/grpc");
            matches!(rest, Some([] | [b'+' | b';', ..]))
        })
}

/// Returns a refusal's answer in the client's form: gRPC's, or the JSON body.
pub(crate) fn refused(in_grpc: bool, refusal: &Refusal, known: &Known) -> Response<Body> {
    if in_grpc { response(refusal, known) } else { refusal.response(known) }
}

/// Returns the whole answer: "Trailers-Only" in gRPC's terms. Its message has the text of the JSON body's
/// fields.
fn response(refusal: &Refusal, known: &Known) -> Response<Body> {
    let said = format!("{}: {} ({})", refusal.code(), refusal.detail(), refusal.hint());
    let said: String = said.chars().take(MESSAGE_MAX).collect();
    let said = utf8_percent_encode(&said, ENCODED).to_string();
    let mut response = Response::new(empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(STATUS, HeaderValue::from(Status::of(refusal) as u16));
    for (name, value) in [(MESSAGE, said), (REQUEST_ID_HEADER, known.request_id.to_string())] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use percent_encoding::percent_decode_str;
    use policy::{Denial, Layer};

    use super::*;

    #[test]
    fn the_status_is_in_the_head_and_nothing_follows() {
        let detail = "no rule for \"/é%\"\r\nx: y".to_owned();
        let denial =
            Denial { layer: Layer::L7, detail: detail.clone(), policy: None, hint: Some("ask".to_owned()) };
        let known = Known::nothing("127.0.0.1:9".parse().unwrap());
        let answer = response(&Refusal::Denied(denial), &known);
        assert_eq!(answer.status(), 200);
        assert!(answer.body().is_end_stream());
        assert_eq!(answer.headers()["grpc-status"], "7");
        let message = answer.headers()["grpc-message"].to_str().unwrap();
        let message = percent_decode_str(message).decode_utf8().unwrap();
        assert_eq!(message, format!("policy_denied: {detail} (ask)"));
        assert_eq!(answer.headers()[REQUEST_ID_HEADER], known.request_id.to_string());
    }

    #[test]
    fn a_message_is_bounded_whatever_was_asked_for() {
        let denial = Denial { layer: Layer::L7, detail: "é".repeat(20_000), policy: None, hint: None };
        let answer = response(&Refusal::Denied(denial), &Known::nothing("127.0.0.1:9".parse().unwrap()));
        assert!(answer.headers()["grpc-message"].len() <= MESSAGE_MAX * 3 * 'é'.len_utf8());
    }

    #[test]
    fn each_cause_has_a_status_of_its_own_kind() {
        let text = String::new;
        for (refusal, wanted) in [
            (Refusal::BadRequest(text()), Status::Internal),
            (Refusal::Unreachable(text()), Status::Unavailable),
            (Refusal::Unavailable(text()), Status::Unavailable),
            (Refusal::Timeout(text()), Status::DeadlineExceeded),
            (crate::strict::Violation::TooLarge.into(), Status::ResourceExhausted),
        ] {
            assert_eq!(Status::of(&refusal), wanted, "{refusal:?}");
        }
    }

    #[test]
    fn grpc_web_and_others_are_not_grpc() {
        for (kind, wanted) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;v=1", true),
            ("application/grpc-web+proto", false),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(asked(&Method::POST, &headers), wanted, "{kind}");
            assert!(!asked(&Method::CONNECT, &headers) && !asked(&Method::GET, &headers));
        }
    }
}
