//! Who has so many descriptors open that a look at all of them comes to nothing, and takes the network from everybody.
//!
//! What the kernel does when memory is used up: of the agent that has most, the greatest process is ended, and the next, until looks come to
//! an end again; one that floods again and again loses all, and its supervision judges whether it is started again. An agent that is alone in
//! its sandbox takes it from nobody but itself, and is left in peace.
//!
//! Whose a process is, is told by [`super::birthmark`]; processes that may be several agents' have seen to that themselves, and count as one
//! agent more. What sleeping processes have open costs a look nothing ([`super::asleep`]), and is held against nobody. Must never end a process
//! for what another agent has open.

use super::asleep::Asleep;
use super::birthmark::Birthmarks;
use super::process::{Opened, pids};
use crate::protocol::Event;
use crate::sys::directory::{self, ENTRIES};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::{ControlFlow, RangeInclusive};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// Processes counted, as many as a look goes through.
const MAX_PIDS: usize = 4096;
/// What may be left open when one was ended: half of what a look goes through, so that the next doesn't come to nothing at once.
const LEFT: usize = super::tables::MAX_DESCRIPTORS / 2;
/// How long init waits until an ended process has let go of what it had.
const PATIENCE: Duration = Duration::from_millis(100);

/// Floods of one agent within [`AGAIN`] that cost it its greatest processes alone.
const BORNE: usize = 3;
/// How long a flood is remembered.
const AGAIN: Duration = Duration::from_secs(60);

/// What was stemmed of late.
#[derive(Debug, Default)]
pub(super) struct Floods(Vec<(Option<u32>, Instant)>);

impl Floods {
    /// Notes one of this agent's. Whether it is one too many.
    fn is_too_many(&mut self, agent: Option<u32>, now: Instant) -> bool {
        self.0.retain(|(_, at)| now.saturating_duration_since(*at) < AGAIN);
        self.0.push((agent, now));
        self.0.iter().filter(|(of, _)| *of == agent).count() > BORNE
    }
}

/// A process with the descriptors that looks go through.
struct Owner {
    pid: i32,
    process: Opened,
    whose: RangeInclusive<u32>,
    descriptors: usize,
}

impl Owner {
    /// Of an agent's process; nothing of one that is gone, or was never marked: init, and who has yet to execute its program.
    fn of(proc: &File, pid: i32, birthmarks: &Birthmarks, asleep: &Asleep) -> Option<Self> {
        let process = Opened::open(proc.as_fd(), pid).ok()?;
        let whose = birthmarks.of_process(&process)?;
        let descriptors = if asleep.is_known(pid) { 0 } else { count(proc, pid).unwrap_or_default() };
        Some(Self { pid, process, whose, descriptors })
    }
}

/// Ends the greatest processes of the agent that has most open, where there is another agent. What was ended; nothing where nobody can be
/// told apart.
pub(super) fn stem(
    proc: &File,
    birthmarks: &Birthmarks,
    asleep: &Asleep,
    floods: &mut Floods,
) -> io::Result<Vec<Event>> {
    let all = pids(proc.as_fd(), &mut vec![0; ENTRIES], MAX_PIDS)?.unwrap_or_default();
    let owner = |pid| Owner::of(proc, pid, birthmarks, asleep);
    let owners: Vec<Owner> = all.into_iter().filter_map(owner).collect();
    let mut by_agent: BTreeMap<Option<u32>, usize> = BTreeMap::new();
    for owner in &owners {
        *by_agent.entry(agent_of(&owner.whose)).or_default() += owner.descriptors;
    }
    let greatest = by_agent.iter().max_by_key(|(_, descriptors)| **descriptors);
    let Some((agent, of_agent)) = greatest.filter(|_| by_agent.len() > 1) else { return Ok(Vec::new()) };
    let others: usize = by_agent.values().sum::<usize>() - of_agent;
    let left = match floods.is_too_many(*agent, Instant::now()) {
        true => None,
        // Its share it keeps, whatever the others have.
        false => Some(LEFT.saturating_sub(others).max(LEFT / by_agent.len())),
    };
    let ended = end_down_to(left, *of_agent, owners, *agent);
    let name = agent.and_then(|number| birthmarks.name(number)).unwrap_or_default().to_owned();
    Ok(ended
        .into_iter()
        .map(|(pid, descriptors)| Event::Flooded { agent: name.clone(), pid, descriptors })
        .collect())
}

/// Ends processes of this agent, the greatest first, until no more than this is left of what it has open, or nothing of it at all.
fn end_down_to(
    left: Option<usize>,
    mut open: usize,
    owners: Vec<Owner>,
    agent: Option<u32>,
) -> Vec<(i32, usize)> {
    let mut its: Vec<Owner> = owners.into_iter().filter(|owner| agent_of(&owner.whose) == agent).collect();
    its.sort_unstable_by_key(|owner| std::cmp::Reverse(owner.descriptors));
    let mut ended = Vec::new();
    for owner in its {
        if left.is_some_and(|left| open <= left) {
            break;
        }
        open -= owner.descriptors;
        if owner.process.signal(libc::SIGKILL).is_ok() {
            ended.push(owner);
        }
    }
    let begun = Instant::now();
    let is_there = |owner: &Owner| owner.process.stat().is_ok_and(|stat| !stat.is_over());
    while ended.iter().any(is_there) && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(1));
    }
    ended.into_iter().map(|owner| (owner.pid, owner.descriptors)).collect()
}

fn agent_of(whose: &RangeInclusive<u32>) -> Option<u32> {
    (whose.start() == whose.end()).then(|| *whose.start())
}

/// How many descriptors a process has open: the size of the directory since Linux 6.2, and what is in it before.
fn count(proc: &File, pid: i32) -> io::Result<usize> {
    let table = File::from(directory::open(proc.as_fd(), &format!("{pid}/fd"), libc::O_DIRECTORY)?);
    let size = usize::try_from(table.metadata()?.size()).unwrap_or_default();
    if size > 0 {
        return Ok(size);
    }
    let mut count = 0;
    directory::numbers(table.as_fd(), &mut vec![0; ENTRIES], |_| {
        count += 1;
        ControlFlow::Continue(())
    })?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_floods_again_and_again_is_told_from_others() {
        let (mut floods, start) = (Floods::default(), Instant::now());
        for _ in 0..BORNE {
            assert!(!floods.is_too_many(Some(1), start));
        }
        assert!(!floods.is_too_many(Some(2), start) && !floods.is_too_many(None, start));
        assert!(floods.is_too_many(Some(1), start));
        assert!(!floods.is_too_many(Some(1), start + AGAIN));
        assert_eq!(floods.0.len(), 1, "what is over is forgotten");
    }
}
