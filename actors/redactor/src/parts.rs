//! Which parts of a value are looked for by themselves, so that an answer that cuts a value doesn't bring the
//! rest of it inside (`headline = text[:69]`, `body = text[69:]`).
//!
//! The parts have [`PART`] bytes of what is secret of a value. The first begins where the secret does and the
//! last one ends it, so that a single cut shows less than a part of either side; as many as there is room for
//! stand between. None overlaps another, and that is what keeps them from being an oracle. Whoever can have a
//! server say things sees which of them are masked, as often as they like. If every run of twelve bytes were
//! masked, whoever knows eleven in a row would try the next one, then the one behind it, and so read the
//! whole value, letter by letter; the first eleven are to be had by guesses ([`guesses`](crate::guesses)). Of
//! a part all bytes must be said at once: twelve of a random value in hexadecimal are 48 bits, of base64 72,
//! and who has one knows nothing of the others. For the same reason a mask must not show how much *more* than
//! the part was said: it goes on to the end of the word, whatever the word is ([`words`](crate::words)). And
//! behind the first part nothing waits ([`look`](crate::look)): what waits tells, too. So guesses tell of the
//! first part, and no more. A masked part isn't counted as a guess: nothing is learned from it that whoever
//! said it didn't know.
//!
//! What that leaves: a run of a value that holds no whole part passes. Whoever chooses the cuts has both ends
//! of a value but for a byte each, and from a server that cuts at both sides of a run all of it, piece by
//! piece.
//!
//! Only what looks like chance is divided: letters of both cases or digits among them, in one word, and no
//! eight bytes twice. Parts of words, addresses or sentences (`correct horse …`) stand in other texts, too,
//! are soon guessed, and tell of what stands beside them; such values are found whole only. Must never say
//! more of a value than where it is divided.

use std::ops::Range;

use crate::public::public;

/// Bytes of a part. They stand in other texts by chance once in 2^48 places, or more seldom.
pub(crate) const PART: usize = 12;
/// A value in which so many bytes come again is not chance.
const AGAIN: usize = 8;
/// Nor is a part of fewer different bytes. Twelve digits of a random hexadecimal number have fewer once in
/// two hundred times.
const DIFFERENT: usize = 6;

/// The parts of a value, in order. One that begins where the value does holds what is public, too: it is the
/// first.
pub(crate) fn of(value: &[u8]) -> Vec<Range<usize>> {
    let told = public(value);
    let secret = value.get(told..).unwrap_or_default();
    let count = secret.len() / PART;
    // The head of a token without a signature is as public as that of one with it.
    let headed = value.starts_with(b"eyJ") && !value.get(..told).is_some_and(|head| head.ends_with(b"."));
    // One part is the whole.
    if count < 2 || headed || !secret.iter().all(|byte| is_in_part(*byte)) || repeats(secret) {
        return Vec::new();
    }
    // No nearer to each other than a part is long, since `count` of them have room.
    let start = |part: usize| told + (secret.len() - PART) * part / (count - 1);
    let mut parts: Vec<Range<usize>> = (0..count).map(|part| start(part)..start(part) + PART).collect();
    parts.retain(|part| value.get(part.clone()).is_some_and(is_random));
    if let Some(first) = parts.first_mut().filter(|first| first.start == told) {
        first.start = 0;
    }
    parts
}

/// What keys are written in: no value with other bytes is divided.
fn is_in_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_+/.~=".contains(&byte)
}

fn repeats(secret: &[u8]) -> bool {
    let mut windows: Vec<&[u8]> = secret.windows(AGAIN).collect();
    windows.sort_unstable();
    windows.windows(2).any(|pair| matches!(pair, [one, other] if one == other))
}

/// Words, and numbers that count something, are letters of one case, or digits.
fn is_random(part: &[u8]) -> bool {
    let kinds = [u8::is_ascii_lowercase, u8::is_ascii_uppercase, u8::is_ascii_digit];
    let mut different = part.to_vec();
    different.sort_unstable();
    different.dedup();
    let enough = different.len() >= DIFFERENT;
    zeroize::Zeroize::zeroize(&mut different);
    enough && kinds.iter().filter(|is_one| part.iter().any(**is_one)).count() >= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(value: &str) -> Vec<(usize, usize)> {
        of(value.as_bytes()).into_iter().map(|part| (part.start, part.end)).collect()
    }

    #[test]
    fn a_random_value_has_parts_at_both_ends_and_none_overlaps_another() {
        for value in [
            "ghp_k2V9xQ7mZ4tB8nL1rW6yC3uH5jD0pF9sA7gE",
            "sk-ant-api03-Vq3Zk8wN5bT1xJ7cR9mY2hL6pD4fG0sAaE8uK3vW7zQ1nB5tX9jC2rM6yH4lP0dF8gS3aAA",
            "8f14e45fceea167a5a36dedd4bea2543",
            "k2V9xQ7mZ4tB8nL1rW6yC3uH",
            "k2V9xQ7mZ4tB8nL1rW6yC3uH5jD0pF9sA7g",
            "k2V9xQ7mZ4tB8nL1rW6yC3uH5jD0pF9sA7gEw4Xq8Rz1Kv6",
            "123456789:AAk2V9xQ7mZ4tB8nL1rW6yC3uH5jD0pF9",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEK8",
            "123e4567-e89b-12d3-a456-4266f417c0b9",
        ] {
            let (parts, public) = (lengths(value), public(value.as_bytes()));
            assert_eq!(parts.len(), (value.len() - public) / PART, "{value}: {parts:?}");
            assert_eq!((parts[0].0, parts[parts.len() - 1].1), (0, value.len()), "{value}");
            assert!(parts.windows(2).all(|two| (two[0].1..two[0].1 + PART).contains(&two[1].0)), "{parts:?}");
            let is_one = |(start, end): &(usize, usize)| end - (*start).max(public) == PART;
            assert!(parts.iter().all(is_one), "{value}: {parts:?}");
        }
    }

    #[test]
    fn what_is_no_chance_is_whole() {
        for value in [
            "",
            "ghp_",
            "ghp_k2V9xQ7mZ4tB8nL1rW6yC3u",
            "correct-horse-battery-staple-and-more",
            "correct horse Battery staple 4 and more",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "k3y-of-many-letters-k3y-of-many-letters-",
            "000000000000000000000000000000000000",
            "postgres://user:k2V9xQ7mZ4tB8nL1rW6yC3uH5jD0pF9sA7gE@db/x",
            "eyJlbmMiOiJBMjU2R0NNIiwiYWxnIjoiZGlyIn0..k2V9xQ7mZ4tB8n.L1rW6yC3uH5jD0pF9sA7gE",
        ] {
            assert_eq!(lengths(value), [], "{value}");
        }
        // What is told of a workspace is no part; what stands behind it is two.
        let parts = lengths("xoxb-918273645546-4820193756412-k2V9xQ7mZ4tB8nL1rW6yC3uH");
        assert!(parts.iter().all(|(start, _)| *start > 16) && parts.len() >= 2, "{parts:?}");
    }
}
