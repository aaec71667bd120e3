//! One stream on its way through a [`Screen`]: what waits, what may pass, what is covered.
//!
//! Bytes that have passed are not looked at again: the readings in which they may begin a secret stay open
//! from one chunk to the next ([`Way`](crate::matching::Way)), with no more of the text than they have yet to
//! read. If many bytes wait, they are looked at seldom. So what a byte costs doesn't grow with what came
//! before it, however small the chunks are in which a server sends it.
//!
//! A text that waits tells the one who chose it that a secret begins like it. So looks that would tell this
//! are counted ([`guesses`](crate::guesses)), and for a party that has had too many of them the end of every
//! text waits ([`Stage::Late`]), whatever it is.

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::guesses::Guesser;
use crate::known::Known;
use crate::look::{Look, Open, Stage, look};
use crate::screen::Screen;

/// If so many bytes wait, they are looked at again only once a [`SELDOM`]th of them is new: a look for each
/// of many small chunks would cost the square of what waits.
const MANY_WAIT: usize = 256;
const SELDOM: usize = 16;

/// One stream on its way through a [`Screen`].
#[derive(Debug)]
pub struct Sieve {
    screen: Screen,
    doubt: Doubt,
    /// The end of what has passed, as far as an open reading has yet to read it; then what waits.
    kept: Zeroizing<Vec<u8>>,
    shown: usize,
    /// How many of its bytes came since the last look.
    unseen: usize,
    open: Open,
}

impl Sieve {
    pub(crate) fn new(screen: Screen, guesser: Guesser) -> Self {
        Self {
            screen,
            doubt: Doubt { guesser, open: 0 },
            kept: Zeroizing::default(),
            shown: 0,
            unseen: 0,
            open: Open::default(),
        }
    }

    /// Takes a chunk, and returns what may pass now. Without a hit and a doubtful tail that is the chunk
    /// itself, uncopied.
    pub fn push(&mut self, mut chunk: Bytes) -> Bytes {
        let Some(known) = self.screen.known() else { return chunk };
        if self.held() >= MANY_WAIT && self.unseen + chunk.len() < self.held() / SELDOM {
            self.unseen += chunk.len();
            self.kept.extend_from_slice(&chunk);
            return Bytes::new();
        }
        self.unseen = 0;
        if !self.kept.is_empty() {
            let mut joined = std::mem::take(&mut *self.kept);
            joined.extend_from_slice(&chunk);
            chunk = joined.into();
        }
        let (shown, open) = (std::mem::take(&mut self.shown), std::mem::take(&mut self.open));
        let goes_on = open.masked.is_some();
        let Look { covered, passes, mut open, .. } = self.doubt.look(known, &chunk, shown, &open);
        let from = open.ways.iter().map(|way| way.at).fold(passes, usize::min);
        self.kept.extend_from_slice(chunk.get(from..).unwrap_or_default());
        self.shown = passes - from;
        open.ways.iter_mut().for_each(|way| way.at -= from);
        open.whole = open.whole.map(|end| end.saturating_sub(from));
        open.masked = open.masked.map(|masked| masked.moved(from));
        self.open = open;
        self.screen.let_pass(&chunk, shown..passes, &covered, goes_on)
    }

    /// The end of the stream: what was held is no secret, since it is not whole.
    ///
    /// Masked where it is nearly one: an answer that ends just before a secret's end would give it away. Not
    /// where more is missing: an agent that has a server send its guesses, and sees which of them are masked,
    /// would learn a secret letter by letter.
    pub fn finish(&mut self) -> Bytes {
        let rest = Bytes::from(std::mem::take(&mut *self.kept));
        let (shown, open) = (std::mem::take(&mut self.shown), std::mem::take(&mut self.open));
        let Some(known) = self.screen.known() else { return rest };
        let mut look = look(known, &rest, shown, &open, Stage::Ended);
        if look.was_one {
            self.doubt.were_none();
        }
        if look.passes < rest.len() {
            look.covered.push(look.passes..rest.len());
        }
        self.screen.let_pass(&rest, shown..rest.len(), &look.covered, open.masked.is_some())
    }

    /// Bytes that wait.
    #[must_use]
    pub fn held(&self) -> usize {
        self.kept.len() - self.shown
    }
}

/// What the reader of a stream may learn from what waits in it.
#[derive(Debug)]
struct Doubt {
    guesser: Guesser,
    /// Guesses counted for what waits: they were none if it turns out to be a secret.
    open: u32,
}

impl Doubt {
    /// Looks at the text, at stage [`Stage::Late`] if the outcome of a guess in it may not be seen.
    fn look(&mut self, known: &Known, text: &[u8], shown: usize, open: &Open) -> Look {
        if !self.guesser.is_spent() {
            let look = look(known, text, shown, open, Stage::GoesOn);
            if self.counts(&look, shown) {
                return look;
            }
        }
        look(known, text, shown, open, Stage::Late)
    }

    /// Counts the guesses of a look. Returns whether their outcome may be seen.
    fn counts(&mut self, look: &Look, shown: usize) -> bool {
        if look.was_one {
            self.were_none();
        } else if look.passes > shown {
            self.open = 0;
        }
        if look.missed && !self.guesser.may_see() {
            return false;
        }
        if look.waits {
            if !self.guesser.may_see() {
                return false;
            }
            self.open += 1;
        }
        true
    }

    /// Takes the open guesses back, since what waited was a secret.
    fn were_none(&mut self) {
        self.guesser.were_none(std::mem::take(&mut self.open));
    }
}

#[cfg(test)]
mod tests;
