//! A provider's health, as its requests showed it. Passive: nothing is sent to find out.

use std::{
    sync::atomic::{AtomicI64, AtomicU32, Ordering::Relaxed},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// Counters, written by requests and read by `status`.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failures_in_a_row: AtomicU32,
    last_answer_ms: AtomicI64,
    last_failure_ms: AtomicI64,
}

/// A provider's state as `status` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The provider wasn't asked yet.
    Unused,
    /// The last request was answered.
    Answering,
    /// The last request got no answer, or a 5xx.
    Failing,
}

/// The counters at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reading {
    /// See [`State`].
    pub state: State,
    /// Requests in a row that got no answer or a 5xx.
    pub failures_in_a_row: u32,
    /// Milliseconds since the epoch.
    pub last_answer_ms: Option<i64>,
    /// Milliseconds since the epoch.
    pub last_failure_ms: Option<i64>,
}

impl Health {
    pub fn answered(&self) {
        self.failures_in_a_row.store(0, Relaxed);
        self.last_answer_ms.store(now_ms(), Relaxed);
    }

    pub fn failed(&self) {
        let n = self.failures_in_a_row.load(Relaxed);
        self.failures_in_a_row.store(n.saturating_add(1), Relaxed);
        self.last_failure_ms.store(now_ms(), Relaxed);
    }

    pub fn read(&self) -> Reading {
        let set = |v: &AtomicI64| Some(v.load(Relaxed)).filter(|ms| *ms != 0);
        let failures_in_a_row = self.failures_in_a_row.load(Relaxed);
        let last_answer_ms = set(&self.last_answer_ms);
        let state = match (failures_in_a_row, last_answer_ms) {
            (0, None) => State::Unused,
            (0, Some(_)) => State::Answering,
            _ => State::Failing,
        };
        Reading { state, failures_in_a_row, last_answer_ms, last_failure_ms: set(&self.last_failure_ms) }
    }
}

fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}
