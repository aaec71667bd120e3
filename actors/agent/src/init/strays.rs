//! What an ended agent left behind: found by what it was born with ([`super::birthmark`]), and killed, so that the next start finds its
//! ports free. Where nobody can be marked so, it is found by a mark in its environment, which it can take off.
//!
//! Who is killed is who was looked at: by one descriptor, never by a number, which another agent's process may have got meanwhile.
//!
//! A process that took that off isn't found: it stays under the same cage, and ends with the sandbox. To read an environment costs what its
//! owner makes of it, and waits for the lock of that memory; so a search is made in slices, between which init serves everybody else.

use super::birthmark::Birthmarks;
use super::process::{Opened, Stat, pids};
use crate::protocol::RequestId;
use crate::sys::directory::ENTRIES;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Processes looked at, and how often.
const MAX_STRAYS: usize = 4096;
const STRAY_PASSES: usize = 16;
/// Bytes of an environment that are read: many times what a shell has. A mark behind them was taken off.
const MAX_ENVIRONMENT: u64 = 256 << 10;
/// How long init is at it at a time.
const SLICE: Duration = Duration::from_millis(1);
/// Searches that may wait.
pub(super) const MAX_SEARCHES: usize = 64;

/// How an agent's processes are known.
enum Known {
    /// They were born as those of this number; of none, where it has started nothing.
    ByBirth(Option<u32>),
    /// By a variable of their environment.
    ByEnvironment(Vec<u8>),
}

impl Known {
    fn is(&self, process: &Opened, birthmarks: &Birthmarks) -> bool {
        match self {
            // One that may be another's, too, has seen to that itself.
            Self::ByBirth(number) => number.is_some_and(|number| {
                birthmarks.of_process(process).is_some_and(|whose| whose.contains(&number))
            }),
            Self::ByEnvironment(marker) => is_marked(process, marker),
        }
    }
}

/// Kills processes of an agent's that descend from no running process of the table, until none is left.
pub(super) struct Search {
    /// Of whoever waits for its end.
    pub(super) id: RequestId,
    pub(super) agent: String,
    known: Known,
    /// Still to be looked at in this pass.
    left: Vec<Candidate>,
    passes: usize,
    killed: bool,
}

impl Search {
    pub(super) fn new(id: RequestId, agent: String, birthmarks: &Birthmarks) -> Self {
        let known = match birthmarks.are_told() {
            true => Known::ByBirth(birthmarks.number(&agent)),
            false => {
                Known::ByEnvironment(format!("{}={agent}", crate::environment::AGENT_VARIABLE).into_bytes())
            }
        };
        Self { id, agent, known, left: Vec::new(), passes: 0, killed: true }
    }

    /// Goes on for a slice: whether it is through.
    pub(super) fn go_on(&mut self, running: &[i32], birthmarks: &Birthmarks) -> io::Result<bool> {
        let begun = Instant::now();
        let proc = File::open("/proc")?;
        while begun.elapsed() < SLICE {
            match self.left.pop() {
                Some(candidate) => {
                    self.killed |=
                        candidate.kill_if(proc.as_fd(), |process| self.known.is(process, birthmarks));
                }
                None if !std::mem::take(&mut self.killed) || self.passes == STRAY_PASSES => return Ok(true),
                None => {
                    self.passes += 1;
                    self.left = candidates(proc.as_fd(), running)?;
                }
            }
        }
        Ok(false)
    }
}

/// Whose descent was looked at.
struct Candidate {
    pid: i32,
    /// Whoever has the number and began at another time is somebody else, whose descent nobody has looked at.
    start_time: u64,
}

impl Candidate {
    /// Kills it, if it is still itself and the one that is looked for. Whether it was killed.
    fn kill_if(&self, proc: BorrowedFd<'_>, is: impl Fn(&Opened) -> bool) -> bool {
        Opened::open(proc, self.pid).is_ok_and(|process| {
            process.stat().is_ok_and(|now| now.start_time == self.start_time)
                && is(&process)
                && process.signal(libc::SIGKILL).is_ok()
        })
    }
}

/// Every process that descends from none of these.
fn candidates(proc: BorrowedFd<'_>, running: &[i32]) -> io::Result<Vec<Candidate>> {
    let mut all = pids(proc, &mut vec![0; ENTRIES], MAX_STRAYS)?.unwrap_or_default();
    let stats: BTreeMap<i32, Stat> =
        all.iter().filter_map(|pid| Stat::read(*pid).ok().map(|stat| (*pid, stat))).collect();
    let parents = stats.iter().map(|(pid, stat)| (*pid, stat.parent)).collect();
    all.retain(|pid| *pid != 1 && !descends(*pid, running, &parents));
    let candidate = |pid| stats.get(&pid).map(|stat| Candidate { pid, start_time: stat.start_time });
    Ok(all.into_iter().filter_map(candidate).collect())
}

fn descends(pid: i32, from: &[i32], parents: &BTreeMap<i32, i32>) -> bool {
    let mut at = pid;
    // A chain longer than there are processes would be a loop, made of reads at different moments.
    for _ in 0..=parents.len() {
        if from.contains(&at) {
            return true;
        }
        match parents.get(&at) {
            Some(parent) if *parent > 1 => at = *parent,
            _ => return false,
        }
    }
    false
}

/// Zombies have no environment: they are nobody's.
fn is_marked(process: &Opened, marker: &[u8]) -> bool {
    let mut environment = Vec::new();
    process
        .open_environment()
        .and_then(|file| file.take(MAX_ENVIRONMENT).read_to_end(&mut environment))
        // By their ends: of one that is cut off nobody knows what it is.
        .is_ok_and(|_| {
            environment
                .split_inclusive(|byte| *byte == 0)
                .any(|variable| variable.strip_suffix(&[0]) == Some(marker))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};

    /// Marked, and in its program already: it has the environment that it was given. It waits for what is never written.
    fn marked() -> (Child, i32, u64) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo; read -r line"]).env("MARK", "it");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let pid = child.id() as i32;
        let start_time = Stat::read(pid).unwrap().start_time;
        (child, pid, start_time)
    }

    #[test]
    fn who_got_the_number_of_a_stray_is_spared() {
        let proc = File::open("/proc").unwrap();
        let (mut child, pid, start_time) = marked();
        // It was looked at when somebody else had its number, who began before it.
        let another = Candidate { pid, start_time: start_time - 1 };
        assert!(!another.kill_if(proc.as_fd(), |process| is_marked(process, b"MARK=it")));
        let itself = Candidate { pid, start_time };
        assert!(!itself.kill_if(proc.as_fd(), |process| is_marked(process, b"MARK=i")), "another mark");
        // It waits still: nothing has killed it so far.
        assert!(!Stat::read(pid).unwrap().is_ending());
        assert!(itself.kill_if(proc.as_fd(), |process| is_marked(process, b"MARK=it")));
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(!itself.kill_if(proc.as_fd(), |process| is_marked(process, b"MARK=it")));
    }

    #[test]
    fn a_signal_reaches_the_process_that_was_opened_or_nobody() {
        let proc = File::open("/proc").unwrap();
        let (mut child, pid, _) = marked();
        let process = Opened::open(proc.as_fd(), pid).unwrap();
        process.signal(libc::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        // Its number is free from here on, and may be anybody's.
        assert_eq!(process.signal(libc::SIGTERM).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
