//! Sends a permitted request to its destination and brings the answer back.
//!
//! What is sent is what was judged: target and `Host` are made from the canonical forms, hop-by-hop fields
//! stay behind, the body is framed anew. Nothing is sent before the decision is on record, nothing is sent
//! again that a server may have looked at, and no redirect is followed.

mod connection;
mod outgoing;

use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use policy::{Denial, Layer};

use crate::answer::{Known, Refusal};
use crate::body::{Body, empty};
use crate::conn::Conn;
use crate::credentials::{Guard, Sent};
use crate::intent::{Exchange, Scope};
use crate::interim::{Expected, Interim};
use crate::limits::FIRST_BYTE_DEADLINE;
use crate::message::{Download, Ledger, Source, Upload};
use crate::pool::Key;
use crate::road::Answer;
use crate::tracker::{Live, RequestSlot};
use crate::upstream::{Sender, Unanswered, Wire};
use crate::verdict::Permitted;
use crate::websocket::{self, Handshake};
use crate::{hop, outcome, shelf};

pub(crate) use outgoing::{authority, clean};

/// A permitted request with all its parts.
pub(crate) struct Asked<'a> {
    pub(crate) permitted: Permitted,
    pub(crate) parts: Parts,
    /// The body, and what else is sent in another form than it was judged in.
    pub(crate) sent: Sent,
    pub(crate) known: &'a Known,
    pub(crate) started: Instant,
    /// Its place among the requests in flight.
    pub(crate) turn: RequestSlot,
}

/// See the module.
pub(crate) async fn forward(conn: &Arc<Conn>, asked: Asked<'_>) -> Result<Answer, Refusal> {
    let Asked { permitted, mut parts, sent, known, started, turn } = asked;
    let exchange = permitted.exchange();
    let wire = wire(&conn.scope, exchange, parts.version);
    let Some(grant) = permitted.granted().grant() else {
        return Err(Refusal::Unavailable("the gateway is not dialled".to_owned()));
    };
    let destination = permitted.granted().destination().clone();
    let caller = Arc::clone(permitted.granted().caller());
    let key = Key { caller, destination, wire, addresses: grant.addresses.clone() };
    let mut sender = connection::connection(conn, &key, &permitted, known, started).await?;
    let tracked =
        conn.deps.tracker.track(permitted.granted().clone(), Some(exchange.clone()), Some(sender.reached()));
    let live = Arc::new(tracked.await);
    if live.is_revoked() {
        return Err(revoked());
    }
    let ledger = Ledger::open(conn, known, started, turn);
    let handshake = exchange.websocket.then(|| Handshake::of(&parts)).transpose()?;
    if shelf::binds_its_connection(&parts.headers) {
        conn.pool.keep_private();
    }
    clean(&mut parts.headers);
    let guard = conn
        .deps
        .credentials
        .guard(&key.destination, || outcome::reader(&conn.deps, permitted.granted().caller().party, known));
    if guard.is_some() {
        Guard::asks_in_clear(&mut parts.headers);
    }
    if handshake.is_some() && websocket::is_judged(conn, &permitted) {
        // With an extension, such as compression, the content of frames couldn't be judged.
        parts.headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
    }
    let tripped = sent.body.tripped();
    let hears = guard.is_none() && handshake.is_none() && takes_interim_answers(conn, &parts);
    let expected = conn.interim().filter(|_| hears).map(Interim::expect);
    let Sent { query, body, .. } = sent;
    let query = query.as_ref().map(|query| query.as_str());
    let has_body = !body.is_end_stream();
    let body = Upload::of(body, &ledger, Some(&live));
    let request = outgoing::outgoing(&parts, &permitted, query, body)?;
    let again = || match has_body {
        false => outgoing::outgoing(&parts, &permitted, query, empty()),
        true => Err(Refusal::Unreachable("the destination did not take the request; try again".to_owned())),
    };
    let sending = Sending {
        conn,
        key: &key,
        permitted: &permitted,
        handshake: handshake.as_ref(),
        live: &live,
        ledger: &ledger,
        expected: expected.as_ref(),
    };
    let mut response = sending.exchange(&mut sender, request, again).await.map_err(|refusal| {
        let refusal = tripped.denial().map_or(refusal, |denial| permitted.but(denial.clone()));
        ledger.fault(refusal.detail());
        refusal
    })?;
    if let Some(expected) = expected {
        expected.settled().await;
    }
    ledger.answered(response.status());
    if guard.is_some() && !Guard::is_clear(response.status(), response.headers()) {
        return Err(Refusal::Unreachable(
            "the destination compressed its answer unasked, sent a piece, or wrote it in another charset, so it can't be searched for credentials"
                .to_owned(),
        ));
    }
    let handshake = match handshake {
        Some(handshake) if Handshake::is_agreed(response.status(), sender.is_http2()) => {
            return handshake.conclude(conn, response, (live, ledger), (sender, &permitted, guard), known);
        }
        handshake => handshake,
    };
    answers_a_request(&response, handshake.as_ref())?;
    hop::settle_length(response.headers_mut()).map_err(|why| Refusal::Unreachable(why.to_string()))?;
    let closes = handshake.is_some_and(|handshake| handshake.closes());
    let source = Source { live, _driver: sender.driver(), sender: Some((key, sender)) };
    Ok((incoming(response, source, ledger, guard, closes), None))
}

/// Whether interim answers may be passed on: only on HTTP/1.1, and only if all requests of the connection
/// have one destination. A client that mistakes an interim answer for the final one would take the final one
/// for the answer to its next request, which might be another destination's.
fn takes_interim_answers(conn: &Conn, parts: &Parts) -> bool {
    parts.version == Version::HTTP_11 && conn.scope.leads_to().is_some()
}

/// Checks that a response is an ordinary answer: no 101, and none that the agent would take for acceptance of
/// its WebSocket handshake.
fn answers_a_request(response: &Response<Incoming>, handshake: Option<&Handshake>) -> Result<(), Refusal> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // A tunnel that was not asked for: both sides are closed.
        return Err(Refusal::Unreachable("the destination switched protocols unasked".to_owned()));
    }
    if handshake.is_some_and(|handshake| handshake.misleads(response.status())) {
        return Err(Refusal::Unreachable(
            "the destination took the WebSocket handshake for a request".to_owned(),
        ));
    }
    Ok(())
}

/// Returns what to speak upstream. Without TLS, that is the HTTP version that the client spoke, since the
/// client knows its server. For a request in absolute form it is HTTP/1.1: its version says only what the
/// client speaks with a proxy.
fn wire(scope: &Scope, exchange: &Exchange, version: Version) -> Wire {
    match (exchange.tls, exchange.websocket) {
        (true, false) => Wire::Tls,
        (true, true) => Wire::TlsHttp1,
        (false, _) if version == Version::HTTP_2 && *scope != Scope::Explicit => Wire::PlainHttp2,
        (false, _) => Wire::Plain,
    }
}

enum Failed {
    /// Not a byte was sent.
    Unsent(Box<Request<Body>>),
    /// The server says that it has not looked at the request.
    Untouched,
    Refused(Refusal),
}

/// A request that is being sent: the agent's connection, the decision that allows it, and the ledger that
/// shows whether its body moves.
struct Sending<'a> {
    conn: &'a Arc<Conn>,
    key: &'a Key,
    permitted: &'a Permitted,
    handshake: Option<&'a Handshake>,
    live: &'a Live,
    ledger: &'a Ledger,
    /// Takes interim answers, if they may be passed on.
    expected: Option<&'a Expected>,
}

impl Sending<'_> {
    /// Sends the request and waits for the head of its answer. If the connection was gone before a byte of
    /// the request left, or the server says that it has not looked at the request, sends it once more, on a
    /// new connection, which becomes `sender`. `again` makes the request anew.
    async fn exchange(
        &self,
        sender: &mut Sender,
        request: Request<Body>,
        again: impl Fn() -> Result<Request<Body>, Refusal>,
    ) -> Result<Response<Incoming>, Refusal> {
        let request = match self.send(sender, request).await {
            Ok(response) => return Ok(response),
            Err(Failed::Refused(refusal)) => return Err(refusal),
            Err(Failed::Unsent(request)) => *request,
            Err(Failed::Untouched) => again()?,
        };
        *sender = connection::dial(self.conn, self.key, self.permitted).await?;
        self.live.leads_to(sender.reached()).await;
        if self.live.is_revoked() {
            return Err(revoked());
        }
        self.send(sender, request).await.map_err(|failed| match failed {
            Failed::Refused(refusal) => refusal,
            Failed::Unsent(_) | Failed::Untouched => {
                let why = "the destination closes every connection".to_owned();
                Refusal::Unreachable(sender.fault().unwrap_or(why))
            }
        })
    }

    async fn send(&self, sender: &mut Sender, request: Request<Body>) -> Result<Response<Incoming>, Failed> {
        let request = self.shape(request, sender).map_err(Failed::Refused)?;
        let result = self.answered(sender.send(request)).await.map_err(Failed::Refused)?;
        result.map_err(|unanswered| self.failed(sender, unanswered))
    }

    fn shape(&self, request: Request<Body>, sender: &Sender) -> Result<Request<Body>, Refusal> {
        let destination = self.permitted.granted().destination();
        let tls = self.permitted.exchange().tls;
        let mut request = outgoing::reshape(request, destination, tls, sender, self.handshake)?;
        if let Some(expected) = self.expected.filter(|_| !sender.is_http2()) {
            expected.listen(&mut request);
        }
        Ok(request)
    }

    /// Waits for the answer's head, until the decision is revoked or the upload stands still for
    /// [`FIRST_BYTE_DEADLINE`].
    async fn answered<T>(&self, sending: impl Future<Output = T>) -> Result<T, Refusal> {
        let fallen = self.live.revoked();
        // Interim answers don't restart the clock: they are no answer.
        let silence = tokio::time::sleep(FIRST_BYTE_DEADLINE);
        tokio::pin!(sending, fallen, silence);
        let mut sent = self.ledger.up();
        loop {
            tokio::select! {
                result = &mut sending => return Ok(result),
                () = &mut fallen => return Err(revoked()),
                () = arrived(self.expected) => {}
                () = &mut silence => {
                    // While the upload moves, the destination may be silent.
                    let now = self.ledger.up();
                    if now == sent {
                        return Err(Refusal::Timeout("the destination did not answer in time".to_owned()));
                    }
                    sent = now;
                    silence.as_mut().reset(tokio::time::Instant::now() + FIRST_BYTE_DEADLINE);
                }
            }
        }
    }

    fn failed(&self, sender: &Sender, unanswered: Unanswered) -> Failed {
        if let Some(violation) = self.conn.violation() {
            return Failed::Refused(Refusal::Malformed(violation));
        }
        match unanswered {
            Unanswered::Unsent(request) => Failed::Unsent(request),
            Unanswered::Untouched => Failed::Untouched,
            Unanswered::Lost(error) => {
                tracing::debug!(%error, "upstream gave no answer");
                let why = "the destination broke off or did not answer in HTTP".to_owned();
                Failed::Refused(Refusal::Unreachable(sender.fault().unwrap_or(why)))
            }
        }
    }
}

async fn arrived(expected: Option<&Expected>) {
    match expected {
        Some(expected) => expected.arrived().await,
        None => std::future::pending().await,
    }
}

fn revoked() -> Refusal {
    Refusal::Denied(Denial {
        layer: Layer::L4,
        detail: "the policy changed and no longer allows this".to_owned(),
        policy: None,
        hint: None,
    })
}

fn incoming(
    response: Response<Incoming>,
    source: Source,
    ledger: Arc<Ledger>,
    guard: Option<Guard>,
    closes: bool,
) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    hop::strip(&mut parts.headers);
    if closes {
        // The agent's side stopped reading requests when it saw the upgrade.
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let body = match guard {
        None => Download::new(body, ledger, Some(source)).boxed_unsync(),
        Some(guard) => {
            guard.headers(&mut parts.headers);
            Download::new(guard.body(body), ledger, Some(source)).boxed_unsync()
        }
    };
    Response::from_parts(parts, body)
}
