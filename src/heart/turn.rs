//! A turn: the agents move from one cage into another, because the operator wants them under a policy that says otherwise
//! about files.
//!
//! ```text
//! the builder has begun ─▶ built and proven ─▶ the supervisor stops the agents and finishes ─▶ the old init ended ─▶ the next supervisor,
//!        └─ failed, or the sandbox is to stop: its init is ended, the agents stay where they are                     with the new cage
//! ```
//! Until the new cage is proven the old one goes on as if nothing were; from then on the way leads forward only.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use agent::launch::Child;
use agent::protocol::{Beginning, Slot, ToBuilder, ToSupervisor};
use agent::wire::WireError;

use super::{Heart, Running, STOP_SLACK, ending};
use crate::builder::{Builder, Word};
use crate::cli::out::say;
use crate::heart::ending::Ending;
use crate::plan::{STOP_GRACE, slot};
use crate::state::BUILD_SOCKET;

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
        /// When the heart goes on by itself.
        by: Instant,
        /// Whether the old init was ended.
        over: bool,
    },
    /// The next supervisor starts.
    Starting,
}

impl Heart {
    /// The agents are stopped for another cage: whatever ends now, that one follows.
    pub(super) fn is_turning(&self) -> bool {
        matches!(self.turn, Some(Turn::Under { .. }))
    }

    /// Its init was ended on purpose.
    pub(super) fn has_left_cage(&self) -> bool {
        matches!(self.turn, Some(Turn::Under { over: true, .. }))
    }

    /// When an ordered stop for a turn takes too long.
    pub(super) fn turn_by(&self) -> Option<Instant> {
        match &self.turn {
            Some(Turn::Under { by, .. }) => Some(*by),
            _ => None,
        }
    }

    /// Reads what the builder has said so far.
    pub(super) fn hear_builder(&mut self, running: &Running) {
        while let Some(builder) = &self.builder {
            match builder.hear() {
                Ok(Word::Begun(init)) => self.turn = Some(Turn::Begun(init)),
                Ok(Word::Built { channel, plan, uid }) => self.built(channel, plan, uid, running),
                Ok(Word::Failed) => self.end_unused(),
                Err(WireError::NotReady) => return,
                Err(error) => {
                    // One that is under way needs no builder any more, and its agents are being stopped already.
                    if matches!(self.turn, Some(Turn::Begun(_))) {
                        self.end_unused();
                    }
                    if let Some(Builder { child, .. }) = self.builder.take() {
                        child.kill();
                        ending::reap(&child);
                        ending::remove(&self.slots, BUILD_SOCKET);
                    }
                    say(&format!(
                        "the builder is gone ({error}): what needs another cage needs another start now"
                    ));
                }
            }
        }
    }

    fn built(&mut self, channel: OwnedFd, plan: OwnedFd, uid: u32, running: &Running) {
        if self.stopping || self.stop_by.is_some() || self.over.is_some() {
            self.end_unused();
            return self.tell_builder(&ToBuilder::Dropped { why: "the sandbox is being stopped".into() });
        }
        let Some(Turn::Begun(init)) = self.turn.take() else {
            return self
                .tell_builder(&ToBuilder::Dropped { why: "no init was begun for it (a fault)".into() });
        };
        let by = Instant::now() + STOP_GRACE + STOP_SLACK;
        self.turn = Some(Turn::Under { init, channel, plan, by, over: false });
        running.tell(&ToSupervisor::Turn { uid });
    }

    /// The agents are over: their init can go, while the last records are written.
    pub(super) fn old_cage_is_over(&mut self) {
        if let Some(Turn::Under { over, .. }) = &mut self.turn {
            *over = true;
            self.init.kill();
        }
    }

    /// The sandbox is to stop: what is not in use yet never will be.
    pub(super) fn give_up_turn(&mut self) {
        if let Some(Turn::Under { over: true, .. }) = self.turn {
            // Its supervisor has no more to do than for a stop, and nothing runs any more.
            self.over = Some(Ending::with(0, None));
        }
        if self.turn.is_some() {
            self.end_unused();
            self.tell_builder(&ToBuilder::Dropped { why: "the sandbox is being stopped".into() });
        }
    }

    /// Ends the init of a cage that isn't in use.
    pub(super) fn end_unused(&mut self) {
        if let Some(Turn::Begun(init) | Turn::Under { init, .. }) = self.turn.take() {
            init.kill();
            ending::reap(&init);
        }
    }

    /// The old supervisor has finished, is gone, or had its time: the next one starts in the new cage.
    pub(super) fn turn_over(&mut self, running: Running) {
        let Some(Turn::Under { init, channel, plan, over, .. }) = self.turn.take() else { return };
        self.init.kill();
        let Running { child, wire } = running;
        drop(wire);
        if over {
            // Output is out and records are on disk: winding down would only take time.
            child.kill();
        }
        ending::end_supervisor(&child);
        ending::reap(&self.init);
        // The limits are the sandbox's, and the new init has been under them from its first step.
        let limits = self.init.cgroup.take();
        self.init = Child { cgroup: limits, ..init };
        // What the old supervisor kept of its policy is no word on the new one's.
        self.slots.release(&Slot::new(slot::POLICY));
        self.slots.keep(Slot::new(slot::PLAN), plan);
        self.slots.keep(Slot::new(slot::INIT), channel);
        self.beginning = Beginning::Cage;
        self.turn = Some(Turn::Starting);
    }

    /// A supervisor is ready.
    pub(super) fn has_turned(&mut self) {
        if matches!(self.turn, Some(Turn::Starting)) {
            self.turn = None;
            self.tell_builder(&ToBuilder::Stands);
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
        builder.child.kill();
        ending::reap(&builder.child);
        // What it said last: an init that nobody knows of would be left.
        while let Ok(word) = builder.hear() {
            if let Word::Begun(init) = word {
                self.turn = Some(Turn::Begun(init));
            }
        }
        self.end_unused();
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
