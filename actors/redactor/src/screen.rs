//! Looks for known secrets in what the world answers, and masks them: an echo must not bring a key inside.
//!
//! Known forms only ([`known`](crate::known)), in the text as it stands and as whoever undoes its escapes reads it
//! ([`plain`](crate::plain)): answers are the agent's work and pass byte for byte but for the secret itself. One that is split over any number of chunks is still found: only a tail that could be the beginning of a form is
//! held back, so a stream isn't slowed by it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::engine::RedactorError;
use crate::known::Known;
use crate::plain::Plain;
use crate::secret::Secret;

/// Secrets shorter than this are placeholders (`EMPTY`, `none`, `ollama`) that occur in ordinary text: not looked for.
pub const SCREEN_MIN: usize = 8;

/// A line is not broken earlier than this: what is shorter and followed by a line's end is no beginning of a secret, so that
/// a stream of lines isn't held up.
const WRAPPED_MIN: usize = 16;
/// How many bytes may stand for one: `\\u005cu0065`, and such.
const ESCAPED: usize = 12;

/// The end of a text that could be the beginning of a secret.
#[derive(Debug, Clone, Copy)]
struct Tail {
    /// Where it begins.
    from: usize,
    /// How much of the secret that is, bytes.
    known: usize,
}

/// What stands in the place of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// These words.
    Words(&'static [u8]),
    /// As many `*` as it has bytes: whatever states or frames the length stays true.
    Stars,
}

/// A search for secrets. Cheap to clone; without any, everything passes untouched.
#[derive(Clone)]
pub struct Screen {
    known: Option<Arc<Known>>,
    mask: Mask,
}

impl Screen {
    /// For these secrets.
    ///
    /// # Errors
    /// When they are more than the search is made for.
    pub fn new<'s>(secrets: impl IntoIterator<Item = &'s Secret>, mask: Mask) -> Result<Self, RedactorError> {
        let kind: Arc<str> = "screened".into();
        let secrets: Vec<(Arc<str>, Secret)> = secrets
            .into_iter()
            .filter(|secret| secret.len() >= SCREEN_MIN)
            .map(|secret| (Arc::clone(&kind), secret.clone()))
            .collect();
        let known = if secrets.is_empty() { None } else { Some(Arc::new(Known::new(&secrets)?)) };
        Ok(Self { known, mask })
    }

    /// Whether `bytes` holds a secret in any form.
    #[must_use]
    pub fn finds(&self, bytes: &[u8]) -> bool {
        !self.spans(bytes).is_empty()
    }

    /// `bytes` with every secret masked; none if there is nothing to mask.
    #[must_use]
    pub fn masked(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let spans = self.spans(bytes);
        if spans.is_empty() {
            return None;
        }
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = 0;
        for span in spans {
            out.extend_from_slice(bytes.get(at..span.start).unwrap_or_default());
            self.cover(span.len(), &mut out);
            at = span.end;
        }
        out.extend_from_slice(bytes.get(at..).unwrap_or_default());
        Some(out)
    }

    /// Where secrets stand, in order, none over another.
    fn spans(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        let Some(known) = self.known.as_ref() else { return Vec::new() };
        let mut spans: Vec<Range<usize>> = known.all(bytes).map(|found| found.start..found.end).collect();
        let Some(plain) = Plain::of(bytes) else { return spans };
        let before = spans.len();
        spans.extend(known.all(plain.bytes()).map(|found| plain.start(found.start)..plain.end(found.end)));
        if before > 0 {
            spans.sort_unstable_by_key(|span| span.start);
            spans.dedup_by(|next, kept| {
                let over = next.start < kept.end;
                if over {
                    kept.end = kept.end.max(next.end);
                }
                over
            });
        }
        spans
    }

    fn cover(&self, length: usize, out: &mut Vec<u8>) {
        match self.mask {
            Mask::Words(words) => out.extend_from_slice(words),
            Mask::Stars => out.resize(out.len() + length, b'*'),
        }
    }

    /// How many bytes at the end of `bytes` could be the beginning of a secret.
    #[must_use]
    pub fn doubtful(&self, bytes: &[u8]) -> usize {
        bytes.len() - self.tail(bytes).from
    }

    /// How many bytes at the end of `bytes` are most of a secret, if nothing follows: none where too little of one is there to
    /// tell.
    #[must_use]
    pub fn cut_off(&self, bytes: &[u8]) -> usize {
        let tail = self.tail(bytes);
        if tail.known >= SCREEN_MIN { bytes.len() - tail.from } else { 0 }
    }

    fn tail(&self, bytes: &[u8]) -> Tail {
        let nothing = Tail { from: bytes.len(), known: 0 };
        let Some(known) = self.known.as_ref() else { return nothing };
        let first = |text: &[u8]| known.tails(text).first().map(|tail| tail.at);
        let verbatim = first(bytes).map_or(nothing, |at| Tail { from: at, known: bytes.len() - at });
        // More than the longest form and its longest escapes is never the beginning of one.
        let near = bytes.len().saturating_sub(known.longest().saturating_mul(ESCAPED));
        let Some(plain) = bytes.get(near..).and_then(Plain::of) else { return verbatim };
        let in_one_line = |from: usize| {
            !bytes.get(from..).unwrap_or_default().iter().any(|byte| matches!(byte, b'\n' | b'\r'))
        };
        let escaped = first(plain.bytes()).and_then(|at| {
            let (from, known) = (near + plain.start(at), plain.bytes().len() - at);
            (known >= WRAPPED_MIN || in_one_line(from)).then_some(Tail { from, known })
        });
        let open = near + plain.open();
        let open = Tail { from: if in_one_line(open) { open } else { bytes.len() }, known: 0 };
        [verbatim, escaped.unwrap_or(nothing), open].into_iter().fold(nothing, |one, other| Tail {
            from: one.from.min(other.from),
            known: one.known.max(other.known),
        })
    }

    /// A sieve for one stream.
    #[must_use]
    pub fn sieve(&self) -> Sieve {
        Sieve { screen: self.clone(), held: Zeroizing::default() }
    }
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("mask", &self.mask).finish_non_exhaustive()
    }
}

/// One stream on its way through a [`Screen`].
#[derive(Debug)]
pub struct Sieve {
    screen: Screen,
    held: Zeroizing<Vec<u8>>,
}

impl Sieve {
    /// Takes a chunk, gives what may pass now. Without a hit and a doubtful tail that is the chunk itself, uncopied.
    pub fn push(&mut self, mut chunk: Bytes) -> Bytes {
        if self.screen.known.is_none() {
            return chunk;
        }
        if !self.held.is_empty() {
            let mut joined = std::mem::take(&mut *self.held);
            joined.extend_from_slice(&chunk);
            chunk = joined.into();
        }
        if let Some(masked) = self.screen.masked(&chunk) {
            chunk = masked.into();
        }
        let passes = chunk.len() - self.screen.doubtful(&chunk);
        self.held.extend_from_slice(&chunk.split_off(passes));
        chunk
    }

    /// The end of the stream: what was held is no secret, since it is not whole.
    ///
    /// Still masked: an answer that ends in the middle of a secret would give most of it away.
    pub fn finish(&mut self) -> Bytes {
        let mut held = std::mem::take(&mut *self.held);
        let cut = self.screen.cut_off(&held);
        if cut > 0 {
            held.truncate(held.len() - cut);
            self.screen.cover(cut, &mut held);
        }
        held.into()
    }

    /// Bytes that wait.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose};
    use proptest::prelude::*;

    use super::*;

    const WORDS: &[u8] = b"[REDACTED:key]";

    fn screen(key: &str, mask: Mask) -> Screen {
        Screen::new([&Secret::from(key)], mask).unwrap()
    }

    fn through(screen: &Screen, chunks: &[&[u8]]) -> Vec<u8> {
        let mut sieve = screen.sieve();
        let mut out = Vec::new();
        for chunk in chunks {
            out.extend_from_slice(&sieve.push(Bytes::copy_from_slice(chunk)));
        }
        out.extend(sieve.finish());
        out
    }

    #[test]
    fn every_form_is_found() {
        let key = "sk-te/st+0123456789\"x";
        let it = screen(key, Mask::Words(WORDS));
        let basic = general_purpose::STANDARD.encode(format!("user:{key}"));
        let safe = general_purpose::URL_SAFE.encode(key);
        let json = serde_json::Value::from(key).to_string();
        for text in [key, &basic, &safe, &json, "sk-te%2Fst%2B0123456789%22x", "sk-te\\/st+0123456789\\\"x"] {
            assert!(it.finds(text.as_bytes()), "{text}");
            let masked = it.masked(text.as_bytes()).unwrap();
            assert!(!String::from_utf8_lossy(&masked).contains("012345"), "{text}");
        }
        assert!(!it.finds(b"sk-test") && it.masked(b"sk-test").is_none());
    }

    /// Each byte in a spelling that the number chooses.
    fn spelled(key: &str, how: &[u8]) -> String {
        key.bytes()
            .zip(how.iter().cycle())
            .map(|(byte, how)| match how % 7 {
                0 => format!("%{byte:02x}"),
                1 => format!("%25{byte:02X}"),
                2 => format!("\\u{byte:04x}"),
                3 => format!("\\\\u{byte:04x}"),
                4 => format!("\\x{byte:02x}"),
                5 => format!("&#{byte};"),
                _ => char::from(byte).to_string(),
            })
            .collect()
    }

    #[test]
    fn wrapped_encodings_are_found() {
        let key = "sk-0123456789abcdefghijklmnopqrstuvwxyz-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let it = screen(key, Mask::Stars);
        let encoded = general_purpose::STANDARD.encode(format!("user:{key}"));
        for width in [64, 76] {
            let lines: Vec<&str> =
                encoded.as_bytes().chunks(width).map(|l| std::str::from_utf8(l).unwrap()).collect();
            for end in ["\n", "\r\n", "\\n"] {
                let wrapped = lines.join(end);
                let masked = it.masked(wrapped.as_bytes()).unwrap();
                assert_eq!(masked.len(), wrapped.len());
                assert!(
                    masked.iter().filter(|byte| **byte == b'*').count() >= encoded.len() - 12,
                    "{wrapped}"
                );
            }
        }
    }

    #[test]
    fn a_line_that_ends_like_a_key_begins_is_not_held() {
        let mut sieve = screen("sk-0123456789abcdef", Mask::Stars).sieve();
        for line in ["data: s\n\n", "data: 100%\n\n", "data: a&b\n\n", "data: {\"a\":\"\\n\"}\n\n"] {
            assert_eq!(sieve.push(Bytes::from(line)), line, "{line}");
        }
    }

    #[test]
    fn an_end_that_could_not_have_become_a_key_passes() {
        for end in ["100%", "C:\\", "R&D", "x &#12"] {
            assert_eq!(
                through(&screen("sk-0123456789abcdef", Mask::Stars), &[end.as_bytes()]),
                end.as_bytes()
            );
        }
    }

    #[test]
    fn a_placeholder_key_is_not_looked_for() {
        assert_eq!(through(&screen("EMPTY", Mask::Stars), &[b"it is EMPTY"]), b"it is EMPTY");
    }

    #[test]
    fn a_stream_that_ends_inside_the_key_does_not_give_it_away() {
        let cut: &[&[u8]] = &[b"x sk-0123456789abcd"];
        let out = through(&screen("sk-0123456789abcdef", Mask::Words(WORDS)), cut);
        assert_eq!(out, [b"x ", WORDS].concat());
        let out = through(&screen("sk-0123456789abcdef", Mask::Stars), cut);
        assert_eq!(out, b"x *****************");
    }

    #[test]
    fn ordinary_chunks_are_not_held() {
        let mut sieve = screen("sk-0123456789abcdef", Mask::Stars).sieve();
        let chunk = Bytes::from_static(b"data: {\"a\":1}\n\n");
        assert_eq!(sieve.push(chunk.clone()), chunk);
        assert_eq!(sieve.held(), 0);
    }

    proptest! {
        #[test]
        fn a_split_key_is_caught_and_the_rest_untouched(
            before in "[a-z \n]{0,20}", after in "[a-z \n]{0,20}", stars in any::<bool>(),
            cuts in proptest::collection::vec(0_usize..80, 0..6),
        ) {
            let key = "sk-0123456789ABCDEF";
            let mask = if stars { Mask::Stars } else { Mask::Words(WORDS) };
            let text = format!("{before}{key}{after}");
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
            let masked = if stars { vec![b'*'; key.len()] } else { WORDS.to_vec() };
            let wanted = [before.as_bytes(), &masked, after.as_bytes()].concat();
            prop_assert_eq!(through(&screen(key, mask), &chunks), wanted);
        }

        #[test]
        fn an_escaped_key_is_caught_however_it_is_split(
            how in proptest::collection::vec(any::<u8>(), 1..24),
            cuts in proptest::collection::vec(0_usize..200, 0..6),
        ) {
            let key = "sk-0123456789ABCDEF";
            let spelled = spelled(key, &how);
            let text = format!("before {spelled} after");
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
            let wanted = format!("before {} after", "*".repeat(spelled.len()));
            prop_assert_eq!(String::from_utf8(through(&screen(key, Mask::Stars), &chunks)).unwrap(), wanted);
        }

        #[test]
        fn text_without_the_key_is_untouched(chunks in proptest::collection::vec("[sk0-9-]{0,8}", 0..12)) {
            let it = screen("sk-0123456789ABCDEF", Mask::Words(WORDS));
            let parts: Vec<&[u8]> = chunks.iter().map(|c| c.as_bytes()).collect();
            let out = through(&it, &parts);
            let whole = parts.concat();
            // Only an unfinished beginning of the key at the very end may be masked.
            prop_assert!(out == whole || out.ends_with(WORDS));
        }
    }
}
