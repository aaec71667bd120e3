//! The log's files: opening with explicit repair, appending a batch with one `fdatasync`, rotation with the chain
//! carried across, and the head file that makes a cut tail show. All blocking. Never shortens the log but for the
//! unfinished bytes of its own failed write or of a crash, and the latter goes on record.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redactor::Redactor;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::event::{Event, Note};
use super::record::{Draft, GENESIS, Record, RecordId, parse};

/// The file being written.
pub const LOG_NAME: &str = "audit.jsonl";
/// The last record written, by number and hash.
pub const HEAD_NAME: &str = "audit.head";
/// Finished files are named by their first record: `audit-000000000001.jsonl`.
const OLD_PREFIX: &str = "audit-";
const OLD_SUFFIX: &str = ".jsonl";
/// Longest line ever written: a dozen texts of `TEXT_MAX`, each byte escaped sixfold, with room to spare.
pub(crate) const LINE_MAX: usize = 512 * 1024;
/// Bytes of most lines at most.
const USUAL_LINE: usize = 768;
/// What of a file's end is looked at first: most records are far shorter.
const END_MIN: u64 = 16 << 10;
/// The head file is overwritten in place, so it always has this length.
const HEAD_LENGTH: usize = 192;

/// When a new file is begun, and how many old ones are kept.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// A new file is begun when this one has so many bytes.
    pub bytes: u64,
    /// So many finished files are kept; older ones are deleted, on record.
    pub keep: usize,
}

impl Default for Rotation {
    /// 32 files of 64 MiB: some four million records, bounded at 2 GiB.
    fn default() -> Self {
        Self { bytes: 64 * 1024 * 1024, keep: 32 }
    }
}

/// Why the log can't be kept.
#[derive(Debug, Error)]
pub enum AuditError {
    /// A file operation failed.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// How it failed.
        source: std::io::Error,
    },
    /// Another process writes this log.
    #[error("{0} is being written by another process: stop that sandbox first")]
    InUse(PathBuf),
    /// A record could not be put into words.
    #[error("encoding a record: {0}")]
    Encode(#[from] serde_json::Error),
    /// The writing thread panicked.
    #[error("the writer panicked: {0}")]
    Panicked(String),
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> AuditError {
    let path = path.to_owned();
    move |source| AuditError::Io { what, path, source }
}

/// What a write put on disk: whole lines.
#[derive(Debug)]
pub(crate) struct Written(Vec<u8>);

impl Written {
    /// The lines, read back: for those who watch.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record> {
        self.0.split(|byte| *byte == b'\n').filter_map(|line| parse(line).ok())
    }
}

/// The head file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) seq: u64,
    pub(crate) hash: String,
}

/// The end of the chain.
#[derive(Debug, Clone)]
struct Tip {
    seq: u64,
    hash: String,
    id: Option<RecordId>,
}

impl Tip {
    fn genesis() -> Self {
        Self { seq: 0, hash: GENESIS.to_owned(), id: None }
    }

    fn of(record: &Record) -> Self {
        Self { seq: record.seq, hash: record.hash.clone(), id: Some(record.id) }
    }
}

/// The log, open for writing; holds the lock on it.
#[derive(Debug)]
pub(crate) struct AuditFile {
    directory: PathBuf,
    rotation: Rotation,
    file: File,
    /// Bytes of whole records.
    length: u64,
    /// The first record of this file.
    first: u64,
    tip: Tip,
    head: File,
    /// Notes about the log itself, written before the next record.
    notes: Vec<Draft>,
    /// A failed write could not be taken back, or the file lost its name: the log must be read again.
    broken: bool,
}

impl AuditFile {
    /// Opens, locks, repairs and continues the log in `directory`.
    pub(crate) fn open(
        directory: &Path,
        rotation: Rotation,
        redactor: &Redactor,
    ) -> Result<Self, AuditError> {
        Self::open_after(None, directory, rotation, redactor)
    }

    /// The log to write to: the one at hand, or opened anew where there is none or it can't go on.
    pub(crate) fn go_on(
        file: Option<Self>,
        directory: &Path,
        rotation: Rotation,
        redactor: &Redactor,
    ) -> Result<Self, AuditError> {
        let Some(mut file) = file else { return Self::open(directory, rotation, redactor) };
        file.find_loss();
        if !file.broken {
            return Ok(file);
        }
        // Its lock goes with it.
        let written = file.head();
        drop(file);
        Self::open_after(Some(written), directory, rotation, redactor)
    }

    /// As [`Self::open`], by who knows what was written last, should the head file be gone.
    fn open_after(
        written: Option<Head>,
        directory: &Path,
        rotation: Rotation,
        redactor: &Redactor,
    ) -> Result<Self, AuditError> {
        let head_path = directory.join(HEAD_NAME);
        let head = open_private(&head_path, false)?;
        match head.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(AuditError::InUse(head_path)),
            Err(std::fs::TryLockError::Error(source)) => {
                return Err(AuditError::Io { what: "locking", path: head_path, source });
            }
        }
        let path = directory.join(LOG_NAME);
        let mut file = open_private(&path, true)?;
        let mut notes = Vec::new();
        let found = read_end(&mut file, &path)?;
        if let Some(torn) = &found.torn {
            file.set_len(found.length).map_err(io("truncating", &path))?;
            notes.push(torn.clone());
        }
        let last = match found.last {
            None => last_of_old(directory)?,
            last => last,
        };
        let tip = settle(last, read_head(&head_path)?.or(written), &mut notes);
        let first = first_seq(&path)?.unwrap_or(tip.seq + 1);
        let notes = notes.into_iter().map(|note| Draft::new(Event::Log(note))).collect();
        let directory = directory.to_owned();
        let mut log =
            Self { directory, rotation, file, length: found.length, first, tip, head, notes, broken: false };
        log.append(&mut [], redactor)?;
        Ok(log)
    }

    /// Notices that a file was removed or renamed: what is written to it would be found by nobody. Two looks a batch are
    /// nothing beside its `fdatasync`.
    fn find_loss(&mut self) {
        for (file, name) in [(&self.file, LOG_NAME), (&self.head, HEAD_NAME)] {
            let path = self.directory.join(name);
            if !self.broken && !is_at(file, &path) {
                tracing::error!(path = %path.display(), "removed or renamed while the audit log was written; it is opened anew");
                self.broken = true;
            }
        }
    }

    /// Writes all of the batch that isn't written yet, durably, or nothing. The texts of what it tried are redacted afterwards.
    pub(crate) fn append(&mut self, batch: &mut [Draft], redactor: &Redactor) -> Result<Written, AuditError> {
        self.rotate()?;
        let written = self.tip.id.and_then(|last| batch.iter().position(|draft| draft.id == last));
        let rest = batch.get_mut(written.map_or(0, |index| index + 1)..).unwrap_or_default();
        let mut tip = self.tip.clone();
        let mut lines = Vec::with_capacity(USUAL_LINE * (self.notes.len() + rest.len()));
        for draft in self.notes.iter_mut().chain(rest) {
            let seq = tip.seq + 1;
            let hash = draft.finish(seq, &tip.hash, redactor, &mut lines)?;
            tip = Tip { seq, hash, id: Some(draft.id) };
        }
        self.commit(&lines)?;
        self.tip = tip;
        self.notes.clear();
        self.write_head()?;
        Ok(Written(lines))
    }

    fn path(&self) -> PathBuf {
        self.directory.join(LOG_NAME)
    }

    fn commit(&mut self, bytes: &[u8]) -> Result<(), AuditError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let done = self.file.write_all(bytes).and_then(|()| self.file.sync_data());
        if let Err(source) = done {
            // Takes back what this write left, so that the next attempt begins on a line of its own.
            self.broken = self.file.set_len(self.length).is_err();
            return Err(AuditError::Io { what: "writing", path: self.path(), source });
        }
        self.length += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn head(&self) -> Head {
        Head { seq: self.tip.seq, hash: self.tip.hash.clone() }
    }

    fn write_head(&self) -> Result<(), AuditError> {
        let mut text = serde_json::to_string(&self.head())?;
        while text.len() < HEAD_LENGTH - 1 {
            text.push(' ');
        }
        text.push('\n');
        self.head.write_all_at(text.as_bytes(), 0).map_err(io("writing", &self.directory.join(HEAD_NAME)))
    }

    /// Begins a new file when this one is long enough.
    fn rotate(&mut self) -> Result<(), AuditError> {
        if self.length < self.rotation.bytes {
            return Ok(());
        }
        let path = self.path();
        let old = self.directory.join(format!("{OLD_PREFIX}{:012}{OLD_SUFFIX}", self.first));
        if let Err(source) = std::fs::rename(&path, &old) {
            // Gone since it was looked for: only opening anew helps.
            self.broken |= source.kind() == std::io::ErrorKind::NotFound;
            return Err(AuditError::Io { what: "renaming", path, source });
        }
        // From here on the open file is the old one: an error must lead to opening anew.
        self.broken = true;
        self.file = open_private(&path, true)?;
        self.length = 0;
        self.first = self.tip.seq + 1;
        let directory = File::open(&self.directory).map_err(io("opening", &self.directory))?;
        directory.sync_all().map_err(io("syncing", &self.directory))?;
        self.broken = false;
        self.prune()
    }

    fn prune(&mut self) -> Result<(), AuditError> {
        let old = old_files(&self.directory)?;
        let surplus = old.len().saturating_sub(self.rotation.keep.max(1));
        let Some(kept) = old.get(surplus).filter(|_| surplus > 0) else { return Ok(()) };
        let (through_seq, hash) = match first_record(kept)? {
            Some(record) => (record.seq.saturating_sub(1), record.prev),
            None => return Ok(()),
        };
        for path in old.iter().take(surplus) {
            std::fs::remove_file(path).map_err(io("deleting", path))?;
        }
        self.notes.push(Draft::new(Event::Log(Note::Pruned { through_seq, hash: hash.into() })));
        Ok(())
    }
}

/// Which record the chain continues from; what is wrong goes into the notes.
fn settle(last: Option<Result<Record, ()>>, head: Option<Head>, notes: &mut Vec<Note>) -> Tip {
    let good = match &last {
        Some(Ok(record)) => Some(record),
        _ => None,
    };
    let found_seq = good.map_or(0, |record| record.seq);
    let found = good.map_or_else(Tip::genesis, Tip::of);
    let Some(head) = head else {
        if last.is_some() {
            notes.push(Note::Damaged { expected_seq: 0, found_seq });
        }
        return found;
    };
    let agrees = match good {
        // The head may lag behind by what a crash kept it from noting, never lead.
        Some(record) => record.seq > head.seq || (record.seq == head.seq && record.hash == head.hash),
        None => last.is_none() && head.seq == 0,
    };
    if agrees {
        return found;
    }
    notes.push(Note::Damaged { expected_seq: head.seq, found_seq });
    // Continues from what was once written, so that the gap stays visible for ever.
    Tip { seq: head.seq, hash: head.hash, id: None }
}

/// Whether the path leads to the open file.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(opened), Ok(named)) = (file.metadata(), std::fs::symlink_metadata(path)) else { return false };
    (opened.dev(), opened.ino()) == (named.dev(), named.ino())
}

fn open_private(path: &Path, append: bool) -> Result<File, AuditError> {
    let mut options = OpenOptions::new();
    options.read(true).create(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC);
    if append {
        options.append(true)
    } else {
        options.write(true).truncate(false)
    };
    let file = options.open(path).map_err(io("opening", path))?;
    let metadata = file.metadata().map_err(io("examining", path))?;
    if !metadata.is_file() {
        let source = std::io::Error::other("not a regular file");
        return Err(AuditError::Io { what: "opening", path: path.to_owned(), source });
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))
            .map_err(io("closing to others", path))?;
    }
    Ok(file)
}

/// What stands at a file's end.
struct FileEnd {
    /// Bytes up to the last newline.
    length: u64,
    last: Option<Result<Record, ()>>,
    torn: Option<Note>,
}

/// Looks at as little of the end as holds a whole record: a log may be large, and every start waits for this.
fn read_end(file: &mut File, path: &Path) -> Result<FileEnd, AuditError> {
    let size = file.metadata().map_err(io("examining", path))?.len();
    let mut window = END_MIN;
    loop {
        let from = size.saturating_sub(window);
        file.seek(SeekFrom::Start(from)).map_err(io("reading", path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io("reading", path))?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (lines, rest) = bytes.split_at(whole);
        let line = lines.strip_suffix(b"\n").map(|lines| (lines, lines.iter().rposition(|b| *b == b'\n')));
        if from > 0 && window < 2 * LINE_MAX as u64 && line.is_none_or(|(_, begin)| begin.is_none()) {
            window *= 4;
            continue;
        }
        let last = line.map(|(lines, begin)| lines.get(begin.map_or(0, |at| at + 1)..).unwrap_or_default());
        let torn = (!rest.is_empty()).then(|| Note::Truncated {
            bytes: rest.len() as u64,
            sha256: hex::encode(Sha256::digest(rest)).into(),
        });
        let last = last.map(|line| parse(line).map_err(|_| ()));
        return Ok(FileEnd { length: from + whole as u64, last, torn });
    }
}

fn last_of_old(directory: &Path) -> Result<Option<Result<Record, ()>>, AuditError> {
    let old = old_files(directory)?;
    let Some(path) = old.last() else { return Ok(None) };
    let mut file = File::open(path).map_err(io("opening", path))?;
    Ok(read_end(&mut file, path)?.last)
}

/// The first record of a file, if it has one that can be read.
pub(crate) fn first_record(path: &Path) -> Result<Option<Record>, AuditError> {
    let file = File::open(path).map_err(io("opening", path))?;
    let mut line = Vec::new();
    let mut start = BufReader::with_capacity(4 << 10, file.take(LINE_MAX as u64));
    start.read_until(b'\n', &mut line).map_err(io("reading", path))?;
    Ok(parse(line.strip_suffix(b"\n").unwrap_or(&line)).ok())
}

fn first_seq(path: &Path) -> Result<Option<u64>, AuditError> {
    Ok(first_record(path)?.map(|record| record.seq))
}

pub(crate) fn read_head(path: &Path) -> Result<Option<Head>, AuditError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(bytes.trim_ascii()).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(AuditError::Io { what: "reading", path: path.to_owned(), source }),
    }
}

fn old_files(directory: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io("listing", directory))? {
        let entry = entry.map_err(io("listing", directory))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let number = name.strip_prefix(OLD_PREFIX).and_then(|rest| rest.strip_suffix(OLD_SUFFIX));
        if number.is_some_and(|digits| digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// All files of the log in `directory`, in the order of their records.
///
/// # Errors
/// When the directory can't be read.
pub fn files(directory: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let mut files = old_files(directory)?;
    let current = directory.join(LOG_NAME);
    if current.exists() {
        files.push(current);
    }
    Ok(files)
}
