//! Text that may have been chosen by an agent, made harmless once, when it is made.
//!
//! Every character of a [`Text`] is visible, takes one or two columns of its own, and stays where it was put:
//! one that could move the cursor, hide, join another character or turn the reading direction is shown as an
//! escape instead. The view's own text has no such character.

use std::fmt;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// One line of harmless text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Text(String);

impl Text {
    /// Takes the whole of `raw`: for what the operator decides about, of which nothing may be left out.
    #[must_use]
    pub fn new(raw: &str) -> Self {
        let mut shown = String::with_capacity(raw.len());
        for c in raw.chars() {
            match is_plain(c) {
                true => shown.push(c),
                false => shown.extend(c.escape_default()),
            }
        }
        Self(shown)
    }

    /// Takes the first `most` characters, and marks the end if there were more: for what is only read.
    #[must_use]
    pub fn cut(raw: &str, most: usize) -> Self {
        match raw.char_indices().nth(most) {
            Some((end, _)) => {
                let mut text = Self::new(&raw[..end]);
                text.0.push('…');
                text
            }
            None => Self::new(raw),
        }
    }

    /// As it is shown.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the text is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts the text in quotes if it has spaces, so that a space at its end is visible, and none makes one
    /// field look like two.
    #[must_use]
    pub fn quoted(&self) -> Self {
        match self.0.contains(' ') {
            true => Self(format!("\"{}\"", self.0)),
            false => self.clone(),
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a character is visible, in columns of its own, where it was put.
fn is_plain(c: char) -> bool {
    match c {
        ' '..='~' => true,
        // Letters that are written from right to left (Unicode's Bidi_Class R and AL, by their blocks): a
        // terminal that supports them also reorders what stands beside them.
        '\u{590}'..='\u{8ff}'
        | '\u{fb1d}'..='\u{fdff}'
        | '\u{fe70}'..='\u{feff}'
        | '\u{10800}'..='\u{10fff}'
        | '\u{1e800}'..='\u{1efff}' => false,
        // Blank, but not a space.
        '\u{115f}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}' => false,
        // Regional indicators, two of which make one flag, and skin tones, which have no place of their own:
        // where such a character ends depends on the terminal.
        '\u{1f1e6}'..='\u{1f1ff}' | '\u{1f3fb}'..='\u{1f3ff}' => false,
        c if c.is_whitespace() || c.is_control() => false,
        c => matches!(c.width(), Some(1 | 2)),
    }
}

/// Returns how many columns a text takes.
pub(crate) fn columns(text: &str) -> usize {
    text.width()
}

/// Returns what of a text fits into `most` columns, with its end marked if some is left out.
pub(crate) fn fit(text: &str, most: usize) -> String {
    if columns(text) <= most {
        return text.to_owned();
    }
    let (mut fitted, mut used) = (String::new(), 1);
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > most {
            break;
        }
        fitted.push(c);
    }
    if most > 0 {
        fitted.push('…');
    }
    fitted
}

/// As [`fit`], but padded to exactly `width` columns.
pub(crate) fn cell(text: &str, width: usize) -> String {
    let mut cell = fit(text, width);
    cell.extend(std::iter::repeat_n(' ', width.saturating_sub(columns(&cell))));
    cell
}

/// Splits the whole of a text into lines of at most `most` columns. A line has at least one character.
pub(crate) fn wrap(text: &str, most: usize) -> Vec<String> {
    let (mut lines, mut line, mut used) = (Vec::new(), String::new(), 0);
    for c in text.chars() {
        let width = c.width().unwrap_or(0);
        if used + width > most && !line.is_empty() {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        line.push(c);
        used += width;
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_something_to_a_terminal_is_shown_instead() {
        for (raw, shown) in [
            ("\x1b[2J\x07\r\n\t", "\\u{1b}[2J\\u{7}\\r\\n\\t"),
            ("\u{202e}\u{2066}\u{200b}\u{feff}", "\\u{202e}\\u{2066}\\u{200b}\\u{feff}"),
            ("a\u{301}\u{ad}\u{e0041}\u{fe0f}", "a\\u{301}\\u{ad}\\u{e0041}\\u{fe0f}"),
            ("\u{9b}\u{3000}\u{a0}\u{2028}\u{3164}", "\\u{9b}\\u{3000}\\u{a0}\\u{2028}\\u{3164}"),
            ("\u{5d0}\u{627}", "\\u{5d0}\\u{627}"),
            ("über/漢字", "über/漢字"),
        ] {
            assert_eq!(Text::new(raw).as_str(), shown);
        }
    }

    /// All of Unicode, each character alone and behind one that it could join.
    #[test]
    fn every_character_has_columns_of_its_own() {
        for c in '\0'..=char::MAX {
            let alone = Text::new(&c.to_string());
            let behind = Text::new(&format!("e{c}x"));
            assert_eq!(columns(behind.as_str()), columns(alone.as_str()) + 2, "{:x}", u32::from(c));
            let each: usize = behind.as_str().chars().map(|c| c.width().unwrap()).sum();
            assert_eq!(each, columns(behind.as_str()), "{:x}", u32::from(c));
            assert!(behind.as_str().chars().all(|c| matches!(c.width(), Some(1 | 2))), "{:x}", u32::from(c));
        }
    }

    #[test]
    fn nothing_is_lost_where_lines_are_wrapped_and_cells_are_as_wide_as_they_say() {
        for text in ["", "a", "漢字漢字", "ab漢c", &"x".repeat(100)] {
            for most in 0..12 {
                assert_eq!(wrap(text, most).concat(), text);
                assert!(wrap(text, most).iter().all(|line| columns(line) <= most.max(2)), "{text} {most}");
                assert_eq!(columns(&cell(text, most)), most, "{text} {most}");
            }
        }
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(Text::cut("abcdef", 4).as_str(), "abcd…");
        assert_eq!(Text::cut("abcd", 4).as_str(), "abcd");
    }
}
