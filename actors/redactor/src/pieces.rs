//! Cuts a stream into pieces for an expensive search: in one turn its task searches so much of it, and then
//! other tasks have their turn.
//!
//! The sender chooses how long a chunk is and how much work its bytes make. All streams of a sandbox share a
//! few threads, which don't preempt a task (cooperative scheduling): one long chunk would keep all others
//! waiting until it is searched.

use std::pin::pin;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::words;

/// What one turn searches at most, bytes. Ordinary chunks are no longer.
pub const PIECE: usize = 16 * 1024;
/// So much less it may be. Longer words are no keys.
const WORD: usize = 512;

/// A chunk on its way into a [`Sieve`](crate::Sieve), and how much of this turn is used up.
#[derive(Debug, Default)]
pub struct Pieces {
    rest: Bytes,
    used: usize,
}

impl Pieces {
    /// Takes a chunk, once nothing is left of the last one.
    pub fn put(&mut self, chunk: Bytes) {
        debug_assert!(self.rest.is_empty(), "nothing is dropped");
        self.rest = chunk;
    }

    /// Returns the next piece; none once the chunk is done. Pending once this turn is used up: the task is
    /// woken when others have had their turn.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let length = match self.rest.get(..PIECE) {
            // Not in a word, unless it is a long one: where a piece ends, the beginning of a value's part
            // isn't known for what it is, and passes.
            Some(piece) if self.rest.len() > PIECE => Some(words::start(piece, PIECE - WORD, PIECE))
                .filter(|cut| *cut > PIECE - WORD)
                .unwrap_or(PIECE),
            _ => self.rest.len(),
        };
        if length == 0 {
            return Poll::Ready(None);
        }
        if self.used + length > PIECE {
            self.used = 0;
            // Not woken at once: as long as the threads' queues aren't empty, the runtime doesn't look
            // whether something came for the others.
            if pin!(tokio::task::yield_now()).poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        self.used += length;
        Poll::Ready(Some(self.rest.split_to(length)))
    }

    /// Bytes of the chunk that are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.rest.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What each turn takes of chunks of these lengths, and that each pause ends.
    fn turns(chunks: &[usize]) -> Vec<Vec<usize>> {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let (mut pieces, mut turns) = (Pieces::default(), vec![Vec::new()]);
        for chunk in chunks {
            pieces.put(vec![b'x'; *chunk].into());
            loop {
                match pieces.poll_next(&mut cx) {
                    Poll::Ready(Some(piece)) => turns.last_mut().unwrap().push(piece.len()),
                    Poll::Ready(None) => break,
                    Poll::Pending => turns.push(Vec::new()),
                }
                assert_eq!(woken.0.load(Ordering::Relaxed) + 1, turns.len(), "woken for each turn");
            }
            assert_eq!(pieces.left(), 0);
        }
        turns
    }

    /// But for those that are longer than any key.
    #[test]
    fn a_piece_ends_between_words() {
        for (before, word, first) in [
            (PIECE - 20, 30, PIECE - 19),
            (PIECE - WORD, WORD + 1, PIECE - WORD + 1),
            (PIECE - WORD - 2, WORD + 9, PIECE),
            (PIECE - 1, 4, PIECE),
            (PIECE - 31, 30, PIECE),
        ] {
            let text = format!("{} {}", "x".repeat(before), "y".repeat(word));
            let mut pieces = Pieces::default();
            pieces.put(text.clone().into());
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready(Some(piece)) = pieces.poll_next(&mut cx) else { panic!("nothing came") };
            assert_eq!(piece.len(), first, "{before}, {word}");
            assert_eq!(pieces.left(), text.len() - first);
        }
    }

    #[test]
    fn a_turn_takes_a_piece_at_most() {
        assert_eq!(turns(&[0, 10, PIECE - 10]), [vec![10, PIECE - 10]], "small ones make no pause");
        assert_eq!(turns(&[10, PIECE]), [vec![10], vec![PIECE]], "and what fits isn't cut");
        assert_eq!(turns(&[3 * PIECE + 1]), [vec![PIECE], vec![PIECE], vec![PIECE], vec![1]]);
        for chunks in [vec![1; 100_000], vec![PIECE + 1; 10], vec![1 << 20]] {
            let turns = turns(&chunks);
            let taken: Vec<usize> = turns.iter().map(|turn| turn.iter().sum()).collect();
            assert_eq!(taken.iter().sum::<usize>(), chunks.iter().sum::<usize>());
            assert!(taken.iter().all(|taken| *taken <= PIECE));
        }
    }
}
