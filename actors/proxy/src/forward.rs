//! Sends a permitted request to its destination and brings the answer back.
//!
//! What is sent is what was judged: target and `Host` are made from the canonical forms, hop-by-hop fields stay
//! behind, the body is framed anew. Nothing is sent before the decision is on record, nothing is sent twice, and no
//! redirect is followed.

use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use policy::{Denial, Destination, Layer};

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
use crate::tracker::{InTurn, Live};
use crate::upstream::{Purpose, Sender, Unopened, Unsent, Wire};
use crate::verdict::Permitted;
use crate::websocket::{self, Handshake};
use crate::{address, hop, misleading, outcome};

/// A permitted request with all its parts.
pub(crate) struct Asked<'a> {
    pub(crate) permitted: Permitted,
    pub(crate) parts: Parts,
    /// What of it is sent in another form than it was judged in, and its body.
    pub(crate) sent: Sent,
    pub(crate) known: &'a Known,
    pub(crate) started: Instant,
    /// Its place among the requests in flight.
    pub(crate) turn: InTurn,
}

/// See the module.
pub(crate) async fn forward(conn: &Arc<Conn>, asked: Asked<'_>) -> Result<Answer, Refusal> {
    let Asked { permitted, mut parts, sent, known, started, turn } = asked;
    let exchange = &permitted.exchange;
    let wire = wire(&conn.scope, exchange, parts.version);
    let Some(grant) = &permitted.granted.grant else {
        return Err(Refusal::Unavailable("the gateway is not dialled".to_owned()));
    };
    let destination = permitted.granted.destination.clone();
    let caller = Arc::clone(&permitted.granted.caller);
    let key = Key { caller, destination, wire, addresses: grant.addresses.clone() };
    let mut sender = connection(conn, &key, &permitted, known, started).await?;
    let tracked =
        conn.deps.tracker.track(permitted.granted.clone(), Some(exchange.clone()), Some(sender.reached()));
    let live = Arc::new(tracked.await);
    if live.is_revoked() {
        return Err(revoked());
    }
    let ledger = Ledger::open(conn, known, started, turn.clone());
    let handshake = exchange.websocket.then(|| Handshake::of(&parts)).transpose()?;
    clean(&mut parts.headers);
    let guard = conn
        .deps
        .credentials
        .guard(&key.destination, || outcome::reader(&conn.deps, permitted.granted.caller.party, known));
    if guard.is_some() {
        Guard::asks_in_clear(&mut parts.headers);
    }
    if handshake.is_some() && websocket::is_judged(conn, &permitted) {
        // With an extension (compression, for one) frames would say what nobody can judge.
        parts.headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
    }
    let tripped = sent.body.tripped();
    let request = outgoing(&parts, &permitted, sent, (&ledger, &live))?;
    // Where an answer is searched for credentials, or is no answer, nothing comes before it. Nor where other requests of the connection go
    // elsewhere: a client that takes an interim answer for its answer would take the answer for the next one's, which is another destination's.
    let hears = guard.is_none()
        && handshake.is_none()
        && parts.version == Version::HTTP_11
        && conn.scope.leads_to().is_some();
    let expected = conn.interim().filter(|_| hears).map(Interim::expect);
    let shape = |request, sender: &Sender| {
        let mut request =
            reshape(request, &permitted.granted.destination, exchange.tls, sender, handshake.as_ref())?;
        if let Some(expected) = expected.as_ref().filter(|_| !sender.is_http2()) {
            expected.listen(&mut request);
        }
        Ok::<_, Refusal>(request)
    };
    let request = shape(request, &sender)?;
    let waits = (&*live, &*ledger, expected.as_ref());
    let response = match send(conn, &mut sender, request, waits).await {
        Ok(response) => response,
        Err(Failed::Refused(refusal)) => {
            let refusal = tripped.denial().map_or(refusal, |denial| permitted.but(denial.clone()));
            ledger.fault(refusal.detail());
            return Err(refusal);
        }
        // The pooled connection was gone before a byte of the request left: this is still the first sending.
        Err(Failed::Unsent(request)) => {
            sender = dial(conn, &key, &permitted).await?;
            live.leads_to(sender.reached()).await;
            if live.is_revoked() {
                return Err(revoked());
            }
            let request = shape(*request, &sender)?;
            match send(conn, &mut sender, request, waits).await {
                Ok(response) => response,
                Err(Failed::Refused(refusal)) => return Err(refusal),
                Err(Failed::Unsent(_)) => {
                    let why = "the destination closes every connection".to_owned();
                    return Err(Refusal::Unreachable(sender.fault().unwrap_or(why)));
                }
            }
        }
    };
    if let Some(expected) = expected {
        expected.settled().await;
    }
    ledger.answered(response.status());
    if guard.is_some() && !Guard::is_clear(response.status(), response.headers()) {
        return Err(Refusal::Unreachable(
            "the destination compressed its answer unasked, or sent a piece, so it can't be searched for credentials"
                .to_owned(),
        ));
    }
    let handshake = match handshake {
        Some(handshake) if Handshake::is_agreed(response.status(), sender.is_http2()) => {
            return handshake.conclude(conn, response, (live, turn), (sender, &permitted, guard), known);
        }
        handshake => handshake,
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // A tunnel that nobody asked for: both sides are closed.
        return Err(Refusal::Unreachable("the destination switched protocols unasked".to_owned()));
    }
    if handshake.as_ref().is_some_and(|handshake| handshake.misleads(response.status())) {
        return Err(Refusal::Unreachable(
            "the destination took the WebSocket handshake for a request".to_owned(),
        ));
    }
    let closes = handshake.is_some_and(|handshake| handshake.closes());
    let source = Source { live, _driver: sender.driver(), sender: Some((key, sender)) };
    Ok((incoming(response, source, ledger, guard, closes), None))
}

/// What to speak upstream. In the clear that is what the client spoke, which knows its server; of a request in absolute form it
/// says only what it speaks with a proxy.
fn wire(scope: &Scope, exchange: &Exchange, version: Version) -> Wire {
    match (exchange.tls, exchange.websocket) {
        (true, false) => Wire::Tls,
        (true, true) => Wire::TlsHttp1,
        (false, _) if version == Version::HTTP_2 && *scope != Scope::Explicit => Wire::PlainHttp2,
        (false, _) => Wire::Plain,
    }
}

/// An open connection: a pooled one, or a new one to an address judged now. Either way the decision is on record
/// before this returns.
async fn connection(
    conn: &Arc<Conn>,
    key: &Key,
    permitted: &Permitted,
    known: &Known,
    started: Instant,
) -> Result<Sender, Refusal> {
    let journal = &*conn.deps.journal;
    if let Some(sender) = pooled(conn, key, permitted).await {
        outcome::request_allowed(journal, known, permitted, started.elapsed())?;
        return Ok(sender);
    }
    let _opening = conn.pool.opening(key).await;
    if let Some(sender) = pooled(conn, key, permitted).await {
        outcome::request_allowed(journal, known, permitted, started.elapsed())?;
        return Ok(sender);
    }
    let addresses = match conn.take_addresses(&key.addresses) {
        Some(fresh) => fresh,
        None => address::Judged::of(&conn.deps, &permitted.granted).await?,
    };
    outcome::request_allowed(journal, known, permitted, started.elapsed())?;
    open(conn, key, permitted, &addresses).await
}

/// One that is open and takes this request.
async fn pooled(conn: &Conn, key: &Key, permitted: &Permitted) -> Option<Sender> {
    let sender = conn.pool.take(key).await?;
    (!permitted.exchange.websocket || sender.takes_websockets().await).then_some(sender)
}

async fn dial(conn: &Conn, key: &Key, permitted: &Permitted) -> Result<Sender, Refusal> {
    open(conn, key, permitted, &address::Judged::of(&conn.deps, &permitted.granted).await?).await
}

/// Dials what was judged a moment ago. A WebSocket has a second way, where the server doesn't speak the first.
async fn open(
    conn: &Conn,
    key: &Key,
    permitted: &Permitted,
    addresses: &address::Judged,
) -> Result<Sender, Refusal> {
    let purpose = if permitted.exchange.websocket { Purpose::WebSocket } else { Purpose::Requests };
    let reach = async |wire| {
        let sender = conn
            .deps
            .upstream
            .open(
                addresses.dial(&conn.deps.tracker, permitted.granted.caller.party).await?,
                &key.destination,
                wire,
                purpose,
            )
            .await?;
        if purpose == Purpose::WebSocket && !sender.takes_websockets().await {
            let why = "the destination speaks HTTP/2, and takes no WebSocket on it (RFC 8441)";
            return Err(Unopened::NotSpoken(Refusal::Unreachable(why.to_owned())));
        }
        Ok(sender)
    };
    let sender = match reach(key.wire).await {
        Err(Unopened::NotSpoken(_)) if purpose == Purpose::WebSocket => {
            let sender = reach(key.wire.otherwise()).await?;
            if !sender.is_http2() {
                // Not what its key stands for.
                return Ok(sender);
            }
            sender
        }
        first => first?,
    };
    conn.pool.opened(key, &sender);
    Ok(sender)
}

enum Failed {
    /// Not a byte was sent.
    Unsent(Box<Request<Body>>),
    Refused(Refusal),
}

/// By what an answer is waited for: the decision, what moves, and what may come before it.
type Waits<'a> = (&'a Live, &'a Ledger, Option<&'a Expected>);

async fn send(
    conn: &Conn,
    sender: &mut Sender,
    request: Request<Body>,
    waits: Waits<'_>,
) -> Result<Response<Incoming>, Failed> {
    let result = sent(sender.send(request), waits).await?;
    result.map_err(|unsent| failed(conn, sender, unsent))
}

/// Waits for the answer's head, as long as the decision stands and something moves.
async fn sent<T>(sending: impl Future<Output = T>, (live, ledger, expected): Waits<'_>) -> Result<T, Failed> {
    let fallen = live.revoked();
    // One clock for all of it: what comes before an answer is none.
    let silence = tokio::time::sleep(FIRST_BYTE_DEADLINE);
    tokio::pin!(sending, fallen, silence);
    let mut sent = ledger.up();
    loop {
        tokio::select! {
            result = &mut sending => return Ok(result),
            () = &mut fallen => return Err(Failed::Refused(revoked())),
            () = arrived(expected) => {}
            () = &mut silence => {
                // An upload that still moves is no silence.
                let now = ledger.up();
                if now == sent {
                    let why = "the destination did not answer in time".to_owned();
                    return Err(Failed::Refused(Refusal::Timeout(why)));
                }
                sent = now;
                silence.as_mut().reset(tokio::time::Instant::now() + FIRST_BYTE_DEADLINE);
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

fn failed(conn: &Conn, sender: &Sender, unsent: Unsent) -> Failed {
    if let Some(violation) = conn.violation() {
        return Failed::Refused(Refusal::Malformed(violation));
    }
    match unsent.request {
        Some(request) => Failed::Unsent(request),
        None => {
            tracing::debug!(error = %unsent.error, "upstream gave no answer");
            let why = "the destination broke off or did not answer in HTTP".to_owned();
            Failed::Refused(Refusal::Unreachable(sender.fault().unwrap_or(why)))
        }
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

/// Takes off what stays on the agent's side.
pub(crate) fn clean(headers: &mut HeaderMap) {
    hop::strip(headers);
    misleading::drop_from(headers);
    // We answer `Expect` ourselves, when the body is first asked for.
    headers.remove(header::EXPECT);
    join_cookies(headers);
}

/// HTTP/2 may split `Cookie`; servers of HTTP/1 read only one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

fn outgoing(
    parts: &Parts,
    permitted: &Permitted,
    sent: Sent,
    (ledger, live): (&Arc<Ledger>, &Arc<Live>),
) -> Result<Request<Body>, Refusal> {
    let Sent { query, body, .. } = sent;
    let exchange = &permitted.exchange;
    let unsized_body = !body.is_end_stream() && !parts.headers.contains_key(header::CONTENT_LENGTH);
    let body = match body.is_end_stream() {
        true => empty(),
        false => Upload::new(body, Arc::clone(ledger), Some(Arc::clone(live))).boxed_unsync(),
    };
    let mut request = Request::new(body);
    *request.method_mut() = exchange.method.clone();
    *request.headers_mut() = parts.headers.clone();
    let target = match query.as_ref().map(|query| query.as_str()).or(exchange.query.as_str()) {
        Some(query) => format!("{}?{query}", exchange.path.as_str()),
        None => exchange.path.as_str().to_owned(),
    };
    *request.uri_mut() = uri(target)?;
    // The library takes a GET of unknown length for one without a body unless it is told.
    if unsized_body && matches!(exchange.method, Method::GET | Method::HEAD) {
        request.extensions_mut().insert(Chunked);
    }
    Ok(request)
}

/// The request has a body whose length nobody stated.
#[derive(Debug, Clone, Copy)]
struct Chunked;

/// Gives a request the form that its connection's protocol wants.
fn reshape(
    mut request: Request<Body>,
    destination: &Destination,
    tls: bool,
    sender: &Sender,
    handshake: Option<&Handshake>,
) -> Result<Request<Body>, Refusal> {
    let authority = authority(destination, tls);
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    request.headers_mut().remove(header::HOST);
    if sender.is_http2() {
        let scheme = if tls { "https" } else { "http" };
        *request.uri_mut() = uri(format!("{scheme}://{authority}{target}"))?;
        *request.version_mut() = Version::HTTP_2;
    } else {
        *request.uri_mut() = uri(target)?;
        *request.version_mut() = Version::HTTP_11;
        let host = HeaderValue::from_str(&authority)
            .map_err(|_| Refusal::BadRequest("the host fits no header".to_owned()))?;
        request.headers_mut().insert(header::HOST, host);
        if request.extensions().get::<Chunked>().is_some() {
            request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    if let Some(handshake) = handshake {
        handshake.shape(&mut request, sender.is_http2());
    }
    Ok(request)
}

/// Host and port as clients write them: the scheme's own port is left out.
pub(crate) fn authority(destination: &Destination, tls: bool) -> String {
    match (destination.port, tls) {
        (443, true) | (80, false) => destination.host.to_string(),
        _ => destination.to_string(),
    }
}

fn uri(text: String) -> Result<Uri, Refusal> {
    Uri::try_from(text).map_err(|_| Refusal::BadRequest("the target fits no request".to_owned()))
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
