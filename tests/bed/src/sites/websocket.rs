//! WebSocket: an echo, or a clock that ticks by itself.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use crate::server::{Body, respond, whole};

/// Answers a handshake (RFC 6455 section 4.2.2) and talks on a task of its own.
pub fn upgrade(mut request: Request<Incoming>, every: Option<Duration>) -> Response<Body> {
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let Some(accept) = key.and_then(|key| header::HeaderValue::from_str(&key).ok()) else {
        return respond(426, "text/plain", "a WebSocket handshake, please\n");
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        match every {
            None => echo(socket).await,
            Some(every) => tick(socket, every).await,
        }
    });
    let mut response = Response::new(whole(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

async fn echo(mut socket: Socket) {
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn tick(mut socket: Socket, every: Duration) {
    let mut n = 0u64;
    loop {
        n += 1;
        if socket.send(Message::text(format!("tick {n}"))).await.is_err() {
            return;
        }
        tokio::time::sleep(every).await;
    }
}
