//! Reads a log's file line by line, each line once it is complete: for verification, for display and for
//! repair. Holds one line at a time, and no more of it than a record may have. Only reads.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Result};
use std::path::Path;

use super::found::{AuditError, LINE_MAX, io, open_all};
use super::record::{RecordId, parse};

/// How many of the last files are searched for recent records.
const OF_LATE: usize = 2;

/// The text before a record's id, and the bytes of a line within which it must stand: only two numbers
/// precede it.
const NAME_KEY: &[u8] = b"\"id\":\"";
const NAME_WITHIN: usize = 128;

/// Returns which of these records are at the end of the log in `directory`. Reads its last files completely,
/// so only for rare use.
///
/// # Errors
/// If the files can't be read.
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

/// Returns a line from its record's id on, without looking at the rest.
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

/// One line, as far as it could be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'l> {
    /// A whole line, without its newline.
    Whole(&'l [u8]),
    /// A line longer than any record.
    TooLong,
    /// This many bytes at the end, without a newline (yet): a writer may still finish the line.
    Unfinished(u64),
}

impl Lines {
    /// Reads lines from the file's present offset on.
    #[must_use]
    pub fn of(file: File) -> Self {
        Self { reader: BufReader::new(file), line: Vec::new() }
    }

    /// Returns the next line; `None` at the end, and behind an unfinished line.
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
