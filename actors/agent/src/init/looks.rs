//! Answers the proxy's questions: who holds a socket, and who connected it. One walk through the processes
//! answers all questions of a kind.
//!
//! The answers themselves come from [`holders`] and [`super::connects`]. This module refuses looks to an
//! agent whose programs make them slow, and makes sure that processes about to execute their program are
//! known first.

use super::allowance;
use super::connects::Origin;
use super::flood;
use super::holders::{self, Cost, Found, Lens, Looked, Wanted};
use super::image::Images;
use super::serve::Loop;
use super::starting::Awaited;
use super::tally::Tally;
use crate::plan::Control;
use crate::protocol::{Answer, Connector, Holder, Refusal, RequestId};
use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, Instant};

/// How often a look that failed for a flood of descriptors is made again.
const RELIEFS: usize = 3;

/// A [`Request::Holders`](crate::protocol::Request::Holders).
pub(super) struct Look {
    pub(super) id: RequestId,
    pub(super) inode: u64,
    pub(super) mappings: bool,
    pub(super) connector: bool,
}

impl Loop<'_> {
    /// Whether the agent that connected this socket may have its programs looked through.
    fn may_look(&self, inode: u64) -> bool {
        self.allowances.has_left(self.cage.connects.origin(inode), Instant::now())
    }

    /// Answers all these questions for the holders of a socket. All that want the same looked at share one
    /// walk through the processes: it is most of the work, and begins after each was asked.
    pub(super) fn look(&mut self, looks: &[Look]) {
        if looks.is_empty() {
            return;
        }
        // After this, a process that made one of these sockets is known to have executed its program, and is
        // looked at.
        self.settle();
        if self.cage.standby.is_some() {
            // The first process to be started takes the standby: while it is there, nobody has run yet, so
            // nobody holds anything.
            for look in looks {
                let connector = look.connector.then_some(Connector::Unknown);
                self.channel
                    .reply(look.id, Ok((Answer::Holders { holders: Vec::new(), connector }, Vec::new())));
            }
            return;
        }
        let (looks, indebted): (Vec<&Look>, Vec<&Look>) =
            looks.iter().partition(|look| !look.mappings || self.may_look(look.inode));
        for look in indebted {
            self.channel.reply(look.id, Err(Refusal::Indebted));
        }
        for mappings in [true, false] {
            let alike: Vec<&Look> = looks.iter().copied().filter(|look| look.mappings == mappings).collect();
            if !alike.is_empty() {
                self.look_alike(&alike, mappings);
            }
        }
    }

    /// Answers questions that all want the same looked at by one walk.
    fn look_alike(&mut self, looks: &[&Look], mappings: bool) {
        let (looked, cost) = self.walk(looks, mappings);
        let mapped = looked.iter().map(|looked| looked.took).sum();
        self.charge_tables(looks, &cost.tally, cost.took.saturating_sub(mapped));
        // All sockets were looked at by now, so it is late enough for all to read once what each maker
        // executes.
        let mut images = Images::default();
        for (look, Looked { result, took }) in looks.iter().zip(looked) {
            self.allowances.charge(self.cage.connects.origin(look.inode), took, Instant::now());
            let reply = result.map(|Found { holders, executables }| {
                let connector = look.connector.then(|| self.connector(look.inode, &holders, &mut images));
                (Answer::Holders { holders, connector }, executables)
            });
            self.channel.reply(look.id, reply);
        }
    }

    /// Walks through the processes. On a flood, ends those that flood and walks again, a few times at most.
    fn walk(&mut self, looks: &[&Look], mappings: bool) -> (Vec<Looked>, Cost) {
        let wanted: Vec<Wanted> = looks.iter().map(|look| self.wanted(look.inode)).collect();
        let starting: Vec<i32> = self.starting.iter().map(Awaited::pid).collect();
        let lens = Lens {
            mappings,
            writable: &self.cage.writable,
            threads: !self.cage.confinement.filters(),
            starting: &starting,
            waits: &self.waits,
            birthmarks: &self.birthmarks,
        };
        let mut walked = holders::holders(&wanted, lens, &mut self.asleep);
        for _ in 0..RELIEFS {
            if !walked.0.iter().any(is_flooded) {
                break;
            }
            let stemmed = File::open("/proc")
                .and_then(|proc| flood::stem(&proc, &self.birthmarks, &walked.1.tally, &mut self.floods));
            let Ok(Some(ended)) = stemmed else { break };
            self.news.extend(ended);
            walked = holders::holders(&wanted, lens, &mut self.asleep);
        }
        walked
    }

    /// Charges each agent that asked for the part of the look that was spent on its own descriptor tables, if
    /// other agents were kept waiting. Not for what others have open, nor for looks that others asked for.
    /// Which table belongs to whom is found out only after a long look.
    fn charge_tables(&mut self, looks: &[&Look], tally: &Tally, took: Duration) {
        let connects = &self.cage.connects;
        if took <= allowance::TABLES || !connects.are_several() {
            return;
        }
        let Ok(proc) = File::open("/proc") else { return };
        let number = |look: &&Look| {
            let agent = self.birthmarks.number(connects.agent(look.inode)?)?;
            Some((agent, connects.origin(look.inode)))
        };
        let asked: BTreeMap<u32, Origin> = looks.iter().filter_map(number).collect();
        for (agent, origin) in asked {
            let (part, all) = tally.part(agent, (&proc, &self.birthmarks));
            let its = took.saturating_mul(part).checked_div(all).unwrap_or_default();
            self.allowances.charge_tables(origin, its, Instant::now());
        }
    }

    fn wanted(&self, inode: u64) -> Wanted {
        let connects = &self.cage.connects;
        let agent = connects.agent(inode).and_then(|agent| self.birthmarks.number(agent));
        Wanted { inode, likely: connects.place(inode), agent }
    }

    fn connector(&self, inode: u64, holders: &[Holder], now: &mut Images) -> Connector {
        let missing = &self.cage.report.missing;
        let unproven = missing.iter().any(|missing| missing.control == Control::ConnectNotify);
        if unproven || !self.cage.confinement.asks() {
            return Connector::Unwatched;
        }
        self.cage.connects.connector(inode, holders, now)
    }
}

fn is_flooded(looked: &Looked) -> bool {
    matches!(looked.result, Err(Refusal::Flooded { .. }))
}
