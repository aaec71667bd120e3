//! The messages between heart and supervisor: descriptors to keep, signals to pass on, readiness, the end.

use serde::{Deserialize, Serialize};

use super::{Beginning, News};

/// The name of a descriptor that the heart keeps across supervisors. The supervisor chooses them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slot(pub String);

impl Slot {
    /// Takes any text as a name; the heart keeps nothing under a name longer than [`MAX_SLOT_NAME`].
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }
}

/// Bytes of a slot's name.
pub const MAX_SLOT_NAME: usize = 200;
/// Slots the heart keeps at most.
pub const MAX_SLOTS: usize = 512;

/// A packet from the heart to the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSupervisor {
    /// A kept descriptor (descriptor 0), sent at the start of every supervisor.
    Handover {
        /// The descriptor's name.
        slot: Slot,
    },
    /// All kept descriptors have been sent.
    HandoverEnd {
        /// How many were sent. A supervisor that has fewer must not begin: what its predecessors found out
        /// would count as not found out.
        slots: u32,
        /// How many supervisors were started before this one, whether they died or finished.
        predecessors: u32,
        /// How often a supervisor died before this one.
        supervisor_restarts: u32,
        /// Deaths and moves that may not be on record yet.
        news: News,
        /// What it begins with.
        beginning: Beginning,
    },
    /// Another cage is ready: stop the agents in order and finish. The next supervisor starts them in that
    /// cage.
    Turn {
        /// The operator who wants it.
        uid: u32,
    },
    /// The heart got this signal (SIGINT, SIGTERM, SIGHUP …).
    Signal(i32),
    /// The operator's terminal changed its size (SIGWINCH).
    Winch,
    /// Are you there? Sent only to a supervisor that is ready. One that leaves several unanswered is killed.
    Ping,
}

/// A packet from the supervisor to the heart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHeart {
    /// Keep this descriptor (descriptor 0) under this name; an older one of the name is closed.
    Keep {
        /// The descriptor's name.
        slot: Slot,
    },
    /// Close the descriptor of this name.
    Release {
        /// The descriptor's name.
        slot: Slot,
    },
    /// The supervision tree is up.
    Ready,
    /// The answer to a [`ToSupervisor::Ping`]; while the supervisor starts it says this by itself.
    Alive,
    /// The [`News`] that it was handed are on disk.
    OnRecord,
    /// An operator wants the sandbox to end, and agents are being stopped for that: no other cage may follow,
    /// and a supervisor that follows stops them too.
    Stopping {
        /// How long they are given, in milliseconds.
        grace_ms: u64,
    },
    /// Every agent has ended and its output is written: init is killed now, while the last records are
    /// written. `Finish` follows; if the supervisor dies before that, the sandbox ends as said here.
    Over {
        /// As in `Finish`.
        exit_code: i32,
        /// As in `Finish`.
        message: Option<String>,
    },
    /// The steps and when each was done, for `run --timings`: name and CLOCK_MONOTONIC in nanoseconds.
    Steps(Vec<(String, u64)>),
    /// End the sandbox: init is killed, the heart exits.
    Finish {
        /// The exit code of the whole sandbox.
        exit_code: i32,
        /// What agents were refused, for the operator.
        refused: Option<String>,
        /// A last line for the operator.
        message: Option<String>,
    },
}
