//! Passes on what the server of a WebSocket sends, as it comes; where a credential might be echoed, it is
//! searched for it.
//!
//! Each byte of a value becomes a `*`, so frames stay as they were cut. A value is found across fragments,
//! and across control frames between them: only bytes that may be the beginning of a value wait, and never
//! beyond the end of their message. What a byte costs doesn't grow with what came before it, however small
//! the pieces are in which a server sends it.

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

/// The bytes that may be passed on now.
pub(super) struct Passing<'a> {
    pub(super) bytes: &'a [u8],
    /// Offset in `bytes` at which the first frame ends.
    pub(super) first_end: Option<usize>,
}

/// The server's frames can't be searched, since they are masked, have reserved bits or are invalid control
/// frames; or more would have to wait than can be the beginning of a value.
#[derive(Debug)]
pub(super) struct Unsearchable;

/// Most frames that end within the waiting bytes: a value that is sent byte by byte has a frame for each.
const MAX_ENDS: usize = 16 * 1024;

impl Answers {
    pub(super) fn new(guard: Option<&Guard>) -> Self {
        Self { frames: Boundary::default(), search: guard.map(Search::new) }
    }

    /// Whether all that came was passed on, and ended with the end of a frame.
    pub(super) fn between(&self) -> bool {
        self.frames.between() && self.search.as_ref().is_none_or(|search| search.raw.bytes.is_empty())
    }

    /// Takes bytes that came, and returns those that may be passed on.
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

/// The server's bytes that wait. Positions are counted from the connection's first byte, so that none moves
/// when earlier bytes are passed on.
#[derive(Default)]
struct Raw {
    bytes: BytesMut,
    /// Position of the first of them.
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

    /// Takes out the bytes before this position.
    fn take_before(&mut self, place: u64) -> BytesMut {
        let length = self.at(&(place..place)).map_or(0, |span| span.start.min(self.bytes.len()));
        self.from += length as u64;
        self.bytes.split_to(length)
    }
}

/// The search through bytes that belong together (one message or control frame), and the positions of those
/// that wait in it.
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

    /// Ends the search: masks also what is nearly a value.
    fn end(&mut self, raw: &mut Raw, guard: &Guard) {
        let decided = self.sieve.finish();
        self.settle(raw, &decided);
        *self = Self::new(guard);
    }

    /// Writes decided bytes back to where they came from: a value and its mask have the same length.
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

    /// Position of the first byte that waits.
    fn first_waiting(&self) -> Option<u64> {
        self.waiting.front().map(|span| span.start)
    }
}

struct Search {
    guard: Guard,
    raw: Raw,
    /// The bytes that were passed on last.
    out: BytesMut,
    /// Positions at which frames in `raw` end.
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

// Steps of all searches of this thread, for tests; those of the redactor are tested in its own crate.
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

    /// Whether the frame is neither masked nor has reserved bits. A control frame must also be whole and
    /// short (RFC 6455 section 5.5), since its bytes wait for its end.
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

/// Follows where the server's frames end.
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

    /// Advances by `bytes`, and calls `each` with the pieces that they are.
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
mod tests;
