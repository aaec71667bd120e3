//! Finds and opens the log's files: their names and order, what is at their beginnings and ends, and why one
//! can't be used. All blocking. Never changes what a file holds.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::event::Note;
use super::record::{Record, parse};

/// The file being written.
pub const LOG_NAME: &str = "audit.jsonl";
/// The head file: number and hash of the last record written.
pub const HEAD_NAME: &str = "audit.head";
/// The next file, before it gets its final name.
pub(super) const NEXT_NAME: &str = "audit.next";
/// Finished files are named by their first record: `audit-000000000001.jsonl`.
const OLD_PREFIX: &str = "audit-";
const OLD_SUFFIX: &str = ".jsonl";
/// Longest line ever written: a dozen texts of `TEXT_MAX`, each byte escaped sixfold, with room to spare.
pub(super) const LINE_MAX: usize = 512 * 1024;
/// Bounds the bytes read of a head file.
const HEAD_MAX: u64 = 4 << 10;
/// Bytes of a file's end that are read first: most records are far shorter.
const END_MIN: u64 = 16 << 10;
/// How often the files are listed again while a writer changes them, before that is an error.
const LOOKS: usize = 100;

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
    /// A record could not be encoded.
    #[error("encoding a record: {0}")]
    Encode(#[from] serde_json::Error),
    /// The writing thread panicked.
    #[error("the writer panicked: {0}")]
    Panicked(String),
}

impl AuditError {
    /// The same error, with its path as seen from everywhere: for a log in the working directory `dir`, whose
    /// files are opened by relative paths.
    #[must_use]
    pub fn seen_from(self, dir: &Path) -> Self {
        let whole = |path: PathBuf| dir.join(path.strip_prefix(".").unwrap_or(&path));
        match self {
            Self::Io { what, path, source } => Self::Io { what, path: whole(path), source },
            Self::InUse(path) => Self::InUse(whole(path)),
            other => other,
        }
    }
}

pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> AuditError {
    let path = path.to_owned();
    move |source| AuditError::Io { what, path, source }
}

/// The head file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) seq: u64,
    pub(super) hash: String,
}

/// Whether the path leads to the open file.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(opened), Ok(named)) = (file.metadata(), std::fs::symlink_metadata(path)) else { return false };
    (opened.dev(), opened.ino()) == (named.dev(), named.ino())
}

pub(super) fn open_private(path: &Path, append: bool) -> Result<File, AuditError> {
    let mut options = OpenOptions::new();
    options.read(true).create(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC);
    if append {
        options.append(true)
    } else {
        options.write(true).truncate(false)
    };
    let (file, found) = regular(options.open(path).map_err(io("opening", path))?, path)?;
    if found.permissions().mode() & 0o077 != 0 {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))
            .map_err(io("closing to others", path))?;
    }
    Ok(file)
}

/// What is at a file's end.
pub(super) struct FileEnd {
    /// Bytes up to the last newline.
    pub(super) length: u64,
    /// The last whole line, if it is a record.
    pub(super) last: Option<Result<Record, ()>>,
    /// A note of the unfinished bytes after it, if there are any.
    pub(super) torn: Option<Note>,
}

/// Reads a file's end, and no more of it than holds a whole record: a log may be large, and every start waits
/// for this.
pub(super) fn read_end(file: &mut File, path: &Path) -> Result<FileEnd, AuditError> {
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

pub(super) fn last_of_old(directory: &Path) -> Result<Option<Result<Record, ()>>, AuditError> {
    let old = old_files(directory)?;
    let Some(path) = old.last() else { return Ok(None) };
    let mut file = open_to_read(path)?;
    Ok(read_end(&mut file, path)?.last)
}

/// The first record of a file, if it has one that can be read.
pub(super) fn first_record(path: &Path) -> Result<Option<Record>, AuditError> {
    let file = open_to_read(path)?;
    let mut line = Vec::new();
    let mut start = BufReader::with_capacity(4 << 10, file.take(LINE_MAX as u64));
    start.read_until(b'\n', &mut line).map_err(io("reading", path))?;
    Ok(parse(line.strip_suffix(b"\n").unwrap_or(&line)).ok())
}

pub(super) fn read_head(path: &Path) -> Result<Option<Head>, AuditError> {
    let file = match open_to_read(path) {
        Ok(file) => file,
        Err(AuditError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(HEAD_MAX).read_to_end(&mut bytes).map_err(io("reading", path))?;
    Ok(serde_json::from_slice(bytes.trim_ascii()).ok())
}

pub(super) fn old_files(directory: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io("listing", directory))? {
        let entry = entry.map_err(io("listing", directory))?;
        if number_of(&entry.path()).is_some() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Returns the first record's number from a finished file's name; `None` for any other file.
pub(super) fn number_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let digits = name.strip_prefix(OLD_PREFIX)?.strip_suffix(OLD_SUFFIX)?;
    (digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The name of a finished file that begins with this record.
pub(super) fn old_name(first: u64) -> String {
    format!("{OLD_PREFIX}{first:012}{OLD_SUFFIX}")
}

/// Lists all files of the log in `directory`, in the order of their records.
fn files(directory: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let mut files = old_files(directory)?;
    let current = directory.join(LOG_NAME);
    if current.exists() {
        files.push(current);
    }
    Ok(files)
}

/// Opens all files of the log in `directory` as they were at one moment, in the order of their records, even
/// while a writer begins new ones and deletes old ones.
///
/// # Errors
/// When the directory or a file can't be read or is no file; when the files change faster than they can be
/// opened.
pub fn open_all(directory: &Path) -> Result<Vec<(PathBuf, File)>, AuditError> {
    let mut named = files(directory)?;
    for _ in 0..LOOKS {
        let opened = named.iter().map(|path| open_to_read(path)).collect::<Result<Vec<_>, _>>();
        let now = files(directory)?;
        match opened {
            // A name is never reused, so any file that was added or removed meanwhile shows.
            Ok(opened) if now == named => return Ok(named.into_iter().zip(opened).collect()),
            Err(error) if now == named => return Err(error),
            _ => named = now,
        }
    }
    let source = std::io::Error::other("its files change faster than they can be opened");
    Err(AuditError::Io { what: "reading", path: directory.to_owned(), source })
}

/// Opens an existing file for reading.
pub(super) fn open_to_read(path: &Path) -> Result<File, AuditError> {
    redactor::open_unlinked(path).map_err(io("opening", path))
}

fn regular(file: File, path: &Path) -> Result<(File, std::fs::Metadata), AuditError> {
    let found = file.metadata().map_err(io("examining", path))?;
    if found.is_file() {
        return Ok((file, found));
    }
    let source = std::io::Error::other("not a regular file");
    Err(AuditError::Io { what: "opening", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_about_a_log_in_the_working_directory_names_the_whole_path() {
        let state = Path::new("/state/box");
        let error =
            io("opening", &Path::new(".").join(HEAD_NAME))(std::io::ErrorKind::PermissionDenied.into());
        assert!(error.seen_from(state).to_string().starts_with("opening /state/box/audit.head: "));
        let busy = AuditError::InUse("./audit.head".into()).seen_from(state).to_string();
        assert!(busy.starts_with("/state/box/audit.head "), "{busy}");
        let whole = AuditError::InUse("/elsewhere/audit.head".into()).seen_from(state).to_string();
        assert!(whole.starts_with("/elsewhere/audit.head "), "{whole}");
    }
}
