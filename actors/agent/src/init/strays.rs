//! What an ended agent left behind: found by what it was born with ([`super::birthmark`]), and killed, so
//! that the next start finds its ports free. Where nobody can be marked so, it is found by a mark in its
//! environment, which it can take off: such a process isn't found, stays under the same cage, and ends with
//! the sandbox.
//!
//! Who is killed is who was looked at: by one descriptor, never by a number, which another agent's process
//! may have got meanwhile.
//!
//! Nobody outruns a search by forking and exiting: whoever has no parent left is a child of init's, and keeps
//! its number and its limits, dead or alive, until init reaps it. So of an agent that has any process there
//! is one that is seen:
//! ```text
//! a pass: nobody is reaped │ every number of /proc │ whose? ─┬─ the agent's ─────────▶ killed, and another pass
//!                                                            └─ nobody's of its ─────▶ none was alive when the pass began
//! passes ─ a few ─▶ if nobody else runs: all at once, which no fork escapes (kill(2), -1)
//!                   else: the dead keep their places between passes, too, until its limit of processes lets it fork no more
//!        ─ all  ──▶ it has survivors, and its next start is held
//! ```
//! To read an environment costs what its owner makes of it, and waits for the lock of that memory; so a
//! search is made in slices, between which init serves everybody else. Must never say that nobody is left
//! without having seen it, nor signal who descends from what runs.

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

/// Processes looked at in a pass. One that leaves some out is no proof of anything.
const MAX_LISTED: usize = 16 << 10;
/// After so many passes it may be one that forks as fast as it is killed: two see whoever doesn't dead, and a
/// crowd that does leaves init little of the processor for more.
const PLAIN: u32 = 2;
/// After so many it isn't for want of places that it goes on: a process that takes long to die, as one with
/// much memory does.
const DRAINED: u32 = 128;
/// After so many passes each waits [`PACE`].
const HASTY: u32 = 64;
const PACE: Duration = Duration::from_millis(5);
/// After so many, which is more than two seconds, there are survivors.
const PASSES: u32 = 512;
/// How often a descent is looked at anew that changed on the way.
const DESCENTS: usize = 3;
/// Bytes of an environment that are read: many times what a shell has. A mark behind them was taken off.
const MAX_ENVIRONMENT: u64 = 256 << 10;
/// How long init is at it at a time. What it waits for a processor doesn't count: in a crowd it would be one
/// process a turn.
const SLICE: Duration = Duration::from_millis(1);

/// How an agent's processes are known.
enum Known {
    /// They were born as those of this number; of none, where it has started nothing.
    ByBirth(Option<u32>),
    /// By a variable of their environment.
    ByEnvironment(Vec<u8>),
}

/// Whether a process is the agent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Its {
    /// It is.
    Surely,
    /// It may be another's, too, and has seen to that itself.
    Perhaps,
    Not,
}

impl Known {
    /// # Errors
    /// That it can't be told, of one that is there.
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

/// What runs beside the search.
pub(super) struct Beside {
    /// Processes of the table, and those on their way there: nobody who descends from them is a stray.
    pub(super) running: Vec<i32>,
    /// Whether one of them is this very agent's.
    pub(super) is_its: bool,
}

/// How far a search is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    UnderWay,
    /// Nobody is left.
    Clean,
    /// Somebody is, whatever was done.
    Survivors,
}

/// Kills processes of an agent's that descend from no running process of the table, until none is left.
pub(super) struct Search {
    /// Of whoever waits for its end.
    pub(super) id: RequestId,
    pub(super) agent: String,
    known: Known,
    /// Still to be looked at in this pass, if one is under way.
    left: Option<Vec<i32>>,
    /// What this pass has come to so far: whether one of the agent's was there, or may have been.
    found: bool,
    /// Children of init's that were dead before this pass began and that nobody has reaped.
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
    /// What keeps it from seeing who is there.
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
                // The newest first: who forks and exits is among them.
                Some(Some(pid)) => self.found |= self.judge(proc.as_fd(), pid, beside, birthmarks)?,
                Some(None) => return Ok(self.end_pass()),
            }
        }
        Ok(Progress::UnderWay)
    }

    /// Lists who is there. Whoever was alive before is on the list, or has a forefather who is (see the
    /// module).
    fn begin_pass(&mut self, proc: &File, beside: &Beside) -> io::Result<()> {
        // The kernel lets no fork of theirs be between the two, and there is nobody else whom it could hit.
        if self.passes >= PLAIN && beside.running.is_empty() {
            // What it came to is seen.
            let _ = signals::kill_all();
        }
        let (listed, is_cut) = list(proc.as_fd(), MAX_LISTED)?;
        self.found = is_cut;
        self.left = Some(listed);
        Ok(())
    }

    /// Another pass sees whether those that were killed are gone. Init has a turn before it, to reap them.
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

    /// Kills a process if it is the agent's, and a stray. Whether it is, and wasn't known to be dead.
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
        // Who is gone had a parent, who is there, or whose forefather is.
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
            // Nobody else reaps a child of init's, so that the number is its own for as long.
            Some(stat) if stat.is_dead() && stat.parent == 1 => {
                self.dead.insert(pid);
            }
            // One that can't be killed is found again.
            Some(_) => drop(process.signal(libc::SIGKILL)),
            None => {}
        }
        Ok(true)
    }

    /// Whether nobody may be reaped now: a pass rests on it, and dead ones that keep their places leave fewer
    /// to be born.
    pub(super) fn keeps_the_dead(&self) -> bool {
        self.left.is_some() || (PLAIN..DRAINED).contains(&self.passes)
    }

    /// Somebody was reaped all the same: the number may be another's, and a pass under way proves nothing.
    pub(super) fn note_reaped(&mut self, pid: i32) {
        self.dead.remove(&pid);
        self.found |= self.left.is_some();
    }

    /// Whether it is amidst all processes.
    pub(super) fn is_in_a_pass(&self) -> bool {
        self.left.is_some()
    }

    /// How long init may sleep before it goes on, in milliseconds.
    pub(super) fn sleep(&self) -> i32 {
        let left = self.not_before.map(|at| at.saturating_duration_since(Instant::now()));
        left.filter(|_| self.left.is_none()).map_or(0, |left| i32::from(!left.is_zero()))
    }
}

/// Every process, at most this many, and whether there are more.
fn list(proc: BorrowedFd<'_>, limit: usize) -> io::Result<(Vec<i32>, bool)> {
    // Opened anew: a directory is listed once.
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

/// Whether a process descends from one of these; `None` where its forefathers died faster than they could be
/// told.
fn descends(process: &Opened, pid: i32, from: &[i32]) -> Option<bool> {
    let told = (0..DESCENTS).find_map(|_| walk(pid, from));
    // Only of one that is there still it was its own number that was begun with.
    told.filter(|_| process.stat().is_ok())
}

/// From child to parent up to init.
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
        // By their ends: of one that is cut off nobody knows what it is.
        .is_ok_and(|_| {
            environment
                .split_inclusive(|byte| *byte == 0)
                .any(|variable| variable.strip_suffix(&[0]) == Some(marker))
        })
}

#[cfg(test)]
mod tests;
