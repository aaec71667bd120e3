//! One look at a text: what in it is to be masked, what may pass, what must wait for more.
//!
//! A pure function, by which [`Sieve`](crate::sieve) takes a stream apart. It also reports what counts as a
//! guess, but counts nothing itself.

use std::ops::Range;

use crate::known::{Found, Known};
use crate::matching::{Matching, Way};
use crate::screen::WRAPPED_MIN;
use crate::spelling::{SPELLED, is_escaped};
use crate::words;

/// Secrets that may have begun in bytes that have passed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Open {
    /// Their positions are offsets in what the sieve keeps.
    pub(crate) ways: Vec<Way>,
    /// The end of a secret that is whole already, but may become a longer one by what follows.
    pub(crate) whole: Option<usize>,
    /// What is masked isn't yet at its end.
    pub(crate) masked: Option<Masked>,
}

/// Up to where a text is masked since a part of a secret stands in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Masked {
    /// From here on; what stands before is done.
    from: usize,
    pub(crate) to: usize,
    /// The word goes on where the text ends.
    goes_on: bool,
}

impl Masked {
    /// To the end of the word that goes on at `to`.
    fn word(text: &[u8], from: usize, to: usize) -> Self {
        let to = words::end(text, to);
        Self { from, to, goes_on: to >= text.len() }
    }

    /// As far as either.
    fn and(self, other: Self) -> Self {
        let further = if other.to > self.to { other } else { self };
        Self { from: self.from.min(other.from), ..further }
    }

    /// In what is kept, from `kept` on.
    pub(crate) fn moved(self, kept: usize) -> Self {
        Self { from: self.from.saturating_sub(kept), to: self.to.saturating_sub(kept), ..self }
    }
}

/// Whether a text goes on after what is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    GoesOn,
    /// It goes on, and its end waits whatever it is, for the length of the longest secret's longest spelling:
    /// that reveals nothing of its content.
    Late,
    Ended,
    /// There is no more of it, and nobody takes its end for more than it is.
    Whole,
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
    /// A secret, or its first part, stands where this text began to wait.
    pub(crate) was_one: bool,
}

impl Look {
    fn cover(&mut self, span: Range<usize>) {
        self.covered.push(span);
        // Whatever else began before is interrupted by the mask.
        self.open.ways.clear();
    }

    /// Covers a word up to `passes`. What is left of it is masked by the next look.
    fn cover_word(&mut self, masked: Option<Masked>, passes: usize) {
        let Some(masked) = masked else { return };
        let end = masked.to.min(passes);
        if masked.from < end {
            self.covered.push(masked.from..end);
        }
        if masked.to > passes || masked.goes_on {
            self.open.masked = Some(Masked { from: end, ..masked });
        }
    }

    /// Up to where nothing more can be covered.
    fn done(&self, shown: usize) -> usize {
        self.covered.last().map_or(shown, |covered| covered.end)
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
    shown: usize,
}

impl<'t> Text<'t> {
    fn new(known: &'t Known, bytes: &'t [u8], shown: usize, stage: Stage) -> Self {
        let near = bytes.len().saturating_sub(known.longest().saturating_mul(SPELLED));
        let last_line = bytes.iter().rposition(|byte| matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
        let limit = if stage == Stage::Late { near.max(shown) } else { bytes.len() };
        Self { known, bytes, stage, near, last_line, limit, shown }
    }

    fn from(&self, at: usize) -> &'t [u8] {
        self.bytes.get(at..).unwrap_or_default()
    }

    /// Whether what begins at `at`, and is cut off by the text's end, waits for the rest of it.
    fn waits(&self, at: usize, cut: Option<usize>, nearly: bool, passed: bool) -> bool {
        let may_wait = |secret| secret >= WRAPPED_MIN || (!passed && at >= self.last_line);
        match self.stage {
            Stage::GoesOn => at >= self.near && cut.is_some_and(may_wait),
            Stage::Late | Stage::Whole => false,
            Stage::Ended => nearly,
        }
    }

    /// Looks on from `at`, where no byte can be read but as itself.
    fn plain(&self, at: usize, matching: &mut Matching<'_>, look: &mut Look) -> usize {
        let rest = self.from(at);
        let found: Vec<Found> = self.known.all(rest).collect();
        if self.known.has_parts() && found.iter().any(|found| self.known.is_part(*found)) {
            return self.escaped(at, matching, None, look);
        }
        let is_late = matches!(self.stage, Stage::Late | Stage::Whole);
        let places = if is_late { Vec::new() } else { self.known.places(rest) };
        // Few of them go on to the end.
        let begun: Vec<(usize, Range<usize>)> = places
            .iter()
            .map(|place| (*place, self.known.begun_by(rest.get(*place..).unwrap_or_default())))
            .filter(|(_, forms)| !forms.is_empty())
            .collect();
        let waits = |(tail, forms): &(usize, Range<usize>)| {
            let length = rest.len() - tail;
            let cut = self.known.may_wait(forms, length).then_some(length);
            self.waits(at + tail, cut, self.known.is_nearly(forms, length), false)
        };
        let mut cut_off = begun.iter().filter(|begun| waits(begun)).map(|(tail, _)| *tail);
        let mut first = cut_off.next();
        for found in found {
            if first.is_some_and(|first| first <= found.start) {
                break;
            }
            if at + found.end > self.limit {
                return self.limit.min(at + found.start);
            }
            while first.is_some_and(|first| first < found.end) {
                first = cut_off.next();
            }
            look.was_one |= at + found.start == self.shown;
            look.cover(at + found.start..at + found.end);
        }
        let passes = first.map_or(self.limit, |first| at + first);
        if self.stage == Stage::GoesOn {
            self.guesses(at, places.iter().map(|place| at + place), passes, look);
            // Parts that the end cuts off don't wait: what has begun of them stays open.
            let uncovered = look.done(at);
            for place in begun.iter().map(|(place, _)| at + place) {
                if (uncovered..passes).contains(&place) {
                    let _cut_off = matching.at(place);
                    look.open.ways.append(&mut matching.take_parked());
                }
            }
        }
        passes
    }

    /// Finds guesses among the places where something might have waited.
    fn guesses(&self, at: usize, places: impl Iterator<Item = usize>, passes: usize, look: &mut Look) {
        let uncovered = look.done(at);
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

    /// Looks on from `at`, each place in every reading. What begins in a word that is masked is looked for,
    /// too: it may go on behind the word.
    fn escaped(
        &self,
        mut at: usize,
        matching: &mut Matching<'_>,
        mut masked: Option<Masked>,
        look: &mut Look,
    ) -> usize {
        // The last word of which the end was looked for.
        let mut word = 0..0;
        while at < self.limit {
            if !matching.may_begin_at(at) {
                at += 1;
                continue;
            }
            let begun = matching.at(at);
            if masked.is_some_and(|masked| masked.to <= at) {
                look.cover_word(masked.take(), self.bytes.len());
            }
            let is_masked = masked.is_some_and(|masked| masked.goes_on);
            let waits = begun.part.is_none() && !is_masked && self.waits(at, begun.cut, begun.nearly, false);
            if begun.guess && begun.whole.is_none() && begun.part.is_none() {
                look.waits |= waits;
                look.missed |= !waits && at >= self.near;
            }
            match (begun.whole, begun.part) {
                _ if waits => break,
                (Some(end), part) if part.is_none() || !matching.is_cut() => {
                    if let Some(masked) = masked.as_mut() {
                        *masked = masked.and(Masked { from: at, to: end, goes_on: false });
                    } else if end > self.limit {
                        return at;
                    } else {
                        look.was_one |= at == self.shown;
                        look.cover(at..end);
                    }
                    at = end;
                    matching.forget();
                }
                (whole, Some(part)) => {
                    look.was_one |= at == self.shown && part.is_first;
                    let end = whole.unwrap_or(part.end).max(part.end);
                    // What is masked already isn't walked again for each part in it.
                    if !word.contains(&end) {
                        word = end..words::end(self.bytes, end);
                    }
                    let found = Masked { from: at, to: word.end, goes_on: word.end >= self.bytes.len() };
                    masked = Some(match masked {
                        Some(masked) => masked.and(found),
                        None if part.is_first => found,
                        None => Masked { from: words::start(self.bytes, look.done(self.shown), at), ..found },
                    });
                    look.open.ways.append(&mut matching.take_parked());
                    at += 1;
                }
                (_, None) => {
                    look.open.ways.append(&mut matching.take_parked());
                    at += 1;
                }
            }
        }
        let passes = at.min(self.limit);
        look.cover_word(masked, passes);
        passes
    }
}

/// Looks at a text, of which the first `shown` bytes have passed. The text is decided up to the first place
/// where a secret begins that the text's end cuts off.
pub(crate) fn look(known: &Known, bytes: &[u8], shown: usize, open: &Open, stage: Stage) -> Look {
    let text = Text::new(known, bytes, shown, stage);
    let mut matching = Matching::new(known, bytes);
    let begun = matching.go_on(open.ways.clone());
    let whole = open.whole.max(begun.whole);
    let is_cut = matching.is_cut();
    let ways = matching.take_parked();
    let mut masked = open.masked.map(|masked| match masked.goes_on {
        true => Masked::word(bytes, shown, masked.to),
        false => masked,
    });
    let mut look = Look { passes: shown, open: Open { ways, whole, masked: None }, ..Look::default() };
    if let Some(part) = begun.part {
        let word = Masked::word(bytes, shown, part.end.max(shown));
        masked = Some(masked.map_or(word, |masked| masked.and(word)));
        look.was_one = part.is_first;
    }
    let is_masked = masked.is_some_and(|masked| masked.goes_on);
    let waits = !is_masked && text.waits(shown, begun.cut, begun.nearly, true);
    if begun.guess && whole.is_none() && begun.part.is_none() {
        look.waits = waits;
        look.missed = !waits && shown >= text.near;
    }
    if waits || (masked.is_none() && whole.is_some_and(|end| end > text.limit)) {
        look.cover_word(masked, shown);
        return look;
    }
    let mut at = shown;
    look.open.whole = None;
    if let Some(end) = whole {
        look.was_one |= end > shown;
        // The end of a secret is that of what is masked, if nothing else goes on.
        let is_its_own = open.masked.is_none_or(|masked| masked.goes_on) && !is_cut;
        if masked.is_none() || (is_its_own && end <= text.limit) {
            masked = None;
            at = end.max(shown);
            if at > shown {
                look.covered.push(shown..at);
            }
            look.open.ways.clear();
            matching.forget();
        } else if let Some(word) = masked.as_mut() {
            *word = word.and(Masked { from: shown, to: end, goes_on: false });
        }
    }
    look.passes = if masked.is_some() || is_escaped(text.from(at)) {
        text.escaped(at, &mut matching, masked, &mut look)
    } else {
        text.plain(at, &mut matching, &mut look)
    };
    look.open.ways.sort_unstable();
    look.open.ways.dedup();
    look
}
