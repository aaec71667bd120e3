//! A turn: the agents move from one cage into another, because the operator wants them under a policy that
//! says otherwise about files.
//!
//! ```text
//! the builder has begun ─▶ built and proven ─▶ the supervisor stops the agents and finishes ─▶ the old init ended ─▶ the next supervisor,
//!        └─ failed, or the sandbox is to stop:       └─ the new init dies: the next supervisor starts them            with the new cage
//!           its init is ended                           again in the old cage, if that is still there
//! ```
//! Until the new cage is proven, the old one runs on undisturbed. From then on, a next supervisor follows in
//! any case.

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
use crate::heart::supervisor::LAST_HEARD;
use crate::plan::{STOP_GRACE, slot};
use crate::state::BUILD_SOCKET;
use crate::waits::STOP_SLACK;

/// How far a turn has come.
pub enum CageMove {
    /// The builder has begun: the init has no cage yet, and may never have one.
    Begun(Child),
    /// The new cage is proven: the supervisor stops the agents for it.
    Stopping {
        /// The init of the cage that is ready.
        init: Child,
        /// The supervisor's end of the channel to it.
        channel: OwnedFd,
        /// The sealed plan.
        plan: OwnedFd,
        /// The uid of the operator who wants the turn.
        uid: u32,
        /// The time after which the heart no longer waits for the old supervisor.
        by: Instant,
        /// Whether the old init was ended.
        over: bool,
        /// Whether the old supervisor has finished: all its records are written.
        finished: bool,
    },
    /// The supervisor stops the agents for a cage that is gone.
    Returning {
        /// The uid of the operator who wanted the turn.
        uid: u32,
        /// The time after which the heart no longer waits for the old supervisor.
        by: Instant,
        /// Whether the old supervisor has finished: all its records are written.
        finished: bool,
    },
    /// The next supervisor starts.
    Starting {
        /// What to tell the builder once that supervisor is ready.
        word: ToBuilder,
    },
}

/// How long the old supervisor may take to finish once its cage is gone.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// What the operator is told when the agents were started again in the old cage.
const BACK: &str = "the other cage's init ended before the agents were there (of memory or process limits?): they were started again where \
                    they were";

impl Heart {
    /// Whether the agents are being stopped for another cage. Whatever ends then, another supervisor follows.
    pub(super) fn is_turning(&self) -> bool {
        matches!(self.turn, Some(CageMove::Stopping { .. } | CageMove::Returning { .. }))
    }

    /// Whether agents have somewhere to go when the old cage ends.
    pub(super) fn has_next_cage(&self) -> bool {
        matches!(self.turn, Some(CageMove::Stopping { .. }))
    }

    /// Whether the old cage's init was killed for the turn, or ended by itself during it.
    pub(super) fn has_left_cage(&self) -> bool {
        matches!(self.turn, Some(CageMove::Stopping { over: true, .. }))
    }

    /// The pidfd of the init that the agents are to move to, as long as the old cage is still there to go
    /// back to.
    pub(super) fn next_cage(&self) -> Option<BorrowedFd<'_>> {
        match &self.turn {
            Some(CageMove::Stopping { init, over: false, .. }) => Some(init.pidfd.as_fd()),
            _ => None,
        }
    }

    /// The time by which the ordered stop for a turn must be over.
    pub(super) fn turn_by(&self) -> Option<Instant> {
        match &self.turn {
            Some(CageMove::Stopping { by, .. } | CageMove::Returning { by, .. }) => Some(*by),
            _ => None,
        }
    }

    /// Reads what the builder has said so far.
    pub(super) fn hear_builder(&mut self, running: &Running) {
        while let Some(builder) = &self.builder {
            match builder.hear() {
                Ok(Word::Begun(init)) if self.turn.is_none() => self.turn = Some(CageMove::Begun(init)),
                Ok(Word::Begun(init)) => {
                    fault(
                        "the builder has begun another cage before the last one was settled (a fault): it is not used",
                    );
                    children::end_child(&init);
                }
                Ok(Word::Built { channel, plan, uid }) => self.built(channel, plan, uid, running),
                Ok(Word::Failed) => {
                    if matches!(self.turn, Some(CageMove::Begun(_))) {
                        self.end_unused();
                    }
                }
                Err(WireError::NotReady) => return,
                Err(error) => {
                    // A turn that is further on needs no builder any more, and its agents are already being
                    // stopped.
                    if matches!(self.turn, Some(CageMove::Begun(_))) {
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
            Some(CageMove::Begun(init)) => init,
            other => {
                self.turn = other;
                return self
                    .tell_builder(&ToBuilder::Dropped { why: "no init was begun for it (a fault)".into() });
            }
        };
        let by = Instant::now() + STOP_GRACE + STOP_SLACK;
        self.turn = Some(CageMove::Stopping { init, channel, plan, uid, by, over: false, finished: false });
        // This slot may hold the news of an earlier move, and the news of both may read the same.
        self.slots.release(&Slot::new(slot::NEWS));
        running.tell(&ToSupervisor::Turn { uid });
    }

    /// The agents are over: kills the old init while the last records are being written.
    pub(super) fn old_cage_is_over(&mut self) {
        if let Some(CageMove::Stopping { over, .. }) = &mut self.turn {
            *over = true;
            self.init.kill();
        }
    }

    /// The old cage's init ended by itself, and all agents with it: the supervisor has [`LAST_WORDS`] to
    /// finish.
    pub(super) fn old_cage_has_died(&mut self) {
        if let Some(CageMove::Stopping { over, by, .. }) = &mut self.turn {
            *over = true;
            *by = (*by).min(Instant::now() + LAST_WORDS);
        }
    }

    /// Notes that all records of the old cage's time are written.
    pub(super) fn old_supervisor_has_finished(&mut self) {
        if let Some(CageMove::Stopping { finished, .. } | CageMove::Returning { finished, .. }) =
            &mut self.turn
        {
            *finished = true;
        }
    }

    fn old_supervisor_is_through(&self) -> bool {
        matches!(
            self.turn,
            Some(CageMove::Stopping { finished: true, .. } | CageMove::Returning { finished: true, .. })
        )
    }

    /// The next cage's init died before any agent was in it: the agents go back to the old cage.
    pub(super) fn next_cage_died(&mut self) {
        if let Some(CageMove::Stopping { uid, by, over: false, finished, .. }) = self.turn {
            warn(
                "the init of another cage ended before the agents were there: they are started again where they were",
            );
            self.end_unused();
            self.turn = Some(CageMove::Returning { uid, by, finished });
        }
    }

    /// The sandbox is to stop: gives up the turn, and ends the init of a cage that isn't in use yet.
    pub(super) fn give_up_turn(&mut self) {
        if let Some(CageMove::Stopping { over: true, .. } | CageMove::Returning { finished: true, .. }) =
            self.turn
        {
            // The old supervisor does for this turn what it would do for a stop, and no agent runs any more.
            self.over = Some(Ending::with(0, None));
        }
        let is_awaited = !matches!(self.turn, None | Some(CageMove::Begun(_)));
        self.end_unused();
        if is_awaited {
            self.tell_builder(&ToBuilder::Dropped { why: "the sandbox is being stopped".into() });
        }
    }

    /// Ends the init of a cage that isn't in use.
    pub(super) fn end_unused(&mut self) {
        if let Some(CageMove::Begun(init) | CageMove::Stopping { init, .. }) = self.turn.take() {
            children::end_child(&init);
        }
    }

    /// The old supervisor has finished, died, or used up its time: prepares the start of the next one, in the
    /// new cage if there is one. Returns `Some` if the sandbox ends instead: it was told to stop, and nothing
    /// is left to be stopped.
    pub(super) fn turn_over(&mut self, running: Running) -> Option<Ending> {
        // It has finished, or used up its time. It must end before its channel is closed: it would take the
        // closed channel for our death, and remove what is still needed in the state directory.
        let how = children::end_child(&running.child);
        let mut finished = self.old_supervisor_is_through();
        // Reads what it sent before it ended: it may have finished after all.
        while self.hear(&running, LAST_HEARD).is_some() {
            finished |= self.old_supervisor_is_through();
        }
        drop(running.wire);
        if !finished {
            self.supervisor_died(how);
        }
        if self.stop_by.is_some() {
            // The turn was given up when the sandbox was told to stop: the next supervisor stops what still
            // runs.
            return self.over.take();
        }
        let moved = |uid| Some(Moved { wanted_by: (!finished).then_some(uid) });
        match self.turn.take() {
            Some(CageMove::Stopping { init, channel, plan, uid, .. }) => {
                self.news.moved = moved(uid);
                self.enter(init, channel, plan);
            }
            Some(CageMove::Returning { uid, .. }) => {
                self.news.moved = moved(uid);
                self.beginning = Beginning::SameCage;
                self.turn = Some(CageMove::Starting { word: ToBuilder::Dropped { why: BACK.into() } });
            }
            other => self.turn = other,
        }
        None
    }

    /// Makes the new cage the sandbox's cage, for the next supervisor to start in.
    fn enter(&mut self, init: Child, channel: OwnedFd, plan: OwnedFd) {
        children::end_child(&self.init);
        // The limits are the sandbox's, and the new init has been under them from its first step.
        let limits = self.init.cgroup.take();
        self.init = Child { cgroup: limits, ..init };
        // The policy that the old supervisor kept doesn't hold for the new cage, and its init's process
        // numbers mean nothing to another init.
        [slot::POLICY, slot::STOPPED].into_iter().for_each(|name| self.slots.release(&Slot::new(name)));
        // Neither can fail for want of room: both replace a kept descriptor.
        self.slots.keep(Slot::new(slot::PLAN), plan);
        self.slots.keep(Slot::new(slot::INIT), channel);
        self.beginning = Beginning::Cage;
        self.turn = Some(CageMove::Starting { word: ToBuilder::Stands });
    }

    /// A supervisor is ready: tells the builder how its turn ended, if there was one.
    pub(super) fn has_turned(&mut self) {
        if let Some(CageMove::Starting { word }) = &self.turn {
            self.tell_builder(word);
            self.turn = None;
        }
    }

    fn tell_builder(&self, word: &ToBuilder) {
        if let Some(builder) = &self.builder {
            builder.tell(word);
        }
    }

    /// Ends the builder, and the init of the cage that it was building.
    pub(super) fn end_builder(&mut self) {
        let Some(builder) = self.builder.take() else { return };
        children::end_child(&builder.child);
        // Reads its last messages: an init that it has only just reported would be left running.
        while let Ok(word) = builder.hear() {
            if let Word::Begun(init) = word {
                self.turn = Some(CageMove::Begun(init));
            }
        }
        self.end_unused();
    }
}

impl Heart {
    /// Reaps ended children that nothing here knows: an init that the builder made, and that ended before we
    /// were told of it.
    pub(super) fn reap_strangers(&self, running: &Running) {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::__WALL;
        while let Ok(ended) = waitid(Id::All, flags) {
            let Some(pid) = ended.pid() else { return };
            let builder = self.builder.as_ref().map(|builder| &builder.child);
            let next = match &self.turn {
                Some(CageMove::Begun(init) | CageMove::Stopping { init, .. }) => Some(init),
                _ => None,
            };
            let ours = [Some(&running.child), Some(&self.init), builder, next];
            if ours.into_iter().flatten().any(|child| child.pid == pid.as_raw()) {
                // Its pidfd reports this end, and the end is handled there.
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

/// Whether the time `by` has come. False without one.
pub fn is_past(by: Option<Instant>) -> bool {
    by.is_some_and(|by| by.saturating_duration_since(Instant::now()) == Duration::ZERO)
}
