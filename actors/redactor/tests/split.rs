//! For any split of any text, the output is that of the whole text; and no secret comes through any split.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may stop")]

use cofferdam_redactor::stream::Streaming;
use cofferdam_redactor::{Context, End, HOLD_MAX, Redactor, Secret, SharedRedactor};
use std::sync::{Arc, LazyLock};

use proptest::collection::vec;
use proptest::prelude::*;

const KNOWN: &[(&str, &str)] = &[
    ("A", "s3cret-value-0123"),
    ("B", "value-0123-overlaps"),
    ("C", "sk-abcdefghijklmnopqrstuvwxyz$and/more"),
    ("D", "aaaaaa"),
    ("E", "-----BEGIN PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----\n"),
];

/// Made once: building it takes far longer than a case.
static REDACTOR: LazyLock<SharedRedactor> = LazyLock::new(|| {
    SharedRedactor::new(
        Redactor::new(KNOWN.iter().map(|(name, secret)| (*name, Secret::from(*secret)))).unwrap(),
    )
});

fn redactor() -> Arc<Redactor> {
    Arc::clone(&REDACTOR.load())
}

/// Bits of text that begin, hold, break off or surround secrets.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let fixed: Vec<&'static [u8]> = vec![
        b"s3cret-value-0123",
        b"s3cret-",
        b"value-0123-overlaps",
        b"aaaaa",
        b"sk-",
        b"sk-proj-",
        b"sk-ant-api03-",
        b"abcdefghijklmnopqrstuvwxyz0123456789",
        b"$and/more",
        b"ghp_",
        b"github_pat_",
        b"eyJhbGciOiJI",
        b".eyJzdWIiOiIx",
        b".dozjgNryP4",
        b"https://user:",
        b"://",
        b"@host/",
        b"Authorization: ",
        b"Bearer ",
        b"x-api-key: ",
        b"-----BEGIN RSA PRIVATE KEY-----\n",
        b"-----BEGIN PRIVATE KEY-----\nMIIabc",
        b"\n-----END RSA PRIVATE KEY-----",
        b"-----END ",
        b"-----",
        b"AKIAIOSFODNN7EXAMPLE",
        b"aws_secret_access_key = ",
        b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        b"xoxb-",
        b":AA",
        b" ",
        b"\n",
        b"\0\xff\x80",
    ];
    prop_oneof![
        6 => proptest::sample::select(fixed).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..6),
        1 => "[a-zA-Z0-9_./+-]{0,50}".prop_map(String::into_bytes),
    ]
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    vec(fragment(), 0..14).prop_map(|fragments| fragments.concat())
}

/// Feeds the text in windows as a pump sees them: each begins at the first byte not consumed.
fn split(redactor: &Redactor, text: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut start, mut context) = (0, Context::default());
    for cut in cuts.iter().copied().chain([text.len()]) {
        if cut < start {
            continue;
        }
        let window = &text[start..cut];
        let scan = redactor.scan_after(context, window, End::More);
        assert_eq!(scan.consumed + scan.held, window.len());
        assert!(scan.held <= HOLD_MAX);
        out.extend(scan.out);
        context = context.after(window, scan.consumed);
        start += scan.consumed;
    }
    out.extend(redactor.scan_after(context, &text[start..], End::Eof).out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_split_gives_the_output_of_the_whole(text in text(), cuts in vec(any::<prop::sample::Index>(), 0..12)) {
        let redactor = redactor();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        let whole = redactor.scan(&text, End::Eof).out;
        let parts = split(&redactor, &text, &cuts);
        prop_assert_eq!(String::from_utf8_lossy(&parts), String::from_utf8_lossy(&whole));
    }

    #[test]
    fn byte_by_byte_gives_the_output_of_the_whole(text in text()) {
        let redactor = redactor();
        let cuts: Vec<usize> = (0..=text.len()).collect();
        prop_assert_eq!(split(&redactor, &text, &cuts), redactor.scan(&text, End::Eof).out);
    }

    #[test]
    fn no_known_secret_comes_through(text in text(), cuts in vec(any::<prop::sample::Index>(), 0..12)) {
        let redactor = redactor();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        let shown = String::from_utf8_lossy(&split(&redactor, &text, &cuts)).into_owned();
        for (_, secret) in KNOWN {
            prop_assert!(!shown.contains(secret.trim()), "{}", shown);
        }
    }

    #[test]
    fn text_without_secrets_is_unchanged(text in vec(any::<u8>(), 0..400)) {
        // Uniform bytes hold no token; a known secret is longer than chance.
        prop_assert_eq!(redactor().scan(&text, End::Complete).out, text);
    }

    #[test]
    fn silences_show_at_most_seven_bytes_of_a_secret(
        before in "[ -~]{0,10}",
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let secret = KNOWN[0].1;
        let text = format!("{before} {secret}!").into_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        let mut stream = Streaming::new(REDACTOR.clone());
        let (mut out, mut start) = (Vec::new(), 0);
        for cut in cuts.into_iter().chain([text.len()]) {
            out.extend(stream.push(&text[start..cut]));
            out.extend(stream.silence());
            start = cut;
        }
        out.extend(stream.finish(End::Eof));
        let shown = String::from_utf8(out).unwrap();
        prop_assert!(!shown.contains(&secret[..8]) && !shown.contains(&secret[7..]), "{}", shown);
    }
}
