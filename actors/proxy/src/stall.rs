//! Finds bodies on HTTP/2 streams that their receiver doesn't read.
//!
//! hyper sends as much of a body as the receiver's flow-control window allows (RFC 9113 section 5.2), so no
//! body can time itself: if the receiver allows nothing, hyper keeps what it was given for as long as the
//! connection lives. Therefore each connection watches its bodies from outside. The pieces given to hyper
//! count their own bytes as they are sent: any byte sent shows that the receiver moves, however little it
//! takes at a time, and the rest of a body whose sender is done is watched as well. A piece is no larger than
//! one frame, so that a body lasts, with all that it keeps, until its last frame. HTTP/1 has one body at a
//! time, and times its writes ([`crate::strict::io`]). Must never count the time that a body waits for its
//! sender's next frame: that is timed there.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use crate::limits::WRITE_STALL;

/// The bodies that are being sent on one connection. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Watch(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    bodies: HashMap<u64, Seen>,
    next: u64,
}

/// What the regular looks at a body have shown.
struct Seen {
    counts: Arc<Counts>,
    before: u64,
    /// Number of looks in a row that found no progress.
    still: u32,
}

/// Counters that a body and its pieces keep up to date.
#[derive(Default)]
struct Counts {
    /// Moves so far: pieces given to hyper, and writes that took bytes of one.
    moves: AtomicU64,
    /// Bytes given to hyper and not sent yet.
    given: AtomicU64,
    /// The body is asked for a frame, and has none yet.
    asked: AtomicBool,
}

impl Counts {
    /// Whether the body waits for its sender: nothing that was given is left to send.
    fn is_senders_turn(&self) -> bool {
        self.asked.load(Ordering::Relaxed) && self.given.load(Ordering::Relaxed) == 0
    }

    fn gone(&self, bytes: usize) {
        self.given.fetch_sub(bytes as u64, Ordering::Relaxed);
        self.moves.fetch_add(1, Ordering::Relaxed);
    }
}

/// Bytes given to hyper at a time: as many as it sends in one frame (RFC 9113 section 4.2), so that frames
/// don't get smaller.
const PIECE: usize = 16 * 1024;

/// Number of looks within [`WRITE_STALL`].
const LOOKS: u32 = 8;

impl Watch {
    /// Wraps a body to be watched until it and all its pieces are dropped. An empty body isn't watched.
    pub(crate) fn over<B: Body>(&self, inner: B) -> Watched<B> {
        let row = (!inner.is_end_stream()).then(|| Arc::new(self.enter()));
        Watched { inner, rest: Bytes::new(), row }
    }

    fn enter(&self) -> Row {
        let counts = Arc::<Counts>::default();
        let mut table = self.lock();
        let id = table.next;
        table.next += 1;
        table.bodies.insert(id, Seen { counts: Arc::clone(&counts), before: 0, still: 0 });
        drop(table);
        Row { counts, id, watch: self.clone() }
    }

    /// Resolves when a receiver has taken nothing of its body for [`WRITE_STALL`] (an eighth more, at most).
    /// Must be one future for the connection's whole life.
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
            let now = seen.counts.moves.load(Ordering::Relaxed);
            let is_still = now == seen.before && !seen.counts.is_senders_turn();
            seen.still = if is_still { seen.still + 1 } else { 0 };
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

/// A body's row in its connection's table; gone with its last piece.
struct Row {
    counts: Arc<Counts>,
    id: u64,
    watch: Watch,
}

impl Drop for Row {
    fn drop(&mut self) {
        self.watch.lock().bodies.remove(&self.id);
    }
}

/// Bytes of a body, counted as they go.
pub(crate) struct Piece {
    bytes: Bytes,
    row: Option<Arc<Row>>,
}

impl Piece {
    fn new(bytes: Bytes, row: Option<&Arc<Row>>) -> Self {
        if let Some(row) = row {
            row.counts.given.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Self { bytes, row: row.cloned() }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(row) = self.row.as_ref().filter(|_| count > 0) {
            row.counts.gone(count);
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(row) = self.row.as_ref().filter(|_| !self.bytes.is_empty()) {
            row.counts.gone(self.bytes.len());
        }
    }
}

/// See [`Watch::over`].
pub(crate) struct Watched<B> {
    inner: B,
    /// Bytes that the body gave and hyper has not been given yet.
    rest: Bytes,
    row: Option<Arc<Row>>,
}

impl<B> Watched<B> {
    /// Returns the body itself, if nothing of it was asked for yet.
    pub(crate) fn unasked(self) -> B {
        self.inner
    }
}

impl<B: Body<Data = Bytes> + Unpin> Watched<B> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, B::Error>>> {
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                // The only other kind of frame is trailers.
                Err(other) => {
                    return Poll::Ready(
                        other.into_trailers().ok().map(|trailers| Ok(Frame::trailers(trailers))),
                    );
                }
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(Piece::new(piece, self.row.as_ref())))))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B> {
    type Data = Piece;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, B::Error>>> {
        let frame = self.poll_piece(cx);
        if let Some(row) = &self.row {
            row.counts.asked.store(frame.is_pending(), Ordering::Relaxed);
            if frame.is_ready() {
                row.counts.moves.fetch_add(1, Ordering::Relaxed);
            }
        }
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

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_a_byte_now_and_then_moves_and_the_last_piece_counts_too() {
        let watch = Watch::default();
        let stalled = watch.stalled();
        tokio::pin!(stalled);
        let mut body = watch.over(full("a few bytes"));
        let mut piece = body.frame().await.unwrap().unwrap().into_data().ok().unwrap();
        drop(body);
        while piece.remaining() > 1 {
            assert!(timeout(Duration::from_secs(290), &mut stalled).await.is_err());
            piece.advance(1);
        }
        assert!(timeout(WRITE_STALL * 2, &mut stalled).await.is_ok());
        assert_eq!(watch.lock().bodies.len(), 1);
        drop(piece);
        assert!(watch.lock().bodies.is_empty());
    }

    /// hyper asks for the next piece before the previous one was sent: that the sender has none yet doesn't
    /// excuse the receiver.
    #[tokio::test(start_paused = true)]
    async fn a_silent_sender_is_no_excuse_for_what_is_not_taken() {
        let watch = Watch::default();
        let (mut send, body) = Channel::<Bytes, BoxError>::new(1);
        let mut body = watch.over(body);
        send.send_data("one".into()).await.unwrap();
        let mut piece = body.frame().await.unwrap().unwrap().into_data().ok().unwrap();
        let mut frame = body.frame();
        assert!((&mut frame).now_or_never().is_none());
        piece.advance(1);
        assert!(timeout(WRITE_STALL * 2, watch.stalled()).await.is_ok());
        piece.advance(2);
        assert!(timeout(WRITE_STALL * 2, watch.stalled()).await.is_err());
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
            let mut piece = body.frame().await.unwrap().unwrap().into_data().ok().unwrap();
            lengths.push(piece.remaining());
            got.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
        }
        assert!(got == sent && body.frame().await.is_none());
        assert_eq!(lengths, [PIECE, PIECE, PIECE, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_is_not_looked_at() {
        let watch = Watch::default();
        drop(watch.over(full("x")));
        let _nothing_in_it = watch.over(crate::body::empty());
        assert!(watch.lock().bodies.is_empty());
        let looking = timeout(WRITE_STALL * 2, watch.stalled());
        advance(Duration::from_secs(1)).await;
        assert!(looking.await.is_err());
    }
}
