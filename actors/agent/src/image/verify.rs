//! A reader that hashes what passes, fails beyond a size, and tells in the end whether size and digest were
//! as expected.

use super::{Digest, ImageError, refused};
use sha2::{Digest as _, Sha256};
use std::io::{self, Read};

/// How many bytes are expected.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Size {
    /// Exactly so many.
    Exactly(u64),
    /// At most so many.
    AtMost(u64),
}

/// A verifying reader; see the module.
pub(crate) struct Verified<R> {
    inner: R,
    hasher: Sha256,
    expected: Digest,
    size: Size,
    seen: u64,
    what: String,
}

/// The error for bytes that are more or fewer than their descriptor says.
pub(crate) fn another_size(what: &str, there_are: u64, said: u64) -> ImageError {
    refused(format!("{what} has {there_are} bytes, and its descriptor says {said}"))
}

impl<R: Read> Verified<R> {
    pub(crate) fn new(inner: R, expected: Digest, size: Size, what: String) -> Self {
        Self { inner, hasher: Sha256::new(), expected, size, seen: 0, what }
    }

    /// Reads the rest, and compares size and digest. Returns the number of bytes.
    pub(crate) fn finish(mut self) -> Result<u64, ImageError> {
        io::copy(&mut self, &mut io::sink()).map_err(|error| refused(format!("{}: {error}", self.what)))?;
        match self.size {
            Size::Exactly(size) if self.seen != size => Err(another_size(&self.what, self.seen, size)),
            _ if self.hasher.finalize().as_slice() != self.expected.0.as_slice() => {
                Err(refused(format!("{} is not what its digest {} says", self.what, self.expected)))
            }
            _ => Ok(self.seen),
        }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..length).unwrap_or_default());
        self.seen = self.seen.saturating_add(length as u64);
        let (Size::Exactly(most) | Size::AtMost(most)) = self.size;
        if self.seen > most {
            return Err(io::Error::other(format!("{} is larger than {most} bytes", self.what)));
        }
        Ok(length)
    }
}
