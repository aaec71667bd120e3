//! WebSocket: an echo, a clock that ticks by itself, and a chat of the kind that Discord and Slack have.
//!
//! Over HTTP/1.1 by an upgrade (RFC 6455), over HTTP/2 by an extended CONNECT (RFC 8441). How the client ends
//! an echo or a clock is noted as the request's body.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role};

use super::Visit;
use crate::recorder::Recorder;
use crate::server::{Body, respond, whole};

/// What is said after the handshake.
#[derive(Debug)]
pub enum Talk {
    /// Each message back.
    Echo,
    /// A message every so often.
    Ticks(Duration),
    /// See [`chat`].
    Chat,
}

/// Answers a handshake and talks on a task of its own.
pub fn upgrade(mut request: Request<Incoming>, talk: Talk, visit: &Visit<'_>) -> Response<Body> {
    let Some(mut response) = handshake(&request) else {
        return respond(426, "text/plain", "a WebSocket handshake, please\n");
    };
    if let Some(protocols) = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocols.clone());
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let (recorder, number) = (visit.recorder.clone(), visit.number);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        let end = match talk {
            Talk::Echo => echo(socket).await,
            Talk::Ticks(every) => tick(socket, every).await,
            // What was said is its note.
            Talk::Chat => return chat(socket, &recorder, number).await,
        };
        let told = match end {
            Some(frame) => format!("close {} {}", u16::from(frame.code), frame.reason),
            None => "gone".to_owned(),
        };
        recorder.body(number, told.as_bytes());
    });
    response
}

fn handshake(request: &Request<Incoming>) -> Option<Response<Body>> {
    let mut response = Response::new(whole(""));
    if request.method() == Method::CONNECT {
        return (request.extensions().get::<Protocol>()?.as_str() == "websocket").then_some(response);
    }
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY)?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()?;
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Some(response)
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

async fn echo(mut socket: Socket) -> Option<CloseFrame> {
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Close(frame) => return frame,
            Message::Text(_) | Message::Binary(_) => socket.send(message).await.ok()?,
            _ => {}
        }
    }
    None
}

async fn tick(mut socket: Socket, every: Duration) -> Option<CloseFrame> {
    let mut clock = tokio::time::interval(every);
    let mut n = 0u64;
    loop {
        tokio::select! {
            _ = clock.tick() => {
                n += 1;
                socket.send(Message::text(format!("tick {n}"))).await.ok()?;
            }
            said = socket.next() => match said {
                Some(Ok(Message::Close(frame))) => return frame,
                Some(Ok(_)) => {}
                _ => return None,
            },
        }
    }
}

/// Hello (10), then identify (2) → ready, heartbeat (1) → acknowledged (11), say (3) → said. The recorder has
/// every message that arrived as the request's body.
async fn chat(mut socket: Socket, recorder: &Recorder, number: u64) {
    let hello = json!({ "op": 10, "d": { "heartbeat_interval": 40 } });
    if socket.send(Message::text(hello.to_string())).await.is_err() {
        return;
    }
    let mut arrived = String::new();
    while let Some(Ok(message)) = socket.next().await {
        // Pings are answered by the library.
        let Message::Text(text) = message else { continue };
        arrived.push_str(&text);
        arrived.push('\n');
        recorder.body(number, arrived.as_bytes());
        let Ok(said) = serde_json::from_str::<Value>(&text) else { continue };
        let answer = match said["op"].as_u64() {
            Some(1) => json!({ "op": 11 }),
            Some(2) => json!({ "op": 0, "t": "READY", "d": { "user": "bed" } }),
            Some(3) => json!({ "op": 0, "t": "MESSAGE_CREATE", "d": said["d"] }),
            _ => json!({ "op": 9, "d": false }),
        };
        if socket.send(Message::text(answer.to_string())).await.is_err() {
            return;
        }
    }
}
