//! WebSocket handshakes (RFC 6455): the one upgrade that passes, and only after a rule allowed it.
//!
//! The upstream's 101 is verified (protocol, `Sec-WebSocket-Accept`) before either side becomes a byte stream; any
//! other answer is an ordinary response. Where the handshake was judged by rules, so is each message of the client's:
//! [`crate::protocol::websocket`].

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::body::Incoming;
use sha1::{Digest, Sha1};

use crate::answer::{Known, Refusal};
use crate::body::{Body, empty};
use crate::conn::{Conn, Next};
use crate::credentials::Guard;
use crate::hop;
use crate::protocol::websocket::Judge;
use crate::tracker::Live;
use crate::upstream::Sender;
use crate::verdict::Permitted;

/// RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A handshake that was sent and waits for its answer.
pub(crate) struct Handshake {
    accept: String,
}

impl Handshake {
    /// Reads the key of a request that is known to be a whole handshake.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        match headers.get(header::SEC_WEBSOCKET_KEY) {
            Some(key) => Ok(Self { accept: accept(key.as_bytes()) }),
            None => Err(Refusal::BadRequest("the WebSocket handshake has no key".to_owned())),
        }
    }

    /// The two fields that hop-by-hop cleaning took off, as the standard wants them.
    pub(crate) fn put_back(&self, headers: &mut HeaderMap) {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }

    /// Verifies the upstream's 101, leaves the tunnel for the connection's task, and answers the agent.
    pub(crate) fn conclude(
        self,
        conn: &Arc<Conn>,
        response: Response<Incoming>,
        live: Live,
        (sender, permitted, guard): (&Sender, &Permitted, Option<Guard>),
        known: &Known,
    ) -> Result<Response<Body>, Refusal> {
        let headers = response.headers();
        let verified = hop::names(headers, header::UPGRADE, "websocket")
            && hop::names(headers, header::CONNECTION, "upgrade")
            && headers.get_all(header::SEC_WEBSOCKET_ACCEPT).iter().count() == 1
            && headers
                .get(header::SEC_WEBSOCKET_ACCEPT)
                .is_some_and(|value| value.as_bytes() == self.accept.as_bytes());
        let judge = is_judged(conn, permitted)
            .then(|| Judge { granted: permitted.granted.clone(), exchange: permitted.exchange.clone() });
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
        let mut headers = headers.clone();
        hop::strip(&mut headers);
        if let Some(guard) = &guard {
            guard.headers(&mut headers);
        }
        self.put_back(&mut headers);
        let upgrade = hyper::upgrade::on(response);
        let (driver, known) = (sender.driver(), known.clone());
        conn.set_next(Next::WebSocket { upgrade, driver, live, known, judge, guard });
        let mut answer = Response::new(empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = headers;
        Ok(answer)
    }
}

/// Whether the client's messages are read: where rules judge them, and where a placeholder might stand in one.
pub(crate) fn is_judged(conn: &Conn, permitted: &Permitted) -> bool {
    permitted.allowed.is_some() || !conn.deps.credentials.is_empty()
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
