//! What the server of a WebSocket says: passed as it comes, and where a credential might be echoed, searched for it.
//!
//! A value becomes as many `*`, so frames stay as they were cut. It is found over fragments, and over control frames between
//! them: only what may be the beginning of one waits, and never beyond the end of its message.

use std::ops::Range;

use redactor::Screen;

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
        Self { frames: Boundary::default(), search: guard.map(|guard| Search::new(guard.screen())) }
    }

    /// Whether all that came went on, up to the end of a frame.
    pub(super) fn between(&self) -> bool {
        self.frames.between() && self.search.as_ref().is_none_or(|search| search.raw.is_empty())
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

/// Bytes that belong together: what of them went on and is looked at again, and what waits.
#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    /// So many of them went on.
    shown: usize,
    /// Where each of the others stands in what waits.
    at: Vec<usize>,
}

impl Gathered {
    fn push(&mut self, raw: &[u8], span: Range<usize>) {
        self.bytes.extend_from_slice(raw.get(span.clone()).unwrap_or_default());
        self.at.extend(span);
    }

    /// Covers every value in it, there and here; with `last`, also what is nearly one.
    fn mask(&mut self, screen: &Screen, raw: &mut [u8], last: bool) {
        let masked = if last { screen.masked(&self.bytes) } else { screen.masked_so_far(&self.bytes) };
        if let Some(masked) = masked {
            self.bytes = masked;
        }
        if last {
            let from = self.bytes.len() - screen.tail(&self.bytes).told;
            self.bytes.iter_mut().skip(from).for_each(|byte| *byte = b'*');
        }
        for (at, byte) in self.at.iter().zip(self.bytes.iter().skip(self.shown)) {
            if let Some(there) = raw.get_mut(*at) {
                *there = *byte;
            }
        }
        if last {
            *self = Self::default();
        }
    }

    /// Where the first byte stands that must wait, of which so many at the end do.
    fn first_waiting(&self, waits: usize) -> Option<usize> {
        let from = self.bytes.len().saturating_sub(waits).saturating_sub(self.shown);
        self.at.get(from).copied()
    }

    /// Forgets what went on, but for what is to be looked at again: so many at the end.
    fn drop_before(&mut self, release: usize, recalled: usize) {
        let gone = self.at.partition_point(|at| *at < release);
        self.at.drain(..gone);
        self.at.iter_mut().for_each(|at| *at -= release);
        self.shown += gone;
        let forgotten = self.bytes.len().saturating_sub(recalled).min(self.shown);
        self.bytes.drain(..forgotten);
        self.shown -= forgotten;
    }
}

struct Search {
    screen: Screen,
    /// What waits.
    raw: Vec<u8>,
    /// What went on last.
    out: Vec<u8>,
    /// Where in `raw` frames end.
    ends: Vec<usize>,
    /// The message so far, as far as it waits.
    message: Gathered,
    /// The control frame so far.
    control: Gathered,
}

impl Search {
    fn new(screen: &Screen) -> Self {
        Self {
            screen: screen.clone(),
            raw: Vec::new(),
            out: Vec::new(),
            ends: Vec::new(),
            message: Gathered::default(),
            control: Gathered::default(),
        }
    }

    fn pass(&mut self, frames: &mut Boundary, bytes: &[u8]) -> Result<Passing<'_>, Unsearchable> {
        let base = self.raw.len();
        self.raw.extend_from_slice(bytes);
        let mut readable = true;
        frames.feed(bytes, |piece| match piece {
            Piece::Payload { at, head } => {
                readable &= head.is_searchable();
                let span = at.start + base..at.end + base;
                if head.is_control() { &mut self.control } else { &mut self.message }.push(&self.raw, span);
            }
            Piece::End { at, head } => {
                readable &= head.is_searchable();
                self.ends.push(at + base);
                if head.is_control() {
                    self.control.mask(&self.screen, &mut self.raw, true);
                } else if head.is_last() {
                    self.message.mask(&self.screen, &mut self.raw, true);
                }
            }
        });
        if !readable {
            return Err(Unsearchable);
        }
        self.message.mask(&self.screen, &mut self.raw, false);
        let tail = self.screen.tail(&self.message.bytes);
        let waits = [self.message.first_waiting(tail.waits), self.control.at.first().copied()];
        let release = waits.into_iter().flatten().min().unwrap_or(self.raw.len());
        self.out = self.raw.drain(..release).collect();
        self.message.drop_before(release, tail.recalled);
        self.control.drop_before(release, 0);
        let first_end = self.ends.first().copied().filter(|end| *end <= release);
        self.ends.retain(|end| *end > release);
        self.ends.iter_mut().for_each(|end| *end -= release);
        if self.raw.len() > MAX_WAITING_ANSWER_BYTES || self.ends.len() > MAX_ENDS {
            return Err(Unsearchable);
        }
        Ok(Passing { bytes: &self.out, first_end })
    }
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
    use redactor::{Mask, Secret};

    use super::*;

    const KEY: &str = "key-0123456789abcdef";

    fn searched() -> Answers {
        let screen = Screen::new([&Secret::from(KEY)], Mask::Stars).unwrap();
        Answers { frames: Boundary::default(), search: Some(Search::new(&screen)) }
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
        let screen = Screen::new(&secrets, Mask::Stars).unwrap();
        let mut answers = Answers { frames: Boundary::default(), search: Some(Search::new(&screen)) };
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
            let held = search.raw.len() + search.control.bytes.len() + search.message.bytes.len();
            assert!(passed < 100 && held <= MAX_WAITING_ANSWER_BYTES + 2 * 8192, "{passed}, {held}");
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
