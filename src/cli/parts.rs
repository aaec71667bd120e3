//! The processes of a running sandbox, as `cofferdam stop` sees them: the heart and its children, and which
//! of them are stopped.
//!
//! A stopped process does nothing that it is told, and makes all wait that depend on it. So `cofferdam stop`
//! continues stopped processes before it tells the sandbox to end. A killed heart may leave a process that
//! keeps the sandbox's name, because it is stopped or hangs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getuid};

use crate::console::{one_line, say};

/// One of these processes, from proc_pid_stat(5).
#[derive(Debug, PartialEq, Eq)]
struct Part {
    pid: i32,
    comm: String,
    state: char,
    parent: i32,
}

/// Continues those of the heart's processes that are stopped, and says so.
pub fn wake(heart: Pid) {
    wake_each(&parts(heart));
}

/// Continues the stopped processes that a dead heart has left: they end by themselves then.
pub fn wake_left_behind(dir: &Path) {
    wake_each(&left_behind(dir));
}

/// Kills the processes that a dead heart has left, and says so.
pub fn end_left_behind(dir: &Path) {
    for part in left_behind(dir) {
        if kill(Pid::from_raw(part.pid), Signal::SIGKILL).is_ok() {
            say(&format!("{} was left behind, and was ended by force", part.called()));
        }
    }
}

/// Whether no process is left behind by a dead heart.
pub fn is_none_left_behind(dir: &Path) -> bool {
    left_behind(dir).is_empty()
}

fn wake_each(parts: &[Part]) {
    for part in parts.iter().filter(|part| part.state == 'T') {
        if kill(Pid::from_raw(part.pid), Signal::SIGCONT).is_ok() {
            say(&format!("{} was stopped, and goes on now", part.called()));
        }
    }
}

/// Returns cofferdam's processes that have lost their heart and, as far as can be seen, work in this
/// directory: only root may see in which directory they work. A process of another sandbox that is listed by
/// mistake has lost its heart too, and supervises nothing.
fn left_behind(dir: &Path) -> Vec<Part> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(Part::of).filter(|part| part.has_lost_its_heart() && part.may_work_in(dir)).collect()
}

/// Describes the processes that are still there.
pub fn left(heart: Pid) -> String {
    let left: Vec<String> = parts(heart)
        .iter()
        .map(|part| {
            let why = match part.state {
                'T' => " (stopped)",
                't' => " (held by a debugger)",
                'D' => " (waits for the kernel)",
                _ => "",
            };
            format!("{}{why}", part.called())
        })
        .collect();
    left.join(", ")
}

/// Returns the heart, which is the only process above a sandbox's init, and its children.
fn parts(heart: Pid) -> Vec<Part> {
    let children = fs::read_to_string(format!("/proc/{heart}/task/{heart}/children")).unwrap_or_default();
    let children = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
    [heart.as_raw()].into_iter().chain(children).filter_map(Part::of).collect()
}

impl Part {
    fn of(pid: i32) -> Option<Self> {
        Self::read(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Whether this process is one that a heart starts, and its parent is no heart.
    fn has_lost_its_heart(&self) -> bool {
        let is_ours = matches!(self.comm.as_str(), "cofferdam: sup" | "cofferdam: bld" | "cofferdam: swp");
        let has_heart = || Self::of(self.parent).is_some_and(|parent| parent.comm == "cofferdam: hrt");
        is_ours && !has_heart()
    }

    /// Whether this process works in the directory, or may: if its directory can't be read, an ordinary
    /// user's command assumes so of the user's own processes.
    fn may_work_in(&self, dir: &Path) -> bool {
        let place = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
        match (place(Path::new(&format!("/proc/{}/cwd", self.pid))), place(dir)) {
            (Ok(its), Ok(wanted)) => its == wanted,
            _ => !getuid().is_root() && self.is_our_users(),
        }
    }

    fn is_our_users(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next());
        uid.and_then(|uid| uid.parse().ok()) == Some(getuid().as_raw())
    }

    /// Parses a line of proc_pid_stat(5): `12 (cofferdam: sup) S …`, where the name may hold any character.
    fn read(pid: i32, stat: &str) -> Option<Self> {
        let (before, after) = stat.rsplit_once(')')?;
        let comm = one_line(before.split_once('(')?.1);
        let mut fields = after.split_ascii_whitespace();
        Some(Self { pid, comm, state: fields.next()?.chars().next()?, parent: fields.next()?.parse().ok()? })
    }

    fn called(&self) -> String {
        let what = match self.comm.as_str() {
            "cofferdam: sup" => "the supervisor",
            "cofferdam: bld" => "the builder",
            "cofferdam: swp" => "the sweeper",
            "cofferdam: init" => "init",
            "cofferdam: hrt" => "the heart",
            other => other,
        };
        format!("{what} (process {})", self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_told_by_its_name_and_state() {
        let of = |stat: &str| Part::read(12, stat);
        let part = of("12 (cofferdam: sup) T 3 4 5").unwrap();
        assert_eq!((part.state, part.parent), ('T', 3));
        assert_eq!(part.called(), "the supervisor (process 12)");
        let odd = of("12 (a) R \u{1b}(b) D 1").unwrap();
        assert_eq!((odd.state, odd.comm.as_str()), ('D', "a) R \\u{1b}(b"));
        assert_eq!(of("12"), None);
    }

    #[test]
    fn who_is_there_is_seen() {
        let us = Pid::this();
        let own = parts(us);
        assert_eq!(own.first().map(|part| part.pid), Some(us.as_raw()));
        assert!(left(us).contains(&format!("(process {us})")));
    }
}
