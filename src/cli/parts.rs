//! The processes of a running sandbox as whoever ends it sees them: the heart and its children, and which of
//! them somebody has stopped.
//!
//! A stopped process does nothing that it is told, and has everybody wait who counts on it: a stop wakes it
//! before it tells anybody to end. Of a heart that was killed somebody may be left who keeps the name:
//! stopped, or hung.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getuid};

use crate::console::{one_line, say};

/// One of them.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    pid: i32,
    comm: String,
    state: char,
    parent: i32,
}

/// Has those go on that were stopped, and says so.
pub fn wake(heart: Pid) {
    wake_each(&parts(heart));
}

/// The same of what a heart has left that is gone: it ends by itself then.
pub fn wake_left_behind(dir: &Path) {
    wake_each(&left_behind(dir));
}

/// Ends by force what a heart has left that is gone, and says so.
pub fn end_left_behind(dir: &Path) {
    for part in left_behind(dir) {
        if kill(Pid::from_raw(part.pid), Signal::SIGKILL).is_ok() {
            say(&format!("{} was left behind, and was ended by force", part.called()));
        }
    }
}

/// Whether nobody of those is there.
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

/// Our own processes that have lost their heart, and work in this directory as far as the kernel tells: only
/// root may look where one of them works. Of another sandbox it would be as lost, with nobody to supervise.
fn left_behind(dir: &Path) -> Vec<Part> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(Part::of).filter(|part| part.has_lost_its_heart() && part.may_work_in(dir)).collect()
}

/// Those that are there, in words.
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

/// The heart, and its children: the one process that a sandbox has above init.
fn parts(heart: Pid) -> Vec<Part> {
    let children = fs::read_to_string(format!("/proc/{heart}/task/{heart}/children")).unwrap_or_default();
    let children = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
    [heart.as_raw()].into_iter().chain(children).filter_map(Part::of).collect()
}

impl Part {
    fn of(pid: i32) -> Option<Self> {
        Self::read(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// One of those that a heart starts, and whoever has it now is none.
    fn has_lost_its_heart(&self) -> bool {
        let is_ours = matches!(self.comm.as_str(), "cofferdam: sup" | "cofferdam: bld" | "cofferdam: swp");
        let has_heart = || Self::of(self.parent).is_some_and(|parent| parent.comm == "cofferdam: hrt");
        is_ours && !has_heart()
    }

    /// Not known to be elsewhere, and not another user's.
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

    /// Of proc_pid_stat(5): `12 (cofferdam: sup) S …`, where the name may hold anything.
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
