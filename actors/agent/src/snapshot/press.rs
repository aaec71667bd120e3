//! Compresses an archive's bytes as they come, by gzip at its quickest level. Of the two formats that the
//! crates at hand can write, it is the quicker by half or more, and the smaller, on text, programs and noise
//! alike.

use std::io::{self, BufRead, BufReader, Read, Write};

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;

/// A writer that compresses what is written to it, and counts the bytes.
pub(super) struct Press<W: Write> {
    gzip: GzEncoder<W>,
    written: u64,
}

impl<W: Write> Press<W> {
    pub(super) fn new(out: W) -> Self {
        Self { gzip: GzEncoder::new(out, Compression::fast()), written: 0 }
    }

    /// Finishes; returns the number of bytes before compression.
    pub(super) fn finish(self) -> io::Result<u64> {
        self.gzip.finish()?.flush()?;
        Ok(self.written)
    }
}

impl<W: Write> Write for Press<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.gzip.write(bytes)?;
        self.written += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.gzip.flush()
    }
}

/// A reader that uncompresses one gzip member.
pub(super) struct Plain<R: Read>(GzDecoder<BufReader<R>>);

impl<R: Read> Plain<R> {
    pub(super) fn new(stored: R) -> Self {
        Self(GzDecoder::new(BufReader::new(stored)))
    }

    /// Whether nothing follows the member, once it is read to its end.
    pub(super) fn is_all(&mut self) -> io::Result<bool> {
        Ok(self.0.get_mut().fill_buf()?.is_empty())
    }
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}
