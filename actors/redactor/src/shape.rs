//! The shape of a published token format, and its verifier: `Hit`, `No`, or `More` when only further bytes
//! can tell (`Cut` if there are none). A regex engine answers the first two only; a stream needs an exact
//! `More`, so that nothing is held back that can no longer become a secret. Every run is bounded, so is every
//! verification.

/// A set of bytes.
#[derive(Clone, Copy)]
pub(crate) struct Class([u64; 4]);

impl Class {
    /// The set given as pairs of first and last byte: `b"azAZ09__"`.
    #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, where a slice has no `get`")]
    pub(crate) const fn ranges(pairs: &[u8]) -> Self {
        let mut bits = [0u64; 4];
        let mut i = 0;
        while i + 1 < pairs.len() {
            let mut byte = pairs[i];
            loop {
                bits[(byte >> 6) as usize] |= 1 << (byte & 63);
                if byte >= pairs[i + 1] {
                    break;
                }
                byte += 1;
            }
            i += 2;
        }
        Self(bits)
    }

    #[expect(clippy::indexing_slicing, reason = "in range for every byte: 255 >> 6 is 3")]
    pub(crate) const fn has(&self, byte: u8) -> bool {
        self.0[(byte >> 6) as usize] & (1 << (byte & 63)) != 0
    }
}

/// One step of a shape, after the literal prefix.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    /// Exactly these bytes.
    Literal(&'static [u8]),
    /// The first of these that fits.
    AnyOf(&'static [&'static [u8]]),
    /// Between `min` and `max` bytes of the class, as many as there are.
    Run { class: Class, min: usize, max: usize, digit: bool },
    /// The next byte, if there is one, is not of this class.
    NotNext(Class),
    /// The next byte is this one; it stays outside.
    Next(u8),
    /// The body of a PEM block and its END line; a body cut short counts too.
    PemBody { max: usize },
}

/// What must stand before the prefix.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// Anything.
    Any,
    /// No letter or digit.
    NotAlnum,
    /// No byte that a token could hold (letters, digits, `_`, `-`).
    NotToken,
}

impl Left {
    pub(crate) fn allows(self, before: Option<u8>) -> bool {
        let Some(byte) = before else { return true };
        match self {
            Self::Any => true,
            Self::NotAlnum => !byte.is_ascii_alphanumeric(),
            Self::NotToken => !(byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'),
        }
    }
}

/// What to do with a token that the end of a stream cuts short.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CutShort {
    /// Mask it: the prefix alone says that it is a credential.
    Mask,
    /// Show it: the prefix is ordinary text (`://`).
    Show,
}

/// One published format.
pub(crate) struct Format {
    /// The `kind` in `[REDACTED:kind]`.
    pub(crate) kind: &'static str,
    /// Any of these begins it.
    pub(crate) prefixes: &'static [&'static [u8]],
    /// What follows the prefix.
    pub(crate) steps: &'static [Step],
    /// Where the masked part begins: 0 is at the prefix, n is after the prefix and n - 1 steps.
    pub(crate) mask_from: usize,
    pub(crate) left: Left,
    pub(crate) cut_short: CutShort,
}

/// The verdict on one candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is no token, whatever follows.
    No,
    /// It could still become one.
    More,
    /// It is one: mask `start..end`.
    Hit { start: usize, end: usize },
    /// The text ended before it could be told: `start..` is what would be masked.
    Cut { start: usize },
}

/// The end of a PEM block.
const PEM_END: &[u8] = b"-----END ";
/// What may stand in a PEM body, its old-style headers and its JSON-escaped form included.
const PEM_BODY: Class = Class::ranges(b"azAZ09++//==\n\n\r\r  \t\t\\\\::,,--..__<<>>@@()");
/// The label after END.
const PEM_LABEL: Class = Class::ranges(b"AZ09  ");
const PEM_LABEL_MAX: usize = 32;

impl Format {
    /// Judges the text at `at`, where `prefix` (one of ours) is known to stand.
    /// `last` says that no more bytes will come.
    pub(crate) fn verify(&self, window: &[u8], at: usize, prefix: &[u8], last: bool) -> Verdict {
        let mut cursor = at + prefix.len();
        let mut start = if self.mask_from == 0 { at } else { cursor };
        for (index, step) in self.steps.iter().enumerate() {
            if self.mask_from == index + 1 {
                start = cursor;
            }
            match step.advance(window, cursor, last) {
                Advance::To(next) => cursor = next,
                Advance::No => return Verdict::No,
                Advance::More => return Verdict::More,
                Advance::Cut => return Verdict::Cut { start: start.min(window.len()) },
            }
        }
        Verdict::Hit { start, end: cursor }
    }
}

enum Advance {
    To(usize),
    No,
    More,
    Cut,
}

impl Step {
    fn advance(&self, window: &[u8], at: usize, last: bool) -> Advance {
        let rest = window.get(at..).unwrap_or_default();
        let ran_out = if last { Advance::Cut } else { Advance::More };
        match self {
            Self::Literal(wanted) => literal(rest, wanted, at, ran_out),
            Self::AnyOf(choices) => {
                let mut cut = false;
                for wanted in *choices {
                    match literal(rest, wanted, at, Advance::More) {
                        Advance::To(next) if !cut => return Advance::To(next),
                        Advance::No => {}
                        _ => cut = true,
                    }
                }
                if cut { ran_out } else { Advance::No }
            }
            Self::Run { class, min, max, digit } => {
                let length = rest.iter().take(*max).take_while(|byte| class.has(**byte)).count();
                let open = length == rest.len() && length < *max;
                if open && !last {
                    return Advance::More;
                }
                if length < *min {
                    return if open { Advance::Cut } else { Advance::No };
                }
                let run = rest.get(..length).unwrap_or_default();
                if *digit && !run.iter().any(u8::is_ascii_digit) {
                    return Advance::No;
                }
                Advance::To(at + length)
            }
            Self::NotNext(class) => match rest.first() {
                Some(byte) if class.has(*byte) => Advance::No,
                Some(_) => Advance::To(at),
                None if last => Advance::To(at),
                None => Advance::More,
            },
            Self::Next(wanted) => match rest.first() {
                Some(byte) if byte == wanted => Advance::To(at),
                Some(_) => Advance::No,
                None => ran_out,
            },
            Self::PemBody { max } => pem_body(rest, at, *max, last),
        }
    }
}

fn literal(rest: &[u8], wanted: &[u8], at: usize, ran_out: Advance) -> Advance {
    if rest.starts_with(wanted) {
        Advance::To(at + wanted.len())
    } else if wanted.starts_with(rest) {
        ran_out
    } else {
        Advance::No
    }
}

/// A body is masked as far as it goes, with or without its END line: half a private key is one too many.
fn pem_body(rest: &[u8], at: usize, max: usize, last: bool) -> Advance {
    let mut length = 0;
    while let Some(byte) = rest.get(length).filter(|byte| length < max && PEM_BODY.has(**byte)) {
        let tail = rest.get(length..).unwrap_or_default();
        if *byte == b'-' && (tail.starts_with(b"-----") || (!last && b"-----".starts_with(tail))) {
            break;
        }
        length += 1;
    }
    let tail = rest.get(length..).unwrap_or_default();
    if tail.is_empty() {
        return if last { Advance::To(at + length) } else { Advance::More };
    }
    if !last && tail.len() < PEM_END.len() && PEM_END.starts_with(tail) {
        return Advance::More;
    }
    if !tail.starts_with(PEM_END) {
        return Advance::To(at + length);
    }
    let label = tail.get(PEM_END.len()..).unwrap_or_default();
    let named = label.iter().take(PEM_LABEL_MAX).take_while(|byte| PEM_LABEL.has(**byte)).count();
    let dashes = label.get(named..).unwrap_or_default();
    let end = at + length + PEM_END.len() + named;
    if dashes.starts_with(b"-----") {
        Advance::To(end + 5)
    } else if b"-----".starts_with(dashes) && !last {
        Advance::More
    } else {
        Advance::To(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Format = Format {
        kind: "t",
        prefixes: &[b"tok_"],
        steps: &[Step::Run { class: Class::ranges(b"az09"), min: 4, max: 8, digit: false }],
        mask_from: 0,
        left: Left::Any,
        cut_short: CutShort::Mask,
    };

    fn verify(text: &[u8], last: bool) -> Verdict {
        TOKEN.verify(text, 0, b"tok_", last)
    }

    #[test]
    fn a_run_waits_only_while_it_can_still_change() {
        assert_eq!(verify(b"tok_abcd", false), Verdict::More);
        assert_eq!(verify(b"tok_abcd", true), Verdict::Hit { start: 0, end: 8 });
        assert_eq!(verify(b"tok_abcd ", false), Verdict::Hit { start: 0, end: 8 });
        assert_eq!(verify(b"tok_ab ", false), Verdict::No);
        assert_eq!(verify(b"tok_ab", false), Verdict::More);
        assert_eq!(verify(b"tok_ab", true), Verdict::Cut { start: 0 });
        // At its longest it is decided without waiting for what follows.
        assert_eq!(verify(b"tok_abcdefgh", false), Verdict::Hit { start: 0, end: 12 });
    }

    #[test]
    fn classes_hold_their_ranges_and_nothing_else() {
        let class = Class::ranges(b"az09__");
        for byte in 0..=255u8 {
            let expected = byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            assert_eq!(class.has(byte), expected, "{byte}");
        }
    }
}
