//! Reads the agents' logs: every file of a sandbox, rotated ones too, merged by time, and then follows them.
//!
//! One reader for the command line and for the control API. It only reads, and never follows a link: if
//! cofferdam runs as root, the files were written by a gateway, which may be compromised, and which may read
//! less than root.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use redactor::open_unlinked;
use redactor::pump::LogLine;

/// Bytes of a line at most: a text of 16 KiB, each byte escaped to six, with room to spare.
const LINE_MAX: usize = 128 << 10;

/// The logs of one sandbox, and how far they have been read.
#[derive(Debug)]
pub struct Logs {
    /// Opened once: its path may lead elsewhere a moment later.
    dir: File,
    agent: Option<String>,
    sources: BTreeMap<String, Source>,
    /// Whether a pass over the files has begun and not yet come to their end.
    looking: bool,
}

impl Logs {
    /// Opens the logs at their beginning; of one agent only, if it is named.
    ///
    /// # Errors
    /// There is no such directory, or it is a link to one.
    pub fn open(dir: &Path, agent: Option<String>) -> io::Result<Self> {
        let flags = nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW;
        let dir = OpenOptions::new().read(true).custom_flags(flags).open(dir)?;
        Ok(Self { dir, agent, sources: BTreeMap::new(), looking: false })
    }

    /// Opens the logs `lines` lines before their end. They are read once to count the lines, so that a long
    /// log takes no more memory than a short one.
    ///
    /// # Errors
    /// As [`Self::open`], or when what is there can't be read.
    pub fn open_last(dir: &Path, agent: Option<String>, lines: u64) -> io::Result<Self> {
        let mut all = Self::open(dir, agent.clone())?;
        // An agent may write as fast as this reads: what comes meanwhile isn't counted.
        let begun = Timestamp::now();
        let mut count = 0_u64;
        while all.next_line()?.is_some_and(|line| line.t <= begun) {
            count += 1;
        }
        let mut last = Self::open(dir, agent)?;
        for _ in 0..count.saturating_sub(lines) {
            // Fewer are left where a file was rotated away since they were counted.
            if last.next_line()?.is_none() {
                break;
            }
        }
        Ok(last)
    }

    /// Returns the names of the agents that have written anything.
    pub fn agents(&self) -> io::Result<BTreeSet<String>> {
        let mut agents = BTreeSet::new();
        for entry in fs::read_dir(self.there())? {
            agents.extend(parts(&entry?.file_name()).map(|(agent, _)| agent.to_owned()));
        }
        Ok(agents)
    }

    fn there(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.dir.as_raw_fd()).into()
    }

    /// Returns the earliest of the agents' next lines. `None` if everything that is there by now has been
    /// read. Of each log only one line is held and only one file is open, however much there is.
    pub fn next_line(&mut self) -> io::Result<Option<LogLine>> {
        let there = self.there();
        if !std::mem::replace(&mut self.looking, true) {
            for agent in self.agents()? {
                if self.agent.as_ref().is_none_or(|only| *only == agent) {
                    self.sources.entry(agent).or_default().is_dry = false;
                }
            }
        }
        for (agent, source) in &mut self.sources {
            source.fill(&there, agent)?;
        }
        let waiting = self.sources.values_mut().filter(|source| source.ahead.is_some());
        let first = waiting.min_by_key(|source| source.ahead.as_ref().map(|line| line.t));
        let line = first.and_then(|source| source.ahead.take());
        self.looking = line.is_some();
        Ok(line)
    }
}

/// Whether a file in the directory of logs is a log, by its name.
pub fn is_a_log(name: &str) -> bool {
    parts(OsStr::new(name)).is_some()
}

/// Returns which agent's log a file is, and its rotation number: 0 for the one that is being written, higher
/// numbers for older ones.
fn parts(name: &OsStr) -> Option<(&str, u32)> {
    let name = name.to_str()?;
    if let Some(agent) = name.strip_suffix(".log") {
        return Some((agent, 0));
    }
    let (log, number) = name.rsplit_once('.')?;
    Some((log.strip_suffix(".log")?, number.parse().ok().filter(|number| *number > 0)?))
}

/// Returns the files of an agent, the newest first. A file that is rotated meanwhile gets the next number, so
/// a reader that opens them in this order can't miss it.
fn files(dir: &Path, agent: &str) -> io::Result<Vec<PathBuf>> {
    let mut numbers = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        if let Some((_, number)) = parts(&entry?.file_name()).filter(|(of, _)| *of == agent) {
            numbers.extend([number, number.saturating_add(1)]);
        }
    }
    let name =
        |number: u32| if number == 0 { format!("{agent}.log") } else { format!("{agent}.log.{number}") };
    Ok(numbers.into_iter().map(|number| dir.join(name(number))).collect())
}

/// The state of reading one agent's log.
#[derive(Debug, Default)]
struct Source {
    /// The file that is being read. An open file keeps its device and inode numbers, whatever its name is by
    /// now, and even if it was deleted.
    open: Option<Reading>,
    /// The next line, read but not yet returned.
    ahead: Option<LogLine>,
    /// Whether this pass has found nothing more.
    is_dry: bool,
}

impl Source {
    fn fill(&mut self, dir: &Path, agent: &str) -> io::Result<()> {
        while self.ahead.is_none() && !self.is_dry {
            self.ahead = self.open.as_mut().map_or(Ok(None), Reading::next_line)?;
            if self.ahead.is_some() {
                break;
            }
            let Some(after) = file_after(dir, agent, self.open.as_ref())? else {
                self.is_dry = true;
                break;
            };
            // Reads what was written between our reaching its end and its rotation.
            self.ahead = self.open.as_mut().map_or(Ok(None), Reading::next_line)?;
            if self.ahead.is_none() {
                self.open = Some(after);
            }
        }
        Ok(())
    }
}

/// Returns the file that was begun after `this`. The oldest file if `this` is `None` or has been deleted.
fn file_after(dir: &Path, agent: &str, this: Option<&Reading>) -> io::Result<Option<Reading>> {
    let mut after = None;
    for path in files(dir, agent)? {
        let opened = match open_unlinked(&path) {
            Ok(file) => Reading::new(file)?,
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", named(&path)))),
        };
        if this.is_some_and(|this| this.number == opened.number) {
            break;
        }
        after = Some(opened);
    }
    Ok(after)
}

/// One open file, and how far it was read.
#[derive(Debug)]
struct Reading {
    file: BufReader<File>,
    /// Device and inode.
    number: (u64, u64),
    /// Bytes read so far, up to the end of a line.
    offset: u64,
}

impl Reading {
    fn new(file: File) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self { file: BufReader::new(file), number: (found.dev(), found.ino()), offset: 0 })
    }

    /// Returns the next whole line, or `None` if there is none yet. A line that can't be parsed (of a later
    /// version, or damaged) is skipped, and doesn't count as the end.
    fn next_line(&mut self) -> io::Result<Option<LogLine>> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let most = LINE_MAX as u64;
            let length = self.file.by_ref().take(most).read_until(b'\n', &mut line)? as u64;
            if length < most && !line.ends_with(b"\n") {
                // The line is still being written, or will be taken back by its writer: read it again the
                // next time.
                self.file.seek(SeekFrom::Start(self.offset))?;
                return Ok(None);
            }
            self.offset += length;
            if let Ok(line) = serde_json::from_slice(&line) {
                return Ok(Some(line));
            }
        }
    }
}

/// Returns a log's file name: its path goes through a descriptor and would mean nothing in a message.
fn named(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(second: i64, agent: &str, text: &str) -> String {
        let t = jiff::Timestamp::from_second(second).unwrap();
        format!("{{\"t\":\"{t}\",\"agent\":\"{agent}\",\"stream\":\"stdout\",\"text\":\"{text}\"}}\n")
    }

    #[test]
    fn rotated_files_come_first_agents_are_merged_by_time_and_reading_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: String| fs::write(dir.path().join(name), text).unwrap();
        put("a.log.2", line(1, "a", "one"));
        put("a.log.1", line(2, "a", "two"));
        put("a.log", line(4, "a", "four"));
        put("b.log", line(3, "b", "three"));
        let mut logs = Logs::open(dir.path(), None).unwrap();
        assert_eq!(texts(&mut logs), ["one", "two", "three", "four"]);
        put("b.log", line(3, "b", "three") + &line(5, "b", "five") + "{\"t\":\"unfinished");
        assert_eq!(texts(&mut logs), ["five"]);
        // What a full disk cut off is written again.
        put("b.log", line(3, "b", "three") + &line(5, "b", "five") + &line(6, "b", "six"));
        assert_eq!(texts(&mut logs), ["six"]);
        let mut only = Logs::open(dir.path(), Some("a".into())).unwrap();
        assert_eq!(texts(&mut only), ["one", "two", "four"]);
    }

    /// What has come since the last call.
    fn texts(logs: &mut Logs) -> Vec<String> {
        std::iter::from_fn(|| logs.next_line().unwrap()).map(|line| line.text).collect()
    }

    #[test]
    fn what_is_rotated_while_it_is_read_is_read_to_its_end_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let append = |name: &str, text: String| {
            let mut file = OpenOptions::new().append(true).create(true).open(at(name)).unwrap();
            io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        };
        append("a.log.1", line(1, "a", "one"));
        append("a.log", line(2, "a", "two"));
        let mut logs = Logs::open(dir.path(), None).unwrap();
        assert_eq!(texts(&mut logs), ["one", "two"]);
        // Rotated between two passes, and by more than one file.
        append("a.log", line(3, "a", "three"));
        fs::rename(at("a.log.1"), at("a.log.3")).unwrap();
        fs::rename(at("a.log"), at("a.log.2")).unwrap();
        append("a.log.1", line(4, "a", "four"));
        append("a.log", line(5, "a", "five"));
        assert_eq!(texts(&mut logs), ["three", "four", "five"]);
        // Rotated while it is being read, with two agents read alternately.
        append("b.log", line(1, "b", "other"));
        let mut both = Logs::open(dir.path(), None).unwrap();
        assert_eq!(both.next_line().unwrap().unwrap().text, "one");
        fs::remove_file(at("a.log.3")).unwrap();
        fs::rename(at("a.log.2"), at("a.log.3")).unwrap();
        fs::rename(at("a.log.1"), at("a.log.2")).unwrap();
        fs::rename(at("a.log"), at("a.log.1")).unwrap();
        append("a.log", line(6, "a", "six"));
        assert_eq!(texts(&mut both), ["other", "two", "three", "four", "five", "six"]);
        // A file that was deleted doesn't count as the one that was read.
        fs::remove_file(at("a.log.1")).unwrap();
        assert_eq!(texts(&mut both), Vec::<String>::new());
        fs::remove_file(at("a.log")).unwrap();
        append("a.log", line(7, "a", "seven"));
        fs::remove_file(at("a.log.2")).unwrap();
        fs::remove_file(at("a.log.3")).unwrap();
        assert_eq!(texts(&mut both), ["seven"]);
    }

    /// Nothing is missed: neither what was written to a file just before its rotation, nor a file that came
    /// and went between two passes, nor one that isn't kept.
    #[test]
    fn a_follower_loses_nothing_to_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let put = |name: &str, text: String| fs::write(path(name), text).unwrap();
        // As the writer does it, which keeps two old files here.
        let rotate = || {
            for (from, to) in [("a.log.1", "a.log.2"), ("a.log", "a.log.1")] {
                let _none_yet = fs::rename(path(from), path(to));
            }
        };
        let mut logs = Logs::open(dir.path(), None).unwrap();
        put("a.log", line(1, "a", "one"));
        assert_eq!(texts(&mut logs), ["one"]);
        put("a.log", line(1, "a", "one") + &line(2, "a", "two"));
        rotate();
        put("a.log", line(3, "a", "three"));
        assert_eq!(texts(&mut logs), ["two", "three"]);
        put("a.log", line(3, "a", "three") + &line(4, "a", "four"));
        rotate();
        put("a.log", line(5, "a", "five"));
        rotate();
        put("a.log", line(6, "a", "six"));
        assert_eq!(texts(&mut logs), ["four", "five", "six"]);
        put("a.log", line(6, "a", "six") + &line(7, "a", "seven"));
        for n in 8..11 {
            rotate();
            put("a.log", line(n, "a", &n.to_string()));
        }
        assert_eq!(texts(&mut logs), ["seven", "8", "9", "10"]);
        assert_eq!(texts(&mut logs), Vec::<String>::new());
    }

    /// A compromised gateway must not make its reader use unlimited memory.
    #[test]
    fn a_line_that_nobody_wrote_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let endless = "x".repeat(LINE_MAX);
        let too_long = line(0, "a", &endless);
        let text = [&too_long, &line(1, "a", "one"), "\u{fffd}\n", &line(2, "a", "two"), &endless].concat();
        fs::write(dir.path().join("a.log"), text).unwrap();
        fs::write(dir.path().join("b.log"), [b"\xff\n", line(3, "b", "three").as_bytes()].concat()).unwrap();
        assert_eq!(texts(&mut Logs::open(dir.path(), None).unwrap()), ["one", "two", "three"]);
    }

    /// Whatever a compromised gateway leaves there must show its reader nothing of the host.
    #[test]
    fn nothing_is_read_through_a_link_and_a_pipe_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let (logs, secret) = (dir.path().join("logs"), dir.path().join("secret.log"));
        fs::create_dir(&logs).unwrap();
        fs::write(&secret, line(1, "a", "roots")).unwrap();
        std::os::unix::fs::symlink(&logs, dir.path().join("link")).unwrap();
        assert!(Logs::open(&dir.path().join("link"), None).is_err());
        for name in ["a.log", "a.log.1"] {
            fs::write(logs.join("a.log"), "").unwrap();
            let planted = logs.join(name);
            let _none_there = fs::remove_file(&planted);
            std::os::unix::fs::symlink(&secret, &planted).unwrap();
            let told = Logs::open(&logs, None).unwrap().next_line().unwrap_err();
            assert!(told.to_string().contains(&format!("{name}: it is a link")), "{told}");
            fs::remove_file(&planted).unwrap();
            nix::unistd::mkfifo(&planted, nix::sys::stat::Mode::S_IRWXU).unwrap();
            assert!(Logs::open(&logs, None).unwrap().next_line().is_err());
            fs::remove_file(&planted).unwrap();
        }
    }
}
