//! Relays bytes between two streams, until both are done, nothing moves for too long, or the decision is
//! revoked.
//!
//! For streams that aren't plain sockets (TLS, a stream of HTTP/2); [`crate::splice`] relays between sockets.
//! Holds no HTTP and no policy. Each direction ends on its own (half-close), so that a client may finish
//! sending and still read its answer.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::limits::{RELAY_BUFFER_BYTES, TUNNEL_IDLE};

/// The bytes that a relay has passed so far, and its state, for tasks that watch it from outside.
#[derive(Debug, Default)]
pub struct Meter {
    /// From the agent.
    pub up: AtomicU64,
    /// To the agent.
    pub down: AtomicU64,
    /// Notified when the agent has half-closed its connection or is gone: from here both look alike.
    pub hushed: Notify,
    /// Whether nothing may pass for now. Clearing it wakes nothing: the task that clears it must also poll
    /// the held future again.
    pub held: AtomicBool,
    /// Whether a write found its side reset. The kernel reports a reset once, here to the writer: the next
    /// read from that side finds an ordinary end.
    reset: AtomicBool,
}

impl Meter {
    /// Returns the bytes of both directions together.
    pub fn moved(&self) -> u64 {
        self.up.load(Ordering::Relaxed).wrapping_add(self.down.load(Ordering::Relaxed))
    }

    /// Runs `passing`, but doesn't poll it while nothing may pass.
    pub(crate) async fn unless_held<T>(&self, passing: impl Future<Output = T>) -> T {
        let mut passing = pin!(passing);
        poll_fn(|cx| match self.held.load(Ordering::Relaxed) {
            true => Poll::Pending,
            false => passing.as_mut().poll(cx),
        })
        .await
    }

    /// Passes on that a direction's source has ended, unless it was cut off.
    pub(crate) async fn pass_end(&self, to: &mut (impl AsyncWrite + Unpin)) -> Result<(), Broken> {
        if self.reset.load(Ordering::Relaxed) {
            return Err(Broken::Source(io::ErrorKind::ConnectionReset.into()));
        }
        // The peer may be gone already: the direction is done either way.
        let _gone = to.shutdown().await;
        Ok(())
    }

    /// Runs a direction to its end. A sink that takes no more is no error: the other direction reads from
    /// that same side, and still passes on what that side has sent.
    async fn direction(&self, passing: impl Future<Output = Result<(), Broken>>) -> io::Result<()> {
        match passing.await {
            Ok(()) => Ok(()),
            Err(Broken::Source(error)) => Err(error),
            Err(Broken::Sink(error)) => {
                // EPIPE means that the side had ended before, not that it was reset now.
                let ended = error.kind() == io::ErrorKind::BrokenPipe;
                self.reset.fetch_or(!ended, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    pub(crate) fn ended(&self, end: End) -> Relayed {
        Relayed { up: self.up.load(Ordering::Relaxed), down: self.down.load(Ordering::Relaxed), end }
    }
}

/// What broke a direction.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The source can't be read to its end.
    Source(io::Error),
    /// The sink takes no more.
    Sink(io::Error),
}

/// How a relay ended and what it moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relayed {
    /// Bytes from the agent.
    pub up: u64,
    /// Bytes to the agent.
    pub down: u64,
    /// Why it ended.
    pub end: End,
}

/// Why a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both sides were done.
    Done,
    /// A side broke off.
    Broken,
    /// Nothing moved for too long.
    Idle,
    /// It was told to stop.
    Stopped(Stop),
}

/// Why a relay was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The policy changed, and the decision was revoked.
    #[error("the policy no longer allows this")]
    Fallen,
    /// Another program holds the agent's end.
    #[error("another program holds this connection")]
    Hands,
    /// The agent has closed its end.
    #[error("the client is gone")]
    Left,
}

impl From<Stop> for End {
    /// A client that left counts as done, so that what it sent still reaches its server.
    fn from(stop: Stop) -> Self {
        if stop == Stop::Left { Self::Done } else { Self::Stopped(stop) }
    }
}

/// The agent's side of a tunnel, and how its bytes go to a socket and back.
pub(crate) trait Side: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Makes the stream end by a reset, so that nobody takes its end for a complete one, if this kind of
    /// stream can.
    fn cut(&self);

    /// As [`relay`], in the cheapest way for this kind of stream.
    fn relay_to(
        &mut self,
        upstream: &mut TcpStream,
        meter: &Meter,
        stop: impl Future<Output = Stop> + Send,
    ) -> impl Future<Output = End> + Send;
}

/// Relays between the agent's stream and the upstream's. `stop` ends it at once.
pub(crate) async fn relay<A, B>(agent: A, upstream: B, meter: &Meter, stop: impl Future<Output = Stop>) -> End
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (agent_read, agent_write) = tokio::io::split(agent);
    let (upstream_read, upstream_write) = tokio::io::split(upstream);
    let up = Box::pin(copy(agent_read, upstream_write, meter, &meter.up));
    let down = Box::pin(copy(upstream_read, agent_write, meter, &meter.down));
    both(meter, up, down, stop).await
}

/// Runs both directions until each is done, a source breaks, nothing moves for [`TUNNEL_IDLE`], or `stop`
/// resolves.
pub(crate) async fn both(
    meter: &Meter,
    up: impl Future<Output = Result<(), Broken>>,
    down: impl Future<Output = Result<(), Broken>>,
    stop: impl Future<Output = Stop>,
) -> End {
    let up = async {
        meter.direction(up).await?;
        meter.hushed.notify_one();
        Ok(())
    };
    let both = async { tokio::try_join!(up, meter.direction(down)) };
    tokio::select! {
        ended = meter.unless_held(both) => if ended.is_ok() { End::Done } else { End::Broken },
        () = quiet(meter, TUNNEL_IDLE) => End::Idle,
        why = stop => why.into(),
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    meter: &Meter,
    moved: &AtomicU64,
) -> Result<(), Broken> {
    loop {
        let bytes = poll_fn(|cx| take(&mut from, cx)).await.map_err(Broken::Source)?;
        if bytes.is_empty() {
            return meter.pass_end(&mut to).await;
        }
        to.write_all(&bytes).await.map_err(Broken::Sink)?;
        // TLS buffers what it was given until it is flushed; a socket's flush costs nothing.
        to.flush().await.map_err(Broken::Sink)?;
        moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
}

/// Reads what is there, through a buffer on the stack: a direction that waits holds no buffer.
pub(crate) fn take(from: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
    let mut chunk = [MaybeUninit::uninit(); RELAY_BUFFER_BYTES];
    let mut buffer = ReadBuf::uninit(&mut chunk);
    ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().to_vec()))
}

/// Resolves when nothing moved for `idle` (looked at a few times within it, so the data path pays nothing).
pub(crate) async fn quiet(meter: &Meter, idle: Duration) {
    const LOOKS: u32 = 8;
    let (mut last, mut still) = (0, 0);
    while still < LOOKS {
        tokio::time::sleep(idle / LOOKS).await;
        let now = meter.moved();
        still = if now == last { still + 1 } else { 0 };
        last = now;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    #[tokio::test]
    async fn both_directions_and_half_close() {
        let (mut agent, ours) = duplex(64);
        let (mut upstream, theirs) = duplex(64);
        let meter = Meter::default();
        let (relayed, ()) = tokio::join!(relay(ours, theirs, &meter, std::future::pending()), async {
            agent.write_all(b"question").await.unwrap();
            agent.shutdown().await.unwrap();
            let mut got = Vec::new();
            upstream.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"question");
            upstream.write_all(&[7; 100]).await.unwrap();
            upstream.shutdown().await.unwrap();
            let mut got = Vec::new();
            agent.read_to_end(&mut got).await.unwrap();
            assert_eq!(got.len(), 100);
        });
        assert_eq!(meter.ended(relayed), Relayed { up: 8, down: 100, end: End::Done });
    }

    #[tokio::test(start_paused = true)]
    async fn quiet_and_told() {
        let (_agent, ours) = duplex(64);
        let (_upstream, theirs) = duplex(64);
        let relayed = relay(ours, theirs, &Meter::default(), std::future::pending()).await;
        assert_eq!(relayed, End::Idle);
        let (_agent, ours) = duplex(64);
        let (_upstream, theirs) = duplex(64);
        let stop = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Stop::Hands
        };
        let relayed = relay(ours, theirs, &Meter::default(), stop).await;
        assert_eq!(relayed, End::Stopped(Stop::Hands));
    }
}
