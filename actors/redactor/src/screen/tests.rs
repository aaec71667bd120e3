//! Text is searched as it comes: what could be a secret waits, everything else passes.

use base64::{Engine as _, engine::general_purpose};
use proptest::prelude::*;

use super::*;
use crate::guesses::Guesses;

const WORDS: &[u8] = b"[REDACTED:key]";

fn screen(key: &str, mask: Mask) -> Screen {
    Screen::new([&Secret::from(key)], mask).unwrap()
}

/// A party that has guessed nothing.
fn guesser() -> Guesser {
    Guesses::default().of(0, || {})
}

fn through(screen: &Screen, chunks: &[&[u8]]) -> Vec<u8> {
    let mut sieve = screen.sieve(guesser());
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend_from_slice(&sieve.push(Bytes::copy_from_slice(chunk)));
    }
    out.extend(sieve.finish());
    out
}

#[test]
fn every_form_is_found() {
    let key = "sk-te/st+0123456789\"x";
    let it = screen(key, Mask::Words(WORDS));
    let basic = general_purpose::STANDARD.encode(format!("user:{key}"));
    let safe = general_purpose::URL_SAFE.encode(key);
    let json = serde_json::Value::from(key).to_string();
    for text in [key, &basic, &safe, &json, "sk-te%2Fst%2B0123456789%22x", "sk-te\\/st+0123456789\\\"x"] {
        assert!(it.finds(text.as_bytes()), "{text}");
        let masked = it.masked(text.as_bytes()).unwrap();
        assert!(!String::from_utf8_lossy(&masked).contains("012345"), "{text}");
    }
    assert!(!it.finds(b"sk-test") && it.masked(b"sk-test").is_none());
}

/// Each byte in a spelling that the number chooses.
fn spelled(key: &str, how: &[u8]) -> String {
    key.bytes()
        .zip(how.iter().cycle())
        .map(|(byte, how)| match how % 7 {
            0 => format!("%{byte:02x}"),
            1 => format!("%25{byte:02X}"),
            2 => format!("\\u{byte:04x}"),
            3 => format!("\\\\u{byte:04x}"),
            4 => format!("\\x{byte:02x}"),
            5 => format!("&#{byte};"),
            _ => char::from(byte).to_string(),
        })
        .collect()
}

#[test]
fn wrapped_encodings_are_found() {
    let key = "sk-0123456789abcdefghijklmnopqrstuvwxyz-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let it = screen(key, Mask::Stars);
    let encoded = general_purpose::STANDARD.encode(format!("user:{key}"));
    for width in [64, 76] {
        let lines: Vec<&str> =
            encoded.as_bytes().chunks(width).map(|l| std::str::from_utf8(l).unwrap()).collect();
        for end in ["\n", "\r\n", "\\n"] {
            let wrapped = lines.join(end);
            let masked = it.masked(wrapped.as_bytes()).unwrap();
            assert_eq!(masked.len(), wrapped.len());
            assert!(masked.iter().filter(|byte| **byte == b'*').count() >= encoded.len() - 12, "{wrapped}");
        }
    }
}

/// Chunks end where lines do, wherever in the secret that is.
#[test]
fn wrapped_encodings_are_found_line_by_line() {
    let key = "ghp_0123456789abcdefghijklmnopqrstuvwxyz";
    let it = screen(key, Mask::Stars);
    for before in 0..80 {
        let encoded = general_purpose::STANDARD.encode(format!("{}:{key}", "u".repeat(before)));
        for end in ["\r\n", "\n  ", "=\n"] {
            let lines: Vec<String> = encoded
                .as_bytes()
                .chunks(76)
                .map(|line| format!("{}{end}", String::from_utf8_lossy(line)))
                .collect();
            let chunks: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
            let out = String::from_utf8(through(&it, &chunks)).unwrap();
            let whole: String =
                out.chars().filter(|c| c.is_ascii_alphanumeric() || "+/*".contains(*c)).collect();
            let left = general_purpose::STANDARD_NO_PAD.decode(whole.trim_end_matches('*').replace('*', ""));
            assert!(whole.matches('*').count() >= 50, "{before}: {out}");
            assert!(!left.is_ok_and(|left| String::from_utf8_lossy(&left).contains(key)), "{before}: {out}");
        }
    }
    for cut in 1..key.len() {
        let (one, other) = key.split_at(cut);
        let out = through(&it, &[format!("x: {one}\n").as_bytes(), other.as_bytes(), b"\n"]);
        let stars = out.iter().filter(|byte| **byte == b'*').count();
        assert!(stars > key.len() - WRAPPED_MIN, "{cut}: {}", String::from_utf8_lossy(&out));
    }
}

#[test]
fn of_two_secrets_that_begin_alike_the_longer_is_found_wherever_chunks_end() {
    let secrets = ["abcdefgh", "abcdefghijklmnop"].map(Secret::from);
    for mask in [Mask::Stars, Mask::Words(WORDS)] {
        let it = Screen::new(&secrets, mask).unwrap();
        for (text, words) in
            [("abcdefghijklmnop", 1), ("abcdefgh", 1), ("abcdefghi%6aklmnop", 1), ("abcdefgh abcdefgh\n", 2)]
        {
            for cut in 0..text.len() {
                let (one, other) = text.split_at(cut);
                let out = String::from_utf8(through(&it, &[b"x", one.as_bytes(), other.as_bytes()])).unwrap();
                let left = out.replace('*', "").replace("[REDACTED:key]", "");
                assert!(left.trim() == "x", "{text} {cut}: {out}");
                assert!(mask == Mask::Stars || out.matches("[RED").count() == words, "{text} {cut}: {out}");
            }
        }
    }
}

/// A secret is found, too, if a chunk ends within a line's end.
#[test]
fn a_line_end_in_two_chunks_is_one() {
    let it = screen("abcdefgh12345678", Mask::Stars);
    for end in ["=\r\n", "=\n  ", "\r\n  ", "\\r\\n  ", "%0D%0A", "&#10;", "\\u000a"] {
        for cut in 1..end.len() {
            let (one, other) = end.split_at(cut);
            let out = through(&it, &[b"x abcdefgh12345", one.as_bytes(), other.as_bytes(), b"678 y"]);
            let out = String::from_utf8(out).unwrap();
            assert_eq!(out.trim_matches('*'), out, "{end:?} {cut}");
            assert!(out.replace('*', "") == "x  y", "{end:?} {cut}: {out}");
        }
    }
}

/// What stands before a secret, or in it, and looks like an escape hides nothing.
#[test]
fn no_escape_takes_a_part_of_the_secret_away() {
    for (key, text) in [
        ("4f9cABCDEFGHIJ0123456789==", r#"{"x":"%4f9cABCDEFGHIJ0123456789\u003d\u003d"}"#),
        ("4f9cABCDEFGHIJ0123456789==", r#"{"x":"%4f9cABCDEFGHIJ0123456789\\u003d\\u003d"}"#),
        ("nQ9cABCDEFGHIJ0123456789&x", r#"{"x":"\\nQ9cABCDEFGHIJ0123456789\u0026x"}"#),
        ("4f9cABCDEFGHIJ0123456789xy", "%4f9cABCDEFGHIJ01\n23456789xy"),
        ("4f9cABCDEFGHIJ0123456789xy", "&#4f9cABCDEFGHIJ01\n23456789xy"),
        ("a&b%41cdefgh12", r#"{"x":"a\u0026b%41cdefgh12"}"#),
        ("s3<cret\\nbcdefgh", r#"{"x":"s3\u003ccret\\nbcdefgh"}"#),
        ("abcdefgh12345678", "\\141bcdefgh\\u{31}2345678"),
        ("abcdefgh12345678", "abcdefgh12345=\r\n678"),
        ("abcdefgh12345678", "abcdefgh12345%0D%0A678"),
        ("abcdefgh12345678", "abcdefgh12345%250A678"),
        ("abcdefgh12345678", "abcdefgh12345\\u000a678"),
        ("abcdefgh12345678", "abcdefgh12345&#xA;678"),
        ("abcdefgh12345678", r"abcdefgh12345\n    678"),
        ("abcdefgh12345678", r"abcdefgh12345\\r\\n    678"),
        ("abcdefgh12345678", "6162636465666768\n  3132333435363738"),
    ] {
        let it = screen(key, Mask::Stars);
        let out = it.masked(text.as_bytes()).unwrap_or_else(|| panic!("{text}"));
        assert!(out.iter().filter(|byte| **byte == b'*').count() >= key.len(), "{text}");
    }
}

/// What Markdown and regular expressions put before punctuation hides nothing, in pieces neither.
#[test]
fn backslashes_before_punctuation_hide_nothing() {
    let key = "ghp_0123.456-789+abc%xyz&gh";
    let it = screen(key, Mask::Stars);
    let escape = |text: &str| -> String {
        text.chars().flat_map(|c| c.is_ascii_punctuation().then_some('\\').into_iter().chain([c])).collect()
    };
    for text in ["ghp\\_0123.456-789+abc%xyz&gh".to_owned(), escape(key), escape(key).replace('\\', "\\\\")] {
        let stars = "*".repeat(text.len());
        let masked = it.masked(format!("{text}\"").as_bytes()).map(String::from_utf8);
        assert_eq!(masked, Some(Ok(format!("{stars}\""))), "{text}");
        for cut in 0..text.len() {
            let out = through(&it, &[b"x ", &text.as_bytes()[..cut], &text.as_bytes()[cut..], b" y"]);
            assert_eq!(String::from_utf8(out).unwrap(), format!("x {stars} y"), "{cut} of {text}");
        }
    }
}

#[test]
fn a_line_that_ends_like_a_key_begins_is_not_held() {
    let mut sieve = screen("sk-0123456789abcdef", Mask::Stars).sieve(guesser());
    for line in ["data: s\n\n", "data: 100%\n\n", "data: a&b\n\n", "data: {\"a\":\"\\n\"}\n\n"] {
        assert_eq!(sieve.push(Bytes::from(line)), line, "{line}");
    }
}

#[test]
fn an_end_that_could_not_have_become_a_key_passes() {
    for end in ["100%", "C:\\", "R&D", "x &#12"] {
        assert_eq!(through(&screen("sk-0123456789abcdef", Mask::Stars), &[end.as_bytes()]), end.as_bytes());
    }
}

#[test]
fn a_placeholder_key_is_not_looked_for() {
    assert_eq!(through(&screen("EMPTY", Mask::Stars), &[b"it is EMPTY"]), b"it is EMPTY");
}

#[test]
fn a_stream_that_ends_inside_the_key_does_not_give_it_away() {
    let cut: &[&[u8]] = &[b"x sk-0123456789abcd"];
    let out = through(&screen("sk-0123456789abcdef", Mask::Words(WORDS)), cut);
    assert_eq!(out, [b"x ", WORDS].concat());
    let out = through(&screen("sk-0123456789abcdef", Mask::Stars), cut);
    assert_eq!(out, b"x *****************");
}

/// As much of the key below as is its first part.
const FIRST: usize = 16;

/// Whoever has a server say guesses must not see in the answers how a secret begins: neither plain nor, where
/// a step is the sixteenth part of a byte, in hexadecimal.
#[test]
fn what_is_masked_tells_nobody_how_a_key_begins() {
    let key = "ghp_0123456789abcdefghijklmnopqrstuvwxyz";
    let it = screen(key, Mask::Stars);
    let hexadecimal: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
    let basic = general_purpose::STANDARD_NO_PAD.encode(format!("x:{key}"));
    let escaped: String = key.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
    for (form, each) in [(key, 1), (&hexadecimal, 1), (&basic, 1), (&escaped, 6)] {
        for letters in 1..=form.len() / each {
            let guess = &form[..letters * each];
            let out = through(&it, &[format!("you said: {guess}").as_bytes()]);
            let shown = String::from_utf8_lossy(&out);
            let masked = shown.contains('*');
            let missing = form.len() / each - letters;
            // Of base64 the last characters are a neighbour's too.
            assert!(masked || missing > 0, "{guess}");
            // What is masked holds all of the first part, and tells of nothing behind it.
            let said = letters * key.len() * each / form.len();
            assert!(!masked || said + 1 >= FIRST || missing < SCREEN_MIN + 2, "{said} were said: {shown}");
            let wrong = format!("you said: {}~", &guess[..guess.len() - each]);
            let first = through(&it, &[wrong.as_bytes()]).contains(&b'*');
            assert!(!first || shown.trim_end_matches('*').len() <= "you said: eDp".len(), "{shown}");
        }
    }
}

#[test]
fn ordinary_chunks_are_not_held() {
    let mut sieve = screen("sk-0123456789abcdef", Mask::Stars).sieve(guesser());
    let chunk = Bytes::from_static(b"data: {\"a\":1}\n\n");
    assert_eq!(sieve.push(chunk.clone()), chunk);
    assert_eq!(sieve.held(), 0);
}

proptest! {
    #[test]
    fn a_split_key_is_caught_and_the_rest_untouched(
        before in "[a-z \n]{0,20}", after in "[a-z \n]{0,20}", stars in any::<bool>(),
        cuts in proptest::collection::vec(0_usize..80, 0..6),
    ) {
        let key = "sk-0123456789ABCDEF";
        let mask = if stars { Mask::Stars } else { Mask::Words(WORDS) };
        let text = format!("{before}{key}{after}");
        let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
        let masked = if stars { vec![b'*'; key.len()] } else { WORDS.to_vec() };
        let wanted = [before.as_bytes(), &masked, after.as_bytes()].concat();
        prop_assert_eq!(through(&screen(key, mask), &chunks), wanted);
    }

    #[test]
    fn an_escaped_key_is_caught_however_it_is_split(
        how in proptest::collection::vec(any::<u8>(), 1..24),
        cuts in proptest::collection::vec(0_usize..200, 0..6),
    ) {
        let key = "sk-0123456789ABCDEF";
        let spelled = spelled(key, &how);
        let text = format!("before {spelled} after");
        let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
        let wanted = format!("before {} after", "*".repeat(spelled.len()));
        prop_assert_eq!(String::from_utf8(through(&screen(key, Mask::Stars), &chunks)).unwrap(), wanted);
    }

    #[test]
    fn any_key_is_found_in_any_spelling_behind_anything(
        key in "[ -~]{8,20}".prop_filter("no placeholder", |key| key.trim().len() >= SCREEN_MIN),
        how in proptest::collection::vec(any::<u8>(), 1..24), before in "[ -~]{0,4}", after in "[ -~]{0,4}",
    ) {
        let text = format!("{before}{}{after}", spelled(key.trim(), &how));
        prop_assert!(screen(&key, Mask::Stars).finds(text.as_bytes()), "{text}");
    }

    #[test]
    fn text_without_the_key_is_untouched(chunks in proptest::collection::vec("[sk0-9-]{0,8}", 0..12)) {
        let it = screen("sk-0123456789ABCDEF", Mask::Words(WORDS));
        let parts: Vec<&[u8]> = chunks.iter().map(|c| c.as_bytes()).collect();
        let out = through(&it, &parts);
        let whole = parts.concat();
        // Only an unfinished beginning of the key at the very end may be masked.
        prop_assert!(out == whole || out.ends_with(WORDS));
    }
}
