//! The ordinary web server behind `api`, `files`, `h1`, `h2`, `six`, `evil` and the rest.
//!
//! ```text
//! /echo                 the request as JSON        /bytes/N         N bytes of the pattern
//! /pieces               a body as the answer's, sent in pieces, of which each `|` ends one
//! /upload               counts and checks a body   /sse?n=&every=   server-sent ticks, every in ms; with until=MARKER no
//!                                                                  fewer, and on until the recorder lets that end
//! /ws                   WebSocket echo             /ws/ticks?every= WebSocket that ticks by itself
//! /gateway              WebSocket chat             /file/N          /bytes/N with ETag and ranges
//! /trailers             the request's trailers as the answer's body, and trailers behind it
//! /slow?ms=             answers late               /drip?n=&every=  a body byte by byte
//! /reset                breaks off half-way        /redirect?to=    302
//! /status/CODE          that status                /hang            never answers
//! anything else         200 and "hello from HOST"
//! ```

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use serde_json::json;

use super::websocket::{self, Talk};
use super::{Visit, number, parameter, pattern};
use crate::flow::{Sender, flow};
use crate::server::{Body, json, respond};

/// Frames in flight between a generator and its connection.
const IN_FLIGHT: usize = 8;

/// Answers one request.
pub async fn answer(request: Request<Incoming>, visit: &Visit<'_>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().map(str::to_owned);
    let query = query.as_deref();
    let milliseconds = |name, default| Duration::from_millis(number(query, name, default));
    match path.as_str() {
        "/echo" => echo(request, visit).await,
        "/pieces" => pieces(request, visit).await,
        "/upload" => upload(request.into_body()).await,
        "/sse" => {
            let until = parameter(query, "until").map(str::to_owned);
            let recorder = visit.recorder.clone();
            let is_over = move || until.as_ref().is_none_or(|marker| recorder.may_end(marker));
            let (n, every) = (number(query, "n", 10), milliseconds("every", 100));
            ticks(n, every, is_over, "text/event-stream", sse_event)
        }
        "/drip" => {
            ticks(number(query, "n", 10), milliseconds("every", 100), || true, "text/plain", |_| "x".into())
        }
        "/ws" => websocket::upgrade(request, Talk::Echo, visit),
        "/ws/ticks" => websocket::upgrade(request, Talk::Ticks(milliseconds("every", 20)), visit),
        "/gateway" => websocket::upgrade(request, Talk::Chat, visit),
        "/trailers" => trailers(request.into_body()).await,
        "/slow" => {
            tokio::time::sleep(milliseconds("ms", 1000)).await;
            respond(200, "text/plain", "late\n")
        }
        "/hang" => std::future::pending().await,
        "/reset" => reset(),
        "/redirect" => redirect(parameter(query, "to").unwrap_or("/")),
        _ => match path.rsplit_once('/') {
            Some(("/bytes", length)) => bytes(length.parse().unwrap_or(0)),
            Some(("/file", length)) => file(request.headers(), length.parse().unwrap_or(0)),
            Some(("/status", code)) => {
                respond(code.parse().unwrap_or(400), "text/plain", format!("{code}\n"))
            }
            _ => respond(200, "text/plain", format!("hello from {}\n", visit.host)),
        },
    }
}

async fn echo(request: Request<Incoming>, visit: &Visit<'_>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Some(body) = visit.read(body).await else { return respond(400, "text/plain", "broken body\n") };
    let headers: Vec<_> = head
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let shown = json!({
        "host": visit.host,
        "method": head.method.as_str(),
        "target": head.uri.path_and_query().map(ToString::to_string),
        "version": format!("{:?}", head.version),
        "headers": headers,
        "length": body.len(),
        "body": String::from_utf8_lossy(&body),
    });
    json(200, &shown)
}

async fn pieces(request: Request<Incoming>, visit: &Visit<'_>) -> Response<Body> {
    let Some(body) = visit.read(request.into_body()).await else {
        return respond(400, "text/plain", "broken body\n");
    };
    stream("text/plain", None, move |mut sender| async move {
        for piece in body.split(|byte| *byte == b'|') {
            if sender.send_data(Bytes::copy_from_slice(piece)).await.is_err() {
                return;
            }
        }
    })
}

async fn upload(mut body: Incoming) -> Response<Body> {
    let mut check = pattern::Check::default();
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => check.take(&data),
            Ok(Err(_trailers)) => {}
            Err(e) => return respond(400, "text/plain", format!("{e}\n")),
        }
    }
    json(200, &json!({ "length": check.length, "whole": check.wrong_at.is_none() }))
}

/// A streaming body fed by a task, which ends when the client is gone.
pub(crate) fn stream<F, Fut>(kind: &'static str, length: Option<u64>, feed: F) -> Response<Body>
where
    F: FnOnce(Sender) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (sender, body) = flow(IN_FLIGHT);
    tokio::spawn(feed(sender));
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    if let Some(length) = length {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response
}

fn bytes(length: u64) -> Response<Body> {
    stream("application/octet-stream", Some(length), move |mut sender| async move {
        let mut offset = 0;
        while offset < length {
            let piece = pattern::piece(offset, length);
            offset += piece.len() as u64;
            if sender.send_data(piece).await.is_err() {
                return;
            }
        }
    })
}

/// A file of the pattern: one range of it, none of it if the client has it, or all (RFC 9110 sections 13 and
/// 14).
fn file(asked: &HeaderMap, length: u64) -> Response<Body> {
    const TAG: &str = "\"bed\"";
    let text = |name: header::HeaderName| asked.get(name).and_then(|value| value.to_str().ok());
    let mut response = if text(header::IF_NONE_MATCH) == Some(TAG) {
        respond(304, "application/octet-stream", "")
    } else if let Some((first, last)) = text(header::RANGE).and_then(|range| one_range(range, length)) {
        let slice: Vec<u8> = pattern::piece(first, last + 1).to_vec();
        let mut response = respond(206, "application/octet-stream", slice);
        if let Ok(range) = HeaderValue::from_str(&format!("bytes {first}-{last}/{length}")) {
            response.headers_mut().insert(header::CONTENT_RANGE, range);
        }
        response
    } else {
        bytes(length)
    };
    response.headers_mut().insert(header::ETAG, HeaderValue::from_static(TAG));
    response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// `bytes=A-B`, at most one piece of the pattern.
fn one_range(range: &str, length: u64) -> Option<(u64, u64)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let first: u64 = first.parse().ok()?;
    let last = last.parse().unwrap_or(length).min(length.checked_sub(1)?);
    (first <= last && last - first < 64 * 1024).then_some((first, last))
}

async fn trailers(body: Incoming) -> Response<Body> {
    let Ok(collected) = body.collect().await else { return respond(400, "text/plain", "broken body\n") };
    let told: Vec<String> = collected
        .trailers()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    let mut response = stream("text/plain", None, |mut sender| async move {
        let mut behind = HeaderMap::new();
        behind.insert("x-bed-trailer", HeaderValue::from_static("the end"));
        if sender.send_data(told.join(" ").into()).await.is_ok() {
            let _gone = sender.send_trailers(behind).await;
        }
    });
    response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-bed-trailer"));
    response
}

fn sse_event(n: u64) -> String {
    format!("id: {n}\ndata: tick {n}\n\n")
}

fn ticks(
    n: u64,
    every: Duration,
    is_over: impl Fn() -> bool + Send + 'static,
    kind: &'static str,
    text: fn(u64) -> String,
) -> Response<Body> {
    stream(kind, None, move |mut sender| async move {
        let mut tick = 0;
        while tick < n || !is_over() {
            tick += 1;
            if sender.send_data(text(tick).into()).await.is_err() {
                return;
            }
            tokio::time::sleep(every).await;
        }
    })
}

fn reset() -> Response<Body> {
    stream("application/octet-stream", Some(1 << 20), |mut sender| async move {
        let _ = sender.send_data(pattern::piece(0, 1000)).await;
        sender.abort(io::ErrorKind::ConnectionReset.into()).await;
    })
}

fn redirect(to: &str) -> Response<Body> {
    let mut response = respond(302, "text/plain", "elsewhere\n");
    *response.status_mut() = StatusCode::FOUND;
    if let Ok(to) = header::HeaderValue::from_str(to) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}
