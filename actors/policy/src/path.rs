//! The canonical path: the form in which a request's path is judged, and in which it is then sent.
//!
//! The steps have a fixed order, with one decoding: percent-decode, refuse what two parsers could read in two
//! ways, strip `;params`, collapse `//`, resolve dot segments, encode again with upper-case hex. The output
//! is a fixed point: parsing it again gives the same path. Only [`CanonicalPath::parse`] makes values of the
//! type.

use std::fmt;
use std::sync::Arc;

use crate::bare::bare;

/// Longest path accepted, in bytes as sent. Servers commonly stop at 8 KiB for the whole request line.
pub const MAX_PATH_BYTES: usize = 8 * 1024;

/// The options that an endpoint sets for its paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct PathOptions {
    /// Keep `%2F` inside a segment instead of refusing it (npm's scoped packages need it).
    pub allow_encoded_slash: bool,
}

/// Why a path has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Over [`MAX_PATH_BYTES`].
    #[error("the path is longer than {MAX_PATH_BYTES} bytes")]
    TooLong,
    /// Doesn't begin with `/`.
    #[error("the path doesn't begin with `/`")]
    NotAbsolute,
    /// A raw byte that no path may hold: control, space, non-ASCII, `#`, `?`.
    #[error("the path has a raw byte {0:#04x}")]
    Byte(u8),
    /// A backslash, raw or encoded: some servers read it as `/`.
    #[error("the path has a backslash")]
    Backslash,
    /// `%` without two hex digits.
    #[error("the path has a `%` that two hex digits don't follow")]
    Escape,
    /// An encoded control character.
    #[error("the path has an encoded control character")]
    Control,
    /// The decoded path is not UTF-8 (overlong forms are not UTF-8).
    #[error("the decoded path is not valid UTF-8")]
    Utf8,
    /// `%2F` where the endpoint doesn't allow it.
    #[error("the path has an encoded slash, which this endpoint doesn't allow (allow_encoded_slash)")]
    EncodedSlash,
    /// `%3B`: one server sees data, another the start of parameters.
    #[error("the path has an encoded semicolon")]
    EncodedSemicolon,
    /// A second layer of encoding over a byte that matters (`%252e`).
    #[error("the path is percent-encoded twice")]
    DoubleEncoding,
    /// `..` that leaves the root, or a dot segment behind an encoded slash.
    #[error("the path climbs above its root")]
    AboveRoot,
}

/// A path in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CanonicalPath {
    text: Arc<str>,
    /// The path with `/` in place of each `%2F`, if it has any.
    slashes: Option<Arc<str>>,
    /// See [`CanonicalPath::leniently`]; `None` where that is the same text.
    lenient: Option<Arc<str>>,
    /// See [`CanonicalPath::without_ends`]; `None` where that is the same text.
    trimmed: Option<Arc<str>>,
    /// See [`CanonicalPath::barely`], where that is another text.
    bare: Option<Arc<str>>,
}

impl CanonicalPath {
    /// Canonicalises the path of a request target (without `?` and query). An empty path is `/`.
    ///
    /// # Errors
    /// A [`PathError`] for every form that two parsers could read differently.
    pub fn parse(raw: &str, options: PathOptions) -> Result<Self, PathError> {
        if raw.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        if raw.is_empty() {
            return Ok(Self {
                text: Arc::from("/"),
                slashes: None,
                lenient: None,
                trimmed: None,
                bare: None,
            });
        }
        let body = raw.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
        check_raw(raw)?;

        let mut kept: Vec<String> = Vec::new();
        let mut trailing = false;
        for piece in body.split('/') {
            // `;params` are stripped before dot segments are resolved: `..;x` is `..` to many servers.
            let piece = piece.split(';').next().unwrap_or_default();
            let decoded = decode(piece)?;
            trailing = false;
            match decoded.as_str() {
                // `""` is the end of `/a/`, or `//` in the middle.
                "" | "." => trailing = true,
                ".." => {
                    kept.pop().ok_or(PathError::AboveRoot)?;
                    trailing = true;
                }
                segment => {
                    if segment.contains('/') {
                        check_encoded_slash(segment, options)?;
                    }
                    kept.push(encode(segment));
                }
            }
        }

        let mut text = String::with_capacity(raw.len());
        for segment in &kept {
            text.push('/');
            text.push_str(segment);
        }
        if trailing || kept.is_empty() {
            text.push('/');
        }
        // Escaping may have made the path longer.
        if text.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        // A `%2F` in the text can only be an encoded slash: a literal `%` in a segment is `%25` here.
        let slashes = text.contains("%2F").then(|| Arc::from(text.replace("%2F", "/")));
        let lenient: Option<Arc<str>> = lenient(&text).map(Arc::from);
        let reading: &str = lenient.as_deref().unwrap_or(&text);
        let bare = bare(reading).map(|bare| trimmed(&bare).unwrap_or(bare)).map(Arc::from);
        let trimmed = trimmed(reading).map(Arc::from);
        Ok(Self { text: Arc::from(text), slashes, lenient, trimmed, bare })
    }

    /// The path as it is judged and sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same text as [`Self::as_str`], shared.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    /// Whether the path holds a `%2F`; only endpoints that allow it then serve the path.
    #[must_use]
    pub fn has_encoded_slash(&self) -> bool {
        self.slashes.is_some()
    }

    /// The path as the most lenient server reads it: `%2F` as `/`, double escapes undone, and letters in any
    /// case (lower case here). A slash at the end is kept; the caller strips it to compare. `None` where this
    /// is the path itself.
    #[must_use]
    pub fn leniently(&self) -> Option<&str> {
        self.lenient.as_deref()
    }

    /// The path as a lenient server on Windows reads it: the lenient reading, without dots and spaces at the
    /// end of each name. `None` where that makes no difference.
    #[must_use]
    pub fn without_ends(&self) -> Option<&str> {
        self.trimmed.as_deref()
    }

    /// What is left for a server that reads a name on NTFS without its stream (`::$DATA`), folds letters
    /// beyond ASCII into it, or passes over characters that nobody sees. None where that makes no difference.
    #[must_use]
    pub fn barely(&self) -> Option<&str> {
        self.bare.as_deref()
    }

    /// What a server reads that takes `%2F` for `/`, where that makes a difference. No dot segment and no
    /// empty one is in it.
    #[must_use]
    pub fn with_slashes(&self) -> Option<&str> {
        self.slashes.as_deref()
    }
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// See [`CanonicalPath::leniently`]. Takes a canonical path, or a pattern's canonical text. `None` where the
/// result is the same text, as for most.
pub(crate) fn lenient(canonical: &str) -> Option<String> {
    if !canonical.contains("%2") && !canonical.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let text = canonical.replace("%2F", "/");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    // `%2572` decodes to `%72`, and that to `r`. Double escapes of a separator or a dot were refused before.
    while let Some((before, after)) = rest.split_once("%25") {
        out.push_str(before);
        let value = match after.as_bytes() {
            [high, low, ..] => hex_digit(*high).zip(hex_digit(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        match value.filter(|value| stands_raw(*value)) {
            Some(value) => {
                out.push(char::from(value));
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push_str("%25");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out.make_ascii_lowercase();
    (out != canonical).then_some(out)
}

/// See [`CanonicalPath::without_ends`]. Takes a lenient reading. A name of nothing but dots and spaces stays.
fn trimmed(reading: &str) -> Option<String> {
    let bare = |segment: &'_ str| {
        let mut end = segment.len();
        while let Some(rest) = segment.get(..end) {
            let Some(shorter) = rest.strip_suffix('.').or_else(|| rest.strip_suffix("%20")) else { break };
            end = shorter.len();
        }
        if end == 0 { segment.len() } else { end }
    };
    if !reading.split('/').any(|segment| bare(segment) < segment.len()) {
        return None;
    }
    let names: Vec<&str> =
        reading.split('/').map(|segment| segment.get(..bare(segment)).unwrap_or_default()).collect();
    Some(names.join("/"))
}

fn check_raw(raw: &str) -> Result<(), PathError> {
    for byte in raw.bytes() {
        match byte {
            b'\\' => return Err(PathError::Backslash),
            b'#' | b'?' => return Err(PathError::Byte(byte)),
            0x21..=0x7e => {}
            other => return Err(PathError::Byte(other)),
        }
    }
    Ok(())
}

/// Percent-decodes one segment, once.
fn decode(segment: &str) -> Result<String, PathError> {
    let mut out = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = bytes.next().and_then(hex_digit).ok_or(PathError::Escape)?;
        let low = bytes.next().and_then(hex_digit).ok_or(PathError::Escape)?;
        let value = high << 4 | low;
        match value {
            b'\\' => return Err(PathError::Backslash),
            b';' => return Err(PathError::EncodedSemicolon),
            _ => out.push(value),
        }
    }
    let text = String::from_utf8(out).map_err(|_| PathError::Utf8)?;
    if text.chars().any(char::is_control) {
        return Err(PathError::Control);
    }
    if still_encoded(&text) {
        return Err(PathError::DoubleEncoding);
    }
    Ok(text)
}

/// Whether a decoded segment would change its meaning if a careless server decoded it once more.
fn still_encoded(decoded: &str) -> bool {
    decoded.as_bytes().windows(3).any(|w| match w {
        [b'%', h, l] => match (hex_digit(*h), hex_digit(*l)) {
            (Some(h), Some(l)) => {
                let value = h << 4 | l;
                matches!(value, b'.' | b'/' | b'\\' | b';' | b'%' | 0x7f) || value < 0x20
            }
            _ => false,
        },
        _ => false,
    })
}

/// Checks a segment that holds an encoded slash: the endpoint must allow it, and it must hide no dot segment.
fn check_encoded_slash(segment: &str, options: PathOptions) -> Result<(), PathError> {
    if !options.allow_encoded_slash {
        return Err(PathError::EncodedSlash);
    }
    if segment.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(PathError::AboveRoot);
    }
    Ok(())
}

/// Encodes a decoded segment: RFC 3986 `pchar` is written raw (but for `;`, which never gets here), all else
/// as `%XX`.
pub(crate) fn encode(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if stands_raw(byte) {
            out.push(char::from(byte));
        } else {
            push_escape(&mut out, byte);
        }
    }
    out
}

/// Bytes that stand for themselves in a canonical path segment.
pub(crate) fn stands_raw(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte)
}

/// Appends a byte as `%XX` in upper case.
pub(crate) fn push_escape(out: &mut String, byte: u8) {
    let digit = |nibble: u8| char::from(if nibble < 10 { b'0' + nibble } else { b'A' + (nibble - 10) });
    out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
}

/// The value of a hex digit of either case.
pub(crate) fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STRICT: PathOptions = PathOptions { allow_encoded_slash: false };
    const SLASH: PathOptions = PathOptions { allow_encoded_slash: true };

    fn canonical(raw: &str) -> String {
        CanonicalPath::parse(raw, STRICT).unwrap().as_str().to_owned()
    }

    #[test]
    fn canonical_forms() {
        for (raw, expected) in [
            ("", "/"),
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/a/b/../..", "/"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/..;x=1/b", "/b"),
            ("/a/%2E%2e;x/b", "/b"),
            ("/a;v=1/b;w", "/a/b"),
            ("/;x/a", "/a"),
            ("/%7euser/%41", "/~user/A"),
            ("/a%20b/%c3%a9", "/a%20b/%C3%A9"),
            ("/@scope/x", "/@scope/x"),
            ("/%40scope/x", "/@scope/x"),
            ("/a|b{c}", "/a%7Cb%7Bc%7D"),
            ("/100%25.txt", "/100%25.txt"),
            ("/a%2520b", "/a%2520b"),
            ("/...", "/..."),
        ] {
            assert_eq!(canonical(raw), expected, "{raw}");
        }
    }

    #[test]
    fn ambiguous_forms_are_refused() {
        for (raw, why) in [
            ("a/b", PathError::NotAbsolute),
            ("*", PathError::NotAbsolute),
            ("/..", PathError::AboveRoot),
            ("/a/../..", PathError::AboveRoot),
            ("/%2e%2e/", PathError::AboveRoot),
            ("/..;/a", PathError::AboveRoot),
            ("/a\\..\\b", PathError::Backslash),
            ("/a%5c..%5Cb", PathError::Backslash),
            ("/a%2fb", PathError::EncodedSlash),
            ("/a/..%2fb", PathError::EncodedSlash),
            ("/a%3bx/b", PathError::EncodedSemicolon),
            ("/a%00", PathError::Control),
            ("/a%0d%0aX", PathError::Control),
            ("/a%7f", PathError::Control),
            ("/a%c2%85", PathError::Control),
            ("/a\u{7f}", PathError::Byte(0x7f)),
            ("/a b", PathError::Byte(b' ')),
            ("/é", PathError::Byte(0xc3)),
            ("/a#b", PathError::Byte(b'#')),
            ("/a?b", PathError::Byte(b'?')),
            ("/a%c0%ae%c0%ae/", PathError::Utf8),
            ("/a%ff", PathError::Utf8),
            ("/a%", PathError::Escape),
            ("/a%2", PathError::Escape),
            ("/a%zz", PathError::Escape),
            ("/%252e%252e/a", PathError::DoubleEncoding),
            ("/a%252fb", PathError::DoubleEncoding),
            ("/a%25252fb", PathError::DoubleEncoding),
        ] {
            assert_eq!(CanonicalPath::parse(raw, STRICT), Err(why), "{raw}");
        }
        let long = format!("/{}", "a".repeat(MAX_PATH_BYTES));
        assert_eq!(CanonicalPath::parse(&long, STRICT), Err(PathError::TooLong));
        let longer_as_sent = format!("/{}", "|".repeat(MAX_PATH_BYTES / 3));
        assert!(CanonicalPath::parse(&longer_as_sent, STRICT).is_ok());
        assert_eq!(CanonicalPath::parse(&format!("{longer_as_sent}||"), STRICT), Err(PathError::TooLong));
    }

    #[test]
    fn an_encoded_slash_stays_one_where_allowed_and_hides_no_dots() {
        let path = CanonicalPath::parse("/@scope%2fname", SLASH).unwrap();
        assert_eq!(path.as_str(), "/@scope%2Fname");
        assert!(path.has_encoded_slash());
        assert_eq!(path.with_slashes(), Some(path.as_str().replace("%2F", "/").as_str()));
        for raw in ["/a%2f..%2fb", "/..%2fa", "/a%2f", "/a%2f%2fb", "/a%2f.%2fb"] {
            assert_eq!(CanonicalPath::parse(raw, SLASH), Err(PathError::AboveRoot), "{raw}");
        }
        // A segment that `..` removes leaves no trace.
        assert!(!CanonicalPath::parse("/a%2fb/../c", SLASH).unwrap().has_encoded_slash());
    }

    #[test]
    fn names_lose_their_ends_where_windows_reads_them() {
        for (raw, read) in [
            ("/a/b", None),
            ("/a.b/.c", None),
            ("/.../%20/a", None),
            ("/a.", Some("/a")),
            ("/a%20", Some("/a")),
            ("/a.%20../b%20/", Some("/a/b/")),
            ("/A./B", Some("/a/b")),
            ("/a.%2fb%20", Some("/a/b")),
            ("/a%252e", None),
        ] {
            let path = CanonicalPath::parse(raw, SLASH);
            assert_eq!(path.as_ref().ok().and_then(CanonicalPath::without_ends), read, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_a_fixed_point(raw in "(/|\\.|%2e|%2E|%2f|;|a|%41|%25|%c3%a9|~|@|2e){0,24}", slash: bool) {
            let options = PathOptions { allow_encoded_slash: slash };
            if let Ok(path) = CanonicalPath::parse(&format!("/{raw}"), options) {
                let again = CanonicalPath::parse(path.as_str(), options);
                prop_assert_eq!(again.as_ref().map(CanonicalPath::as_str), Ok(path.as_str()));
                prop_assert!(!path.as_str().split('/').any(|s| s == "." || s == ".."));
                prop_assert!(!path.as_str().contains("//"));
                prop_assert!(!path.as_str().contains(';'));
            }
        }

        #[test]
        fn no_input_panics(raw in ".{0,64}", slash: bool) {
            let _ = CanonicalPath::parse(&raw, PathOptions { allow_encoded_slash: slash });
        }
    }
}
