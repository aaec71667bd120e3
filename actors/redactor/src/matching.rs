//! Whether a known secret begins at a place of a text, in any spelling.
//!
//! Each character may stand there as itself or as any escape ([`spelling`](crate::spelling)), whatever stands before and behind it: the
//! secret leads, and the text is read as it would have it. So no word that is put before a secret makes its beginning a part of another
//! escape, and one that looks like an escape itself is found as it is.

use std::ops::Range;

use crate::known::Known;
use crate::spelling::{Reading, begins_escape, is_special, readings};

/// Ways to read that are tried at one place, for each byte of the longest secret. A secret that is like itself has more than one.
const TRIES: usize = 16;

/// What begins at one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Begun {
    /// Where the longest secret there ends.
    pub(crate) whole: Option<usize>,
    /// How many bytes of a secret there are before the text's end, which may cut one off.
    pub(crate) cut: Option<usize>,
}

/// One way to have read a text so far.
struct Way {
    at: usize,
    forms: Range<usize>,
    depth: usize,
}

/// A search in one text.
pub(crate) struct Matching<'s> {
    known: &'s Known,
    text: &'s [u8],
    ways: Vec<Way>,
}

impl<'s> Matching<'s> {
    pub(crate) fn new(known: &'s Known, text: &'s [u8]) -> Self {
        Self { known, text, ways: Vec::new() }
    }

    /// What begins at `from`.
    pub(crate) fn at(&mut self, from: usize) -> Begun {
        let mut begun = Begun::default();
        let Some(first) = self.text.get(from).copied() else { return begun };
        if !begins_escape(first) && !self.may_begin(first, self.text.get(from + 1)) {
            return begun;
        }
        self.ways.clear();
        self.ways.push(Way { at: from, forms: self.known.forms(), depth: 0 });
        let mut left = self.known.longest().saturating_mul(TRIES);
        while let Some(way) = self.ways.pop() {
            let Some(fewer) = left.checked_sub(1) else {
                // Nobody knows: then it is one, as far as any way had come. The others would be too many to go on with.
                let furthest = self.ways.iter().map(|other| other.at).max();
                begun.whole = begun.whole.max(furthest).max(Some(way.at));
                break;
            };
            left = fewer;
            self.follow(&way, &mut begun);
        }
        begun
    }

    /// Most places of most texts are no secret's beginning by their first two bytes.
    fn may_begin(&self, first: u8, second: Option<&u8>) -> bool {
        if !self.known.begins_with(first) {
            return false;
        }
        match second {
            Some(second) if !is_special(*second) => self.known.begins_with_both(first, *second),
            Some(_) | None => true,
        }
    }

    fn follow(&mut self, way: &Way, begun: &mut Begun) {
        let Self { known, text, ways } = self;
        let rest = text.get(way.at..).unwrap_or_default();
        if rest.is_empty() {
            if way.depth > 0 {
                begun.cut = begun.cut.max(Some(way.depth));
            }
            return;
        }
        readings(rest, |reading| match reading {
            Reading::Character(length, character) => {
                let (at, mut forms, mut depth) = (way.at + length, way.forms.clone(), way.depth);
                for byte in character.as_bytes() {
                    forms = known.narrowed(&forms, depth, *byte);
                    depth += 1;
                }
                if forms.is_empty() {
                    return;
                }
                let (whole, goes_on) = known.ends(&forms, depth);
                if whole {
                    begun.whole = begun.whole.max(Some(at));
                }
                if goes_on {
                    ways.push(Way { at, forms, depth });
                }
            }
            Reading::Break(length) if way.depth > 0 => {
                ways.push(Way { at: way.at + length, forms: way.forms.clone(), depth: way.depth });
            }
            Reading::Break(_) => {}
            Reading::Cut => begun.cut = begun.cut.max(Some(way.depth)),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::secret::Secret;

    /// Which of these `=` are the secret's, and which are broken lines', has more answers than there is time for.
    #[test]
    fn a_place_that_reads_in_too_many_ways_is_left_after_so_many() {
        for key in ["key======end", "key\\\\\\\\\\\\end"] {
            let known = Known::new(&[(Arc::from("k"), Secret::from(key))]).unwrap();
            for unit in ["=\n", "\\"] {
                let text = format!("key{}", unit.repeat(4000));
                let mut matching = Matching::new(&known, text.as_bytes());
                let _told = matching.at(0);
                assert!(matching.ways.len() <= known.longest() * TRIES * 4, "{key} {unit}");
            }
        }
        let known = Known::new(&[(Arc::from("k"), Secret::from("key======end"))]).unwrap();
        let text = format!("key{}", "=\n".repeat(4000));
        assert!(Matching::new(&known, text.as_bytes()).at(0).whole.is_some(), "nobody knows");
    }
}
