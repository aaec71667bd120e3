//! Tier 2: candidates by literal prefix, each verified where it stands. A failed candidate costs its own
//! bounded verification and nothing else: the search goes on one byte further.
//!
//! A short window is searched by the pairs of bytes that a prefix can begin with, a table made at compile
//! time; a long one by one automaton over all prefixes, which takes a millisecond and more to build.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};

use crate::formats::FORMATS;
use crate::shape::{CutShort, Format, Verdict};

/// A cut-off token is masked at the end of a stream from this many bytes on (see `stream`).
pub(crate) const TAIL_MIN: usize = 8;

/// One prefix of one format.
struct Prefix {
    literal: &'static [u8],
    format: &'static Format,
}

struct Table {
    /// By precedence.
    prefixes: Vec<Prefix>,
    /// For each first byte the prefixes that begin with it, by precedence.
    beginning: [Vec<usize>; 256],
    longest: usize,
}

/// What stands at a candidate's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Candidate {
    /// Can't be decided before more bytes come; the candidate starts here.
    Undecided { at: usize },
    /// A token that starts at `at`, of which `start..end` is masked.
    Token { at: usize, start: usize, end: usize, kind: &'static str },
}

impl Candidate {
    pub(crate) fn at(&self) -> usize {
        match self {
            Self::Undecided { at } | Self::Token { at, .. } => *at,
        }
    }
}

/// Whether more text may follow, and if not, whether the text was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// More may come.
    More,
    /// The stream ended, perhaps in the middle of a token: what could have become one is masked.
    Eof,
    /// The text is whole in itself (a message, a field): a token that is not whole is none.
    Complete,
}

static TABLE: LazyLock<Table> = LazyLock::new(Table::new);
/// Made when there is something long to be searched.
static LONG: LazyLock<AhoCorasick> = LazyLock::new(automaton);
/// From this many bytes on, a window is searched by [`LONG`].
const LONG_MIN: usize = 4 << 10;

/// The two bytes with which a prefix begins: bit `b % 64` of word `a * 4 + b / 64`.
static PAIRS: [u64; 1024] = pairs();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, where a bad index is an error")]
const fn pairs() -> [u64; 1024] {
    let mut pairs = [0; 1024];
    let mut format = 0;
    while format < FORMATS.len() {
        let prefixes = FORMATS[format].prefixes;
        let mut prefix = 0;
        while prefix < prefixes.len() {
            // One of a single byte would be no prefix to search for.
            let (first, second) = (prefixes[prefix][0] as usize, prefixes[prefix][1] as usize);
            pairs[first * 4 + second / 64] |= 1 << (second % 64);
            prefix += 1;
        }
        format += 1;
    }
    pairs
}

/// Whether a prefix begins with these two.
fn can_begin(first: u8, second: u8) -> bool {
    let word = PAIRS.get(usize::from(first) * 4 + usize::from(second) / 64);
    word.is_some_and(|word| word >> (second % 64) & 1 == 1)
}

fn literals() -> impl Iterator<Item = Prefix> {
    FORMATS.iter().flat_map(|format| format.prefixes.iter().map(move |literal| Prefix { literal, format }))
}

#[expect(clippy::expect_used, reason = "built from the constant table alone; the tests build it")]
fn automaton() -> AhoCorasick {
    AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .kind(Some(AhoCorasickKind::DFA))
        .build(literals().map(|prefix| prefix.literal))
        .expect("the constant prefixes make an automaton")
}

impl Table {
    fn new() -> Self {
        let prefixes: Vec<Prefix> = literals().collect();
        let mut beginning = [const { Vec::new() }; 256];
        for (index, prefix) in prefixes.iter().enumerate() {
            if let Some(same) = prefix.literal.first().and_then(|byte| beginning.get_mut(usize::from(*byte)))
            {
                same.push(index);
            }
        }
        let longest = prefixes.iter().map(|prefix| prefix.literal.len()).max().unwrap_or(0);
        Self { prefixes, beginning, longest }
    }

    /// The prefixes that begin with this byte, by precedence.
    fn beginning_with(&self, first: u8) -> impl Iterator<Item = &Prefix> {
        let indices = self.beginning.get(usize::from(first)).map(Vec::as_slice).unwrap_or_default();
        indices.iter().filter_map(|index| self.prefixes.get(*index))
    }
}

/// The first place at or after `from` where a token stands or may stand. `before` is the byte before the
/// window.
pub(crate) fn find(window: &[u8], from: usize, before: Option<u8>, end: End) -> Option<Candidate> {
    // Both give the same answers.
    let next = if window.len() < LONG_MIN { next_by_pairs } else { next_by_automaton };
    let mut from = from;
    loop {
        let (at, literal) = next(window, from)?;
        if let Some(candidate) = judge(window, at, literal, before, end) {
            return Some(candidate);
        }
        from = at + 1;
    }
}

/// The first place at or after `from` where a prefix stands, and the longest that does.
fn next_by_pairs(window: &[u8], from: usize) -> Option<(usize, &'static [u8])> {
    let pairs = window.get(from..)?.windows(2).zip(from..);
    pairs.filter(|(pair, _)| matches!(pair, [first, second] if can_begin(*first, *second))).find_map(
        |(_, at)| {
            let rest = window.get(at..)?;
            let standing = TABLE.beginning_with(*rest.first()?).map(|prefix| prefix.literal);
            let longest = standing.filter(|literal| rest.starts_with(literal)).max_by_key(|l| l.len())?;
            Some((at, longest))
        },
    )
}

/// As [`next_by_pairs`], for long windows.
fn next_by_automaton(window: &[u8], from: usize) -> Option<(usize, &'static [u8])> {
    let range = from..window.len();
    let found = if range.is_empty() { None } else { LONG.find(Input::new(window).range(range)) }?;
    Some((found.start(), TABLE.prefixes.get(found.pattern().as_usize())?.literal))
}

fn previous(window: &[u8], at: usize, before: Option<u8>) -> Option<u8> {
    at.checked_sub(1).map_or(before, |index| window.get(index).copied())
}

/// What stands at a place where `standing` is the longest prefix.
fn judge(window: &[u8], at: usize, standing: &[u8], before: Option<u8>, end: End) -> Option<Candidate> {
    let previous = previous(window, at, before);
    let rest = window.get(at..)?;
    let last = end != End::More;
    let mut cut = None;
    // What else may stand here: shorter ones, and longer ones of which not all has come.
    let beside = TABLE
        .beginning_with(*rest.first()?)
        .filter(|prefix| prefix.literal.starts_with(standing) || standing.starts_with(prefix.literal));
    for Prefix { literal, format } in beside {
        if !format.left.allows(previous) {
            continue;
        }
        if !rest.starts_with(literal) {
            if !last && literal.starts_with(rest) {
                return Some(Candidate::Undecided { at });
            }
            continue;
        }
        match format.verify(window, at, literal, last) {
            Verdict::No => {}
            Verdict::More => return Some(Candidate::Undecided { at }),
            Verdict::Hit { start, end } => {
                return Some(Candidate::Token { at, start, end, kind: format.kind });
            }
            Verdict::Cut { start } => {
                let masked = end == End::Eof && format.cut_short == CutShort::Mask;
                if masked && rest.len() >= TAIL_MIN && start < window.len() {
                    cut = cut.or(Some(Candidate::Token { at, start, end: window.len(), kind: format.kind }));
                }
            }
        }
    }
    cut
}

/// The first place at or after `from` from which the rest of the window is the beginning of a prefix, and no
/// more.
pub(crate) fn tail(window: &[u8], from: usize, before: Option<u8>) -> Option<usize> {
    let from = from.max(window.len().saturating_sub(TABLE.longest.saturating_sub(1)));
    (from..window.len()).find(|at| {
        let rest = window.get(*at..).unwrap_or_default();
        rest.first().is_some_and(|first| {
            TABLE.beginning_with(*first).any(|prefix| {
                prefix.literal.len() > rest.len()
                    && prefix.literal.starts_with(rest)
                    && prefix.format.left.allows(previous(window, *at, before))
            })
        })
    })
}

/// Every kind that tier 2 can report: a closed set, for metric labels and documentation.
#[must_use]
pub fn kinds() -> Vec<&'static str> {
    let mut kinds: Vec<_> = FORMATS.iter().map(|format| format.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_prefix_is_found_where_it_stands_by_both() {
        for Prefix { literal, .. } in literals() {
            assert!(literal.len() >= 2);
            for text in [literal.to_vec(), [b"/x ", literal, b" y"].concat()] {
                let place = text.windows(literal.len()).position(|part| part == literal).unwrap();
                for next in [next_by_pairs, next_by_automaton] {
                    let (at, longest) = next(&text, 0).unwrap();
                    assert!(at <= place && longest.len() >= 2);
                    assert_eq!(next(&text, place).unwrap().0, place);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn both_searches_find_the_same(
            parts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, prop::collection::vec(any::<u8>(), 0..6)), 0..20),
            from in 0_usize..40,
        ) {
            let all: Vec<&[u8]> = literals().map(|prefix| prefix.literal).collect();
            let mut text = Vec::new();
            for (which, cut, noise) in &parts {
                let literal = all[which.index(all.len())];
                text.extend_from_slice(&literal[..literal.len() - cut % literal.len()]);
                text.extend_from_slice(noise);
            }
            let mut from = from.min(text.len());
            loop {
                let (one, other) = (next_by_pairs(&text, from), next_by_automaton(&text, from));
                prop_assert_eq!(one, other);
                match one {
                    Some((at, _)) => from = at + 1,
                    None => break,
                }
            }
        }
    }
}
