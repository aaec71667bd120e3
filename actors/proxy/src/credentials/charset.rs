//! The character sets in which an answer can be searched: those that write ASCII as ASCII, and UTF-16, which
//! the search knows.
//!
//! In UTF-7, UTF-32 or EBCDIC a value has other bytes, and some servers write in whatever set is asked for.
//! Nothing here converts anything, or guesses at the set of an answer that doesn't name one.

use http::{HeaderMap, HeaderValue, header};
use redactor::charset::{is_named_in, named_in};

/// Sets that can be searched, by name. Those of East Asia write ASCII as it is; that later bytes of their
/// other characters may look like ASCII can only lead to more finds.
const CLEAR: [&str; 32] = [
    "ascii",
    "ansi_x3.4-1968",
    "big5",
    "binary",
    "big5-hkscs",
    "cp949",
    "cp936",
    "euc-jp",
    "euc-kr",
    "gb18030",
    "gb2312",
    "gbk",
    "koi8-r",
    "koi8-u",
    "latin1",
    "latin-1",
    "macintosh",
    "ms949",
    "shift-jis",
    "shift_jis",
    "sjis",
    "tis-620",
    "us-ascii",
    "utf-16",
    "utf-16be",
    "utf-16le",
    "utf-8",
    "utf16",
    "utf8",
    "windows-31j",
    "windows-874",
    "x-sjis",
];
/// Families of sets, by how their names begin; a number follows.
const FAMILIES: [&str; 6] = ["cp125", "iso-8859-", "iso8859-", "iso_8859-", "windows-125", "x-cp125"];

/// Removes character sets from `Accept`: each parameter in which the word `charset` stands anywhere, since
/// readers differ on quotes.
pub(super) fn ask_for_none(headers: &mut HeaderMap) {
    let header::Entry::Occupied(mut accept) = headers.entry(header::ACCEPT) else { return };
    if !accept.iter().any(|value| is_named_in(value.as_bytes())) {
        return;
    }
    let kept: Vec<Vec<u8>> = accept.iter().map(|value| without(value.as_bytes())).collect();
    let kept = kept.join(&b", "[..]);
    // If nothing is left, the field is removed: without it any kind is asked for.
    match HeaderValue::from_bytes(&kept) {
        Ok(kept) if !kept.is_empty() => {
            accept.insert(kept);
        }
        _ => {
            accept.remove();
        }
    }
}

/// Whether an answer can be searched in every character set that it names, if it names any.
pub(super) fn is_clear(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_TYPE).iter().all(|value| named_in(value.as_bytes()).all(is_known))
}

/// A value of `Accept` without the parts between separators that name a set.
fn without(value: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(value.len());
    for part in value.split_inclusive(|byte| matches!(byte, b',' | b';')) {
        match part {
            part if !is_named_in(part) => kept.extend_from_slice(part),
            // The separator before this part is replaced by the one behind it.
            [.., last @ (b',' | b';')] => {
                kept.pop();
                kept.push(*last);
            }
            _ => {
                kept.pop();
            }
        }
    }
    kept
}

/// Whether answers in this set can be searched. An empty name (`charset=`) names no set.
fn is_known(name: &[u8]) -> bool {
    let of_family = |family: &&str| {
        let number =
            name.get(family.len()..).is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit));
        number
            && name.get(..family.len()).is_some_and(|begins| begins.eq_ignore_ascii_case(family.as_bytes()))
    };
    name.is_empty()
        || CLEAR.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes()))
        || FAMILIES.iter().any(of_family)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use proptest::prelude::*;

    use super::*;

    fn of(name: HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn asked(values: &[&str]) -> Vec<String> {
        let mut headers = of(header::ACCEPT, values);
        ask_for_none(&mut headers);
        headers.get_all(header::ACCEPT).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn no_set_is_asked_for() {
        for (said, left) in [
            ("text/html;charset=utf-7", "text/html"),
            ("text/html; Charset = \"UTF-7\" ;q=0.5, */*", "text/html;q=0.5, */*"),
            ("text/html;charset=utf-7, application/json;q=1", "text/html, application/json;q=1"),
            ("a/b;v=\"x;charset=utf-7\";w=1", "a/b;v=\"x;w=1"),
            ("a/b;xcharset*=utf-7''", "a/b"),
            ("application/json;version=2;q=0.9", "application/json;version=2;q=0.9"),
        ] {
            assert_eq!(asked(&[said]), [left], "{said}");
        }
        assert_eq!(asked(&["a/b", "c/d;charset=utf-7"]), ["a/b, c/d"]);
        assert_eq!(asked(&["a/b", "c/d"]), ["a/b", "c/d"]);
        assert!(asked(&["charset=utf-7"]).is_empty());
    }

    #[test]
    fn sets_that_hide_ascii_are_not_clear() {
        for (said, clear) in [
            ("application/json", true),
            ("text/html; charset=utf-8", true),
            ("text/html;CHARSET=\"UTF-8\"", true),
            ("text/html; charset='ISO-8859-15'", true),
            ("text/html; charset = windows-1252 ; x=y", true),
            ("text/html; charset=utf-16le", true),
            ("text/html; charset=gb18030", true),
            ("text/html; charset=", true),
            ("text/html; charset=utf-7", false),
            ("text/html; charset=utf-32", false),
            ("text/html; charset=\"utf-7\"", false),
            ("text/html; charset=utf-8; charset=utf-7", false),
            ("text/html; charset=utf-8, text/html; charset=cp037", false),
            ("text/html; charset*=''utf-7", false),
            ("text/html; x=\"; charset=utf-7", false),
            ("text/html; charset=ibm500", false),
            ("text/html; charset=iso-2022-jp", false),
            ("text/html; charset=iso-8859-", false),
            ("text/html; charset=utf-8\u{a0}", false),
        ] {
            let headers: HeaderMap =
                [(header::CONTENT_TYPE, HeaderValue::from_bytes(said.as_bytes()).unwrap())]
                    .into_iter()
                    .collect();
            assert_eq!(is_clear(&headers), clear, "{said}");
        }
        assert!(is_clear(&HeaderMap::new()));
        assert!(!is_clear(&of(header::CONTENT_TYPE, &["a/b", "a/b; charset=utf-7"])));
    }

    proptest! {
        #[test]
        fn nothing_that_is_asked_names_a_set(said in "(a/b|charset|Charset|=|utf-7|\"|;|,| ){0,16}") {
            prop_assert!(asked(&[&said]).iter().all(|left| !left.to_lowercase().contains("charset")));
        }
    }
}
