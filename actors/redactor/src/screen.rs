//! Looks for known secrets in answers from outside, and masks them: an echo must not bring a key into the
//! sandbox.
//!
//! Known forms only ([`known`](crate::known)), each character as it stands or in any escape
//! ([`matching`](crate::matching)): answers are the agent's work and pass byte for byte but for the secret
//! itself. One that is split over any number of chunks is still found: only a tail that could be the
//! beginning of a form is held back, so a stream isn't slowed by it. A line that ends as one begins may pass
//! all the same; it is remembered, and what makes it one is masked. Of a value that is cut its parts are
//! found ([`parts`](crate::parts)), and masked with the rest of their word.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::RedactorError;
use crate::guesses::Guesser;
use crate::known::Known;
use crate::look::{Open, Stage, look};
use crate::secret::Secret;
use crate::sieve::Sieve;

/// Secrets shorter than this are placeholders (`EMPTY`, `none`, `ollama`) that occur in ordinary text: not
/// looked for.
pub const SCREEN_MIN: usize = 8;

/// Fewer bytes of a secret than this before a line's end pass, so that a stream of lines isn't held up. That
/// is all of a secret that this shows.
pub(crate) const WRAPPED_MIN: usize = 4;

/// What stands in the place of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// These words.
    Words(&'static [u8]),
    /// As many `*` as the secret has bytes: lengths that are stated or framed stay true.
    Stars,
}

/// A search for secrets. Cheap to clone; without any, everything passes untouched.
#[derive(Clone)]
pub struct Screen {
    known: Option<Arc<Known>>,
    mask: Mask,
}

impl Screen {
    /// A search for these secrets.
    ///
    /// # Errors
    /// When they take more bytes than the search allows.
    pub fn new<'s>(secrets: impl IntoIterator<Item = &'s Secret>, mask: Mask) -> Result<Self, RedactorError> {
        let kind: Arc<str> = "screened".into();
        let secrets: Vec<(Arc<str>, Secret)> = secrets
            .into_iter()
            .filter(|secret| secret.len() >= SCREEN_MIN)
            .map(|secret| (Arc::clone(&kind), secret.clone()))
            .collect();
        let known = if secrets.is_empty() { None } else { Some(Arc::new(Known::in_parts(&secrets)?)) };
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
        (!spans.is_empty()).then(|| self.covered(bytes, 0, &spans))
    }

    /// Returns `bytes` from `from` on, with `spans` masked.
    fn covered(&self, bytes: &[u8], from: usize, spans: &[Range<usize>]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = from;
        for span in spans {
            out.extend_from_slice(bytes.get(at..span.start).unwrap_or_default());
            self.cover(span.len(), &mut out);
            at = span.end;
        }
        out.extend_from_slice(bytes.get(at..).unwrap_or_default());
        out
    }

    /// This much of a text, with these covered. `goes_on`: the first of them, where it stands at the
    /// beginning, is the rest of one that was covered before.
    pub(crate) fn let_pass(
        &self,
        text: &Bytes,
        range: Range<usize>,
        covered: &[Range<usize>],
        goes_on: bool,
    ) -> Bytes {
        if covered.is_empty() {
            return text.slice(range);
        }
        let text = text.get(..range.end).unwrap_or_default();
        match covered.split_first() {
            // Words stand for all of it.
            Some((rest, others))
                if goes_on && rest.start == range.start && matches!(self.mask, Mask::Words(_)) =>
            {
                self.covered(text, rest.end, others).into()
            }
            _ => self.covered(text, range.start, covered).into(),
        }
    }

    /// The secrets that are looked for; none if there are none.
    pub(crate) fn known(&self) -> Option<&Arc<Known>> {
        self.known.as_ref()
    }

    /// Where secrets stand, in order, without overlaps.
    fn spans(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        let Some(known) = self.known.as_ref() else { return Vec::new() };
        look(known, bytes, 0, &Open::default(), Stage::Whole).covered
    }

    fn cover(&self, length: usize, out: &mut Vec<u8>) {
        match self.mask {
            Mask::Words(words) => out.extend_from_slice(words),
            Mask::Stars => out.resize(out.len() + length, b'*'),
        }
    }

    /// A sieve for one stream; `guesser` stands for the stream's reader.
    #[must_use]
    pub fn sieve(&self, guesser: Guesser) -> Sieve {
        Sieve::new(self.clone(), guesser)
    }
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("mask", &self.mask).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod cuts;
#[cfg(test)]
mod tests;
