//! Reading the agents' logs: every file of a sandbox, rotated ones too, merged by time, and on from there.
//!
//! One reader for the command line and for the control API. It only reads.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use redactor::pump::{LogLine, log_files};

/// The logs of one sandbox, and how far they were read.
#[derive(Debug)]
pub struct Logs {
    dir: PathBuf,
    agent: Option<String>,
    places: BTreeMap<PathBuf, Place>,
}

impl Logs {
    /// From the beginning; of one agent only, where it is named.
    pub fn new(dir: PathBuf, agent: Option<String>) -> Self {
        Self { dir, agent, places: BTreeMap::new() }
    }

    /// The lines that came since the last call, in the order of their time.
    pub fn read_on(&mut self) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        for path in current(&self.dir, self.agent.as_deref())? {
            if let Some(place) = self.places.get_mut(&path) {
                place.read_on(&path, &mut lines)?;
            } else {
                // Seen for the first time: what was rotated away before it comes first.
                let agent = path.file_stem().unwrap_or_default().to_string_lossy();
                for old in log_files(&self.dir, &agent).iter().filter(|old| **old != path) {
                    Place::default().read_on(old, &mut lines)?;
                }
                let mut place = Place::default();
                place.read_on(&path, &mut lines)?;
                self.places.insert(path, place);
            }
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

/// The agents that have written anything, by name.
pub fn agents(dir: &Path) -> io::Result<Vec<String>> {
    let files = current(dir, None)?;
    Ok(files.iter().filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect())
}

/// How far a file was read.
#[derive(Debug, Default)]
struct Place {
    inode: u64,
    offset: u64,
}

impl Place {
    /// Reads the whole lines that came since; another file under the same name is read from its beginning.
    fn read_on(&mut self, path: &Path, lines: &mut Vec<LogLine>) -> io::Result<()> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        let inode = file.metadata()?.ino();
        if inode != self.inode {
            *self = Self { inode, offset: 0 };
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut reader = BufReader::new(file);
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 && line.ends_with('\n') {
            self.offset += line.len() as u64;
            // A line of a later version is passed over, not taken for the end.
            lines.extend(serde_json::from_str::<LogLine>(&line).ok());
            line.clear();
        }
        Ok(())
    }
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
        let mut logs = Logs::new(dir.path().to_owned(), None);
        let texts = |lines: Vec<LogLine>| lines.into_iter().map(|line| line.text).collect::<Vec<_>>();
        assert_eq!(texts(logs.read_on().unwrap()), ["one", "two", "three", "four"]);
        put("b.log", line(3, "b", "three") + &line(5, "b", "five") + "{\"t\":\"unfinished");
        assert_eq!(texts(logs.read_on().unwrap()), ["five"]);
        let mut only = Logs::new(dir.path().to_owned(), Some("a".into()));
        assert_eq!(texts(only.read_on().unwrap()), ["one", "two", "four"]);
    }
}
