//! What a text's front may be read as: itself, or the character that an escape stands for.
//!
//! ```text
//! k%65y   k\u0065y   k\x65y   k&#101;y   k⏎ey  ─▶  key
//! ```
//! `known` lists the forms that usual writers give a secret; this takes any mixture of escapes by any writer,
//! one within the other up to [`ROUNDS`]. A front may have several readings, and a search tries each: others
//! write the text, so what looks like an escape may be half other text and half the secret behind it (`%` and
//! `41…`). Line breaks, with the indentation behind them, may stand for nothing, since base64 and hexadecimal
//! are wrapped by them. This never changes a text.

use zeroize::Zeroize as _;

/// Escapes within escapes that are undone: a URL in JSON in JSON.
const ROUNDS: usize = 3;
/// The longest escape, bytes: `&#x10FFFF;`, or two `\uD83D\uDE00`.
const ESCAPE_MAX: usize = 12;
/// Most bytes that stand for one, except for oddities such as `\\u005cu0065`.
pub(crate) const SPELLED: usize = 12;
/// Most bytes that are read for one character: a pair of surrogates whose bytes are escaped, too.
const SPELLED_MAX: usize = 4 * SPELLED;

/// One way to read a front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// So many bytes stand for this.
    Character(usize, Character),
    /// So many bytes are a line's end, and may stand for nothing.
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

/// Whether an escape that begins with `first` may go on with `second`, or with what `second` stands for. With
/// any other byte it is no escape, whatever else is undone: that byte is read as itself, in every round.
pub(crate) fn may_go_on(first: u8, second: u8) -> bool {
    match first {
        _ if is_special(second) => true,
        b'%' => second == b'u' || second.is_ascii_hexdigit(),
        b'&' => is_in_entity(second),
        b'\\' => {
            matches!(second, b'n' | b'r' | b'x' | b'u' | b'U' | b'0'..=b'7') || second.is_ascii_punctuation()
        }
        _ => false,
    }
}

/// Whether a text begins with a run of one escape-beginning byte that is so long that it reads as that byte
/// only, in every round: `%%` and `&&` are no escapes, and `\\\\\\\\` is `\`.
pub(crate) fn is_run(text: &[u8]) -> bool {
    match text.first_chunk::<{ 1 << ROUNDS }>() {
        Some(front) => begins_escape(front[0]) && *front == [front[0]; 1 << ROUNDS],
        None => false,
    }
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
    if let Some(character) = escaped_escape(text) {
        take(Reading::Character(2, character));
    }
    if let Some(Reading::Character(length, character)) = outer
        && character.is_line_end()
    {
        take(Reading::Break(length + blanks(text, length)));
    }
    // Go deeper if an escape stands for what begins another, or has others within.
    let deeper = match outer {
        Some(Reading::Character(_, character)) => character.is_special(),
        Some(Reading::Break(_) | Reading::Cut) => false,
        None => {
            text.get(1).is_some_and(|second| may_go_on(first, *second))
                && text.iter().skip(1).take(ESCAPE_MAX).any(|byte| is_special(*byte))
        }
    };
    if deeper {
        nested(text, take);
    }
}

/// Gives the readings of a front after the escapes within it were undone. Few fronts need this.
#[inline(never)]
fn nested(text: &[u8], mut take: impl FnMut(Reading)) {
    let window = text.get(..SPELLED_MAX).unwrap_or(text);
    let mut once = Undone::new(window, SPELLED_MAX);
    let given = escaped_escape(text).map_or(0, |_| 2);
    let given = once.escaped_escape(given, &mut take);
    if once.front(text, &mut take) {
        // Of the last one nothing is looked at but its front.
        let mut twice = Undone::new(once, ESCAPE_MAX);
        twice.escaped_escape(given, &mut take);
        twice.front(text, &mut take);
    }
}

/// What a round undoes: a text, or what the round before it left.
trait Source {
    /// What stands from `at` on: so many bytes at least, or all there are.
    fn from(&mut self, at: usize, least: usize) -> &[u8];
    /// How many bytes of the text the first `length` bytes here stand for, which must have been read.
    fn source(&self, length: usize) -> usize;
    /// Whether there was anything to undo in it.
    fn has_undone(&mut self) -> bool;
}

impl Source for &[u8] {
    fn from(&mut self, at: usize, _: usize) -> &[u8] {
        self.get(at..).unwrap_or_default()
    }

    fn source(&self, length: usize) -> usize {
        length
    }

    fn has_undone(&mut self) -> bool {
        true
    }
}

/// A text's front with every escape undone, and where each byte comes from. Undone only as far as it is read,
/// since mostly the first two bytes show that it is no escape; `most` bytes at most.
struct Undone<S: Source> {
    of: S,
    most: usize,
    bytes: [u8; SPELLED_MAX],
    /// For each byte, where in the text the next one begins.
    ends: [u8; SPELLED_MAX],
    length: usize,
    /// How many bytes of the source are done, and how many of those (`plain`) stand for themselves.
    at: usize,
    plain: usize,
    /// It goes no further; `cut`: it ends within what may be an escape.
    ended: bool,
    cut: bool,
}

impl<S: Source> Undone<S> {
    fn new(of: S, most: usize) -> Self {
        let (bytes, ends) = ([0; SPELLED_MAX], [0; SPELLED_MAX]);
        Self { of, most, bytes, ends, length: 0, at: 0, plain: 0, ended: false, cut: false }
    }

    /// Gives that reading of its front, unless it was given of so many bytes. Gives of how many it was.
    fn escaped_escape(&mut self, given: usize, take: &mut impl FnMut(Reading)) -> usize {
        let Some(character) = escaped_escape(self.from(0, 2)) else { return given };
        let length = self.source(2);
        if length != given {
            take(Reading::Character(length, character));
        }
        length
    }

    /// Gives the reading of its front. Whether a further round may find another.
    fn front(&mut self, text: &[u8], take: &mut impl FnMut(Reading)) -> bool {
        match escape_at(self, 0) {
            // Nothing was undone, so this is no other reading, and there are none further down.
            Some(Reading::Character(..) | Reading::Cut) if !self.has_undone() => false,
            Some(Reading::Character(length, character)) => {
                let length = self.source(length);
                take(Reading::Character(length, character));
                if character.is_line_end() {
                    take(Reading::Break(length + blanks(text, length)));
                }
                character.is_special()
            }
            // It is the text that cuts it off, not the window.
            Some(Reading::Cut) if text.len() <= SPELLED_MAX => {
                take(Reading::Cut);
                false
            }
            Some(Reading::Cut | Reading::Break(_)) | None => true,
        }
    }

    fn goes_on(&self) -> bool {
        !self.ended && self.length < self.most
    }

    /// Undoes what stands next in the source.
    fn step(&mut self) {
        let at = self.at;
        let (first, found) = match self.of.from(at, 2) {
            [] => return self.ended = true,
            // A line's end may follow.
            [b'='] => return (self.ended, self.cut) = (true, true),
            [b'\n' | b'\r', ..] | [b'=', b'\n' | b'\r', ..] => {
                self.at += soft_break(self.of.from(at, SPELLED_MAX)).unwrap_or(1);
                return;
            }
            [first, ..] => (*first, escape_at(&mut self.of, at)),
        };
        match found {
            Some(Reading::Character(length, character)) => {
                self.at += length;
                if !character.is_line_end() {
                    character.as_bytes().iter().for_each(|byte| self.push(*byte));
                }
            }
            // What its end cuts off is read no further.
            Some(Reading::Cut) => (self.ended, self.cut) = (true, true),
            Some(Reading::Break(_)) | None => {
                self.at += 1;
                self.plain += 1;
                self.push(first);
            }
        }
    }

    fn push(&mut self, byte: u8) {
        let end = u8::try_from(self.of.source(self.at)).unwrap_or(u8::MAX);
        if let (Some(slot), Some(source)) = (self.bytes.get_mut(self.length), self.ends.get_mut(self.length))
        {
            (*slot, *source) = (byte, end);
            self.length += 1;
        }
    }
}

impl<S: Source> Source for Undone<S> {
    fn from(&mut self, at: usize, least: usize) -> &[u8] {
        while self.length < at.saturating_add(least) && self.goes_on() {
            self.step();
        }
        self.bytes.get(at..self.length).unwrap_or_default()
    }

    fn source(&self, length: usize) -> usize {
        length.checked_sub(1).and_then(|last| self.ends.get(last)).copied().map_or(0, usize::from)
    }

    fn has_undone(&mut self) -> bool {
        while self.at == self.plain && self.goes_on() {
            self.step();
        }
        (self.at > self.plain || self.cut) && self.of.has_undone()
    }
}

impl<S: Source> Drop for Undone<S> {
    fn drop(&mut self) {
        self.bytes.get_mut(..self.length).unwrap_or_default().zeroize();
    }
}

/// The escape that begins at `at`, if there is or may be one. Reads no more of the source than it takes to
/// decide: once a prefix decides it, what follows doesn't matter.
fn escape_at(source: &mut impl Source, at: usize) -> Option<Reading> {
    let mut asked = 2;
    loop {
        let text = source.from(at, asked);
        let is_all = text.len() < asked || asked > ESCAPE_MAX;
        match escape(text) {
            Some(Reading::Cut) if !is_all => asked = (asked * 2).min(ESCAPE_MAX + 1),
            found => return found,
        }
    }
}

/// Length of the line ends at a text's front, `=` before them (RFC 2045 section 6.7) and indentation behind
/// them included.
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

/// What a backslash makes of what may begin an escape itself. A reading beside that escape's: `\&quot;` is a
/// quotation mark, too.
fn escaped_escape(text: &[u8]) -> Option<Character> {
    match text {
        [b'\\', same @ (b'%' | b'&'), ..] => Some(Character::byte(*same)),
        _ => None,
    }
}

/// `\/`, `\x65`, `\u0065`, a pair of surrogates: JSON's (RFC 8259 section 7), what languages add (`\145`,
/// `\u{65}`, `\U00000065`), and any punctuation, which Markdown (CommonMark section 2.4) and regular
/// expressions escape so (`ghp\_`, `sk\-`). Not what may begin an escape of its own: that is
/// [`escaped_escape`].
fn backslash(text: &[u8]) -> Read<(usize, Character)> {
    match text {
        [] => None,
        [b'n', ..] => Some(Some((2, Character::byte(b'\n')))),
        [b'r', ..] => Some(Some((2, Character::byte(b'\r')))),
        [b'%' | b'&', ..] => Some(None),
        [same, ..] if same.is_ascii_punctuation() => Some(Some((2, Character::byte(*same)))),
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
    let end = match text.iter().take(ESCAPE_MAX).position(|byte| !is_in_entity(*byte)) {
        Some(end) if text.get(end) == Some(&b';') => end,
        None if text.len() < ESCAPE_MAX => return None,
        Some(_) | None => return Some(None),
    };
    let name = text.get(..end).unwrap_or_default();
    let character = match name {
        [b'#', b'x' | b'X', digits @ ..] => code(digits, 16),
        [b'#', digits @ ..] => code(digits, 10),
        _ => NAMES.iter().find(|(known, _)| *known == name).map(|(_, byte)| Character::byte(*byte)),
    };
    Some(character.map(|character| (end + 2, character)))
}

/// Whether an entity may contain this byte.
fn is_in_entity(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'#'
}

fn code(digits: &[u8], radix: u32) -> Option<Character> {
    let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    u32::from_str_radix(digits, radix).ok().and_then(Character::of)
}

#[cfg(test)]
mod tests;
