//! CONNECT, and what a connection becomes after it.
//!
//! ```text
//! open: granted ─ addresses judged ─ recorded ─┬─ Relay:   dialled ── 200 ── first bytes judged ── bytes relayed
//!                                              └─ Inspect:            200 ── TLS ends here ── each request judged
//! ```
//! A tunnel's first bytes are always looked at: a ClientHello must name the host that CONNECT named, plain
//! HTTP has no business at 443, and what is not HTTP is never spliced through where requests are to be
//! judged.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use http::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use policy::{Denial, Destination, Layer, Treatment};
use telemetry::metrics::{self, Direction};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::absence::Absence;
use crate::address::{self, Dialled};
use crate::answer::{Known, Refusal};
use crate::body::empty;
use crate::caller::Claim;
use crate::conn::{Conn, Deps, Ground, Next};
use crate::intent::Scope;
use crate::lent::Lent;
use crate::limits::{
    HELLO_DEADLINE, KEEP_ALIVE_IDLE, REVOKED_GRACE, TLS_HANDSHAKE, TUNNEL_IDLE, WRITE_STALL,
};
use crate::outcome::Finished;
use crate::protocol::websocket;
use crate::relay::{End, Meter, Relayed, Side, Stop, take};
use crate::road::Answer;
use crate::strict::io::Remains;
use crate::tls::{self, Alpn, BadHello, Hello, Parsed, Prefixed, parse_hello};
use crate::tracker::{Live, Place};
use crate::verdict::{Granted, TLS_PORT};
use crate::{outcome, serve, ssh};

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
            let addresses = address::Judged::of(deps, &granted).await?;
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
    place: Place,
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

fn finished(conn: &Conn, known: Known, relayed: Relayed, started: Instant) {
    ended(conn, known, relayed, None, started);
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

/// A tunnel whose bytes are relayed once its first ones were judged.
async fn relayed<T: Side>(
    conn: &Arc<Conn>,
    stream: T,
    surplus: BytesMut,
    upstream: Dialled,
    granted: Granted,
    known: Known,
) {
    let started = Instant::now();
    let ground = Ground::of(&granted);
    let Dialled { stream: upstream, reached, way: _way } = upstream;
    let live = conn.deps.tracker.track(granted, None, Some(reached)).await;
    let meter = Meter::default();
    let mut ends = Ends { agent: stream, upstream, meter: &meter };
    let end = {
        // Watched from the beginning: a server may speak first, and for long, to an agent that only listens.
        let mut stop = pin!(stop(conn, &known, &live, &meter));
        let begun = tokio::select! {
            begun = meter.unless_held(begin(&mut ends, surplus, &ground.destination)) => begun,
            why = &mut stop => Err(Over::Ended(why.into())),
            () = tokio::time::sleep(TUNNEL_IDLE) => Err(Over::Ended(End::Idle)),
        };
        match begun {
            Ok(()) => ends.agent.relay_to(&mut ends.upstream, &meter, stop).await,
            Err(Over::Refused(denial)) => {
                return drop(refused(&conn.deps, &conn.claim, ground, denial));
            }
            Err(Over::Ended(end)) => end,
            Err(Over::Hushed) => End::Done,
        }
    };
    if end != End::Done {
        // A stream that was cut off must not look complete.
        ends.agent.cut();
        ends.upstream.cut();
    }
    drop(ends);
    finished(conn, known, meter.ended(end), started);
}

/// Why a relayed tunnel was over before it began.
enum Over {
    /// A side went away, or the proxy ended the tunnel.
    Ended(End),
    /// The agent ended its side before its bytes were enough to be judged.
    Hushed,
    /// The first bytes are refused.
    Refused(Denial),
}

/// Waits for the agent's first bytes and judges them; meanwhile, what a server sends first is passed on. A
/// server may ask for a second ClientHello and go by that one: it is judged, too. All bytes passed on are
/// counted, however this ends. No buffer is held while waiting.
async fn begin<T: Side>(
    ends: &mut Ends<'_, T>,
    mut seen: BytesMut,
    destination: &Destination,
) -> Result<(), Over> {
    let first = ends.first(&mut seen).await?;
    judge_first(&first, destination, true).map_err(Over::Refused)?;
    if matches!(first, First::Tls(_)) {
        let hello = seen.split_to(tls::first_hello_ends(&seen));
        ends.up(&hello).await?;
        if ends.asks_again(&mut seen).await? {
            let again = ends.another_hello(&mut seen).await?;
            judge_first(&again, destination, true).map_err(Over::Refused)?;
        }
    }
    ends.up(&seen).await
}

/// Both sides of a relayed tunnel.
struct Ends<'a, T> {
    agent: T,
    upstream: TcpStream,
    meter: &'a Meter,
}

/// Bytes from one of the sides; never empty.
enum Said {
    Agent(Vec<u8>),
    Server(Vec<u8>),
}

impl<T: Side> Ends<'_, T> {
    /// Returns the next bytes of either side. The end of a side is an error.
    async fn hear(&mut self) -> Result<Said, Over> {
        tokio::select! {
            asked = some(&mut self.agent) => asked?.map(Said::Agent).ok_or(Over::Hushed),
            said = some(&mut self.upstream) => said?.map(Said::Server).ok_or(Over::Ended(End::Done)),
        }
    }

    /// Appends the agent's next bytes to `seen`. What the server sends meanwhile is passed on.
    async fn hear_agent(&mut self, seen: &mut BytesMut) -> Result<(), Over> {
        loop {
            match self.hear().await? {
                Said::Agent(bytes) => {
                    seen.extend_from_slice(&bytes);
                    return Ok(());
                }
                Said::Server(bytes) => self.down(&bytes).await?,
            }
        }
    }

    async fn up(&mut self, bytes: &[u8]) -> Result<(), Over> {
        self.upstream.write_all(bytes).await.map_err(gone)?;
        self.meter.up.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn down(&mut self, bytes: &[u8]) -> Result<(), Over> {
        self.agent.write_all(bytes).await.map_err(gone)?;
        self.agent.flush().await.map_err(gone)?;
        self.meter.down.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Reads the agent's first bytes until they tell the protocol. An agent that ends its side without a byte
    /// only listens, to a server that speaks first.
    async fn first(&mut self, seen: &mut BytesMut) -> Result<First, Over> {
        loop {
            match first_bytes(seen) {
                First::More => match self.hear_agent(seen).await {
                    Err(Over::Hushed) if seen.is_empty() => return Ok(First::Opaque),
                    heard => heard?,
                },
                first => return Ok(first),
            }
        }
    }

    /// Whether the server asks for a second ClientHello (HelloRetryRequest, RFC 8446 section 4.1.4). What the
    /// agent sends before that is known is kept, up to [`tls::MAX_HELLO_BYTES`], since it may be that hello;
    /// it is read at all so that the agent's leaving is noticed.
    async fn asks_again(&mut self, seen: &mut BytesMut) -> Result<bool, Over> {
        let mut answer = Vec::new();
        loop {
            if let Some(again) = tls::asks_again(&answer) {
                return Ok(again);
            }
            let said = match seen.len() < tls::MAX_HELLO_BYTES {
                true => self.hear().await?,
                false => some(&mut self.upstream).await?.map(Said::Server).ok_or(Over::Ended(End::Done))?,
            };
            match said {
                Said::Agent(bytes) => seen.extend_from_slice(&bytes),
                Said::Server(bytes) => {
                    self.down(&bytes).await?;
                    answer.extend_from_slice(&bytes);
                }
            }
        }
    }

    /// Reads the hello that the server asked for. Records before it, which the server skips, are passed on.
    async fn another_hello(&mut self, seen: &mut BytesMut) -> Result<First, Over> {
        loop {
            match tls::next(seen) {
                tls::Next::Hello => return self.first(seen).await,
                tls::Next::Passed(length) => {
                    let record = seen.split_to(length);
                    self.up(&record).await?;
                }
                tls::Next::More => self.hear_agent(seen).await?,
                tls::Next::Odd => return Ok(First::BadTls(BadHello::NotAHello)),
            }
        }
    }
}

fn gone(_: std::io::Error) -> Over {
    Over::Ended(End::Broken)
}

/// Returns the next bytes of a side; `None` once it has ended.
async fn some(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Vec<u8>>, Over> {
    let bytes = poll_fn(|cx| take(from, cx)).await.map_err(gone)?;
    Ok((!bytes.is_empty()).then_some(bytes))
}

/// A tunnel whose requests are read and judged one by one.
pub(crate) async fn inspected<T>(
    deps: &Arc<Deps>,
    claim: &Arc<Claim>,
    stream: T,
    surplus: BytesMut,
    granted: Granted,
    addresses: Option<address::Judged>,
) where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let ground = Ground::of(&granted);
    let live = deps.tracker.track(granted, None, None).await;
    let told = live.revoked();
    let spoken = Spoken { ground, addresses, live };
    tokio::select! {
        () = speak(deps, claim, stream, surplus, spoken) => {}
        // After a revocation the connection ends by itself, in order, so that the client is told. It is cut
        // off only if that takes too long.
        () = async { told.await; sleep(REVOKED_GRACE).await } => {}
    }
}

/// An inspected tunnel before its first bytes.
struct Spoken {
    ground: Ground,
    addresses: Option<address::Judged>,
    live: Live,
}

async fn speak<T>(deps: &Arc<Deps>, claim: &Arc<Claim>, mut stream: T, mut seen: BytesMut, spoken: Spoken)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Spoken { ground, addresses, live } = spoken;
    let destination = ground.destination.clone();
    let first = tokio::select! {
        first = look(&mut stream, &mut seen) => first,
        () = live.revoked() => None,
    };
    let Some(first) = first else { return };
    if let Err(denial) = judge_first(&first, &destination, false) {
        let (refusal, known) = refused(deps, claim, ground, denial);
        if ssh::begins(&seen) {
            serve::farewell(&mut stream, &ssh::last_words(&refusal, &known)).await;
        }
        return;
    }
    let tls = matches!(first, First::Tls(_));
    let scope = Scope::Fixed { destination: destination.clone(), tls };
    let conn = Conn::new(Arc::clone(deps), scope, Arc::clone(claim));
    let conn = Arc::new(conn.with_addresses(addresses).resting_on(live, ground));
    if !tls {
        return requests(&conn, stream, seen).await;
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
        _ => requests(&conn, stream, BytesMut::new()).await,
    }
}

/// Serves requests by the HTTP version that the client begins with: without ALPN, only the client knows which
/// one its server speaks.
async fn requests<T>(conn: &Arc<Conn>, stream: T, seen: BytesMut)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // CONNECT has no meaning in here, so the only thing to become is a WebSocket.
    if let Some((next, remains)) = serve::either(conn, stream, seen).await {
        messages(conn, next, remains).await;
    }
}

/// Reads first bytes until they tell the protocol. `None` if the stream ends first or takes too long.
pub(crate) async fn look(stream: &mut (impl AsyncRead + Unpin), seen: &mut BytesMut) -> Option<First> {
    let mut patience = KEEP_ALIVE_IDLE;
    loop {
        match first_bytes(seen) {
            First::More => {}
            first => return Some(first),
        }
        if !seen.is_empty() {
            patience = HELLO_DEADLINE;
        }
        match timeout(patience, poll_fn(|cx| take(stream, cx))).await {
            Ok(Ok(bytes)) if !bytes.is_empty() => seen.extend_from_slice(&bytes),
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
        // Where requests are judged, the strict reader comes next: what is not HTTP ends there.
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

/// Records why a tunnel is closed. It can't be told in HTTP, which is not what the agent speaks.
fn refused(deps: &Deps, claim: &Claim, ground: Ground, denial: Denial) -> (Refusal, Known) {
    let denial = Denial { policy: ground.policy.clone(), ..denial };
    let known = ground.known(claim.client());
    let refusal = outcome::refused(&*deps.journal, &known, Refusal::Denied(denial), Duration::ZERO);
    (refusal, known)
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
