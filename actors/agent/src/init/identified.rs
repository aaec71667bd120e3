//! Identifies processes while a question is answered: each is opened, with one descriptor per program, and at
//! the end all are checked to be still who they were.
//!
//! Names are never identity; only the opened executable is. What a process holds is for
//! [`super::holders`](mod@super::holders) to find.

use super::holders::Found;
use super::process::{Opened, Stat, is_gone};
use crate::protocol::{Holder, Identity, Refusal};
use crate::wire::MAX_FDS;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// All processes that were identified for some questions.
#[derive(Default)]
pub(super) struct Identified {
    executables: Executables,
    seen: Vec<Seen>,
}

/// A process as it was found, to be compared at the end.
struct Seen {
    process: Opened,
    before: Stat,
    executable: (u64, u64),
}

/// The opened executables, one a file.
#[derive(Default)]
struct Executables {
    keys: Vec<(u64, u64)>,
    fds: Vec<OwnedFd>,
}

/// Why a look failed.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// A process ended or executed another program meanwhile.
    Changed,
    Refused(Refusal),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Identified {
    /// Returns who a process is, and its parent's pid. What is read here is compared by
    /// [`Identified::are_still`].
    pub(super) fn identity(&mut self, proc: &File, pid: i32) -> Result<(Identity, i32), Fault> {
        let process = Opened::open(proc.as_fd(), pid).map_err(|_| Fault::Changed)?;
        let before = process.stat().map_err(|_| Fault::Changed)?;
        if before.is_ending() {
            // An exiting holder will hold nothing in a moment; the children of an exiting ancestor get
            // another parent.
            return Err(Fault::Changed);
        }
        let read = |error: io::Error| gone_or_unreadable(pid, &error);
        let target = process.executable_path().map_err(read)?;
        let file = process.open_executable().map_err(read)?;
        let meta = file.metadata().map_err(read)?;
        let Ok(exe_path) = String::from_utf8(target) else {
            return Err(Refusal::Unreadable { pid, why: "the path of its program isn't UTF-8".into() }.into());
        };
        let executable = (meta.dev(), meta.ino());
        let exe = self.executables.add(executable, usize::from(u8::MAX), || Ok(file.into()))?;
        let identity = Identity {
            pid,
            start_time: before.start_time,
            exe,
            deleted: meta.nlink() == 0 || exe_path.ends_with(" (deleted)"),
            memory: exe_path.starts_with("/memfd:"),
            exe_path,
        };
        self.seen.push(Seen { process, before, executable });
        Ok((identity, before.parent))
    }

    /// How many were identified so far.
    pub(super) fn count(&self) -> usize {
        self.seen.len()
    }

    /// Whether these processes are still who they were, with the same parents: nothing moved while we looked.
    pub(super) fn are_still(&self, these: Range<usize>) -> bool {
        self.seen.get(these).unwrap_or_default().iter().all(|seen| {
            let same = || -> io::Result<bool> {
                let now = seen.process.stat()?;
                let still = now.start_time == seen.before.start_time && now.parent == seen.before.parent;
                Ok(still && !now.is_ending() && seen.process.executable()? == seen.executable)
            };
            same().is_ok_and(|same| same)
        })
    }

    /// The process that was identified last.
    pub(super) fn latest(&self) -> Option<&Opened> {
        self.seen.last().map(|seen| &seen.process)
    }

    /// Returns the answer for one socket, with descriptors of its own.
    pub(super) fn answer(&self, mut holders: Vec<Holder>) -> Result<Found, Refusal> {
        let mut own = Executables::default();
        for identity in
            holders.iter_mut().flat_map(|h| std::iter::once(&mut h.process).chain(&mut h.ancestors))
        {
            let at = usize::from(identity.exe);
            let (Some(key), Some(fd)) = (self.executables.keys.get(at), self.executables.fds.get(at)) else {
                return Err(Refusal::Invalid("an executable that was not opened".into()));
            };
            identity.exe = own.add(*key, MAX_FDS, || fd.try_clone()).map_err(|fault| match fault {
                Fault::Refused(refusal) => refusal,
                Fault::Changed => Refusal::TooMany("open files".into()),
            })?;
        }
        Ok(Found { holders, executables: own.fds })
    }
}

impl Executables {
    /// Returns the index of an opened file. Each file is kept once, at most `limit` of them.
    fn add(
        &mut self,
        key: (u64, u64),
        limit: usize,
        open: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> Result<u8, Fault> {
        let index = match self.keys.iter().position(|known| *known == key) {
            Some(index) => index,
            None if self.keys.len() >= limit => {
                return Err(Refusal::TooMany("different programs around one socket".into()).into());
            }
            None => {
                self.fds.push(open().map_err(|_| Fault::Changed)?);
                self.keys.push(key);
                self.keys.len() - 1
            }
        };
        Ok(u8::try_from(index).unwrap_or(u8::MAX))
    }
}

pub(super) fn unreadable(pid: i32, error: &io::Error) -> Refusal {
    Refusal::Unreadable { pid, why: error.to_string() }
}

/// Returns what an error means for a process that was there a moment ago.
pub(super) fn gone_or_unreadable(pid: i32, error: &io::Error) -> Fault {
    if is_gone(error) { Fault::Changed } else { unreadable(pid, error).into() }
}
