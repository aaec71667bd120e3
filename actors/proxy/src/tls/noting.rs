//! A TLS stream that keeps its first error in words.
//!
//! In TLS 1.3 a server says what it thinks of our certificate after the handshake, when HTTP is spoken
//! already; the HTTP libraries pass on that the connection failed, and not why.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::verify::explain;

/// What went wrong on a connection, once it did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fault(Arc<OnceLock<String>>);

impl Fault {
    /// The words.
    pub(crate) fn words(&self) -> Option<String> {
        self.0.get().cloned()
    }
}

/// See the module.
pub(crate) struct Noting<T> {
    inner: T,
    /// The upstream's host, to be named in the words.
    host: String,
    fault: Fault,
}

impl<T> Noting<T> {
    pub(crate) fn new(inner: T, host: String) -> (Self, Fault) {
        let fault = Fault::default();
        (Self { inner, host, fault: fault.clone() }, fault)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Noting<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &polled
            && let Some(words) = explain(error)
        {
            let _first_one_stays = self.fault.0.set(format!("{}: {words}", self.host));
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Noting<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
