//! Finds out how far a log went: from its end and its head file, or, if neither tells, from the records that
//! can be read and from the names of finished files. All blocking; whole files are read only if there is
//! damage. Only reads.

use std::path::Path;

use super::event::Note;
use super::found::{AuditError, Head, LOG_NAME, io, number_of, old_files, open_to_read};
use super::lines::{Line, Lines};
use super::record::{GENESIS, Record, RecordId, parse};

/// The end of the chain.
#[derive(Debug, Clone)]
pub(super) struct Tip {
    pub(super) seq: u64,
    pub(super) hash: String,
    pub(super) id: Option<RecordId>,
}

impl Tip {
    fn genesis() -> Self {
        Self { seq: 0, hash: GENESIS.to_owned(), id: None }
    }

    fn of(record: &Record) -> Self {
        Self { seq: record.seq, hash: record.hash.clone(), id: Some(record.id) }
    }
}

impl From<Head> for Tip {
    fn from(head: Head) -> Self {
        Self { seq: head.seq, hash: head.hash, id: None }
    }
}

/// Returns the record from which the chain of the log in `directory` continues, and what is wrong with its
/// end. `finished` is the number of the record with which the newest finished file begins.
pub(super) fn settle(
    last: Option<Result<Record, ()>>,
    head: Option<Head>,
    finished: u64,
    directory: &Path,
) -> Result<(Tip, Option<Note>), AuditError> {
    let nothing = last.is_none() && finished == 0;
    let good = last.and_then(Result::ok);
    let (expected_seq, found_seq) =
        (head.as_ref().map_or(0, |head| head.seq), good.as_ref().map_or(0, |record| record.seq));
    let damaged = Some(Note::Damaged { expected_seq, found_seq });
    Ok(match (head.filter(|head| head.seq >= finished), good.filter(|record| record.seq >= finished)) {
        // The head may lag behind the records after a crash, but never lead.
        (Some(head), Some(good))
            if good.seq > head.seq || (good.seq == head.seq && good.hash == head.hash) =>
        {
            (Tip::of(&good), None)
        }
        (head, None) if nothing && head.as_ref().is_none_or(|head| head.seq == 0) => (Tip::genesis(), None),
        // Continues from what the head says was written, so that the gap stays visible for ever.
        (Some(head), _) => (Tip::from(head), damaged),
        (None, Some(good)) => (Tip::of(&good), damaged),
        // Neither tells: continue after everything that is there, so that no number is given twice.
        (None, None) => (Tip::from(reached(directory)?), damaged),
    })
}

/// Returns the number of the last record of which anything is left, and the hash of the last one that can be
/// read. Each line that can't be read counts as one record.
fn reached(directory: &Path) -> Result<Head, AuditError> {
    let mut reached = Head { seq: 0, hash: GENESIS.to_owned() };
    let current = directory.join(LOG_NAME);
    let last_old = old_files(directory)?.pop();
    for path in last_old.into_iter().chain(current.exists().then_some(current)) {
        if let Some(first) = number_of(&path) {
            reached.seq = reached.seq.max(first.saturating_sub(1));
        }
        let mut lines = Lines::of(open_to_read(&path)?);
        while let Some(line) = lines.next().map_err(io("reading", &path))? {
            match line {
                Line::Whole(line) => match parse(line) {
                    Ok(record) => reached = Head { seq: reached.seq.max(record.seq), hash: record.hash },
                    Err(_) => reached.seq = reached.seq.saturating_add(1),
                },
                Line::TooLong => reached.seq = reached.seq.saturating_add(1),
                Line::Unfinished(_) => {}
            }
        }
    }
    Ok(reached)
}

/// Returns the number of a file's first record, derived from the first one that can be read, or else from
/// `last`, the number of its last.
pub(super) fn first_of(path: &Path, last: u64) -> Result<u64, AuditError> {
    let mut lines = Lines::of(open_to_read(path)?);
    let mut before = 0;
    while let Some(line) = lines.next().map_err(io("reading", path))? {
        match line {
            Line::Whole(line) => match parse(line) {
                Ok(record) => return Ok(record.seq.saturating_sub(before)),
                Err(_) => before += 1,
            },
            Line::TooLong => before += 1,
            Line::Unfinished(_) => {}
        }
    }
    Ok(last.saturating_add(1).saturating_sub(before))
}
