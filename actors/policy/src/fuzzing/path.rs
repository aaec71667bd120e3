//! A canonical path or query is a fixed point, holds nothing that two servers could read differently, and
//! means the same to a server as the original.

use crate::{CanonicalPath, PathOptions, Query};

/// The property. The first byte's lowest bit is `allow_encoded_slash`; the rest is the target of a request
/// line.
pub fn holds(bytes: &[u8]) {
    let Some((choice, raw)) = bytes.split_first() else { return };
    let Ok(target) = std::str::from_utf8(raw) else { return };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    path_holds(path, PathOptions { allow_encoded_slash: choice & 1 == 1 });
    query_holds(query);
}

fn path_holds(raw: &str, options: PathOptions) {
    let Ok(path) = CanonicalPath::parse(raw, options) else { return };
    let text = path.as_str();
    assert_eq!(CanonicalPath::parse(text, options).as_ref(), Ok(&path), "a fixed point");
    assert!(text.starts_with('/') && !text.contains("//"), "{text}");
    let plain = |b: u8| b.is_ascii_graphic() && !b"\\;?#\"<>^`{|}".contains(&b);
    assert!(text.bytes().all(plain), "{text}");
    assert!(path.has_encoded_slash() == text.contains("%2F"), "{text}");
    assert!(options.allow_encoded_slash || !path.has_encoded_slash(), "{text}");
    escapes_are_canonical(text);
    let decoded = String::from_utf8(decode(text)).unwrap();
    assert!(!decoded.contains(|c: char| c.is_control() || c == '\\' || c == ';'), "{decoded}");
    // A server that decodes once more sees no dot segments either.
    let twice = String::from_utf8_lossy(&decode(&decoded)).into_owned();
    for text in [&decoded, &twice] {
        assert!(!text.split(['/', '\\']).any(|segment| segment == "." || segment == ".."), "{text}");
    }
    assert_eq!(served(raw), served(text), "what a server makes of it");
}

fn query_holds(raw: Option<&str>) {
    let Ok(query) = Query::parse(raw) else { return };
    assert_eq!(Query::parse(query.as_str()).as_ref(), Ok(&query), "a fixed point");
    let (Some(raw), Some(text)) = (raw, query.as_str()) else {
        assert!(raw.is_none() && query.as_str().is_none());
        return;
    };
    assert!(text.bytes().all(|b| b.is_ascii_graphic() && !b"\\;#".contains(&b)), "{text}");
    escapes_are_canonical(text);
    assert_eq!(parameters(raw), parameters(text), "what a server makes of it");
}

/// Every `%` has two digits in upper case, and no letter, digit or sign that never needs it is escaped.
fn escapes_are_canonical(text: &str) {
    for escape in text.split('%').skip(1) {
        let digits = escape.get(..2).unwrap();
        assert!(digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')), "{text}");
        let byte = u8::from_str_radix(digits, 16).unwrap();
        assert!(byte != 0 && !(byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)), "{text}");
    }
}

/// The segments that an ordinary server sees (parameters removed, decoded once, dot segments resolved, empty
/// ones dropped), and whether the path ends in a slash.
fn served(path: &str) -> (Vec<Vec<u8>>, bool) {
    let (mut kept, mut open) = (Vec::new(), true);
    for piece in path.split('/') {
        let segment = decode(piece.split(';').next().unwrap_or_default());
        open = matches!(&*segment, b"" | b"." | b"..");
        match &*segment {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    (kept, open)
}

/// Names and values that an ordinary server sees, in order.
fn parameters(query: &str) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let one = |part: &str| match part.split_once('=') {
        Some((name, value)) => (decode(name), Some(decode(value))),
        None => (decode(part), None),
    };
    query.split('&').map(one).collect()
}

/// Percent-decodes leniently: what isn't a valid escape stays as it is.
fn decode(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                std::str::from_utf8(&rest[1..3]).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok())
            }
            _ => None,
        };
        out.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &rest[3..] } else { more };
    }
    out
}
