//! Records what was made so far, and removes it again unless it is kept.
//!
//! Removes by a descriptor of the directory, never by a path, which may have been redirected meanwhile. Only
//! what is new is removed, so nothing that others put beside it is lost.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// The list of what was made; see the module.
#[derive(Debug, Default)]
pub struct Made(Vec<(OwnedFd, OsString, UnlinkatFlags)>);

impl Made {
    /// Makes a directory with access for our user only. Returns false if the name is taken.
    ///
    /// # Errors
    /// It can't be made.
    pub fn directory(&mut self, within: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
        match mkdirat(within, name, Mode::S_IRWXU) {
            Ok(()) => self.note(within, name, UnlinkatFlags::RemoveDir).map(|()| true),
            Err(Errno::EEXIST) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes an empty file with access for its user only. Returns nothing if the name is taken.
    ///
    /// # Errors
    /// It can't be made.
    pub fn file(&mut self, within: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<File>> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(within, name, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(fd) => {
                self.note(within, name, UnlinkatFlags::NoRemoveDir)?;
                Ok(Some(File::from(fd)))
            }
            Err(Errno::EEXIST) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Adds a file that was made in another way.
    ///
    /// # Errors
    /// Its directory can't be opened.
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

    /// Keeps everything.
    pub fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for (within, name, how) in self.0.iter().rev() {
            // A directory in which others made something stays, with its content.
            let _gone = unlinkat(within, name.as_os_str(), *how);
        }
    }
}

/// Opens a directory, wherever the operator's path leads.
///
/// # Errors
/// It isn't a directory, or can't be opened.
pub fn opened(directory: &Path) -> io::Result<OwnedFd> {
    // O_PATH: making files in a directory needs no permission to read it.
    let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
    Ok(open(directory, flags, Mode::empty())?)
}
