//! A turn: the agents move from one cage into another, because the operator wants them under a policy that
//! says otherwise about files.
//!
//! ```text
//! the builder has begun ─▶ built and proven ─▶ the supervisor stops the agents and finishes ─▶ the old init ended ─▶ the next supervisor,
//!        └─ failed, or the sandbox is to stop:       └─ the new init dies: the next supervisor starts them            with the new cage
//!           its init is ended                           again in the old cage, if that is still there
//! ```
//! Until the new cage is proven the old one goes on as if nothing were; from then on the way leads to a next
//! supervisor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agent::launch::Child;
use agent::protocol::{Beginning, Moved, Slot, ToBuilder, ToSupervisor};
use agent::wire::WireError;
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use super::{Heart, Running, ending};
use crate::builder::{Builder, Word};
use crate::children;
use crate::console::{fault, warn};
use crate::heart::ending::Ending;
use crate::plan::{STOP_GRACE, slot};
use crate::state::BUILD_SOCKET;
use crate::waits::STOP_SLACK;

/// How far it is.
pub enum Turn {
    /// An init that has no cage yet, and may never have one.
    Begun(Child),
    /// The supervisor stops the agents for it.
    Under {
        /// The init of the cage that is ready.
        init: Child,
        /// The supervisor's end of the channel to it.
        channel: OwnedFd,
        /// The sealed plan.
        plan: OwnedFd,
        /// Who wants it.
        uid: u32,
        /// When the heart goes on by itself.
        by: Instant,
        /// Whether the old init was ended.
        over: bool,
        /// Whether the old supervisor has told everything that it had to.
        finished: bool,
    },
    /// The supervisor stops the agents for a cage that is gone.
    Back {
        /// Who wanted it.
        uid: u32,
        /// When the heart goes on by itself.
        by: Instant,
        /// Whether the old supervisor has told everything that it had to.
        finished: bool,
    },
    /// The next supervisor starts.
    Starting {
        /// What the builder is told once it is ready.
        word: ToBuilder,
    },
}

/// How long the old supervisor may take to finish once its cage is gone.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// What the operator is told of agents that are back.
const BACK: &str = "the other cage's init ended before the agents were there (of memory or process limits?): they were started again where \
                    they were";

impl Heart {
    /// The agents are stopped for another cage: whatever ends now, another supervisor follows.
    pub(super) fn is_turning(&self) -> bool {
        matches!(self.turn, Some(Turn::Under { .. } | Turn::Back { .. }))
    }

    /// Whether agents have somewhere to go when the old cage ends.
    pub(super) fn has_next_cage(&self) -> bool {
        matches!(self.turn, Some(Turn::Under { .. }))
    }

    /// Its init was ended on purpose.
    pub(super) fn has_left_cage(&self) -> bool {
        matches!(self.turn, Some(Turn::Under { over: true, .. }))
    }

    /// The init of the cage that the agents are to move to, as long as they can stay where they are.
    pub(super) fn next_cage(&self) -> Option<BorrowedFd<'_>> {
        match &self.turn {
            Some(Turn::Under { init, over: false, .. }) => Some(init.pidfd.as_fd()),
            _ => None,
        }
    }

    /// When an ordered stop for a turn takes too long.
    pub(super) fn turn_by(&self) -> Option<Instant> {
        match &self.turn {
            Some(Turn::Under { by, .. } | Turn::Back { by, .. }) => Some(*by),
            _ => None,
        }
    }

    /// Reads what the builder has said so far.
    pub(super) fn hear_builder(&mut self, running: &Running) {
        while let Some(builder) = &self.builder {
            match builder.hear() {
                Ok(Word::Begun(init)) if self.turn.is_none() => self.turn = Some(Turn::Begun(init)),
                Ok(Word::Begun(init)) => {
                    fault(
                        "the builder has begun another cage before the last one was settled (a fault): it is not used",
                    );
                    children::end_child(&init);
                }
                Ok(Word::Built { channel, plan, uid }) => self.built(channel, plan, uid, running),
                Ok(Word::Failed) => {
                    if matches!(self.turn, Some(Turn::Begun(_))) {
                        self.end_unused();
                    }
                }
                Err(WireError::NotReady) => return,
                Err(error) => {
                    // One that is under way needs no builder any more, and its agents are being stopped
                    // already.
                    if matches!(self.turn, Some(Turn::Begun(_))) {
                        self.end_unused();
                    }
                    if let Some(Builder { child, .. }) = self.builder.take() {
                        children::end_child(&child);
                        ending::remove(&self.slots, BUILD_SOCKET);
                    }
                    warn(&format!(
                        "the builder is gone ({error}): to change a static section of the policy, the sandbox must now be stopped and started"
                    ));
                }
            }
        }
    }

    fn built(&mut self, channel: OwnedFd, plan: OwnedFd, uid: u32, running: &Running) {
        if self.stop_by.is_some() || self.over.is_some() {
            self.end_unused();
            return self.tell_builder(&ToBuilder::Dropped { why: "the sandbox is being stopped".into() });
        }
        let init = match self.turn.take() {
            Some(Turn::Begun(init)) => init,
            other => {
                self.turn = other;
                return self
                    .tell_builder(&ToBuilder::Dropped { why: "no init was begun for it (a fault)".into() });
            }
        };
        let by = Instant::now() + STOP_GRACE + STOP_SLACK;
        self.turn = Some(Turn::Under { init, channel, plan, uid, by, over: false, finished: false });
        // Of a move before this one: what is told of both may read the same.
        self.slots.release(&Slot::new(slot::NEWS));
        running.tell(&ToSupervisor::Turn { uid });
    }

    /// The agents are over: their init can go, while the last records are written.
    pub(super) fn old_cage_is_over(&mut self) {
        if let Some(Turn::Under { over, .. }) = &mut self.turn {
            *over = true;
            self.init.kill();
        }
    }

    /// Its init ended by itself, and all agents with it: the supervisor has little time left to say so.
    pub(super) fn old_cage_has_died(&mut self) {
        if let Some(Turn::Under { over, by, .. }) = &mut self.turn {
            *over = true;
            *by = (*by).min(Instant::now() + LAST_WORDS);
        }
    }

    /// All records of the old cage's time are written.
    pub(super) fn old_supervisor_has_finished(&mut self) {
        if let Some(Turn::Under { finished, .. } | Turn::Back { finished, .. }) = &mut self.turn {
            *finished = true;
        }
    }

    fn old_supervisor_is_through(&self) -> bool {
        matches!(self.turn, Some(Turn::Under { finished: true, .. } | Turn::Back { finished: true, .. }))
    }

    /// The init of the next cage is gone before anybody was in it: agents go back to the old one.
    pub(super) fn next_cage_died(&mut self) {
        if let Some(Turn::Under { uid, by, over: false, finished, .. }) = self.turn {
            warn(
                "the init of another cage ended before the agents were there: they are started again where they were",
            );
            self.end_unused();
            self.turn = Some(Turn::Back { uid, by, finished });
        }
    }

    /// The sandbox is to stop: what is not in use yet never will be.
    pub(super) fn give_up_turn(&mut self) {
        if let Some(Turn::Under { over: true, .. } | Turn::Back { finished: true, .. }) = self.turn {
            // Its supervisor has no more to do than for a stop, and no agent runs any more.
            self.over = Some(Ending::with(0, None));
        }
        let is_awaited = !matches!(self.turn, None | Some(Turn::Begun(_)));
        self.end_unused();
        if is_awaited {
            self.tell_builder(&ToBuilder::Dropped { why: "the sandbox is being stopped".into() });
        }
    }

    /// Ends the init of a cage that isn't in use.
    pub(super) fn end_unused(&mut self) {
        if let Some(Turn::Begun(init) | Turn::Under { init, .. }) = self.turn.take() {
            children::end_child(&init);
        }
    }

    /// The old supervisor has finished, is gone, or had its time: the next one starts, in the new cage where
    /// there is one. Unless the sandbox ends: it was told to stop, and nothing is left to be stopped.
    pub(super) fn turn_over(&mut self, running: Running) -> Option<Ending> {
        // Finished, it has nothing left to do; else it had its time. Before its line is closed: it would take
        // that for our death, and remove what is there still.
        let how = children::end_child(&running.child);
        let mut finished = self.old_supervisor_is_through();
        // Whoever was told that the sandbox stops was told so after this.
        while self.hear(&running, usize::MAX).is_some() {
            finished |= self.old_supervisor_is_through();
        }
        drop(running.wire);
        if !finished {
            self.supervisor_died(how);
        }
        if self.stop_by.is_some() {
            // With it the turn was given up: the next supervisor stops what runs still.
            return self.over.take();
        }
        let moved = |uid| Some(Moved { wanted_by: (!finished).then_some(uid) });
        match self.turn.take() {
            Some(Turn::Under { init, channel, plan, uid, .. }) => {
                self.news.moved = moved(uid);
                self.enter(init, channel, plan);
            }
            Some(Turn::Back { uid, .. }) => {
                self.news.moved = moved(uid);
                self.beginning = Beginning::SameCage;
                self.turn = Some(Turn::Starting { word: ToBuilder::Dropped { why: BACK.into() } });
            }
            other => self.turn = other,
        }
        None
    }

    /// The next supervisor starts in the new cage.
    fn enter(&mut self, init: Child, channel: OwnedFd, plan: OwnedFd) {
        children::end_child(&self.init);
        // The limits are the sandbox's, and the new init has been under them from its first step.
        let limits = self.init.cgroup.take();
        self.init = Child { cgroup: limits, ..init };
        // What the old supervisor kept of its policy is no word on the new one's, and its init's numbers are
        // no other's.
        [slot::POLICY, slot::STOPPED].into_iter().for_each(|name| self.slots.release(&Slot::new(name)));
        // There is room: both replace what was there.
        self.slots.keep(Slot::new(slot::PLAN), plan);
        self.slots.keep(Slot::new(slot::INIT), channel);
        self.beginning = Beginning::Cage;
        self.turn = Some(Turn::Starting { word: ToBuilder::Stands });
    }

    /// A supervisor is ready.
    pub(super) fn has_turned(&mut self) {
        if let Some(Turn::Starting { word }) = &self.turn {
            self.tell_builder(word);
            self.turn = None;
        }
    }

    fn tell_builder(&self, word: &ToBuilder) {
        if let Some(builder) = &self.builder {
            builder.tell(word);
        }
    }

    /// Ends the builder, and what it was building.
    pub(super) fn end_builder(&mut self) {
        let Some(builder) = self.builder.take() else { return };
        children::end_child(&builder.child);
        // What it said last: an init that nobody knows of would be left.
        while let Ok(word) = builder.hear() {
            if let Word::Begun(init) = word {
                self.turn = Some(Turn::Begun(init));
            }
        }
        self.end_unused();
    }
}

impl Heart {
    /// Collects what ended and is nobody's here: an init that the builder made, and that was gone before we
    /// were told of it.
    pub(super) fn reap_strangers(&self, running: &Running) {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::__WALL;
        while let Ok(ended) = waitid(Id::All, flags) {
            let Some(pid) = ended.pid() else { return };
            let builder = self.builder.as_ref().map(|builder| &builder.child);
            let next = match &self.turn {
                Some(Turn::Begun(init) | Turn::Under { init, .. }) => Some(init),
                _ => None,
            };
            let ours = [Some(&running.child), Some(&self.init), builder, next];
            if ours.into_iter().flatten().any(|child| child.pid == pid.as_raw()) {
                // Seen by its pidfd, which leads to what its end means.
                return;
            }
            let _collected =
                waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::__WALL);
        }
    }
}

/// The earlier of two times.
pub fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

/// Whether a time is there.
pub fn is_past(by: Option<Instant>) -> bool {
    by.is_some_and(|by| by.saturating_duration_since(Instant::now()) == Duration::ZERO)
}
