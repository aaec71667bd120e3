//! Bodies on streams of HTTP/2 that their receiver doesn't take.
//!
//! The library asks a body for its next frame when the receiver has granted room for it (RFC 9113 section 5.2), so no body can time
//! itself: one whose receiver grants nothing is never polled, and keeps what it holds as long as its connection lives. Therefore
//! each connection looks at its bodies from outside. What the library has been given it sends on piece by piece and tells nobody, so it is
//! given no more at a time than one frame holds: a receiver that takes that much is seen to move, and
//! what is left unseen of a body that is over is one frame. HTTP/1 has one body at a time, and times its writes ([`crate::strict::io`]).
//! Must never count the time that a body takes to have its next frame: that is its sender's, and timed there.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::limits::WRITE_STALL;

/// The bodies that are sent on one connection. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Watch(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    bodies: HashMap<u64, Seen>,
    next: u64,
}

/// What the looks at a body showed.
struct Seen {
    turn: Arc<AtomicU64>,
    before: u64,
    /// Looks in a row that found the receiver where it was.
    still: u32,
}

/// The body is asked for a frame, and has none yet. Any other value is the number of frames that it gave, and that it's the receiver's turn.
const SENDERS: u64 = u64::MAX;

/// Bytes that the library is given at a time: what it sends in one frame (RFC 9113 section 4.2), so that nothing is sent in smaller ones.
const PIECE: usize = 16 * 1024;

/// Looks within [`WRITE_STALL`].
const LOOKS: u32 = 8;

impl Watch {
    /// The same body, watched until it is dropped.
    pub(crate) fn over<B>(&self, inner: B) -> Watched<B> {
        let turn = Arc::default();
        let mut table = self.lock();
        let id = table.next;
        table.next += 1;
        table.bodies.insert(id, Seen { turn: Arc::clone(&turn), before: 0, still: 0 });
        drop(table);
        Watched { inner, rest: Bytes::new(), frames: 0, turn, id, watch: self.clone() }
    }

    /// Resolves when a receiver has taken nothing of its body for [`WRITE_STALL`] (an eighth more, at most). Must be one future for the
    /// connection's whole life.
    pub(crate) async fn stalled(&self) {
        loop {
            tokio::time::sleep(WRITE_STALL / LOOKS).await;
            if self.look() {
                return;
            }
        }
    }

    fn look(&self) -> bool {
        let mut stalled = false;
        for seen in self.lock().bodies.values_mut() {
            let now = seen.turn.load(Ordering::Relaxed);
            seen.still = if now == seen.before && now != SENDERS { seen.still + 1 } else { 0 };
            seen.before = now;
            stalled |= seen.still > LOOKS;
        }
        stalled
    }

    /// The map is left whole by every critical section, so a poisoned lock still guards a good map.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Watch::over`].
pub(crate) struct Watched<B> {
    inner: B,
    /// What it gave and the library has not yet been given.
    rest: Bytes,
    frames: u64,
    turn: Arc<AtomicU64>,
    id: u64,
    watch: Watch,
}

impl<B: Body<Data = Bytes> + Unpin> Watched<B> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = self.poll_piece(cx);
        let turn = if frame.is_pending() {
            SENDERS
        } else {
            self.frames += 1;
            self.frames
        };
        self.turn.store(turn, Ordering::Relaxed);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(inner.lower().saturating_add(rest));
        hint
    }
}

impl<B> Drop for Watched<B> {
    fn drop(&mut self) {
        self.watch.lock().bodies.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http_body_util::{BodyExt as _, Channel};
    use tokio::time::{Duration, advance, timeout};

    use super::*;
    use crate::body::{BoxError, full};

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_stalled_from_its_beginning_on() {
        let watch = Watch::default();
        let _body = watch.over(full("x"));
        assert!(timeout(WRITE_STALL, watch.stalled()).await.is_err());
        let watch = Watch::default();
        let _body = watch.over(full("x"));
        assert!(timeout(WRITE_STALL * 2, watch.stalled()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_sender_and_a_slow_receiver_are_none() {
        let watch = Watch::default();
        let stalled = watch.stalled();
        tokio::pin!(stalled);
        let (mut send, body) = Channel::<Bytes, BoxError>::new(1);
        let mut body = watch.over(body);
        // The receiver asks, and the sender has nothing for an hour.
        let mut frame = body.frame();
        assert!((&mut frame).now_or_never().is_none());
        assert!(timeout(Duration::from_secs(3600), &mut stalled).await.is_err());
        send.send_data("one".into()).await.unwrap();
        frame.await.unwrap().unwrap();
        // The receiver takes one frame every four minutes.
        for _ in 0..10 {
            send.send_data("more".into()).await.unwrap();
            assert!(timeout(Duration::from_secs(240), &mut stalled).await.is_err());
            body.frame().await.unwrap().unwrap();
        }
        // And then none.
        assert!(timeout(WRITE_STALL * 2, &mut stalled).await.is_ok());
    }

    #[tokio::test]
    async fn a_large_frame_goes_by_the_piece_and_stays_whole() {
        let sent: Vec<u8> = (0..3 * PIECE + 1).map(|n| (n % 251) as u8).collect();
        let watch = Watch::default();
        let mut body = watch.over(full(sent.clone()));
        let (mut got, mut lengths) = (Vec::new(), Vec::new());
        while !body.is_end_stream() {
            let left = (sent.len() - got.len()) as u64;
            assert_eq!(body.size_hint().exact(), Some(left));
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            lengths.push(piece.len());
            got.extend_from_slice(&piece);
        }
        assert!(got == sent && body.frame().await.is_none());
        assert_eq!(lengths, [PIECE, PIECE, PIECE, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_is_not_looked_at() {
        let watch = Watch::default();
        drop(watch.over(full("x")));
        assert!(watch.lock().bodies.is_empty());
        let looking = timeout(WRITE_STALL * 2, watch.stalled());
        advance(Duration::from_secs(1)).await;
        assert!(looking.await.is_err());
    }
}
