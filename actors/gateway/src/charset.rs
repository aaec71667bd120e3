//! The character sets in which an answer can be searched for the key: those that write ASCII as ASCII, and
//! UTF-16, which the search knows.
//!
//! In UTF-7, UTF-32 or EBCDIC a key has other bytes. None is asked for ([`headers`](crate::headers)), and an
//! answer that names another isn't passed on. Never here: a guess at the set of one that names none.

use http::{HeaderMap, header};
use redactor::charset;

const CLEAR: [&str; 8] = ["ascii", "latin1", "us-ascii", "utf-16", "utf-16be", "utf-16le", "utf-8", "utf8"];
/// Families of sets, by how their names begin; a number follows.
const FAMILIES: [&str; 2] = ["iso-8859-", "windows-125"];

/// Whether an answer can be searched in every set that its type names, to whichever reader.
pub(crate) fn is_clear(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    types.all(|value| charset::named_in(value.as_bytes()).all(is_known))
}

/// An empty name (`charset=`) names no set.
fn is_known(name: &[u8]) -> bool {
    let of_family = |family: &&str| {
        let (begin, number) = name.split_at_checked(family.len()).unwrap_or_default();
        begin.eq_ignore_ascii_case(family.as_bytes())
            && !number.is_empty()
            && number.iter().all(u8::is_ascii_digit)
    };
    name.is_empty()
        || CLEAR.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes()))
        || FAMILIES.iter().any(of_family)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(values: &[&str]) -> bool {
        let value = |value: &&str| (header::CONTENT_TYPE, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        is_clear(&values.iter().map(value).collect())
    }

    #[test]
    fn sets_that_hide_a_key_are_not_clear() {
        for (said, clear) in [
            ("application/json", true),
            ("text/event-stream; charset=utf-8", true),
            ("application/json;CHARSET=\"UTF-8\"", true),
            ("application/json; charset='ISO-8859-15'", true),
            ("application/json; charset = windows-1252 ; x=y", true),
            ("application/json; charset=utf-16le", true),
            ("application/json; charset=", true),
            ("application/json; charset=utf-7", false),
            ("application/json; charset=utf-32", false),
            ("application/json; charset=\"utf-32\"", false),
            ("application/json; charset=utf-8; charset=utf-32", false),
            ("application/json; charset=utf-8, text/html; charset=cp037", false),
            ("application/json; charset*=''utf-7", false),
            ("application/json; x=\"; charset=utf-7", false),
            ("application/json; charset=iso-8859-", false),
            ("application/json; charset=iso-8859-1x", false),
            ("application/json; charset=utf-8\u{a0}", false),
            ("application/json; charset=utf\\-8", false),
        ] {
            assert_eq!(of(&[said]), clear, "{said}");
        }
        assert!(of(&[]) && !of(&["a/b", "a/b; charset=utf-32"]));
    }
}
