//! However a secret is cut, it comes out masked; all else comes out as it went in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use proptest::prelude::*;

use super::*;
use crate::guesses::{Guesses, MAX_OF_ONE};
use crate::matching::{Matching, STEPS};
use crate::screen::{Mask, WRAPPED_MIN};
use crate::secret::Secret;

/// A key whose end may be missing.
const LONG: &str = "sk-0123456789abcdefgh";

fn screen(key: &str, mask: Mask) -> Screen {
    Screen::new([&Secret::from(key)], mask).unwrap()
}

/// A party that has guessed nothing.
fn guesser() -> Guesser {
    Guesses::default().of(0, || {})
}

/// Nothing more is given away, and all of what is no secret arrives.
#[test]
fn what_waits_long_is_looked_at_seldom_and_arrives() {
    let key = "k3y-of-many-letters-".repeat(40);
    let screen = screen(&key, Mask::Stars);
    for (text, shown) in
        [(key.clone(), "*".repeat(key.len())), (format!("{}!", &key[..790]), format!("{}!", &key[..790]))]
    {
        let mut sieve = screen.sieve(guesser());
        let (mut out, mut looks) = (Vec::new(), 0);
        for byte in text.bytes() {
            out.extend_from_slice(&sieve.push(Bytes::copy_from_slice(&[byte])));
            looks += usize::from(sieve.unseen == 0);
        }
        out.extend_from_slice(&sieve.finish());
        assert_eq!(String::from_utf8_lossy(&out), shown);
        assert!(looks < MANY_WAIT + 40, "{looks} looks at {} bytes", text.len());
    }
}

/// A party that may guess no more.
fn spent() -> Guesser {
    let guesser = guesser();
    while guesser.may_see() {}
    guesser
}

/// A key in the forms in which a server can send it, each with the number of its first bytes that are no
/// guess.
fn said() -> Vec<(String, usize)> {
    let told = crate::public::told(GUESSED.as_bytes());
    let hexadecimal = GUESSED.bytes().map(|byte| format!("{byte:02x}")).collect();
    let basic = STANDARD_NO_PAD.encode(GUESSED);
    let percent = GUESSED.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let lines = GUESSED.chars().map(|c| format!("{c}\r\n")).collect();
    vec![
        (GUESSED.to_owned(), told),
        (hexadecimal, 2 * told),
        (basic, told * 8 / 6),
        (percent, 3 * told),
        (lines, 3 * told),
    ]
}

const GUESSED: &str = "ghp_0123456789abcdefghijklmnopqrstuvwxyz";

/// What the agent sees after each chunk.
fn seen(screen: &Screen, guesser: &Guesser, chunks: &[&str]) -> Vec<Bytes> {
    let mut sieve = screen.sieve(guesser.clone());
    chunks.iter().map(|chunk| sieve.push(Bytes::copy_from_slice(chunk.as_bytes()))).collect()
}

/// Sends each beginning of the key, and the same with a wrong end, until both look alike. Streams are left
/// unfinished, as by an agent that has seen enough.
#[test]
fn so_many_guesses_are_told_and_no_more() {
    let screen = screen(GUESSED, Mask::Stars);
    for (form, told) in said() {
        let guesser = guesser();
        let mut learned = 0;
        for length in told + 1..form.len() - 1 {
            let right = format!("you said: {}", &form[..length]);
            let wrong = format!("you said: {}~", &form[..length - 1]);
            let before = learned;
            for _ in 0..4 {
                let (right, wrong) = (seen(&screen, &guesser, &[&right]), seen(&screen, &guesser, &[&wrong]));
                learned += u32::from(right[0].len() != wrong[0].len());
            }
            assert!(learned > before || guesser.is_spent(), "{length} of {form} is a guess");
        }
        assert!((1..=MAX_OF_ONE).contains(&learned), "{learned} of {form}");
    }
}

/// Wrong guesses alone are counted, too, and so is a right one that grows byte by byte.
#[test]
fn each_look_is_a_guess_right_or_wrong() {
    let screen = screen(GUESSED, Mask::Stars);
    for (form, told) in said() {
        // Not as far as the first part goes, which is masked.
        let grown: Vec<&str> = (told..told + 3).map(|at| &form[at..=at]).collect();
        for chunks in [
            vec![format!("{}~", &form[..told])],
            vec![format!("{}~ and so on", &form[..told])],
            vec![form[..=told].to_owned()],
            vec![form[..2].to_owned(), format!("{}~", &form[2..=told])],
            [vec![form[..told].to_owned()], grown.iter().map(|one| (*one).to_owned()).collect()].concat(),
        ] {
            let (guesses, chunks) =
                (Guesses::default(), chunks.iter().map(String::as_str).collect::<Vec<_>>());
            let guesser = guesses.of(1, || {});
            let looks = chunks.len().saturating_sub(2).max(1);
            for stream in 1..=MAX_OF_ONE as usize / looks {
                seen(&screen, &guesser, &chunks);
                assert!(guesses.kept().seen() as usize >= stream * looks, "{stream} times {chunks:?}");
            }
        }
    }
}

/// How many guesses were counted tells nothing either: a right one costs what a wrong one does.
#[test]
fn a_right_guess_costs_what_a_wrong_one_does() {
    let screen = screen(GUESSED, Mask::Stars);
    for (form, told) in said() {
        for behind in ["", "~", "~ and so on\n", " ".repeat(100).as_str(), "%", "\n", "&#1"] {
            let cost = |guess: &str| {
                let guesses = Guesses::default();
                seen(&screen, &guesses.of(1, || {}), &[&format!("{guess}{behind}")]);
                guesses.kept().seen()
            };
            let (right, wrong) = (cost(&form[..told + 3]), cost(&format!("{}~~~", &form[..told])));
            // So far from a text's end nothing waits, and nothing is counted.
            let counted = u32::from(behind.len() < 100);
            assert!(right == wrong && right >= counted, "{form} {behind:?}: {right}, {wrong}");
        }
    }
}

/// What other work says, and what is masked, is no guess.
#[test]
fn honest_streams_make_no_guess() {
    let screen = screen(GUESSED, Mask::Stars);
    let guesses = Guesses::default();
    let short = |text: &str| text[..crate::public::told(GUESSED.as_bytes()) - 1].to_owned();
    for text in [
        "tokens begin with ghp_, such as ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "ghp_ ghp_ ghp_",
        "data: {\"delta\":\"ghp_\"}\n\n",
        "g",
        &short(GUESSED),
    ] {
        for cut in 0..text.len() {
            seen(&screen, &guesses.of(1, || {}), &[&text[..cut], &text[cut..]]);
        }
    }
    for (form, _) in said() {
        for cut in 0..form.len() {
            let mut sieve = screen.sieve(guesses.of(1, || {}));
            for chunk in ["you said: ", &form[..cut], &form[cut..], ", or did you?"] {
                let _ = sieve.push(Bytes::copy_from_slice(chunk.as_bytes()));
            }
            assert!(!String::from_utf8_lossy(&sieve.finish()).contains('~'));
        }
    }
    assert_eq!(guesses.kept().seen(), 0);
}

/// What has come at which time tells nothing: it is the same whatever the text is.
#[test]
fn a_spent_one_sees_lengths_alone() {
    let screen = screen(GUESSED, Mask::Stars);
    let longest = screen.known().unwrap().longest() * crate::spelling::SPELLED;
    for (form, _) in said() {
        for length in 1..form.len() - 1 {
            for before in [0, longest - 1, longest + 300] {
                let before = " ".repeat(before);
                let right = [&before, &form[..length], "x", " y\n", &form[..length], "%", " z"];
                let wrong = right.map(|chunk| "~".repeat(chunk.len()));
                let lengths = |chunks: &[&str]| -> Vec<usize> {
                    seen(&screen, &spent(), chunks).iter().map(Bytes::len).collect()
                };
                assert_eq!(
                    lengths(&right),
                    lengths(&wrong.each_ref().map(String::as_str)),
                    "{form} {length}"
                );
            }
        }
    }
}

/// Text that begins no secret comes late, but all of it comes.
#[test]
fn a_spent_ones_stream_is_late_by_a_bounded_part_of_it() {
    let screen = screen(GUESSED, Mask::Stars);
    let most = screen.known().unwrap().longest() * crate::spelling::SPELLED;
    let mut sieve = screen.sieve(spent());
    let mut came = 0;
    for chunk in 1..2000 {
        came += sieve.push(Bytes::from_static(b"data: some words\n\n")).len();
        let late = chunk * 18 - came;
        assert!(late <= most + most / SELDOM + 18, "{late} of {}", chunk * 18);
    }
    assert_eq!(came + sieve.finish().len(), 1999 * 18);
}

/// What a byte costs doesn't grow with what came before it, whatever that is, a byte a chunk.
#[test]
fn each_byte_costs_a_bounded_number_of_steps() {
    const A_BYTE: usize = 100;
    let key = "ghp_0123456789abcdefghijklmnopqrstuvwxyz".repeat(20);
    let screen = screen(&key, Mask::Stars);
    let many = |begin: &str, unit: &str| begin.to_owned() + &unit.repeat(6_000 / unit.len());
    for text in [
        many("gh\n", "\n"),
        many("gh\n", "\r\n \t"),
        many("gh\n", "%0A"),
        many("gh\n", "%250a"),
        many("gh\n", "\\n"),
        many("gh\n", "=\n"),
        many("gh\n", "&#10;"),
        many("", "gh\n"),
        many("", "%\n"),
        many("", "%67\n"),
        many("ghp_\n", "\n"),
        many("ghp_\n", "%0A"),
        many(&key[..700], "\n"),
        many("", "ghp_0123\n"),
        many("", &key[..700]),
    ] {
        for who in [guesser(), spent()] {
            let mut sieve = screen.sieve(who);
            STEPS.set(0);
            for byte in text.bytes() {
                let _ = sieve.push(Bytes::copy_from_slice(&[byte]));
            }
            let _ = sieve.finish();
            let each = STEPS.get() / text.len();
            assert!(each < A_BYTE, "{each} steps a byte of {:?}", &text[..20]);
        }
    }
}

/// The obvious sieve: keeps the whole text, and looks at all of it with each chunk, as far back as a secret
/// can begin in it.
fn obvious(screen: &Screen, chunks: &[&[u8]]) -> Vec<u8> {
    let known = screen.known().unwrap();
    let (mut text, mut shown, mut out) = (Vec::new(), 0, Vec::new());
    for (stage, chunk) in chunks.iter().map(|chunk| (Stage::GoesOn, *chunk)).chain([(Stage::Ended, &b""[..])])
    {
        text.extend_from_slice(chunk);
        let last_line = text.iter().rposition(|byte| b"\r\n".contains(byte)).map_or(0, |at| at + 1);
        let mut matching = Matching::new(known, &text);
        let (mut at, mut spans) = (0, Vec::new());
        while at < text.len() {
            let begun = matching.at(at);
            let waits = |secret| match stage {
                Stage::GoesOn | Stage::Late | Stage::Whole => secret >= WRAPPED_MIN || at >= last_line,
                Stage::Ended => begun.nearly,
            };
            if begun.cut.is_some_and(waits) {
                break;
            }
            spans.extend(begun.whole.map(|end| at..end));
            at = begun.whole.unwrap_or(at + 1);
        }
        if stage == Stage::Ended && at < text.len() {
            spans.push(at..text.len());
            at = text.len();
        }
        let hidden = |place: &usize| spans.iter().any(|span| span.contains(place));
        out.extend((shown..at).map(|place| if hidden(&place) { b'*' } else { text[place] }));
        shown = shown.max(at);
    }
    out
}

/// Sends each chunk for another party, which `who` makes.
fn through(screen: &Screen, who: fn() -> Guesser, chunks: &[&[u8]]) -> Vec<u8> {
    let mut sieve = screen.sieve(who());
    let mut out: Vec<u8> = Vec::new();
    for chunk in chunks {
        sieve.doubt.guesser = who();
        out.extend_from_slice(&sieve.push(Bytes::copy_from_slice(chunk)));
    }
    out.extend_from_slice(&sieve.finish());
    out
}

/// What a text is made of: beginnings of the key, in spellings, and what stands between.
fn pieces() -> impl Strategy<Value = Vec<String>> {
    let spelled = LONG.chars().map(|c| {
        let code = u32::from(c);
        vec![
            c.to_string(),
            format!("%{code:02x}"),
            format!("\\u{code:04x}"),
            format!("&#{code};"),
            format!("%25{code:02x}"),
        ]
    });
    let letters: Vec<Vec<String>> = spelled.collect();
    let key = (1..=letters.len(), proptest::collection::vec(0..5_usize, LONG.len()), any::<bool>()).prop_map(
        move |(length, how, broken)| {
            let mut text = String::new();
            for (letter, how) in letters.iter().zip(how).take(length) {
                text.push_str(&letter[how]);
                if broken && how == 1 {
                    text.push_str("\r\n  ");
                }
            }
            text
        },
    );
    let between = prop_oneof![
        Just("\n"),
        Just("\r\n \t"),
        Just("=\n"),
        Just("%0A"),
        Just("\\n"),
        Just("&#10;"),
        Just("%"),
        Just("\\"),
        Just("&"),
        Just("x"),
        Just("="),
        Just("sk"),
        Just("s"),
        Just("%250d"),
        Just("%6"),
        Just(" ")
    ]
    .prop_map(str::to_owned);
    proptest::collection::vec(prop_oneof![2 => key, 3 => between], 0..10)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn ways_that_stay_open_find_what_looking_again_finds(
        pieces in pieces(), cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12), each in any::<bool>(),
    ) {
        let text = pieces.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        if each {
            cuts = (0..text.len()).collect();
        }
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
        let screen = screen(LONG, Mask::Stars);
        let wanted = obvious(&screen, &chunks);
        let ours = through(&screen, guesser, &chunks);
        prop_assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&wanted), "{:?}", text);
        // What comes late is the same, except that more of it could still be masked.
        let late = through(&screen, spent, &chunks);
        prop_assert_eq!(late.len(), wanted.len());
        for ((late, wanted), said) in late.iter().zip(&wanted).zip(text.bytes()) {
            prop_assert!(*late == b'*' || (*late == said && *wanted == said), "{:?}", text);
        }
    }
}
