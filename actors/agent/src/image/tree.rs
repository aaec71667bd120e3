//! Changes beneath one directory. Every parent is opened by openat2(2) beneath that directory and through no
//! link. The change is then made by the path's last name in that parent, which no call here follows. So an
//! archive's links lead nowhere while it is unpacked, whatever they say.

use super::entry::Place;
use super::{ImageError, refused, system};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstatat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The directory beneath which changes are made; see the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree<'fd> {
    root: BorrowedFd<'fd>,
}

/// What there is at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Directory,
    File,
    Other,
}

/// Bits that every directory gets: we must be able to change and to remove it.
const DIRECTORY: u32 = 0o700;
/// Bits that every file gets: the user whom it is shown to must be able to read it.
const FILE: u32 = 0o400;

impl<'fd> Tree<'fd> {
    pub(crate) fn new(root: BorrowedFd<'fd>) -> Self {
        Self { root }
    }

    /// Opens the directory that a place lies in; returns it and the place's name there.
    pub(crate) fn parent(&self, place: &Place) -> Result<Option<(OwnedFd, OsString)>, ImageError> {
        let Some((parent, name)) = place.split() else { return Ok(None) };
        match self.open(parent) {
            Ok(fd) => Ok(Some((fd, name.to_owned()))),
            Err(error) => Err(through(place, error)),
        }
    }

    /// As [`Self::parent`], but makes the missing directories on the way, which archives without entries for
    /// them need. Each is counted before it is made: one short name can lead through a hundred of them.
    pub(crate) fn make_parent(
        &self,
        place: &Place,
        mut count: impl FnMut() -> Result<(), ImageError>,
    ) -> Result<Option<(OwnedFd, OsString)>, ImageError> {
        let Some((parent, name)) = place.split() else { return Ok(None) };
        match self.open(parent) {
            Ok(fd) => return Ok(Some((fd, name.to_owned()))),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(through(place, error)),
        }
        let mut way = PathBuf::new();
        for part in parent.components() {
            let above = self.open(&way).map_err(|error| through(place, error))?;
            let part = Path::new(part.as_os_str());
            if matches!(stat(above.as_fd(), part.as_os_str()), Ok(None)) {
                count()?;
            }
            match mkdirat(&above, part, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => way.push(part),
                Err(error) => return Err(broken(place)(error)),
            }
        }
        let fd = self.open(parent).map_err(|error| through(place, error))?;
        Ok(Some((fd, name.to_owned())))
    }

    fn open(&self, path: &Path) -> nix::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        beneath(self.root, path)
    }

    /// Opens a directory, which may be the root itself.
    pub(crate) fn directory(&self, place: &Place) -> Result<Option<OwnedFd>, ImageError> {
        match self.open(place.path()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(through(place, error)),
        }
    }
}

/// Opens a directory below another, through no link.
pub(crate) fn beneath(dir: BorrowedFd<'_>, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
    openat2(dir, path, how)
}

fn through(place: &Place, error: Errno) -> ImageError {
    match error {
        Errno::ELOOP | Errno::ENOTDIR => refused(format!(
            "entry {:?}: the way to it leads through a link or a file",
            super::entry::shown(place.path().as_os_str().as_bytes())
        )),
        error => broken(place)(error),
    }
}

pub(crate) fn broken<E: Into<io::Error>>(place: &Place) -> impl FnOnce(E) -> ImageError {
    system(format!("unpacking {:?}", super::entry::shown(place.path().as_os_str().as_bytes())))
}

fn stat(dir: BorrowedFd<'_>, name: &OsStr) -> nix::Result<Option<FileStat>> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns what a name in a directory is.
pub(crate) fn find(dir: BorrowedFd<'_>, name: &OsStr) -> nix::Result<Found> {
    Ok(match stat(dir, name)? {
        None => Found::Nothing,
        Some(found) => match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => Found::Directory,
            SFlag::S_IFREG => Found::File,
            _ => Found::Other,
        },
    })
}

/// Makes a directory, or gives the one that is there this mode.
pub(crate) fn make_directory(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> nix::Result<()> {
    match mkdirat(dir, name, Mode::from_bits_truncate(DIRECTORY)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(error),
    }
    let made = beneath(dir, Path::new(name))?;
    fchmod(made, Mode::from_bits_truncate(mode | DIRECTORY))
}

/// Makes an empty file, which must not exist.
pub(crate) fn make_file(dir: BorrowedFd<'_>, name: &OsStr) -> nix::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::from_bits_truncate(0o600)).map(File::from)
}

/// Sets a written file's mode and time: Python's caches go by the time.
pub(crate) fn finish_file(file: &File, mode: u32, modified: (i64, u32)) -> nix::Result<()> {
    finish(file.as_fd(), mode | FILE, modified)
}

/// Sets the mode and time of an open file or directory.
pub(crate) fn finish(fd: BorrowedFd<'_>, mode: u32, (seconds, nanoseconds): (i64, u32)) -> nix::Result<()> {
    fchmod(fd, Mode::from_bits_truncate(mode))?;
    let time = TimeSpec::new(seconds, nanoseconds.into());
    futimens(fd, &time, &time)
}

/// Makes a symbolic link, whatever its target.
pub(crate) fn make_link(dir: BorrowedFd<'_>, name: &OsStr, target: &Path) -> nix::Result<()> {
    symlinkat(target, dir, name)
}

/// Gives a file another name.
pub(crate) fn make_hard_link(
    from: (BorrowedFd<'_>, &OsStr),
    to: (BorrowedFd<'_>, &OsStr),
) -> nix::Result<()> {
    // Without AT_SYMLINK_FOLLOW. The caller has seen that it is a file, and no other process changes this
    // tree.
    linkat(from.0, from.1, to.0, to.1, AtFlags::empty())
}

/// Removes what is there with all below it, except the paths to keep and the directories that hold one. True
/// if nothing is left.
pub(crate) fn remove(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
    keep: &HashSet<PathBuf>,
) -> nix::Result<bool> {
    match find(dir, name)? {
        Found::Nothing => Ok(true),
        Found::Directory => {
            let below = beneath(dir, Path::new(name))?;
            if !empty(below.as_fd(), path, keep)? || keep.contains(path) {
                return Ok(false);
            }
            unlinkat(dir, name, UnlinkatFlags::RemoveDir).map(|()| true)
        }
        Found::File | Found::Other if keep.contains(path) => Ok(false),
        Found::File | Found::Other => unlinkat(dir, name, UnlinkatFlags::NoRemoveDir).map(|()| true),
    }
}

/// As [`remove`], for everything in a directory.
pub(crate) fn empty(dir: BorrowedFd<'_>, path: &Path, keep: &HashSet<PathBuf>) -> nix::Result<bool> {
    let mut all = true;
    for name in names(dir)? {
        all &= remove(dir, &name, &path.join(&name), keep)?;
    }
    Ok(all)
}

/// Removes what is there with all below it, whatever modes its directories have. Works by descriptors, so no
/// path in it is too long.
///
/// # Errors
/// The kernel's; then a part may be gone.
pub fn take_away(dir: BorrowedFd<'_>, name: &OsStr) -> nix::Result<()> {
    match find(dir, name)? {
        Found::Nothing => Ok(()),
        Found::Directory => {
            // Doesn't follow a link, should it be one by now.
            fchmodat(dir, name, Mode::from_bits_truncate(DIRECTORY), FchmodatFlags::NoFollowSymlink)?;
            let below = beneath(dir, Path::new(name))?;
            for name in names(below.as_fd())? {
                take_away(below.as_fd(), &name)?;
            }
            unlinkat(dir, name, UnlinkatFlags::RemoveDir)
        }
        Found::File | Found::Other => unlinkat(dir, name, UnlinkatFlags::NoRemoveDir),
    }
}

/// Lists a directory. Its own descriptor is closed afterwards, so that only one descriptor for each level is
/// open on the way down.
fn names(dir: BorrowedFd<'_>) -> nix::Result<Vec<OsString>> {
    let mut listing = nix::dir::Dir::from_fd(beneath(dir, Path::new("."))?)?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// Meaningful as an ordinary user, whom modes keep from removing.
    #[test]
    fn a_tree_deeper_than_any_path_goes_whatever_its_modes_and_a_link_in_it_leads_nowhere() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(elsewhere.path().join("canary"), "x").unwrap();
        fchmod(File::open(elsewhere.path()).unwrap(), Mode::from_bits_truncate(0o751)).unwrap();
        let before = std::fs::metadata(elsewhere.path()).unwrap().mode();
        let top = File::open(dir.path()).unwrap();
        let long = "d".repeat(250);
        let mut way: Vec<OwnedFd> = vec![File::open(dir.path()).unwrap().into()];
        for _ in 0..40 {
            let above = way.last().unwrap();
            mkdirat(above, long.as_str(), Mode::S_IRWXU).unwrap();
            way.push(beneath(above.as_fd(), Path::new(&long)).unwrap());
        }
        let last = way.last().unwrap();
        make_file(last.as_fd(), OsStr::new("file")).unwrap();
        make_link(last.as_fd(), OsStr::new("link"), elsewhere.path()).unwrap();
        for (dir, mode) in way.iter().skip(1).zip([0o000, 0o500, 0o300, 0o400].into_iter().cycle()) {
            fchmod(dir, Mode::from_bits_truncate(mode)).unwrap();
        }
        drop(way);
        take_away(top.as_fd(), OsStr::new(&long)).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(std::fs::metadata(elsewhere.path()).unwrap().mode(), before);
        assert!(elsewhere.path().join("canary").exists());
    }
}
