//! The canonical query: the form in which a query is judged by `query:` matchers, and in which it is then
//! sent.
//!
//! Escapes get upper-case hex, needless escapes are undone, and `;` is escaped (so that no server takes it
//! for a separator). Values are compared decoded. `+` means a space to some servers and itself to others:
//! both readings are kept, and a matcher must hold for both to allow, for either to deny. The same goes for
//! names, which some servers read in any case, without spaces around them, cut at a bracket, or with another
//! character in its place.

use std::fmt;

use crate::content::json::folded;
use crate::path::{hex_digit, push_escape};

/// Longest query accepted, in bytes as sent.
pub const MAX_QUERY_BYTES: usize = 16 * 1024;
/// Most parameters in a query.
pub const MAX_PARAMETERS: usize = 1024;

/// Why a query has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Over [`MAX_QUERY_BYTES`].
    #[error("the query is longer than {MAX_QUERY_BYTES} bytes")]
    TooLong,
    /// Over [`MAX_PARAMETERS`].
    #[error("the query has more than {MAX_PARAMETERS} parameters")]
    TooMany,
    /// A raw control byte, space, non-ASCII byte, backslash or `#`.
    #[error("the query has a raw byte {0:#04x}")]
    Byte(u8),
    /// `%` without two hex digits.
    #[error("the query has a `%` that two hex digits don't follow")]
    Escape,
    /// `%00`.
    #[error("the query has an encoded NUL")]
    Nul,
    /// A decoded name or value is not UTF-8.
    #[error("the decoded query is not valid UTF-8")]
    Utf8,
}

/// One `name=value` of a query, decoded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Parameter {
    /// The name, `+` as itself.
    name: String,
    /// The value, `+` as itself.
    value: String,
    /// The name and value with `+` as a space; `None` where that makes no difference.
    spaced: Option<(String, String)>,
}

/// A query in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Query {
    text: Option<String>,
    parameters: Vec<Parameter>,
}

impl Query {
    /// No query at all (no `?`).
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Canonicalises what stands behind the `?` of a request target; `None` if there is none.
    ///
    /// # Errors
    /// A [`QueryError`] for forms that two parsers could read differently.
    pub fn parse(raw: Option<&str>) -> Result<Self, QueryError> {
        let Some(raw) = raw else { return Ok(Self::none()) };
        if raw.len() > MAX_QUERY_BYTES {
            return Err(QueryError::TooLong);
        }
        let mut text = String::with_capacity(raw.len());
        let mut parameters = Vec::new();
        for (index, part) in raw.split('&').enumerate() {
            if index == MAX_PARAMETERS {
                return Err(QueryError::TooMany);
            }
            if index > 0 {
                text.push('&');
            }
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (part, None),
            };
            let name = component(name, &mut text)?;
            let value = match value {
                Some(value) => {
                    text.push('=');
                    component(value, &mut text)?
                }
                None => Component::default(),
            };
            if !part.is_empty() {
                parameters.push(parameter(name, value));
            }
        }
        // Escaping may have made the query longer.
        if text.len() > MAX_QUERY_BYTES {
            return Err(QueryError::TooLong);
        }
        Ok(Self { text: Some(text), parameters })
    }

    /// What is sent behind the `?`; `None` if no `?` is sent.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Whether the query has a parameter that some server takes for `name`, whatever its value.
    #[must_use]
    pub fn names(&self, name: &str) -> bool {
        let is = |own: &str| is_taken_for(own, name);
        self.parameters.iter().any(|p| is(&p.name) || p.spaced.as_ref().is_some_and(|(n, _)| is(n)))
    }

    /// Every value that some server reads for parameter `name`.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.readings(name).map(|(value, _)| value)
    }

    /// Whether parameter `name` is there and *every* reading of every one of its values passes `test`.
    pub(crate) fn every(&self, name: &str, test: impl Fn(&str) -> bool) -> bool {
        let mut found = false;
        for (value, certain) in self.readings(name) {
            found |= certain;
            if !test(value) {
                return false;
            }
        }
        found
    }

    /// Whether *any* reading of any value of parameter `name` passes `test`.
    pub(crate) fn any(&self, name: &str, test: impl Fn(&str) -> bool) -> bool {
        self.readings(name).any(|(value, _)| test(value))
    }

    /// Every value that some server reads for parameter `name`, each with whether all servers take its
    /// parameter for `name`.
    fn readings<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, bool)> {
        self.parameters.iter().flat_map(move |p| {
            let plain = is_taken_for(&p.name, name).then_some(p.value.as_str());
            let spaced = p.spaced.as_ref().filter(|(n, _)| is_taken_for(n, name)).map(|(_, v)| v.as_str());
            let certain = p.name == name && p.spaced.as_ref().is_none_or(|(n, _)| n == name);
            plain.into_iter().chain(spaced).map(move |v| (v, certain))
        })
    }
}

/// Whether some server takes a parameter called `own` for `name`: in any case (ASP.NET), without the spaces
/// around it, with `_` for a dot, a space or an unclosed bracket (PHP), or as a list or map of that name
/// (`name[]`), whose brackets Rack and qs also accept before it (`[name]`, `[name`).
fn is_taken_for(own: &str, name: &str) -> bool {
    let folded = |text: &str, wanted: &str| {
        let fold = |c: char| match c {
            '.' | ' ' | '[' => '_',
            c => folded(c),
        };
        text.trim().chars().map(fold).eq(wanted.trim().chars().map(fold))
    };
    let brackets = ['[', ']'];
    let bare = || own.trim_start().trim_start_matches(brackets).split(brackets).next().unwrap_or_default();
    folded(own, name) || (own.contains(brackets) && folded(bare(), name))
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => write!(f, "?{text}"),
            None => Ok(()),
        }
    }
}

/// A decoded name or value: `plain` keeps `+` as itself, `spaced` has it as a space and is `None` where there
/// is no raw `+`.
#[derive(Default)]
struct Component {
    plain: String,
    spaced: Option<String>,
}

fn parameter(name: Component, value: Component) -> Parameter {
    let spaced = (name.spaced.is_some() || value.spaced.is_some()).then(|| {
        (
            name.spaced.unwrap_or_else(|| name.plain.clone()),
            value.spaced.unwrap_or_else(|| value.plain.clone()),
        )
    });
    Parameter { name: name.plain, value: value.plain, spaced }
}

/// Decodes one name or value and appends its canonical spelling to `out`.
fn component(raw: &str, out: &mut String) -> Result<Component, QueryError> {
    let mut plain = Vec::with_capacity(raw.len());
    let mut spaced = Vec::new();
    let mut has_plus = false;
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        let (value, escaped) = match byte {
            b'%' => {
                let high = bytes.next().and_then(hex_digit).ok_or(QueryError::Escape)?;
                let low = bytes.next().and_then(hex_digit).ok_or(QueryError::Escape)?;
                (high << 4 | low, true)
            }
            b'#' | b'\\' => return Err(QueryError::Byte(byte)),
            0x21..=0x7e => (byte, false),
            other => return Err(QueryError::Byte(other)),
        };
        if value == 0 {
            return Err(QueryError::Nul);
        }
        if value == b'+' && !escaped && !has_plus {
            has_plus = true;
            spaced.clone_from(&plain);
        }
        plain.push(value);
        if has_plus {
            spaced.push(if value == b'+' && !escaped { b' ' } else { value });
        }
        if stands_raw(value) || (!escaped && matches!(value, b'+' | b'=')) {
            out.push(char::from(value));
        } else {
            push_escape(out, value);
        }
    }
    let plain = String::from_utf8(plain).map_err(|_| QueryError::Utf8)?;
    let spaced = if has_plus { Some(String::from_utf8(spaced).map_err(|_| QueryError::Utf8)?) } else { None };
    Ok(Component { plain, spaced })
}

/// Bytes that stand for themselves in a canonical name or value (RFC 3986 `query` without the separators).
fn stands_raw(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$'()*,:@/?".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(raw: &str) -> String {
        Query::parse(Some(raw)).unwrap().to_string()
    }

    #[test]
    fn canonical_forms() {
        assert_eq!(Query::parse(None).unwrap().to_string(), "");
        for (raw, expected) in [
            ("", "?"),
            ("a=1&b=2", "?a=1&b=2"),
            ("st%61te=%6fpen", "?state=open"),
            ("a=%2b+", "?a=%2B+"),
            ("a=b=c", "?a=b=c"),
            ("a=%3d%26", "?a=%3D%26"),
            ("a;b=1", "?a%3Bb=1"),
            ("q={\"x\"}", "?q=%7B%22x%22%7D"),
            ("a&&b=", "?a&&b="),
            ("q=%0A", "?q=%0A"),
        ] {
            assert_eq!(canonical(raw), expected, "{raw}");
        }
    }

    #[test]
    fn ambiguous_forms_are_refused() {
        for (raw, why) in [
            ("a=%", QueryError::Escape),
            ("a=%0", QueryError::Escape),
            ("a=%00", QueryError::Nul),
            ("a=%ff", QueryError::Utf8),
            ("a=\u{e9}", QueryError::Byte(0xc3)),
            ("a b", QueryError::Byte(b' ')),
            ("a#b", QueryError::Byte(b'#')),
            ("a\\b", QueryError::Byte(b'\\')),
        ] {
            assert_eq!(Query::parse(Some(raw)), Err(why), "{raw}");
        }
        assert_eq!(Query::parse(Some(&"a&".repeat(MAX_PARAMETERS))), Err(QueryError::TooMany));
        assert_eq!(Query::parse(Some(&"a".repeat(MAX_QUERY_BYTES + 1))), Err(QueryError::TooLong));
        assert!(Query::parse(Some(&"|".repeat(MAX_QUERY_BYTES / 3))).is_ok());
        assert_eq!(Query::parse(Some(&"|".repeat(MAX_QUERY_BYTES / 3 + 1))), Err(QueryError::TooLong));
    }

    #[test]
    fn every_value_must_pass_to_allow_and_any_to_deny() {
        let query = Query::parse(Some("state=open&state=closed&x=1")).unwrap();
        assert!(!query.every("state", |v| v == "open"));
        assert!(query.any("state", |v| v == "closed"));
        assert!(query.every("x", |v| v == "1"));
        assert!(!query.every("missing", |_| true));
        assert!(!query.any("missing", |_| true));
    }

    #[test]
    fn a_name_in_another_spelling_denies_and_never_allows() {
        for other in [
            "Draft",
            "DRAFT",
            "%20draft",
            "draft%20",
            "+draft",
            "draft[]",
            "draft[a]",
            "draft%5B%5D",
            "Draft[0][b]",
            "[draft]",
            "[draft",
            "[[draft]]",
            "]draft",
            "draft]",
            "+[Draft][a]",
            "%5Bdraft",
        ] {
            let query = Query::parse(Some(&format!("draft=true&{other}=false"))).unwrap();
            assert!(query.any("draft", |v| v == "false"), "{other}");
            assert!(!query.every("draft", |v| v == "true"), "{other}");
            let alone = Query::parse(Some(&format!("{other}=true"))).unwrap();
            assert!(alone.any("draft", |v| v == "true") && !alone.every("draft", |v| v == "true"), "{other}");
        }
        let query = Query::parse(Some("my.name=1&drafts=2&xdraft=3&draf[t]=4")).unwrap();
        assert!(query.any("my_name", |v| v == "1") && !query.any("draft", |_| true));
        for other in ["my[name", "my%5Bname", "My[Name", "my+name", "[my_name", "[my.name]"] {
            let query = Query::parse(Some(&format!("my_name=1&{other}=2"))).unwrap();
            assert!(query.any("my_name", |v| v == "2") && !query.every("my_name", |v| v == "1"), "{other}");
        }
        assert!(!Query::parse(Some("[]=1&][=2&[a[draft]=3")).unwrap().any("draft", |_| true));
        let exact = Query::parse(Some("filter[a]=1")).unwrap();
        assert!(exact.every("filter[a]", |v| v == "1") && !exact.any("filter[b]", |_| true));
    }

    #[test]
    fn plus_is_read_both_ways() {
        let query = Query::parse(Some("q=a+b")).unwrap();
        assert!(query.any("q", |v| v == "a b") && query.any("q", |v| v == "a+b"));
        assert!(!query.every("q", |v| v == "a b") && !query.every("q", |v| v == "a+b"));
        let query = Query::parse(Some("my+name=1")).unwrap();
        assert!(query.any("my name", |_| true) && query.any("my+name", |_| true));
        assert!(!query.every("my name", |_| true));
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_a_fixed_point(raw in "(&|=|;|a|%41|%2b|\\+|%26|%3d|%c3%a9|/|\\?){0,24}") {
            let query = Query::parse(Some(&raw)).unwrap();
            let again = Query::parse(query.as_str()).unwrap();
            prop_assert_eq!(again, query);
        }

        #[test]
        fn no_input_panics(raw in ".{0,64}") {
            let _ = Query::parse(Some(&raw));
        }
    }
}
