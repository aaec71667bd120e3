//! What a text's front may be read as: itself, or the character that an escape stands for.
//!
//! ```text
//! k%65y   k\u0065y   k\x65y   k&#101;y   k⏎ey  ─▶  key
//! ```
//! `known` lists the forms that usual writers give a secret; this takes any mixture of escapes by any writer, one within the
//! other up to [`ROUNDS`]. A front may have several readings, and whoever searches tries each: a text is another's work, so that what
//! looks like an escape may be half somebody's word and half the secret that stands behind it (`%` and `41…`). Line breaks, with the
//! indentation behind them, may be nothing, since base64 and hexadecimal are wrapped by them. This never changes a text.

use zeroize::Zeroize as _;

/// Escapes within escapes that are undone: a URL in JSON in JSON.
const ROUNDS: usize = 3;
/// The longest escape, bytes: `&#x10FFFF;`, or two `\uD83D\uDE00`.
const ESCAPE_MAX: usize = 12;
/// How many bytes stand for one at most, but for oddities: `\\u005cu0065`, and such.
pub(crate) const SPELLED: usize = 12;
/// How far one character is looked for: a pair of surrogates whose bytes are escaped, too.
const SPELLED_MAX: usize = 4 * SPELLED;

/// One way to read a front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// So many bytes stand for this.
    Character(usize, Character),
    /// So many bytes are a line's end, and may be nothing.
    Break(usize),
    /// The text ends within what may be an escape.
    Cut,
}

/// Up to four bytes of UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Character {
    bytes: [u8; 4],
    length: usize,
}

impl Character {
    const fn byte(byte: u8) -> Self {
        Self { bytes: [byte, 0, 0, 0], length: 1 }
    }

    fn of(code: u32) -> Option<Self> {
        let mut bytes = [0; 4];
        let length = char::from_u32(code)?.encode_utf8(&mut bytes).len();
        Some(Self { bytes, length })
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Whether it may begin an escape.
    fn is_special(&self) -> bool {
        matches!(self.as_bytes(), [byte] if begins_escape(*byte))
    }

    /// Whether it ends a line, however it was spelled.
    fn is_line_end(&self) -> bool {
        matches!(self.as_bytes(), [b'\n' | b'\r'])
    }
}

/// Whether a text has a byte that has more than one reading.
pub(crate) fn is_escaped(text: &[u8]) -> bool {
    // So many at a time, without a branch for each.
    const AT_A_TIME: usize = 64;
    text.chunks(AT_A_TIME).any(|bytes| bytes.iter().fold(false, |any, byte| any | is_special(*byte)))
}

/// Whether a byte may be more than itself.
pub(crate) fn is_special(byte: u8) -> bool {
    begins_escape(byte) || matches!(byte, b'\n' | b'\r' | b'=')
}

/// Whether a byte may be the first of an escape.
pub(crate) fn begins_escape(byte: u8) -> bool {
    matches!(byte, b'%' | b'\\' | b'&')
}

/// Every reading of a text's front.
pub(crate) fn readings(text: &[u8], mut take: impl FnMut(Reading)) {
    let Some(first) = text.first().copied() else { return };
    take(Reading::Character(1, Character::byte(first)));
    if let Some(length) = soft_break(text) {
        return take(Reading::Break(length));
    }
    if text == b"=" {
        // A line's end may follow.
        return take(Reading::Cut);
    }
    if !begins_escape(first) {
        return;
    }
    let outer = escape(text);
    if let Some(reading) = outer {
        take(reading);
    }
    if let Some(Reading::Character(length, character)) = outer
        && character.is_line_end()
    {
        take(Reading::Break(length + blanks(text, length)));
    }
    // Deeper where one escape gives what begins another, or has others within.
    let deeper = match outer {
        Some(Reading::Character(_, character)) => character.is_special(),
        Some(Reading::Break(_) | Reading::Cut) => false,
        None => text.iter().skip(1).take(ESCAPE_MAX).any(|byte| is_special(*byte)),
    };
    if deeper {
        nested(text, take);
    }
}

/// The readings of a front within which others were undone first.
fn nested(text: &[u8], mut take: impl FnMut(Reading)) {
    let mut inner = Window::of(text);
    for round in 1..ROUNDS {
        // Of the last one nothing is looked at but its front.
        let Some(next) = inner.undone(if round + 1 == ROUNDS { ESCAPE_MAX } else { SPELLED_MAX }) else {
            return;
        };
        inner = next;
        match escape(inner.bytes()) {
            Some(Reading::Character(length, character)) => {
                let length = inner.source(length);
                take(Reading::Character(length, character));
                if character.is_line_end() {
                    take(Reading::Break(length + blanks(text, length)));
                }
                if !character.is_special() {
                    return;
                }
            }
            Some(Reading::Cut) if inner.ends_with(text) => return take(Reading::Cut),
            Some(Reading::Cut | Reading::Break(_)) | None => {}
        }
    }
}

/// A text's front with every escape undone, and where each byte comes from.
struct Window {
    bytes: [u8; SPELLED_MAX],
    /// Where in the text the byte behind this one begins.
    ends: [usize; SPELLED_MAX],
    length: usize,
}

impl Window {
    fn of(text: &[u8]) -> Self {
        let mut window = Self { bytes: [0; SPELLED_MAX], ends: [0; SPELLED_MAX], length: 0 };
        for (at, byte) in text.iter().take(SPELLED_MAX).enumerate() {
            window.push(*byte, at + 1);
        }
        window
    }

    fn push(&mut self, byte: u8, end: usize) {
        if let (Some(slot), Some(source)) = (self.bytes.get_mut(self.length), self.ends.get_mut(self.length))
        {
            (*slot, *source) = (byte, end);
            self.length += 1;
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// How many bytes of the text so many of these are.
    fn source(&self, length: usize) -> usize {
        length.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or(0)
    }

    /// Whether it reads to the end of `text`, so that a front which it cuts off is cut off by the text.
    fn ends_with(&self, text: &[u8]) -> bool {
        text.len() <= SPELLED_MAX
    }

    /// With every escape undone, at most so many bytes; none where there is none to undo.
    fn undone(&self, most: usize) -> Option<Self> {
        let mut out = Self { bytes: [0; SPELLED_MAX], ends: [0; SPELLED_MAX], length: 0 };
        let mut at = 0;
        let mut plain = 0;
        while let Some((first, rest)) = self.bytes().get(at..).and_then(<[u8]>::split_first) {
            if out.length >= most {
                break;
            }
            let front = self.bytes().get(at..).unwrap_or_default();
            if front == b"=" {
                // A line's end may follow.
                return Some(out);
            }
            match soft_break(front).map(Reading::Break).or_else(|| escape(front)) {
                Some(Reading::Character(length, character)) if character.is_line_end() => at += length,
                Some(Reading::Character(length, character)) => {
                    at += length;
                    character.as_bytes().iter().for_each(|byte| out.push(*byte, self.source(at)));
                }
                Some(Reading::Break(length)) => at += length,
                // What its end cuts off is read no further.
                Some(Reading::Cut) if rest.len() < ESCAPE_MAX => return Some(out),
                Some(Reading::Cut) | None => {
                    at += 1;
                    plain += 1;
                    out.push(*first, self.source(at));
                }
            }
        }
        (at > plain).then_some(out)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// Lines' ends, `=` before them (RFC 2045 section 6.7) and indentation behind them included.
fn soft_break(text: &[u8]) -> Option<usize> {
    let ends = match text {
        [b'\n' | b'\r', ..] => 1,
        [b'=', b'\n' | b'\r', ..] => 2,
        _ => return None,
    };
    Some(ends + blanks(text, ends))
}

/// How many bytes from `from` on are lines' ends and indentation.
pub(crate) fn blanks(text: &[u8], from: usize) -> usize {
    let more = text.iter().skip(from).take_while(|byte| matches!(byte, b'\n' | b'\r' | b' ' | b'\t'));
    more.count()
}

/// The escape at a text's front, if there is one, or may be.
fn escape(text: &[u8]) -> Option<Reading> {
    let read = match text {
        [b'%', b'u', rest @ ..] => hexadecimal(rest, 4).map(|code| Some((6, Character::of(code?)?))),
        [b'%', rest @ ..] => hexadecimal(rest, 2).map(|code| Some((3, byte(code?)?))),
        [b'\\', rest @ ..] => backslash(rest),
        [b'&', rest @ ..] => entity(rest),
        _ => Some(None),
    };
    match read {
        None => Some(Reading::Cut),
        Some(found) => found.map(|(length, character)| Reading::Character(length, character)),
    }
}

/// What may be read: `None` where the text ends too early, `Some(None)` where it is something else.
type Read<T> = Option<Option<T>>;

fn byte(code: u32) -> Option<Character> {
    u8::try_from(code).ok().map(Character::byte)
}

/// So many hexadecimal digits (at most eight).
fn hexadecimal(text: &[u8], digits: usize) -> Read<u32> {
    let mut code = 0;
    for at in 0..digits {
        let Some(digit) = char::from(*text.get(at)?).to_digit(16) else { return Some(None) };
        code = code << 4 | digit;
    }
    Some(Some(code))
}

/// `\/`, `\x65`, `\u0065`, a pair of surrogates: JSON's (RFC 8259 section 7), and what languages add (`\145`, `\u{65}`, `\U00000065`).
fn backslash(text: &[u8]) -> Read<(usize, Character)> {
    match text {
        [] => None,
        [b'n', ..] => Some(Some((2, Character::byte(b'\n')))),
        [b'r', ..] => Some(Some((2, Character::byte(b'\r')))),
        [same @ (b'/' | b'"' | b'\'' | b'\\'), ..] => Some(Some((2, Character::byte(*same)))),
        [b'x', rest @ ..] => hexadecimal(rest, 2).map(|code| Some((4, byte(code?)?))),
        [b'U', rest @ ..] => hexadecimal(rest, 8).map(|code| Some((10, Character::of(code?)?))),
        [b'u', b'{', rest @ ..] => braced(rest),
        [b'u', rest @ ..] => {
            let Some(high) = hexadecimal(rest, 4)? else { return Some(None) };
            if !(0xd800..0xdc00).contains(&high) {
                return Some(Character::of(high).map(|character| (6, character)));
            }
            match rest.get(4..).unwrap_or_default() {
                [] | [b'\\'] => None,
                [b'\\', b'u', low @ ..] => hexadecimal(low, 4).map(|found| {
                    let low = found.filter(|low| (0xdc00..0xe000).contains(low))?;
                    Some((12, Character::of(0x10000 + ((high - 0xd800) << 10 | (low - 0xdc00)))?))
                }),
                _ => Some(None),
            }
        }
        [b'0'..=b'7', ..] => {
            let digits = text.iter().take(3).take_while(|digit| matches!(digit, b'0'..=b'7'));
            let (length, code) = digits
                .fold((0, 0), |(length, code), digit| (length + 1, code << 3 | u32::from(digit - b'0')));
            // Another digit may follow.
            if length == text.len() && length < 3 {
                None
            } else {
                Some(byte(code).map(|character| (1 + length, character)))
            }
        }
        _ => Some(None),
    }
}

/// The rest of `\u{65}`: at most six digits.
fn braced(text: &[u8]) -> Read<(usize, Character)> {
    match text.iter().take(7).position(|byte| *byte == b'}') {
        Some(end) => {
            Some(code(text.get(..end).unwrap_or_default(), 16).map(|character| (end + 4, character)))
        }
        None if text.len() < 7 && text.iter().all(u8::is_ascii_hexdigit) => None,
        None => Some(None),
    }
}

/// `&#101;`, `&#x65;` and the five names of XML.
fn entity(text: &[u8]) -> Read<(usize, Character)> {
    const NAMES: [(&[u8], u8); 5] =
        [(b"amp", b'&'), (b"lt", b'<'), (b"gt", b'>'), (b"quot", b'"'), (b"apos", b'\'')];
    let Some(end) = text.iter().take(ESCAPE_MAX).position(|byte| *byte == b';') else {
        let inside = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'#';
        return if text.len() < ESCAPE_MAX && text.iter().all(inside) { None } else { Some(None) };
    };
    let name = text.get(..end).unwrap_or_default();
    let character = match name {
        [b'#', b'x' | b'X', digits @ ..] => code(digits, 16),
        [b'#', digits @ ..] => code(digits, 10),
        _ => NAMES.iter().find(|(known, _)| *known == name).map(|(_, byte)| Character::byte(*byte)),
    };
    Some(character.map(|character| (end + 2, character)))
}

fn code(digits: &[u8], radix: u32) -> Option<Character> {
    let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    u32::from_str_radix(digits, radix).ok().and_then(Character::of)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reading but the byte itself, as text.
    fn read(text: &str) -> Vec<String> {
        let mut all = Vec::new();
        readings(text.as_bytes(), |reading| {
            all.push(match reading {
                Reading::Character(length, character) => {
                    format!("{length}:{}", String::from_utf8_lossy(character.as_bytes()))
                }
                Reading::Break(length) => format!("{length}:"),
                Reading::Cut => "cut".to_owned(),
            });
        });
        all.into_iter().skip(1).collect()
    }

    #[test]
    fn each_escape_is_read_and_what_is_none_is_not() {
        for (text, readings) in [
            ("key", &[][..]),
            ("%65y", &["3:e"]),
            ("%u0065y", &["6:e"]),
            ("\\u0065y", &["6:e"]),
            ("\\u{65}y", &["6:e"]),
            ("\\U00000065y", &["10:e"]),
            ("\\145y", &["4:e"]),
            ("\\x65y", &["4:e"]),
            ("\\/y", &["2:/"]),
            ("&#101;y", &["6:e"]),
            ("&#X65;y", &["6:e"]),
            ("&amp; y", &["5:&"]),
            ("\\ud83d\\ude00!", &["12:😀"]),
            ("\r\n\r\ny", &["4:"]),
            ("\n  \ty", &["4:"]),
            ("=\ny", &["2:"]),
            ("=y", &[]),
            ("\\ny", &["2:\n", "2:"]),
            ("\\n  y", &["2:\n", "4:"]),
            ("%0D%0Ay", &["3:\r", "3:"]),
            ("\\u000a y", &["6:\n", "7:"]),
            ("&#10;y", &["5:\n", "5:"]),
            ("%250Ay", &["3:%", "5:\n", "5:"]),
            ("%6\n  5y", &["6:e"]),
            ("%2565y", &["3:%", "5:e"]),
            ("\\\\u0065y", &["2:\\", "7:e"]),
            ("\\\\u005cu0065y", &["2:\\", "7:\\", "12:e"]),
            ("%25&#50;5", &["3:%", "9:%", "cut"]),
            ("\\%750065y", &["8:e"]),
            ("\\\\ny", &["2:\\", "3:\n", "3:"]),
            ("%zz", &[]),
            ("\\q", &[]),
            ("& ", &[]),
            ("&nope;", &[]),
            ("&#xffffffff;", &[]),
            ("\\ud83d!", &[]),
            ("\\u{}", &[]),
        ] {
            assert_eq!(read(text), readings, "{text}");
        }
    }

    #[test]
    fn an_escape_without_its_end_waits_for_it() {
        for text in [
            "%",
            "%4",
            "%6\\u00",
            "%6=",
            "%=",
            "&#1\\x",
            "=",
            "\\",
            "\\u00",
            "\\u{6",
            "\\14",
            "\\ud83d",
            "\\ud83d\\ude0",
            "&",
            "&#10",
            "&am",
        ] {
            assert_eq!(read(text), ["cut"], "{text}");
        }
        assert_eq!(read("%25"), ["3:%", "cut"]);
        assert!(read("&y z").is_empty() && read("&abcdefghijklmnop").is_empty());
    }
}
