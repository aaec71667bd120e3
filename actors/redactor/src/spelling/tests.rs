//! Each spelling is read, and by the quick way as by the obvious one.

use proptest::prelude::*;

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
        ("\\%750065y", &["2:%", "8:e"]),
        ("\\&quot;y", &["2:&", "7:\""]),
        ("\\_y", &["2:_"]),
        ("\\-65", &["2:-"]),
        ("\\=y", &["2:="]),
        ("%5C_y", &["3:\\", "4:_"]),
        ("\\\\_y", &["2:\\", "3:_"]),
        ("\\\\& y", &["2:\\", "3:&"]),
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

/// As Markdown and regular expressions escape it; of a letter that is no such escape.
#[test]
fn any_punctuation_behind_a_backslash_is_read_as_itself() {
    for byte in 0x20..0x7f_u8 {
        let text = format!("\\{}~", char::from(byte));
        let itself = format!("2:{}", char::from(byte));
        assert_eq!(read(&text).contains(&itself), byte.is_ascii_punctuation(), "{text}");
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

/// The obvious way to read a front: whole windows, undone round after round.
mod obvious {
    use super::*;

    pub(super) fn readings(text: &[u8], mut take: impl FnMut(Reading)) {
        let Some(first) = text.first().copied() else { return };
        take(Reading::Character(1, Character::byte(first)));
        if let Some(length) = soft_break(text) {
            return take(Reading::Break(length));
        }
        if text == b"=" {
            return take(Reading::Cut);
        }
        if !begins_escape(first) {
            return;
        }
        let outer = escape(text);
        if let Some(reading) = outer {
            take(reading);
        }
        if text.starts_with(b"\\%") || text.starts_with(b"\\&") {
            take(Reading::Character(2, Character::byte(text[1])));
        }
        if let Some(Reading::Character(length, character)) = outer
            && character.is_line_end()
        {
            take(Reading::Break(length + blanks(text, length)));
        }
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
        let mut given = if text.starts_with(b"\\%") || text.starts_with(b"\\&") { 2 } else { 0 };
        for round in 1..ROUNDS {
            // Of the last one nothing is looked at but its front.
            let Some(next) = inner.undone(if round + 1 == ROUNDS { ESCAPE_MAX } else { SPELLED_MAX }) else {
                return;
            };
            inner = next;
            if inner.bytes().starts_with(b"\\%") || inner.bytes().starts_with(b"\\&") {
                let length = inner.source(2);
                if length != std::mem::replace(&mut given, length) {
                    take(Reading::Character(length, Character::byte(inner.bytes()[1])));
                }
            }
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
            if let (Some(slot), Some(source)) =
                (self.bytes.get_mut(self.length), self.ends.get_mut(self.length))
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

    /// As [`super::super::escape`], but for how entities are looked for.
    pub(super) fn escape(text: &[u8]) -> Option<Reading> {
        let [b'&', rest @ ..] = text else { return super::super::escape(text) };
        match entity(rest) {
            None => Some(Reading::Cut),
            Some(found) => found.map(|(length, character)| Reading::Character(length, character)),
        }
    }

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
}

/// Every reading, by one way or the other.
fn all(text: &[u8], readings: fn(&[u8], &mut dyn FnMut(Reading))) -> Vec<Reading> {
    let mut all = Vec::new();
    readings(text, &mut |reading| all.push(reading));
    all
}

fn agree(text: &[u8]) {
    let ours = all(text, |text, take| readings(text, take));
    let wanted = all(text, |text, take| obvious::readings(text, take));
    assert_eq!(ours, wanted, "{}", String::from_utf8_lossy(text));
    if is_run(text) {
        let itself =
            |reading: &Reading| matches!(reading, Reading::Character(_, one) if one.as_bytes() == &text[..1]);
        assert!(ours.iter().all(itself), "{}", String::from_utf8_lossy(text));
    }
    // What a beginning is for certain, the whole is.
    for end in 0..text.len().min(2 * ESCAPE_MAX) {
        let begun = escape(&text[..end]);
        assert!(begun == Some(Reading::Cut) || end == 0 || begun == escape(text), "{} of {text:?}", end);
    }
}

/// What escapes are made of, and what stands between, in short words.
#[test]
fn both_ways_read_the_same_in_every_short_text() {
    const LETTERS: &[u8] = b"%\\&#;u6\n= x";
    for length in 0..=4_u32 {
        for number in 0..LETTERS.len().pow(length) {
            let letter = |at| LETTERS[number / LETTERS.len().pow(at) % LETTERS.len()];
            agree(&(0..length).map(letter).collect::<Vec<u8>>());
        }
    }
}

fn pieces() -> impl Strategy<Value = Vec<String>> {
    let run = ("[%\\\\&=\n]", 1..40_usize).prop_map(|(byte, times)| byte.repeat(times));
    let escape = prop::sample::select(vec![
        "%25",
        "%26",
        "%5c",
        "%41",
        "%0A",
        "%u0025",
        "%u",
        "%6",
        "\\u005c",
        "\\u0026",
        "\\u00",
        "\\x25",
        "\\x",
        "\\45",
        "\\134",
        "\\u{25}",
        "\\u{",
        "\\U00000026",
        "\\n",
        "\\/",
        "\\ud83d",
        "\\ude00",
        "&amp;",
        "&#37;",
        "&#x5c;",
        "&#38;",
        "&#",
        "&am",
        "&lt",
        "&#x",
        "&#10;",
        ";",
        "25",
        "005c",
        "amp;",
        "}",
        "#37;",
        "=\r\n",
        "\n  ",
        "0",
        "g",
        "\u{e9}",
        "u",
        "x",
    ]);
    let letters = "[%\\\\&#;ux{}0-9a-f=\n\r ]{1,6}";
    proptest::collection::vec(prop_oneof![1 => run, 4 => escape.prop_map(str::to_owned), 1 => letters], 0..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn both_ways_read_the_same(pieces in pieces()) {
        let text = pieces.concat();
        for at in 0..text.len() {
            agree(&text.as_bytes()[at..]);
        }
    }
}
