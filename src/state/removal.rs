//! Removing a stopped sandbox for good: everything in its directory, and the directory.
//!
//! Must never follow a link, go into another mount, or remove anything of a sandbox that runs. An
//! interrupted removal leaves a sandbox that is still listed, has the same ids, and can be removed again.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use agent::mountinfo;
use nix::dir::{Dir, OwningIter};
use nix::errno::Errno;
use nix::fcntl::openat;
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::failure::Failure;
use crate::kept::DIRECTORY;
use crate::state::{Name, Root, files};

/// Directories that are open at a time, from the deepest up; an agent makes deeper trees in a moment.
const OPEN_MAX: usize = 32;

impl Root {
    /// Removes the stopped sandbox of this name.
    ///
    /// # Errors
    /// There is none, it runs or is another user's, something is mounted in it, or the kernel's.
    pub fn remove(&self, name: &Name) -> Result<(), Failure> {
        let claim = self.claim_stopped(name, "")?;
        let dir = claim.dir.clone();
        if let Some(place) = mounted_below(&dir)? {
            return Err(Failure::refused(format!(
                "something is mounted at {}, and would be emptied: unmount it first",
                place.display()
            )));
        }
        let handle = claim.handle.try_clone()?;
        // Holds the name until all is gone. Once the lock file is, the name may be another's at once: nothing
        // may be cleaned up by it then.
        let (_lock, made) = claim.hand_over();
        made.keep();
        empty(&handle)
            .map_err(io::Error::from)
            .and_then(|()| match fs::remove_dir(&dir) {
                // The name was free since the lock had gone, and a start has taken it.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                result => result,
            })
            .map_err(|error| Failure::refused(format!("can't remove all of {}: {error}", dir.display())))
    }
}

/// What is removed last, in this order, if the rest could be: where its agents could leave links, and the ids
/// that are theirs as long as their files are there. What has no lock is no sandbox.
const LAST: [&str; 3] = [files::PLACES, files::IDS, files::LOCK];

/// Empties a sandbox's directory.
fn empty(dir: &File) -> nix::Result<()> {
    for entry in Dir::openat(dir, ".", DIRECTORY, Mode::empty())?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if !is_dots(name) && !LAST.iter().any(|last| name.to_bytes() == last.as_bytes()) {
            remove(dir, name)?;
        }
    }
    LAST.iter().try_for_each(|last| match unlinkat(dir, *last, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        result => result,
    })
}

/// Removes an entry of `dir` with all that is below it, however deep and whatever its modes say.
fn remove(dir: &File, name: &CStr) -> nix::Result<()> {
    if remove_unless_full(dir, name)? {
        return Ok(());
    }
    let mut way = vec![Full::enter(dir, name)?];
    while let Some(mut deepest) = way.pop() {
        if let Some(full) = deepest.next_full()? {
            let below = Full::enter(&deepest.open()?.dir, &full)?;
            way.extend([deepest, below]);
            if let Some(above) = way.len().checked_sub(OPEN_MAX + 1).and_then(|n| way.get_mut(n)) {
                above.open = None;
            }
            continue;
        }
        let parent = match way.last_mut() {
            Some(above) => &above.open_from(&deepest)?.dir,
            None => dir,
        };
        match unlinkat(parent, &*deepest.name, UnlinkatFlags::RemoveDir) {
            // Something was added, or the kernel's list wasn't complete.
            Err(Errno::ENOTEMPTY | Errno::EEXIST) if deepest.has_shrunk => {
                let again = Full::enter(parent, &deepest.name)?;
                way.push(again);
            }
            result => result?,
        }
    }
    Ok(())
}

/// A directory on the way that isn't empty yet.
struct Full {
    name: CString,
    /// Its device and inode.
    id: (u64, u64),
    /// `None` where too many others are open.
    open: Option<Open>,
    /// Whether anything was removed from it since it was entered.
    has_shrunk: bool,
}

struct Open {
    dir: File,
    entries: OwningIter,
}

impl Full {
    /// Opens a directory, and makes it one that we can empty: agents make directories that keep out their
    /// owner, and so does the kernel, beside the changes to another root (overlayfs.rst).
    fn enter(within: &File, name: &CStr) -> nix::Result<Self> {
        let dir = match openat(within, name, DIRECTORY, Mode::empty()) {
            Err(Errno::EACCES) => {
                fchmodat(within, name, Mode::S_IRWXU, FchmodatFlags::NoFollowSymlink)?;
                openat(within, name, DIRECTORY, Mode::empty())?
            }
            opened => opened?,
        };
        let found = fstat(&dir)?;
        let is_ours = found.st_uid == nix::unistd::geteuid().as_raw();
        if is_ours && !Mode::from_bits_truncate(found.st_mode).contains(Mode::S_IRWXU) {
            fchmod(&dir, Mode::S_IRWXU)?;
        }
        let open = Some(Open::new(dir.into())?);
        Ok(Self { name: name.to_owned(), id: (found.st_dev, found.st_ino), open, has_shrunk: false })
    }

    fn open(&mut self) -> nix::Result<&mut Open> {
        self.open.as_mut().ok_or(Errno::EBADF)
    }

    /// The same from the directory `below` it, by which it is found again if it was closed. It must be the
    /// one that it was: a process that lives may have moved what lies below.
    fn open_from(&mut self, below: &Self) -> nix::Result<&mut Open> {
        if self.open.is_none() {
            let below = below.open.as_ref().ok_or(Errno::EBADF)?;
            let dir = openat(&below.dir, "..", DIRECTORY, Mode::empty())?;
            let found = fstat(&dir)?;
            if (found.st_dev, found.st_ino) != self.id {
                return Err(Errno::ESTALE);
            }
            self.open = Some(Open::new(dir.into())?);
        }
        self.open()
    }

    /// Removes what is in it up to a directory that isn't empty, and returns that one's name.
    fn next_full(&mut self) -> nix::Result<Option<CString>> {
        let Some(Open { dir, entries }) = &mut self.open else { return Err(Errno::EBADF) };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if is_dots(name) {
                continue;
            }
            if !remove_unless_full(dir, name)? {
                // It will be gone, too.
                self.has_shrunk = true;
                return Ok(Some(name.to_owned()));
            }
            self.has_shrunk = true;
        }
        Ok(None)
    }
}

impl Open {
    fn new(dir: File) -> nix::Result<Self> {
        let entries = Dir::openat(&dir, ".", DIRECTORY, Mode::empty())?.into_iter();
        Ok(Self { dir, entries })
    }
}

/// Removes an entry. Returns `false` if it is a directory that isn't empty. A place where something is
/// mounted is an error (EBUSY), so that nobody goes into it.
fn remove_unless_full(dir: &File, name: &CStr) -> nix::Result<bool> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        // Of a link, not of its target.
        Ok(()) => return Ok(true),
        Err(Errno::EISDIR) => {}
        Err(other) => return Err(other),
    }
    match unlinkat(dir, name, UnlinkatFlags::RemoveDir) {
        Ok(()) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        Err(other) => Err(other),
    }
}

fn is_dots(name: &CStr) -> bool {
    name == c"." || name == c".."
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

    /// What was closed on the way down is found again on the way up, and read anew.
    #[test]
    fn width_and_depth_together_are_no_obstacle() {
        let place = tempfile::tempdir().unwrap();
        let chain = |n: usize| (0..OPEN_MAX + 3).map(move |level| format!("{n}-{level}"));
        for n in 0..20 {
            let way: PathBuf = chain(n).collect();
            let deep = place.path().join("top/side").join(way);
            fs::create_dir_all(&deep).unwrap();
            for file in 0..3 {
                fs::write(deep.join(format!("{file}")), "").unwrap();
                fs::write(deep.parent().unwrap().join(format!("{file}")), "").unwrap();
            }
        }
        for closed in [0o000, 0o200, 0o400, 0o600] {
            let dir = place.path().join(format!("top/{closed:o}"));
            fs::create_dir_all(dir.join("sub/sub")).unwrap();
            for dir in [dir.join("sub"), dir] {
                nix::sys::stat::fchmodat(
                    nix::fcntl::AT_FDCWD,
                    &dir,
                    Mode::from_bits_truncate(closed),
                    FchmodatFlags::FollowSymlink,
                )
                .unwrap();
            }
        }
        remove(&File::open(place.path()).unwrap(), c"top").unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    /// The way up leads to the directory that was entered, or nowhere.
    #[test]
    fn what_was_moved_meanwhile_leads_nowhere_else() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("one/below")).unwrap();
        fs::create_dir_all(place.path().join("other/kept")).unwrap();
        let top = File::open(place.path()).unwrap();
        let mut one = Full::enter(&top, c"one").unwrap();
        let below = Full::enter(&one.open().unwrap().dir, c"below").unwrap();
        one.open = None;
        assert!(one.open_from(&below).is_ok());
        one.open = None;
        fs::rename(place.path().join("one/below"), place.path().join("other/below")).unwrap();
        assert_eq!(one.open_from(&below).err(), Some(Errno::ESTALE));
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
