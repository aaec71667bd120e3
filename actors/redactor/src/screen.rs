//! Looks for known secrets in what the world answers, and masks them: an echo must not bring a key inside.
//!
//! Known forms only ([`known`](crate::known)): answers are the agent's work and pass byte for byte but for the secret
//! itself. One that is split over any number of chunks is still found: only a tail that could be the beginning of a form is
//! held back, so a stream isn't slowed by it.

use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::engine::RedactorError;
use crate::known::{Found, Known};
use crate::secret::Secret;

/// Secrets shorter than this are placeholders (`EMPTY`, `none`, `ollama`) that occur in ordinary text: not looked for.
pub const SCREEN_MIN: usize = 8;

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
        self.known.as_ref().is_some_and(|known| known.find(bytes, 0).is_some())
    }

    /// `bytes` with every secret masked; none if there is nothing to mask.
    #[must_use]
    pub fn masked(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let known = self.known.as_ref()?;
        let mut found = known.find(bytes, 0)?;
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = 0;
        loop {
            out.extend_from_slice(bytes.get(at..found.start).unwrap_or_default());
            self.cover(found, &mut out);
            at = found.end;
            match known.find(bytes, at) {
                Some(next) => found = next,
                None => break,
            }
        }
        out.extend_from_slice(bytes.get(at..).unwrap_or_default());
        Some(out)
    }

    fn cover(&self, found: Found, out: &mut Vec<u8>) {
        match self.mask {
            Mask::Words(words) => out.extend_from_slice(words),
            Mask::Stars => out.resize(out.len() + (found.end - found.start), b'*'),
        }
    }

    /// How many bytes at the end of `bytes` could be the beginning of a secret.
    #[must_use]
    pub fn doubtful(&self, bytes: &[u8]) -> usize {
        let tails = self.known.as_ref().map(|known| known.tails(bytes)).unwrap_or_default();
        tails.first().map_or(0, |tail| bytes.len() - tail.at)
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
        if held.len() >= SCREEN_MIN {
            let cut = Found::cut(0, held.len());
            held.clear();
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
