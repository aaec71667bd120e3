//! JSON text in pure ASCII: whichever program prints the line, what a hostile program wrote then can't move a
//! terminal's cursor, by C1 controls and bidirectional marks either. Works on finished JSON text only.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Replaces DEL and every non-ASCII character of a JSON text by its `\u` escape. Such characters stand only
/// inside strings there, so the value stays the same.
#[must_use]
pub fn escape_json(json: &str) -> Cow<'_, str> {
    if json.bytes().all(|byte| byte < 0x7f) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + json.len() / 4);
    for character in json.chars() {
        if character < '\u{7f}' {
            out.push(character);
            continue;
        }
        let mut units = [0u16; 2];
        for unit in character.encode_utf16(&mut units) {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_stays_and_the_text_is_ascii() {
        for text in ["plain", "é", "\u{9b}31m", "\u{202e}x", "😀\u{7f}", "quote\" \\ \n"] {
            let json = serde_json::to_string(text).unwrap();
            let ascii = escape_json(&json);
            assert!(ascii.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            assert_eq!(serde_json::from_str::<String>(&ascii).unwrap(), text);
        }
    }
}
