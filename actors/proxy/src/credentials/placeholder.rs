//! What a placeholder looks like, and where one stands in bytes.
//!
//! `cofferdam:cred:NAME`, where NAME takes in every name character that follows. The colons may be spelled as
//! percent-encoding and JSON spell them: such a spelling is never replaced, but it is noticed, so that it can
//! be refused. Pure functions over bytes.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;

/// What every placeholder begins with.
pub const PREFIX: &str = "cofferdam:cred:";
/// Longest name of a credential, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

const WORD: &[u8] = b"cofferdam";
const CRED: &[u8] = b"cred";
/// How a colon may be spelled. `%253A` is what a colon becomes that is percent-encoded twice.
const COLONS: [&[u8]; 7] = [b":", b"%3A", b"%3a", b"%253A", b"%253a", b"\\u003A", b"\\u003a"];
/// The longest spelling of what a placeholder begins with, in bytes: both colons as JSON escapes them.
const LONGEST: usize = WORD.len() + 6 + CRED.len() + 6;

static SEARCH: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(WORD));

/// A placeholder that was found in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    /// The bytes that the placeholder takes.
    pub(crate) span: Range<usize>,
    /// The name in it, cut where the text ends.
    pub(crate) name: &'a str,
    /// Whether both its colons are written as they are, not escaped.
    pub(crate) plain: bool,
}

/// Whether `text` can be a credential's name: 1 to [`MAX_NAME_BYTES`] letters, digits, `-` and `_` in ASCII.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(in_name)
}

/// The placeholder of the credential `name`.
#[must_use]
pub fn placeholder(name: &str) -> String {
    format!("{PREFIX}{name}")
}

fn in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// The first placeholder at or after `from`, however it is spelled.
pub(crate) fn find(text: &[u8], from: usize) -> Option<Place<'_>> {
    let mut at = from;
    loop {
        let start = at + SEARCH.find(text.get(at..)?)?;
        let rest = text.get(start..)?;
        if let Some((length, plain)) = marker(rest) {
            let behind = rest.get(length..)?;
            let end = behind.iter().position(|byte| !in_name(*byte)).unwrap_or(behind.len());
            let name = std::str::from_utf8(behind.get(..end)?).unwrap_or_default();
            return Some(Place { span: start..start + length + end, name, plain });
        }
        at = start + WORD.len();
    }
}

/// Whether there is a placeholder, however it is spelled.
pub(crate) fn holds(text: &[u8]) -> bool {
    find(text, 0).is_some()
}

/// If `text` begins as a placeholder does: the length of that beginning, and whether it is spelled plainly.
fn marker(text: &[u8]) -> Option<(usize, bool)> {
    let rest = text.strip_prefix(WORD)?;
    let first = colon(rest)?;
    let rest = rest.get(first..)?.strip_prefix(CRED)?;
    let second = colon(rest)?;
    Some((WORD.len() + first + CRED.len() + second, first + second == 2))
}

fn colon(text: &[u8]) -> Option<usize> {
    COLONS.iter().find(|colon| text.starts_with(colon)).map(|colon| colon.len())
}

/// Looks at a stream chunk by chunk, and keeps only what may be the beginning of a placeholder.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    tail: Vec<u8>,
}

impl Watch {
    /// Returns the name in the placeholder that `chunk` holds or completes, as far as the chunk has it.
    /// Earlier chunks may have been sent on already: without this one they are no placeholder.
    pub(crate) fn finds(&mut self, chunk: &[u8]) -> Option<String> {
        let head = chunk.get(..chunk.len().min(LONGEST + MAX_NAME_BYTES)).unwrap_or_default();
        let seam = [&self.tail, head].concat();
        let found = find(&seam, 0).or_else(|| find(chunk, 0));
        if let Some(place) = found {
            return Some(place.name.to_owned());
        }
        let keep = LONGEST - 1;
        self.tail = match chunk.len() >= keep {
            true => chunk.get(chunk.len() - keep..).unwrap_or_default().to_vec(),
            false => seam.get(seam.len().saturating_sub(keep)..).unwrap_or_default().to_vec(),
        };
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_goes_as_far_as_it_can() {
        let names = |text: &'static str| {
            let mut out = Vec::new();
            let mut at = 0;
            while let Some(place) = find(text.as_bytes(), at) {
                out.push((place.name, place.plain));
                at = place.span.end;
            }
            out
        };
        assert_eq!(names("Bearer cofferdam:cred:git-hub_1."), [("git-hub_1", true)]);
        assert_eq!(names("cofferdam:cred:a,cofferdam:cred:b"), [("a", true), ("b", true)]);
        assert_eq!(names("cofferdam:cred:"), [("", true)]);
        assert_eq!(names("cofferdamcofferdam:cred:x"), [("x", true)]);
        assert_eq!(names("cofferdam%3Acred%3ax cofferdam\\u003acred:y"), [("x", false), ("y", false)]);
        assert_eq!(names("cofferdam%253Acred%253Az"), [("z", false)]);
        for text in
            ["", "cofferdam", "cofferdam:cre", "cofferdam:kred:x", "Cofferdam:cred:x", "offerdam:cred:x"]
        {
            assert_eq!(names(text), [], "{text}");
        }
    }

    #[test]
    fn names_are_words() {
        for name in ["github", "a", "A_b-9"] {
            assert!(is_name(name), "{name}");
            assert_eq!(find(placeholder(name).as_bytes(), 0).unwrap().name, name);
        }
        for name in ["", "a.b", "a b", "é", &"x".repeat(MAX_NAME_BYTES + 1)] {
            assert!(!is_name(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_split_placeholder_is_found_in_the_chunk_that_completes_it(
            before in "[cofferdam:%3A ]{0,40}", colons in prop::array::uniform2(0..COLONS.len()),
            after in "[a-z ]{0,40}", cuts in prop::collection::vec(0_usize..120, 0..12),
        ) {
            let colon = |n: usize| std::str::from_utf8(COLONS[n]).unwrap();
            let text = format!("{before}cofferdam{}cred{}name{after}", colon(colons[0]), colon(colons[1]));
            let text = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut watch = Watch::default();
            let mut sent = 0;
            for pair in cuts.windows(2) {
                if watch.finds(&text[pair[0]..pair[1]]).is_some() {
                    break;
                }
                sent = pair[1];
            }
            prop_assert!(sent < text.len(), "it passed");
            prop_assert!(!holds(&text[..sent]), "it was found too late");
        }

        #[test]
        fn nothing_else_is_found(chunks in prop::collection::vec("(cofferdam|:|cred|%3A|x){0,4}", 0..12)) {
            let whole = chunks.concat();
            let mut watch = Watch::default();
            let found = chunks.iter().any(|chunk| watch.finds(chunk.as_bytes()).is_some());
            prop_assert_eq!(found, holds(whole.as_bytes()));
        }
    }
}
