//! Writes what lies below a directory as members of a tar archive. Every name is opened by openat2(2) in the
//! directory that it was read from, through no link and into no other mount, so an agent that exchanges a
//! file for a link meanwhile gains nothing. Without recursion: the directories that are open on the way down
//! are a list, no longer than a path may be deep.

use super::form::{self, BLOCK};
use super::press::Press;
use super::{
    Kinds, LeftOut, MAX_DEPTH, MAX_ENTRIES, MAX_FILE, MAX_PATH, Packed, Progress, Room, Select,
    SnapshotError, WRITING, refused, shown, system,
};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tar::EntryType;

/// Bytes that are read at a time.
const BUFFER: usize = 128 << 10;

/// Writes a compressed archive of what is below `root` and selected.
///
/// # Errors
/// Those of reading and writing; if there is more than may be, naming the path at which that was noticed.
pub fn pack(
    root: BorrowedFd<'_>,
    select: Select<'_>,
    room: Room,
    out: impl Write,
    progress: Progress<'_>,
) -> Result<Packed, SnapshotError> {
    let mut walk = Walk {
        select,
        room,
        progress,
        archive: Press::new(out),
        packed: Packed::default(),
        first_names: HashMap::new(),
        buffer: vec![0; BUFFER],
    };
    let top = reopened(root).and_then(|root| list(&root).map(|names| (root, names)));
    let (root, names) = top.map_err(system("opening the directory itself"))?;
    let mut way = vec![Step::into(root, PathBuf::new(), names)];
    while let Some(step) = way.last_mut() {
        let Some(name) = step.names.next() else {
            way.pop();
            continue;
        };
        let path = step.path.join(&name);
        if let Some(below) = walk.entry(step.dir.as_fd(), &name, path)? {
            way.push(below);
        }
    }
    walk.finish()
}

/// A directory on the way down, and the names in it that are still to be visited.
struct Step {
    dir: OwnedFd,
    path: PathBuf,
    names: std::vec::IntoIter<OsString>,
}

impl Step {
    fn into(dir: OwnedFd, path: PathBuf, names: Vec<OsString>) -> Self {
        Self { dir, path, names: names.into_iter() }
    }
}

/// Lists a directory, sorted, so that the same tree gives the same archive. Stops beyond [`MAX_ENTRIES`],
/// since so many are refused anyway.
fn list(dir: &OwnedFd) -> nix::Result<Vec<OsString>> {
    let mut listing = nix::dir::Dir::from_fd(reopened(dir.as_fd())?)?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name == "." || name == ".." {
            continue;
        }
        names.push(name);
        if names.len() as u64 > MAX_ENTRIES {
            break;
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn reopened(dir: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    open(dir, OsStr::new("."), OFlag::O_DIRECTORY)
}

/// Opens a name in a directory. Doesn't block, should it be a pipe by now.
fn open(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(
            flags
                | OFlag::O_RDONLY
                | OFlag::O_NOFOLLOW
                | OFlag::O_NONBLOCK
                | OFlag::O_NOCTTY
                | OFlag::O_CLOEXEC,
        )
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
    openat2(dir, name, how)
}

/// What a write to a file changes, for good: the last one, the change time, can't be set back (inode(7)).
fn state(found: &FileStat) -> (i64, (i64, i64), (i64, i64)) {
    let modified = (found.st_mtime, found.st_mtime_nsec);
    (found.st_size, modified, (found.st_ctime, found.st_ctime_nsec))
}

fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}

struct Walk<'a, W: Write> {
    select: Select<'a>,
    room: Room,
    progress: Progress<'a>,
    archive: Press<W>,
    packed: Packed,
    /// The first name that was met of each file with several, by device and inode.
    first_names: HashMap<(u64, u64), PathBuf>,
    buffer: Vec<u8>,
}

impl<W: Write> Walk<'_, W> {
    fn left_out(&mut self) -> &mut LeftOut {
        &mut self.packed.left_out
    }

    fn room_for(&self, more: u64) -> Result<(), SnapshotError> {
        match self.packed.amount.entries.saturating_add(more) > MAX_ENTRIES {
            true => {
                Err(SnapshotError::TooMuch { what: "the number of its entries".into(), limit: MAX_ENTRIES })
            }
            false => Ok(()),
        }
    }

    /// Packs one name. For a directory, returns the step down into it.
    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: PathBuf,
    ) -> Result<Option<Step>, SnapshotError> {
        if path.as_os_str().len() >= MAX_PATH || path.iter().count() > MAX_DEPTH {
            self.left_out().deep += 1;
            return Ok(None);
        }
        let found = match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::ENOENT) => {
                self.left_out().changed += 1;
                return Ok(None);
            }
            // A directory that may be listed but not searched.
            Err(Errno::EACCES | Errno::EPERM) => {
                self.left_out().unreadable += 1;
                return Ok(None);
            }
            Err(error) => return Err(system(format!("looking at {}", shown(&path)))(error)),
        };
        let kind = kind(&found);
        if !(self.select.belongs)(&path, kind == SFlag::S_IFDIR) {
            return Ok(None);
        }
        match kind {
            SFlag::S_IFDIR => self.directory(dir, name, path),
            SFlag::S_IFREG => self.file(dir, name, path).map(|()| None),
            SFlag::S_IFLNK if self.select.kinds == Kinds::All => {
                self.link(dir, name, &path, &found).map(|()| None)
            }
            _ => {
                self.left_out().special += 1;
                Ok(None)
            }
        }
    }

    /// Opens a name; `None` if it can't be opened, which is counted.
    fn open(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        flags: OFlag,
    ) -> Result<Option<OwnedFd>, SnapshotError> {
        let left_out = &mut self.packed.left_out;
        match open(dir, name, flags) {
            Ok(fd) => return Ok(Some(fd)),
            Err(Errno::EACCES | Errno::EPERM) => left_out.unreadable += 1,
            Err(Errno::EXDEV) => left_out.mounts += 1,
            // It was something else a moment ago.
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR | Errno::ENXIO) => left_out.changed += 1,
            Err(error) => return Err(system(format!("opening {}", shown(path)))(error)),
        }
        Ok(None)
    }

    fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: PathBuf,
    ) -> Result<Option<Step>, SnapshotError> {
        let Some(fd) = self.open(dir, name, &path, OFlag::O_DIRECTORY)? else { return Ok(None) };
        let found = fstat(&fd).map_err(system(format!("looking at {}", shown(&path))))?;
        let names = match list(&fd) {
            Ok(names) => names,
            Err(Errno::EACCES | Errno::EPERM) => {
                self.left_out().unreadable += 1;
                return Ok(None);
            }
            Err(error) => return Err(system(format!("reading the directory {}", shown(&path)))(error)),
        };
        self.header(EntryType::Directory, &path, None, &found, 0)?;
        self.room_for(names.len() as u64)?;
        Ok(Some(Step::into(fd, path, names)))
    }

    fn link(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        found: &FileStat,
    ) -> Result<(), SnapshotError> {
        match readlinkat(dir, name) {
            Ok(target) => self.header(EntryType::Symlink, path, Some(target.as_bytes()), found, 0),
            Err(Errno::ENOENT | Errno::EINVAL) => {
                self.left_out().changed += 1;
                Ok(())
            }
            Err(Errno::EACCES | Errno::EPERM) => {
                self.left_out().unreadable += 1;
                Ok(())
            }
            Err(error) => Err(system(format!("reading the link {}", shown(path)))(error)),
        }
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr, path: PathBuf) -> Result<(), SnapshotError> {
        let Some(fd) = self.open(dir, name, &path, OFlag::empty())? else { return Ok(()) };
        let found = fstat(&fd).map_err(system(format!("looking at {}", shown(&path))))?;
        if kind(&found) != SFlag::S_IFREG {
            self.left_out().changed += 1;
            return Ok(());
        }
        let several = found.st_nlink > 1 && self.select.kinds == Kinds::All;
        let inode = (found.st_dev, found.st_ino);
        if several && let Some(first) = self.first_names.get(&inode).cloned() {
            return self.header(EntryType::Link, &path, Some(first.as_os_str().as_bytes()), &found, 0);
        }
        let size = u64::try_from(found.st_size).unwrap_or(u64::MAX);
        self.header(EntryType::Regular, &path, None, &found, size)?;
        self.content(File::from(fd), &path, &found)?;
        if several {
            self.first_names.insert(inode, path);
        }
        Ok(())
    }

    /// Checks that a file fits. A sparse file counts by its apparent size, and each entry by what it takes on
    /// a disk.
    fn fits(&self, path: &Path, size: u64) -> Result<(), SnapshotError> {
        if size > MAX_FILE {
            let what = format!("the size of {}, {size} bytes,", shown(path));
            return Err(SnapshotError::TooMuch { what, limit: MAX_FILE });
        }
        let Room { most, taken } = self.room;
        let all = taken.saturating_add(self.packed.amount.charged()).saturating_add(size);
        match all > most {
            true => Err(SnapshotError::NoRoom { path: shown(path), all, most }),
            false => Ok(()),
        }
    }

    fn content(&mut self, mut file: File, path: &Path, before: &FileStat) -> Result<(), SnapshotError> {
        let size = u64::try_from(before.st_size).unwrap_or(u64::MAX);
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let part = self.buffer.get_mut(..most).unwrap_or_default();
            let length = match file.read(part) {
                // The file became shorter. Its header is already written, so the rest is filled with zeros.
                Ok(0) => {
                    part.fill(0);
                    most
                }
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(system(format!("reading {}", shown(path)))(error)),
            };
            self.archive.write_all(part.get(..length).unwrap_or_default()).map_err(system(WRITING))?;
            left -= length as u64;
            self.packed.amount.bytes += length as u64;
            (self.progress)(self.packed.amount.bytes);
        }
        let after = fstat(&file).map_err(system(format!("looking at {}", shown(path))))?;
        self.packed.left_out.changed += u64::from(state(before) != state(&after));
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> Result<(), SnapshotError> {
        let short = usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or_default();
        self.archive.write_all(&vec![0; short]).map_err(system(WRITING))
    }

    /// Writes the headers that come before an entry's content, if there is room for the entry.
    fn header(
        &mut self,
        kind: EntryType,
        path: &Path,
        target: Option<&[u8]>,
        found: &FileStat,
        size: u64,
    ) -> Result<(), SnapshotError> {
        self.room_for(1)?;
        if target.is_some_and(|target| target.is_empty() || target.len() >= MAX_PATH) {
            return Err(refused(format!("the link {} leads nowhere", shown(path))));
        }
        self.packed.amount.entries += 1;
        self.fits(path, size)?;
        let modified = (found.st_mtime, u32::try_from(found.st_mtime_nsec).unwrap_or_default());
        let records = form::records(path.as_os_str().as_bytes(), target, modified);
        let length = records.len() as u64;
        self.write(&form::extension(length))?;
        self.write(&records)?;
        self.pad(length)?;
        self.write(&form::block(kind, found.st_mode & 0o777, size))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.archive.write_all(bytes).map_err(system(WRITING))
    }

    fn finish(mut self) -> Result<Packed, SnapshotError> {
        self.write(&[0; form::END as usize])?;
        self.packed.amount.archive = self.archive.finish().map_err(system(WRITING))?;
        Ok(self.packed)
    }
}
