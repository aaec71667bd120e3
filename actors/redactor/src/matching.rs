//! Whether a known secret begins at a place of a text, in any spelling.
//!
//! Each character may stand there as itself or as any escape ([`spelling`](crate::spelling)), whatever stands
//! before and behind it: the search follows the secret, and reads the text in every way that would match it.
//! So no text before a secret can hide its beginning as a part of another escape, and a secret that looks
//! like an escape itself is found as it is.

use std::collections::HashMap;

use crate::forms::Role;
use crate::known::Known;
use crate::spelling::{Reading, begins_escape, blanks, is_run, is_special, may_go_on, readings};

/// Most readings that are tried at one place, for each byte of the longest secret. A secret that repeats
/// itself has more than one.
const TRIES: usize = 16;

/// Number of line ends walked in a row from which on the outcome is kept.
const MANY_ENDS: usize = 4;

/// A part of a secret ([`parts`](crate::parts)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) end: usize,
    /// It is the first: no more of the secret stands before it.
    pub(crate) is_first: bool,
}

impl Part {
    fn or(self, other: Self) -> Self {
        Self { end: self.end.max(other.end), is_first: self.is_first && other.is_first }
    }
}

/// What begins at one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Begun {
    /// Where the longest secret there ends.
    pub(crate) whole: Option<usize>,
    /// The part of a secret that is whole there.
    pub(crate) part: Option<Part>,
    /// How many bytes of a secret there are before the text's end, which may cut one off, if it waits for
    /// more.
    pub(crate) cut: Option<usize>,
    /// Whether those are nearly all of it.
    pub(crate) nearly: bool,
    /// Whether so much of a secret begins there that it counts as a guess, wherever it breaks off.
    pub(crate) guess: bool,
}

impl Begun {
    /// Combines both outcomes.
    fn or(self, other: Self) -> Self {
        Self {
            whole: self.whole.max(other.whole),
            part: self.part.map_or(other.part, |part| Some(other.part.map_or(part, |other| part.or(other)))),
            cut: self.cut.max(other.cut),
            nearly: self.nearly || other.nearly,
            guess: self.guess || other.guess,
        }
    }
}

/// One reading of a text so far.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Way {
    /// Offset of the next byte to be read.
    pub(crate) at: usize,
    /// The forms that it may be: `from..to`.
    from: usize,
    to: usize,
    /// How many bytes of these forms were matched.
    depth: usize,
    /// Whether a line ends before `at`: blanks that follow belong to its end.
    broken: bool,
}

impl Way {
    /// The outcome of this reading if the text ends here.
    fn cut_off(&self, known: &Known) -> Begun {
        let forms = self.from..self.to;
        Begun {
            cut: known.may_wait(&forms, self.depth).then_some(self.depth),
            nearly: known.is_nearly(&forms, self.depth),
            ..Begun::default()
        }
    }
}

/// A search in one text.
pub(crate) struct Matching<'s> {
    known: &'s Known,
    text: &'s [u8],
    ways: Vec<Way>,
    /// Readings that the text's end has cut off.
    parked: Vec<Way>,
    /// The line ends that this search has walked in a row.
    ends: Vec<Way>,
    /// Outcomes of readings behind many line ends: whatever begins before these has the same outcome, and
    /// doesn't walk them again.
    known_ends: HashMap<Way, Begun>,
}

impl<'s> Matching<'s> {
    pub(crate) fn new(known: &'s Known, text: &'s [u8]) -> Self {
        Self {
            known,
            text,
            ways: Vec::new(),
            parked: Vec::new(),
            ends: Vec::new(),
            known_ends: HashMap::new(),
        }
    }

    /// What begins at `from`.
    pub(crate) fn at(&mut self, from: usize) -> Begun {
        self.parked.clear();
        if !self.may_begin_at(from) {
            return Begun::default();
        }
        let forms = self.known.forms();
        self.ways.clear();
        self.ways.push(Way { at: from, from: forms.start, to: forms.end, depth: 0, broken: false });
        self.search()
    }

    /// Goes on with readings that an earlier end of the text has cut off.
    pub(crate) fn go_on(&mut self, ways: Vec<Way>) -> Begun {
        self.parked.clear();
        self.ways = ways;
        self.search()
    }

    #[inline(never)]
    fn search(&mut self) -> Begun {
        let mut begun = Begun::default();
        let mut left = self.known.longest().saturating_mul(TRIES);
        let mut is_one_way = true;
        self.ends.clear();
        while let Some(way) = self.ways.pop() {
            if way.broken {
                if let Some(end) = self.known_ends.get(&way) {
                    count(1);
                    begun = begun.or(*end);
                    continue;
                }
                self.end(&way);
            }
            // Line ends alone can be read in one way only, so they don't count, however many there are.
            let Some(fewer) = left.checked_sub(usize::from(!way.broken || !self.ways.is_empty())) else {
                // It can't be decided: then it is taken for a secret, as far as any reading has come. There
                // are too many others to go on with.
                let furthest = self.ways.iter().map(|other| other.at).max();
                begun.whole = begun.whole.max(furthest).max(Some(way.at));
                is_one_way = false;
                break;
            };
            left = fewer;
            self.follow(way, &mut begun);
            is_one_way &= self.ways.len() + self.parked.len() <= 1;
        }
        // With several readings it isn't known which of them had which outcome.
        if is_one_way && self.ends.len() >= MANY_ENDS {
            self.known_ends.extend(self.ends.drain(..).map(|end| (end, begun)));
        }
        begun
    }

    /// Notes a line end that is walked. Line ends with a byte of the secret between them are not in a row:
    /// they cost no more than the byte does.
    fn end(&mut self, way: &Way) {
        let goes_on = self.ends.last().is_none_or(|last| last.depth == way.depth);
        if !goes_on && self.ends.len() < MANY_ENDS {
            self.ends.clear();
        }
        self.ends.push(way.clone());
    }

    /// Forgets the outcomes that were kept: the readings that were parked for them are gone.
    pub(crate) fn forget(&mut self) {
        self.known_ends.clear();
    }

    /// Whether the text's end has cut off a way in the last search.
    pub(crate) fn is_cut(&self) -> bool {
        !self.parked.is_empty()
    }

    /// The ways that the text's end has cut off in the last search.
    pub(crate) fn take_parked(&mut self) -> Vec<Way> {
        let mut parked = std::mem::take(&mut self.parked);
        parked.sort_unstable();
        parked.dedup();
        parked
    }

    /// Whether a secret may begin at `from`, by its first two bytes: they exclude most places of most texts.
    pub(crate) fn may_begin_at(&self, from: usize) -> bool {
        count(1);
        let Some(first) = self.text.get(from).copied() else { return false };
        if begins_escape(first) {
            return self.escape_may_begin_at(from, first);
        }
        self.may_begin(first, self.text.get(from + 1))
    }

    /// The same where the first byte may begin an escape. A function of its own, since ordinary text is
    /// looked through byte by byte and has few escapes.
    #[cold]
    #[inline(never)]
    fn escape_may_begin_at(&self, from: usize, first: u8) -> bool {
        let second = self.text.get(from + 1);
        if second.is_some_and(|second| !may_go_on(first, *second)) {
            return self.may_begin(first, second);
        }
        // A run reads as its own byte only, so it begins no secret that this byte doesn't begin.
        self.known.begins_with(first) || !is_run(self.text.get(from..).unwrap_or_default())
    }

    fn may_begin(&self, first: u8, second: Option<&u8>) -> bool {
        if !self.known.begins_with(first) {
            return false;
        }
        match second {
            Some(second) if !is_special(*second) => self.known.begins_with_both(first, *second),
            Some(_) | None => true,
        }
    }

    fn follow(&mut self, mut way: Way, begun: &mut Begun) {
        count(1);
        let Self { known, text, ways, parked, .. } = self;
        if way.broken {
            let blank = blanks(text, way.at);
            count(blank);
            way.at += blank;
        }
        let rest = text.get(way.at..).unwrap_or_default();
        if rest.is_empty() {
            if way.depth > 0 {
                *begun = begun.or(way.cut_off(known));
                parked.push(way);
            }
            return;
        }
        readings(rest, |reading| match reading {
            Reading::Character(length, character) => {
                let (at, mut forms, mut depth) = (way.at + length, way.from..way.to, way.depth);
                for byte in character.as_bytes() {
                    forms = known.narrowed(&forms, depth, *byte);
                    depth += 1;
                }
                if forms.is_empty() {
                    return;
                }
                begun.guess |= known.is_guess(&forms, depth);
                let ends = known.ends(&forms, depth);
                match ends.role {
                    Some(Role::Whole { .. }) => begun.whole = begun.whole.max(Some(at)),
                    Some(role @ (Role::First | Role::Part)) => {
                        let part = Part { end: at, is_first: role == Role::First };
                        *begun = begun.or(Begun { part: Some(part), ..Begun::default() });
                    }
                    None => {}
                }
                if ends.goes_on {
                    ways.push(Way { at, from: forms.start, to: forms.end, depth, broken: false });
                }
            }
            Reading::Break(length) if way.depth > 0 => {
                count(length);
                ways.push(Way { at: way.at + length, broken: true, ..way });
            }
            Reading::Break(_) => {}
            Reading::Cut => {
                *begun = begun.or(way.cut_off(known));
                parked.push(way.clone());
            }
        });
    }
}

// Steps of all searches of this thread, for tests.
#[cfg(test)]
std::thread_local!(pub(crate) static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) });

/// Counts what a search costs.
pub(crate) fn count(steps: usize) {
    #[cfg(test)]
    STEPS.set(STEPS.get() + steps);
    #[cfg(not(test))]
    let _ = steps;
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, LazyLock};

    use proptest::prelude::*;

    use super::*;
    use crate::secret::Secret;

    /// Which of these `=` are the secret's, and which are broken lines', has more answers than there is time
    /// for.
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

    /// Made once: building the search takes far longer than a case.
    static KNOWN: LazyLock<Vec<(&str, Known)>> = LazyLock::new(|| {
        let keys = [
            "ghp_0123456789abcdefgh",
            "%%%%%%%%%%%%41key",
            r"\\\\\\\\key",
            "&&&&&&&&&&&&&amp;key",
            r"&amp;%25key\n",
            "%zkey%zkey",
        ];
        keys.map(|key| (key, Known::new(&[(Arc::from("k"), Secret::from(key))]).unwrap())).into()
    });

    /// What begins at a place, found out wherever an escape may.
    fn obvious(matching: &mut Matching<'_>, at: usize) -> Begun {
        let front = matching.text.get(at..).unwrap_or_default();
        if !begins_escape(front[0]) && !matching.may_begin(front[0], front.get(1)) {
            matching.parked.clear();
            return Begun::default();
        }
        let forms = matching.known.forms();
        matching.go_on(vec![Way { at, from: forms.start, to: forms.end, depth: 0, broken: false }])
    }

    fn texts() -> impl Strategy<Value = String> {
        let run = ("[%\\\\&\n]", 1..20_usize).prop_map(|(byte, times)| byte.repeat(times));
        let piece = prop_oneof![
            run,
            "[%\\\\&#;=ux0-9a-fgk\n ]{1,4}".prop_map(|text| text),
            prop::sample::select(vec![
                "%25", "%5c", "&amp;", "&#37;", "\\u0025", "%67", "\\x6b", "key", "ghp_0123"
            ])
            .prop_map(str::to_owned),
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        /// Whatever the secret begins with.
        #[test]
        fn a_place_that_is_passed_over_begins_nothing(text in texts(), key in 0..KNOWN.len()) {
            let (key, known) = &KNOWN[key];
            // As an answer ends, and as it goes on.
            for text in [text.clone(), format!("{text}{key}")] {
                let (mut ours, mut wanted) = (Matching::new(known, text.as_bytes()), Matching::new(known, text.as_bytes()));
                for at in 0..text.len() {
                    prop_assert_eq!(ours.at(at), obvious(&mut wanted, at), "{} of {:?}", at, text);
                    prop_assert_eq!(ours.take_parked(), wanted.take_parked(), "{} of {:?}", at, text);
                }
            }
        }
    }
}
