//! Tier 1: the secrets in use, in every form in which a program is likely to print one. An exact search: no
//! false positives, no format needed. The needles live in wiped memory; the automaton built from them does
//! not, so it must never outlive its use nor be printed.

use std::ops::Range;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
use zeroize::Zeroizing;

use crate::engine::RedactorError;
use crate::forms::{Form, Role, forms_of};
use crate::matching::count;
use crate::secret::Secret;

/// A beginning of at least so many bytes is nearly a whole secret, if fewer than [`MISSING`] are missing. To
/// learn from whether it is masked, an attacker must have guessed all the other bytes first.
const NEARLY_MIN: usize = 16;
/// A secret is nearly whole only if fewer bytes than this are missing: that is shorter than anything that
/// answers are searched for.
const MISSING: usize = crate::screen::SCREEN_MIN;
/// Most bytes of all needles together. Far above hundreds of credentials; keeps a key ring from eating the
/// memory.
const NEEDLES_MAX: usize = 8 * 1024 * 1024;
/// Up to this size the automaton is a DFA (fast, some 50 bytes of table a needle byte), above it an NFA.
const DFA_MAX: usize = 32 * 1024;

/// A place where a known secret stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Index of the needle; `None` for the beginning of one that the text's end cuts off.
    needle: Option<usize>,
}

impl Found {
    /// The beginning of a secret, up to the end of the text.
    pub(crate) fn cut(start: usize, end: usize) -> Self {
        Self { start, end, needle: None }
    }
}

/// One form of a secret, of a piece of one, or of a part.
struct Needle {
    form: Zeroizing<Vec<u8>>,
    kind: Arc<str>,
    /// How many of its first bytes may be found out without being counted as a guess ([`crate::public`]).
    told: usize,
    role: Role,
}

impl Needle {
    fn is_whole(&self) -> bool {
        matches!(self.role, Role::Whole { .. })
    }
}

/// What ends at a depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    /// A form of this role.
    pub(crate) role: Option<Role>,
    /// Another goes on.
    pub(crate) goes_on: bool,
}

/// The search for all known secrets at once.
pub(crate) struct Known {
    /// Sorted, so that "is this tail the beginning of one" is a binary search.
    needles: Vec<Needle>,
    /// The least `told` of all forms.
    least_told: usize,
    /// Some are parts.
    in_parts: bool,
    automaton: Option<AhoCorasick>,
    first: [bool; 256],
    /// A bit for each pair of bytes that a form begins with.
    pairs: Vec<u64>,
    longest: usize,
}

impl Known {
    /// For whole secrets alone.
    pub(crate) fn new(secrets: &[(Arc<str>, Secret)]) -> Result<Self, RedactorError> {
        Self::of(secrets, false)
    }

    /// For their parts, too ([`parts`](crate::parts)).
    pub(crate) fn in_parts(secrets: &[(Arc<str>, Secret)]) -> Result<Self, RedactorError> {
        Self::of(secrets, true)
    }

    fn of(secrets: &[(Arc<str>, Secret)], in_parts: bool) -> Result<Self, RedactorError> {
        let mut needles: Vec<Needle> = Vec::new();
        for (kind, secret) in secrets {
            let forms = forms_of(secret.expose(), in_parts).into_iter();
            needles.extend(forms.map(|Form { bytes, told, role }| Needle {
                form: bytes,
                kind: Arc::clone(kind),
                told,
                role,
            }));
        }
        // Stable, so that of two secrets with one form the first named gives its name. What is a whole secret
        // and a part of another is found as the whole one; of two whole ones the last byte at which either
        // waits counts.
        needles.sort_by(|one, other| one.form.cmp(&other.form));
        needles.dedup_by(|one, kept| {
            let same = one.form == kept.form;
            if same {
                kept.told = kept.told.min(one.told);
                kept.role = match (kept.role, one.role) {
                    (Role::Whole { first }, Role::Whole { first: other }) => {
                        Role::Whole { first: first.max(other) }
                    }
                    (role, other) => role.min(other),
                };
            }
            same
        });
        let size: usize = needles.iter().map(|needle| needle.form.len()).sum();
        if size > NEEDLES_MAX {
            return Err(RedactorError::TooManySecrets { bytes: size, limit: NEEDLES_MAX });
        }
        let kind = if size <= DFA_MAX { AhoCorasickKind::DFA } else { AhoCorasickKind::ContiguousNFA };
        let automaton = if needles.is_empty() {
            None
        } else {
            let built = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .kind(Some(kind))
                // What parts begin with, in all their forms, stands in every text: looking for that first
                // takes longer than the search.
                .prefilter(!in_parts)
                .build(needles.iter().map(|needle| needle.form.as_slice()));
            Some(built.map_err(|error| RedactorError::Build(error.to_string()))?)
        };
        let mut first = [false; 256];
        let mut pairs = vec![0; PAIR_WORDS];
        for needle in &needles {
            if let Some(slot) = needle.form.first().and_then(|byte| first.get_mut(usize::from(*byte))) {
                *slot = true;
            }
            if let [first, second, ..] = needle.form.as_slice()
                && let (word, bit) = pair(*first, *second)
                && let Some(word) = pairs.get_mut(word)
            {
                *word |= bit;
            }
        }
        let longest = needles.iter().map(|needle| needle.form.len()).max().unwrap_or(0);
        let least_told = needles.iter().map(|needle| needle.told).min().unwrap_or(0);
        let in_parts = needles.iter().any(|needle| !needle.is_whole());
        Ok(Self { needles, least_told, in_parts, automaton, first, pairs, longest })
    }

    /// The first known secret that starts at or after `from`; the longest of those that start there.
    pub(crate) fn find(&self, window: &[u8], from: usize) -> Option<Found> {
        let automaton = self.automaton.as_ref()?;
        if from >= window.len() {
            return None;
        }
        let found = automaton.find(Input::new(window).range(from..))?;
        Some(Found { start: found.start(), end: found.end(), needle: Some(found.pattern().as_usize()) })
    }

    /// Every known secret, in order.
    pub(crate) fn all<'t>(&self, text: &'t [u8]) -> impl Iterator<Item = Found> + use<'_, 't> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let found = self.find(text, at)?;
            at = found.end;
            Some(found)
        })
    }

    /// All forms, for [`Known::narrowed`].
    pub(crate) fn forms(&self) -> Range<usize> {
        0..self.needles.len()
    }

    /// Returns those of `forms`, which are the same up to `depth`, that have `byte` there.
    pub(crate) fn narrowed(&self, forms: &Range<usize>, depth: usize, byte: u8) -> Range<usize> {
        let among = self.needles.get(forms.clone()).unwrap_or_default();
        let from = among.partition_point(|needle| needle.form.get(depth) < Some(&byte));
        let to = among.partition_point(|needle| needle.form.get(depth) <= Some(&byte));
        forms.start + from..forms.start + to
    }

    /// Which of `forms`, which are the same up to `depth`, is all there, and whether another goes on.
    pub(crate) fn ends(&self, forms: &Range<usize>, depth: usize) -> Ends {
        let among = self.needles.get(forms.clone()).unwrap_or_default();
        let ends = |needle: &&Needle| needle.form.len() == depth;
        // The shortest is the first of them, and no two are the same.
        let role = among.first().filter(ends).map(|needle| needle.role);
        Ends { role, goes_on: among.last().is_some_and(|last| !ends(&last)) }
    }

    /// Whether `depth` bytes of one of `forms`, which are the same up to there, may wait for the rest: not
    /// for that of a part, nor behind a secret's first one. Whoever sees what waits would be told.
    pub(crate) fn may_wait(&self, forms: &Range<usize>, depth: usize) -> bool {
        let among = self.needles.get(forms.clone()).unwrap_or_default();
        among.iter().any(|needle| match needle.role {
            Role::Whole { first } => depth < first && depth < needle.form.len(),
            Role::First | Role::Part => false,
        })
    }

    /// Whether `depth` bytes of one of `forms`, which are the same up to there, are nearly all of it.
    pub(crate) fn is_nearly(&self, forms: &Range<usize>, depth: usize) -> bool {
        let missing = |needle: &Needle| needle.form.len() - depth.min(needle.form.len());
        let among = self.needles.get(forms.clone()).unwrap_or_default();
        let is_one = |form: &Needle| form.is_whole() && (1..MISSING).contains(&missing(form));
        depth >= NEARLY_MIN && among.iter().any(is_one)
    }

    /// The forms that begin with all of a text, as it stands.
    pub(crate) fn begun_by(&self, text: &[u8]) -> Range<usize> {
        let from = self.needles.partition_point(|needle| needle.form.as_slice() < text);
        let behind = self.needles.get(from..).unwrap_or_default();
        from..from + behind.partition_point(|needle| needle.form.starts_with(text))
    }

    /// Whether `depth` bytes of one of `forms`, which are the same up to there, are more of it than may be
    /// found out for nothing. Not where nothing waits any more: a guess at what stands behind the first part
    /// must cost the same, right or wrong.
    pub(crate) fn is_guess(&self, forms: &Range<usize>, depth: usize) -> bool {
        let among = self.needles.get(forms.clone()).unwrap_or_default();
        let is_one = |needle: &Needle| match needle.role {
            Role::Whole { first } => needle.told <= depth && depth < first,
            Role::First | Role::Part => false,
        };
        depth >= self.least_told && among.iter().any(is_one)
    }

    /// Whether a text, as it stands, begins with that much of a secret, and not with all of it, nor of a
    /// part.
    pub(crate) fn begins_with_a_guess(&self, text: &[u8]) -> bool {
        if text.len() < self.least_told {
            return false;
        }
        let (mut forms, mut guess) = (self.forms(), false);
        for (byte, depth) in text.iter().zip(1..) {
            count(1);
            forms = self.narrowed(&forms, depth - 1, *byte);
            if forms.is_empty() {
                return guess;
            }
            if self.ends(&forms, depth).role.is_some() {
                return false;
            }
            guess |= self.is_guess(&forms, depth);
        }
        guess
    }

    /// Whether a form begins with this byte.
    pub(crate) fn begins_with(&self, byte: u8) -> bool {
        self.first.get(usize::from(byte)).copied().unwrap_or(false)
    }

    /// Whether a form begins with these two.
    pub(crate) fn begins_with_both(&self, first: u8, second: u8) -> bool {
        let (word, bit) = pair(first, second);
        self.pairs.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Whether parts are looked for.
    pub(crate) fn has_parts(&self) -> bool {
        self.in_parts
    }

    /// Whether what was found is but a part.
    pub(crate) fn is_part(&self, found: Found) -> bool {
        found.needle.and_then(|needle| self.needles.get(needle)).is_some_and(|needle| !needle.is_whole())
    }

    /// How long the longest form is.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// The name of the secret found whole.
    pub(crate) fn kind(&self, found: Found) -> Option<Arc<str>> {
        self.needles.get(found.needle?).map(|needle| Arc::clone(&needle.kind))
    }

    /// Every place near the end of the window from which the rest is the beginning, and only the beginning,
    /// of a known secret; ascending, with the secret it would be.
    pub(crate) fn tails(&self, window: &[u8]) -> Vec<Tail> {
        self.places(window).into_iter().filter_map(|at| self.tail(window, at)).collect()
    }

    /// Returns every place that is so near the end of the window that a secret there could be cut off, and
    /// whose first two bytes may begin one.
    pub(crate) fn places(&self, window: &[u8]) -> Vec<usize> {
        let from = window.len().saturating_sub(self.longest.saturating_sub(1));
        let near = window.get(from..).unwrap_or_default();
        let pairs = near.iter().zip(near.iter().skip(1)).zip(from..);
        let begins = |((first, second), at): ((&u8, &u8), usize)| {
            (self.begins_with(*first) && self.begins_with_both(*first, *second)).then_some(at)
        };
        let last = near.last().filter(|last| self.begins_with(**last)).map(|_| window.len() - 1);
        pairs.filter_map(begins).chain(last).collect()
    }

    /// Returns the tail at such a place, if it is the beginning of a known secret.
    pub(crate) fn tail(&self, window: &[u8], at: usize) -> Option<Tail> {
        let tail = window.get(at..).unwrap_or_default();
        // Needles that begin with the tail sort directly after it; the tail itself, whole, is not "more to
        // come".
        let index = self.needles.partition_point(|needle| needle.form.as_slice() <= tail);
        let needle = self.needles.get(index).filter(|needle| needle.form.starts_with(tail))?;
        Some(Tail { at, kind: Arc::clone(&needle.kind) })
    }
}

/// Number of words with a bit for each pair of bytes.
const PAIR_WORDS: usize = (1 << 16) / u64::BITS as usize;

/// The index of a pair's word, and its bit in it.
fn pair(first: u8, second: u8) -> (usize, u64) {
    let number = u32::from(first) << 8 | u32::from(second);
    ((number / u64::BITS) as usize, 1 << (number % u64::BITS))
}

/// A tail that is the beginning of a known secret.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    pub(crate) at: usize,
    pub(crate) kind: Arc<str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    fn known(secret: &[u8]) -> Known {
        Known::new(&[(Arc::from("k"), Secret::new(secret))]).unwrap()
    }

    #[test]
    fn a_base64_hit_covers_all_characters_that_tell_the_secret() {
        let secret = b"0123456789abcdef";
        let known = known(secret);
        let text = STANDARD.encode([b"ab".as_slice(), secret, b"z"].concat());
        let found = known.find(text.as_bytes(), 0).unwrap();
        // What is left shares its bits with a neighbour: at most one character on either side.
        assert!(found.start <= 3 && text.len() - found.end <= 4, "{found:?} of {text}");
    }

    #[test]
    fn both_orders_of_utf16_are_found() {
        let known = known(b"secret-value-1");
        for order in [u16::to_le_bytes, u16::to_be_bytes] {
            let text: Vec<u8> = "it is secret-value-1.".encode_utf16().flat_map(order).collect();
            let found = known.find(&text, 0).unwrap();
            assert_eq!(found.end - found.start, 27);
        }
    }

    #[test]
    fn tails_are_beginnings_only() {
        let known = known(b"secret-value-1");
        let at = |text: &[u8]| known.tails(text).iter().map(|tail| tail.at).collect::<Vec<_>>();
        assert_eq!(at(b"say secret-val"), [4]);
        assert_eq!(at(b"say secret-value-1"), Vec::<usize>::new());
        assert_eq!(at(b"say nothing"), Vec::<usize>::new());
        assert_eq!(at(b"s"), [0]);
    }
}
