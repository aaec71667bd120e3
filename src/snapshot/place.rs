//! The file that a snapshot is written to. It has no name until it is complete (open(2), O_TMPFILE), so a
//! process that is killed leaves no partial file. On a filesystem without O_TMPFILE it has a hidden name
//! meanwhile, which the next snapshot of that name takes over.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use agent::snapshot::{SnapshotError, WRITING};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, open, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::linkat;

use crate::failure::Failure;
use crate::kept;
use crate::state::open_lock;

/// A file that is being written.
pub struct Place {
    /// The file, open for reading and writing, accessible to our own user only.
    pub file: File,
    path: PathBuf,
    /// Its temporary name, if it needs one.
    hidden: Option<PathBuf>,
}

impl Place {
    /// Begins a file that doesn't exist yet.
    ///
    /// # Errors
    /// The file exists, or its directory doesn't or can't be written to.
    pub fn new(path: PathBuf) -> Result<Self, Failure> {
        let shown = path.display().to_string();
        if fs::symlink_metadata(&path).is_ok() {
            return Err(Failure::refused(format!(
                "{shown} is there already: name another file, or remove it"
            )));
        }
        let told = |e: io::Error| Failure::refused(format!("can't write {shown}: {e}; name another file"));
        let directory = kept::beside(&path);
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        match open(directory, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(file) => Ok(Self { file: file.into(), path, hidden: None }),
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL) => Self::hidden(path).map_err(told),
            Err(e) => Err(told(e.into())),
        }
    }

    /// Words an error in making the snapshot: one in writing names the file, which only we know.
    pub fn failure(&self, error: SnapshotError) -> Failure {
        let failure = super::failure(error);
        let named = format!("writing {}", self.path.display());
        match failure.message.strip_prefix(WRITING) {
            Some(rest) => Failure {
                message: format!(
                    "{named}{rest}; there is no snapshot: make room there, or name another file"
                ),
                ..failure
            },
            None => failure,
        }
    }

    fn hidden(path: PathBuf) -> io::Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let hidden = kept::beside(&path).join(format!(".{name}.partial"));
        let told = |why: &str| io::Error::other(format!("{}: {why}", hidden.display()));
        let file = open_lock(&hidden)?;
        let found = file.metadata()?;
        if found.uid() != nix::unistd::geteuid().as_raw() {
            return Err(told("it is another user's: remove it"));
        }
        file.try_lock().map_err(|_| told("another snapshot is being written there"))?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.set_len(0)?;
        Ok(Self { file, path, hidden: Some(hidden) })
    }

    /// Gives the file its name. Fails if the name was taken meanwhile.
    ///
    /// # Errors
    /// Another process took the name, or the rename failed. Or the file exists but could not be synced, so
    /// that it may not survive a power failure.
    pub fn publish(mut self) -> Result<PathBuf, Failure> {
        let named = match &self.hidden {
            Some(hidden) => {
                match renameat2(AT_FDCWD, hidden, AT_FDCWD, &self.path, RenameFlags::RENAME_NOREPLACE) {
                    // A filesystem without RENAME_NOREPLACE: a hard link is made instead, and the hidden name
                    // is removed after that.
                    Err(Errno::EINVAL) => {
                        let linked = linkat(AT_FDCWD, hidden, AT_FDCWD, &self.path, AtFlags::empty());
                        linked.and_then(|()| nix::unistd::unlink(hidden))
                    }
                    other => other,
                }
            }
            None => {
                let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                linkat(AT_FDCWD, unnamed.as_str(), AT_FDCWD, &self.path, AtFlags::AT_SYMLINK_FOLLOW)
            }
        };
        let shown = self.path.display();
        named.map_err(|e| Failure::refused(format!("can't give the snapshot its name {shown}: {e}")))?;
        self.hidden = None;
        kept::settle(&self.path).map_err(|e| {
            Failure::refused(format!(
                "{shown} was written completely, but may not survive a power failure: {e}"
            ))
        })?;
        Ok(std::mem::take(&mut self.path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            let _left_for_the_next = fs::remove_file(hidden);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_has_no_name_until_it_is_whole_and_never_anothers() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let there = || fs::read_dir(dir.path()).unwrap().count();
        let begun = [Place::new(at("one")).unwrap(), Place::hidden(at("two")).unwrap()];
        assert!(there() <= 2 && !at("one").exists() && !at("two").exists());
        assert!(Place::hidden(at("two")).is_err(), "one at a time");
        for place in begun {
            (&place.file).write_all(b"whole").unwrap();
            let path = place.publish().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"whole");
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
            assert!(Place::new(path).is_err(), "never written over");
        }
        drop((Place::new(at("three")).unwrap(), Place::hidden(at("four")).unwrap()));
        assert_eq!(there(), 2, "what wasn't published is gone");
        let full = || io::Error::from_raw_os_error(nix::libc::ENOSPC);
        let place = Place::new(at("full")).unwrap();
        for error in [
            SnapshotError::System { what: WRITING.into(), source: full() },
            SnapshotError::Refused(format!("{WRITING}: {}", full())),
        ] {
            let told = place.failure(error).message;
            assert!(told.starts_with(&format!("writing {}: No space", at("full").display())), "{told}");
        }
        let read = SnapshotError::System { what: "reading x".into(), source: full() };
        assert!(place.failure(read).message.starts_with("reading x: "));
        // Taken meanwhile.
        let place = Place::new(at("five")).unwrap();
        fs::write(at("five"), "theirs").unwrap();
        assert!(place.publish().is_err());
        assert_eq!(fs::read(at("five")).unwrap(), b"theirs");
    }
}
