//! How much of a value's beginning is no secret, or may be found out without being counted as a guess.
//!
//! Every key of a provider begins alike, and a text that begins so is no guess ([`guesses`](crate::guesses)).
//! The few bytes that follow occur in ordinary texts by chance, the more often the fewer they are. Says how
//! many, and never which.

use crate::formats::FORMATS;

/// Beginnings that all keys of a kind share, beyond what marks a format.
const LONGER: &[&[u8]] = &[
    b"https://",
    b"http://",
    b"sk-ant-api03-",
    b"sk-ant-oat01-",
    b"sk-ant-ort01-",
    b"sk-ant-admin01-",
    b"github_pat_11",
    b"pypi-AgEIcHlwaS5vcmc",
    // Session tokens of AWS.
    b"FwoGZXIvYXdzE",
    b"IQoJb3JpZ2luX2Vj",
];
/// Of the bytes behind the public beginning one in so many may be found out, but no fewer than [`LEAST`] and
/// no more than [`MOST`].
const PART: usize = 4;
/// Fewer bytes than this occur in any text.
pub(crate) const LEAST: usize = 4;
/// So many random bytes occur in no text by chance: one place in 2^48, of an alphabet of 64.
pub(crate) const MOST: usize = 8;
/// Least length of the secret part of a value, in bytes; a shorter part may not be the secret one.
const SECRET_PART: usize = 16;

/// How many of a value's first bytes may be found out without being counted as a guess.
pub(crate) fn told(value: &[u8]) -> usize {
    let public = public(value);
    public + ((value.len() - public) / PART).clamp(LEAST, MOST)
}

/// How many of a value's first bytes are no secret.
pub(crate) fn public(value: &[u8]) -> usize {
    let listed = FORMATS.iter().flat_map(|format| format.prefixes).chain(LONGER);
    let prefix = listed.filter(|prefix| value.starts_with(prefix)).map(|prefix| prefix.len()).max();
    let shaped = [signed(value), numbered(value), addressed(value)].into_iter();
    let shaped = shaped.filter(|public| value.len() - public >= SECRET_PART);
    shaped.chain(prefix).max().unwrap_or(0)
}

/// For a JWT all but its signature: every token of a server begins with the same head, and claims are no
/// secret.
fn signed(value: &[u8]) -> usize {
    let dots = value.iter().filter(|byte| **byte == b'.').count();
    if value.starts_with(b"eyJ") && dots == 2 { up_to_last(b'.', value) } else { 0 }
}

/// A number and its colon at the front: the number is an account's (a Telegram bot's).
fn numbered(value: &[u8]) -> usize {
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let behind = value.get(digits..).unwrap_or_default();
    match digits > 0 && behind.starts_with(b":") {
        true => digits + if behind.starts_with(b":AA") { 3 } else { 1 },
        false => 0,
    }
}

/// For an address (a webhook's) all but its last part, which is the secret.
fn addressed(value: &[u8]) -> usize {
    let is_one = value.starts_with(b"https://") || value.starts_with(b"http://");
    if is_one { up_to_last(b'/', value) } else { 0 }
}

fn up_to_last(mark: u8, value: &[u8]) -> usize {
    value.iter().rposition(|byte| *byte == mark).map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_keys_of_a_kind_share_is_no_secret() {
        for (value, public) in [
            ("ghp_0123456789abcdefghijklmnopqrstuvwxyz", "ghp_"),
            ("sk-ant-api03-0123456789abcdefghijklmnopqrstuvwxyz", "sk-ant-api03-"),
            ("sk-proj-0123456789abcdefghijklmnopqrstuvwxyz", "sk-proj-"),
            ("xoxb-0123456789-abcdefghijklmnopqrstuvwxyz", "xoxb-"),
            (
                "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.0123456789abcdefghijklmnopqrstuv",
                "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.",
            ),
            ("123456789:AAabcdefghijklmnopqrstuvwxyz0123456", "123456789:AA"),
            (
                "https://hooks.slack.com/services/T0/B0/abcdefghijklmnopqrstuvwxyz0123456",
                "https://hooks.slack.com/services/T0/B0/",
            ),
            ("0123456789abcdefghijklmnopqrstuvwxyz", ""),
            ("correct horse battery staple, and more", ""),
            ("https://somebody:a-long-password@example.com/db", "https://"),
        ] {
            assert_eq!(super::public(value.as_bytes()), public.len(), "{value}");
            assert_eq!(told(value.as_bytes()), public.len() + MOST, "{value}");
        }
    }

    #[test]
    fn of_a_short_value_less_is_told() {
        for (length, least) in [(8, 4), (16, 4), (20, 5), (31, 7), (32, 8), (4096, 8)] {
            assert_eq!(told(&vec![b'x'; length]), least, "{length}");
        }
        for odd in ["", "a", "ghp_", "https://", "eyJ..", "1:", "://", "Bearer "] {
            assert!(told(odd.as_bytes()) >= LEAST, "{odd}");
        }
    }
}
