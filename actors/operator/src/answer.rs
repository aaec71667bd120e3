//! How answers are written: JSON, text, a stream of bytes, a stream of events, an error.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use serde::Serialize;

use crate::{fault::Fault, limits::HEARTBEAT, types::Event};

/// A body of the control API.
pub(crate) type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

/// Prometheus' text format.
pub(crate) const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Output of agents: bytes as they were written.
pub(crate) const LOGS: &str = "application/octet-stream";

pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(text) => whole(status, "application/json", text),
        Err(_) => whole(
            StatusCode::INTERNAL_SERVER_ERROR,
            "application/json",
            r#"{"error":"internal","detail":"unwritable answer","hint":null}"#,
        ),
    }
}

pub(crate) fn fault(fault: &Fault) -> Response<Body> {
    let mut response = json(fault.code.status(), fault);
    if let Some(allow) = fault.allow.as_deref().and_then(|methods| HeaderValue::from_str(methods).ok()) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

pub(crate) fn whole(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    with_body(status, kind, Full::new(text.into()).boxed_unsync())
}

pub(crate) fn bytes(kind: &'static str, stream: BoxStream<'static, Bytes>) -> Response<Body> {
    let frames = stream.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    with_body(StatusCode::OK, kind, StreamBody::new(frames).boxed_unsync())
}

/// Server-sent events, with a comment after each [`HEARTBEAT`] of silence.
pub(crate) fn events(stream: BoxStream<'static, Event>) -> Response<Body> {
    let text = stream::unfold(Some(stream), |stream| async {
        let mut stream = stream?;
        match tokio::time::timeout(HEARTBEAT, stream.next()).await {
            Ok(Some(event)) => Some((event_text(&event), Some(stream))),
            Ok(None) => None,
            Err(_) => Some((Bytes::from_static(b": still here\n\n"), Some(stream))),
        }
    });
    // A first comment makes the head go out at once.
    let text = stream::once(async { Bytes::from_static(b": cofferdam events\n\n") }).chain(text);
    bytes("text/event-stream", text.boxed())
}

fn event_text(event: &Event) -> Bytes {
    // The kind is chosen by cofferdam and harmless; still, a line break in it would begin another field.
    let kind: String = event.kind.chars().filter(|c| !c.is_control()).collect();
    let data = serde_json::to_string(event).unwrap_or_default();
    format!("event: {kind}\nid: {}\ndata: {data}\n\n", event.seq).into()
}

fn with_body(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
