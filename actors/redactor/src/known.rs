//! Tier 1: the secrets in use, in every form in which a program is likely to print one. An exact search: no false
//! positives, no format needed. The needles live in wiped memory; the automaton built from them does not, so it
//! must never outlive its use nor be printed.

use std::ops::Range;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use zeroize::Zeroizing;

use crate::engine::RedactorError;
use crate::matching::count;
use crate::public;
use crate::secret::Secret;

/// Shorter secrets are not searched for: four bytes of a text match by chance all too often.
pub const SECRET_MIN: usize = 5;
/// Encoded forms are searched for only when they leave this many characters that depend on the secret alone.
const ENCODED_MIN: usize = 8;
/// Longer secrets are searched for piece by piece, so that the held-back tail stays bounded.
const PIECE_MAX: usize = 4096;
/// A beginning is nearly a whole secret from so many bytes on, if fewer than [`MISSING`] are missing. Whoever can see whether it is masked
/// must have guessed all the others first.
const NEARLY_MIN: usize = 16;
/// What is missing then is shorter than anything that answers are searched for.
const MISSING: usize = crate::screen::SCREEN_MIN;
/// All needles together, in bytes. Far above hundreds of credentials; keeps a key ring from eating the memory.
const NEEDLES_MAX: usize = 8 * 1024 * 1024;
/// Up to this size the automaton is a DFA (fast, some 50 bytes of table a needle byte), above it an NFA.
const DFA_MAX: usize = 32 * 1024;

/// RFC 3986 unreserved characters stay; all else is encoded.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// What ECMAScript's `encodeURIComponent` leaves alone.
const COMPONENT: &AsciiSet = &STRICT.remove(b'!').remove(b'*').remove(b'\'').remove(b'(').remove(b')');
/// What most clients leave alone within a path.
const PATH: &AsciiSet = &STRICT
    .remove(b'/')
    .remove(b':')
    .remove(b'@')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=');

/// A place where a known secret stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// None: the beginning of one, cut off by the end of the text.
    needle: Option<usize>,
}

impl Found {
    /// The beginning of a secret, up to the end of the text.
    pub(crate) fn cut(start: usize, end: usize) -> Self {
        Self { start, end, needle: None }
    }
}

/// One form of a secret, or a piece of one.
struct Needle {
    form: Zeroizing<Vec<u8>>,
    kind: Arc<str>,
    /// How many of its first bytes may be found out for nothing ([`public`]).
    told: usize,
}

/// The search for all known secrets at once.
pub(crate) struct Known {
    /// Sorted, so that "is this tail the beginning of one" is a binary search.
    needles: Vec<Needle>,
    /// No form has fewer.
    least_told: usize,
    automaton: Option<AhoCorasick>,
    first: [bool; 256],
    /// Which two bytes forms begin with, a bit for each.
    pairs: Vec<u64>,
    longest: usize,
}

impl Known {
    pub(crate) fn new(secrets: &[(Arc<str>, Secret)]) -> Result<Self, RedactorError> {
        let mut needles: Vec<Needle> = Vec::new();
        for (kind, secret) in secrets {
            let forms = forms_of(secret.expose()).into_iter();
            needles.extend(forms.map(|(form, told)| Needle { form, kind: Arc::clone(kind), told }));
        }
        // Stable, so that of two secrets with one form the first named gives its name.
        needles.sort_by(|one, other| one.form.cmp(&other.form));
        needles.dedup_by(|one, kept| {
            let same = one.form == kept.form;
            if same {
                kept.told = kept.told.min(one.told);
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
        Ok(Self { needles, least_told, automaton, first, pairs, longest })
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

    /// Those of `forms` that have `byte` at `depth`, where all of them are the same before it.
    pub(crate) fn narrowed(&self, forms: &Range<usize>, depth: usize, byte: u8) -> Range<usize> {
        let among = self.needles.get(forms.clone()).unwrap_or_default();
        let from = among.partition_point(|needle| needle.form.get(depth) < Some(&byte));
        let to = among.partition_point(|needle| needle.form.get(depth) <= Some(&byte));
        forms.start + from..forms.start + to
    }

    /// Whether one of `forms`, which are the same up to `depth`, is whole there, and whether another goes on.
    pub(crate) fn ends(&self, forms: &Range<usize>, depth: usize) -> (bool, bool) {
        let among = self.needles.get(forms.clone()).unwrap_or_default();
        let ends = |one: Option<&Needle>| one.is_some_and(|needle| needle.form.len() == depth);
        // The shortest is the first of them.
        (ends(among.first()), among.last().is_some() && !ends(among.last()))
    }

    /// Whether `depth` bytes of one of `forms`, which are the same up to there, are nearly all of it.
    pub(crate) fn is_nearly(&self, forms: &Range<usize>, depth: usize) -> bool {
        let missing = |needle: &Needle| needle.form.len() - depth.min(needle.form.len());
        let among = self.needles.get(forms.clone()).unwrap_or_default();
        depth >= NEARLY_MIN && among.iter().any(|form| (1..MISSING).contains(&missing(form)))
    }

    /// Whether a text, as it stands, is nearly a secret.
    pub(crate) fn is_nearly_one(&self, text: &[u8]) -> bool {
        let from = self.needles.partition_point(|needle| needle.form.as_slice() < text);
        let behind = self.needles.get(from..).unwrap_or_default();
        let begun = behind.partition_point(|needle| needle.form.starts_with(text));
        self.is_nearly(&(from..from + begun), text.len())
    }

    /// Whether `depth` bytes of one of `forms`, which are the same up to there, are more of it than may be found out for nothing.
    pub(crate) fn is_guess(&self, forms: &Range<usize>, depth: usize) -> bool {
        let among = self.needles.get(forms.clone()).unwrap_or_default();
        depth >= self.least_told && among.iter().any(|needle| needle.told <= depth)
    }

    /// Whether a text, as it stands, begins with that much of a secret, and not with all of it.
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
            if self.ends(&forms, depth).0 {
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

    /// How long the longest form is.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// The name of the secret found whole.
    pub(crate) fn kind(&self, found: Found) -> Option<Arc<str>> {
        self.needles.get(found.needle?).map(|needle| Arc::clone(&needle.kind))
    }

    /// Every place near the end of the window from which the rest is the beginning, and only the beginning, of a
    /// known secret; ascending, with the secret it would be.
    pub(crate) fn tails(&self, window: &[u8]) -> Vec<Tail> {
        self.places(window).into_iter().filter_map(|at| self.tail(window, at)).collect()
    }

    /// Every place so near the end of the window that a secret could be cut off by it, and where one may begin by the first two bytes.
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

    /// The tail at such a place, if it is one.
    pub(crate) fn tail(&self, window: &[u8], at: usize) -> Option<Tail> {
        let tail = window.get(at..).unwrap_or_default();
        // Needles that begin with the tail sort directly after it; the tail itself, whole, is not "more to come".
        let index = self.needles.partition_point(|needle| needle.form.as_slice() <= tail);
        let needle = self.needles.get(index).filter(|needle| needle.form.starts_with(tail))?;
        Some(Tail { at, kind: Arc::clone(&needle.kind) })
    }
}

/// Bits for all pairs of bytes.
const PAIR_WORDS: usize = (1 << 16) / u64::BITS as usize;

/// Where a pair's bit is.
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

/// Every form of one secret, pieces of long ones included, and how much of each may be found out for nothing.
fn forms_of(secret: &[u8]) -> Vec<(Zeroizing<Vec<u8>>, usize)> {
    let mut forms = Vec::new();
    // A trailing newline belongs to the file it came from, not to the secret.
    let trimmed = secret.trim_ascii();
    if trimmed.len() < SECRET_MIN {
        return forms;
    }
    let mut told = public::told(trimmed);
    // No character is cut in two: a spelling is one of characters.
    while trimmed.get(told).is_some_and(|byte| byte & 0xc0 == 0x80) {
        told += 1;
    }
    let begun = spellings(trimmed.get(..told).unwrap_or(trimmed));
    for ((form, min), (begun, _)) in spellings(trimmed).into_iter().zip(begun) {
        if form.len() >= min {
            pieces(&form, begun.len().max(public::LEAST), &mut forms);
        }
    }
    forms
}

/// A text in every form, and from what length on each is searched for. There are always as many, in the same order; of what begins a text each
/// is the beginning of the text's.
fn spellings(text: &[u8]) -> Vec<(Zeroizing<Vec<u8>>, usize)> {
    let mut forms = Vec::new();
    let mut push = |form: Vec<u8>, min: usize| forms.push((Zeroizing::new(form), min));
    push(text.to_vec(), SECRET_MIN);
    // Twice, too: JSON that is echoed within JSON, a URL within a URL. Most secrets look the same either way.
    for form in json_forms(text) {
        json_forms(&form).into_iter().for_each(|nested| push(nested, SECRET_MIN));
        push(form, SECRET_MIN);
    }
    for form in percent_forms(text) {
        push(form, SECRET_MIN);
    }
    let once = percent_encode(text, STRICT).to_string();
    push(percent_encode(once.as_bytes(), STRICT).to_string().into_bytes(), SECRET_MIN);
    // As a terminal prints it.
    push(text.split(|byte| *byte == b'\n').collect::<Vec<_>>().join(&b"\r\n"[..]), SECRET_MIN);
    push(if text.is_ascii() { wide(text) } else { Vec::new() }, SECRET_MIN);
    for shift in 0..3 {
        for form in base64_forms(text, shift) {
            push(form, ENCODED_MIN);
        }
    }
    push(hex(text, b"0123456789abcdef"), 2 * ENCODED_MIN);
    push(hex(text, b"0123456789ABCDEF"), 2 * ENCODED_MIN);
    forms
}

fn pieces(form: &[u8], told: usize, into: &mut Vec<(Zeroizing<Vec<u8>>, usize)>) {
    let (mut rest, mut told) = (form, told);
    while rest.len() > PIECE_MAX {
        // No last piece that is so short that it stands in other texts, too.
        let cut = if rest.len() < 2 * PIECE_MAX { rest.len() / 2 } else { PIECE_MAX };
        let (piece, left) = rest.split_at(cut);
        into.push((Zeroizing::new(piece.to_vec()), told));
        // Nothing of what stands there is public.
        (rest, told) = (left, public::MOST);
    }
    into.push((Zeroizing::new(rest.to_vec()), told));
}

/// The inside of a JSON string: as most writers escape it, with `\/`, and in pure ASCII.
fn json_forms(secret: &[u8]) -> [Vec<u8>; 3] {
    let Ok(text) = std::str::from_utf8(secret) else { return Default::default() };
    let Ok(quoted) = serde_json::to_string(text) else { return Default::default() };
    let plain = quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned();
    let slashed = plain.replace('/', "\\/");
    let ascii = crate::ascii::escape_json(&plain).into_owned();
    [plain.into_bytes(), slashed.into_bytes(), ascii.into_bytes()]
}

fn percent_forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for set in [STRICT, COMPONENT, PATH, NON_ALPHANUMERIC] {
        let upper = percent_encode(secret, set).to_string();
        let spaced = upper.replace("%20", "+");
        for form in [upper, spaced] {
            forms.push(lower_hex(form.as_bytes()));
            forms.push(form.into_bytes());
        }
    }
    forms
}

/// `%2F` as `%2f`, nothing else changed.
fn lower_hex(encoded: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(encoded.len());
    let mut digits = 0;
    for byte in encoded {
        if digits > 0 {
            digits -= 1;
            out.push(byte.to_ascii_lowercase());
        } else {
            digits = if *byte == b'%' { 2 } else { 0 };
            out.push(*byte);
        }
    }
    out
}

/// The characters of a base64 text that depend on the secret alone, when `shift` bytes of something else stand
/// before it in its group of three: the first characters and the last are shared with the neighbours, so left out.
fn base64_forms(secret: &[u8], shift: usize) -> [Vec<u8>; 2] {
    let mut padded = Zeroizing::new(vec![0u8; shift]);
    padded.extend_from_slice(secret);
    let skip = (shift * 8).div_ceil(6);
    let keep = padded.len() * 8 / 6;
    [STANDARD_NO_PAD.encode(padded.as_slice()), URL_SAFE_NO_PAD.encode(padded.as_slice())].map(|encoded| {
        let encoded = Zeroizing::new(encoded.into_bytes());
        encoded.get(skip..keep).unwrap_or_default().to_vec()
    })
}

/// UTF-16, which some servers answer in when they are asked to: what both orders of bytes have in common.
fn wide(secret: &[u8]) -> Vec<u8> {
    let mut form: Vec<u8> = secret.iter().flat_map(|byte| [*byte, 0]).collect();
    form.pop();
    form
}

fn hex(secret: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    secret
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|nibble| digits.get(usize::from(nibble)).copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    fn known(secret: &[u8]) -> Known {
        Known::new(&[(Arc::from("k"), Secret::new(secret))]).unwrap()
    }

    #[test]
    fn every_form_is_found() {
        let secret = b"p+ss/w\"rd\\ \xc3\xa9-0123456789".as_slice();
        let known = known(secret);
        let text = std::str::from_utf8(secret).unwrap();
        let mut shown: Vec<Vec<u8>> = vec![
            secret.to_vec(),
            serde_json::to_vec(text).unwrap(),
            serde_json::to_string(text).unwrap().replace('/', "\\/").into_bytes(),
            serde_json::to_string(text).unwrap().replace('é', "\\u00e9").into_bytes(),
            percent_encode(secret, NON_ALPHANUMERIC).to_string().into_bytes(),
            percent_encode(secret, STRICT)
                .to_string()
                .replace("%2F", "%2f")
                .replace("%2B", "%2b")
                .replace("%5C", "%5c")
                .replace("%C3%A9", "%c3%a9")
                .into_bytes(),
            percent_encode(secret, COMPONENT).to_string().replace("%20", "+").into_bytes(),
            hex(secret, b"0123456789abcdef"),
            serde_json::to_vec(&serde_json::to_string(text).unwrap()).unwrap(),
            percent_encode(percent_encode(secret, STRICT).to_string().as_bytes(), STRICT)
                .to_string()
                .into_bytes(),
        ];
        for before in ["", "a", "ab", "user:", "x:"] {
            for after in ["", "!", "!!"] {
                let whole = [before.as_bytes(), secret, after.as_bytes()].concat();
                shown.push(STANDARD.encode(&whole).into_bytes());
                shown.push(URL_SAFE.encode(&whole).into_bytes());
            }
        }
        for form in shown {
            let text = [b"x=".as_slice(), &form, b" ."].concat();
            assert!(known.find(&text, 0).is_some(), "{}", String::from_utf8_lossy(&form));
        }
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
    fn short_secrets_are_left_alone_and_long_ones_are_cut_into_pieces() {
        assert!(known(b"abcd").needles.is_empty());
        for length in [PIECE_MAX / 2 + 1, PIECE_MAX + 1, PIECE_MAX + 7, PIECE_MAX * 2 + 1] {
            let known = known(&vec![b'x'; length]);
            assert!(known.longest <= PIECE_MAX);
            let shortest = known.needles.iter().map(|needle| needle.form.len()).min();
            assert!(shortest >= Some(PIECE_MAX / 4), "{length}: {shortest:?}");
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
