//! A server that cuts a value, in any spelling and at any place, shows little of it, and what is masked tells
//! nobody more than they said.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;
use crate::guesses::Guesses;
use crate::matching::STEPS;
use crate::parts;

const KEY: &str = "ghp_k2V9xQ7mZ4tB8nL1rW6yC3uH5jD0pF9sA7gE";
/// Of which no one knows the end but for this.
const OTHER: &str = "odd!pass?word";

/// Made once: building the search takes far longer than a case.
static SCREEN: LazyLock<Screen> =
    LazyLock::new(|| Screen::new([&Secret::from(KEY), &Secret::from(OTHER)], Mask::Stars).unwrap());

fn guesser() -> Guesser {
    Guesses::default().of(0, || {})
}

fn masked(text: &[u8]) -> Vec<u8> {
    SCREEN.masked(text).unwrap_or_else(|| text.to_vec())
}

/// What of each chunk passes, and at the end.
fn through(guesser: Guesser, chunks: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut sieve = SCREEN.sieve(guesser);
    let mut out: Vec<Vec<u8>> =
        chunks.iter().map(|chunk| sieve.push(Bytes::copy_from_slice(chunk)).to_vec()).collect();
    out.push(sieve.finish().to_vec());
    out
}

fn stars(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'*').count()
}

fn holds(text: &[u8], part: &str) -> bool {
    text.windows(part.len()).any(|window| window == part.as_bytes())
}

/// Where parts begin and end.
fn bounds() -> Vec<Range<usize>> {
    let parts = parts::of(KEY.as_bytes());
    assert_eq!(parts, [0..16, 16..28, 28..40]);
    parts
}

/// Whether a run of the value has all of a part.
fn has_part(run: &Range<usize>) -> bool {
    bounds().iter().any(|part| run.start <= part.start && part.end <= run.end)
}

/// Text spelled in each way, and how many characters beside it may hold a bit of it.
fn spellings(text: &str) -> Vec<(Vec<u8>, usize)> {
    let each = |write: fn(u8) -> String| text.bytes().map(write).collect::<String>().into_bytes();
    let mut all = vec![
        (text.as_bytes().to_vec(), 0),
        (each(|byte| format!("%{byte:02x}")), 0),
        (each(|byte| format!("%25{byte:02X}")), 0),
        (each(|byte| format!("\\u{byte:04x}")), 0),
        (each(|byte| format!("\\\\u{byte:04x}")), 0),
        (each(|byte| format!("\\u{{{byte:x}}}")), 0),
        (each(|byte| format!("\\x{byte:02x}")), 0),
        (each(|byte| format!("\\{byte:03o}")), 0),
        (each(|byte| format!("&#{byte};")), 0),
        (each(|byte| format!("&#x{byte:X};")), 0),
        (each(|byte| format!("{byte:02x}")), 0),
        (each(|byte| format!("{byte:02X}")), 0),
        (text.replace('_', "\\_").into_bytes(), 0),
        (text.encode_utf16().flat_map(u16::to_le_bytes).collect(), 0),
        (text.encode_utf16().flat_map(u16::to_be_bytes).collect(), 0),
    ];
    for before in ["", "x", "xy"] {
        let whole = format!("{before}{text}");
        all.push((STANDARD_NO_PAD.encode(&whole).into_bytes(), 3));
        all.push((URL_SAFE_NO_PAD.encode(&whole).into_bytes(), 3));
    }
    all
}

/// `headline = text[:69] + "…"`, `body = "…" + text[69:]`, at each place.
#[test]
fn of_a_value_in_two_fields_less_than_a_part_is_shown() {
    for cut in 0..=KEY.len() {
        let (one, two) = KEY.split_at(cut);
        let text = format!(r#"{{"headline":"xx {one}…","body":"…{two} yy","id":"k2V9xQ7mZ4"}}"#);
        for out in [masked(text.as_bytes()), through(guesser(), &[text.as_bytes()]).concat()] {
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let (head, body) = (value["headline"].as_str().unwrap(), value["body"].as_str().unwrap());
            assert!(head.starts_with("xx ") && head.ends_with('…'), "{head}");
            assert!(body.starts_with('…') && body.ends_with(" yy"), "{body}");
            assert_eq!(value["id"], "k2V9xQ7mZ4", "what is as short is no part");
            assert!(stars(&out) >= KEY.len() - 15, "{cut}: {value}");
            assert_eq!(head.contains('*'), cut >= 16, "{head}");
            assert_eq!(body.contains('*'), cut <= 28, "{body}");
        }
    }
}

/// A run of it, with strange text before and behind.
#[test]
fn each_run_with_a_part_in_it_is_masked_in_each_spelling() {
    // Each place where something changes, and those beside it.
    let places = [0, 1, 3, 4, 5, 15, 16, 17, 18, 24, 27, 28, 29, 30, 36, 39, 40];
    for start in places {
        for end in places.into_iter().filter(|end| start < *end) {
            for (number, (spelled, edge)) in spellings(&KEY[start..end]).into_iter().enumerate() {
                let text = [b"\"x \xe2\x80\xa6", &*spelled, b"\xe2\x80\xa6\", y"].concat();
                let out = masked(&text);
                assert!(out.starts_with(b"\"x \xe2\x80\xa6") && out.ends_with(b"\xe2\x80\xa6\", y"));
                assert_eq!(out.len(), text.len());
                let all = stars(&out) + 1 + edge >= spelled.len();
                // Where an encoding's groups are the neighbours' too, a part more may be needed.
                let is_one = has_part(&(start..end));
                let is_well_inside = has_part(&(start + edge..end.saturating_sub(edge)));
                assert!(all || !is_well_inside && (edge > 0 || !is_one), "{number}: {start}..{end}");
                assert!(all || stars(&out) == 0, "{number}: {start}..{end}");
                assert!(is_one || stars(&out) == 0, "{number}: {start}..{end} holds no part");
            }
        }
    }
}

/// A key that an error quotes, as a header has it.
#[test]
fn a_beginning_and_an_end_are_masked() {
    for text in [
        "Incorrect API key provided: ghp_k2V9xQ7mZ4tB8nL1r...",
        "bearer ghp_k2V9xQ7mZ4tB...sA7gE",
        "/to?key=...H5jD0pF9sA7gE",
        "Basic eDpnaHBfazJWOXhRN21aNHRCOG5MMXJXN...",
    ] {
        assert!(stars(&masked(text.as_bytes())) >= 12, "{text}");
    }
    let words = Screen::new([&Secret::from(KEY)], Mask::Words(b"[key]")).unwrap();
    let out = words.masked(format!("it is {}, is it?", &KEY[..30]).as_bytes()).unwrap();
    assert_eq!(out, b"it is [key], is it?");
    // One that comes in pieces is one.
    let mut sieve = words.sieve(guesser());
    let mut out = Vec::new();
    for byte in format!("it is {}, is it?", &KEY[..30]).into_bytes() {
        out.extend_from_slice(&sieve.push(Bytes::from(vec![byte])));
    }
    out.extend_from_slice(&sieve.finish());
    assert_eq!(out, b"it is [key], is it?");
}

/// However its beginning comes, nothing of it passes; of another run what comes before a part is whole.
#[test]
fn pieces_of_a_stream_show_no_part() {
    for (spelled, _) in spellings(&KEY[..34]) {
        let text = [b"x ", &*spelled, b" y"].concat();
        for cut in 0..text.len() {
            let out = through(guesser(), &[&text[..cut], &text[cut..]]).concat();
            // Of base64 the first group may be a neighbour's.
            assert!(stars(&out) + 4 >= spelled.len() && out.ends_with(b" y"), "{cut}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert!(stars(&through(guesser(), &bytes).concat()) + 4 >= spelled.len());
    }
    for start in 1..=28 {
        let text = format!("x …{} y", &KEY[start..]);
        for cut in 0..text.len() {
            let chunks = [&text.as_bytes()[..cut], &text.as_bytes()[cut..]];
            let out = through(guesser(), &chunks).concat();
            for part in bounds() {
                assert!(!holds(&out, &KEY[part]), "{start} {cut}: {}", String::from_utf8_lossy(&out));
            }
            assert!(out.ends_with(b" y") && stars(&out) > 0, "{start} {cut}");
        }
    }
}

/// The word behind it is not masked with it, wherever a chunk ends.
#[test]
fn a_whole_value_is_masked_and_no_more() {
    for (spelled, edge) in spellings(KEY).into_iter().filter(|(_, edge)| *edge == 0) {
        let text = [b"x ", &*spelled, b".txt y"].concat();
        for cut in 0..text.len() {
            let out = through(guesser(), &[&text[..cut], &text[cut..]]).concat();
            // Of UTF-16 one zero is a neighbour's.
            assert!(stars(&out) <= spelled.len() && stars(&out) + 1 >= spelled.len() - edge, "{cut}");
            assert!(out.ends_with(b".txt y"), "{cut}: {}", String::from_utf8_lossy(&out));
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        let out = through(guesser(), &bytes).concat();
        assert!(
            out.ends_with(b".txt y"),
            "{}: {}",
            String::from_utf8_lossy(&text),
            String::from_utf8_lossy(&out)
        );
    }
}

/// Whoever says a part, and more, must not see whether that is right: neither by what is masked nor by what
/// waits, or is counted.
#[test]
fn a_mask_tells_nothing_of_what_stands_behind() {
    for part in bounds() {
        for more in 1..=(KEY.len() - part.end).min(11) {
            let right = &KEY[part.start..part.end + more];
            // Others, of as many digits.
            let other = |byte: u8| if byte < 100 { 'Z' } else { 'z' };
            let wrong: String = KEY[part.end..part.end + more].bytes().map(other).collect();
            let wrong = format!("{}{wrong}", &KEY[part.clone()]);
            for ((right, _), (wrong, _)) in spellings(right).into_iter().zip(spellings(&wrong)) {
                for behind in [&b""[..], b" and on", b"-and-on", b"\"}\n", b"\n", b"\r\n  A"] {
                    let said = |guess: &[u8]| [b"x ", guess, behind].concat();
                    let (right, wrong) = (said(&right), said(&wrong));
                    assert_eq!(masked(&right), masked(&wrong), "{}", String::from_utf8_lossy(&right));
                    let seen = |text: &[u8]| {
                        let guesses = Guesses::default();
                        let two = text.split_at(text.len() - 3);
                        let seen = through(guesses.of(1, || {}), &[text]);
                        (seen, through(guesses.of(1, || {}), &[two.0, two.1]), guesses.kept())
                    };
                    assert_eq!(seen(&right), seen(&wrong), "{}", String::from_utf8_lossy(&right));
                }
            }
        }
    }
}

/// Nor does a part help to find another, or to find it byte by byte.
#[test]
fn no_part_is_found_but_all_at_once() {
    for part in bounds() {
        let all = &KEY[part.clone()];
        assert!(stars(&masked(all.as_bytes())) > 0);
        for at in 0..all.len() {
            let mut one_wrong = all.to_owned();
            one_wrong.replace_range(at..=at, "~");
            for text in [&all[..at], &all[at + 1..], &one_wrong] {
                assert_eq!(stars(&masked(text.as_bytes())), 0, "{text}");
            }
        }
    }
    // The longest run without one.
    assert_eq!(stars(&masked(&KEY.as_bytes()[17..39])), 0);
}

/// What begins in a masked word is found where it ends.
#[test]
fn a_value_that_begins_in_a_masked_word_is_masked() {
    for beginning in [&KEY[..16], &KEY[16..30]] {
        let text = format!("x {beginning}{OTHER}. y");
        let out = masked(text.as_bytes());
        assert_eq!(String::from_utf8_lossy(&out), format!("x {}. y", "*".repeat(text.len() - 5)));
        for cut in 0..text.len() {
            let out = through(guesser(), &[&text.as_bytes()[..cut], &text.as_bytes()[cut..]]).concat();
            assert!(!holds(&out, &OTHER[4..]) && !holds(&out, &OTHER[..9]), "{cut}: {out:?}");
            assert!(out.ends_with(b". y"), "{cut}");
        }
    }
}

/// A guess that waits is charged, even where a part behind it, in one word with it, is masked.
#[test]
fn a_masked_word_gives_no_guess_back() {
    let guesses = Guesses::default();
    let guess = &KEY.as_bytes()[..14];
    through(guesses.of(1, || {}), &[guess, format!("~{}", &KEY[20..]).as_bytes()]);
    let seen = guesses.kept().seen();
    // One for each look.
    assert_eq!(seen, 2);
    // What turns out to be the first part is, since whoever said it knew it.
    through(guesses.of(1, || {}), &[guess, &KEY.as_bytes()[14..20]]);
    assert_eq!(guesses.kept().seen(), seen);
}

/// Parts over and over, in one word and in many, at once and byte by byte.
#[test]
fn each_byte_costs_a_bounded_number_of_steps() {
    let many = |unit: &str| unit.repeat(8_000 / unit.len());
    for unit in [&KEY[..16], &KEY[16..28], &KEY[28..], &KEY[17..39], &KEY[..15], "k2V9xQ7mZ4t", "x"] {
        for text in [
            many(unit),
            many(&format!("{unit} ")),
            many(&format!("{unit}\\n")),
            KEY[..20].to_owned() + &many(unit),
        ] {
            for chunk in [1, 100, text.len()] {
                let mut sieve = SCREEN.sieve(guesser());
                STEPS.set(0);
                for chunk in text.as_bytes().chunks(chunk) {
                    let _ = sieve.push(Bytes::copy_from_slice(chunk));
                }
                let _ = sieve.finish();
                let each = STEPS.get() / text.len();
                assert!(each < 100, "{each} steps a byte of {:?} in chunks of {chunk}", &text[..40]);
            }
        }
    }
}

fn pieces() -> impl Strategy<Value = Vec<String>> {
    let run = (0..KEY.len(), 1..=KEY.len()).prop_map(|(start, length)| {
        let end = (start + length).min(KEY.len());
        KEY[start..end].to_owned()
    });
    let between = proptest::sample::select(vec![
        " ",
        "\"",
        "…",
        "\n",
        "\\n",
        "%",
        "\\",
        "=\n",
        "x",
        "&",
        "odd!pass?word",
        "odd!pa",
        "ghp_",
        ".",
        "\\\"",
    ])
    .prop_map(str::to_owned);
    proptest::collection::vec(prop_oneof![3 => run, 2 => between], 0..10)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]
    /// The obvious: no part, and no other value, is in what comes out; what isn't masked is as it was.
    #[test]
    fn no_part_comes_out(
        pieces in pieces(), cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8), each in any::<bool>(),
    ) {
        let text = pieces.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        if each {
            cuts = (0..text.len()).collect();
        }
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
        let spent = guesser();
        while spent.may_see() {}
        for out in [masked(text.as_bytes()), through(guesser(), &chunks).concat(), through(spent, &chunks).concat()] {
            prop_assert_eq!(out.len(), text.len());
            prop_assert!(out.iter().zip(text.bytes()).all(|(out, byte)| *out == byte || *out == b'*'));
            for part in bounds() {
                prop_assert!(!holds(&out, &KEY[part]), "{:?} of {:?}", String::from_utf8_lossy(&out), text);
            }
            prop_assert!(!holds(&out, OTHER), "{:?} of {:?}", String::from_utf8_lossy(&out), text);
        }
    }
}
