//! Relays the answer's body to the agent chunk by chunk, without buffering the whole, within the route's
//! time-outs.
//!
//! Each chunk passes the token counter, then what the agent didn't ask for is taken out, then the rest is
//! searched for the key. The body holds the exchange's place among those in flight and the connection, and
//! reports to the ledger how it ended, however it ends.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use policy::Share;
use redactor::{Pieces, Sieve};
use tokio::time::{Sleep, sleep, sleep_until};

use crate::{
    BoxError,
    budgets::Reservation,
    config::{Kind, Timeouts},
    lane::Lease,
    ledger::{Exchange, Ledger, Outcome},
    usage::Tap,
    withhold::Withhold,
};

/// Why an answer was cut off.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    /// The provider fell silent.
    #[error("the provider sent nothing for {0:?}")]
    Idle(std::time::Duration),
    /// The route's total time-out.
    #[error("the answer took longer than {0:?}")]
    Total(std::time::Duration),
    /// The provider's connection broke.
    #[error("the provider broke off")]
    Upstream,
}

/// What is needed to report the end of an answer to the ledger and the budgets.
pub(crate) struct Story {
    pub ledger: Arc<dyn Ledger>,
    pub exchange: Exchange,
    pub code: u16,
    pub kind: Kind,
    /// Whether the answer's text is made by a model, so that its tokens count.
    pub answers: bool,
    /// What is held of budgets for the request.
    pub held: Option<Reservation>,
}

/// The body of an answer on its way to the agent; see the module.
pub(crate) struct Relay<B> {
    inner: B,
    /// The rest of the last frame, which is searched piece by piece.
    pieces: Pieces,
    withhold: Option<Withhold>,
    sieve: Sieve,
    tap: Tap,
    /// `None` for an answer that is on record already.
    story: Option<Story>,
    began: Instant,
    timeouts: Timeouts,
    idle: Pin<Box<Sleep>>,
    total: Pin<Box<Sleep>>,
    bytes: u64,
    ended: bool,
    complete: bool,
    _holds: (Share, Option<Lease>),
}

impl<B> Relay<B> {
    pub fn new(
        inner: B,
        (withhold, sieve): (Option<Withhold>, Sieve),
        tap: Tap,
        (began, timeouts): (Instant, Timeouts),
        story: Option<Story>,
        holds: (Share, Option<Lease>),
    ) -> Self {
        let idle = Box::pin(sleep(timeouts.idle));
        let total = Box::pin(sleep_until((began + timeouts.total).into()));
        Self {
            inner,
            pieces: Pieces::default(),
            withhold,
            sieve,
            tap,
            story,
            began,
            timeouts,
            idle,
            total,
            bytes: 0,
            ended: false,
            complete: false,
            _holds: holds,
        }
    }

    fn cut(&mut self, why: Cut) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.ended = true;
        if let Some(Exchange { request_id, provider, .. }) = self.story.as_ref().map(|story| &story.exchange)
        {
            tracing::info!(%request_id, ?provider, %why, "inference answer cut");
        }
        Poll::Ready(Some(Err(Box::new(why))))
    }
}

impl<B> HttpBody for Relay<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        if this.total.as_mut().poll(cx).is_ready() {
            let after = this.timeouts.total;
            return this.cut(Cut::Total(after));
        }
        loop {
            if let Some(piece) = ready!(this.pieces.poll_next(cx)) {
                this.tap.see(&piece);
                let data = match &mut this.withhold {
                    Some(withhold) => withhold.push(&piece),
                    None => piece,
                };
                let data = this.sieve.push(data);
                if data.is_empty() {
                    continue;
                }
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Pending => {
                    if this.idle.as_mut().poll(cx).is_ready() {
                        let after = this.timeouts.idle;
                        return this.cut(Cut::Idle(after));
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(frame))) => {
                    this.idle.as_mut().reset(tokio::time::Instant::now() + this.timeouts.idle);
                    // Trailers are dropped: none of these protocols uses them.
                    let Ok(data) = frame.into_data() else { continue };
                    this.bytes = this.bytes.saturating_add(data.len() as u64);
                    this.pieces.put(data);
                }
                Poll::Ready(Some(Err(fault))) => {
                    tracing::debug!(%fault, "a provider broke off");
                    return this.cut(Cut::Upstream);
                }
                Poll::Ready(None) => {
                    this.ended = true;
                    this.complete = true;
                    let held = this.withhold.as_mut().map(Withhold::finish).unwrap_or_default();
                    let rest = joined(this.sieve.push(held), this.sieve.finish());
                    return Poll::Ready((!rest.is_empty()).then(|| Ok(Frame::data(rest))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

fn joined(first: Bytes, second: Bytes) -> Bytes {
    if first.is_empty() {
        return second;
    }
    [first, second].concat().into()
}

impl<B> Drop for Relay<B> {
    fn drop(&mut self) {
        let Some(mut story) = self.story.take() else { return };
        if let Some(held) = story.held.take() {
            let seen = if story.answers { self.tap.passed() } else { 0 };
            // Many a reader leaves behind an answer's last word.
            let complete = self.complete || self.tap.is_over();
            let used = held.estimate().used(story.kind, &self.tap.tokens(), seen, story.code, complete);
            held.settle(used);
        }
        let outcome = Outcome {
            code: story.code,
            tokens: self.tap.tokens(),
            bytes: self.bytes,
            took: self.began.elapsed(),
            complete: self.complete,
            passed_over: false,
        };
        story.ledger.finished(&story.exchange, &outcome);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use http_body_util::{BodyExt as _, Full};
    use policy::{Party, Shares};
    use redactor::{Guesses, Mask, PIECE, Screen, Secret};

    use super::*;

    const KEY: &str = "sk-0123456789abcdefgh";

    fn relay(text: String, withhold: Option<Withhold>) -> Relay<Full<Bytes>> {
        let sieve =
            Screen::new([&Secret::from(KEY)], Mask::Stars).unwrap().sieve(Guesses::default().of(1, || {}));
        let long = Duration::from_secs(60);
        let times = (Instant::now(), Timeouts { connect: long, first_byte: long, idle: long, total: long });
        let share = Shares::new(1).take(Party(1), 1).unwrap();
        Relay::new(Full::new(text.into()), (withhold, sieve), Tap::new(""), times, None, (share, None))
    }

    /// However much a provider sends at once, other tasks get their turns while it is searched; and all of it
    /// arrives.
    #[tokio::test]
    async fn a_turn_passes_a_piece_at_most() {
        let filler = "&".repeat(PIECE - 7);
        let text = format!("{filler}{KEY}{filler}{KEY}{filler}{filler}");
        for withhold in [None, Some(Withhold::default())] {
            let mut relay = relay(text.clone(), withhold);
            let (mut turns, mut out) = (vec![0], Vec::new());
            loop {
                match relay.frame().now_or_never() {
                    None => {
                        turns.push(0);
                        tokio::task::yield_now().await;
                    }
                    Some(None) => break,
                    Some(Some(frame)) => {
                        let data = frame.unwrap().into_data().unwrap();
                        *turns.last_mut().unwrap() += data.len();
                        out.extend_from_slice(&data);
                    }
                }
            }
            assert!(String::from_utf8(out).unwrap() == text.replace(KEY, &"*".repeat(KEY.len())));
            // Beyond a piece, a turn passes on what the search held back before.
            assert!(turns.len() >= 5 && turns.iter().all(|turn| *turn < PIECE + 1024), "{turns:?}");
        }
    }
}
