//! What must hold of redaction whatever the bytes: any split of a stream shows what the whole shows, no known
//! secret is in it, and what isn't masked is unchanged, in order.
//!
//! The fuzz target (`fuzz/`) calls the property with new bytes on nightly, the test below with every file of
//! the corpus on stable. No ordinary build has this module.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a property that doesn't hold stops the fuzzer by a panic"
)]

use std::sync::LazyLock;

use crate::{Context, End, HOLD_MAX, Redactor, Scan, Secret};

/// Secrets in use: ordinary, overlapping, one that is also a published format, one of few letters, one of
/// several lines.
pub const KNOWN: [(&str, &str); 5] = [
    ("A", "s3cret-value-0123"),
    ("B", "value-0123-overlaps"),
    ("C", "sk-abcdefghijklmnopqrstuvwxyz$and/more"),
    ("D", "aaaaaa"),
    ("E", "-----BEGIN PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----\n"),
];

/// Made once: building it takes far longer than a case.
static REDACTOR: LazyLock<Redactor> = LazyLock::new(|| {
    Redactor::new(KNOWN.iter().map(|(name, secret)| (*name, Secret::from(*secret)))).unwrap()
});

/// The property. The first byte says how the rest is cut.
pub fn holds(bytes: &[u8]) {
    let Some((&choice, text)) = bytes.split_first() else { return };
    let whole = REDACTOR.scan(text, End::Eof);
    nothing_but_marks_changes(text, &whole);
    no_secret_shows(&whole.out);
    let parts = split(&REDACTOR, text, choice);
    assert_eq!(String::from_utf8_lossy(&parts), String::from_utf8_lossy(&whole.out));
    assert_eq!(parts, whole.out);
    let complete = REDACTOR.scan(text, End::Complete);
    nothing_but_marks_changes(text, &complete);
    no_secret_shows(&complete.out);
}

fn no_secret_shows(out: &[u8]) {
    let shown = String::from_utf8_lossy(out);
    for (name, secret) in KNOWN {
        assert!(!shown.contains(secret.trim()), "{name} in {shown}");
    }
}

/// With each mark in its place, what is shown is the text.
fn nothing_but_marks_changes(text: &[u8], scan: &Scan) {
    assert_eq!((scan.consumed, scan.held), (text.len(), 0));
    let (mut text, mut out) = (text, &*scan.out);
    for hit in &scan.hits {
        let mark = format!("[REDACTED:{}]", hit.kind).into_bytes();
        // The mark is where text and output part, or before that if the text itself goes on like a mark.
        let same = text.iter().zip(out).take_while(|(a, b)| a == b).count();
        let at = (0..=same).rev().find(|at| out[*at..].starts_with(&mark));
        let at = at.unwrap_or_else(|| panic!("no {} in {}", hit.kind, String::from_utf8_lossy(out)));
        text = &text[at + hit.bytes..];
        out = &out[at + mark.len()..];
    }
    assert_eq!(String::from_utf8_lossy(out), String::from_utf8_lossy(text));
}

/// Feeds the text in windows as a pump does: each begins at the first byte that isn't consumed.
fn split(redactor: &Redactor, text: &[u8], choice: u8) -> Vec<u8> {
    let (mut out, mut start, mut end, mut dice) = (Vec::new(), 0, 0, u32::from(choice) | 0x100);
    let mut context = Context::default();
    while end < text.len() {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        end = (end + (dice >> 27) as usize).min(text.len());
        let window = &text[start..end];
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

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    #[test]
    fn redactor_corpus() {
        super::replay::corpus("redactor", super::holds);
    }
}
