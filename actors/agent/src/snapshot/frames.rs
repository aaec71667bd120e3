//! Compression, a piece at a time: each is a zstd frame of its own (RFC 8878, section 3), so no more than a piece is held.

use std::io::{self, Write};

use ruzstd::encoding::{CompressionLevel, compress_to_vec};

/// Bytes of one piece.
const PIECE: usize = 4 << 20;

/// Compresses what is written to it.
pub(super) struct Frames<W: Write> {
    out: W,
    held: Vec<u8>,
    written: u64,
}

impl<W: Write> Frames<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, held: Vec::with_capacity(PIECE), written: 0 }
    }

    fn put(&mut self) -> io::Result<()> {
        if !self.held.is_empty() {
            self.out.write_all(&compress_to_vec(self.held.as_slice(), CompressionLevel::Fastest))?;
            self.held.clear();
        }
        Ok(())
    }

    /// Writes what is held, and says how many bytes there were before they were compressed.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.put()?;
        self.out.flush()?;
        Ok(self.written)
    }
}

impl<W: Write> Write for Frames<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE.saturating_sub(self.held.len());
        let (now, _) = bytes.split_at(room.min(bytes.len()));
        self.held.extend_from_slice(now);
        self.written += now.len() as u64;
        if self.held.len() >= PIECE {
            self.put()?;
        }
        Ok(now.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
