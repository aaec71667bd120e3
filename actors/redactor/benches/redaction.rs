//! Throughput of the engine on ordinary text, on text with a secret in every two hundredth line, and of the
//! search in answers.
#![allow(missing_docs, reason = "benches have no documentation")]
#![expect(clippy::unwrap_used, reason = "a bench may stop")]

use bytes::Bytes;
use cofferdam_redactor::{End, Guesses, Mask, Redactor, Screen, Secret};
use divan::Bencher;
use divan::counter::BytesCount;

/// As a pump sees it.
const WINDOW: usize = 64 * 1024;

fn main() {
    divan::main();
}

fn redactor(secrets: usize) -> Redactor {
    let secret =
        |number| (format!("KEY_{number}"), Secret::new(format!("s3cr3t/{number:04}+abcdefghijklmnopqrstuv")));
    Redactor::new((0..secrets).map(secret)).unwrap()
}

fn text(every: usize) -> Vec<u8> {
    let mut text = String::new();
    for line in 0.. {
        if text.len() >= WINDOW {
            break;
        }
        let token = if line % every == every - 1 { "ghp_abcdefghijklmnopqrstuvwxyz0123456789" } else { "-" };
        text += &format!(
            "2026-11-22T19:00:{:02} INFO step {line}: fetched https://example.com/items/{line} {token}\n",
            line % 60
        );
    }
    text.into_bytes()
}

#[divan::bench(args = [0, 5, 50])]
fn ordinary_text(bencher: Bencher<'_, '_>, secrets: usize) {
    let (redactor, text) = (redactor(secrets), text(usize::MAX));
    bencher.counter(BytesCount::of_slice(&text)).bench(|| redactor.scan(&text, End::More));
}

#[divan::bench(args = [0, 5, 50])]
fn a_token_in_every_200th_line(bencher: Bencher<'_, '_>, secrets: usize) {
    let (redactor, text) = (redactor(secrets), text(200));
    bencher.counter(BytesCount::of_slice(&text)).bench(|| redactor.scan(&text, End::More));
}

fn screen(secrets: usize) -> Screen {
    let secret = |n| Secret::new(format!("ghp_0123456789abcdefghijklmn{n:08}"));
    let secrets: Vec<Secret> = (0..secrets).map(secret).collect();
    Screen::new(&secrets, Mask::Stars).unwrap()
}

/// An answer of a server that may be told a credential, in chunks of this many bytes.
fn an_answer(bencher: Bencher<'_, '_>, secrets: usize, text: &[u8], chunk: usize) {
    let screen = screen(secrets);
    let chunks: Vec<Bytes> = text.chunks(chunk).map(Bytes::copy_from_slice).collect();
    let guesses = Guesses::default();
    bencher.counter(BytesCount::of_slice(text)).bench(|| {
        let mut sieve = screen.sieve(guesses.of(1, || {}));
        let passed: usize = chunks.iter().map(|chunk| sieve.push(chunk.clone()).len()).sum();
        passed + sieve.finish().len()
    });
}

#[divan::bench(args = [1, 16])]
fn an_answer_in_chunks(bencher: Bencher<'_, '_>, secrets: usize) {
    an_answer(bencher, secrets, &text(usize::MAX), 16 * 1024);
}

/// As a model's words come.
#[divan::bench(args = [1, 16])]
fn an_answer_in_small_chunks(bencher: Bencher<'_, '_>, secrets: usize) {
    an_answer(bencher, secrets, &text(usize::MAX), 100);
}

/// Without a line's end, or anything else that could be read in two ways.
#[divan::bench(args = [1, 16])]
fn an_answer_without_escapes(bencher: Bencher<'_, '_>, secrets: usize) {
    let text: Vec<u8> =
        text(usize::MAX).into_iter().map(|byte| if byte == b'\n' { b' ' } else { byte }).collect();
    an_answer(bencher, secrets, &text, 16 * 1024);
}

#[divan::bench(args = [1, 16])]
fn small_chunks_without_escapes(bencher: Bencher<'_, '_>, secrets: usize) {
    let text: Vec<u8> =
        text(usize::MAX).into_iter().map(|byte| if byte == b'\n' { b' ' } else { byte }).collect();
    an_answer(bencher, secrets, &text, 100);
}

/// What costs most to read: bytes that may begin an escape, alone, mixed and nested, and a key's beginning
/// over and over, wrapped.
const COSTLY: [(&str, &str); 8] = [
    ("ampersands", "&"),
    ("percents", "%"),
    ("backslashes", "\\"),
    ("all-three", "&%\\%&\\&&%"),
    ("escaped-escapes", "%25&amp;\\u005c"),
    ("half-escapes", "&%6\\u00"),
    ("wrapped-letters", "g\n"),
    ("wrapped-prefix", "g\nh\np\n_\n0\n1\n2\n3\n4\n5\n"),
];

#[divan::bench(args = COSTLY.map(|(name, _)| name))]
fn an_answer_of(bencher: Bencher<'_, '_>, name: &str) {
    let (_, unit) = COSTLY.into_iter().find(|(other, _)| *other == name).unwrap();
    an_answer(bencher, 1, unit.repeat(WINDOW / unit.len()).as_bytes(), 16 * 1024);
}

#[divan::bench]
fn one_log_line(bencher: Bencher<'_, '_>) {
    let redactor = redactor(5);
    let line = "2026-11-22T19:00:00 INFO step 7: fetched https://example.com/items/7 in 12 ms";
    bencher.counter(BytesCount::of_str(line)).bench(|| redactor.redact(line));
}
