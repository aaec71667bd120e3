//! Finds processes that an ended agent left behind, by what they were born with ([`super::birthmark`]), and
//! kills them, so that the next start finds its ports free. Where processes can't be marked so, they are
//! found by a mark in their environment, which they can take off: such a process isn't found, stays in the
//! same cage, and ends with the sandbox.
//!
//! The process that is killed is the one that was looked at: both go by one descriptor, never by a pid, which
//! another agent's process may have got meanwhile.
//!
//! No process outruns a search by forking and exiting: an orphan becomes a child of init's, and keeps its pid
//! and its limits, dead or alive, until init reaps it. So if an agent has any process, at least one is seen:
//! ```text
//! a pass: nobody is reaped │ every number of /proc │ whose? ─┬─ the agent's ─────────▶ killed, and another pass
//!                                                            └─ nobody's of its ─────▶ none was alive when the pass began
//! passes ─ a few ─▶ if nobody else runs: all at once, which no fork escapes (kill(2), -1)
//!                   else: the dead keep their places between passes, too, until its limit of processes lets it fork no more
//!        ─ all  ──▶ it has survivors, and its next start is held
//! ```
//! Reading an environment takes as long as its owner makes it, and waits for the lock of that memory. So a
//! search is made in slices, between which init serves everybody else. Must never say that no process is left
//! without having seen it, nor signal a descendant of a running process of the table.

use super::birthmark::Birthmarks;
use super::patience::Waits;
use super::process::{Opened, Stat, gone};
use crate::protocol::RequestId;
use crate::sys::{directory, signals};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Processes looked at in a pass. A pass that leaves some out proves nothing.
const MAX_LISTED: usize = 16 << 10;
/// Passes after which the agent is taken for one that forks as fast as it is killed: two passes see any other
/// dead, and a crowd that forks leaves init little of the processor for more.
const PLAIN: u32 = 2;
/// Passes after which the dead are reaped again: by then the search no longer goes on because processes fork,
/// but because one takes long to die, as one with much memory does.
const DRAINED: u32 = 128;
/// Passes that follow each other at once; before each later one the search waits [`PACE`].
const HASTY: u32 = 64;
const PACE: Duration = Duration::from_millis(5);
/// Passes, which take more than two seconds, after which what is left counts as survivors.
const PASSES: u32 = 512;
/// How often a line of ancestors is read that changes while it is read.
const DESCENTS: usize = 3;
/// Bytes of an environment that are read: many times what a shell has. A mark beyond them counts as taken
/// off.
const MAX_ENVIRONMENT: u64 = 256 << 10;
/// How long init searches at a time. Time that it waits for a processor doesn't count: in a crowd a slice
/// would else be one process.
const SLICE: Duration = Duration::from_millis(1);

/// How an agent's processes are recognised.
enum Known {
    /// By the number that they were born with; `None` where the agent has started nothing.
    ByBirth(Option<u32>),
    /// By a variable of their environment.
    ByEnvironment(Vec<u8>),
}

/// Whether a process is the agent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Its {
    /// It is.
    Surely,
    /// It may be another's, too, and has brought that about itself.
    Perhaps,
    Not,
}

impl Known {
    /// # Errors
    /// The process is there, but can't be read.
    fn tell(&self, process: &Opened, birthmarks: &Birthmarks) -> io::Result<Its> {
        match self {
            Self::ByBirth(None) => Ok(Its::Not),
            Self::ByBirth(Some(number)) => Ok(match birthmarks.look_at(process)? {
                Some(whose) if whose == (*number..=*number) => Its::Surely,
                Some(whose) if whose.contains(number) => Its::Perhaps,
                _ => Its::Not,
            }),
            Self::ByEnvironment(marker) if is_marked(process, marker) => Ok(Its::Perhaps),
            Self::ByEnvironment(_) => Ok(Its::Not),
        }
    }
}

/// What else runs during a search.
pub(super) struct Beside {
    /// Running processes of the table, and those on their way there: none that descends from them is a stray.
    pub(super) running: Vec<i32>,
    /// Whether a process of this very agent runs, by the table.
    pub(super) is_its: bool,
}

/// How far a search is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    UnderWay,
    /// No process of the agent's is left.
    Clean,
    /// Some are left, whatever was done.
    Survivors,
}

/// Kills processes of an agent's that descend from no running process of the table, until none is left.
pub(super) struct Search {
    /// The request that waits for its end.
    pub(super) id: RequestId,
    pub(super) agent: String,
    known: Known,
    /// Still to be looked at in this pass, if one is under way.
    left: Option<Vec<i32>>,
    /// What this pass has come to so far: whether one of the agent's was there, or may have been.
    found: bool,
    /// Children of init's that are known to be dead and that nobody has reaped.
    dead: BTreeSet<i32>,
    passes: u32,
    /// When the next pass may begin.
    not_before: Option<Instant>,
}

impl Search {
    pub(super) fn new(id: RequestId, agent: String, birthmarks: &mut Birthmarks) -> Self {
        let known = match birthmarks.are_told() {
            true => Known::ByBirth(birthmarks.renew(&agent)),
            false => {
                Known::ByEnvironment(format!("{}={agent}", crate::environment::AGENT_VARIABLE).into_bytes())
            }
        };
        Self::of(id, agent, known)
    }

    fn of(id: RequestId, agent: String, known: Known) -> Self {
        let dead = BTreeSet::new();
        Self { id, agent, known, left: None, found: false, dead, passes: 0, not_before: None }
    }

    /// Goes on for a slice.
    ///
    /// # Errors
    /// What keeps the search from seeing which processes there are.
    pub(super) fn go_on(
        &mut self,
        proc: &File,
        beside: &Beside,
        birthmarks: &Birthmarks,
        waits: &Waits,
    ) -> io::Result<Progress> {
        if matches!(self.known, Known::ByBirth(None)) {
            return Ok(Progress::Clean);
        }
        if self.not_before.is_some_and(|at| Instant::now() < at) {
            return Ok(Progress::UnderWay);
        }
        self.not_before = None;
        let slice = waits.stopwatch();
        while !slice.is_past(SLICE) {
            match self.left.as_mut().map(Vec::pop) {
                None => self.begin_pass(proc, beside)?,
                // The newest first: processes that fork and exit are among them.
                Some(Some(pid)) => self.found |= self.judge(proc.as_fd(), pid, beside, birthmarks)?,
                Some(None) => return Ok(self.end_pass()),
            }
        }
        Ok(Progress::UnderWay)
    }

    /// Begins a pass by listing the processes. Each that was alive before is on the list, or has an ancestor
    /// that is (see the module).
    fn begin_pass(&mut self, proc: &File, beside: &Beside) -> io::Result<()> {
        // No fork escapes this signal, and there is nobody else whom it could hit.
        if self.passes >= PLAIN && beside.running.is_empty() {
            // The pass shows what it came to.
            let _ = signals::kill_all();
        }
        let (listed, is_cut) = list(proc.as_fd(), MAX_LISTED)?;
        self.found = is_cut;
        self.left = Some(listed);
        Ok(())
    }

    /// Ends a pass. If it found anything, another pass sees whether those that were killed are gone; init has
    /// a turn before that, to reap them.
    fn end_pass(&mut self) -> Progress {
        self.left = None;
        if !self.found {
            return Progress::Clean;
        }
        self.passes += 1;
        if self.passes >= HASTY {
            self.not_before = Some(Instant::now() + PACE);
        }
        if self.passes >= PASSES { Progress::Survivors } else { Progress::UnderWay }
    }

    /// Kills a process if it is the agent's, and a stray. Returns whether it is or may be one, and wasn't
    /// known to be dead.
    fn judge(
        &mut self,
        proc: BorrowedFd<'_>,
        pid: i32,
        beside: &Beside,
        birthmarks: &Birthmarks,
    ) -> io::Result<bool> {
        if pid == 1 || self.dead.contains(&pid) {
            return Ok(false);
        }
        // A process that is gone had a parent that is there, or whose ancestor is.
        let Some(process) = gone(Opened::open(proc, pid))? else { return Ok(false) };
        let is_running = match self.known.tell(&process, birthmarks)? {
            Its::Not => return Ok(false),
            Its::Surely if !beside.is_its => Some(false),
            Its::Surely | Its::Perhaps => descends(&process, pid, &beside.running),
        };
        match is_running {
            Some(true) => return Ok(false),
            Some(false) => {}
            None => return Ok(true),
        }
        match gone(process.stat())? {
            // Nobody else reaps a child of init's, so that the pid stays its own until init does.
            Some(stat) if stat.is_dead() && stat.parent == 1 => {
                self.dead.insert(pid);
            }
            // A process that can't be killed is found again.
            Some(_) => drop(process.signal(libc::SIGKILL)),
            None => {}
        }
        Ok(true)
    }

    /// Whether nothing may be reaped now: a pass relies on that, and the dead that keep their places leave
    /// room for fewer births.
    pub(super) fn keeps_the_dead(&self) -> bool {
        self.left.is_some() || (PLAIN..DRAINED).contains(&self.passes)
    }

    /// Notes that a process was reaped all the same: its pid may be another's, and a pass under way proves
    /// nothing.
    pub(super) fn note_reaped(&mut self, pid: i32) {
        self.dead.remove(&pid);
        self.found |= self.left.is_some();
    }

    /// Whether a pass is under way.
    pub(super) fn is_in_a_pass(&self) -> bool {
        self.left.is_some()
    }

    /// How long init may sleep before it goes on, in milliseconds.
    pub(super) fn sleep(&self) -> i32 {
        let left = self.not_before.map(|at| at.saturating_duration_since(Instant::now()));
        left.filter(|_| self.left.is_none()).map_or(0, |left| i32::from(!left.is_zero()))
    }
}

/// Returns the processes, at most `limit`, and whether there are more.
fn list(proc: BorrowedFd<'_>, limit: usize) -> io::Result<(Vec<i32>, bool)> {
    // Opened anew: reading a directory goes on where it stopped before.
    let list = directory::open(proc, ".", libc::O_RDONLY | libc::O_DIRECTORY)?;
    let (mut listed, mut is_cut) = (Vec::new(), false);
    directory::numbers(list.as_fd(), &mut vec![0; directory::ENTRIES], |pid| {
        is_cut = listed.len() >= limit;
        if is_cut {
            return ControlFlow::Break(());
        }
        listed.push(pid);
        ControlFlow::Continue(())
    })?;
    Ok((listed, is_cut))
}

/// Whether a process descends from one of these; `None` where its ancestors died faster than they could be
/// read.
fn descends(process: &Opened, pid: i32, from: &[i32]) -> Option<bool> {
    let told = (0..DESCENTS).find_map(|_| walk(pid, from));
    // Only if the process is still there was the pid that the walk began with its own.
    told.filter(|_| process.stat().is_ok())
}

/// Walks from child to parent, up to init.
fn walk(pid: i32, from: &[i32]) -> Option<bool> {
    let mut at = pid;
    // A chain longer than there are processes would be a loop, made of reads at different moments.
    for _ in 0..MAX_LISTED {
        if from.contains(&at) {
            return Some(true);
        }
        match Stat::read(at) {
            Ok(stat) if stat.parent > 1 => at = stat.parent,
            Ok(_) => return Some(false),
            Err(_) => return None,
        }
    }
    None
}

/// Zombies have no environment: they are nobody's.
fn is_marked(process: &Opened, marker: &[u8]) -> bool {
    let mut environment = Vec::new();
    process
        .open_environment()
        .and_then(|file| file.take(MAX_ENVIRONMENT).read_to_end(&mut environment))
        // Variables are told by their ends: one that is cut off could be any.
        .is_ok_and(|_| {
            environment
                .split_inclusive(|byte| *byte == 0)
                .any(|variable| variable.strip_suffix(&[0]) == Some(marker))
        })
}

#[cfg(test)]
mod tests;
