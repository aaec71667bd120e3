//! What the server of a WebSocket says: passed as it comes, and where a credential might be echoed, searched for it.
//!
//! A value becomes as many `*`, so frames stay as they were cut. It is found over fragments, and over control frames between
//! them: only what may be the beginning of one waits, and never beyond the end of its message. What a byte costs doesn't grow with what
//! came before it, however small the pieces are in which a server sends it.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use redactor::Sieve;

use super::frames::MAX_CONTROL_BYTES;
use crate::credentials::Guard;
use crate::limits::MAX_WAITING_ANSWER_BYTES;

/// One connection's answers.
pub(super) struct Answers {
    frames: Boundary,
    search: Option<Search>,
}

/// What may go on now.
pub(super) struct Passing<'a> {
    pub(super) bytes: &'a [u8],
    /// Where in them the first frame ends.
    pub(super) first_end: Option<usize>,
}

/// The server's frames are masked, have reserved bits or are such control frames as there are none, so that nobody can search them; or
/// more would have to wait than can be the beginning of a value.
#[derive(Debug)]
pub(super) struct Unsearchable;

/// Frames that end in what waits, at most: a value in single bytes is one for each.
const MAX_ENDS: usize = 16 * 1024;

impl Answers {
    pub(super) fn new(guard: Option<&Guard>) -> Self {
        Self { frames: Boundary::default(), search: guard.map(Search::new) }
    }

    /// Whether all that came went on, up to the end of a frame.
    pub(super) fn between(&self) -> bool {
        self.frames.between() && self.search.as_ref().is_none_or(|search| search.raw.bytes.is_empty())
    }

    /// Takes what came.
    pub(super) fn pass<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Passing<'a>, Unsearchable> {
        match &mut self.search {
            Some(search) => search.pass(&mut self.frames, bytes),
            None => {
                let mut first_end = None;
                self.frames.feed(bytes, |piece| {
                    if let Piece::End { at, .. } = piece {
                        first_end = first_end.or(Some(at));
                    }
                });
                Ok(Passing { bytes, first_end })
            }
        }
    }
}

/// What waits of the server's bytes. Places are counted from the connection's first byte, so that none moves when others go on.
#[derive(Default)]
struct Raw {
    bytes: BytesMut,
    /// The place of the first of them.
    from: u64,
}

impl Raw {
    fn end(&self) -> u64 {
        self.from + self.bytes.len() as u64
    }

    fn at(&self, span: &Range<u64>) -> Option<Range<usize>> {
        let near = |place: u64| usize::try_from(place.checked_sub(self.from)?).ok();
        Some(near(span.start)?..near(span.end)?)
    }

    fn get(&self, span: &Range<u64>) -> &[u8] {
        self.at(span).and_then(|span| self.bytes.get(span)).unwrap_or_default()
    }

    fn get_mut(&mut self, span: &Range<u64>) -> &mut [u8] {
        self.at(span).and_then(|span| self.bytes.get_mut(span)).unwrap_or_default()
    }

    /// Gives what stands before this place.
    fn take_before(&mut self, place: u64) -> BytesMut {
        let length = self.at(&(place..place)).map_or(0, |span| span.start.min(self.bytes.len()));
        self.from += length as u64;
        self.bytes.split_to(length)
    }
}

/// Bytes that belong together, on their way through a search, and where those stand that wait in it.
struct Gathered {
    sieve: Sieve,
    waiting: VecDeque<Range<u64>>,
}

impl Gathered {
    fn new(guard: &Guard) -> Self {
        Self { sieve: guard.sieve(), waiting: VecDeque::new() }
    }

    fn push(&mut self, raw: &mut Raw, span: Range<u64>) {
        let bytes = Bytes::copy_from_slice(raw.get(&span));
        count(bytes.len());
        self.waiting.push_back(span);
        let decided = self.sieve.push(bytes);
        self.settle(raw, &decided);
    }

    /// No more belongs to them: covers also what is nearly a value.
    fn end(&mut self, raw: &mut Raw, guard: &Guard) {
        let decided = self.sieve.finish();
        self.settle(raw, &decided);
        *self = Self::new(guard);
    }

    /// Puts what is decided where it came from: a value is as long there as its cover.
    fn settle(&mut self, raw: &mut Raw, mut decided: &[u8]) {
        while let Some(span) = self.waiting.pop_front() {
            count(1);
            let there = raw.get_mut(&span);
            let length = decided.len().min(there.len());
            let (now, later) = decided.split_at(length);
            decided = later;
            there.iter_mut().zip(now).for_each(|(there, byte)| *there = *byte);
            if length < there.len() {
                return self.waiting.push_front(span.start + length as u64..span.end);
            }
        }
    }

    /// Where the first byte stands that waits.
    fn first_waiting(&self) -> Option<u64> {
        self.waiting.front().map(|span| span.start)
    }
}

struct Search {
    guard: Guard,
    raw: Raw,
    /// What went on last.
    out: BytesMut,
    /// Where in `raw` frames end.
    ends: VecDeque<u64>,
    /// The message so far, as far as it waits.
    message: Gathered,
    /// The control frame so far.
    control: Gathered,
}

impl Search {
    fn new(guard: &Guard) -> Self {
        Self {
            guard: guard.clone(),
            raw: Raw::default(),
            out: BytesMut::new(),
            ends: VecDeque::new(),
            message: Gathered::new(guard),
            control: Gathered::new(guard),
        }
    }

    fn pass(&mut self, frames: &mut Boundary, bytes: &[u8]) -> Result<Passing<'_>, Unsearchable> {
        let Self { guard, raw, message, control, ends, .. } = self;
        let base = raw.end();
        raw.bytes.extend_from_slice(bytes);
        let mut readable = true;
        frames.feed(bytes, |piece| match piece {
            Piece::Payload { at, head } => {
                readable &= head.is_searchable();
                let span = base + at.start as u64..base + at.end as u64;
                if head.is_control() { &mut *control } else { &mut *message }.push(raw, span);
            }
            Piece::End { at, head } => {
                readable &= head.is_searchable();
                ends.push_back(base + at as u64);
                if head.is_control() {
                    control.end(raw, guard);
                } else if head.is_last() {
                    message.end(raw, guard);
                }
            }
        });
        if !readable {
            return Err(Unsearchable);
        }
        let waits = [message.first_waiting(), control.first_waiting()];
        let release = waits.into_iter().flatten().min().unwrap_or(raw.end());
        let from = raw.from;
        self.out = raw.take_before(release);
        let first_end =
            ends.front().filter(|end| **end <= release).and_then(|end| usize::try_from(end - from).ok());
        while ends.front().is_some_and(|end| *end <= release) {
            count(1);
            ends.pop_front();
        }
        if raw.bytes.len() > MAX_WAITING_ANSWER_BYTES || ends.len() > MAX_ENDS {
            return Err(Unsearchable);
        }
        Ok(Passing { bytes: &self.out, first_end })
    }
}

// Steps of all searches of this thread, for tests; what the redactor's take is tested there.
#[cfg(test)]
std::thread_local!(static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) });

/// Counts what a search costs.
fn count(steps: usize) {
    #[cfg(test)]
    STEPS.set(STEPS.get() + steps);
    #[cfg(not(test))]
    let _ = steps;
}

/// The first two bytes of a frame.
#[derive(Debug, Clone, Copy, Default)]
struct Head([u8; 2]);

impl Head {
    fn is_control(self) -> bool {
        self.0[0] & 0x08 != 0
    }

    fn is_last(self) -> bool {
        self.0[0] & 0x80 != 0
    }

    /// Neither masked nor with reserved bits; a control frame whole and short (RFC 6455 section 5.5), since what it is waits for its end.
    fn is_searchable(self) -> bool {
        let is_clear = self.0[0] & 0x70 == 0 && self.0[1] & 0x80 == 0;
        is_clear && (!self.is_control() || self.is_last() && u64::from(self.0[1] & 0x7f) <= MAX_CONTROL_BYTES)
    }
}

/// A part of the server's bytes.
enum Piece {
    /// Payload of a frame.
    Payload { at: Range<usize>, head: Head },
    /// A frame ends before this byte.
    End { at: usize, head: Head },
}

/// Where the server's frames end.
#[derive(Default)]
struct Boundary {
    header: Vec<u8>,
    head: Head,
    left: u64,
}

impl Boundary {
    fn between(&self) -> bool {
        self.header.is_empty() && self.left == 0
    }

    /// Goes on by `bytes`, and tells what they are.
    fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Piece)) {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if self.left > 0 {
                let taken = rest.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                each(Piece::Payload { at: at..at + taken, head: self.head });
                self.left -= taken as u64;
                at += taken;
            } else {
                self.header.extend(rest.first());
                at += 1;
                let Some(payload) = self.payload() else { continue };
                self.head = Head(self.header.first_chunk().copied().unwrap_or_default());
                self.header.clear();
                self.left = payload;
            }
            if self.between() {
                each(Piece::End { at, head: self.head });
            }
        }
    }

    /// The payload's length, once the header is whole.
    fn payload(&self) -> Option<u64> {
        let [_, second, rest @ ..] = self.header.as_slice() else { return None };
        let (length, rest) = match second & 0x7f {
            126 => rest
                .split_first_chunk()
                .map(|(length, rest)| (u64::from(u16::from_be_bytes(*length)), rest))?,
            127 => rest.split_first_chunk().map(|(length, rest)| (u64::from_be_bytes(*length), rest))?,
            length => (u64::from(length), rest),
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        (rest.len() >= mask).then_some(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redactor::{Guesses, Secret};

    use super::*;

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
            // What is so far from whole shows no guess to be right.
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

    /// Of a line that ends as a value begins a little goes on, and what makes it one is covered.
    #[test]
    fn a_value_is_found_over_lines_that_went_on() {
        for cut in 1..KEY.len() {
            let (one, two) = KEY.split_at(cut);
            let mut answers = searched();
            let mut out =
                answers.pass(&frame(0x01, format!("it is {one}\n").as_bytes())).unwrap().bytes.to_vec();
            out.extend_from_slice(answers.pass(&frame(0x80, format!("{two} .").as_bytes())).unwrap().bytes);
            let stars = out.iter().filter(|byte| **byte == b'*').count();
            assert!(stars >= KEY.len() - 3, "{cut}: {}", String::from_utf8_lossy(&out));
            assert!(out.ends_with(b" .") && answers.between());
        }
    }

    /// In fragments, in control frames between them, on one connection or on many: what waits tells a few times how a value begins.
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

    /// What a byte costs doesn't grow with what came before it, whatever that is, a byte at a time: what waits isn't walked over either.
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
}
