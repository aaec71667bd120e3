//! A tunnel whose bytes go on unread once its first ones were judged. Never relays what nobody judged, nor
//! makes a stream that was cut off look complete.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::BytesMut;
use policy::{Denial, Destination};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::TcpStream;

use super::first::{First, first_bytes, judge_first};
use super::{ended, refused, stop};
use crate::address::Dialled;
use crate::answer::Known;
use crate::conn::{Conn, Ground};
use crate::limits::TUNNEL_IDLE;
use crate::relay::{End, Meter, Side, take};
use crate::tls::{self, BadHello};
use crate::verdict::Granted;

/// A tunnel whose bytes are relayed once its first ones were judged.
pub(super) async fn relayed<T: Side>(
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
    ended(conn, known, meter.ended(end), None, started);
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
    let bytes = std::future::poll_fn(|cx| take(from, cx)).await.map_err(gone)?;
    Ok((!bytes.is_empty()).then_some(bytes))
}
