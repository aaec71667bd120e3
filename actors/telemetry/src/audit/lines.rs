//! A log's file line by line, each line once it is whole: for the proof, for whoever shows a log, and for the
//! repair. Holds one line at a time, and no more of it than a record may have. Only reads.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Result};
use std::path::Path;

use super::found::{AuditError, LINE_MAX, io, open_all};
use super::record::{RecordId, parse};

/// Files that are looked through for what was written of late.
const OF_LATE: usize = 2;

/// What stands before a record's name, and how far into the line at most: only two numbers are before it.
const NAME_KEY: &[u8] = b"\"id\":\"";
const NAME_WITHIN: usize = 128;

/// Which of these records the end of the log in `directory` has. All of its last files are read: for the rare
/// case.
///
/// # Errors
/// When they can't be.
pub fn on_record(directory: &Path, wanted: &[RecordId]) -> std::result::Result<Vec<RecordId>, AuditError> {
    let names: Vec<String> = wanted.iter().map(RecordId::to_string).collect();
    let mut there = Vec::new();
    for (path, file) in open_all(directory)?.into_iter().rev().take(OF_LATE) {
        let mut lines = Lines::of(file);
        while let Some(line) = lines.next().map_err(io("reading", &path))? {
            if let Line::Whole(line) = line
                && named(line)
                    .is_some_and(|name| names.iter().any(|wanted| name.starts_with(wanted.as_bytes())))
                && let Ok(record) = parse(line)
                && wanted.contains(&record.id)
            {
                there.push(record.id);
            }
        }
    }
    Ok(there)
}

/// Where a line has its record's name: found without a look at the rest of it.
fn named(line: &[u8]) -> Option<&[u8]> {
    let head = line.get(..NAME_WITHIN).unwrap_or(line);
    let at = head.windows(NAME_KEY.len()).position(|part| part == NAME_KEY)?;
    line.get(at + NAME_KEY.len()..)
}

/// The lines of one file.
#[derive(Debug)]
pub struct Lines {
    reader: BufReader<File>,
    line: Vec<u8>,
}

/// What stands in a line's place.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'l> {
    /// A whole line, without its newline.
    Whole(&'l [u8]),
    /// More than any record has.
    TooLong,
    /// So many bytes at the end that no newline follows (yet): whoever writes them may finish them.
    Unfinished(u64),
}

impl Lines {
    /// From where the file stands.
    #[must_use]
    pub fn of(file: File) -> Self {
        Self { reader: BufReader::new(file), line: Vec::new() }
    }

    /// The next one; none at the end, and behind an unfinished one.
    ///
    /// # Errors
    /// When the file can't be read.
    #[expect(clippy::should_implement_trait, reason = "it lends the line, which no iterator can")]
    pub fn next(&mut self) -> Result<Option<Line<'_>>> {
        self.line.clear();
        let read = (&mut self.reader).take(LINE_MAX as u64).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        if self.line.pop_if(|byte| *byte == b'\n').is_some() {
            return Ok(Some(Line::Whole(&self.line)));
        }
        if read < LINE_MAX {
            return Ok(Some(Line::Unfinished(read as u64)));
        }
        self.skip()?;
        Ok(Some(Line::TooLong))
    }

    fn skip(&mut self) -> Result<()> {
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(());
            }
            let newline = buffer.iter().position(|byte| *byte == b'\n');
            let used = newline.map_or(buffer.len(), |at| at + 1);
            self.reader.consume(used);
            if newline.is_some() {
                return Ok(());
            }
        }
    }
}
