//! A log's file line by line, each line once it is whole: for the proof, for whoever shows a log, and for the repair. Holds one line at a time,
//! and no more of it than a record may have. Only reads.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Result};

use super::found::LINE_MAX;

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
