//! Values that a server sends back in frames are masked, however the frames are cut.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt as _;
use proptest::prelude::*;
use redactor::{Guesses, Secret};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::protocol::websocket::{Begun, READ_BYTES, unread};

const KEY: &str = "key-0123456789abcdef";

fn searched_for(secrets: &[Secret], guesses: &Guesses) -> Answers {
    Answers::new(Some(&Guard::for_tests(secrets, guesses.of(1, || {}))))
}

fn searched() -> Answers {
    searched_for(&[Secret::from(KEY)], &Guesses::default())
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match u8::try_from(payload.len()) {
        Ok(length) if length < 126 => out.push(length),
        _ => {
            out.push(126);
            out.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    out.extend(payload);
    out
}

#[test]
fn the_servers_frames_are_told_apart() {
    let bytes = [&[0x81, 3, b'a', b'b', b'c'][..], &[0x82, 126, 0, 200], &[7; 200], &[0x88, 0]].concat();
    for piece in 1..bytes.len() {
        let mut answers = Answers::new(None);
        let mut ends = 0;
        for part in bytes.chunks(piece) {
            ends += usize::from(answers.pass(part).unwrap().first_end.is_some());
        }
        assert!(answers.between() && ends >= 1, "{piece}");
    }
    assert_eq!(Answers::new(None).pass(&bytes).unwrap().first_end, Some(5));
    assert_eq!(searched().pass(&bytes).unwrap().first_end, Some(5));
}

#[test]
fn a_value_is_found_over_fragments_and_between_them() {
    let (one, two) = KEY.split_at(7);
    let bytes = [
        frame(0x01, format!("it is {one}").as_bytes()),
        frame(0x89, KEY.as_bytes()),
        frame(0x80, format!("{two}, k").as_bytes()),
        frame(0x82, b"ey-0 is no key"),
        frame(0x81, &KEY.as_bytes()[..17]),
        frame(0x81, &KEY.as_bytes()[..12]),
    ]
    .concat();
    let stars = |n: usize| "*".repeat(n);
    let wanted = [
        frame(0x01, format!("it is {}", stars(7)).as_bytes()),
        frame(0x89, stars(KEY.len()).as_bytes()),
        frame(0x80, format!("{}, k", stars(two.len())).as_bytes()),
        frame(0x82, b"ey-0 is no key"),
        frame(0x81, stars(17).as_bytes()),
        // Too much is missing here: to mask it would show that a guess is right.
        frame(0x81, &KEY.as_bytes()[..12]),
    ]
    .concat();
    for piece in 1..=bytes.len() {
        let mut answers = searched();
        let mut out = Vec::new();
        for part in bytes.chunks(piece) {
            out.extend_from_slice(answers.pass(part).unwrap().bytes);
        }
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&wanted), "{piece}");
        assert!(answers.between());
    }
}

#[test]
fn of_two_values_that_begin_alike_the_longer_is_found() {
    let secrets = [&KEY[..12], KEY].map(Secret::from);
    let mut answers = searched_for(&secrets, &Guesses::default());
    let mut out = answers.pass(&frame(0x01, &KEY.as_bytes()[..14])).unwrap().bytes.to_vec();
    out.extend_from_slice(answers.pass(&frame(0x80, &KEY.as_bytes()[14..])).unwrap().bytes);
    assert_eq!(out.iter().filter(|byte| **byte == b'*').count(), KEY.len());
    let alone = frame(0x81, &KEY.as_bytes()[..12]);
    assert!(answers.pass(&alone).unwrap().bytes.ends_with(&[b'*'; 12]));
}

/// A line that ends with the beginning of a value may pass a little of it; the rest of the value is masked.
#[test]
fn a_value_is_found_over_lines_that_went_on() {
    for cut in 1..KEY.len() {
        let (one, two) = KEY.split_at(cut);
        let mut answers = searched();
        let mut out = answers.pass(&frame(0x01, format!("it is {one}\n").as_bytes())).unwrap().bytes.to_vec();
        out.extend_from_slice(answers.pass(&frame(0x80, format!("{two} .").as_bytes())).unwrap().bytes);
        let stars = out.iter().filter(|byte| **byte == b'*').count();
        assert!(stars >= KEY.len() - 3, "{cut}: {}", String::from_utf8_lossy(&out));
        assert!(out.ends_with(b" .") && answers.between());
    }
}

/// In fragments, in control frames between them, on one connection or on many: only a few times does what
/// waits reveal how a value begins.
#[test]
fn fragments_tell_little_of_how_a_value_begins() {
    let guesses = Guesses::default();
    let said = |text: &str, first: u8| {
        let frames = [frame(first, format!("you said {text}").as_bytes()), frame(0x89, b"ping")].concat();
        let mut answers = searched_for(&[Secret::from(KEY)], &guesses);
        answers.pass(&frames).unwrap().bytes.len()
    };
    let mut told = 0;
    for turn in 0..100 {
        let (right, wrong) = (said(&KEY[..12], 0x01), said("key-0123456~", 0x02));
        told += u32::from(right != wrong);
        assert!(turn > 0 || told == 1, "the control: at first they differ");
    }
    assert!(told <= redactor::guesses::MAX_OF_ONE, "{told}");
    assert_eq!(said(&KEY[..12], 0x01), said("~~~~~~~~~~~~", 0x01));
    // A message that is whole comes as before, and a value in it is covered.
    let mut answers = searched_for(&[Secret::from(KEY)], &guesses);
    let whole = [frame(0x81, b"and on"), frame(0x81, KEY.as_bytes())].concat();
    let out = answers.pass(&whole).unwrap().bytes.to_vec();
    assert_eq!(out, [frame(0x81, b"and on"), frame(0x81, &[b'*'; 20])].concat());
}

#[test]
fn frames_that_cant_be_searched_end_it() {
    for bytes in [
        &[0xc1, 1, b'x'][..],
        &[0x81, 0x81, 1, 2, 3, 4, b'x'],
        &[0xc1, 0],
        &[0x89, 126, 0, 126, b'x'],
        &[0x89, 127, 0, 0, 0, 0, 0, 0, 0, 1, b'x'],
        &[0x09, 1, b'x'],
    ] {
        assert!(searched().pass(bytes).is_err(), "{bytes:?}");
        assert!(Answers::new(None).pass(bytes).is_ok());
    }
}

/// Behind what could be the beginning of a value: fragments without an end, and pings between them.
#[test]
fn what_waits_is_bounded() {
    for more in [vec![0, 0], frame(0x89, &[b'x'; 125])] {
        let mut answers = searched();
        answers.pass(&frame(0x01, &KEY.as_bytes()[..12])).unwrap();
        let many = more.repeat(8192 / more.len());
        let passed = (0..10_000).take_while(|_| answers.pass(&many).is_ok()).count();
        let search = answers.search.unwrap();
        let held = search.raw.bytes.len() + search.control.sieve.held() + search.message.sieve.held();
        assert!(passed < 100 && held <= MAX_WAITING_ANSWER_BYTES + 2 * 8192, "{passed}, {held}");
    }
}

/// What a byte costs doesn't grow with what came before it, whatever that is, a byte at a time: what waits
/// isn't walked over either.
#[test]
fn each_byte_costs_a_bounded_number_of_steps() {
    let fragments = |bytes: &[u8]| -> Vec<u8> { bytes.iter().flat_map(|byte| [0, 1, *byte]).collect() };
    let begun = frame(0x01, &KEY.as_bytes()[..12]);
    let lines = [frame(0x01, b"key-\n"), fragments(&[b'\n'; 4000])].concat();
    let pings = [begun.clone(), frame(0x89, b"ping").repeat(1000)].concat();
    let empty = [begun.clone(), vec![0; 8000]].concat();
    let keys = [frame(0x01, b""), fragments(&KEY.as_bytes().repeat(200))].concat();
    let between = |byte: &u8| [&[0, 1, *byte][..], &frame(0x89, b"ping").repeat(20)].concat();
    let apart =
        [frame(0x01, b""), KEY.bytes().flat_map(|byte| between(&byte)).collect::<Vec<u8>>().repeat(3)]
            .concat();
    for bytes in [lines, pings, empty, keys, apart] {
        let mut answers = searched();
        STEPS.set(0);
        for byte in bytes.chunks(1) {
            assert!(answers.pass(byte).is_ok());
        }
        let each = STEPS.get() / bytes.len();
        assert!(each < 4, "{each} steps a byte of {:?}", &bytes[..20]);
    }
}

proptest! {
    #[test]
    fn what_holds_no_value_passes_byte_for_byte(
        payloads in prop::collection::vec("[key0-9-]{0,20}", 1..8), piece in 1_usize..40,
    ) {
        // A message that ends in the beginning of a value is the exception.
        prop_assume!(payloads.iter().all(|payload| !payload.contains("key-0123")));
        let bytes: Vec<u8> = payloads.iter().flat_map(|payload| frame(0x81, payload.as_bytes())).collect();
        let mut answers = searched();
        let mut out = Vec::new();
        for part in bytes.chunks(piece) {
            out.extend_from_slice(answers.pass(part).unwrap().bytes);
        }
        prop_assert_eq!(out, bytes);
    }
}

/// A server that never pauses has no thread to itself: after what one read brings, others have their turns.
#[tokio::test]
async fn a_turn_searches_what_one_read_brings() {
    let guard = Guard::for_tests(&[Secret::from(KEY)], Guesses::default().of(1, || {}));
    let bytes = frame(0x82, &[b'&'; 60_000]).repeat(4);
    let (moved, ending) = (AtomicU64::new(0), CancellationToken::new());
    let mut to = tokio::io::sink();
    let mut passing = pin!(unread(Some(&guard), (&*bytes, &mut to), &moved, (&ending, Begun::Finished)));
    let mut turns = 0;
    loop {
        let before = moved.load(Ordering::Relaxed);
        let ended = (&mut passing).now_or_never();
        let now = moved.load(Ordering::Relaxed);
        assert!(now - before <= READ_BYTES as u64, "{} in one turn", now - before);
        if ended.is_some() {
            break;
        }
        turns += 1;
        tokio::task::yield_now().await;
    }
    assert_eq!((moved.load(Ordering::Relaxed), turns), (bytes.len() as u64, bytes.len() / READ_BYTES));
}
