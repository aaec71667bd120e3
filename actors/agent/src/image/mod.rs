//! Another root than the host's: a directory, or an OCI image on this disk, pinned by its digest.
//!
//! ```text
//! reference   what was asked for; an image without a digest can't be said
//! bounds      how much an image may be and do
//! oci         index, manifest and config, as data
//! layout      an OCI image layout, as a directory or in one archive: finds blobs by digest
//! verify      a reader that counts, hashes and compares
//! decode      gzip and zstd
//! entry       one layer's tar archive as judged entries
//! tree        changes beneath one directory, through no link
//! layer       entries and whiteouts applied to a tree
//! unpack      all of it in order: pinned manifest, config, layers
//! store       in a process that can do nothing else ([`crate::confine`]), unpacked once, under a lock, renamed into place when whole
//! whole       whether it still is, at a glance
//! ```
//! Nothing is fetched: cofferdam has no registry client and no registry's credentials. Files' owners,
//! extended attributes, set-id bits and devices of an image are not kept.

pub(crate) mod bounds;
mod decode;
pub(crate) mod entry;
mod layer;
pub(crate) mod layout;
mod oci;
mod reference;
mod store;
#[cfg(test)]
mod tests;
pub(crate) mod tree;
mod unpack;
pub(crate) mod verify;
mod whole;

pub use reference::{Digest, Reference, Wanted};
pub use store::Store;

use std::io;
use std::path::PathBuf;

/// Why a root can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// What was typed is neither a directory nor an image on this disk.
    #[error(
        "{0} doesn't exist; name a directory, or an OCI image layout or archive on this disk as PATH@sha256:DIGEST \
         (nothing is pulled: `skopeo copy docker://IMAGE oci-archive:image.tar` or `docker save -o image.tar IMAGE` makes one)"
    )]
    Absent(String),
    /// The digest isn't one.
    #[error("{0} is no digest: it must be sha256: and 64 lower-case hexadecimal digits")]
    Digest(String),
    /// An image without a digest, and what could be pinned.
    #[error("{0}")]
    Mutable(String),
    /// The image, or its way here, is broken or hostile.
    #[error("image refused: {0}")]
    Refused(String),
    /// It is larger than an image may be.
    #[error("image refused: {what} is more than {limit}")]
    TooMuch {
        /// What there is too much of.
        what: String,
        /// The most there may be.
        limit: u64,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// What the unpacking process said, or that it said nothing.
    #[error("{0}")]
    Unpacking(String),
    /// What was unpacked isn't all there any more, and can't be unpacked anew.
    #[error("{path} was removed in part, and to unpack it anew: {source}")]
    Partial {
        /// What is left.
        path: PathBuf,
        /// What is wrong with what it was unpacked from.
        source: Box<ImageError>,
    },
    /// The place for unpacked images.
    #[error(
        "can't keep images in {path}: {source}; check its owner and space, or name another state directory with --state DIR"
    )]
    Store {
        /// The directory.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// Escapes control characters in `why`, which may quote the image: it must stay on one line and do nothing to
/// a terminal.
fn refused(why: impl AsRef<str>) -> ImageError {
    let plain = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    ImageError::Refused(why.as_ref().chars().map(plain).collect())
}

impl From<crate::confine::Failed> for ImageError {
    fn from(failed: crate::confine::Failed) -> Self {
        match failed {
            crate::confine::Failed::System { what, source } => Self::System { what: what.into(), source },
            crate::confine::Failed::Said(text) => Self::Unpacking(text),
        }
    }
}

fn system<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> ImageError {
    let what = what.into();
    move |error| ImageError::System { what, source: error.into() }
}
