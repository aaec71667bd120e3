//! WebSocket handshakes (RFC 6455, and RFC 8441 on HTTP/2): the one upgrade that passes, and only after a
//! rule allowed it.
//!
//! Whichever way the agent asked, it is one request to the policy. Upstream is asked over HTTP/1.1, which
//! nearly every server takes, and over HTTP/2 where it speaks nothing else. Only when the upstream has
//! accepted (by a verified 101, or by 200 on a stream) does either side become a byte stream; any other
//! answer is an ordinary response. Where rules judged the handshake, they judge each of the client's messages
//! too: [`crate::protocol::websocket`].

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use sha1::{Digest, Sha1};

use crate::answer::{Known, Refusal};
use crate::body::{Body, empty};
use crate::conn::{Conn, Next};
use crate::credentials::Guard;
use crate::hop;
use crate::message::Ledger;
use crate::protocol::websocket::Judge;
use crate::road::Answer;
use crate::tracker::Live;
use crate::upstream::Sender;
use crate::verdict::Permitted;

/// RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A handshake that was sent and waits for its answer.
pub(crate) struct Handshake {
    key: HeaderValue,
    /// Whether the agent's stream becomes the WebSocket, and not its whole connection.
    on_stream: bool,
}

impl Handshake {
    /// Makes the handshake of a request that is known to be a complete one. On HTTP/2 it has no key, so a key
    /// for the upstream is drawn here.
    pub(crate) fn of(parts: &Parts) -> Result<Self, Refusal> {
        let on_stream = parts.version == Version::HTTP_2;
        let key = match parts.headers.get(header::SEC_WEBSOCKET_KEY) {
            _ if on_stream => nonce()?,
            Some(key) => key.clone(),
            None => return Err(Refusal::BadRequest("the WebSocket handshake has no key".to_owned())),
        };
        Ok(Self { key, on_stream })
    }

    /// Gives the request the form that a handshake has on the connection that it is sent on. Hop-by-hop
    /// fields must have been removed.
    pub(crate) fn shape(&self, request: &mut Request<Body>, http2: bool) {
        if http2 {
            // RFC 8441 section 4.
            *request.method_mut() = Method::CONNECT;
            request.extensions_mut().insert(Protocol::from_static("websocket"));
            for name in [header::UPGRADE, header::CONNECTION, header::SEC_WEBSOCKET_KEY] {
                request.headers_mut().remove(name);
            }
        } else {
            *request.method_mut() = Method::GET;
            self.switch(request.headers_mut());
            request.headers_mut().insert(header::SEC_WEBSOCKET_KEY, self.key.clone());
        }
    }

    /// Whether an answer with this status accepts the handshake, by the HTTP version of its connection.
    pub(crate) fn is_agreed(status: StatusCode, http2: bool) -> bool {
        status == if http2 { StatusCode::OK } else { StatusCode::SWITCHING_PROTOCOLS }
    }

    /// Whether the agent's connection must close if the handshake is not accepted: on HTTP/1, hyper stopped
    /// reading requests when it saw the upgrade.
    pub(crate) fn closes(&self) -> bool {
        !self.on_stream
    }

    /// Whether the agent would wrongly take an answer for acceptance: on a stream every 2xx is.
    pub(crate) fn misleads(&self, status: StatusCode) -> bool {
        self.on_stream && status.is_success()
    }

    fn switch(&self, headers: &mut HeaderMap) {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }

    /// Verifies the upstream's acceptance, and returns the agent's answer with what its connection becomes.
    pub(crate) fn conclude(
        self,
        conn: &Conn,
        response: Response<Incoming>,
        (live, ledger): (Arc<Live>, Arc<Ledger>),
        (sender, permitted, guard): (Sender, &Permitted, Option<Guard>),
        known: &Known,
    ) -> Result<Answer, Refusal> {
        let headers = response.headers();
        let verified = sender.is_http2() || self.is_accepted(headers);
        let judge = is_judged(conn, permitted)
            .then(|| Judge {
                granted: permitted.granted().clone(),
                exchange: permitted.exchange().clone(),
                is_only_recorded: permitted.allowed().is_some_and(|allowed| allowed.audit_only.is_some()),
            })
            .map(Box::new);
        if judge.is_some() && headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
            return Err(Refusal::Unreachable(
                "the destination agreed to a WebSocket extension that was not offered".to_owned(),
            ));
        }
        if !verified {
            return Err(Refusal::Unreachable(
                "the destination's WebSocket handshake is not valid".to_owned(),
            ));
        }
        let mut answer = Response::new(empty());
        *answer.headers_mut() = headers.clone();
        hop::strip(answer.headers_mut());
        if let Some(guard) = &guard {
            guard.headers(answer.headers_mut());
        }
        answer.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
        if !self.on_stream {
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            self.switch(answer.headers_mut());
            if let Ok(accept) = HeaderValue::from_str(&accept(self.key.as_bytes())) {
                answer.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
            }
        }
        let upgrade = hyper::upgrade::on(response);
        Ok((
            answer,
            Some(Next::WebSocket { upgrade, sender, live, ledger, known: known.clone(), judge, guard }),
        ))
    }

    /// Whether the server's answer has what RFC 6455 section 4.1 demands.
    fn is_accepted(&self, headers: &HeaderMap) -> bool {
        hop::names(headers, header::UPGRADE, "websocket")
            && hop::names(headers, header::CONNECTION, "upgrade")
            && headers.get_all(header::SEC_WEBSOCKET_ACCEPT).iter().count() == 1
            && headers
                .get(header::SEC_WEBSOCKET_ACCEPT)
                .is_some_and(|value| value.as_bytes() == accept(self.key.as_bytes()).as_bytes())
    }
}

/// Whether the client's messages are read: where rules judge them, and where a placeholder might stand in
/// one.
pub(crate) fn is_judged(conn: &Conn, permitted: &Permitted) -> bool {
    permitted.allowed().is_some() || !conn.deps.credentials.is_empty()
}

/// Draws a key: sixteen random bytes, in base64 (RFC 6455 section 4.1).
fn nonce() -> Result<HeaderValue, Refusal> {
    let mut bytes = [0; 16];
    let drawn = crate::tls::provider().secure_random.fill(&mut bytes).ok();
    drawn
        .and_then(|()| HeaderValue::from_str(&STANDARD.encode(bytes)).ok())
        .ok_or_else(|| Refusal::Unavailable("the system has no random bytes".to_owned()))
}

fn accept(key: &[u8]) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_example_of_the_standard() {
        assert_eq!(super::accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
