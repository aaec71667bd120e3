//! One look at a text: what in it is to be masked, what may pass, what must wait for more.
//!
//! A pure function, by which [`Sieve`](crate::sieve) takes a stream apart. It also reports what counts as a
//! guess, but counts nothing itself.

use std::ops::Range;

use crate::known::Known;
use crate::matching::{Matching, Way};
use crate::screen::WRAPPED_MIN;
use crate::spelling::{SPELLED, is_escaped};

/// Secrets that may have begun in bytes that have passed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Open {
    /// Their positions are offsets in what the sieve keeps.
    pub(crate) ways: Vec<Way>,
    /// The end of a secret that is whole already, but may become a longer one by what follows.
    pub(crate) whole: Option<usize>,
}

/// Whether a text goes on after what is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    GoesOn,
    /// It goes on, and its end waits whatever it is, for the length of the longest secret's longest spelling:
    /// that reveals nothing of its content.
    Late,
    Ended,
}

/// What a look finds.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// What is to be masked, in order, without overlaps.
    pub(crate) covered: Vec<Range<usize>>,
    /// Offset up to which bytes may pass; those behind it wait.
    pub(crate) passes: usize,
    pub(crate) open: Open,
    /// Whether something that doesn't wait begins with so much of a secret that it counts as a guess.
    pub(crate) missed: bool,
    /// Whether what waits begins so.
    pub(crate) waits: bool,
}

impl Look {
    /// Whether a secret stands where the text began to wait, at `shown`.
    pub(crate) fn begins_covered(&self, shown: usize) -> bool {
        self.covered.first().is_some_and(|covered| covered.start == shown)
    }

    fn cover(&mut self, span: Range<usize>) {
        self.covered.push(span);
        // Whatever else began before is interrupted by the mask.
        self.open.ways.clear();
    }
}

/// The text that is looked at, and what decides which part of it waits.
struct Text<'t> {
    known: &'t Known,
    bytes: &'t [u8],
    stage: Stage,
    /// Offset before which nothing waits: what stands from there to the end is longer than the longest form
    /// in its longest spelling, so it can't be the beginning of one.
    near: usize,
    last_line: usize,
    /// Offset behind which everything waits.
    limit: usize,
}

impl<'t> Text<'t> {
    fn new(known: &'t Known, bytes: &'t [u8], shown: usize, stage: Stage) -> Self {
        let near = bytes.len().saturating_sub(known.longest().saturating_mul(SPELLED));
        let last_line = bytes.iter().rposition(|byte| matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
        let limit = if stage == Stage::Late { near.max(shown) } else { bytes.len() };
        Self { known, bytes, stage, near, last_line, limit }
    }

    fn from(&self, at: usize) -> &'t [u8] {
        self.bytes.get(at..).unwrap_or_default()
    }

    /// Whether the end of the text from `at` on, which has `secret` bytes of a secret, waits for the rest of
    /// it.
    fn waits(&self, at: usize, secret: usize, nearly: bool, passed: bool) -> bool {
        match self.stage {
            Stage::GoesOn => at >= self.near && (secret >= WRAPPED_MIN || (!passed && at >= self.last_line)),
            Stage::Late => false,
            Stage::Ended => nearly,
        }
    }

    /// Looks on from `at`, where every byte stands for itself alone.
    fn plain(&self, at: usize, look: &mut Look) -> usize {
        let rest = self.from(at);
        let nearly = |tail: usize| self.known.is_nearly_one(rest.get(tail..).unwrap_or_default());
        let places = if self.stage == Stage::Late { Vec::new() } else { self.known.places(rest) };
        let mut cut_off = places
            .iter()
            .copied()
            .filter(|place| self.known.tail(rest, *place).is_some())
            .filter(|tail| self.waits(at + tail, rest.len() - tail, nearly(*tail), false));
        let mut first = cut_off.next();
        for found in self.known.all(rest) {
            if first.is_some_and(|first| first <= found.start) {
                break;
            }
            if at + found.end > self.limit {
                return self.limit.min(at + found.start);
            }
            while first.is_some_and(|first| first < found.end) {
                first = cut_off.next();
            }
            look.cover(at + found.start..at + found.end);
        }
        let passes = first.map_or(self.limit, |first| at + first);
        if self.stage == Stage::GoesOn {
            self.guesses(at, places.iter().map(|place| at + place), passes, look);
        }
        passes
    }

    /// Finds guesses among the places where something might have waited.
    fn guesses(&self, at: usize, places: impl Iterator<Item = usize>, passes: usize, look: &mut Look) {
        let uncovered = look.covered.last().map_or(at, |covered| covered.end);
        for place in places.skip_while(|place| *place < uncovered).take_while(|place| *place <= passes) {
            let guess = self.known.begins_with_a_guess(self.from(place));
            look.missed |= guess && place < passes;
            look.waits |= guess && place == passes;
            if guess {
                // Only one guess is counted per look; of what waits, nothing begins before this place.
                break;
            }
        }
    }

    /// Looks on from `at`, and tries every reading of each place.
    fn escaped(&self, mut at: usize, matching: &mut Matching<'_>, look: &mut Look) -> usize {
        while at < self.limit {
            if !matching.may_begin_at(at) {
                at += 1;
                continue;
            }
            let begun = matching.at(at);
            let waits = begun.cut.is_some_and(|secret| self.waits(at, secret, begun.nearly, false));
            if begun.guess && begun.whole.is_none() {
                look.waits |= waits;
                look.missed |= !waits && at >= self.near;
            }
            match begun.whole {
                _ if waits => return at,
                Some(end) if end > self.limit => return at,
                Some(end) => {
                    look.cover(at..end);
                    at = end;
                    matching.forget();
                }
                None => {
                    look.open.ways.append(&mut matching.take_parked());
                    at += 1;
                }
            }
        }
        at
    }
}

/// Looks at a text, of which the first `shown` bytes have passed. The text is decided up to the first place
/// where a secret begins that the text's end cuts off.
pub(crate) fn look(known: &Known, bytes: &[u8], shown: usize, open: &Open, stage: Stage) -> Look {
    let text = Text::new(known, bytes, shown, stage);
    let mut matching = Matching::new(known, bytes);
    let begun = matching.go_on(open.ways.clone());
    let whole = open.whole.max(begun.whole);
    let ways = matching.take_parked();
    let mut look = Look { passes: shown, open: Open { ways, whole }, ..Look::default() };
    let waits = begun.cut.is_some_and(|secret| text.waits(shown, secret, begun.nearly, true));
    if begun.guess && whole.is_none() {
        look.waits = waits;
        look.missed = !waits && shown >= text.near;
    }
    if waits || whole.is_some_and(|end| end > text.limit) {
        return look;
    }
    let mut at = shown;
    look.open.whole = None;
    if let Some(end) = whole {
        at = end.max(shown);
        if at > shown {
            look.covered.push(shown..at);
        }
        look.open.ways.clear();
        matching.forget();
    }
    look.passes = if is_escaped(text.from(at)) {
        text.escaped(at, &mut matching, &mut look)
    } else {
        text.plain(at, &mut look)
    };
    look.open.ways.sort_unstable();
    look.open.ways.dedup();
    look
}
