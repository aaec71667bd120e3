//! Ends processes that have so many descriptors open that a look through all of them fails, which takes the
//! network from everybody.
//!
//! This is what the kernel does when memory is used up: of the agent that has the most descriptors, the
//! process with the most is ended, then the next, until looks succeed again. An agent that floods again and
//! again loses all its processes, and its supervision judges whether it is started again. An agent that is
//! alone in its sandbox takes the network from nobody but itself, and is left in peace.
//!
//! [`super::birthmark`] tells which agent a process belongs to. Processes that may belong to several have
//! brought that about themselves, and together count as one agent more. An agent is charged with what the
//! look went through ([`super::tally`]): descriptors of sleeping processes cost it nothing. Must never end a
//! process for what another agent has open: an agent with no more than its share is never touched, whatever
//! the others have.

use super::birthmark::Birthmarks;
use super::process::{Opened, pids};
use super::tally::Tally;
use crate::protocol::Event;
use crate::sys::directory::ENTRIES;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Processes counted, as many as a look goes through.
const MAX_PIDS: usize = 4096;
/// Descriptors that may be left open once processes were ended: half of what a look goes through, so that the
/// next look doesn't fail at once.
const LEFT: usize = super::tables::MAX_DESCRIPTORS / 2;
/// How long init waits for ended processes to release what they had.
const PATIENCE: Duration = Duration::from_millis(100);

/// Floods of one agent within [`AGAIN`] that cost it only its greatest processes; one more costs it all.
const BORNE: usize = 3;
/// How long a flood is remembered.
const AGAIN: Duration = Duration::from_secs(60);

/// The recent floods: each with its agent and its time.
#[derive(Debug, Default)]
pub(super) struct Floods(Vec<(Option<u32>, Instant)>);

impl Floods {
    /// Notes a flood of this agent's, and returns whether it is one too many.
    fn is_too_many(&mut self, agent: Option<u32>, now: Instant) -> bool {
        self.0.retain(|(_, at)| now.saturating_duration_since(*at) < AGAIN);
        self.0.push((agent, now));
        self.0.iter().filter(|(of, _)| *of == agent).count() > BORNE
    }
}

/// A process with the descriptors that the look went through.
struct Owner {
    pid: i32,
    process: Opened,
    whose: RangeInclusive<u32>,
    descriptors: usize,
}

impl Owner {
    /// Returns an agent's process. `None` if it is gone, or was never marked: init, and a child that has yet
    /// to execute its program.
    fn of(proc: &File, pid: i32, birthmarks: &Birthmarks, tally: &Tally) -> Option<Self> {
        let process = Opened::open(proc.as_fd(), pid).ok()?;
        let whose = birthmarks.of_process(&process)?;
        Some(Self { pid, process, whose, descriptors: tally.descriptors(pid) })
    }
}

/// After a look that failed, ends the greatest processes of the agent that had most open, where there is
/// another agent. Returns what was ended, so that the look can be made again; `None` where no agent has more
/// than its share, or agents can't be told apart.
pub(super) fn stem(
    proc: &File,
    birthmarks: &Birthmarks,
    tally: &Tally,
    floods: &mut Floods,
) -> io::Result<Option<Vec<Event>>> {
    let all = pids(proc.as_fd(), &mut vec![0; ENTRIES], MAX_PIDS)?.unwrap_or_default();
    let owner = |pid| Owner::of(proc, pid, birthmarks, tally);
    let owners: Vec<Owner> = all.into_iter().filter_map(owner).collect();
    let by_agent = by_agent(&owners, tally);
    let Some(guilty) = Guilty::among(&by_agent) else { return Ok(None) };
    let left = match floods.is_too_many(guilty.agent, Instant::now()) {
        true => None,
        // The agent keeps its share, whatever the others have.
        false => Some(LEFT.saturating_sub(guilty.others).max(guilty.share)),
    };
    let ended = end_down_to(left, owners, guilty.agent);
    let name = guilty.agent.and_then(|number| birthmarks.name(number)).unwrap_or_default().to_owned();
    let event = |(pid, descriptors)| Event::Flooded { agent: name.clone(), pid, descriptors };
    Ok(Some(ended.into_iter().map(event).collect()))
}

/// Returns how many descriptors each agent had open, including those of processes that are gone, if they had
/// many.
fn by_agent(owners: &[Owner], tally: &Tally) -> BTreeMap<Option<u32>, usize> {
    let mut sums: BTreeMap<Option<u32>, usize> =
        owners.iter().map(|owner| (agent_of(&owner.whose), 0)).collect();
    let now: BTreeMap<i32, &RangeInclusive<u32>> =
        owners.iter().map(|owner| (owner.pid, &owner.whose)).collect();
    for (pid, descriptors, then) in tally.rows() {
        if let Some(whose) = then.or_else(|| now.get(&pid).copied()) {
            *sums.entry(agent_of(whose)).or_default() += descriptors;
        }
    }
    sums
}

/// The agent whose flood it is.
#[derive(Debug, PartialEq, Eq)]
struct Guilty {
    agent: Option<u32>,
    /// Descriptors that all others have open.
    others: usize,
    share: usize,
}

impl Guilty {
    /// Returns the agent with most descriptors, if there are several agents and it has more than its share.
    fn among(by_agent: &BTreeMap<Option<u32>, usize>) -> Option<Self> {
        let share = LEFT.checked_div(by_agent.len()).filter(|_| by_agent.len() > 1)?;
        let (agent, most) = by_agent.iter().max_by_key(|(_, descriptors)| **descriptors)?;
        let others = by_agent.values().sum::<usize>().saturating_sub(*most);
        (*most > share).then_some(Self { agent: *agent, others, share })
    }
}

/// Ends processes of this agent, the greatest first, until no more than `left` of its descriptors are open;
/// all processes for `None`. Returns the pid and the descriptors of each.
fn end_down_to(left: Option<usize>, owners: Vec<Owner>, agent: Option<u32>) -> Vec<(i32, usize)> {
    let mut its: Vec<Owner> = owners.into_iter().filter(|owner| agent_of(&owner.whose) == agent).collect();
    let mut open: usize = its.iter().map(|owner| owner.descriptors).sum();
    its.sort_unstable_by_key(|owner| std::cmp::Reverse(owner.descriptors));
    let mut ended = Vec::new();
    for owner in its {
        if left.is_some_and(|left| open <= left) {
            break;
        }
        open = open.saturating_sub(owner.descriptors);
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

    #[test]
    fn nobody_is_to_blame_who_has_no_more_than_its_share() {
        let among = |all: &[(Option<u32>, usize)]| Guilty::among(&all.iter().copied().collect());
        let share = LEFT / 3;
        assert_eq!(among(&[]), None);
        assert_eq!(among(&[(Some(1), usize::MAX)]), None, "it is alone");
        assert_eq!(among(&[(Some(1), share), (Some(2), share), (None, 0)]), None);
        let guilty = Guilty { agent: Some(2), others: share + 5, share };
        assert_eq!(among(&[(Some(1), share), (Some(2), share + 1), (None, 5)]), Some(guilty));
        let guilty = Guilty { agent: None, others: share, share };
        assert_eq!(among(&[(Some(1), share), (Some(2), 0), (None, share + 1)]), Some(guilty));
    }
}
