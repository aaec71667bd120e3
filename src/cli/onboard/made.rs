//! What was made so far: taken away again unless it is kept.
//!
//! By the directory in which it was made and never by a path, which somebody may have led elsewhere
//! meanwhile; and only what is new, so that of what others put beside it nothing goes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// See the module.
#[derive(Debug, Default)]
pub struct Made(Vec<(OwnedFd, OsString, UnlinkatFlags)>);

impl Made {
    /// Makes a directory that is ours alone; false where there is something already.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn directory(&mut self, within: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
        match mkdirat(within, name, Mode::S_IRWXU) {
            Ok(()) => self.note(within, name, UnlinkatFlags::RemoveDir).map(|()| true),
            Err(Errno::EEXIST) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Writes a file that is ours alone; false where there is something already.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn file(&mut self, within: BorrowedFd<'_>, name: &OsStr, text: &str) -> io::Result<bool> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(within, name, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(fd) => {
                self.note(within, name, UnlinkatFlags::NoRemoveDir)?;
                File::from(fd).write_all(text.as_bytes()).map(|()| true)
            }
            Err(Errno::EEXIST) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes a file that was made otherwise for one of these.
    ///
    /// # Errors
    /// When its directory can't be opened.
    pub fn took(&mut self, directory: &Path, name: &OsStr) -> io::Result<()> {
        let directory = opened(directory)?;
        self.note(directory.as_fd(), name, UnlinkatFlags::NoRemoveDir)
    }

    fn note(&mut self, within: BorrowedFd<'_>, name: &OsStr, how: UnlinkatFlags) -> io::Result<()> {
        let within = within.try_clone_to_owned().inspect_err(|_| {
            let _gone = unlinkat(within, name, how);
        })?;
        self.0.push((within, name.to_owned(), how));
        Ok(())
    }

    /// It stays.
    pub fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for (within, name, how) in self.0.iter().rev() {
            // A directory in which others made something stays, and that with it.
            let _gone = unlinkat(within, name.as_os_str(), *how);
        }
    }
}

/// A directory, wherever the operator's path leads.
///
/// # Errors
/// When it is none, or can't be opened.
pub fn opened(directory: &Path) -> io::Result<OwnedFd> {
    // Not to be read: that isn't needed to write into it.
    let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
    Ok(open(directory, flags, Mode::empty())?)
}
