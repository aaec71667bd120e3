//! In which forms a program is likely to print a secret: as it is, in JSON, in a URL, in base64, in
//! hexadecimal, in UTF-16.
//!
//! Where encoders differ about a character, each one's form is here: a secret is found by exact search alone.
//! Must never give a form that doesn't depend on the secret, nor forms whose number depends on it.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use zeroize::Zeroizing;

use crate::parts;
use crate::public;

/// Shorter secrets are not searched for: four bytes of a text match by chance all too often.
pub const SECRET_MIN: usize = 5;
/// Encoded forms are searched for only when they leave this many characters that depend on the secret alone.
const ENCODED_MIN: usize = 8;
/// Longer secrets are searched for piece by piece, so that the held-back tail stays bounded.
const PIECE_MAX: usize = 4096;
/// RFC 3986 unreserved characters stay; all else is encoded.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// What ECMAScript's `encodeURIComponent` leaves alone.
const COMPONENT: &AsciiSet = &STRICT.remove(b'!').remove(b'*').remove(b'\'').remove(b'(').remove(b')');
/// RFC 3986 unreserved characters and `/`: what Python's `urllib.parse.quote` leaves alone.
const QUOTED: &AsciiSet = &STRICT.remove(b'/');
/// What HTML forms leave alone, and Java's `URLEncoder`.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*');
/// What PHP's `urlencode` leaves alone.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
/// What Go's `url.PathEscape` leaves alone.
const SEGMENT: &AsciiSet =
    &STRICT.remove(b'$').remove(b'&').remove(b'+').remove(b'=').remove(b':').remove(b'@');
/// What ECMAScript's `encodeURI` leaves alone.
const URI: &AsciiSet = &PATH.remove(b'?').remove(b'#');
/// What most clients leave alone within a path.
const PATH: &AsciiSet = &STRICT
    .remove(b'/')
    .remove(b':')
    .remove(b'@')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=');

/// One form of a secret, of a piece of a long one, or of a part of one.
pub(crate) struct Form {
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    /// How many of its first bytes may be found out for nothing.
    pub(crate) told: usize,
    pub(crate) role: Role,
}

/// What stands where a form does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// The secret itself, or a piece of a long one. Behind so many bytes, which are its first part, it
    /// doesn't wait for the rest.
    Whole { first: usize },
    /// The first part of it.
    First,
    /// Another part.
    Part,
}

/// Every form of one secret, pieces of long ones included; `in_parts`, those of its parts, too.
pub(crate) fn forms_of(secret: &[u8], in_parts: bool) -> Vec<Form> {
    let mut forms = Vec::new();
    // A trailing newline belongs to the file it came from, not to the secret.
    let trimmed = secret.trim_ascii();
    if trimmed.len() < SECRET_MIN {
        return forms;
    }
    let mut told = public::told(trimmed);
    // No character is cut in two: a form is made of whole characters.
    while trimmed.get(told).is_some_and(|byte| byte & 0xc0 == 0x80) {
        told += 1;
    }
    let parts = if in_parts { parts::of(trimmed) } else { Vec::new() };
    let first = parts.first().filter(|part| part.start == 0).map_or(trimmed.len(), |first| first.end);
    let begun = spellings(trimmed.get(..told).unwrap_or(trimmed));
    let firsts = spellings(trimmed.get(..first).unwrap_or(trimmed));
    for (((form, min), (begun, _)), (first, _)) in spellings(trimmed).into_iter().zip(begun).zip(firsts) {
        if form.len() >= min {
            pieces(&form, begun.len().max(public::LEAST), first.len(), &mut forms);
        }
    }
    for part in parts {
        let role = if part.start == 0 { Role::First } else { Role::Part };
        let of_it = spellings(trimmed.get(part).unwrap_or_default()).into_iter();
        forms.extend(of_it.filter(|(form, min)| form.len() >= *min).map(|(bytes, _)| Form {
            bytes,
            told: usize::MAX,
            role,
        }));
    }
    forms
}

/// Returns a text in every form, each with the length from which on it is searched for. Number and order of
/// the forms never change, and each form of a text's beginning is the beginning of the text's form.
fn spellings(text: &[u8]) -> Vec<(Zeroizing<Vec<u8>>, usize)> {
    let mut forms = Vec::new();
    let mut push = |form: Vec<u8>, min: usize| forms.push((Zeroizing::new(form), min));
    push(text.to_vec(), SECRET_MIN);
    // Twice, too: JSON that is echoed within JSON, a URL within a URL. Most secrets look the same either way.
    for form in json_forms(text) {
        json_forms(&form).into_iter().for_each(|nested| push(nested, SECRET_MIN));
        push(form, SECRET_MIN);
    }
    for form in percent_forms(text) {
        push(form, SECRET_MIN);
    }
    let once = percent_encode(text, STRICT).to_string();
    push(percent_encode(once.as_bytes(), STRICT).to_string().into_bytes(), SECRET_MIN);
    // As a terminal prints it.
    push(text.split(|byte| *byte == b'\n').collect::<Vec<_>>().join(&b"\r\n"[..]), SECRET_MIN);
    push(if text.is_ascii() { wide(text) } else { Vec::new() }, SECRET_MIN);
    for shift in 0..3 {
        for form in base64_forms(text, shift) {
            push(form, ENCODED_MIN);
        }
    }
    push(hex(text, b"0123456789abcdef"), 2 * ENCODED_MIN);
    push(hex(text, b"0123456789ABCDEF"), 2 * ENCODED_MIN);
    forms
}

fn pieces(form: &[u8], told: usize, first: usize, into: &mut Vec<Form>) {
    let (mut rest, mut told, mut first) = (form, told, first);
    while rest.len() > PIECE_MAX {
        // The last piece must not be so short that it stands in other texts, too.
        let cut = if rest.len() < 2 * PIECE_MAX { rest.len() / 2 } else { PIECE_MAX };
        let (piece, left) = rest.split_at(cut);
        into.push(Form { bytes: Zeroizing::new(piece.to_vec()), told, role: Role::Whole { first } });
        // Nothing of what stands there is public, and no first part.
        (rest, told, first) = (left, public::MOST, usize::MAX);
    }
    into.push(Form { bytes: Zeroizing::new(rest.to_vec()), told, role: Role::Whole { first } });
}

/// The inside of a JSON string: as most writers escape it, with `\/`, in pure ASCII, and fit for HTML as Go
/// and as .NET write it.
fn json_forms(secret: &[u8]) -> [Vec<u8>; 5] {
    let Ok(text) = std::str::from_utf8(secret) else { return Default::default() };
    let Ok(quoted) = serde_json::to_string(text) else { return Default::default() };
    let plain = quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned();
    let slashed = plain.replace('/', "\\/");
    let ascii = crate::ascii::escape_json(&plain).into_owned();
    let go = escaped(&plain, |c| matches!(c, '&' | '<' | '>'), |code| format!("\\u{code:04x}"));
    // .NET has no short escape for a quotation mark.
    let dotnet = plain.replace("\\\"", "\"");
    let dotnet = escaped(
        &dotnet,
        |c| matches!(c, '"' | '&' | '\'' | '+' | '<' | '>' | '`') || !c.is_ascii(),
        |code| format!("\\u{code:04X}"),
    );
    [plain, slashed, ascii, go, dotnet].map(String::into_bytes)
}

/// Returns `text` with some characters written as their UTF-16 codes.
fn escaped(text: &str, is_one: impl Fn(char) -> bool, write: impl Fn(u16) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_one(c) {
            true => c.encode_utf16(&mut [0; 2]).iter().for_each(|code| out.push_str(&write(*code))),
            false => out.push(c),
        }
    }
    out
}

fn percent_forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for set in [STRICT, COMPONENT, PATH, NON_ALPHANUMERIC, QUOTED, FORM, PLAIN, SEGMENT, URI] {
        let upper = percent_encode(secret, set).to_string();
        let spaced = upper.replace("%20", "+");
        for form in [upper, spaced] {
            forms.push(lower_hex(form.as_bytes()));
            forms.push(form.into_bytes());
        }
    }
    forms
}

/// `%2F` as `%2f`, nothing else changed.
fn lower_hex(encoded: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(encoded.len());
    let mut digits = 0;
    for byte in encoded {
        if digits > 0 {
            digits -= 1;
            out.push(byte.to_ascii_lowercase());
        } else {
            digits = if *byte == b'%' { 2 } else { 0 };
            out.push(*byte);
        }
    }
    out
}

/// The characters of a base64 text that depend on the secret alone, when `shift` bytes of something else
/// stand before it in its group of three: the first characters and the last are shared with the neighbours,
/// so left out.
fn base64_forms(secret: &[u8], shift: usize) -> [Vec<u8>; 2] {
    let mut padded = Zeroizing::new(vec![0u8; shift]);
    padded.extend_from_slice(secret);
    let skip = (shift * 8).div_ceil(6);
    let keep = padded.len() * 8 / 6;
    [STANDARD_NO_PAD.encode(padded.as_slice()), URL_SAFE_NO_PAD.encode(padded.as_slice())].map(|encoded| {
        let encoded = Zeroizing::new(encoded.into_bytes());
        encoded.get(skip..keep).unwrap_or_default().to_vec()
    })
}

/// UTF-16, which some servers answer in when they are asked to: what both orders of bytes have in common.
fn wide(secret: &[u8]) -> Vec<u8> {
    let mut form: Vec<u8> = secret.iter().flat_map(|byte| [*byte, 0]).collect();
    form.pop();
    form
}

fn hex(secret: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    secret
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|nibble| digits.get(usize::from(nibble)).copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    #[test]
    fn every_form_is_found() {
        let secret = b"p+ss/w\"rd\\ \xc3\xa9-0123456789".as_slice();
        let forms = forms_of(secret, false);
        let text = std::str::from_utf8(secret).unwrap();
        let mut shown: Vec<Vec<u8>> = vec![
            secret.to_vec(),
            serde_json::to_vec(text).unwrap(),
            serde_json::to_string(text).unwrap().replace('/', "\\/").into_bytes(),
            serde_json::to_string(text).unwrap().replace('é', "\\u00e9").into_bytes(),
            percent_encode(secret, NON_ALPHANUMERIC).to_string().into_bytes(),
            percent_encode(secret, STRICT)
                .to_string()
                .replace("%2F", "%2f")
                .replace("%2B", "%2b")
                .replace("%5C", "%5c")
                .replace("%C3%A9", "%c3%a9")
                .into_bytes(),
            percent_encode(secret, COMPONENT).to_string().replace("%20", "+").into_bytes(),
            // urllib.parse.quote, encodeURI, url.PathEscape, URLEncoder, urlencode.
            b"p%2Bss/w%22rd%5C%20%C3%A9-0123456789".to_vec(),
            b"p+ss/w%22rd%5C%20%C3%A9-0123456789".to_vec(),
            b"p+ss%2Fw%22rd%5C%20%C3%A9-0123456789".to_vec(),
            b"p%2Bss%2Fw%22rd%5C+%C3%A9-0123456789".to_vec(),
            br#"p\u002Bss/w\u0022rd\\ \u00E9-0123456789"#.to_vec(),
            hex(secret, b"0123456789abcdef"),
            serde_json::to_vec(&serde_json::to_string(text).unwrap()).unwrap(),
            percent_encode(percent_encode(secret, STRICT).to_string().as_bytes(), STRICT)
                .to_string()
                .into_bytes(),
        ];
        for before in ["", "a", "ab", "user:", "x:"] {
            for after in ["", "!", "!!"] {
                let whole = [before.as_bytes(), secret, after.as_bytes()].concat();
                shown.push(STANDARD.encode(&whole).into_bytes());
                shown.push(URL_SAFE.encode(&whole).into_bytes());
            }
        }
        for form in shown {
            let text = [b"x=".as_slice(), &form, b" ."].concat();
            let holds = |one: &[u8]| text.windows(one.len()).any(|window| window == one);
            assert!(forms.iter().any(|one| holds(&one.bytes)), "{}", String::from_utf8_lossy(&form));
        }
    }

    #[test]
    fn short_secrets_are_left_alone_and_long_ones_are_cut_into_pieces() {
        assert!(forms_of(b"abcd", true).is_empty());
        for length in [PIECE_MAX / 2 + 1, PIECE_MAX + 1, PIECE_MAX + 7, PIECE_MAX * 2 + 1] {
            let forms = forms_of(&vec![b'x'; length], true);
            let lengths: Vec<_> = forms.iter().map(|form| form.bytes.len()).collect();
            let whole = |one: &usize| (PIECE_MAX / 4..=PIECE_MAX).contains(one);
            assert!(lengths.iter().all(whole), "{length}: {lengths:?}");
        }
    }

    /// What `quote`, Go's and .NET's encoding of JSON, and the others make of what they differ about.
    #[test]
    fn what_encoders_differ_about_is_found_in_each_ones_form() {
        let forms = forms_of(b"s3cr3t/Value+'q'~*with=odd&chars<%>", false);
        for form in [
            "s3cr3t/Value%2B%27q%27~%2Awith%3Dodd%26chars%3C%25%3E",
            "s3cr3t%2FValue%2B%27q%27%7E*with%3Dodd%26chars%3C%25%3E",
            "s3cr3t%2FValue%2B%27q%27%7E%2Awith%3Dodd%26chars%3C%25%3E",
            "s3cr3t%2FValue+%27q%27~%2Awith=odd&chars%3C%25%3E",
            "s3cr3t/Value+'q'~*with=odd&chars%3C%25%3E",
            "s3cr3t/Value+'q'~*with=odd\\u0026chars\\u003c%\\u003e",
            "s3cr3t/Value\\u002B\\u0027q\\u0027~*with=odd\\u0026chars\\u003C%\\u003E",
        ] {
            assert!(forms.iter().any(|one| one.bytes.as_slice() == form.as_bytes()), "{form}");
        }
    }
}
