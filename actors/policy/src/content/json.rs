//! Strict JSON (RFC 8259): a text that every parser reads in the same way is read so, any other is refused.
//!
//! Parsers disagree on keys that stand twice or hold a NUL, on numbers out of range, on unpaired surrogates
//! and on bytes behind the value: all of these are refused. The tree holds nothing that isn't in the text,
//! and strings without escapes are borrowed from it. Must never accept what a server's parser could refuse.

use std::borrow::Cow;

use super::Unreadable;

/// Deepest nesting of lists and objects. Real messages stay below ten; parsers' own limits begin at about a
/// hundred.
pub const MAX_JSON_DEPTH: usize = 64;
/// Most values and keys of one text: bounds the memory that a long body can take (some 40 bytes a value or
/// key).
pub const MAX_JSON_VALUES: usize = 65_536;
/// The largest number. Near the end of a double's range and beyond it, parsers disagree: infinity, an error,
/// or the largest double.
const MAX_JSON_NUMBER: f64 = 1e308;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// As written.
    Number(&'a str),
    /// Unescaped.
    Text(Cow<'a, str>),
    /// A list.
    List(Vec<Json<'a>>),
    /// An object, in the order of the text; no key stands twice.
    Map(Vec<(Cow<'a, str>, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// Reads one text, whole.
    ///
    /// # Errors
    /// [`Unreadable`] for text that two parsers could read differently, and for text larger than real
    /// messages are.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::Utf8)?;
        let mut reader = Reader { text, at: 0, depth: 0, values: 0 };
        let value = reader.value()?;
        reader.space();
        match reader.peek() {
            None => Ok(value),
            Some(_) => reader.fault(),
        }
    }

    /// The member `name`, which the protocol defines. A key that differs from `name` in case alone is
    /// refused: some parsers take it for the member.
    pub(crate) fn member(&self, name: &str) -> Result<Option<&Self>, Unreadable> {
        let Self::Map(members) = self else { return Ok(None) };
        let mut found = None;
        for (key, value) in members {
            if key == name {
                found = Some(value);
            } else if folds_to(key, name) {
                return Err(Unreadable::Twice);
            }
        }
        Ok(found)
    }

    /// The string, if the value is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Whether a case-insensitive parser (Go's, for one) takes `key` for `name`. Simple case folding: beyond
/// ASCII there are two letters that fold into it.
#[must_use]
pub fn folds_to(key: &str, name: &str) -> bool {
    // Characters beyond ASCII, but for those two, are compared unfolded.
    key.chars().map(folded).eq(name.chars().map(folded))
}

/// Folds a character as [`folds_to`] compares it.
pub(crate) fn folded(c: char) -> char {
    match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    values: usize,
}

impl<'a> Reader<'a> {
    fn fault<T>(&self) -> Result<T, Unreadable> {
        Err(Unreadable::Syntax(self.at))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Skips white space, then takes the next byte if it is `wanted`. Returns whether it was.
    fn takes(&mut self, wanted: u8) -> bool {
        self.space();
        let there = self.peek() == Some(wanted);
        self.at += usize::from(there);
        there
    }

    fn count(&mut self) -> Result<(), Unreadable> {
        self.values += 1;
        if self.values > MAX_JSON_VALUES { Err(Unreadable::Large) } else { Ok(()) }
    }

    fn value(&mut self) -> Result<Json<'a>, Unreadable> {
        self.count()?;
        self.space();
        match self.peek() {
            Some(b'{') => self.nested(Self::map),
            Some(b'[') => self.nested(Self::list),
            Some(b'"') => Ok(Json::Text(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            _ => self.fault(),
        }
    }

    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Json<'a>, Unreadable>,
    ) -> Result<Json<'a>, Unreadable> {
        if self.depth == MAX_JSON_DEPTH {
            return Err(Unreadable::Deep);
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn word(&mut self, word: &str, value: Json<'a>) -> Result<Json<'a>, Unreadable> {
        if !self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            return self.fault();
        }
        self.at += word.len();
        Ok(value)
    }

    fn list(&mut self) -> Result<Json<'a>, Unreadable> {
        let mut items = Vec::new();
        if self.takes(b']') {
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value()?);
            if self.takes(b']') {
                return Ok(Json::List(items));
            }
            if !self.takes(b',') {
                return self.fault();
            }
        }
    }

    fn map(&mut self) -> Result<Json<'a>, Unreadable> {
        let mut members = Vec::new();
        if self.takes(b'}') {
            return Ok(Json::Map(members));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return self.fault();
            }
            self.count()?;
            let key = self.string()?;
            // To a parser in C a key ends at a NUL; other control characters have no place in a key either.
            if key.chars().any(char::is_control) {
                return Err(Unreadable::Key);
            }
            if !self.takes(b':') {
                return self.fault();
            }
            members.push((key, self.value()?));
            if self.takes(b'}') {
                break;
            }
            if !self.takes(b',') {
                return self.fault();
            }
        }
        let mut keys: Vec<&str> = members.iter().map(|(key, _)| &**key).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err(Unreadable::Twice);
        }
        Ok(Json::Map(members))
    }

    fn digits(&mut self) -> bool {
        let before = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at > before
    }

    fn number(&mut self) -> Result<Json<'a>, Unreadable> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let zero = self.peek() == Some(b'0');
        let first = self.at;
        if !self.digits() || (zero && self.at > first + 1) {
            return self.fault();
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if !self.digits() {
                return self.fault();
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            if !self.digits() {
                return self.fault();
            }
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        if text.parse::<f64>().is_ok_and(|number| number.abs() <= MAX_JSON_NUMBER) {
            Ok(Json::Number(text))
        } else {
            Err(Unreadable::Number)
        }
    }

    /// A string, at its opening quote.
    fn string(&mut self) -> Result<Cow<'a, str>, Unreadable> {
        self.at += 1;
        let mut start = self.at;
        let mut out = String::new();
        loop {
            match self.peek() {
                Some(b'"') => {
                    let last = self.text.get(start..self.at).unwrap_or_default();
                    self.at += 1;
                    return Ok(match out.is_empty() {
                        true => Cow::Borrowed(last),
                        false => Cow::Owned(out + last),
                    });
                }
                Some(b'\\') => {
                    out.push_str(self.text.get(start..self.at).unwrap_or_default());
                    self.at += 1;
                    out.push(self.escape()?);
                    start = self.at;
                }
                Some(0x20..) => self.at += 1,
                _ => return self.fault(),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Unreadable> {
        let plain = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => return self.fault(),
        };
        self.at += 1;
        Ok(plain)
    }

    fn unicode(&mut self) -> Result<char, Unreadable> {
        let high = self.unit()?;
        let unit = match high {
            0xd800..=0xdbff => {
                if self.peek() != Some(b'\\') || self.text.as_bytes().get(self.at + 1) != Some(&b'u') {
                    return self.fault();
                }
                self.at += 1;
                let low = self.unit()?;
                if !(0xdc00..=0xdfff).contains(&low) {
                    return self.fault();
                }
                0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)
            }
            unit => unit,
        };
        match char::from_u32(unit) {
            Some(char) => Ok(char),
            None => self.fault(),
        }
    }

    /// `uXXXX`, at the `u`.
    fn unit(&mut self) -> Result<u32, Unreadable> {
        let digits =
            self.text.get(self.at + 1..self.at + 5).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(unit) = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) else {
            return self.fault();
        };
        self.at += 5;
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Json<'_>, Unreadable> {
        Json::parse(text.as_bytes())
    }

    #[test]
    fn what_is_json_is_read() {
        let value = parse(" {\"a\":[1,-0.5e+3,true,null],\"b\\u0041\":\"\\ud83d\\ude00\\n/\\/\"} ").unwrap();
        let Json::Map(members) = value else { panic!() };
        assert_eq!(members[1], ("bA".into(), Json::Text("\u{1f600}\n//".into())));
        assert_eq!(parse("\"\\u0000\""), Ok(Json::Text("\0".into())));
        assert!(parse("0").is_ok() && parse("-0").is_ok() && parse("{}").is_ok() && parse("[]").is_ok());
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for (text, why) in [
            ("{\"a\":1,\"a\":2}", Unreadable::Twice),
            ("{\"a\":1,\"b\":0,\"\\u0061\":2}", Unreadable::Twice),
            ("1e999", Unreadable::Number),
            // One parser reads it as the largest double, another refuses it.
            ("-1.7976931348623158e308", Unreadable::Number),
            ("{} {}", Unreadable::Syntax(3)),
            ("{}x", Unreadable::Syntax(2)),
        ] {
            assert_eq!(parse(text), Err(why), "{text}");
        }
        for text in [
            "",
            " ",
            "NaN",
            "Infinity",
            "-",
            "+1",
            "01",
            "1.",
            ".5",
            "1e",
            "0x1",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "'a'",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\udc00\"",
            "\"\\u00g0\"",
            "\"\\u+123\"",
            "\"\n\"",
            "\"",
            "[",
            "{\"a\"",
            "{\"a\":}",
            "tru",
            "nul",
            "// x\n1",
            "/* */1",
            "\u{feff}1",
            "1\0",
            "\u{a0}1",
            "[1 2]",
            "{\"a\" 1}",
            "\"\\",
        ] {
            assert!(matches!(parse(text), Err(Unreadable::Syntax(_))), "{text:?} {:?}", parse(text));
        }
        assert_eq!(Json::parse(b"\"\xff\""), Err(Unreadable::Utf8));
        assert_eq!(Json::parse(b"\"\xed\xa0\x80\""), Err(Unreadable::Utf8));
        assert_eq!(parse(&"[".repeat(1_000_000)), Err(Unreadable::Deep));
        assert!(parse(&format!("{}{}", "[".repeat(MAX_JSON_DEPTH), "]".repeat(MAX_JSON_DEPTH))).is_ok());
        assert_eq!(parse(&format!("[{}1]", "1,".repeat(MAX_JSON_VALUES))), Err(Unreadable::Large));
    }

    #[test]
    fn keys_that_fold_into_a_name_are_refused() {
        let value = parse("{\"params\":1,\"Params\":2}").unwrap();
        assert_eq!(value.member("params"), Err(Unreadable::Twice));
        let value = parse("{\"param\u{17f}\":2}").unwrap();
        assert_eq!(value.member("params"), Err(Unreadable::Twice));
        let value = parse("{\"\u{212a}ey\":2}").unwrap();
        assert_eq!(value.member("key"), Err(Unreadable::Twice));
        assert_eq!(parse("{\"param\":2}").unwrap().member("params"), Ok(None));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]
        /// Whatever our parser accepts, an ordinary parser accepts too, and reads the same.
        #[test]
        fn never_more_lenient_than_another_parser(text in "(\\{|\\}|\\[|\\]|,|:|\"a\"|\"b\\\\n\"|\"\\\\u0041\"|1|-2.5e3|true|null| |\"){0,14}") {
            crate::fuzzing::json_rpc::holds(text.as_bytes());
        }

        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Json::parse(&bytes);
        }
    }
}
