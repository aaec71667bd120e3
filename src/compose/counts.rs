//! Keeps the counts of budgets in a small file in the sandbox's state directory, which is the working
//! directory.
//!
//! A file there that isn't ours is an error: it must never count as no file. Must never be called where
//! waiting for a disk holds others up.

use std::fs;
use std::io;
use std::path::Path;

use gateway::budgets::{FILE, Shelf};

use crate::kept;

/// The shelf for the counts of budgets, in the working directory.
pub struct StateDirectory;

impl Shelf for StateDirectory {
    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        read(Path::new(FILE))
    }

    fn write(&self, text: &[u8]) -> io::Result<()> {
        kept::write(Path::new(FILE), text)
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::symlink_metadata(path) {
        Ok(_) => {
            let ours = kept::read(path)?;
            ours.map(Some).ok_or_else(|| io::Error::other("not a plain file of this user's"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes what a process left that was killed while it wrote. No other process may write at the time.
pub fn clear_away() {
    kept::clear_away(FILE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_is_not_taken_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(read(&path).unwrap(), None);
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        assert!(read(&path).is_err());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(read(&path).is_err());
        fs::remove_dir(&path).unwrap();
        kept::write(&path, b"counts").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(b"counts".as_slice()));
    }
}
