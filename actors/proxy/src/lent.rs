//! An HTTP/2 stream that is lent to a relay and handed back when the relay ends. What was written to it may
//! still be queued in hyper, for a client that doesn't read; the stream's place stays taken until that is
//! gone.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::relay::{End, Meter, Side, Stop, relay};

/// See the module.
pub(crate) struct Lent {
    /// `None` only once it was handed back, by the drop.
    stream: Option<TokioIo<Upgraded>>,
    owner: Option<oneshot::Sender<TokioIo<Upgraded>>>,
}

impl Lent {
    /// Lends the stream. It comes back through the receiver.
    pub(crate) fn of(stream: TokioIo<Upgraded>) -> (Self, oneshot::Receiver<TokioIo<Upgraded>>) {
        let (owner, back) = oneshot::channel();
        (Self { stream: Some(stream), owner: Some(owner) }, back)
    }

    fn stream(self: Pin<&mut Self>) -> io::Result<Pin<&mut TokioIo<Upgraded>>> {
        self.get_mut().stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(stream), Some(owner)) = (self.stream.take(), self.owner.take()) {
            let _nobody_waits = owner.send(stream);
        }
    }
}

impl AsyncRead for Lent {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.stream() {
            Ok(stream) => stream.poll_read(cx, buf),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.stream() {
            Ok(stream) => stream.poll_write(cx, buf),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.stream() {
            Ok(stream) => stream.poll_flush(cx),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.stream() {
            Ok(stream) => stream.poll_shutdown(cx),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Side for Lent {
    /// Does nothing: only hyper itself ends a stream, and always in order.
    fn cut(&self) {}

    async fn relay_to(
        &mut self,
        upstream: &mut TcpStream,
        meter: &Meter,
        stop: impl Future<Output = Stop> + Send,
    ) -> End {
        relay(self, upstream, meter, stop).await
    }
}
