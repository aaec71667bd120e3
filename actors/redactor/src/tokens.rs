//! Tier 2: candidates by literal prefix (one automaton over all prefixes), each verified where it stands.
//! A failed candidate costs its own bounded verification and nothing else: the search goes on one byte further.

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
    /// Quick to make: what nearly every sandbox needs within its first milliseconds.
    short: AhoCorasick,
    /// By precedence.
    prefixes: Vec<Prefix>,
    /// For the literal that the automaton found: what else may stand at the same place, by precedence.
    beside: Vec<Vec<usize>>,
    longest: usize,
    first: [bool; 256],
}

/// What stands at a candidate's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Candidate {
    /// Cannot be told before more bytes come; the candidate starts here.
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
/// Quick to search with: made when there is something long to be searched.
static LONG: LazyLock<AhoCorasick> = LazyLock::new(|| automaton(AhoCorasickKind::DFA));
/// From this many bytes on, a window is searched by the table that takes a millisecond and more to make.
const LONG_MIN: usize = 4 << 10;

fn literals() -> impl Iterator<Item = Prefix> {
    FORMATS.iter().flat_map(|format| format.prefixes.iter().map(move |literal| Prefix { literal, format }))
}

#[expect(clippy::expect_used, reason = "built from the constant table alone; the tests build it")]
fn automaton(kind: AhoCorasickKind) -> AhoCorasick {
    AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .kind(Some(kind))
        .build(literals().map(|prefix| prefix.literal))
        .expect("the constant prefixes make an automaton")
}

impl Table {
    fn new() -> Self {
        let prefixes: Vec<Prefix> = literals().collect();
        let beside = prefixes
            .iter()
            .map(|one| {
                let shares = |other: &Prefix| {
                    one.literal.starts_with(other.literal) || other.literal.starts_with(one.literal)
                };
                (0..prefixes.len()).filter(|index| prefixes.get(*index).is_some_and(shares)).collect()
            })
            .collect();
        let mut first = [false; 256];
        for prefix in &prefixes {
            if let Some(slot) = prefix.literal.first().and_then(|byte| first.get_mut(usize::from(*byte))) {
                *slot = true;
            }
        }
        let short = automaton(AhoCorasickKind::NoncontiguousNFA);
        let longest = prefixes.iter().map(|prefix| prefix.literal.len()).max().unwrap_or(0);
        Self { short, prefixes, beside, longest, first }
    }
}

/// The first place at or after `from` where a token stands or may stand. `before` is the byte before the window.
pub(crate) fn find(window: &[u8], from: usize, before: Option<u8>, end: End) -> Option<Candidate> {
    let mut from = from;
    // Both give the same answers.
    let automaton = if window.len() < LONG_MIN { &TABLE.short } else { &*LONG };
    while from < window.len() {
        let found = automaton.find(Input::new(window).range(from..))?;
        let at = found.start();
        if let Some(candidate) = judge(window, at, found.pattern().as_usize(), before, end) {
            return Some(candidate);
        }
        from = at + 1;
    }
    None
}

fn previous(window: &[u8], at: usize, before: Option<u8>) -> Option<u8> {
    at.checked_sub(1).map_or(before, |index| window.get(index).copied())
}

fn judge(window: &[u8], at: usize, literal: usize, before: Option<u8>, end: End) -> Option<Candidate> {
    let previous = previous(window, at, before);
    let rest = window.get(at..)?;
    let last = end != End::More;
    let mut cut = None;
    for index in TABLE.beside.get(literal)? {
        let Prefix { literal, format } = TABLE.prefixes.get(*index)?;
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

/// The first place at or after `from` from which the rest of the window is the beginning of a prefix, and no more.
pub(crate) fn tail(window: &[u8], from: usize, before: Option<u8>) -> Option<usize> {
    let from = from.max(window.len().saturating_sub(TABLE.longest.saturating_sub(1)));
    (from..window.len()).find(|at| {
        let rest = window.get(*at..).unwrap_or_default();
        let possible = rest.first().and_then(|byte| TABLE.first.get(usize::from(*byte))).copied();
        possible == Some(true)
            && TABLE.prefixes.iter().any(|prefix| {
                prefix.literal.len() > rest.len()
                    && prefix.literal.starts_with(rest)
                    && prefix.format.left.allows(previous(window, *at, before))
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
