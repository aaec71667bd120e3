//! Reports of what happened, as data for listeners. Reports are this crate's only output: it logs nothing.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::Failure;

/// Reports kept for a slow listener before it misses some (it is told how many).
pub const REPORTS_KEPT: usize = 1024;

/// One thing that happened to one child or supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Path below the root, such as `agents/hermes`; empty for the root itself.
    pub path: String,
    /// Wall clock, milliseconds since 1970.
    pub at_unix_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The child is up and ready.
    Started {
        /// Milliseconds from the start to readiness.
        took_ms: u64,
        /// How often it has come up again so far; 0 the first time.
        restarts: u64,
    },
    /// The child failed to start, or failed while up.
    Failed {
        /// How.
        failure: Failure,
        /// Milliseconds it had been up; 0 if it never was.
        uptime_ms: u64,
    },
    /// The child ended in good order, asked to or by itself.
    Stopped {
        /// The reason given to `stop`, if any.
        reason: Option<String>,
    },
    /// The child was asked to stop and had to be killed at its deadline.
    Forced,
    /// The child did not end although it was killed, and its task was left behind: it blocks its thread.
    Stuck,
    /// The child will be started again.
    Restarting {
        /// Failures in a row, from 1.
        attempt: u32,
        /// The wait before, in milliseconds.
        after_ms: u64,
    },
    /// The child failed beyond its limit and stays down.
    GaveUp {
        /// The last failure.
        failure: Failure,
    },
    /// The supervisor gives up because of a child: it stops the others in reverse order and fails.
    Escalated {
        /// Name of the child.
        child: String,
        /// The last failure.
        failure: Failure,
    },
    /// The child was added while the supervisor ran.
    Added,
    /// The child is no longer in the table.
    Removed,
}

/// The sending end, shared by all supervisors of one tree.
#[derive(Clone, Debug)]
pub(crate) struct Reports(broadcast::Sender<Report>);

impl Reports {
    pub(crate) fn new(to: Option<broadcast::Sender<Report>>) -> Self {
        Self(to.unwrap_or_else(|| broadcast::Sender::new(REPORTS_KEPT)))
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Report> {
        self.0.subscribe()
    }

    pub(crate) fn tell(&self, path: String, event: Event) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_unix_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        // Fails only when nobody listens, which is their choice.
        let _ = self.0.send(Report { path, at_unix_ms, event });
    }
}
