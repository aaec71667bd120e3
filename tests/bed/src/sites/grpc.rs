//! A gRPC service whose messages are plain bytes, so that clients need no schema: `bed.Echo` over HTTP/2.
//!
//! ```text
//! Unary     one message back                 Fail      an error told in trailers alone
//! Count     as many messages as it was sent  FailLate  one message, then an error
//!           bytes, then trailers
//! Chat      each message back as it comes
//! ```

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::Visit;
use crate::flow::{Sender, flow};
use crate::server::{Body, respond, whole};

/// What errors say.
const WHY: &str = "no such luck";
/// `NOT_FOUND` of gRPC's codes.
const NOT_FOUND: &str = "5";
/// `UNIMPLEMENTED`.
const UNIMPLEMENTED: &str = "12";
/// `DATA_LOSS`.
const DATA_LOSS: &str = "15";

/// Answers one call.
pub async fn answer(request: Request<Incoming>, visit: &Visit<'_>) -> Response<Body> {
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/bed.Echo/Chat" => streaming(|sender| chat(body, sender)),
        "/bed.Echo/Fail" => {
            let mut response = called(whole(""));
            response.headers_mut().extend(status(NOT_FOUND));
            response
        }
        path @ ("/bed.Echo/Unary" | "/bed.Echo/Count" | "/bed.Echo/FailLate") => {
            let path = path.to_owned();
            let Some(message) = visit.read(body).await else { return respond(400, "text/plain", "broken\n") };
            streaming(|sender| async move {
                match path.as_str() {
                    "/bed.Echo/Count" => count(message, sender).await,
                    "/bed.Echo/Unary" => finish(sender, message, "0").await,
                    _ => finish(sender, message, DATA_LOSS).await,
                }
            })
        }
        _ => {
            let mut response = called(whole(""));
            response.headers_mut().extend(status(UNIMPLEMENTED));
            response
        }
    }
}

fn called(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn streaming<F, Fut>(feed: F) -> Response<Body>
where
    F: FnOnce(Sender) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (sender, body) = flow(8);
    tokio::spawn(feed(sender));
    called(body.boxed())
}

fn status(code: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    if code != "0" {
        trailers.insert("grpc-message", HeaderValue::from_static(WHY));
    }
    trailers.insert("x-bed-trailer", HeaderValue::from_static("the end"));
    trailers
}

async fn finish(mut sender: Sender, message: Bytes, code: &'static str) {
    if sender.send_data(message).await.is_ok() {
        let _gone = sender.send_trailers(status(code)).await;
    }
}

/// Sends as many messages of one byte as the request's message has bytes.
async fn count(message: Bytes, mut sender: Sender) {
    // Five bytes in front: not compressed, and the length.
    for n in 0..message.len().saturating_sub(5) {
        if sender.send_data(Bytes::from(vec![0, 0, 0, 0, 1, n as u8])).await.is_err() {
            return;
        }
    }
    let _gone = sender.send_trailers(status("0")).await;
}

/// Sends every frame back at once, so that a client which waits for an answer before its next message gets
/// one.
async fn chat(mut body: Incoming, mut sender: Sender) {
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data()
            && sender.send_data(data).await.is_err()
        {
            return;
        }
    }
    let _gone = sender.send_trailers(status("0")).await;
}
