//! Judges an archive of ours to its end, and extracts it below an empty directory if one is given. The file's
//! author may be hostile. So a name may be used only once, must lie in a directory that came before it, and
//! must be beneath the directory that is filled. Headers that aren't exactly as [`super::walk`] writes them
//! are refused, so that every other reader finds the same names. Never replaces anything, and never follows a
//! link that it has made.

use super::press::Plain;
use super::{Amount, Kinds, MAX_ENTRIES, Progress, Select, SnapshotError, form, refused, shown};
use crate::image::entry::{Entry, Extended, Kind, Names, Place, judge};
use crate::image::tree::{self, Tree, broken};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tar::EntryType;

/// Bytes that are written at a time; as many zeros in a row are left as a hole.
const BUFFER: usize = 64 << 10;
/// Bounds a file that is asked for by name, in bytes.
const MAX_TAKEN: u64 = 4 << 20;
/// Bytes that may stand behind the last entry: the rest of tar's end.
const MAX_END: usize = 1024;

/// What was found.
#[derive(Debug, Default)]
pub struct Seen {
    /// The files that were asked for and are there, with their bytes.
    pub taken: HashMap<PathBuf, Vec<u8>>,
}

/// Reads a compressed archive to its end, and extracts it below `into`. `amount` is what its manifest says
/// that it holds, `take` the files whose bytes are wanted if `into` is `None`.
///
/// # Errors
/// If something isn't as the manifest says, or not as it should be; then a part may have been extracted.
pub fn fill(
    stored: impl Read,
    into: Option<BorrowedFd<'_>>,
    select: Select<'_>,
    amount: Amount,
    take: &[&Path],
    progress: Progress<'_>,
) -> Result<Seen, SnapshotError> {
    let mut plain = Counted { inner: Plain::new(stored), most: amount.archive, seen: 0 };
    let mut filling = Filling {
        tree: into.map(Tree::new),
        select,
        said: amount,
        take,
        progress,
        made: HashMap::new(),
        directories: Vec::new(),
        entries: 0,
        bytes: 0,
        seen: Seen::default(),
    };
    filling.archive(&mut plain)?;
    end(&mut plain)?;
    if !plain.inner.is_all().map_err(unreadable)? {
        return Err(refused("something stands behind its compressed archive"));
    }
    let found = Amount { entries: filling.entries, bytes: filling.bytes, archive: plain.seen };
    if found != amount {
        return Err(refused(format!("it holds {found}, and its manifest says {amount}")));
    }
    filling.finish()
}

/// Counts the bytes that are read, and fails beyond `most`.
struct Counted<R> {
    inner: R,
    most: u64,
    seen: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.seen = self.seen.saturating_add(length as u64);
        match self.seen > self.most {
            true => Err(io::Error::other("it unpacks to more than its manifest says")),
            false => Ok(length),
        }
    }
}

fn unreadable(error: io::Error) -> SnapshotError {
    refused(format!("its archive can't be read: {error}"))
}

fn end(plain: &mut impl Read) -> Result<(), SnapshotError> {
    let mut rest = Vec::new();
    plain.take(MAX_END as u64 + 1).read_to_end(&mut rest).map_err(unreadable)?;
    match rest.len() <= MAX_END && rest.iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => Err(refused("something stands behind the end of its archive")),
    }
}

/// Reads an extended header; returns what it says, and its bytes.
fn extended<R: Read>(raw: &mut tar::Entry<'_, R>) -> Result<(Extended, Vec<u8>), SnapshotError> {
    let length = raw.size();
    if length > form::MAX_RECORDS {
        return Err(SnapshotError::TooMuch { what: "an extended header".into(), limit: form::MAX_RECORDS });
    }
    if *raw.header().as_bytes() != form::extension(length) {
        return Err(refused("an extended header is not written as a snapshot's is"));
    }
    let mut records = Vec::new();
    raw.read_to_end(&mut records).map_err(unreadable)?;
    let mut extended = Extended::default();
    extended.records(&records)?;
    Ok((extended, records))
}

/// Checks that an entry's headers hold nothing that another reader could understand differently.
fn as_written(entry: &Entry, header: &tar::Header, records: &[u8]) -> Result<(), SnapshotError> {
    let bytes = |path: &'_ Path| path.as_os_str().as_bytes().to_vec();
    let (kind, target) = match &entry.kind {
        Kind::Directory => (EntryType::Directory, None),
        Kind::File => (EntryType::Regular, None),
        Kind::Link(target) => (EntryType::Symlink, Some(bytes(target))),
        Kind::HardLink(target) => (EntryType::Link, Some(bytes(target.path()))),
        Kind::Special => return Err(refused("it is a device or a pipe")),
    };
    let path = entry.place.path();
    let wanted = form::records(path.as_os_str().as_bytes(), target.as_deref(), entry.modified);
    match records == wanted && *header.as_bytes() == form::block(kind, entry.mode, entry.size) {
        true => Ok(()),
        false => {
            Err(refused(format!("entry {}: its headers are not written as a snapshot's are", shown(path))))
        }
    }
}

/// What a name was made as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    Directory,
    File,
    Link,
}

struct Filling<'a> {
    tree: Option<Tree<'a>>,
    select: Select<'a>,
    said: Amount,
    take: &'a [&'a Path],
    progress: Progress<'a>,
    made: HashMap<PathBuf, Made>,
    /// Directories, whose modes and times are set last: making something in one changes its time, and may
    /// need more than its mode allows.
    directories: Vec<(Place, u32, (i64, u32))>,
    entries: u64,
    bytes: u64,
    seen: Seen,
}

impl Filling<'_> {
    fn archive(&mut self, plain: &mut impl Read) -> Result<(), SnapshotError> {
        let mut archive = tar::Archive::new(plain);
        let mut before: Option<(Extended, Vec<u8>)> = None;
        for raw in archive.entries().map_err(unreadable)?.raw(true) {
            let mut raw = raw.map_err(unreadable)?;
            before = match (raw.header().entry_type(), before.take()) {
                (EntryType::XHeader, None) => Some(extended(&mut raw)?),
                (EntryType::XHeader, Some(_)) => return Err(refused("an entry has two extended headers")),
                (EntryType::XGlobalHeader | EntryType::GNULongName | EntryType::GNULongLink, _) => {
                    return Err(refused("it has a header of a kind that no snapshot has"));
                }
                (_, None) => return Err(refused("an entry has no extended header")),
                (_, Some((extended, records))) => {
                    self.entries += 1;
                    if self.entries > MAX_ENTRIES.min(self.said.entries) {
                        return Err(refused("it holds more entries than its manifest says"));
                    }
                    let entry = judge(&raw, extended, Names::Any)?;
                    let made = self.judge(&entry)?;
                    as_written(&entry, raw.header(), &records)?;
                    self.entry(&entry, made, &mut raw)?;
                    None
                }
            };
        }
        match before {
            None => Ok(()),
            Some(_) => Err(refused("its archive ends with a header of nothing")),
        }
    }

    fn entry(&mut self, entry: &Entry, made: Made, content: &mut impl Read) -> Result<(), SnapshotError> {
        let path = entry.place.path();
        self.made.insert(path.to_owned(), made);
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.bytes > self.said.bytes {
            return Err(refused("its files hold more than its manifest says"));
        }
        match &self.tree {
            Some(tree) => {
                let tree = *tree;
                self.make(tree, entry, content)?;
            }
            None if self.take.contains(&path) => {
                if entry.size > MAX_TAKEN {
                    return Err(SnapshotError::TooMuch { what: shown(path), limit: MAX_TAKEN });
                }
                let mut bytes = Vec::new();
                content.read_to_end(&mut bytes).map_err(unreadable)?;
                whole(bytes.len() as u64, entry)?;
                self.seen.taken.insert(path.to_owned(), bytes);
            }
            None => {
                let read = io::copy(content, &mut io::sink()).map_err(unreadable)?;
                whole(read, entry)?;
            }
        }
        (self.progress)(self.bytes);
        Ok(())
    }

    /// Returns what an entry makes, if it is allowed.
    fn judge(&self, entry: &Entry) -> Result<Made, SnapshotError> {
        let path = entry.place.path();
        let wrong = |why: &str| Err(refused(format!("entry {}: {why}", shown(path))));
        let Some((parent, _)) = entry.place.split() else { return wrong("it is the directory itself") };
        if !(self.select.belongs)(path, matches!(entry.kind, Kind::Directory)) {
            return wrong("it has no place in a snapshot");
        }
        if self.made.contains_key(path) {
            return wrong("it is there twice");
        }
        if !parent.as_os_str().is_empty() && self.made.get(parent) != Some(&Made::Directory) {
            return wrong("what it lies in is no directory that came before it");
        }
        match (&entry.kind, self.select.kinds) {
            (Kind::Directory, _) => Ok(Made::Directory),
            (Kind::File, _) => Ok(Made::File),
            (Kind::Link(_), Kinds::All) => Ok(Made::Link),
            (Kind::HardLink(target), Kinds::All) if self.made.get(target.path()) == Some(&Made::File) => {
                Ok(Made::File)
            }
            (Kind::HardLink(_), Kinds::All) => {
                wrong("it is a second name of what is no file that came before it")
            }
            (Kind::Link(_) | Kind::HardLink(_), Kinds::Plain) => wrong("it is a link, and records have none"),
            (Kind::Special, _) => wrong("it is a device or a pipe"),
        }
    }

    fn make(&mut self, tree: Tree<'_>, entry: &Entry, content: &mut impl Read) -> Result<(), SnapshotError> {
        let Entry { place, kind, mode, modified, .. } = entry;
        let Some((parent, name)) = tree.parent(place)? else { return Ok(()) };
        let (dir, name) = (parent.as_fd(), name.as_os_str());
        match kind {
            Kind::Directory => {
                tree::make_directory(dir, name, *mode).map_err(broken(place))?;
                self.directories.push((place.clone(), *mode, *modified));
            }
            Kind::File => {
                let file = tree::make_file(dir, name).map_err(broken(place))?;
                whole(write(content, &file, place)?, entry)?;
                tree::finish(file.as_fd(), *mode, *modified).map_err(broken(place))?;
            }
            Kind::Link(target) => {
                tree::make_link(dir, name, target).map_err(broken(place))?;
                let time = TimeSpec::new(modified.0, modified.1.into());
                utimensat(dir, name, &time, &time, UtimensatFlags::NoFollowSymlink).map_err(broken(place))?;
            }
            Kind::HardLink(target) => {
                let Some((parent, first)) = tree.parent(target)? else { return Ok(()) };
                tree::make_hard_link((parent.as_fd(), &first), (dir, name)).map_err(broken(place))?;
            }
            Kind::Special => {}
        }
        Ok(())
    }

    /// Sets the directories' modes and times, in reverse order: what lies in a directory is reached through
    /// it.
    fn finish(self) -> Result<Seen, SnapshotError> {
        let Some(tree) = self.tree else { return Ok(self.seen) };
        for (place, mode, modified) in self.directories.iter().rev() {
            let dir = tree.directory(place)?;
            let dir = dir.ok_or_else(|| refused(format!("{} is gone", shown(place.path()))))?;
            tree::finish(dir.as_fd(), *mode, *modified).map_err(broken(place))?;
        }
        Ok(self.seen)
    }
}

fn whole(read: u64, entry: &Entry) -> Result<(), SnapshotError> {
    match read == entry.size {
        true => Ok(()),
        false => Err(refused("its archive ends within a file")),
    }
}

/// Copies the content, with holes where there are only zeros, so that a sparse file doesn't fill the disk.
fn write(content: &mut impl Read, mut file: &File, place: &Place) -> Result<u64, SnapshotError> {
    let mut buffer = vec![0; BUFFER];
    let mut length = 0_u64;
    loop {
        let read = content.read(&mut buffer).map_err(unreadable)?;
        let part = buffer.get(..read).unwrap_or_default();
        if part.is_empty() {
            break;
        }
        length += read as u64;
        if part.iter().all(|byte| *byte == 0) {
            file.seek(SeekFrom::Start(length)).map_err(broken(place))?;
        } else {
            file.write_all(part).map_err(broken(place))?;
        }
    }
    file.set_len(length).map_err(broken(place))?;
    Ok(length)
}
