//! CONNECT, and what a connection becomes after it.
//!
//! ```text
//! open: granted ─ addresses judged ─ recorded ─┬─ Relay:   dialled ── 200 ── first bytes judged ── bytes relayed
//!                                              └─ Inspect:            200 ── TLS ends here ── each request judged
//! ```
//! A tunnel's first bytes are always looked at ([`first`]); then its bytes are [`relayed`], or its requests
//! [`inspected`](mod@inspected).

mod first;
mod inspected;
mod relayed;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use http::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use policy::{Denial, Treatment};
use telemetry::metrics::{self, Direction};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::absence::Absence;
use crate::address;
use crate::answer::{Known, Refusal};
use crate::body::empty;
use crate::caller::Claim;
use crate::conn::{Conn, Deps, Ground, Next};
use crate::lent::Lent;
use crate::limits::{HELLO_DEADLINE, WRITE_STALL};
use crate::outcome::{self, Finished};
use crate::protocol::websocket;
use crate::relay::{End, Meter, Relayed, Side, Stop};
use crate::road::Answer;
use crate::strict::io::Remains;
use crate::tls::Prefixed;
use crate::tracker::{ConnectionSlot, Live};
use crate::verdict::Granted;

pub(crate) use first::{First, look};
pub(crate) use inspected::inspected;

/// Answers a granted CONNECT. A destination whose bytes are relayed is dialled first, so that a failure is an
/// answer.
pub(crate) async fn open(
    conn: &Arc<Conn>,
    granted: Granted,
    known: &Known,
    started: Instant,
) -> Result<Answer, Refusal> {
    let next = prepare(&conn.deps, granted, known, started).await?;
    Ok((Response::new(empty()), Some(next)))
}

/// Returns what a granted tunnel becomes: resolves and judges its destination, records the decision, and
/// dials if bytes are relayed.
pub(crate) async fn prepare(
    deps: &Deps,
    granted: Granted,
    known: &Known,
    started: Instant,
) -> Result<Next, Refusal> {
    let journal = &*deps.journal;
    Ok(match granted.grant().map(|grant| grant.treatment) {
        None => {
            outcome::tunnel_opened(journal, known, &granted, started.elapsed())?;
            Next::Inspect { granted, addresses: None }
        }
        // No entry or approval allows its name to be looked up yet.
        Some(_) if granted.unlisted().is_some() => {
            outcome::tunnel_opened(journal, known, &granted, started.elapsed())?;
            Next::Inspect { granted, addresses: None }
        }
        Some(treatment) => {
            let addresses = address::JudgedAddresses::of(deps, &granted).await?;
            outcome::tunnel_opened(journal, known, &granted, started.elapsed())?;
            match treatment {
                Treatment::Relay { .. } => {
                    let upstream = addresses.dial(&deps.tracker, granted.caller().party).await?;
                    Next::Relay { upstream, granted, known: known.clone() }
                }
                Treatment::Inspect { .. } => Next::Inspect { granted, addresses: Some(addresses) },
            }
        }
    })
}

/// Goes on with one stream of HTTP/2 after its 200. Boxed, since a tunnel in a stream may lead to streams
/// again.
pub(crate) fn on_stream(
    conn: Arc<Conn>,
    next: Next,
    upgrade: OnUpgrade,
    place: ConnectionSlot,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let (_place, _in_flight) = (place, conn.enter());
        let Ok(Ok(stream)) = timeout(HELLO_DEADLINE, upgrade).await else { return };
        let (stream, back) = Lent::of(TokioIo::new(stream));
        run(&conn, next, Remains { stream, surplus: BytesMut::new() }).await;
        let Ok(mut stream) = back.await else { return };
        // If the client reads nothing, its connection is ended: hyper would hold what it was given for as
        // long as the connection lasts.
        if timeout(WRITE_STALL, stream.shutdown()).await.is_err() {
            conn.end();
        }
    })
}

/// Goes on with a connection after its 200 or 101.
pub(crate) async fn run<T: Side>(conn: &Arc<Conn>, next: Next, remains: Remains<T>) {
    let Remains { stream, surplus } = remains;
    match next {
        Next::Relay { upstream, granted, known } => {
            Box::pin(relayed::relayed(conn, stream, surplus, upstream, granted, known)).await;
        }
        Next::Inspect { granted, addresses } => {
            Box::pin(inspected(&conn.deps, &conn.claim, stream, surplus, granted, addresses)).await;
        }
        websocket @ Next::WebSocket { .. } => {
            Box::pin(messages(conn, websocket, Remains { stream, surplus })).await;
        }
    }
}

/// Passes WebSocket messages until a side is done or the decision is revoked.
async fn messages<T: AsyncRead + AsyncWrite + Unpin>(conn: &Conn, next: Next, remains: Remains<T>) {
    let Next::WebSocket { upgrade, sender: _sender, live, ledger, known, judge, guard } = next else {
        return;
    };
    let started = Instant::now();
    let Ok(Ok(upstream)) = timeout(HELLO_DEADLINE, upgrade).await else { return };
    let agent = Prefixed::new(remains.surplus.freeze(), remains.stream);
    let upstream = TokioIo::new(upstream);
    let talk = judge.as_deref().map(|judge| websocket::Talk {
        deps: &conn.deps,
        claim: &conn.claim,
        known: &known,
        judge,
        guard: guard.as_ref(),
    });
    let meter = Meter::default();
    let stop = stop(conn, &known, &live, &meter);
    ledger.hand_over();
    let (relayed, fault) = websocket::relay(talk.as_ref(), (agent, upstream), &meter, stop).await;
    ended(conn, known, relayed, fault, started);
}

/// Resolves when bytes may no longer pass: their decision was revoked; or another program holds the agent's
/// end, which is recorded; or the client is gone. While the holder can't be found out for long, bytes are
/// held back, which is recorded too.
async fn stop(conn: &Conn, known: &Known, live: &Live, meter: &Meter) -> Stop {
    let refused = |denial| {
        outcome::refused(&*conn.deps.journal, known, Refusal::Denied(denial), Duration::ZERO);
    };
    let hold = |untold: Option<Denial>| {
        meter.held.store(untold.is_some(), Ordering::Relaxed);
        untold.into_iter().for_each(refused);
    };
    let left = async {
        meter.hushed.notified().await;
        let mut absence = Absence::of(&conn.claim);
        poll_fn(|cx| absence.poll_gone(cx, true)).await;
    };
    tokio::select! {
        () = live.revoked() => Stop::Fallen,
        () = left => Stop::Left,
        (why, denial) = conn.claim.changes_hands(|| meter.moved(), hold) => {
            denial.into_iter().for_each(refused);
            why
        }
    }
}

fn ended(conn: &Conn, known: Known, relayed: Relayed, fault: Option<String>, started: Instant) {
    let journal = &conn.deps.journal;
    metrics::proxy_bytes(Direction::Up, relayed.up);
    metrics::proxy_bytes(Direction::Down, relayed.down);
    let fault = match relayed.end {
        End::Done => fault,
        End::Broken => fault.or_else(|| Some("one side broke off".to_owned())),
        End::Idle => Some("nothing moved for too long".to_owned()),
        End::Stopped(why) => Some(why.to_string()),
    };
    journal.finished(&Finished {
        known,
        up: relayed.up,
        down: relayed.down,
        took: started.elapsed(),
        status: None,
        fault,
    });
}

/// Records why a tunnel is closed. It can't be told in HTTP, which is not what the agent speaks.
fn refused(deps: &Deps, claim: &Claim, ground: Ground, denial: Denial) -> (Refusal, Known) {
    let denial = Denial { policy: ground.policy.clone(), ..denial };
    let known = ground.known(claim.client());
    let refusal = outcome::refused(&*deps.journal, &known, Refusal::Denied(denial), Duration::ZERO);
    (refusal, known)
}
