//! An agent's log: `STATE/NAME/logs/AGENT.log`, JSON lines, rotated and bounded. Shared by the agent's
//! streams. The text of all lines of a stream, put together, is what the foreground showed. A disk that
//! refuses loses lines of the log, counted and noted in it, and never stops the agent.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::streams::StreamKind;

/// Longest text of one line; longer lines are continued in the next record.
const TEXT_MAX: usize = 16 * 1024;

/// How large an agent's log may grow.
#[derive(Debug, Clone, Copy)]
pub struct LogLimits {
    /// A new file is begun at this many bytes.
    pub bytes: u64,
    /// Number of old files that are kept: `AGENT.log.1` is the newest.
    pub keep: u32,
}

impl Default for LogLimits {
    /// Eight files of 16 MiB, the current one included.
    fn default() -> Self {
        Self { bytes: 16 * 1024 * 1024, keep: 7 }
    }
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was written.
    pub t: Timestamp,
    /// The agent's name.
    pub agent: String,
    /// Which of its streams.
    pub stream: StreamKind,
    /// A line of its output with its newline, or what was there of it.
    pub text: String,
    /// Whether the supervisor was restarted just before, so that this may have been written already.
    #[serde(default, skip_serializing_if = "is_false")]
    pub repeated: bool,
    /// Bytes of the log that could not be written before this line.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// An agent's log, open. Lives above the actor.
#[derive(Debug)]
pub struct AgentLog {
    path: PathBuf,
    limits: LogLimits,
    /// Not poisoned by a panic, unlike the standard one.
    open: Mutex<Open>,
}

/// What the streams of an agent share.
#[derive(Debug)]
struct Open {
    /// The file and its length in bytes; none where the last write couldn't leave it at the end of a line.
    file: Option<(File, u64)>,
    /// Bytes that the disk refused, and that no line notes yet.
    lost: u64,
}

impl AgentLog {
    /// The log `DIRECTORY/AGENT.log`; the directory is made, closed to others.
    ///
    /// # Errors
    /// When the directory or the file can't be made, or the name would lead out of the directory.
    pub fn open(directory: &Path, agent: &str, limits: LogLimits) -> io::Result<Self> {
        if !is_file_name(agent) {
            let message = format!("\"{agent}\" cannot name a log: use letters, digits, '-', '_' and '.'");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let path = directory.join(format!("{agent}.log"));
        let open = Open { file: Some(open_file(&path)?), lost: 0 };
        Ok(Self { path, limits, open: Mutex::new(open) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends output. Blocking. Returns how many bytes of it were lost.
    pub(crate) fn append(&self, agent: &str, stream: StreamKind, text: &str, repeated: bool) -> u64 {
        if text.is_empty() {
            return 0;
        }
        let mut open = self.open.blocking_lock();
        let t = Timestamp::now();
        let mut lines = String::new();
        for text in text.split_inclusive('\n').flat_map(|line| pieces(line, TEXT_MAX)) {
            let lost = if lines.is_empty() { open.lost } else { 0 };
            let line = LogLine { t, agent: agent.to_owned(), stream, text: text.to_owned(), repeated, lost };
            if let Ok(json) = serde_json::to_string(&line) {
                lines.push_str(&crate::ascii::escape_json(&json));
                lines.push('\n');
            }
        }
        match self.write(&mut open.file, lines.as_bytes()) {
            Ok(()) => {
                open.lost = 0;
                0
            }
            Err(error) => {
                let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
                if open.lost == 0 {
                    tracing::warn!(path = %self.path.display(), %error, "the agent's log cannot be written");
                }
                open.lost = open.lost.saturating_add(bytes);
                bytes
            }
        }
    }

    fn write(&self, open: &mut Option<(File, u64)>, lines: &[u8]) -> io::Result<()> {
        let (mut file, length) = match open.take() {
            Some((_, length)) if length >= self.limits.bytes => {
                self.rotate()?;
                open_file(&self.path)?
            }
            Some(open) => open,
            None => open_file(&self.path)?,
        };
        if let Err(error) = file.write_all(lines) {
            // No half line is left behind for the next to be glued to; if it is, opening it anew ends it.
            if file.set_len(length).is_ok() {
                *open = Some((file, length));
            }
            return Err(error);
        }
        *open = Some((file, length + u64::try_from(lines.len()).unwrap_or(u64::MAX)));
        Ok(())
    }

    fn rotate(&self) -> io::Result<()> {
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            if number > 0 {
                name.push(format!(".{number}"));
            }
            PathBuf::from(name)
        };
        for number in (0..self.limits.keep).rev() {
            match std::fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.limits.keep == 0 {
            std::fs::remove_file(&self.path)?;
        }
        Ok(())
    }
}

fn is_file_name(agent: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !agent.is_empty() && !agent.starts_with('.') && agent.bytes().all(plain)
}

/// Opens the file at the end of a line: whoever was killed while it wrote may have left half a one.
fn open_file(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new()
        .append(true)
        .read(true)
        .create(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
        .open(path)?;
    let mut length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
        length += 1;
    }
    Ok((file, length))
}

/// A line in pieces of at most `max` bytes, cut between characters.
fn pieces(line: &str, max: usize) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let cut = (0..=max.min(rest.len())).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(rest.len());
        let (piece, left) = rest.split_at_checked(cut.max(1)).unwrap_or((rest, ""));
        rest = left;
        Some(piece)
    })
}

/// Returns the bytes as text, except for an incomplete character at the end, which is left in `carry`.
pub(crate) fn decode(carry: &mut Vec<u8>, bytes: &[u8], last: bool) -> String {
    carry.extend_from_slice(bytes);
    let keep = if last { 0 } else { unfinished(carry) };
    let whole = carry.len() - keep;
    let text = String::from_utf8_lossy(carry.get(..whole).unwrap_or_default()).into_owned();
    carry.drain(..whole);
    text
}

/// How many bytes at the end begin a UTF-8 character that they do not finish.
fn unfinished(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let Some(byte) = bytes.get(bytes.len() - back) else { return 0 };
        let length = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if length > back { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_put_together_are_the_text() {
        let directory = tempfile::tempdir().unwrap();
        let log = AgentLog::open(directory.path(), "main", LogLimits { bytes: 40_000, keep: 20 }).unwrap();
        let text = format!("one\ntwo é\u{9b}\n{}\nno newline", "é".repeat(20_000));
        log.append("main", StreamKind::Stdout, &text, false);
        log.append("main", StreamKind::Stdout, ", then one\n", true);
        log.append("main", StreamKind::Stdout, "in a new file\n", false);
        let mut shown = String::new();
        for name in ["main.log.1", "main.log"] {
            let content = std::fs::read_to_string(directory.path().join(name)).unwrap();
            assert!(content.is_ascii());
            for line in content.lines() {
                shown.push_str(&serde_json::from_str::<LogLine>(line).unwrap().text);
            }
        }
        assert_eq!(shown, format!("{text}, then one\nin a new file\n"));
    }

    #[test]
    fn old_files_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let log = AgentLog::open(directory.path(), "a", LogLimits { bytes: 100, keep: 2 }).unwrap();
        for _ in 0..20 {
            log.append("a", StreamKind::Stderr, "some text\n", false);
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3);
        for name in ["a.log", "a.log.1", "a.log.2"] {
            assert!(directory.path().join(name).is_file(), "{name}");
        }
        assert!(AgentLog::open(directory.path(), "../a", LogLimits::default()).is_err());
    }

    fn lines(path: &Path) -> Vec<LogLine> {
        let content = std::fs::read_to_string(path).unwrap();
        content.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    #[test]
    fn what_the_disk_refused_is_noted_once_by_what_is_written_next() {
        let directory = tempfile::tempdir().unwrap();
        let log = AgentLog::open(directory.path(), "a", LogLimits::default()).unwrap();
        let full = || (OpenOptions::new().write(true).open("/dev/full").unwrap(), 0);
        log.open.blocking_lock().file = Some(full());
        assert_eq!(log.append("a", StreamKind::Stdout, "refused\n", false), 8);
        assert_eq!(log.append("a", StreamKind::Stderr, "", false), 0, "half a character is no line");
        assert_eq!(log.open.blocking_lock().lost, 8);
        log.open.blocking_lock().file = None;
        std::thread::scope(|scope| {
            for stream in [StreamKind::Stdout, StreamKind::Stderr] {
                let log = &log;
                scope.spawn(move || {
                    for _ in 0..50 {
                        assert_eq!(log.append("a", stream, "line\n", false), 0);
                    }
                });
            }
        });
        let lines = lines(log.path());
        assert_eq!(lines.len(), 100);
        assert_eq!(lines.iter().map(|line| line.lost).collect::<Vec<_>>()[..2], [8, 0]);
        assert_eq!(lines.iter().map(|line| line.lost).sum::<u64>(), 8);
    }

    #[test]
    fn half_a_line_that_a_killed_writer_left_spoils_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        std::fs::write(&path, "{\"t\":\"20").unwrap();
        let log = AgentLog::open(directory.path(), "a", LogLimits::default()).unwrap();
        log.append("a", StreamKind::Stdout, "whole\n", false);
        assert_eq!(lines(&path).into_iter().map(|line| line.text).collect::<Vec<_>>(), ["whole\n"]);
    }

    #[test]
    fn a_character_split_by_a_chunk_stays_whole() {
        let text = "aé€😀z".as_bytes();
        for split in 0..=text.len() {
            let mut carry = Vec::new();
            let mut shown = decode(&mut carry, &text[..split], false);
            shown += &decode(&mut carry, &text[split..], true);
            assert_eq!(shown, "aé€😀z");
        }
        let mut carry = Vec::new();
        assert_eq!(decode(&mut carry, b"\xff\x80a\xf0\x9f", false), "\u{fffd}\u{fffd}a");
        assert_eq!(decode(&mut carry, b"", true), "\u{fffd}");
    }
}
