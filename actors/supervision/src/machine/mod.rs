//! The state machine that makes a supervisor's decisions, without clock, tasks, or actors.
//!
//! Inputs are facts (a child is ready, is gone, a wait is over) and commands; outputs are [`Effect`]s for the
//! shell to carry out, in order. Every input is handled at once and completely, so no child can hold the
//! machine up, and a stop is obeyed in every state.
//!
//! ```text
//!              turn comes                  ready
//!   Waiting ───────────────▶ Starting ───────────────▶ Up
//!    ▲ ▲                        │                      │ │
//!    │ │ hold over              │ gone                 │ │ a stop is due: the supervisor stops, the
//!    │ │                        ▼                      │ │ strategy wants it, or somebody does
//!    │ └────── Waiting ◀── within the limit? ◀── gone ─┘ ▼
//!    │       (held back)        │ no                  Stopping
//!    │                          ▼                        │ gone
//!    └───────────────── GaveUp, or escalate              ▼
//!      by hand          Finished (transient, normal)  Waiting, or out of the table
//! ```

mod settle;
mod slot;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::slot::{Hold, Waiter, Wish};
pub(crate) use self::slot::{Key, Phase, Policy, Slot};
use crate::backoff::STEADY;
use crate::failure::Exit;
use crate::intensity::Window;
use crate::keeper::Gone;
use crate::report::Event;
use crate::spec::StopOrder;
use crate::tree::millis;
use crate::{Beyond, Chance, ControlError, Failure, FirstStart, Intensity, Restart, Strategy};

/// Identifies a caller that waits for an answer.
pub(crate) type Token = u64;

/// What the shell has to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    /// Start an incarnation of a child.
    Start { key: Key, incarnation: u64 },
    /// Ask a child to stop, within its deadline.
    Stop { key: Key },
    /// Kill a child.
    Kill { key: Key },
    /// Call [`Machine::hold_over`] after the wait. Replaces an earlier wait of the same child.
    Hold { key: Key, turn: u64, wait: Duration },
    /// Drop what is kept of a child that left the table.
    Forget { key: Key },
    /// A child's published status changed.
    Changed { key: Key },
    /// Tell the listeners; no key means the supervisor itself.
    Report { key: Option<Key>, event: Event },
    /// Answer a caller.
    Reply { token: Token, answer: Result<(), ControlError> },
    /// All children have been up.
    Started,
    /// Nothing is left running.
    Done(End),
}

/// Why a supervisor ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    /// It was asked to stop.
    Stopped,
    /// A child failed beyond its limit.
    Escalated { child: String, failure: Failure },
    /// A child did not come up the first time.
    StartFailed { child: String, failure: Failure },
}

#[derive(Clone, Debug, PartialEq)]
enum Mode {
    /// Children come up for the first time, one after the other.
    Starting,
    Running,
    Stopping(End),
    Done,
}

/// The state of one supervisor.
pub(crate) struct Machine {
    strategy: Strategy,
    stop_order: StopOrder,
    mode: Mode,
    slots: Vec<Slot>,
    window: Option<Window>,
    chance: Chance,
    now: Instant,
    effects: Vec<Effect>,
}

impl Machine {
    pub(crate) fn new(
        strategy: Strategy,
        stop_order: StopOrder,
        intensity: Option<Intensity>,
        chance: Chance,
        now: Instant,
    ) -> Self {
        Self {
            strategy,
            stop_order,
            mode: Mode::Starting,
            slots: Vec::new(),
            window: intensity.map(Window::new),
            chance,
            now,
            effects: Vec::new(),
        }
    }

    /// Sets the current time. To be called before each input.
    pub(crate) fn at(&mut self, now: Instant) {
        self.now = now;
    }

    /// Takes the effects that have accumulated since the last call.
    pub(crate) fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub(crate) fn slot(&self, key: Key) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.key == key)
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Slot> {
        self.slots.iter().find(|slot| &*slot.name == name)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.mode == Mode::Running
    }

    pub(crate) fn is_stopping(&self) -> bool {
        matches!(self.mode, Mode::Stopping(_) | Mode::Done)
    }

    /// Puts a child of the first start into the table. To be called before [`Machine::begin`].
    pub(crate) fn declare(&mut self, key: Key, name: Arc<str>, policy: Policy) {
        self.slots.push(Slot::new(key, name, policy));
    }

    /// Starts the declared children.
    pub(crate) fn begin(&mut self) {
        self.settle(None);
    }

    /// Adds a child to a running supervisor. The name must be free.
    pub(crate) fn add(&mut self, key: Key, name: Arc<str>, policy: Policy, token: Token) {
        let mut slot = Slot::new(key, name, policy);
        slot.waiters.push(Waiter { token, wish: Wish::Added });
        self.slots.push(slot);
        self.report(Some(key), Event::Added);
        self.settle(Some(key));
    }

    /// Stops a child and takes it out of the table. Its siblings are not touched.
    pub(crate) fn remove(&mut self, key: Key, token: Token) {
        let Some(i) = self.position(key) else { return };
        let Some(slot) = self.slots.get_mut(i) else { return };
        slot.waiters.push(Waiter { token, wish: Wish::Removed });
        slot.removing = true;
        match slot.phase {
            Phase::Starting | Phase::Up => slot.stale = true,
            Phase::Stopping => {}
            Phase::Waiting | Phase::Finished | Phase::GaveUp => self.take_out(i),
        }
        self.settle(Some(key));
    }

    /// Restarts a child now, with those that the strategy ties to it. Counts against no limit.
    pub(crate) fn restart(&mut self, key: Key, token: Token) {
        let Some(i) = self.position(key) else { return };
        let Some(slot) = self.slots.get_mut(i) else { return };
        if slot.removing {
            let answer = Err(ControlError::Overtaken { child: slot.name.to_string() });
            return self.effects.push(Effect::Reply { token, answer });
        }
        if slot.phase == Phase::GaveUp {
            slot.window.clear();
        }
        slot.streak = 0;
        slot.waiters.push(Waiter { token, wish: Wish::Up });
        self.cycle(i);
        self.settle(Some(key));
    }

    /// A child is ready.
    pub(crate) fn ready(&mut self, key: Key, incarnation: u64) {
        let now = self.now;
        let Some(slot) = self.incarnation(key, incarnation) else { return };
        // A stop may be on its way to the child: then it is ready too late, which doesn't count.
        if slot.phase != Phase::Starting {
            return;
        }
        let took_ms = slot.since.map_or(0, |since| millis(now.duration_since(since)));
        slot.phase = Phase::Up;
        slot.since = Some(now);
        slot.restarts += u64::from(slot.been_up);
        (slot.been_up, slot.begun) = (true, true);
        let event = Event::Started { took_ms, restarts: slot.restarts };
        let answered = slot.waiters.extract_if(.., |waiter| waiter.wish != Wish::Removed).collect::<Vec<_>>();
        self.report(Some(key), event);
        self.effects.extend(answered.into_iter().map(|w| Effect::Reply { token: w.token, answer: Ok(()) }));
        self.settle(Some(key));
    }

    /// A child is gone, and nothing of it is left.
    pub(crate) fn gone(&mut self, key: Key, incarnation: u64, gone: Gone) {
        let now = self.now;
        let Some(slot) = self.incarnation(key, incarnation) else { return };
        let was = slot.phase;
        if !slot.is_running() && was != Phase::Stopping {
            return;
        }
        let expected = was == Phase::Stopping || std::mem::take(&mut slot.stale);
        let up_for = match was {
            Phase::Up => slot.since.map_or(Duration::ZERO, |since| now.duration_since(since)),
            _ => Duration::ZERO,
        };
        slot.since = None;
        slot.phase = Phase::Waiting;
        let failure = slot.failure_of(was, &gone.exit, expected);
        if let Some(failure) = &failure {
            slot.last_failure = Some(failure.clone());
        }
        self.report_end(key, &gone, failure.as_ref(), up_for);
        match self.mode {
            Mode::Stopping(_) | Mode::Done => {}
            Mode::Starting | Mode::Running if expected => self.ended_as_asked(key),
            Mode::Starting | Mode::Running => self.ended_by_itself(key, failure, up_for),
        }
        self.settle(Some(key));
    }

    /// A child's wait before its restart is over.
    pub(crate) fn hold_over(&mut self, key: Key, turn: u64) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.key == key) else { return };
        // Whatever overtook the restart has removed the hold, or replaced it with a later one.
        if slot.hold == Hold::Armed(turn) {
            slot.hold = Hold::None;
            self.settle(Some(key));
        }
    }

    /// Stops everything, in order.
    pub(crate) fn stop(&mut self) {
        self.end(End::Stopped);
    }

    /// Stops everything because the supervisor itself is broken.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.end(End::Escalated { child: "its link".to_owned(), failure });
    }

    /// Kills everything that still runs.
    pub(crate) fn kill(&mut self) {
        self.end(End::Stopped);
        for slot in self.slots.iter_mut().rev() {
            if slot.is_running() || slot.phase == Phase::Stopping {
                slot.phase = Phase::Stopping;
                self.effects.push(Effect::Kill { key: slot.key });
            }
        }
    }

    fn ended_as_asked(&mut self, key: Key) {
        let Some(i) = self.position(key) else { return };
        match self.slots.get(i) {
            Some(slot) if slot.removing => self.take_out(i),
            _ => self.changed(key),
        }
    }

    /// Decides what follows when a child ends by itself.
    fn ended_by_itself(&mut self, key: Key, failure: Option<Failure>, up_for: Duration) {
        let first_start = self.mode == Mode::Starting;
        let Some(i) = self.position(key) else { return };
        let Some(slot) = self.slots.get_mut(i) else { return };
        let Some(failure) = failure else {
            // In good order: only a transient or temporary child can end so.
            match slot.policy.restart {
                Restart::Temporary => return self.take_out(i),
                Restart::Transient | Restart::Permanent => slot.phase = Phase::Finished,
            }
            return self.changed(key);
        };
        let child = slot.name.to_string();
        let retried = slot.policy.first_start == FirstStart::Retried;
        let adding = !retried && slot.waiters.iter().any(|waiter| waiter.wish == Wish::Added);
        let refused: Vec<_> = slot.waiters.extract_if(.., |waiter| waiter.wish != Wish::Removed).collect();
        for waiter in refused {
            let answer = Err(ControlError::Start { child: child.clone(), failure: failure.clone() });
            self.effects.push(Effect::Reply { token: waiter.token, answer });
        }
        if first_start && !retried && !slot.been_up {
            return self.end(End::StartFailed { child, failure });
        }
        slot.begun = true;
        if adding || slot.policy.restart == Restart::Temporary {
            return self.take_out(i);
        }
        self.restart_or_give_up(i, child, failure, up_for);
    }

    fn restart_or_give_up(&mut self, i: usize, child: String, failure: Failure, up_for: Duration) {
        let (now, chance) = (self.now, self.chance.roll());
        let Some(slot) = self.slots.get_mut(i) else { return };
        let key = slot.key;
        if !slot.window.admit(now) {
            if slot.policy.beyond == Beyond::Escalate {
                return self.end(End::Escalated { child, failure });
            }
            slot.phase = Phase::GaveUp;
            return self.report(Some(key), Event::GaveUp { failure });
        }
        if self.window.as_mut().is_some_and(|window| !window.admit(now)) {
            return self.end(End::Escalated { child, failure });
        }
        let steady = slot.been_up && up_for >= slot.waited.saturating_mul(STEADY);
        slot.streak = if steady { 1 } else { slot.streak.saturating_add(1) };
        let (attempt, wait) = (slot.streak, slot.policy.backoff.wait(slot.streak, chance));
        slot.waited = wait;
        self.cycle(i);
        if let Some(slot) = self.slots.get_mut(i) {
            slot.hold = if wait.is_zero() { Hold::None } else { Hold::Due(wait) };
        }
        self.report(Some(key), Event::Restarting { attempt, after_ms: millis(wait) });
    }

    /// Reports an end, and publishes the child's status.
    fn report_end(&mut self, key: Key, gone: &Gone, failure: Option<&Failure>, up_for: Duration) {
        if gone.stuck {
            self.report(Some(key), Event::Stuck);
        }
        let event = match (failure, &gone.exit) {
            (Some(failure), _) => Event::Failed { failure: failure.clone(), uptime_ms: millis(up_for) },
            (None, _) if gone.forced => Event::Forced,
            (None, Exit::Normal { reason }) => Event::Stopped { reason: reason.clone() },
            (None, Exit::Failed(_)) => Event::Stopped { reason: None },
        };
        self.report(Some(key), event);
    }

    fn report(&mut self, key: Option<Key>, event: Event) {
        if let Some(key) = key {
            self.effects.push(Effect::Changed { key });
        }
        self.effects.push(Effect::Report { key, event });
    }

    fn changed(&mut self, key: Key) {
        self.effects.push(Effect::Changed { key });
    }

    fn position(&self, key: Key) -> Option<usize> {
        self.slots.iter().position(|slot| slot.key == key)
    }

    fn incarnation(&mut self, key: Key, incarnation: u64) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.key == key && slot.incarnation == incarnation)
    }

    /// Takes a child that does not run out of the table.
    fn take_out(&mut self, i: usize) {
        if i >= self.slots.len() {
            return;
        }
        let slot = self.slots.remove(i);
        self.report(Some(slot.key), Event::Removed);
        for waiter in slot.waiters {
            let answer = match waiter.wish {
                Wish::Removed => Ok(()),
                Wish::Added | Wish::Up => Err(ControlError::Overtaken { child: slot.name.to_string() }),
            };
            self.effects.push(Effect::Reply { token: waiter.token, answer });
        }
        self.effects.push(Effect::Forget { key: slot.key });
    }
}
