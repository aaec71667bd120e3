//! A directory tree in one file and back. Hostile code wrote the tree, and anybody may have written the file:
//! both are read by a process that can do little else ([`crate::confine`]), and nothing of either is followed
//! or believed.
//!
//! ```text
//! walk        what lies below a directory, by descriptor and through no link, as members of a tar archive
//! form        how an entry of that archive is written
//! press       that archive's bytes, compressed
//! container   archives and a description in one plain tar file, which has one way to be written
//! fill        an archive judged to its end, and made again below an empty directory
//! ```
//! Of a file its bytes, its nine permission bits, its time and its name are kept; of a link its target.
//! Owners, set-id and sticky bits, access lists, extended attributes and file capabilities are not, and
//! neither are devices, pipes and sockets. This module doesn't know what a tree is for.

pub mod container;
mod fill;
mod form;
mod press;
#[cfg(test)]
mod tests;
mod walk;

pub use crate::image::tree::take_away;
pub use fill::{Seen, fill};
pub use walk::pack;

use std::fmt;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::confine;
use crate::image::{ImageError, bounds};

/// Entries of one tree.
pub const MAX_ENTRIES: u64 = bounds::MAX_ENTRIES;
/// Bytes of one file.
pub const MAX_FILE: u64 = bounds::MAX_FILE;
/// Bytes of address space of a process that packs or unpacks.
pub const MAX_MEMORY: u64 = bounds::MAX_MEMORY;
/// Bytes that an entry counts as beside its file's: what even an empty one takes on a disk.
pub const AN_ENTRY: u64 = 4 << 10;
/// Components of one path. What lies deeper is left out, and counted.
pub const MAX_DEPTH: usize = bounds::MAX_DEPTH;
/// One byte more than a path may have. A longer path is left out, and counted.
pub const MAX_PATH: usize = bounds::MAX_PATH;

/// Which kinds of entries a tree may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinds {
    /// Directories, files, links of both kinds: for an agent's tree.
    All,
    /// Directories and files without second names: for our own records.
    Plain,
}

/// Selects what of a tree belongs in a snapshot.
#[derive(Clone, Copy)]
pub struct Select<'a> {
    /// Kinds of entries.
    pub kinds: Kinds,
    /// Whether a path below the root belongs; the second argument tells whether it is a directory.
    pub belongs: &'a dyn Fn(&Path, bool) -> bool,
}

/// How much room there is for files.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes for all files together, as [`Amount::charged`] counts.
    pub most: u64,
    /// Bytes of these that another tree has taken already.
    pub taken: u64,
}

/// How much of a tree there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    /// Entries of its archive.
    pub entries: u64,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Bytes of its archive before that is compressed.
    pub archive: u64,
}

impl Amount {
    /// Bytes that count towards a bound: those of files, and [`AN_ENTRY`] for each entry.
    #[must_use]
    pub fn charged(&self) -> u64 {
        self.bytes.saturating_add(self.entries.saturating_mul(AN_ENTRY))
    }

    /// Whether the archive is larger than one of this many entries and bytes can be.
    #[must_use]
    pub fn is_padded(&self) -> bool {
        let headers = self.entries.saturating_mul(form::MOST_AN_ENTRY);
        self.archive > headers.saturating_add(self.bytes).saturating_add(form::END)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entries, bytes, archive } = self;
        write!(f, "{entries} entries and {bytes} bytes of files in an archive of {archive}")
    }
}

/// Counts what of a tree isn't in a snapshot, or perhaps not as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// Devices, pipes, sockets.
    pub special: u64,
    /// Entries that the packing process may not read.
    pub unreadable: u64,
    /// Entries that lie too deep, or have too long a path.
    pub deep: u64,
    /// Mount points.
    pub mounts: u64,
    /// Entries that changed while they were read: a file whose bytes may stem from two moments, which is in
    /// the snapshot, or a name that was gone or something else by then, which isn't.
    pub changed: u64,
}

/// The result of packing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packed {
    /// What is in the snapshot.
    pub amount: Amount,
    /// What isn't in it.
    pub left_out: LeftOut,
}

/// Called with the number of files' bytes done so far.
pub type Progress<'a> = &'a mut dyn FnMut(u64);

/// What an error says was tried when the snapshot's own file took nothing. Only the caller knows that file's
/// name, and the error may come to it as text, from a confined process.
pub const WRITING: &str = "writing the snapshot";

/// Why there is no snapshot, or nothing was made of one.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is broken or hostile.
    #[error("{0}")]
    Refused(String),
    /// There is more than may be.
    #[error("{what} is more than {limit}")]
    TooMuch {
        /// What there is too much of.
        what: String,
        /// The most there may be.
        limit: u64,
    },
    /// All files together are more than there is room for.
    #[error(
        "with {path} all together comes to {all} bytes, 4096 for each entry among them, which is more than {most}"
    )]
    NoRoom {
        /// The path at which that was noticed, escaped for a message.
        path: String,
        /// Bytes of everything up to there.
        all: u64,
        /// The most there may be.
        most: u64,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl From<ImageError> for SnapshotError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Refused(why) => Self::Refused(why),
            ImageError::TooMuch { what, limit } => Self::TooMuch { what, limit },
            ImageError::System { what, source } => Self::System { what, source },
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<confine::Failed> for SnapshotError {
    fn from(failed: confine::Failed) -> Self {
        match failed {
            confine::Failed::System { what, source } => Self::System { what: what.into(), source },
            confine::Failed::Said(why) => Self::Refused(why),
        }
    }
}

fn refused(why: impl Into<String>) -> SnapshotError {
    SnapshotError::Refused(why.into())
}

fn system<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> SnapshotError {
    let what = what.into();
    move |error| SnapshotError::System { what, source: error.into() }
}

/// Escapes a path for a message: its bytes are an agent's.
fn shown(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    format!("{:?}", crate::image::entry::shown(path.as_os_str().as_bytes()))
}
