//! Removing a stopped sandbox for good: everything in its directory, and the directory.
//!
//! Must never follow a link, go into another mount, or remove anything of a sandbox that runs. An
//! interrupted removal leaves a sandbox that is still listed and can be removed again.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use agent::mountinfo;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{openat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::failure::Failure;
use crate::kept::DIRECTORY;
use crate::state::{Name, Root, files};

impl Root {
    /// Removes the stopped sandbox of this name.
    ///
    /// # Errors
    /// There is none, it runs or is another user's, something is mounted in it, or the kernel's.
    pub fn remove(&self, name: &Name) -> Result<(), Failure> {
        // Holds the name until all is gone.
        let claim = self.claim_stopped(name, "")?;
        let dir = &claim.dir;
        if let Some(place) = mounted_below(dir)? {
            return Err(Failure::refused(format!(
                "something is mounted at {}, and would be emptied: unmount it first",
                place.display()
            )));
        }
        empty(&claim.handle)
            .map_err(io::Error::from)
            .and_then(|()| fs::remove_dir(dir))
            .map_err(|error| Failure::refused(format!("can't remove all of {}: {error}", dir.display())))
    }
}

/// Empties a sandbox's directory. The lock goes last, since what has no lock is no sandbox.
fn empty(dir: &File) -> nix::Result<()> {
    for_each(dir, |entry| match entry.to_bytes() == files::LOCK.as_bytes() {
        true => Ok(()),
        false => remove(dir, entry),
    })?;
    unlinkat(dir, files::LOCK, UnlinkatFlags::NoRemoveDir)
}

/// Removes an entry of `dir` with all that is below it, however deep and whatever its modes say. A
/// directory's own directories are moved up beside it first, so that neither paths nor open files grow with
/// the depth.
fn remove(dir: &File, name: &CStr) -> nix::Result<()> {
    if !remove_unless_full(dir, name)? {
        let moved = File::from(openat(dir, name, DIRECTORY, Mode::empty())?);
        let mut number = 0_u64;
        while !flatten(&moved, &mut number)? {}
        unlinkat(dir, name, UnlinkatFlags::RemoveDir)?;
    }
    Ok(())
}

/// Removes what is in `top` but directories that aren't empty, whose entries it moves up or removes. Returns
/// whether `top` is empty.
fn flatten(top: &File, number: &mut u64) -> nix::Result<bool> {
    let mut is_empty = true;
    for_each(top, |name| {
        is_empty = false;
        if remove_unless_full(top, name)? {
            return Ok(());
        }
        let dir = File::from(openat(top, name, DIRECTORY, Mode::empty())?);
        for_each(&dir, |below| match remove_unless_full(&dir, below)? {
            true => Ok(()),
            false => move_up(&dir, below, top, number),
        })?;
        unlinkat(top, name, UnlinkatFlags::RemoveDir)
    })?;
    Ok(is_empty)
}

/// Removes an entry. Returns `false` if it is a directory that isn't empty; it can be read and moved then.
fn remove_unless_full(dir: &File, name: &CStr) -> nix::Result<bool> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        // Of a link, not of its target.
        Ok(()) => return Ok(true),
        Err(Errno::EISDIR) => {}
        Err(other) => return Err(other),
    }
    match unlinkat(dir, name, UnlinkatFlags::RemoveDir) {
        Ok(()) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
            // Agents make directories that keep out their owner, and so does the kernel, beside the changes
            // to another root (overlayfs.rst).
            fchmodat(dir, name, Mode::S_IRWXU, FchmodatFlags::NoFollowSymlink)?;
            Ok(false)
        }
        Err(other) => Err(other),
    }
}

fn move_up(from: &File, name: &CStr, top: &File, number: &mut u64) -> nix::Result<()> {
    loop {
        let free = format!("{number}");
        // An empty directory of that name is replaced, which removes it.
        match renameat(from, name, top, free.as_str()) {
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => *number += 1,
            result => return result,
        }
    }
}

/// Does this with every name in a directory. What is removed or added meanwhile may be among them or not.
fn for_each(dir: &File, mut act: impl FnMut(&CStr) -> nix::Result<()>) -> nix::Result<()> {
    let mut entries = Dir::openat(dir, ".", DIRECTORY, Mode::empty())?;
    for entry in entries.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            act(name)?;
        }
    }
    Ok(())
}

/// Returns a place below `dir`, or `dir` itself, at which something is mounted in our view.
fn mounted_below(dir: &Path) -> Result<Option<PathBuf>, Failure> {
    let mounts = mountinfo::own()
        .map_err(|e| Failure::refused(format!("can't read what is mounted (/proc/self/mountinfo): {e}")))?;
    let places = mounts.into_iter().map(|mount| mount.at);
    Ok(first_below(places, &fs::canonicalize(dir)?))
}

fn first_below(mut places: impl Iterator<Item = PathBuf>, dir: &Path) -> Option<PathBuf> {
    places.find(|place| place.starts_with(dir))
}

#[cfg(test)]
mod tests {
    use nix::fcntl::OFlag;

    use super::*;

    #[test]
    fn a_mount_below_is_found_by_whole_components() {
        let dir = Path::new("/state/my box");
        for (place, found) in [
            ("/state/my box", true),
            ("/state/my box/workspace/a", true),
            ("/state/my boxes", false),
            ("/state", false),
            ("/", false),
        ] {
            assert_eq!(first_below([place.into()].into_iter(), dir).is_some(), found, "{place}");
        }
    }

    #[test]
    fn all_goes_but_what_a_link_leads_to() {
        let place = tempfile::tempdir().unwrap();
        let kept = place.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "precious").unwrap();
        let root = Root::locate(Some(&place.path().join("state"))).unwrap();
        let name = Name::parse("one").unwrap();
        let (lock, made) = root.claim(&name, "--name").unwrap().hand_over();
        made.keep();
        drop(lock);
        let dir = root.instance(&name);
        fs::create_dir_all(dir.join("workspace/deep")).unwrap();
        for link in ["workspace/deep/link", "link"] {
            std::os::unix::fs::symlink(&kept, dir.join(link)).unwrap();
        }
        root.remove(&name).unwrap();
        assert!(!dir.exists() && kept.join("file").exists());
        let again = root.remove(&name).unwrap_err().message;
        assert!(again.contains("there is no sandbox named 'one'"), "{again}");
        assert!(!dir.exists(), "looking for it made it");
    }

    /// An agent makes in a moment what no path reaches and what takes more open files than there may be.
    #[test]
    fn depth_is_no_obstacle() {
        const DEPTH: usize = 5000;
        let place = tempfile::tempdir().unwrap();
        let top = File::open(place.path()).unwrap();
        let mut dir = top.try_clone().unwrap();
        for _ in 0..DEPTH {
            nix::sys::stat::mkdirat(&dir, "1", Mode::S_IRWXU).unwrap();
            openat(&dir, "file", OFlag::O_CREAT | OFlag::O_WRONLY, Mode::S_IRUSR).unwrap();
            dir = openat(&dir, "1", DIRECTORY, Mode::empty()).unwrap().into();
        }
        nix::sys::stat::fchmod(&dir, Mode::empty()).unwrap();
        remove(&top, c"1").unwrap();
        remove(&top, c"file").unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_in_use_stays() {
        let place = tempfile::tempdir().unwrap();
        let root = Root::locate(Some(place.path())).unwrap();
        let name = Name::parse("one").unwrap();
        let claim = root.claim(&name, "--name").unwrap();
        fs::create_dir(claim.dir.join(files::WORKSPACE)).unwrap();
        let refused = root.remove(&name).unwrap_err().message;
        assert!(refused.contains("is in use"), "{refused}");
        assert!(claim.dir.join(files::WORKSPACE).exists());
    }
}
