//! Where a request body ends.
//!
//! Follows a body as its bytes pass, by length or by strict chunks, so that the byte after it is always known
//! to begin the next head. Accepts no chunk extension, no size of more than 15 digits, no bare LF, and no
//! trailer that could change how a message is read. Must never buffer a body.

use super::{Violation, head};
use crate::limits::{MAX_CHUNK_LINE_BYTES, MAX_HEADERS, MAX_TRAILER_BYTES};

/// The state of one body: how much of it is still to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes remain.
    Length(u64),
    /// Chunks remain.
    Chunked(Chunks),
}

/// Where in a chunked body we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunks {
    at: At,
    /// The line being read, without data: a size line or a trailer line. Bounded by its limits.
    line: Vec<u8>,
    trailers: usize,
    trailer_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size,
    Data(u64),
    DataCr,
    DataLf,
    Trailer,
    End,
}

impl Framing {
    /// A body of `bytes` bytes.
    pub fn length(bytes: u64) -> Self {
        Self::Length(bytes)
    }

    /// A chunked body, at its beginning.
    pub fn chunked() -> Self {
        Self::Chunked(Chunks { at: At::Size, line: Vec::new(), trailers: 0, trailer_bytes: 0 })
    }

    /// No byte of this body remains.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Length(remaining) => *remaining == 0,
            Self::Chunked(chunks) => chunks.at == At::End,
        }
    }

    /// Takes what of `bytes` belongs to this body; the answer is how many bytes that is.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        match self {
            Self::Length(remaining) => {
                let taken = usize::try_from(*remaining).unwrap_or(usize::MAX).min(bytes.len());
                *remaining -= taken as u64;
                Ok(taken)
            }
            Self::Chunked(chunks) => chunks.advance(bytes),
        }
    }
}

impl Chunks {
    fn advance(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let mut used = 0;
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            used += match self.at {
                At::Data(remaining) => self.data(remaining, rest),
                At::End => return Ok(used),
                _ => {
                    self.byte(rest.first().copied().unwrap_or_default())?;
                    1
                }
            };
        }
        Ok(used)
    }

    fn data(&mut self, remaining: u64, bytes: &[u8]) -> usize {
        let taken = usize::try_from(remaining).unwrap_or(usize::MAX).min(bytes.len());
        let left = remaining - taken as u64;
        self.at = if left == 0 { At::DataCr } else { At::Data(left) };
        taken
    }

    fn byte(&mut self, byte: u8) -> Result<(), Violation> {
        match (self.at, byte) {
            (At::DataCr, b'\r') => self.at = At::DataLf,
            (At::DataLf, b'\n') => self.at = At::Size,
            (At::Size, _) => {
                if let Some(line) = self.line_byte(byte, MAX_CHUNK_LINE_BYTES)? {
                    self.at = match size(&line)? {
                        0 => At::Trailer,
                        size => At::Data(size),
                    };
                }
            }
            (At::Trailer, _) => {
                self.trailer_bytes += 1;
                if self.trailer_bytes > MAX_TRAILER_BYTES {
                    return Err(Violation::TooLarge);
                }
                match self.line_byte(byte, MAX_TRAILER_BYTES)? {
                    Some(line) if line.is_empty() => self.at = At::End,
                    Some(line) => self.trailer(&line)?,
                    None => {}
                }
            }
            _ => return Err(Violation::Chunk),
        }
        Ok(())
    }

    /// Adds a byte to the line; the whole line (without CR LF) when it ends.
    fn line_byte(&mut self, byte: u8, limit: usize) -> Result<Option<Vec<u8>>, Violation> {
        match (self.line.last(), byte) {
            (Some(b'\r'), b'\n') => {
                self.line.pop();
                Ok(Some(std::mem::take(&mut self.line)))
            }
            (Some(b'\r'), _) | (_, b'\n') => Err(Violation::Chunk),
            _ if self.line.len() >= limit => Err(Violation::Chunk),
            _ => {
                self.line.push(byte);
                Ok(None)
            }
        }
    }

    fn trailer(&mut self, line: &[u8]) -> Result<(), Violation> {
        self.trailers += 1;
        if self.trailers > MAX_HEADERS {
            return Err(Violation::TooLarge);
        }
        let (name, _value) = head::field(line)?;
        // RFC 9110 section 6.5.1: what frames, routes or authenticates has no place after the body.
        const FORBIDDEN: [&[u8]; 10] = [
            b"content-length",
            b"transfer-encoding",
            b"host",
            b"connection",
            b"upgrade",
            b"te",
            b"trailer",
            b"expect",
            b"authorization",
            b"cookie",
        ];
        match FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden)) {
            true => Err(Violation::Chunk),
            false => Ok(()),
        }
    }
}

/// A chunk size: hexadecimal digits only (RFC 9112 section 7.1, extensions refused), below 2^60.
fn size(line: &[u8]) -> Result<u64, Violation> {
    let plain = !line.is_empty() && line.len() <= 15 && line.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(line).map_err(|_| Violation::Chunk)?;
    if !plain {
        return Err(Violation::Chunk);
    }
    u64::from_str_radix(text, 16).map_err(|_| Violation::Chunk)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(bytes: &[u8], step: usize) -> Result<(usize, bool), Violation> {
        let mut framing = Framing::chunked();
        let mut used = 0;
        for piece in bytes.chunks(step.max(1)) {
            let taken = framing.advance(piece)?;
            used += taken;
            if taken < piece.len() {
                break;
            }
        }
        Ok((used, framing.is_empty()))
    }

    #[test]
    fn chunked_bodies_end_where_they_end() {
        let body = b"5\r\nhello\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n";
        let mut with_next = body.to_vec();
        with_next.extend_from_slice(b"GET / HTTP/1.1\r\n");
        for step in 1..with_next.len() {
            assert_eq!(run(&with_next, step), Ok((body.len(), true)), "in steps of {step}");
        }
        assert_eq!(run(b"0\r\n\r\n", 1), Ok((5, true)));
        assert_eq!(run(b"5\r\nhel", 2), Ok((6, false)));
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for bad in [
            &b"5;ext=1\r\nhello\r\n"[..],
            b"5 \r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"+5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b"5\nhello\r\n",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\n",
            b"5\r\nhello\rX",
            b"\r\n\r\n",
            b"g\r\n",
            b"-1\r\n",
            b"ffffffffffffffff\r\n",
            b"10000000000000000\r\n",
            b"0\r\nContent-Length: 5\r\n\r\n",
            b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"0\r\nHost: b\r\n\r\n",
            b"0\r\n folded\r\n\r\n",
            b"0\r\nX : y\r\n\r\n",
            b"0\r\nX: y\n\r\n",
            b"0\r\n\n",
        ] {
            assert!(run(bad, 1).is_err(), "{:?}", String::from_utf8_lossy(bad));
            assert!(run(bad, bad.len()).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn lengths_leave_the_surplus() {
        let mut framing = Framing::length(3);
        assert_eq!(framing.advance(b"abcde"), Ok(3));
        assert!(framing.is_empty());
        assert_eq!(framing.advance(b"de"), Ok(0));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6), step in 1usize..50) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            let whole = bytes.len();
            bytes.extend_from_slice(b"NEXT");
            prop_assert_eq!(run(&bytes, step), Ok((whole, true)));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), step in 1usize..20) {
            let _ = run(&bytes, step);
        }
    }
}
