//! CONNECT, and what a connection becomes after it.
//!
//! ```text
//! open: granted ─ addresses judged ─ recorded ─┬─ Relay:   dialled ── 200 ── first bytes judged ── bytes relayed
//!                                              └─ Inspect:            200 ── TLS ends here ── each request judged
//! ```
//! A tunnel's first bytes are always looked at: a ClientHello must name the host that CONNECT named, plain HTTP has
//! no business at 443, and what is not HTTP is never spliced through where requests are to be judged.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::BytesMut;
use http::Response;
use policy::{Denial, Destination, Layer, Treatment};
use telemetry::metrics::{self, Direction};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::answer::{Known, Refusal};
use crate::body::{Body, empty};
use crate::caller::Claim;
use crate::conn::{Conn, Deps, Next};
use crate::guard::Connected;
use crate::intent::Scope;
use crate::limits::{HELLO_DEADLINE, KEEP_ALIVE_IDLE, TLS_HANDSHAKE, TUNNEL_IDLE};
use crate::outcome::Finished;
use crate::protocol::websocket;
use crate::relay::{End, Relayed, quiet, relay};
use crate::splice::pump;
use crate::strict::io::Remains;
use crate::tls::{Alpn, BadHello, Hello, Parsed, Prefixed, parse_hello};
use crate::verdict::Granted;
use crate::{address, outcome, serve};

/// Ports where a client that does not begin with TLS is at the wrong door.
const TLS_PORT: u16 = 443;
/// Room for a ClientHello of the usual length.
const FIRST_READ_BYTES: usize = 2048;

/// Answers a granted CONNECT. A destination whose bytes are relayed is dialled first, so that a failure is an answer.
pub(crate) async fn open(
    conn: &Arc<Conn>,
    granted: Granted,
    known: &Known,
    started: Instant,
) -> Result<Response<Body>, Refusal> {
    conn.set_next(prepare(&conn.deps, granted, known, started).await?);
    Ok(Response::new(empty()))
}

/// What a granted tunnel becomes: resolved and judged, on record, and dialled where bytes are relayed.
pub(crate) async fn prepare(
    deps: &Deps,
    granted: Granted,
    known: &Known,
    started: Instant,
) -> Result<Next, Refusal> {
    let journal = &*deps.journal;
    Ok(match granted.grant.as_ref().map(|grant| grant.treatment) {
        None => {
            outcome::tunnel_allowed(journal, known, &granted, started.elapsed())?;
            Next::Inspect { granted, addresses: None }
        }
        Some(treatment) => {
            let addresses = address::Judged::of(&deps.resolver, &granted).await?;
            outcome::tunnel_allowed(journal, known, &granted, started.elapsed())?;
            match treatment {
                Treatment::Relay { .. } => {
                    let upstream = addresses.dial().await?;
                    Next::Relay { upstream, granted, known: known.clone() }
                }
                Treatment::Inspect { .. } => Next::Inspect { granted, addresses: Some(addresses) },
            }
        }
    })
}

/// Goes on with a connection after its 200 or 101.
pub(crate) async fn run(conn: &Arc<Conn>, next: Next, remains: Remains<TcpStream>) {
    let Remains { stream, surplus } = remains;
    match next {
        Next::Relay { upstream, granted, known } => {
            Box::pin(relayed(conn, stream, surplus, upstream, granted, known)).await;
        }
        Next::Inspect { granted, addresses } => {
            Box::pin(inspected(&conn.deps, &conn.claim, stream, surplus, granted, addresses)).await;
        }
        websocket @ Next::WebSocket { .. } => {
            Box::pin(messages(conn, websocket, Remains { stream, surplus })).await;
        }
    }
}

/// Passes WebSocket messages until a side is done or the decision falls.
async fn messages<T: AsyncRead + AsyncWrite + Unpin>(conn: &Conn, next: Next, remains: Remains<T>) {
    let Next::WebSocket { upgrade, driver: _driver, live, known, judge, guard } = next else { return };
    let started = Instant::now();
    let Ok(Ok(upstream)) = timeout(HELLO_DEADLINE, upgrade).await else { return };
    let agent = Prefixed::new(remains.surplus.freeze(), remains.stream);
    let upstream = hyper_util::rt::TokioIo::new(upstream);
    let (relayed, fault) = match &judge {
        Some(judge) => {
            let talk = websocket::Talk { deps: &conn.deps, known: &known, judge, guard: guard.as_ref() };
            websocket::relay(&talk, (agent, upstream), live.revoked()).await
        }
        None => (relay(agent, upstream, TUNNEL_IDLE, live.revoked()).await, None),
    };
    ended(conn, known, relayed, fault, started);
}

fn finished(conn: &Conn, known: Known, relayed: Relayed, started: Instant) {
    ended(conn, known, relayed, None, started);
}

fn ended(conn: &Conn, known: Known, relayed: Relayed, fault: Option<String>, started: Instant) {
    let journal = &conn.deps.journal;
    metrics::proxy_bytes(Direction::Up, relayed.up);
    metrics::proxy_bytes(Direction::Down, relayed.down);
    let fault = match relayed.end {
        End::Done => fault,
        End::Idle => Some("nothing moved for too long".to_owned()),
        End::Stopped => Some("the policy no longer allows it".to_owned()),
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

/// A tunnel whose bytes are relayed once its first ones were judged. What a server says first is passed on meanwhile.
async fn relayed(
    conn: &Arc<Conn>,
    mut agent: TcpStream,
    mut seen: BytesMut,
    upstream: Connected,
    granted: Granted,
    known: Known,
) {
    let started = Instant::now();
    let destination = granted.destination.clone();
    let live = conn.deps.tracker.track(granted, None, Some(upstream.addr)).await;
    let mut upstream = upstream.stream;
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
    let over = {
        let (mut agent_reads, agent_writes) = agent.split();
        let (upstream_reads, mut upstream_writes) = upstream.split();
        let upwards = async {
            first(&mut agent_reads, &mut seen, &destination).await?;
            upstream_writes.write_all(&seen).await.map_err(|_| Over::Gone)?;
            up.fetch_add(seen.len() as u64, Ordering::Relaxed);
            drop(std::mem::take(&mut seen));
            pump(agent_reads, upstream_writes, &up).await.map_err(|_| Over::Gone)
        };
        let downwards = async {
            let ended = pump(upstream_reads, agent_writes, &down).await;
            // A server that is done before it was asked anything leaves nothing to wait for.
            let asked = up.load(Ordering::Relaxed) > 0;
            ended.ok().filter(|()| asked).ok_or(Over::Gone)
        };
        tokio::select! {
            // A direction that breaks takes the other with it; one that merely ends doesn't.
            both = async { tokio::try_join!(upwards, downwards) } => both.err().unwrap_or(Over::Gone),
            () = quiet(&up, &down, TUNNEL_IDLE) => Over::Ended(End::Idle),
            () = live.revoked() => Over::Ended(End::Stopped),
        }
    };
    let end = match over {
        Over::Refused(denial) => return refused(&conn.deps, &conn.claim, destination, denial),
        Over::Gone => End::Done,
        Over::Ended(end) => end,
    };
    finished(conn, known, Relayed { up: up.into_inner(), down: down.into_inner(), end }, started);
}

/// Why a relayed tunnel is over.
enum Over {
    /// A side is gone, or both are done.
    Gone,
    /// By us.
    Ended(End),
    /// Its first bytes are not what they should be.
    Refused(Denial),
}

/// Waits for the agent's first bytes and judges them.
async fn first(agent: &mut ReadHalf<'_>, seen: &mut BytesMut, destination: &Destination) -> Result<(), Over> {
    loop {
        match first_bytes(seen) {
            First::More => {}
            first => return judge_first(&first, destination, true).map_err(Over::Refused),
        }
        // Who waits holds no buffer.
        agent.readable().await.map_err(|_| Over::Gone)?;
        seen.reserve(FIRST_READ_BYTES);
        match agent.try_read_buf(seen) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return Err(Over::Gone),
        }
    }
}

/// A tunnel whose requests are read and judged one by one.
pub(crate) async fn inspected(
    deps: &Arc<Deps>,
    claim: &Arc<Claim>,
    stream: TcpStream,
    surplus: BytesMut,
    granted: Granted,
    addresses: Option<address::Judged>,
) {
    let destination = granted.destination.clone();
    let live = deps.tracker.track(granted, None, None).await;
    tokio::select! {
        () = speak(deps, claim, stream, surplus, destination, addresses) => {}
        () = live.revoked() => {}
    }
}

async fn speak(
    deps: &Arc<Deps>,
    claim: &Arc<Claim>,
    mut stream: TcpStream,
    mut seen: BytesMut,
    destination: Destination,
    addresses: Option<address::Judged>,
) {
    let Some(first) = look(&mut stream, &mut seen).await else { return };
    if let Err(denial) = judge_first(&first, &destination, false) {
        return refused(deps, claim, destination, denial);
    }
    let tls = matches!(first, First::Tls(_));
    let scope = Scope::Fixed { destination: destination.clone(), tls };
    let conn = Arc::new(Conn::new(Arc::clone(deps), scope, Arc::clone(claim)).with_addresses(addresses));
    if !tls {
        return http1(&conn, stream, seen).await;
    }
    let config = match deps.authority.server_config_for(&destination.host, Alpn::H2OrHttp1) {
        Ok(config) => config,
        Err(error) => return tracing::error!(%error, %destination, "no certificate for an inspected tunnel"),
    };
    let accepting = TlsAcceptor::from(config).accept(Prefixed::new(seen.freeze(), stream));
    let stream = match timeout(TLS_HANDSHAKE, accepting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, %destination, "the agent's TLS handshake failed"),
        Err(_) => return,
    };
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => serve::http2(&conn, stream).await,
        _ => http1(&conn, stream, BytesMut::new()).await,
    }
}

async fn http1<T>(conn: &Arc<Conn>, stream: T, surplus: BytesMut)
where
    T: AsyncRead + AsyncWrite + Send + Unpin,
{
    // CONNECT has no meaning in here, so the only thing to become is a WebSocket.
    if let Some((next, remains)) = serve::http1(conn, stream, surplus).await {
        messages(conn, next, remains).await;
    }
}

/// Waits for first bytes that tell what this is.
pub(crate) async fn look(stream: &mut TcpStream, seen: &mut BytesMut) -> Option<First> {
    let mut patience = KEEP_ALIVE_IDLE;
    loop {
        match first_bytes(seen) {
            First::More => {}
            first => return Some(first),
        }
        if !seen.is_empty() {
            patience = HELLO_DEADLINE;
        }
        // Who waits holds no buffer.
        let Ok(Ok(())) = timeout(patience, stream.readable()).await else { return None };
        seen.reserve(FIRST_READ_BYTES);
        match stream.try_read_buf(seen) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return None,
        }
    }
}

/// What the first bytes of a tunnel are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// Too few to tell.
    More,
    /// A whole ClientHello.
    Tls(Hello),
    /// TLS that can't be judged.
    BadTls(BadHello),
    /// A request line, or the HTTP/2 preface.
    Http,
    /// Anything else.
    Opaque,
}

fn first_bytes(seen: &[u8]) -> First {
    const BEGINNINGS: [&[u8]; 10] = [
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"PUT ",
        b"DELETE ",
        b"OPTIONS ",
        b"PATCH ",
        b"TRACE ",
        b"CONNECT ",
        b"PRI ",
    ];
    match parse_hello(seen) {
        Parsed::NeedMore => First::More,
        Parsed::Hello(hello) => First::Tls(hello),
        Parsed::Bad(bad) => First::BadTls(bad),
        Parsed::NotTls if BEGINNINGS.iter().any(|beginning| seen.starts_with(beginning)) => First::Http,
        Parsed::NotTls if BEGINNINGS.iter().any(|beginning| beginning.starts_with(seen)) => First::More,
        Parsed::NotTls => First::Opaque,
    }
}

/// Judges a tunnel's first bytes against the name that CONNECT gave.
fn judge_first(first: &First, destination: &Destination, relayed: bool) -> Result<(), Denial> {
    let detail = match first {
        First::Tls(hello) => match hello.check(&destination.host, relayed) {
            Ok(()) => return Ok(()),
            Err(mismatch) => mismatch.to_string(),
        },
        First::BadTls(bad) => bad.to_string(),
        First::Http if destination.port == TLS_PORT => format!("plain HTTP in a tunnel to {destination}"),
        First::Opaque if destination.port == TLS_PORT && !relayed => return Err(not_http()),
        // Where requests are judged the strict reader is next: what is no HTTP ends there.
        First::Http | First::Opaque | First::More => return Ok(()),
    };
    Err(Denial { layer: Layer::L4, detail, policy: None, hint: None })
}

fn not_http() -> Denial {
    Denial {
        layer: Layer::L7,
        detail: "this endpoint's requests are judged, and these bytes are no HTTP".to_owned(),
        policy: None,
        hint: Some("an entry without `protocol`, or with `tls: skip`, relays any bytes".to_owned()),
    }
}

/// Records why a tunnel is closed. There is nobody to answer: what the agent speaks is not HTTP.
fn refused(deps: &Deps, claim: &Claim, destination: Destination, denial: Denial) {
    let mut known = Known::nothing(claim.client());
    known.destination = Some(destination);
    let _nothing_was_to_happen_anyway =
        outcome::refused(&*deps.journal, &known, Refusal::Denied(denial), std::time::Duration::ZERO);
}

#[cfg(test)]
mod tests {
    use policy::{DomainName, Host};

    use super::*;

    fn at(port: u16) -> Destination {
        Destination { host: Host::parse("a.test").unwrap(), port }
    }

    #[test]
    fn plain_http_and_other_names_have_no_business_at_443() {
        for (bytes, port, relayed, fine) in [
            (&b"GET / HTTP/1.1"[..], 443, true, false),
            (b"GET / HTTP/1.1", 443, false, false),
            (b"PRI * HTTP/2.0", 443, true, false),
            (b"GET / HTTP/1.1", 8080, true, true),
            (b"GET / HTTP/1.1", 8080, false, true),
            (b"SSH-2.0-x", 443, true, true),
            (b"SSH-2.0-x", 443, false, false),
            (b"\x16\x04\x01", 443, true, false),
        ] {
            let first = first_bytes(bytes);
            assert_eq!(judge_first(&first, &at(port), relayed).is_ok(), fine, "{first:?} {port} {relayed}");
        }
        assert_eq!(first_bytes(b""), First::More);
        assert_eq!(first_bytes(b"GE"), First::More);
        assert_eq!(first_bytes(b"\x16"), First::More);
        let hello = |name: &str| {
            let server_name = Some(DomainName::parse(name).unwrap());
            First::Tls(Hello { server_name, alpn: Vec::new(), encrypted: false })
        };
        assert!(judge_first(&hello("a.test"), &at(443), false).is_ok());
        assert!(judge_first(&hello("b.test"), &at(443), false).is_err());
        assert!(judge_first(&hello("b.test"), &at(8443), true).is_err());
    }
}
