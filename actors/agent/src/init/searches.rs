//! Searches for processes that ended agents have left behind ([`super::strays`]), and the agents whose start
//! is held until a search has found none.
//!
//! Each search has its turn when the one before has gone through all processes once, so that an agent whose
//! processes can't be ended keeps no other waiting. Must never forget that a search was not made or has found
//! survivors, even where its asker is gone since.

use super::birthmark::Birthmarks;
use super::patience::Waits;
use super::strays::{Beside, Progress, Search};
use super::table::Table;
use crate::protocol::{Refusal, RequestId};
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io;

/// Searches that may wait.
const MAX_SEARCHES: usize = 64;
/// Agents whose start may be held at a time; beyond it every agent's start is.
const MAX_HELD: usize = 4096;

/// Searches that wait for their turn, and agents that are held; see the module.
#[derive(Default)]
pub(super) struct Searches {
    queue: VecDeque<Search>,
    /// Agents for which a search has found survivors, or was not made.
    held: BTreeSet<String>,
}

impl Searches {
    /// Queues a search. Returns the request to refuse at once, if any: this one, where too many wait; or an
    /// earlier one for the same agent, whose asker is gone and whose search now answers this one.
    pub(super) fn begin(
        &mut self,
        id: RequestId,
        agent: String,
        birthmarks: &mut Birthmarks,
    ) -> Option<(RequestId, Refusal)> {
        if let Some(search) = self.queue.iter_mut().find(|search| search.agent == agent) {
            return Some((std::mem::replace(&mut search.id, id), Refusal::Survivors));
        }
        if self.queue.len() >= MAX_SEARCHES {
            self.hold(agent);
            return Some((id, Refusal::TooMany("searches for strays".into())));
        }
        self.queue.push_back(Search::new(id, agent, birthmarks));
        None
    }

    /// Goes on with the first search, for as long as it may keep others waiting. Returns the request to
    /// answer and the result, if the search is over. `starting` are processes that are not in the table yet.
    pub(super) fn go_on(
        &mut self,
        table: &Table,
        starting: impl Iterator<Item = i32>,
        birthmarks: &Birthmarks,
        waits: &Waits,
    ) -> Option<(RequestId, io::Result<Progress>)> {
        let mut search = self.queue.pop_front()?;
        let running = table.running().into_iter().chain(starting).collect();
        let beside = Beside { running, is_its: table.runs(&search.agent) };
        let progress = File::open("/proc").and_then(|proc| search.go_on(&proc, &beside, birthmarks, waits));
        match progress {
            Ok(Progress::UnderWay) if search.is_in_a_pass() => self.queue.push_front(search),
            Ok(Progress::UnderWay) => self.queue.push_back(search),
            over => {
                match over {
                    Ok(Progress::Clean) => drop(self.held.remove(&search.agent)),
                    _ => self.hold(search.agent),
                }
                return Some((search.id, over));
            }
        }
        None
    }

    fn hold(&mut self, agent: String) {
        if self.held.len() < MAX_HELD {
            self.held.insert(agent);
        }
    }

    /// Whether there may be processes of an earlier start of this agent.
    pub(super) fn hold_back(&self, agent: &str) -> bool {
        self.held.contains(agent)
            || self.held.len() >= MAX_HELD
            || self.queue.iter().any(|search| search.agent == agent)
    }

    /// See [`Search::keeps_the_dead`].
    pub(super) fn keep_the_dead(&self) -> bool {
        self.queue.iter().any(Search::keeps_the_dead)
    }

    /// See [`Search::note_reaped`].
    pub(super) fn note_reaped(&mut self, pid: i32) {
        self.queue.iter_mut().for_each(|search| search.note_reaped(pid));
    }

    /// Returns how long init may sleep before a search goes on, in milliseconds; `None` where there is none.
    pub(super) fn sleep(&self) -> Option<i32> {
        self.queue.iter().map(Search::sleep).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_survivors_is_held_until_a_search_finds_none() {
        let (mut searches, mut birthmarks) = (Searches::default(), Birthmarks::new());
        if !birthmarks.are_told() {
            return eprintln!("SKIPPED: this process's limits are too low");
        }
        searches.hold("a".into());
        assert!(searches.hold_back("a") && !searches.hold_back("b"));
        // The agent has never run: a search for it is over at once.
        assert!(searches.begin(RequestId(1), "a".into(), &mut birthmarks).is_none());
        let over = searches.go_on(&Table::default(), std::iter::empty(), &birthmarks, &Waits::default());
        assert!(matches!(over, Some((RequestId(1), Ok(Progress::Clean)))));
        assert!(!searches.hold_back("a"));
    }

    #[test]
    fn who_waits_for_a_search_is_held_and_nobody_waits_twice() {
        let (mut searches, mut birthmarks) = (Searches::default(), Birthmarks::new());
        for n in 0..MAX_SEARCHES {
            assert!(searches.begin(RequestId(n as u64), n.to_string(), &mut birthmarks).is_none());
        }
        assert!(searches.hold_back("3"));
        let again = searches.begin(RequestId(100), "3".into(), &mut birthmarks);
        assert_eq!(again, Some((RequestId(3), Refusal::Survivors)), "the one before is told");
        let refused = searches.begin(RequestId(101), "one more".into(), &mut birthmarks);
        assert!(matches!(refused, Some((RequestId(101), Refusal::TooMany(_)))));
        assert!(searches.hold_back("one more"), "whose search was not made is held");
        assert!(!searches.hold_back("another"));
    }

    #[test]
    fn beyond_its_bound_everybody_is_held() {
        let mut searches = Searches::default();
        (0..=MAX_HELD).for_each(|n| searches.hold(n.to_string()));
        assert_eq!(searches.held.len(), MAX_HELD);
        assert!(searches.hold_back("another"));
    }
}
