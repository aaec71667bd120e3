//! Where the word ends in which a part of a value was found, and where it begins: so far it is masked.
//!
//! Whoever sees a mask must not learn from it how much of the value was said: this looks at the text alone
//! and must never ask what is looked for. Whatever a value that is divided ([`parts`](crate::parts)) may be
//! written in is no word's end, in any spelling ([`spelling`](crate::spelling)); only a line's end is one,
//! or else a mask would join lines that a protocol needs apart.

use crate::matching::count;

/// Whether it may belong to a value that is divided, or to an escape in it. Zeros are half of UTF-16.
fn is_in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_+/.~=%\\&#;{}\0".contains(&byte)
}

/// The end of the word that goes on at `from`. It may lie one byte behind the text's: of an escape whose
/// backslash is the text's last byte no half is masked, since what a quotation mark means depends on it.
pub(crate) fn end(text: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(byte) = text.get(at).filter(|byte| is_in_word(**byte)) {
        match (byte, text.get(at + 1)) {
            // It ends a string in a string: no value that is divided has one.
            (b'\\', Some(b'"' | b'\'')) => break,
            (b'\\', _) => at += 2,
            _ => at += 1,
        }
    }
    count(at - from);
    at
}

/// The beginning of the word that goes on at `at`, no further back than `least`.
pub(crate) fn start(text: &[u8], least: usize, at: usize) -> usize {
    let before = text.get(least..at).unwrap_or_default();
    let length = before.iter().rev().take_while(|byte| is_in_word(**byte)).count();
    count(length);
    at - length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_ends_where_no_value_goes_on() {
        for (text, word) in [
            ("abc def", "abc"),
            ("a.b-c_d/e+f~g=h\"", "a.b-c_d/e+f~g=h"),
            ("%41\\u0041\\u{41}&#65;\\x41\\_b\"", "%41\\u0041\\u{41}&#65;\\x41\\_b"),
            ("abc\u{2026}", "abc"),
            ("abc\r\ndef", "abc"),
            ("abc\\ndef,", "abc\\ndef"),
            ("abc\\\",\\\"x", "abc"),
            ("abc\\\\\",", "abc\\\\"),
            ("a\0b\0 \0", "a\0b\0"),
            ("", ""),
        ] {
            assert_eq!(end(text.as_bytes(), 0), word.len(), "{text:?}");
        }
        assert_eq!(end(b"abc\\", 1), 5, "the other half is to come");
        assert_eq!(end(b"abc", 7), 7);
    }

    #[test]
    fn and_begins_where_none_comes_from() {
        for (text, word) in [
            ("x abc", "abc"),
            ("\"a%41\\u0041", "a%41\\u0041"),
            ("a\nb", "b"),
            ("a\"", ""),
            ("\u{2026}ab", "ab"),
        ] {
            assert_eq!(start(text.as_bytes(), 0, text.len()), text.len() - word.len(), "{text:?}");
        }
        assert_eq!(start(b"abcdef", 2, 5), 2);
        assert_eq!((start(b"abc", 3, 3), start(b"abc", 9, 3)), (3, 3));
    }
}
