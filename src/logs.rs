//! Reading the agents' logs: every file of a sandbox, rotated ones too, merged by time, and on from there.
//!
//! One reader for the command line and for the control API. It only reads, and never through a link: as root, what lies there is the work of a
//! gateway, which may be in strange hands, and which may read less than root.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use redactor::pump::LogLine;

/// The logs of one sandbox, and how far they were read.
#[derive(Debug)]
pub struct Logs {
    /// By descriptor: its name may lead elsewhere a moment later.
    dir: File,
    agent: Option<String>,
    places: BTreeMap<PathBuf, Place>,
}

impl Logs {
    /// From the beginning; of one agent only, where it is named.
    ///
    /// # Errors
    /// When there is no such directory; a link to one is none.
    pub fn open(dir: &Path, agent: Option<String>) -> io::Result<Self> {
        let flags = nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW;
        let dir = OpenOptions::new().read(true).custom_flags(flags).open(dir)?;
        Ok(Self { dir, agent, places: BTreeMap::new() })
    }

    /// The agents that have written anything, by name.
    pub fn agents(&self) -> io::Result<Vec<String>> {
        let files = current(&self.there(), None)?;
        Ok(files.iter().filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect())
    }

    fn there(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.dir.as_raw_fd()).into()
    }

    /// The lines that came since the last call, in the order of their time.
    pub fn read_on(&mut self) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        for path in current(&self.there(), self.agent.as_deref())? {
            let place = self.places.get(&path);
            let begun = newer(&path, place.map(|place| place.inode))?;
            let known = self.places.remove(&path);
            let mut last = known.map(|place| place.read_on(&mut lines)).transpose()?;
            for place in begun {
                last = Some(place.read_on(&mut lines)?);
            }
            self.places.extend(last.map(|place| (path, place)));
        }
        lines.sort_by_key(|line| line.t);
        Ok(lines)
    }
}

/// The files that are being written, one an agent.
fn current(dir: &Path, agent: Option<&str>) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .filter(|path| agent.is_none_or(|agent| path.file_stem().is_some_and(|stem| stem == agent)))
        .collect();
    files.sort();
    Ok(files)
}

/// The files of a log that were begun after the one that is known, oldest first; all, where none is. From the newest on, since a file that is
/// rotated meanwhile is met again, and none is passed by.
fn newer(current: &Path, known: Option<u64>) -> io::Result<Vec<Place>> {
    let old = |number: u32| {
        let mut name = current.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    let mut found: Vec<Place> = Vec::new();
    let mut missing = 0;
    for number in 0.. {
        let path = if number == 0 { current.to_owned() } else { old(number) };
        let Some(place) = Place::open(&path)? else {
            missing += 1;
            // Of a log that is being rotated just now one may be.
            if missing > 1 {
                break;
            }
            continue;
        };
        missing = 0;
        if Some(place.inode) == known {
            break;
        }
        if found.last().is_none_or(|newer| newer.inode != place.inode) {
            found.push(place);
        }
    }
    found.reverse();
    Ok(found)
}

/// A file, and how far it was read. Open, so that its end is read wherever it is rotated to, and its inode is no other's.
#[derive(Debug)]
struct Place {
    file: File,
    inode: u64,
    offset: u64,
}

impl Place {
    /// At its beginning; none where there is no file.
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.raw_os_error() == Some(nix::libc::ELOOP) => {
                return Err(io::Error::other(format!(
                    "{} is a link, which nobody follows there",
                    named(path)
                )));
            }
            Err(e) => return Err(e),
        };
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other(format!("{} is not a regular file", named(path))));
        }
        Ok(Some(Self { inode: found.ino(), file, offset: 0 }))
    }

    /// Reads the whole lines that came since.
    fn read_on(mut self, lines: &mut Vec<LogLine>) -> io::Result<Self> {
        self.file.seek(SeekFrom::Start(self.offset))?;
        let mut reader = BufReader::new(&self.file);
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 && line.ends_with('\n') {
            self.offset += line.len() as u64;
            // A line of a later version is passed over, not taken for the end.
            lines.extend(serde_json::from_str::<LogLine>(&line).ok());
            line.clear();
        }
        Ok(self)
    }
}

/// A log's name, which its path by descriptor hides.
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
        let texts = |lines: Vec<LogLine>| lines.into_iter().map(|line| line.text).collect::<Vec<_>>();
        assert_eq!(texts(logs.read_on().unwrap()), ["one", "two", "three", "four"]);
        put("b.log", line(3, "b", "three") + &line(5, "b", "five") + "{\"t\":\"unfinished");
        assert_eq!(texts(logs.read_on().unwrap()), ["five"]);
        let mut only = Logs::open(dir.path(), Some("a".into())).unwrap();
        assert_eq!(texts(only.read_on().unwrap()), ["one", "two", "four"]);
    }

    /// Neither what was written to a file before it was rotated, nor one that came and went between two looks.
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
        let mut read = || {
            let lines = logs.read_on().unwrap();
            lines.into_iter().map(|line| line.text).collect::<Vec<_>>().join(" ")
        };
        put("a.log", line(1, "a", "one"));
        assert_eq!(read(), "one");
        put("a.log", line(1, "a", "one") + &line(2, "a", "two"));
        rotate();
        put("a.log", line(3, "a", "three"));
        assert_eq!(read(), "two three");
        put("a.log", line(3, "a", "three") + &line(4, "a", "four"));
        rotate();
        put("a.log", line(5, "a", "five"));
        rotate();
        put("a.log", line(6, "a", "six"));
        assert_eq!(read(), "four five six");
        // Even one that isn't kept: it is open.
        put("a.log", line(6, "a", "six") + &line(7, "a", "seven"));
        for n in 8..11 {
            rotate();
            put("a.log", line(n, "a", &n.to_string()));
        }
        assert_eq!(read(), "seven 8 9 10");
        assert_eq!(read(), "");
    }

    /// What a gateway in strange hands may leave there shows its reader nothing of the host.
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
            let told = Logs::open(&logs, None).unwrap().read_on().unwrap_err();
            assert!(told.to_string().contains(&format!("{name} is a link")), "{told}");
            fs::remove_file(&planted).unwrap();
            nix::unistd::mkfifo(&planted, nix::sys::stat::Mode::S_IRWXU).unwrap();
            assert!(Logs::open(&logs, None).unwrap().read_on().is_err());
            fs::remove_file(&planted).unwrap();
        }
    }
}
