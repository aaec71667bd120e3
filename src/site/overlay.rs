//! A sandbox's own directory for what its agents change in another root: `STATE/NAME/root/KEY`, with an
//! overlay's two halves in it.
//!
//! The directories are made, and given to the agents, by descriptor and step by step: if cofferdam was
//! started as root, the user `gateway` can write to `STATE/NAME`, and nothing that it put there may make us
//! change the owner of something else.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use agent::isolation::other_root::{UPPER, WORK};
use agent::plan::Ids;
use nix::errno::Errno;
use nix::fcntl::openat;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::geteuid;

use crate::failure::Failure;
use crate::kept::DIRECTORY;
use crate::state::files::ROOT;

/// Where a sandbox keeps its agents' changes to another root.
#[derive(Clone, Copy)]
pub struct Changes<'a> {
    /// The sandbox's directory.
    pub dir: &'a Path,
    /// The same directory, opened.
    pub handle: &'a File,
    /// The ids of the sandbox's users.
    pub ids: Ids,
}

impl Changes<'_> {
    /// Makes and returns the directory for the changes to one root, which `key` stands for: over another root
    /// they would mean nothing.
    ///
    /// # Errors
    /// It can't be made, or what is there is not the sandbox's.
    pub fn over(&self, key: &str) -> Result<PathBuf, Failure> {
        let path = self.dir.join(ROOT).join(key);
        self.make(key)
            .and_then(|()| std::fs::canonicalize(&path))
            .map_err(|e| Failure::refused(format!("overlay {}: {e}", path.display())))
    }

    fn make(&self, key: &str) -> io::Result<()> {
        let root = self.directory(self.handle, ROOT, Mode::S_IRWXU)?;
        if root.metadata()?.uid() != geteuid().as_raw() {
            return Err(io::Error::other(format!("`{ROOT}` there is another user's: remove it")));
        }
        let changes = self.directory(&root, key, Mode::S_IRWXU)?;
        for (name, mode) in [(UPPER, Mode::from_bits_truncate(0o755)), (WORK, Mode::S_IRWXU)] {
            self.give(&self.directory(&changes, name, mode)?)?;
        }
        self.give(&changes)
    }

    /// Opens the directory `name` in `above`, and makes it if it doesn't exist. Never follows a link.
    fn directory(&self, above: &File, name: &str, mode: Mode) -> io::Result<File> {
        match mkdirat(above, name, mode) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(openat(above, name, DIRECTORY, Mode::empty())?.into())
    }

    /// Gives a directory to the agents' user: init may enter only what belongs to a user that it has mapped.
    fn give(&self, directory: &File) -> io::Result<()> {
        match self.ids {
            Ids::Rooted { sandbox, .. } => fchown(directory, Some(sandbox.uid), Some(sandbox.gid)),
            Ids::Rootless { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent::plan::Id;

    #[test]
    fn nothing_is_made_behind_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let handle = File::open(dir.path()).unwrap();
        let (uid, gid) = (geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let ids = Ids::Rootless { operator: Id { uid, gid } };
        let changes = Changes { dir: dir.path(), handle: &handle, ids };
        std::fs::create_dir_all(at("elsewhere/key")).unwrap();
        for (link, target) in [("root", "elsewhere"), ("root/key", "../elsewhere")] {
            std::os::unix::fs::symlink(target, at(link)).unwrap();
            let refused = changes.over("key").unwrap_err().message;
            assert!(refused.contains("Not a directory") || refused.contains("Too many"), "{refused}");
            assert!(!at("elsewhere/key/upper").exists() && !at("elsewhere/upper").exists());
            std::fs::remove_file(at(link)).unwrap();
            std::fs::create_dir_all(at("root")).unwrap();
        }
        let made = changes.over("key").unwrap();
        assert!(made.ends_with("root/key") && at("root/key/upper").is_dir() && at("root/key/work").is_dir());
        assert_eq!(changes.over("key").unwrap(), made, "the same again");
    }
}
