//! Verification: reads every file of a log in order and reports each record that was changed, is missing, is
//! out of order or was cut off, by file and line. Only reads, and is correct even while a writer writes.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::event::{Event, Note};
use super::found::{AuditError, HEAD_NAME, number_of, open_all, read_head};
use super::lines::{Line, Lines};
use super::record::{BadLine, GENESIS, Record, parse};

/// What is wrong at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "trouble", rename_all = "snake_case")]
pub enum Trouble {
    /// The line isn't a record.
    Malformed,
    /// The record was changed after it was written: its hash doesn't match its bytes.
    Changed,
    /// The record before this one is not the one that was there when this one was written.
    Replaced,
    /// Records are missing before this one.
    Missing {
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
    },
    /// This record belongs further up.
    OutOfOrder {
        /// The number that belongs here.
        expected: u64,
        /// The number that is here.
        found: u64,
    },
    /// Records are missing at the end: the head file knows of later ones.
    CutOff {
        /// The last record that was written.
        written: u64,
        /// The last one that is here.
        found: u64,
    },
    /// The last record is not the one that the head file names.
    NotTheHead,
    /// A note here says that records up to this one were deleted although the record after them couldn't be
    /// read. So it can't be told any more whether that record is the one that originally followed them.
    PrunedUnread {
        /// The last record that was deleted, taken from a file's name.
        through: u64,
    },
    /// The head file is missing or unreadable, so a cut tail would not show.
    NoHead,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 for the file as a whole.
    pub line: u64,
    /// What is wrong.
    #[serde(flatten)]
    pub trouble: Trouble,
}

/// The outcome of a verification.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Records read.
    pub records: u64,
    /// Files read, in order.
    pub files: Vec<PathBuf>,
    /// The number of the first record.
    pub first_seq: u64,
    /// The number of the last record.
    pub last_seq: u64,
    /// The hash of the last record, in hex: noted elsewhere, it proves the log up to here.
    pub last_hash: String,
    /// Bytes of an unfinished line, which is being written, or was left by a crash and will be noted at the
    /// next start.
    pub unfinished: u64,
    /// What the log says about itself: repairs and pruning, by record number.
    pub notes: Vec<(u64, Note)>,
    /// What is wrong. Empty: the log is whole.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn intact(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Verifies the log in `path`: the sandbox's state directory, or its `audit.jsonl`.
///
/// # Errors
/// When the files can't be read.
pub fn verify(path: &Path) -> Result<Report, AuditError> {
    let directory = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    // Read before the records: the writer updates it after them, so the head that is read here never leads
    // them.
    let head = read_head(&directory.join(HEAD_NAME))?;
    let mut walk = Walk::default();
    for (path, file) in open_all(directory)? {
        walk.file(&path, file)?;
    }
    let mut report = walk.finish();
    let finding = |line, trouble| Finding { file: directory.join(HEAD_NAME), line, trouble };
    match head {
        None => report.findings.push(finding(0, Trouble::NoHead)),
        Some(head) if head.seq > report.last_seq => {
            report.findings.push(finding(1, Trouble::CutOff { written: head.seq, found: report.last_seq }));
        }
        Some(head) if head.seq == report.last_seq && head.seq > 0 && head.hash != report.last_hash => {
            report.findings.push(finding(1, Trouble::NotTheHead));
        }
        Some(_) => {}
    }
    Ok(report)
}

/// The walk along the chain.
#[derive(Default)]
struct Walk {
    report: Report,
    /// Number and hash of the previous record; the hash is unknown after a bad line.
    before: Option<(u64, Option<String>)>,
    /// File and number with which the log starts, if that isn't its genesis, and the hash that its first
    /// record names, if the first line can be read.
    start: Option<(PathBuf, u64, Option<String>)>,
}

impl Walk {
    fn file(&mut self, path: &Path, file: File) -> Result<(), AuditError> {
        let failed = |source| AuditError::Io { what: "reading", path: path.to_owned(), source };
        self.report.files.push(path.to_owned());
        let mut lines = Lines::of(file);
        let mut number = 0;
        while let Some(line) = lines.next().map_err(failed)? {
            number += 1;
            match line {
                Line::Whole(line) => self.line(path, number, line),
                Line::TooLong => self.bad(path, number, Trouble::Malformed),
                // Stop here: the writer may finish the line meanwhile.
                Line::Unfinished(bytes) => {
                    self.report.unfinished = bytes;
                    break;
                }
            }
        }
        Ok(())
    }

    fn line(&mut self, path: &Path, number: u64, line: &[u8]) {
        match parse(line) {
            Ok(record) => self.record(path, number, &record),
            Err(BadLine::Malformed) => self.bad(path, number, Trouble::Malformed),
            Err(BadLine::Changed) => self.bad(path, number, Trouble::Changed),
        }
    }

    fn find(&mut self, path: &Path, line: u64, trouble: Trouble) {
        self.report.findings.push(Finding { file: path.to_owned(), line, trouble });
    }

    /// Reports a line that can't be trusted, and counts it as one record.
    fn bad(&mut self, path: &Path, number: u64, trouble: Trouble) {
        self.find(path, number, trouble);
        let seq = match &self.before {
            Some((seq, _)) => seq.saturating_add(1),
            None => self.begins(path, number_of(path).unwrap_or(1), None),
        };
        self.before = Some((seq, None));
    }

    /// Notes the log's first line: its number, and `prev` if the line can be read.
    fn begins(&mut self, path: &Path, seq: u64, prev: Option<&str>) -> u64 {
        self.report.first_seq = seq;
        if seq != 1 || prev.is_some_and(|prev| prev != GENESIS) {
            self.start = Some((path.to_owned(), seq, prev.map(str::to_owned)));
        }
        seq
    }

    fn record(&mut self, path: &Path, number: u64, record: &Record) {
        self.report.records += 1;
        if let Ok(Event::Log(note)) = record.typed() {
            if let Note::Pruned { through_seq: through, unread: true, .. } = note {
                self.find(path, number, Trouble::PrunedUnread { through });
            }
            self.report.notes.push((record.seq, note));
        }
        match self.before.clone() {
            None => {
                self.begins(path, record.seq, Some(&record.prev));
            }
            Some((seq, _)) if record.seq <= seq => {
                self.find(
                    path,
                    number,
                    Trouble::OutOfOrder { expected: seq.saturating_add(1), found: record.seq },
                );
                // The chain is followed from the last record that was in its place.
                return;
            }
            Some((seq, _)) if record.seq > seq.saturating_add(1) => {
                self.find(path, number, Trouble::Missing { from: seq + 1, to: record.seq - 1 });
            }
            Some((_, Some(hash))) if hash != record.prev => self.find(path, number, Trouble::Replaced),
            Some(_) => {}
        }
        self.before = Some((record.seq, Some(record.hash.clone())));
    }

    fn finish(mut self) -> Report {
        if let Some((path, seq, prev)) = self.start.take() {
            let pruned = self.report.notes.iter().any(|(_, note)| {
                let Note::Pruned { through_seq, hash, .. } = note else { return false };
                through_seq.saturating_add(1) == seq && prev.as_ref().is_none_or(|prev| *hash == *prev)
            });
            if !pruned {
                self.find(&path, 1, Trouble::Missing { from: 1, to: seq.saturating_sub(1) });
            }
        }
        if let Some((seq, hash)) = self.before {
            self.report.last_seq = seq;
            self.report.last_hash = hash.unwrap_or_default();
        }
        self.report
    }
}
