//! Matchers over JSON: a place in a value, and the values that may stand there.
//!
//! To allow, the value must have the pattern's own type, since a server that reads `"false"` may take it for
//! true. To deny, one reading that matches is enough, whatever its type.

use std::fmt;

use crate::Glob;
use crate::content::json::{Json, folds_to};

/// Most steps of a pointer.
const MAX_POINTER_DEPTH: usize = 16;

/// A place in a JSON value: a member's name, or a JSON pointer (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    written: Box<str>,
    tokens: Box<[Box<str>]>,
}

impl Pointer {
    /// Reads a member's name, or a pointer if the text begins with `/`. `None` if a pointer is broken or too
    /// deep.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let tokens: Box<[Box<str>]> = match text.strip_prefix('/') {
            Some(rest) => {
                let tokens: Option<Vec<Box<str>>> = rest.split('/').map(unescape).collect();
                tokens?.into()
            }
            None => [text.into()].into(),
        };
        (tokens.len() <= MAX_POINTER_DEPTH).then(|| Self { written: text.into(), tokens })
    }

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// The value that every parser finds at the place. `None` where a key in another spelling stands in the
    /// object as well.
    fn certain<'j, 'a>(&self, value: &'j Json<'a>) -> Option<&'j Json<'a>> {
        self.tokens.iter().try_fold(value, |value, token| match value {
            Json::Map(_) => value.member(token).ok().flatten(),
            Json::List(items) => index(token).and_then(|index| items.get(index)),
            _ => None,
        })
    }
}

/// Undoes the escapes of a pointer: `~1` is `/`, `~0` is `~`.
fn unescape(token: &str) -> Option<Box<str>> {
    let mut out = String::new();
    let mut chars = token.chars();
    while let Some(char) = chars.next() {
        out.push(match (char, char == '~') {
            (_, true) => match chars.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            },
            (char, false) => char,
        });
    }
    Some(out.into())
}

fn index(token: &str) -> Option<usize> {
    (token == "0" || !token.starts_with('0')).then(|| token.parse().ok()).flatten()
}

/// Whether some parser finds a value at the place that passes `test`.
fn found(value: &Json<'_>, tokens: &[Box<str>], test: &dyn Fn(&Json<'_>) -> bool) -> bool {
    let Some((token, rest)) = tokens.split_first() else { return leaf(value, test) };
    match value {
        Json::Map(members) => {
            members.iter().any(|(key, value)| folds_to(key, token) && found(value, rest, test))
        }
        Json::List(items) => {
            index(token).and_then(|index| items.get(index)).is_some_and(|item| found(item, rest, test))
        }
        _ => false,
    }
}

/// Whether some scalar at or below `value` passes.
fn leaf(value: &Json<'_>, test: &dyn Fn(&Json<'_>) -> bool) -> bool {
    match value {
        Json::List(items) => items.iter().any(|item| leaf(item, test)),
        Json::Map(members) => members.iter().any(|(_, value)| leaf(value, test)),
        scalar => test(scalar),
    }
}

/// A pattern for one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatcher {
    /// Text that matches.
    Text(Glob),
    /// This number, in JSON's syntax; other spellings of it (`5.0` for `5`) match too.
    Number(Box<str>),
    /// This.
    Bool(bool),
}

impl ValueMatcher {
    /// Whether the value has the pattern's type and matches.
    fn is(&self, value: &Json<'_>) -> bool {
        match (self, value) {
            (Self::Text(glob), Json::Text(text)) => glob.matches(text),
            (Self::Number(own), Json::Number(number)) => same_number(own, number),
            (Self::Bool(own), Json::Bool(value)) => own == value,
            _ => false,
        }
    }

    /// Whether some server could take the value for one that matches.
    fn could_be(&self, value: &Json<'_>) -> bool {
        match (self, value) {
            (Self::Number(own), Json::Number(number)) => {
                same_number(own, number) || own.parse::<f64>().ok() == number.parse::<f64>().ok()
            }
            (Self::Number(own), Json::Text(text)) => same_number(own, text.trim()) || (**own == *text.trim()),
            (Self::Text(glob), Json::Number(number)) => glob.matches(number),
            (Self::Text(glob), Json::Bool(value)) => glob.matches(if *value { "true" } else { "false" }),
            (Self::Text(glob), Json::Null) => glob.matches("null"),
            (Self::Bool(own), Json::Text(text)) => {
                text.trim().eq_ignore_ascii_case(if *own { "true" } else { "false" })
            }
            (Self::Bool(own), Json::Number(number)) => same_number(if *own { "1" } else { "0" }, number),
            _ => self.is(value),
        }
    }
}

/// A decimal number in normal form: whether it is negative, its digits without zeros at either end, and the
/// exponent of the last digit.
fn normal(text: &str) -> Option<(bool, impl Iterator<Item = u8> + '_, i64)> {
    let (negative, body) = match text.strip_prefix('-') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let (mantissa, exponent) = body.split_once(['e', 'E']).unwrap_or((body, "0"));
    let exponent: i64 = exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?;
    let fraction = mantissa.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    if mantissa.is_empty() || !mantissa.bytes().all(|b| b == b'.' || b.is_ascii_digit()) {
        return None;
    }
    let digits = || mantissa.bytes().filter(u8::is_ascii_digit);
    let leading = digits().take_while(|d| *d == b'0').count();
    let all = digits().count();
    let trailing = mantissa.bytes().rev().filter(u8::is_ascii_digit).take_while(|d| *d == b'0').count();
    let zero = leading == all;
    let length = if zero { 0 } else { all - leading - trailing };
    let exponent =
        exponent.checked_sub(i64::try_from(fraction).ok()?)?.checked_add(i64::try_from(trailing).ok()?)?;
    let significant = mantissa.bytes().filter(u8::is_ascii_digit).skip(leading).take(length);
    Some((negative && !zero, significant, if zero { 0 } else { exponent }))
}

/// Whether two texts spell the same number, as `5`, `5.0` and `50e-1` do.
fn same_number(a: &str, b: &str) -> bool {
    match (normal(a), normal(b)) {
        (Some((sa, da, ea)), Some((sb, db, eb))) => sa == sb && ea == eb && da.eq(db),
        _ => false,
    }
}

impl fmt::Display for ValueMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(glob) => write!(f, "{glob}"),
            Self::Number(number) => f.write_str(number),
            Self::Bool(value) => write!(f, "{value}"),
        }
    }
}

/// A place in a JSON value, and what must stand there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonMatcher {
    /// The place.
    pub at: Pointer,
    /// The alternatives, of which one must match; never empty.
    pub any: Vec<ValueMatcher>,
}

impl JsonMatcher {
    /// Whether the value at the place matches an alternative; of a list, each member must. Objects never
    /// match: a matcher has to name the members inside.
    #[must_use]
    pub fn allows(&self, value: &Json<'_>) -> bool {
        match self.at.certain(value) {
            Some(Json::List(items)) => !items.is_empty() && items.iter().all(|item| self.is_one(item)),
            Some(scalar) => self.is_one(scalar),
            None => false,
        }
    }

    /// Whether some value at the place could be taken for one that matches.
    #[must_use]
    pub fn denies(&self, value: &Json<'_>) -> bool {
        // Positional parameters have no names, so any of them might be the one that is meant.
        if matches!(value, Json::List(_))
            && self.at.tokens.first().is_some_and(|token| index(token).is_none())
        {
            return true;
        }
        found(value, &self.at.tokens, &|scalar| self.any.iter().any(|own| own.could_be(scalar)))
    }

    fn is_one(&self, value: &Json<'_>) -> bool {
        self.any.iter().any(|own| own.is(value))
    }
}

impl fmt::Display for JsonMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=", self.at.as_str())?;
        for (index, value) in self.any.iter().enumerate() {
            write!(f, "{}{value}", if index == 0 { "" } else { "|" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(at: &str, pattern: &str) -> JsonMatcher {
        JsonMatcher {
            at: Pointer::parse(at).unwrap(),
            any: vec![ValueMatcher::Text(Glob::path(pattern).unwrap())],
        }
    }

    fn number(at: &str, number: &str) -> JsonMatcher {
        JsonMatcher { at: Pointer::parse(at).unwrap(), any: vec![ValueMatcher::Number(number.into())] }
    }

    #[track_caller]
    fn check(matcher: &JsonMatcher, json: &str, allows: bool, denies: bool) {
        let value = Json::parse(json.as_bytes()).unwrap();
        assert_eq!((matcher.allows(&value), matcher.denies(&value)), (allows, denies), "{matcher} on {json}");
    }

    #[test]
    fn types_count_to_allow_and_not_to_deny() {
        let five = number("n", "5");
        for (json, allows, denies) in [
            ("{\"n\":5}", true, true),
            ("{\"n\":5.0}", true, true),
            ("{\"n\":50e-1}", true, true),
            ("{\"n\":0.5E+1}", true, true),
            ("{\"n\":\"5\"}", false, true),
            ("{\"n\":\"5.0\"}", false, true),
            ("{\"n\":-5}", false, false),
            ("{\"n\":[5,5.0]}", true, true),
            ("{\"n\":[5,6]}", false, true),
            ("{\"n\":[]}", false, false),
            ("{\"n\":{\"x\":5}}", false, true),
            ("{\"N\":5}", false, true),
            ("{\"n\":5,\"N\":6}", false, true),
            ("{}", false, false),
            ("[5]", false, true),
        ] {
            check(&five, json, allows, denies);
        }
        check(&number("n", "9007199254740992"), "{\"n\":9007199254740993}", false, true);
        check(&number("n", "0"), "{\"n\":-0.0e5}", true, true);
        let off = JsonMatcher { at: Pointer::parse("f").unwrap(), any: vec![ValueMatcher::Bool(false)] };
        check(&off, "{\"f\":false}", true, true);
        check(&off, "{\"f\":\"False\"}", false, true);
        check(&off, "{\"f\":0}", false, true);
        check(&off, "{\"f\":true}", false, false);
    }

    #[test]
    fn pointers_reach_into_lists_and_objects() {
        check(&text("/a/0/b~1c", "x*"), "{\"a\":[{\"b/c\":\"xy\"}]}", true, true);
        check(&text("/a/0/b~1c", "x*"), "{\"a\":[{\"b/c\":\"yx\"}]}", false, false);
        check(&text("/a/00", "x"), "{\"a\":[\"x\"]}", false, false);
        check(&text("path", "/work/**"), "{\"path\":\"/work/a/b\"}", true, true);
        check(&text("path", "/work/*"), "{\"path\":\"/work/a/b\"}", false, false);
        check(&text("path", "/work/**"), "{\"p\\u0061th\":\"\\/work\\/a\"}", true, true);
        assert_eq!(Pointer::parse("/a~2"), None);
        assert!(Pointer::parse(&"/a".repeat(17)).is_none());
    }
}
