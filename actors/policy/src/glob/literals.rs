//! What a pattern says by the letter, looked for in long texts.
//!
//! An agent writes paths of thousands of segments, each of which may be the place of a `**`. Never here: what
//! a wildcard may stand for.

use memchr::{memchr, memmem};

use super::Token;

/// Texts of this length are looked through first: no honest path is as long, and to try every place of it
/// costs more. In tests of this crate all are.
pub(super) const LONG: usize = if cfg!(test) { 2 } else { 512 };

/// Whether a text has what a pattern says by the letter: at its ends, and in order in between. One that
/// hasn't can't match.
pub(super) fn has_literals(tokens: &[Token], mut text: &[u8]) -> bool {
    let mut inner = tokens;
    if let Some((Token::Literal(first), rest)) = inner.split_first() {
        let Some(behind) = text.strip_prefix(first.as_ref()) else { return false };
        (inner, text) = (rest, behind);
    }
    if let Some((Token::Literal(last), rest)) = inner.split_last() {
        let Some(before) = text.strip_suffix(last.as_ref()) else { return false };
        (inner, text) = (rest, before);
    }
    for token in inner {
        if let Token::Literal(bytes) = token {
            let Some(at) = memmem::find(text, bytes) else { return false };
            text = text.get(at + bytes.len()..).unwrap_or_default();
        }
    }
    true
}

/// Where `bytes` begin next, of a text that begins with a segment: behind a separator if there must be one
/// `before`. In no place before that can they begin, whatever a wildcard stands for.
pub(super) fn next(bytes: &[u8], text: &[u8], before: Option<u8>) -> Option<usize> {
    let first = *bytes.first()?;
    let mut from = 0;
    loop {
        let rest = text.get(from..)?;
        if rest.starts_with(bytes) {
            return Some(from);
        }
        from += match before {
            Some(separator) => memchr(separator, rest)? + 1,
            None => memchr(first, rest.get(1..)?)? + 1,
        };
    }
}
