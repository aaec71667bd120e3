//! One child's row in the table.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Token;
use crate::failure::Exit;
use crate::intensity::Window;
use crate::tree::{State, Status};
use crate::{Backoff, Beyond, ChildSpec, Failure, FirstStart, Restart};

/// Identifies a child for as long as it is in the table; never reused.
pub(crate) type Key = u64;

/// What the machine needs to know of a child's specification.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) restart: Restart,
    pub(crate) backoff: Backoff,
    pub(crate) intensity: crate::Intensity,
    pub(crate) beyond: Beyond,
    pub(crate) first_start: FirstStart,
}

impl From<&ChildSpec> for Policy {
    fn from(spec: &ChildSpec) -> Self {
        let ChildSpec { restart, backoff, intensity, beyond, first_start, .. } = *spec;
        Self { restart, backoff, intensity, beyond, first_start }
    }
}

/// Where a child is in its life; drawn in the module above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Waiting,
    Starting,
    Up,
    Stopping,
    Finished,
    GaveUp,
}

/// What keeps a waiting child, and all that start with it, from being started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    None,
    /// A wait that begins once everything that must be down is down.
    Due(Duration),
    /// A wait that is running, by the `turn` that it belongs to.
    Armed(u64),
}

/// A caller, and what it waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) token: Token,
    pub(super) wish: Wish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// That an added child comes up; if it doesn't, it is taken out again.
    Added,
    /// That the child comes up again.
    Up,
    /// That it is out of the table.
    Removed,
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) key: Key,
    pub(crate) name: Arc<str>,
    pub(super) policy: Policy,
    pub(super) phase: Phase,
    /// Whether it runs, and must be stopped before any child of its lane is started.
    pub(super) stale: bool,
    /// Whether it leaves the table once it is down.
    pub(super) removing: bool,
    /// Whether it was ready at least once.
    pub(super) been_up: bool,
    /// Whether its first start is over: it came up, or its failure counts like any other.
    pub(super) begun: bool,
    pub(super) hold: Hold,
    /// Counts the waits, so that the end of an outdated one is recognised.
    pub(super) turn: u64,
    /// Counts the starts, so that late news of an earlier incarnation is recognised.
    pub(super) incarnation: u64,
    pub(super) window: Window,
    /// Failures in a row.
    pub(super) streak: u32,
    /// The last wait.
    pub(super) waited: Duration,
    pub(super) restarts: u64,
    pub(super) since: Option<Instant>,
    pub(super) last_failure: Option<Failure>,
    pub(super) waiters: Vec<Waiter>,
}

impl Slot {
    pub(super) fn new(key: Key, name: Arc<str>, policy: Policy) -> Self {
        Self {
            key,
            name,
            policy,
            phase: Phase::Waiting,
            stale: false,
            removing: false,
            been_up: false,
            begun: false,
            hold: Hold::None,
            turn: 0,
            incarnation: 0,
            window: Window::new(policy.intensity),
            streak: 0,
            waited: Duration::ZERO,
            restarts: 0,
            since: None,
            last_failure: None,
            waiters: Vec::new(),
        }
    }

    /// Whether an incarnation runs that has not been asked to stop.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Up)
    }

    /// Returns the failure that an end in `phase` amounts to, if it is one.
    pub(super) fn failure_of(&self, phase: Phase, exit: &Exit, expected: bool) -> Option<Failure> {
        match exit {
            // It was asked to stop, and was killed or its start was cut off: that is our doing.
            Exit::Failed(Failure::Killed | Failure::Cancelled) if phase == Phase::Stopping => None,
            Exit::Failed(failure) => Some(failure.clone()),
            Exit::Normal { .. } if expected => None,
            Exit::Normal { .. } if phase == Phase::Starting => Some(Failure::NotReady),
            Exit::Normal { reason } if self.policy.restart == Restart::Permanent => {
                Some(Failure::Ended { reason: reason.clone() })
            }
            Exit::Normal { .. } => None,
        }
    }

    /// Returns the status to publish.
    pub(crate) fn status(&self, stopping: bool) -> Status {
        let state = match self.phase {
            Phase::Waiting if stopping => State::Stopped,
            Phase::Waiting if self.hold != Hold::None => State::Backoff,
            Phase::Waiting => State::Waiting,
            Phase::Starting => State::Starting,
            Phase::Up => State::Up,
            Phase::Stopping => State::Stopping,
            Phase::Finished => State::Finished,
            Phase::GaveUp => State::GaveUp,
        };
        let since = self.since.filter(|_| self.phase == Phase::Up);
        Status { state, since, restarts: self.restarts, last_failure: self.last_failure.clone() }
    }
}
