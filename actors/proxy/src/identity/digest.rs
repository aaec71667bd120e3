//! SHA-256 of executables, read through their open descriptors and cached for as long as the file is
//! unchanged.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moka::sync::Cache;
use rustix::fs::{AtFlags, FileType, StatxFlags, StatxTimestamp, makedev, statx};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

/// A SHA-256 hash.
pub type Sha256Hash = [u8; 32];

/// Largest executable that is hashed: the biggest agents' single-file programs have some 250 MB, and reading
/// a gigabyte takes about the second that a caller may be kept waiting.
pub const MAX_EXECUTABLE_BYTES: u64 = 1 << 30;
/// Most files whose hash is cached.
const CACHED_FILES: u64 = 4096;
/// Most files hashed at once: more would only starve the rest of the process of its cores.
const CONCURRENT: usize = 2;
/// Bytes read at a time.
const CHUNK: usize = 256 * 1024;
/// A hash is not cached if the file changed less than this before it was read: within one tick of the
/// kernel's coarse clock (10 ms at 100 Hz) a second change can leave all times as they are.
const RACY: Duration = Duration::from_millis(100);

/// Distinguishes one content of one file from any other, as far as the kernel's metadata can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    pub(super) dev: u64,
    pub(super) ino: u64,
    size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
}

impl Stamp {
    /// Asks the file's server, which may never answer: not for an async thread.
    fn of(file: &File) -> Result<Self, HashError> {
        Self::look(file, AtFlags::STATX_FORCE_SYNC)
    }

    /// Returns what this kernel has cached, which is what it would execute. Asks no server (statx(2)), so it
    /// doesn't block.
    fn known(file: &File) -> Result<Self, HashError> {
        Self::look(file, AtFlags::STATX_DONT_SYNC)
    }

    fn look(file: &File, how: AtFlags) -> Result<Self, HashError> {
        let found = statx(file, c"", AtFlags::EMPTY_PATH | how, StatxFlags::BASIC_STATS)
            .map_err(|errno| HashError::io(errno.into()))?;
        if !FileType::from_raw_mode(found.stx_mode.into()).is_file() {
            return Err(HashError::NotAFile);
        }
        if found.stx_nlink == 0 {
            return Err(HashError::Unlinked);
        }
        if found.stx_size > MAX_EXECUTABLE_BYTES {
            return Err(HashError::TooLarge);
        }
        let time = |time: StatxTimestamp| (time.tv_sec, time.tv_nsec);
        Ok(Self {
            dev: makedev(found.stx_dev_major, found.stx_dev_minor),
            ino: found.stx_ino,
            size: found.stx_size,
            mtime: time(found.stx_mtime),
            ctime: time(found.stx_ctime),
        })
    }

    /// Whether the file's last change is long enough before `now` that its next one will show in its times.
    fn settled(&self, now: SystemTime) -> bool {
        let Ok(now) = now.duration_since(UNIX_EPOCH) else { return false };
        let Ok(secs) = u64::try_from(self.ctime.0) else { return false };
        now.checked_sub(Duration::new(secs, self.ctime.1)).is_some_and(|age| age > RACY)
    }
}

/// A file's hash, and the stamp of the file that was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) stamp: Stamp,
    pub(super) sha256: Sha256Hash,
    /// Whether the hash was found in the cache at once: nothing was read, so no time has passed.
    pub(super) known: bool,
}

/// Why a file has no hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Not a regular file.
    #[error("it is not a regular file")]
    NotAFile,
    /// No directory names the file: it was deleted, or is a memfd.
    #[error("no directory names it")]
    Unlinked,
    /// Over [`MAX_EXECUTABLE_BYTES`].
    #[error("it is larger than {} MiB", MAX_EXECUTABLE_BYTES >> 20)]
    TooLarge,
    /// The file was written to while it was hashed.
    #[error("it changed while it was read")]
    Changing,
    /// It could not be read.
    #[error("{0}")]
    Io(String),
    /// The runtime is shutting down.
    #[error("cofferdam is stopping")]
    Stopping,
}

impl HashError {
    #[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
    fn io(error: std::io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// Hashes files and caches the hashes. Clones share the cache.
#[derive(Debug, Clone)]
pub struct Digests {
    cache: Cache<Stamp, Sha256Hash>,
    permits: Arc<Semaphore>,
}

impl Default for Digests {
    fn default() -> Self {
        Self { cache: Cache::new(CACHED_FILES), permits: Arc::new(Semaphore::new(CONCURRENT)) }
    }
}

impl Digests {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The hash of an open file.
    pub(super) async fn of(&self, file: OwnedFd) -> Result<Measured, HashError> {
        let file = File::from(file);
        let stamp = Stamp::known(&file)?;
        if let Some(sha256) = self.cache.get(&stamp) {
            return Ok(Measured { stamp, sha256, known: true });
        }
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| HashError::Stopping)?;
        // Another caller may have hashed the same file while this one waited for a permit.
        if let Some(sha256) = self.cache.get(&stamp) {
            return Ok(Measured { stamp, sha256, known: false });
        }
        let cache = self.cache.clone();
        let work = tokio::task::spawn_blocking(move || {
            // The work holds the permit: if the caller gives up, the work goes on and must still count.
            let _permit = permit;
            let begun = SystemTime::now();
            let stamp = Stamp::of(&file)?;
            let hash = read_through(&file, stamp.size)?;
            if Stamp::of(&file)? != stamp {
                return Err(HashError::Changing);
            }
            if stamp.settled(begun) {
                cache.insert(stamp, hash);
            }
            Ok(Measured { stamp, sha256: hash, known: false })
        });
        work.await.map_err(|_| HashError::Stopping)?
    }

    /// Returns the file's stamp without hashing it.
    pub(super) fn stamp(file: OwnedFd) -> Result<Stamp, HashError> {
        Stamp::known(&File::from(file))
    }
}

/// Reads the whole file, from its beginning whatever the descriptor's offset is (others may share it).
fn read_through(file: &File, size: u64) -> Result<Sha256Hash, HashError> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut offset = 0u64;
    loop {
        let n = match file.read_at(&mut chunk, offset) {
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(HashError::io(error)),
        };
        if n == 0 {
            break;
        }
        hasher.update(chunk.get(..n).unwrap_or_default());
        offset = offset.saturating_add(n as u64);
        if offset > size {
            return Err(HashError::Changing);
        }
    }
    if offset == size { Ok(hasher.finalize().into()) } else { Err(HashError::Changing) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    /// A file whose times lie a second back, so that its hash is remembered.
    fn old_file(dir: &std::path::Path, content: &[u8]) -> std::path::PathBuf {
        let path = dir.join("file");
        std::fs::write(&path, content).unwrap();
        std::thread::sleep(RACY + Duration::from_millis(20));
        path
    }

    #[tokio::test]
    async fn hashes_the_whole_file_whatever_the_offset() {
        let dir = tempfile::tempdir().unwrap();
        let path = old_file(dir.path(), &vec![7; CHUNK * 2 + 5]);
        let mut file = File::open(&path).unwrap();
        file.read_exact(&mut [0; 10]).unwrap();
        let digests = Digests::new();
        let hash = digests.of(file.into()).await.unwrap().sha256;
        assert_eq!(hash, <[u8; 32]>::from(Sha256::digest(vec![7; CHUNK * 2 + 5])));
        digests.cache.run_pending_tasks();
        assert_eq!(digests.cache.entry_count(), 1);
    }

    #[tokio::test]
    async fn a_change_is_seen_and_a_fresh_file_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let path = old_file(dir.path(), b"good");
        let digests = Digests::new();
        let good = digests.of(open(&path)).await.unwrap().sha256;
        std::fs::write(&path, b"evil").unwrap();
        let evil = digests.of(open(&path)).await.unwrap().sha256;
        assert_ne!(good, evil);
        std::fs::write(&path, b"more").unwrap();
        let more = digests.of(open(&path)).await.unwrap().sha256;
        assert_ne!(evil, more);
        digests.cache.run_pending_tasks();
        assert_eq!(digests.cache.entry_count(), 1, "only the settled content is remembered");
    }

    #[tokio::test]
    async fn what_is_no_lasting_file_has_no_hash() {
        let dir = tempfile::tempdir().unwrap();
        let digests = Digests::new();
        assert_eq!(digests.of(open(dir.path())).await, Err(HashError::NotAFile));
        let mut gone = tempfile::tempfile_in(dir.path()).unwrap();
        gone.write_all(b"x").unwrap();
        assert_eq!(digests.of(gone.into()).await, Err(HashError::Unlinked));
        let memfd = nix::sys::memfd::memfd_create(c"evil", nix::sys::memfd::MFdFlags::empty()).unwrap();
        assert_eq!(digests.of(memfd).await, Err(HashError::Unlinked));
        let huge = File::create(dir.path().join("huge")).unwrap();
        huge.set_len(MAX_EXECUTABLE_BYTES + 1).unwrap();
        assert_eq!(digests.of(huge.into()).await, Err(HashError::TooLarge));
    }
}
