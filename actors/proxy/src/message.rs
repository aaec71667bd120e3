//! The bodies of an exchange on their way through: counted, bounded in time, broken off when the decision is
//! revoked.
//!
//! Nothing is copied and nothing is buffered: a frame passes when the other side asks for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use telemetry::metrics::{self, Direction};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::answer::Known;
use crate::body::{Body, BoxError, empty};
use crate::conn::{Conn, InFlight};
use crate::limits::RESPONSE_IDLE;
use crate::outcome::Finished;
use crate::pool::Key;
use crate::protocol::Forwarded;
use crate::timer::Timer;
use crate::tracker::{Live, RequestSlot};
use crate::upstream::{Driver, Sender};

/// Counts one exchange. Its final record is written when the last part of the exchange is dropped.
pub(crate) struct Ledger {
    conn: Arc<Conn>,
    known: Known,
    started: Instant,
    up: AtomicU64,
    down: AtomicU64,
    status: AtomicU64,
    fault: std::sync::OnceLock<String>,
    /// The exchange goes on as a WebSocket, whose end is recorded by itself.
    is_handed_over: AtomicBool,
    _turn: RequestSlot,
}

impl Ledger {
    /// `turn` is given back when the last part of the exchange is dropped.
    pub(crate) fn open(conn: &Arc<Conn>, known: &Known, started: Instant, turn: RequestSlot) -> Arc<Self> {
        Arc::new(Self {
            conn: Arc::clone(conn),
            known: known.clone(),
            started,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            status: AtomicU64::new(0),
            fault: std::sync::OnceLock::new(),
            is_handed_over: AtomicBool::new(false),
            _turn: turn,
        })
    }

    pub(crate) fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    pub(crate) fn answered(&self, status: http::StatusCode) {
        self.status.store(u64::from(status.as_u16()), Ordering::Relaxed);
    }

    /// Notes that the exchange has become a WebSocket: its relay writes the one record of its end.
    pub(crate) fn hand_over(&self) {
        self.is_handed_over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn fault(&self, fault: impl ToString) {
        let _first_one_stays = self.fault.set(fault.to_string());
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if *self.is_handed_over.get_mut() {
            return;
        }
        let status = u16::try_from(*self.status.get_mut()).ok().filter(|status| *status != 0);
        self.conn.deps.journal.finished(&Finished {
            known: self.known.clone(),
            up: *self.up.get_mut(),
            down: *self.down.get_mut(),
            took: self.started.elapsed(),
            status,
            fault: self.fault.take(),
        });
    }
}

/// The error of a body whose decision was revoked.
const FALLEN: &str = "the policy no longer allows this request";

/// A request body on its way up. It watches its decision by itself, since the answer may be complete long
/// before it, or not be read.
pub(crate) struct Upload {
    inner: Forwarded,
    ledger: Arc<Ledger>,
    revoked: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _live: Option<Arc<Live>>,
}

impl Upload {
    /// The body as it is sent; an empty one needs nothing watched. `live` is `None` for a request to the
    /// gateway.
    pub(crate) fn of(inner: Forwarded, ledger: &Arc<Ledger>, live: Option<&Arc<Live>>) -> Body {
        if inner.is_end_stream() {
            return empty();
        }
        let revoked = live.map(|live| Box::pin(live.revoked()));
        Self { inner, ledger: Arc::clone(ledger), revoked, _live: live.cloned() }.boxed_unsync()
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(revoked) = &mut self.revoked
            && revoked.as_mut().poll(cx).is_ready()
        {
            self.ledger.fault(FALLEN);
            return Poll::Ready(Some(Err(FALLEN.into())));
        }
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            let passed = data.len() as u64;
            self.ledger.up.fetch_add(passed, Ordering::Relaxed);
            metrics::proxy_bytes(Direction::Up, passed);
        }
        if let Poll::Ready(Some(Err(error))) = &frame {
            self.ledger.fault(error);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What a response body keeps alive, and gives back when it was read to its end.
pub(crate) struct Source {
    /// The decision that it rests on.
    pub(crate) live: Arc<Live>,
    /// The connection that it is read from.
    pub(crate) _driver: Arc<Driver>,
    /// The connection's sender, to be used again.
    pub(crate) sender: Option<(Key, Sender)>,
}

/// A response body on its way down.
pub(crate) struct Download<B> {
    inner: B,
    ledger: Arc<Ledger>,
    revoked: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    quiet: Timer,
    source: Option<Source>,
    /// The exchange counts as in flight until its body is gone.
    _in_flight: InFlight,
}

impl<B: HttpBody<Data = Bytes> + Unpin> Download<B> {
    /// `source` is `None` for an answer of the gateway.
    pub(crate) fn new(inner: B, ledger: Arc<Ledger>, source: Option<Source>) -> Self {
        let revoked = source.as_ref().map(|source| Box::pin(source.live.revoked()));
        let in_flight = ledger.conn.enter();
        let mut download =
            Self { inner, ledger, revoked, quiet: Timer::default(), source, _in_flight: in_flight };
        if download.inner.is_end_stream() {
            download.finish();
        }
        download
    }

    /// Called when the answer was read to its end: its connection may serve another request.
    fn finish(&mut self) {
        if let Some(source) = self.source.take()
            && let Some((key, sender)) = source.sender
        {
            self.ledger.conn.pool.give_back(key, sender);
        }
        self.revoked = None;
    }

    fn broken(&mut self, why: &'static str) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.ledger.fault(why);
        self.source = None;
        self.revoked = None;
        Poll::Ready(Some(Err(why.into())))
    }
}

impl<B> HttpBody for Download<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(revoked) = &mut this.revoked
            && revoked.as_mut().poll(cx).is_ready()
        {
            return this.broken(FALLEN);
        }
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.quiet.clear();
                if let Some(data) = frame.data_ref() {
                    let passed = data.len() as u64;
                    this.ledger.down.fetch_add(passed, Ordering::Relaxed);
                    metrics::proxy_bytes(Direction::Down, passed);
                }
                if this.inner.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let error = error.into();
                this.ledger.fault(&error);
                this.source = None;
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => {
                this.quiet.arm(RESPONSE_IDLE);
                match this.quiet.poll_elapsed(cx) {
                    Poll::Ready(()) => this.broken("the destination fell silent"),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
