//! The roots that programs inside trust, in the two forms in which they look for them: a PEM bundle, and
//! Java's own store.
//!
//! Making them takes a third of a millisecond and writing them another: neither belongs on a thread that
//! serves others. Judges no certificate.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::{java_store, sys};

/// The same roots in both forms.
#[derive(Debug)]
pub struct Roots {
    pem: Vec<u8>,
    java: Vec<u8>,
}

impl Roots {
    /// Makes both forms of a PEM bundle. What isn't a certificate is left out of Java's.
    #[must_use]
    pub fn of_pem(pem: Vec<u8>) -> Self {
        Self { java: java_store::of_pem(&pem), pem }
    }
}

/// The files of the run directory that hold them. Init gives them, see [`crate::InitClient::root_files`].
#[derive(Debug)]
pub struct RootFiles {
    bundle: File,
    java: File,
}

impl RootFiles {
    pub(crate) fn new(bundle: OwnedFd, java: OwnedFd) -> Self {
        Self { bundle: bundle.into(), java: java.into() }
    }

    /// Writes both in place; they are in memory. Readers may see them half-written: do it before agents run.
    ///
    /// # Errors
    /// The directory is full.
    pub fn write(&self, roots: &Roots) -> io::Result<()> {
        for (file, bytes) in [(&self.bundle, &roots.pem), (&self.java, &roots.java)] {
            sys::fd::write_all(file.as_fd(), bytes)?;
            file.set_len(bytes.len() as u64)?;
        }
        Ok(())
    }
}
