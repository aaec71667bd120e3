//! A stream to a server that ends when its leash is dropped, whoever holds the stream then.
//!
//! hyper's HTTP/2 gives a connection's stream to tasks of its own, which keep it for as long as a request
//! body waits for a server that reads nothing. By the leash, the connection's owner ends the stream, and sees
//! how long the server has been silent. The connection counts against the sandbox's limit for as long as the
//! stream exists, not its users.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::tracker::UpstreamSlot;

#[derive(Debug)]
struct Shared {
    over: AtomicBool,
    reader: AtomicWaker,
    made: Instant,
    /// When the server was last heard, in milliseconds after `made`.
    heard: AtomicU64,
}

impl Shared {
    fn new() -> Self {
        Self {
            over: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            made: Instant::now(),
            heard: AtomicU64::new(0),
        }
    }

    fn hear(&self) {
        let after = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(after, Ordering::Relaxed);
    }

    fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.reader.wake();
    }

    fn check(&self) -> io::Result<()> {
        match self.over.load(Ordering::Acquire) {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}

/// Ends its stream when it is dropped.
#[derive(Debug)]
pub(super) struct Leash(Arc<Shared>);

impl Leash {
    /// Returns a handle that can end the stream, but whose drop doesn't.
    pub(super) fn ender(&self) -> Ender {
        Ender(Arc::clone(&self.0))
    }

    /// For how long nothing has come from its server.
    pub(super) fn silent_for(&self) -> Duration {
        let heard = Duration::from_millis(self.0.heard.load(Ordering::Relaxed));
        self.0.made.elapsed().saturating_sub(heard)
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// See [`Leash::ender`].
pub(super) struct Ender(Arc<Shared>);

impl Ender {
    pub(super) fn end(&self) {
        self.0.end();
    }
}

/// See the module. One task reads it.
pub(super) struct Leashed<T> {
    inner: T,
    shared: Arc<Shared>,
    _way: UpstreamSlot,
}

impl<T> Leashed<T> {
    pub(super) fn new(inner: T, way: UpstreamSlot) -> (Self, Leash) {
        let shared = Arc::new(Shared::new());
        (Self { inner, shared: Arc::clone(&shared), _way: way }, Leash(shared))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Leashed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.shared.check()?;
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if read.is_pending() {
            self.shared.reader.register(cx.waker());
            // It may have been ended before the waker was registered.
            self.shared.check()?;
        }
        ready!(read)?;
        self.shared.hear();
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Leashed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.check()?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.check()?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.check()?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.check()?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
