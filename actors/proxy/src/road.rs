//! The road, walked once for each request: the one place that authorises.
//!
//! CONNECT, captured connections, absolute form, requests inside a tunnel and requests for the gateway differ
//! only in how their [`Intent`] is made. Read top to bottom; each line's type can only be made by the line
//! before it.

use std::sync::Arc;
use std::time::Instant;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use policy::Generation;

use crate::answer::{Known, Refusal, without_body};
use crate::approval::{self, Ruling, Unnamed};
use crate::body::Body;
use crate::caller::{Claim, JudgedCaller};
use crate::conn::{Conn, Deps, Next};
use crate::intent::{Ask, Intent};
use crate::limits::FREE_HEAD_BYTES;
use crate::tracker::UnchargedRequest;
use crate::verdict::{Granted, Permitted};
use crate::{credentials, forward, grpc, local, outcome, protocol, tunnel};

/// An answer, and what its connection or stream becomes after it.
pub(crate) type Answer = (Response<Body>, Option<Next>);

/// Answers one request, whatever it is.
pub(crate) async fn answer(conn: Arc<Conn>, mut request: Request<Incoming>) -> Response<Body> {
    let _in_flight = conn.enter();
    let started = Instant::now();
    let (version, method) = (request.version(), request.method().clone());
    let stream = (version == Version::HTTP_2).then(|| hyper::upgrade::on(&mut request));
    let in_grpc = stream.is_some() && grpc::asked(&method, request.headers());
    let is_last = version != Version::HTTP_2 && pins_memory(&conn, &request);
    let mut known = conn.known();
    let answered = match conn.deps.tracker.turn(conn.claim.party()) {
        Ok(turn) => walk(&conn, request, (&mut known, started), turn).await,
        Err(full) => Err(full),
    };
    let response = match answered.and_then(|answer| go_on(&conn, answer, stream, is_last)) {
        Ok(response) => response,
        Err(refusal) => {
            let refusal = outcome::refused(&*conn.deps.journal, &known, refusal, started.elapsed());
            conn.note_refused();
            let mut response = grpc::refused(in_grpc, &refusal, &known);
            if version != Version::HTTP_2 {
                // Nothing that was sent behind a refused request is ever looked at.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    };
    // For HTTP/1, hyper does so by itself.
    if version == Version::HTTP_2 { without_body(&method, response) } else { response }
}

/// Hands over to what follows the answer: with HTTP/1 the whole connection becomes something else, with
/// HTTP/2 only the request's own stream (`stream`).
fn go_on(
    conn: &Arc<Conn>,
    (mut response, next): Answer,
    stream: Option<OnUpgrade>,
    is_last: bool,
) -> Result<Response<Body>, Refusal> {
    match (next, stream) {
        (None, _) if is_last => {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        (None, _) => {}
        (Some(next), None) => conn.set_next(next),
        (Some(next), Some(stream)) => {
            // Such a stream counts as a connection of its own.
            let mut place = conn.deps.tracker.admit().ok_or_else(|| {
                Refusal::Unavailable("this sandbox has as many connections open as it may".to_owned())
            })?;
            place.belongs_to(conn.claim.party())?;
            tokio::spawn(tunnel::on_stream(Arc::clone(conn), next, stream, place));
        }
    }
    Ok(response)
}

/// Whether the connection would keep too much memory when idle, while many are open: hyper's buffer stays as
/// large as the longest head was.
fn pins_memory<B>(conn: &Conn, request: &Request<B>) -> bool {
    let fields = || request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    conn.deps.tracker.is_crowded() && target + fields().sum::<usize>() > FREE_HEAD_BYTES
}

async fn walk(
    conn: &Arc<Conn>,
    request: Request<Incoming>,
    (known, started): (&mut Known, Instant),
    turn: UnchargedRequest,
) -> Result<Answer, Refusal> {
    let (mut parts, body) = request.into_parts();
    known.method = Some(parts.method.as_str().into());
    let intent = Intent::of(&conn.scope, &parts).inspect_err(|_| {
        known.destination = known.destination.take().or_else(|| Intent::place(&conn.scope, &parts));
    })?;
    known.destination.get_or_insert_with(|| intent.destination().clone());
    if let Ask::Exchange(exchange) = intent.ask() {
        known.method = Some(exchange.method.as_str().into());
        known.path = Some(exchange.path.shared().into());
    }
    let Authorised { caller, generation, granted } =
        authorise(&conn.deps, &conn.claim, &intent, known).await?;
    match intent.ask() {
        Ask::Tunnel => tunnel::open(conn, granted, known, started).await,
        Ask::Exchange(exchange) => {
            conn.sits_for(caller.party)?;
            let turn = turn.of(caller.party)?;
            let mut exchange = exchange.clone();
            let body = protocol::read(conn, &generation, &granted, &mut exchange, &parts, body).await?;
            let permitted = Permitted::judge(&generation, granted, exchange)?;
            known.policy = permitted.entry().cloned();
            conn.pool.claim(&caller);
            let sent = credentials::apply(conn, &generation, &permitted, &mut parts, body).await?;
            known.credentials = sent.carried.clone();
            let asked = forward::Asked { permitted, parts, sent, known, started, turn };
            if intent.is_inference() {
                Ok((local::serve(conn, asked).await?, None))
            } else {
                forward::forward(conn, asked).await
            }
        }
    }
}

/// A caller that may reach an intent's destination, and the generation of the policy that says so.
pub(crate) struct Authorised {
    pub(crate) caller: JudgedCaller,
    pub(crate) generation: Arc<Generation>,
    pub(crate) granted: Granted,
}

/// Identifies the caller, and judges whether it may reach the intent's destination.
pub(crate) async fn authorise(
    deps: &Deps,
    claim: &Arc<Claim>,
    intent: &Intent,
    known: &mut Known,
) -> Result<Authorised, Refusal> {
    if !deps.journal.has_room() {
        deps.journal.room().await;
    }
    let caller = identified(deps, claim, known).await?;
    let generation = deps.policy.load();
    known.generation = Some(generation.number);
    let authorised = match approval::rule(deps, &generation, intent, &caller)? {
        Ruling::Granted(granted) => Authorised { caller, generation, granted },
        Ruling::Unnamed(denial) => {
            let unnamed = Unnamed { caller, generation, denial };
            Box::pin(approval::ask(deps, claim, intent, known, unnamed)).await?
        }
    };
    known.policy = authorised.granted.entry().cloned();
    Ok(authorised)
}

/// Identifies the caller of this request. What `known` says of the tunnel's entry and caller is replaced.
pub(crate) async fn identified(
    deps: &Deps,
    claim: &Arc<Claim>,
    known: &mut Known,
) -> Result<JudgedCaller, Refusal> {
    let judged = claim.judged().await;
    known.policy = None;
    known.caller = judged.as_ref().ok().map(JudgedCaller::shared);
    judged.map_err(|unjudged| {
        known.program = unjudged.program().cloned();
        known.generation = Some(deps.policy.load().number);
        unjudged.into()
    })
}
