//! An OCI image layout (image-spec, image-layout.md): a directory, or one tar archive of it. Blobs are found
//! by their digest alone; what they are called elsewhere in the archive is never looked at.

use super::bounds::{MAX_DOCUMENT, MAX_MEMBERS};
use super::verify::{Size, Verified, another_size};
use super::{Digest, ImageError, refused};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// An open layout.
pub(super) enum Layout {
    Directory(OwnedFd),
    Archive { file: File, members: BTreeMap<String, Span> },
}

/// A file of a layout.
struct Stored<'a> {
    bytes: Box<dyn Read + 'a>,
    length: u64,
}

/// Where in an archive a member's bytes are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u64,
    length: u64,
}

/// Opens what a path names, without reading it.
pub(super) fn open(path: &Path) -> Result<File, ImageError> {
    let shown = path.display();
    let file = std::fs::OpenOptions::new()
        .read(true)
        // Doesn't block, should it be a named pipe.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ImageError::Absent(shown.to_string()),
            _ => ImageError::System { what: format!("opening {shown}"), source: error },
        })?;
    let meta = file.metadata().map_err(super::system(format!("opening {shown}")))?;
    if meta.is_dir() || meta.is_file() {
        return Ok(file);
    }
    Err(refused(format!("{shown} is neither a directory nor a file")))
}

impl Layout {
    /// Finds the layout in an opened directory or archive.
    pub(super) fn of(file: File) -> Result<Self, ImageError> {
        let meta = file.metadata().map_err(super::system("the image"))?;
        if meta.is_dir() {
            return Ok(Self::Directory(file.into()));
        }
        let members = scan(&file)?;
        if !members.contains_key("index.json") && !members.keys().any(|name| name.starts_with("blobs/")) {
            return Err(refused(
                "it holds no OCI image layout (no blobs/ and no index.json); `skopeo copy … oci-archive:FILE` and \
                 `docker save` from version 25 on make one",
            ));
        }
        Ok(Self::Archive { file, members })
    }

    /// Reads a small document by name, for which no digest is known.
    pub(super) fn named(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        read_document(self.find(name)?.bytes, name)
    }

    /// Reads a small document and verifies its digest.
    pub(super) fn document(
        &self,
        digest: Digest,
        size: Option<u64>,
        what: &str,
    ) -> Result<Vec<u8>, ImageError> {
        let size = match size {
            Some(size) if size > MAX_DOCUMENT => {
                return Err(ImageError::TooMuch { what: what.to_owned(), limit: MAX_DOCUMENT });
            }
            Some(size) => Size::Exactly(size),
            None => Size::AtMost(MAX_DOCUMENT),
        };
        let mut blob = self.blob(digest, size, what.to_owned())?;
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).map_err(|error| refused(format!("{what}: {error}")))?;
        blob.finish()?;
        Ok(bytes)
    }

    /// Opens a blob; the reader must also call [`Verified::finish`].
    pub(super) fn blob(
        &self,
        digest: Digest,
        size: Size,
        what: String,
    ) -> Result<Verified<Box<dyn Read + '_>>, ImageError> {
        let stored = self.find(&format!("blobs/sha256/{}", digest.hex())).map_err(|error| match error {
            ImageError::Refused(_) => refused(format!("{what} ({digest}) is not in it")),
            other => other,
        })?;
        // Checked before a byte is read: how much a layer may unpack to depends on this size.
        if let Size::Exactly(said) = size
            && said != stored.length
        {
            return Err(another_size(&what, stored.length, said));
        }
        Ok(Verified::new(stored.bytes, digest, size, what))
    }

    fn find(&self, name: &str) -> Result<Stored<'_>, ImageError> {
        match self {
            Self::Directory(dir) => {
                let how = OpenHow::new()
                    .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
                    .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
                let file = openat2(dir, name, how).map(File::from).map_err(|error| match error {
                    nix::errno::Errno::ENOENT => missing(name),
                    error => refused(format!("its {name} can't be opened: {error}")),
                })?;
                let meta = file.metadata().ok().filter(std::fs::Metadata::is_file);
                let meta = meta.ok_or_else(|| refused(format!("its {name} is no file")))?;
                Ok(Stored { bytes: Box::new(file), length: meta.len() })
            }
            Self::Archive { file, members } => {
                let span = members.get(name).ok_or_else(|| missing(name))?;
                let bytes = Box::new(Slice { file, at: span.start, left: span.length });
                Ok(Stored { bytes, length: span.length })
            }
        }
    }
}

fn missing(name: &str) -> ImageError {
    refused(format!("it has no {name}"))
}

fn read_document(bytes: impl Read, name: &str) -> Result<Vec<u8>, ImageError> {
    let mut read = Vec::new();
    bytes
        .take(MAX_DOCUMENT + 1)
        .read_to_end(&mut read)
        .map_err(|error| refused(format!("{name}: {error}")))?;
    if read.len() as u64 > MAX_DOCUMENT {
        return Err(ImageError::TooMuch { what: name.to_owned(), limit: MAX_DOCUMENT });
    }
    Ok(read)
}

fn scan(file: &File) -> Result<BTreeMap<String, Span>, ImageError> {
    let unreadable = |error: io::Error| {
        refused(format!(
            "it is no readable tar archive ({error}); a compressed one must be uncompressed first"
        ))
    };
    let length = file.metadata().map_err(unreadable)?.len();
    let mut members = BTreeMap::new();
    let mut archive = tar::Archive::new(file);
    for (count, entry) in archive.entries_with_seek().map_err(unreadable)?.raw(true).enumerate() {
        let entry = entry.map_err(unreadable)?;
        if count >= MAX_MEMBERS {
            return Err(ImageError::TooMuch {
                what: "the number of its members".into(),
                limit: MAX_MEMBERS as u64,
            });
        }
        if entry.header().entry_type() != tar::EntryType::Regular {
            continue;
        }
        let name = entry.header().path_bytes();
        let Ok(name) = std::str::from_utf8(&name) else { continue };
        let span = Span { start: entry.raw_file_position(), length: entry.size() };
        if span.start.checked_add(span.length).is_none_or(|end| end > length) {
            return Err(refused(format!("its member {name:?} is cut off")));
        }
        // Which of two members is meant would depend on the reader.
        if members.insert(name.trim_start_matches("./").to_owned(), span).is_some() {
            return Err(refused(format!("it holds {name:?} twice")));
        }
    }
    Ok(members)
}

/// A part of a file, read in place.
pub(crate) struct Slice<'a> {
    pub(crate) file: &'a File,
    pub(crate) at: u64,
    pub(crate) left: u64,
}

impl Read for Slice<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let length = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at += length as u64;
        self.left -= length as u64;
        Ok(length)
    }
}
