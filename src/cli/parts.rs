//! The processes of a running sandbox as whoever ends it sees them: the heart and its children, and which of them somebody has stopped.
//!
//! A stopped process does nothing that it is told, and has everybody wait who counts on it: a stop wakes it before it tells anybody to end.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::console::{one_line, say};

/// One of them.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    pid: i32,
    comm: String,
    state: char,
}

/// Has those go on that were stopped, and says so.
pub fn wake(heart: Pid) {
    for part in parts(heart).iter().filter(|part| part.state == 'T') {
        if kill(Pid::from_raw(part.pid), Signal::SIGCONT).is_ok() {
            say(&format!("{} was stopped, and goes on now", part.called()));
        }
    }
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
    [heart.as_raw()]
        .into_iter()
        .chain(children)
        .filter_map(|pid| Part::read(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
        .collect()
}

impl Part {
    /// Of proc_pid_stat(5): `12 (cofferdam: sup) S …`, where the name may hold anything.
    fn read(pid: i32, stat: &str) -> Option<Self> {
        let (before, after) = stat.rsplit_once(')')?;
        let comm = one_line(before.split_once('(')?.1);
        Some(Self { pid, comm, state: after.trim_start().chars().next()? })
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
        assert_eq!((part.state, part.called()), ('T', "the supervisor (process 12)".to_owned()));
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
