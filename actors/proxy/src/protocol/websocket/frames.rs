//! A client's WebSocket frames (RFC 6455 section 5), read strictly and put together to messages.
//!
//! Masked, no reserved bits (no extension was agreed), known opcodes, control frames whole and short,
//! fragments in order, lengths in their shortest form. Bounded in bytes and fragments. This keeps the frames
//! as they came, and never says whether a message may go on.

use crate::limits::{MAX_MESSAGE_BYTES, MAX_MESSAGE_FRAMES};

/// Longest payload of a control frame (RFC 6455 section 5.5).
pub(super) const MAX_CONTROL_BYTES: u64 = 125;
/// A protocol error (section 7.4.1).
pub(super) const PROTOCOL_ERROR: u16 = 1002;
/// A message that is too big.
pub(super) const TOO_BIG: u16 = 1009;

/// Frames that no client may send, or that are too much: the code that the connection ends with, and why.
#[derive(Debug)]
pub(crate) struct Wrong(pub(crate) u16, pub(crate) &'static str);

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    last: bool,
    opcode: u8,
    mask: [u8; 4],
    payload: u64,
    /// Bytes of the header itself.
    length: usize,
}

/// Reads a frame's header from the front of `bytes`; `None` if more is needed.
fn header(bytes: &[u8]) -> Result<Option<Header>, Wrong> {
    let wrong = |why| Err(Wrong(PROTOCOL_ERROR, why));
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 {
        return wrong("a reserved bit is set, and no extension was agreed");
    }
    if second & 0x80 == 0 {
        return wrong("a client's frame is not masked");
    }
    let (payload, rest) = match second & 0x7f {
        126 => {
            let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
            let length = u64::from(u16::from_be_bytes(*length));
            if length < 126 {
                return wrong("a length is not in its shortest form");
            }
            (length, rest)
        }
        127 => {
            let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
            let length = u64::from_be_bytes(*length);
            if length <= u64::from(u16::MAX) || length >> 63 != 0 {
                return wrong("a length is not in its shortest form");
            }
            (length, rest)
        }
        length => (u64::from(length), rest),
    };
    let Some((mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
    match opcode {
        0..=2 => {}
        8..=10 if !last => return wrong("a control frame is in fragments"),
        8..=10 if payload > MAX_CONTROL_BYTES => return wrong("a control frame is too long"),
        8..=10 => {}
        _ => return wrong("a frame has an unknown opcode"),
    }
    Ok(Some(Header { last, opcode, mask: *mask, payload, length: bytes.len() - rest.len() }))
}

/// The client's frames that aren't judged yet.
#[derive(Default)]
pub(crate) struct Inbox {
    /// Frames as they came.
    pub(crate) raw: Vec<u8>,
    /// Offset in `raw` of the next frame that wasn't looked at.
    at: usize,
    /// The message so far, unmasked.
    pub(crate) message: Vec<u8>,
    /// The opcode of the message that is under way.
    kind: Option<u8>,
    frames: usize,
}

/// What is complete.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// A text message is whole: judge it, then send what [`Inbox::take`] returns.
    Text,
    /// The same for a binary message.
    Binary,
    /// A control frame; one that came between fragments is sent on before them.
    Control(Vec<u8>),
}

impl Inbox {
    /// Bytes that wait in `raw`; `message` takes as many again at most.
    pub(super) fn holds(&self) -> usize {
        self.raw.len()
    }

    /// Reads on to the next whole message or control frame; none while more bytes are needed.
    pub(crate) fn next(&mut self) -> Result<Option<Ready>, Wrong> {
        loop {
            let unseen = self.raw.get(self.at..).unwrap_or_default();
            let Some(header) = header(unseen)? else { return Ok(None) };
            let too_big = Err(Wrong(TOO_BIG, "a message is longer than is judged"));
            let Ok(payload) = usize::try_from(header.payload) else { return too_big };
            if self.message.len().saturating_add(payload) > MAX_MESSAGE_BYTES {
                return too_big;
            }
            let end = header.length + payload;
            let Some(bytes) = unseen.get(header.length..end) else { return Ok(None) };
            if header.opcode >= 8 {
                let frame: Vec<u8> = self.raw.drain(self.at..self.at + end).collect();
                return Ok(Some(Ready::Control(frame)));
            }
            let wrong = |why| Err(Wrong(PROTOCOL_ERROR, why));
            match (self.kind, header.opcode) {
                (None, 0) => return wrong("a fragment continues nothing"),
                (Some(_), 1 | 2) => return wrong("a message begins within another"),
                (None, kind) => self.kind = Some(kind),
                (Some(_), _) => {}
            }
            self.frames += 1;
            if self.frames > MAX_MESSAGE_FRAMES {
                return Err(Wrong(TOO_BIG, "a message is in too many fragments"));
            }
            self.message.extend(bytes.iter().zip(header.mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
            self.at += end;
            if header.last {
                return Ok(Some(if self.kind == Some(1) { Ready::Text } else { Ready::Binary }));
            }
        }
    }

    /// Returns one text frame with `content` instead of the message's, under the mask of the message's first
    /// frame.
    pub(super) fn frame(&self, content: &[u8]) -> Vec<u8> {
        let mask = header(&self.raw).ok().flatten().map_or([0; 4], |header| header.mask);
        let mut out = vec![0x81];
        match content.len() {
            length @ 0..126 => out.push(0x80 | u8::try_from(length).unwrap_or_default()),
            length => match u16::try_from(length) {
                Ok(length) => {
                    out.push(0x80 | 126);
                    out.extend(length.to_be_bytes());
                }
                Err(_) => {
                    out.push(0x80 | 127);
                    out.extend((length as u64).to_be_bytes());
                }
            },
        }
        out.extend(mask);
        out.extend(content.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }

    /// Takes out the frames of the message that was judged, as they came.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        // A new vector, so that the memory of a long message isn't kept.
        self.message = Vec::new();
        self.kind = None;
        self.frames = 0;
        let rest = self.raw.split_off(self.at);
        self.at = 0;
        std::mem::replace(&mut self.raw, rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut out = vec![first];
        match payload.len() {
            length @ 0..126 => out.push(0x80 | length as u8),
            length @ 126..65536 => {
                out.push(0x80 | 126);
                out.extend((length as u16).to_be_bytes());
            }
            length => {
                out.push(0x80 | 127);
                out.extend((length as u64).to_be_bytes());
            }
        }
        out.extend(mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
        out
    }

    #[test]
    fn fragments_are_put_together_and_sent_as_they_came() {
        let bytes =
            [frame(0x01, b"hel"), frame(0x89, b"ping"), frame(0x80, b"lo"), frame(0x81, b"x")].concat();
        // In pieces of every size, the same comes out.
        for piece in 1..bytes.len() {
            let mut inbox = Inbox::default();
            let mut out = Vec::new();
            for part in bytes.chunks(piece) {
                inbox.raw.extend_from_slice(part);
                while let Some(ready) = inbox.next().unwrap() {
                    match ready {
                        Ready::Control(frame) => out.push(("control".to_owned(), frame)),
                        Ready::Text => {
                            out.push((String::from_utf8(inbox.message.clone()).unwrap(), inbox.take()));
                        }
                        Ready::Binary => panic!(),
                    }
                }
            }
            let words: Vec<&str> = out.iter().map(|(word, _)| word.as_str()).collect();
            assert_eq!(words, ["control", "hello", "x"], "{piece}");
            assert_eq!(out[0].1, frame(0x89, b"ping"));
            assert_eq!(out[1].1, [frame(0x01, b"hel"), frame(0x80, b"lo")].concat());
            assert_eq!(out[2].1, frame(0x81, b"x"));
        }
    }

    #[test]
    fn frames_that_no_client_sends_end_the_connection() {
        let long = [0x81, 0x80 | 126, 0, 5, 0, 0, 0, 0, 1, 2, 3, 4, 5];
        let longer = [0x81, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0];
        let huge = [0x81, 0x80 | 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        let cases: Vec<Vec<u8>> = vec![
            vec![0x81, 0x01, b'x'],
            frame(0xc1, b"x"),
            frame(0xa1, b"x"),
            frame(0x91, b"x"),
            frame(0x83, b"x"),
            frame(0x8b, b"x"),
            frame(0x09, b"x"),
            frame(0x89, &[0; 126]),
            frame(0x80, b"x"),
            [frame(0x01, b"a"), frame(0x81, b"b")].concat(),
            long.to_vec(),
            longer.to_vec(),
            huge.to_vec(),
            frame(0x81, b"x").repeat(1).into_iter().chain(frame(0x00, b"x")).collect(),
        ];
        for bytes in cases {
            let mut inbox = Inbox { raw: bytes.clone(), ..Inbox::default() };
            let mut ended = false;
            for _ in 0..3 {
                match inbox.next() {
                    Ok(Some(Ready::Control(_)) | None) => {}
                    Ok(Some(_)) => drop(inbox.take()),
                    Err(_) => ended = true,
                }
            }
            assert!(ended, "{bytes:?}");
        }
        let raw = [frame(0x01, b""), frame(0x00, b"").repeat(MAX_MESSAGE_FRAMES)].concat();
        let mut inbox = Inbox { raw, ..Inbox::default() };
        assert!(inbox.next().is_err());
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut inbox = Inbox { raw: bytes, ..Inbox::default() };
            for _ in 0..8 {
                match inbox.next() {
                    Ok(Some(Ready::Text | Ready::Binary)) => drop(inbox.take()),
                    Ok(Some(Ready::Control(_))) => {}
                    _ => break,
                }
            }
        }
    }
}
