//! The character sets that a `Content-Type` names, as any reader may find them in it.
//!
//! Which of them can be searched is for each caller to say. Nothing here converts anything, or guesses at the
//! set of an answer that doesn't name one.

/// The parameter that names a character set, in `Accept` and in `Content-Type`.
const PARAMETER: &[u8] = b"charset";

/// Whether the parameter's name stands anywhere in a field's value.
#[must_use]
pub fn is_named_in(value: &[u8]) -> bool {
    starts(value).next().is_some()
}

/// Every set that some reader of a `Content-Type` finds in it, without quotes; readers differ on these, on
/// spaces, and on whether `charset*` (RFC 8187) is one. An empty name (`charset=`) names no set.
pub fn named_in(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    starts(value).map(|at| {
        let rest = value.get(at + PARAMETER.len()..).unwrap_or_default();
        let behind = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'*' | b'=' | b'"' | b'\''));
        let rest = behind.and_then(|from| rest.get(from..)).unwrap_or_default();
        let end = rest.iter().position(|byte| matches!(byte, b' ' | b'\t' | b';' | b',' | b'"' | b'\''));
        end.and_then(|end| rest.get(..end)).unwrap_or(rest)
    })
}

/// Where the parameter's name stands in a field's value.
fn starts(value: &[u8]) -> impl Iterator<Item = usize> {
    let words = value.windows(PARAMETER.len()).enumerate();
    words.filter(|(_, word)| word.eq_ignore_ascii_case(PARAMETER)).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_that_a_reader_may_find_is_named() {
        for (value, sets) in [
            ("application/json", &[][..]),
            ("text/html; charset=utf-8", &["utf-8"]),
            ("text/html;CHARSET = \"UTF-8\" ; x=y", &["UTF-8"]),
            ("a/b; charset=utf-8, c/d; charset=cp037", &["utf-8", "cp037"]),
            ("a/b; charset*=''utf-7", &["utf-7"]),
            ("a/b; x=\"; charset=utf-7", &["utf-7"]),
            ("a/b; charset=", &[""]),
            ("a/b; charset", &[""]),
        ] {
            let found: Vec<&[u8]> = named_in(value.as_bytes()).collect();
            assert_eq!(found, sets.iter().map(|set| set.as_bytes()).collect::<Vec<_>>(), "{value}");
            assert_eq!(is_named_in(value.as_bytes()), !sets.is_empty(), "{value}");
        }
    }
}
