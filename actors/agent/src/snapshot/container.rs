//! The file: a plain tar archive of a few members in a fixed order, the description last, and nothing else.
//! There is only one way to write it, and a file written otherwise is refused, so that no file can be read in
//! two ways. What the members hold is judged elsewhere.

use super::{SnapshotError, WRITING, refused, system};
use crate::image::Digest;
use crate::image::layout::Slice;
use crate::image::verify::{Size, Verified};
use crate::sys;
use nix::poll::PollTimeout;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use tar::Header;

/// The description's name.
pub const MANIFEST: &str = "manifest.json";
/// Bounds the description, in bytes.
const MAX_MANIFEST: u64 = 64 << 10;
/// Bounds the members beside the description.
const MAX_PARTS: usize = 8;
/// Bytes that are hashed between two checks whether the command is asked to end.
const HASHED_AT_ONCE: usize = 1 << 20;
const BLOCK: u64 = 512;
const END: [u8; 2 * BLOCK as usize] = [0; 2 * BLOCK as usize];

/// A member, as the description records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// `sha256:` and the digest of its bytes.
    pub digest: String,
    /// Number of its bytes.
    pub size: u64,
}

/// Writes a container, from the file's beginning.
#[derive(Debug)]
pub struct Writer<'a> {
    file: &'a File,
}

impl<'a> Writer<'a> {
    /// Begins a container in an empty file.
    #[must_use]
    pub fn new(file: &'a File) -> Self {
        Self { file }
    }

    /// Adds a member, whose bytes `write` appends to the file, by any descriptor that shares its offset.
    ///
    /// # Errors
    /// Those of writing, and `write`'s own.
    pub fn part<T>(
        &mut self,
        name: &str,
        write: impl FnOnce() -> Result<T, SnapshotError>,
    ) -> Result<(Part, T), SnapshotError> {
        let told = || system(WRITING);
        let mut file = self.file;
        let at = file.stream_position().map_err(told())?;
        file.write_all(&[0; BLOCK as usize]).map_err(told())?;
        let done = write()?;
        let start = at + BLOCK;
        let size = file.stream_position().map_err(told())?.saturating_sub(start);
        file.write_all(&padding(size)).map_err(told())?;
        file.write_all_at(&header(name, size), at).map_err(told())?;
        let hash = hashed(Slice { file: self.file, at: start, left: size }, size)?;
        let digest = format!("sha256:{}", hex::encode(hash.finalize()));
        Ok((Part { digest, size }, done))
    }

    /// Writes the description and the end. All is on disk once this returns.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish(self, manifest: &[u8]) -> Result<(), SnapshotError> {
        let length = manifest.len() as u64;
        if length > MAX_MANIFEST {
            return Err(SnapshotError::TooMuch { what: MANIFEST.into(), limit: MAX_MANIFEST });
        }
        let mut file = self.file;
        [header(MANIFEST, length).as_slice(), manifest, &padding(length), &END]
            .iter()
            .try_for_each(|bytes| file.write_all(bytes))
            .and_then(|()| file.sync_all())
            .map_err(system(WRITING))
    }
}

/// Hashes `size` bytes. A held signal that asks this process to end interrupts it.
fn hashed(mut from: impl Read, size: u64) -> Result<Sha256, SnapshotError> {
    let told = || system("reading the snapshot back");
    let requests = sys::signals::Requests::of_blocked().map_err(told())?;
    let (mut hash, mut left) = (Sha256::new(), size);
    let mut buffer = vec![0; HASHED_AT_ONCE];
    while left > 0 {
        requests.or(None, PollTimeout::ZERO).map_err(told())?;
        let read = from.read(&mut buffer).map_err(told())?;
        if read == 0 {
            return Err(refused("the snapshot became shorter while it was written"));
        }
        hash.update(buffer.get(..read).unwrap_or_default());
        left = left.saturating_sub(read as u64);
    }
    Ok(hash)
}

/// The only header that a member of this name and size has.
fn header(name: &str, size: u64) -> [u8; BLOCK as usize] {
    let mut header = Header::new_ustar();
    for (to, from) in header.as_old_mut().name.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o600);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    *header.as_bytes()
}

fn padding(size: u64) -> Vec<u8> {
    vec![0; usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or_default()]
}

/// An open container; only its description has been read.
#[derive(Debug)]
pub struct Container<'a> {
    file: &'a File,
    parts: Vec<(String, u64, u64)>,
    /// The description's bytes.
    pub manifest: Vec<u8>,
}

impl<'a> Container<'a> {
    /// Finds the members. Their names must be among these, in this order.
    ///
    /// # Errors
    /// If it isn't written exactly as [`Writer`] writes it, to its last byte.
    pub fn open(file: &'a File, names: &[&str]) -> Result<Self, SnapshotError> {
        let all = file.metadata().map_err(system("the snapshot"))?.len();
        let (mut at, mut parts) = (0_u64, Vec::new());
        let mut wanted = names.iter();
        loop {
            let block = exactly(file, at, BLOCK)?;
            let name = name_of(&block);
            let size = Header::from_byte_slice(&block).entry_size().unwrap_or(u64::MAX);
            let start = at.saturating_add(BLOCK);
            if header(&name, size).as_slice() != block || parts.len() > MAX_PARTS {
                return Err(not_one(at == 0));
            }
            let end = start.checked_add(size).and_then(|end| end.checked_next_multiple_of(BLOCK));
            let end = end.filter(|end| *end <= all).ok_or_else(|| not_one(false))?;
            let filled = start + size;
            if exactly(file, filled, end - filled)?.iter().any(|byte| *byte != 0) {
                return Err(refused("something stands between its members"));
            }
            if name == MANIFEST {
                if size > MAX_MANIFEST {
                    return Err(SnapshotError::TooMuch { what: MANIFEST.into(), limit: MAX_MANIFEST });
                }
                if exactly(file, end, END.len() as u64)? != END || end + END.len() as u64 != all {
                    return Err(refused("something else stands where it should end"));
                }
                let manifest = exactly(file, start, size)?;
                return Ok(Self { file, parts, manifest });
            }
            if !wanted.any(|wanted| *wanted == name) {
                return Err(refused(format!("its member {name:?} has no place in it")));
            }
            parts.push((name, start, size));
            at = end;
        }
    }

    /// Whether it has this member.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.parts.iter().any(|(there, _, _)| there == name)
    }

    /// How many members there are beside the description.
    #[must_use]
    pub fn count(&self) -> usize {
        self.parts.len()
    }

    /// Reads a member, and checks in the end that it was what the description says.
    ///
    /// # Errors
    /// If it wasn't, which takes precedence over an error of `read`; otherwise that error.
    pub fn read<T>(
        &self,
        name: &str,
        part: &Part,
        read: impl FnOnce(&mut dyn Read) -> Result<T, SnapshotError>,
    ) -> Result<T, SnapshotError> {
        let found = self.parts.iter().find(|(there, _, _)| there == name);
        let (_, start, size) = found.ok_or_else(|| refused(format!("it has no {name}")))?;
        if *size != part.size {
            return Err(refused(format!("its {name} has {size} bytes, and its manifest says {}", part.size)));
        }
        let digest: Digest = part.digest.parse()?;
        let bytes = Slice { file: self.file, at: *start, left: *size };
        let mut verified = Verified::new(bytes, digest, Size::Exactly(*size), format!("its {name}"));
        let done = read(&mut verified);
        verified.finish()?;
        done
    }
}

/// Returns the name in a header, up to the first NUL.
fn name_of(block: &[u8]) -> String {
    let name: Vec<u8> = block.iter().take(100).take_while(|byte| **byte != 0).copied().collect();
    String::from_utf8_lossy(&name).into_owned()
}

fn not_one(at_once: bool) -> SnapshotError {
    refused(match at_once {
        true => "it is no snapshot of cofferdam's",
        false => "it is cut off, or was changed",
    })
}

fn exactly(file: &File, at: u64, length: u64) -> Result<Vec<u8>, SnapshotError> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact_at(&mut bytes, at).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => not_one(at == 0),
        _ => system("reading the snapshot")(error),
    })?;
    Ok(bytes)
}
