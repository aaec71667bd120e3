//! A text as whoever reads its escapes sees it: a secret whose characters are escaped one and all is the secret.
//!
//! ```text
//! k%65y   k\u0065y   k\x65y   k&#101;y   k⏎ey  ─▶  key, and for each byte where in the text it comes from
//! ```
//! `known` lists the forms that usual writers give a secret; this takes any mixture of escapes by any writer, one within the
//! other up to [`ROUNDS`]. Line breaks are left out, since base64 and hexadecimal are wrapped by them. This never changes a
//! text: it is only searched.

use zeroize::Zeroizing;

/// Escapes within escapes that are undone: a URL in JSON in JSON.
const ROUNDS: usize = 3;
/// The longest escape, bytes: `&#x10FFFF;`, or two `\uD83D\uDE00`.
const ESCAPE_MAX: usize = 12;

/// The text, and where its bytes come from.
pub(crate) struct Plain {
    bytes: Zeroizing<Vec<u8>>,
    pieces: Vec<Piece>,
    /// Where the source ends, or an escape begins that its end cuts off: that far this reads.
    open: usize,
}

/// From here on, either byte for byte what the source has, or what one escape stands for.
#[derive(Debug, Clone, Copy)]
struct Piece {
    at: usize,
    source: usize,
    verbatim: bool,
}

/// What the front of a text is.
enum Front {
    /// An escape of so many bytes, and the bytes that it stands for.
    Escape(usize, Character),
    /// The beginning of an escape.
    Cut,
    /// Itself.
    Verbatim,
}

/// Up to four bytes of UTF-8.
struct Character {
    bytes: [u8; 4],
    length: usize,
}

impl Character {
    const NOTHING: Self = Self { bytes: [0; 4], length: 0 };

    fn byte(byte: u8) -> Self {
        Self { bytes: [byte, 0, 0, 0], length: 1 }
    }

    fn of(code: u32) -> Option<Self> {
        let mut bytes = [0; 4];
        let length = char::from_u32(code)?.encode_utf8(&mut bytes).len();
        Some(Self { bytes, length })
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Plain {
    /// Undoes every escape; `None` if there is none.
    pub(crate) fn of(text: &[u8]) -> Option<Self> {
        let mut plain = Self::once(text)?;
        for _ in 1..ROUNDS {
            let Some(further) = Self::once(&plain.bytes) else { break };
            plain = plain.then(further);
        }
        Some(plain)
    }

    /// What a reader sees.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where in the source the byte at `at` begins.
    pub(crate) fn start(&self, at: usize) -> usize {
        match self.piece(at) {
            _ if at >= self.bytes.len() => self.open,
            Some((piece, _)) if piece.verbatim => piece.source + (at - piece.at),
            Some((piece, _)) => piece.source,
            None => 0,
        }
    }

    /// Where in the source everything before `end` is over.
    pub(crate) fn end(&self, end: usize) -> usize {
        let Some(last) = end.checked_sub(1) else { return 0 };
        match self.piece(last) {
            Some((piece, _)) if piece.verbatim => piece.source + (end - piece.at),
            Some((_, next)) => next.map_or(self.open, |next| next.source),
            None => self.open,
        }
    }

    /// Where in the source an escape begins that its end cuts off, which isn't read; the source's length, if there is none.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    fn piece(&self, at: usize) -> Option<(Piece, Option<Piece>)> {
        let after = self.pieces.partition_point(|piece| piece.at <= at);
        let piece = self.pieces.get(after.checked_sub(1)?)?;
        Some((*piece, self.pieces.get(after).copied()))
    }

    fn once(text: &[u8]) -> Option<Self> {
        let mut at = next_special(text, 0)?;
        let mut plain = Self {
            bytes: Zeroizing::new(Vec::with_capacity(text.len())),
            pieces: Vec::new(),
            open: text.len(),
        };
        let mut done = 0;
        loop {
            let rest = text.get(at..).unwrap_or_default();
            match front(rest) {
                Front::Escape(length, character) => {
                    plain.verbatim(text, done, at);
                    plain.pieces.push(Piece { at: plain.bytes.len(), source: at, verbatim: false });
                    plain.bytes.extend_from_slice(character.as_bytes());
                    at += length;
                    done = at;
                }
                Front::Cut => {
                    plain.open = at;
                    break;
                }
                Front::Verbatim => at += 1,
            }
            match next_special(text, at) {
                Some(next) => at = next,
                None => break,
            }
        }
        plain.verbatim(text, done, plain.open);
        (done > 0 || plain.open < text.len()).then_some(plain)
    }

    fn verbatim(&mut self, text: &[u8], from: usize, to: usize) {
        if from < to {
            self.pieces.push(Piece { at: self.bytes.len(), source: from, verbatim: true });
            self.bytes.extend_from_slice(text.get(from..to).unwrap_or_default());
        }
    }

    /// The same of what this one's bytes stand for.
    fn then(&self, mut further: Self) -> Self {
        let mut pieces = Vec::with_capacity(self.pieces.len() + further.pieces.len());
        for (n, piece) in further.pieces.iter().enumerate() {
            let next = further.pieces.get(n + 1).map_or(self.bytes.len(), |next| next.source);
            pieces.push(Piece { source: self.start(piece.source), ..*piece });
            if !piece.verbatim {
                continue;
            }
            // Within a run, this one's own pieces begin.
            let from = self.pieces.partition_point(|own| own.at <= piece.source);
            let to = self.pieces.partition_point(|own| own.at < next);
            if let (Some(first), Some((own, _))) = (pieces.last_mut(), self.piece(piece.source)) {
                first.verbatim = own.verbatim;
            }
            for own in self.pieces.get(from..to).unwrap_or_default() {
                pieces.push(Piece { at: piece.at + (own.at - piece.source), ..*own });
            }
        }
        further.open = self.open.min(self.start(further.open));
        further.pieces = pieces;
        further
    }
}

/// The next byte that may begin an escape.
fn next_special(text: &[u8], from: usize) -> Option<usize> {
    let special = |byte: &u8| matches!(byte, b'%' | b'\\' | b'&' | b'\n' | b'\r');
    text.get(from..)?.iter().position(special).map(|at| from + at)
}

fn front(text: &[u8]) -> Front {
    let read = match text {
        [b'\n' | b'\r', ..] => return Front::Escape(1, Character::NOTHING),
        [b'%', rest @ ..] => hexadecimal(rest, 2).map(|found| found.map(|code| (3, byte(code)))),
        [b'\\', rest @ ..] => backslash(rest),
        [b'&', rest @ ..] => entity(rest),
        _ => Some(None),
    };
    match read {
        None if text.len() < ESCAPE_MAX => Front::Cut,
        Some(Some((length, Some(character)))) => Front::Escape(length, character),
        None | Some(_) => Front::Verbatim,
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

/// `\/`, `\n`, `\x65`, `\u0065`, a pair of surrogates: JSON's (RFC 8259 section 7), and what languages add.
fn backslash(text: &[u8]) -> Read<(usize, Option<Character>)> {
    match text {
        [] => None,
        [b'n' | b'r', ..] => Some(Some((2, Some(Character::NOTHING)))),
        [same @ (b'/' | b'"' | b'\'' | b'\\'), ..] => Some(Some((2, Some(Character::byte(*same))))),
        [b'x', rest @ ..] => hexadecimal(rest, 2).map(|found| found.map(|code| (4, byte(code)))),
        [b'u', rest @ ..] => {
            let Some(high) = hexadecimal(rest, 4)? else { return Some(None) };
            if !(0xd800..0xdc00).contains(&high) {
                return Some(Some((6, Character::of(high))));
            }
            match rest.get(4..).unwrap_or_default() {
                [] | [b'\\'] => None,
                [b'\\', b'u', low @ ..] => hexadecimal(low, 4).map(|found| {
                    let low = found.filter(|low| (0xdc00..0xe000).contains(low))?;
                    Some((12, Character::of(0x10000 + ((high - 0xd800) << 10 | (low - 0xdc00)))))
                }),
                _ => Some(None),
            }
        }
        _ => Some(None),
    }
}

/// `&#101;`, `&#x65;` and the five names of XML.
fn entity(text: &[u8]) -> Read<(usize, Option<Character>)> {
    const NAMES: [(&[u8], u8); 5] =
        [(b"amp", b'&'), (b"lt", b'<'), (b"gt", b'>'), (b"quot", b'"'), (b"apos", b'\'')];
    let Some(end) = text.iter().take(ESCAPE_MAX).position(|byte| *byte == b';') else {
        let inside = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'#';
        return if text.iter().all(inside) { None } else { Some(None) };
    };
    let name = text.get(..end).unwrap_or_default();
    let number = |digits: &[u8], radix| {
        std::str::from_utf8(digits).ok().and_then(|digits| u32::from_str_radix(digits, radix).ok())
    };
    let character = match name {
        [b'#', b'x' | b'X', digits @ ..] => number(digits, 16).and_then(Character::of),
        [b'#', digits @ ..] => number(digits, 10).and_then(Character::of),
        _ => NAMES.iter().find(|(known, _)| *known == name).map(|(_, byte)| Character::byte(*byte)),
    };
    Some(Some((end + 2, character)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reads(text: &str) -> String {
        Plain::of(text.as_bytes())
            .map_or(text.to_owned(), |plain| String::from_utf8_lossy(plain.bytes()).into_owned())
    }

    #[test]
    fn escapes_are_undone() {
        for (text, plain) in [
            ("key", "key"),
            ("k%65y%2f", "key/"),
            ("k\\u0065y\\/\\\"", "key/\""),
            ("k\\x65y", "key"),
            ("k&#101;&#X79;&amp;&quot;", "key&\""),
            ("ke\r\ny\\n", "key"),
            ("\\ud83d\\ude00!", "😀!"),
            ("k%2565y", "key"),
            ("\\\\u006bey", "key"),
            ("%zz \\q & &nope; &#xffffffff; 100% \\ud83d!", "%zz \\q & &nope; &#xffffffff; 100% \\ud83d!"),
        ] {
            assert_eq!(reads(text), plain, "{text}");
        }
    }

    #[test]
    fn each_byte_knows_where_it_comes_from() {
        let text = b"a%6b\\u0065\n%2579z";
        let plain = Plain::of(text).unwrap();
        assert_eq!(plain.bytes(), b"akeyz");
        let span = |from: usize, to: usize| &text[plain.start(from)..plain.end(to)];
        assert_eq!(span(0, 1), b"a");
        assert_eq!(span(1, 2), b"%6b");
        assert_eq!(span(3, 4), b"%2579");
        assert_eq!(span(4, 5), b"z");
        assert_eq!(span(1, 4), b"%6b\\u0065\n%2579");
        assert_eq!(plain.start(5), text.len());
    }

    #[test]
    fn an_escape_without_its_end_waits_for_it() {
        for text in ["x%", "x%4", "x\\", "x\\u00", "x\\ud83d", "x\\ud83d\\ude0", "x&", "x&#10", "x&am"] {
            assert_eq!(Plain::of(text.as_bytes()).unwrap().open(), 1, "{text}");
        }
        assert_eq!(Plain::of(b"x%41").unwrap().open(), 4);
        assert!(Plain::of(b"x&y z").is_none() && Plain::of(b"&abcdefghijklmnop").is_none());
    }

    proptest! {
        #[test]
        fn spans_cover_the_source_in_order(text in "[a%2\\\\u05&#;\n]{0,40}") {
            if let Some(plain) = Plain::of(text.as_bytes()) {
                let mut before = 0;
                for at in 0..plain.bytes().len() {
                    let (start, end) = (plain.start(at), plain.end(at + 1));
                    prop_assert!(before <= start && start < end && end <= text.len(), "{at}: {before} {start} {end}");
                    before = start;
                }
            }
        }
    }
}
