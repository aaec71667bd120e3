//! What is on record of names that don't exist inside.
//!
//! Every refusal counts in the metrics; on record is a name's first, then one a minute with how often it was asked for
//! meanwhile. An agent can ask for names of its own making without end, so the records of one minute are bounded, and
//! the next one says how many went unrecorded.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use telemetry::audit::Verdict;
use telemetry::metrics;
use tokio::time::Instant;

use crate::outcome::Journal;

/// How soon a name's refusal is on record again.
pub const REPEAT: Duration = Duration::from_secs(60);
/// Records of refused names in one minute.
pub const MAX_RECORDS_PER_MINUTE: usize = 120;
/// Refused names remembered, so that their repeats are folded.
pub const MAX_REMEMBERED: usize = 512;

/// See the module.
#[derive(Debug)]
pub(super) struct Refused(Mutex<State>);

#[derive(Debug)]
struct State {
    names: HashMap<String, Seen>,
    minute: Instant,
    recorded: usize,
    unrecorded: u64,
}

#[derive(Debug)]
struct Seen {
    recorded: Instant,
    since: u64,
}

impl Refused {
    pub(super) fn new() -> Self {
        let state = State { names: HashMap::new(), minute: Instant::now(), recorded: 0, unrecorded: 0 };
        Self(Mutex::new(state))
    }

    /// Counts a refusal and records it where that is due.
    pub(super) fn note(&self, journal: &dyn Journal, name: &str, generation: u64) {
        metrics::decision("dns", Verdict::Denied, "");
        if let Some(detail) = self.due(name, Instant::now()) {
            journal.name_refused(name, &detail, generation);
        }
    }

    /// The words to record, if it is to be recorded.
    fn due(&self, name: &str, now: Instant) -> Option<String> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let mut repeats = 0;
        if let Some(seen) = state.names.get_mut(name) {
            if now.duration_since(seen.recorded) < REPEAT {
                seen.since += 1;
                return None;
            }
            repeats = seen.since;
        }
        if now.duration_since(state.minute) >= REPEAT {
            state.minute = now;
            state.recorded = 0;
            state.names.retain(|_, seen| now.duration_since(seen.recorded) < REPEAT || seen.since > 0);
        }
        if state.recorded >= MAX_RECORDS_PER_MINUTE || state.names.len() >= MAX_REMEMBERED {
            state.unrecorded += 1;
            if state.names.len() >= MAX_REMEMBERED {
                state.names.retain(|_, seen| now.duration_since(seen.recorded) < REPEAT);
            }
            return None;
        }
        state.recorded += 1;
        state.names.insert(name.to_owned(), Seen { recorded: now, since: 0 });
        let mut detail = "no entry of the policy names this host".to_owned();
        if repeats > 0 {
            detail.push_str(&format!("; asked for {repeats} times more since the last record"));
        }
        if state.unrecorded > 0 {
            detail.push_str(&format!("; {} refused look-ups are not on record", state.unrecorded));
            state.unrecorded = 0;
        }
        Some(detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn repeats_are_folded_and_floods_are_counted() {
        let refused = Refused::new();
        assert!(refused.due("a.test", Instant::now()).is_some());
        for _ in 0..9 {
            assert_eq!(refused.due("a.test", Instant::now()), None);
        }
        let recorded =
            (0..1000).filter(|n| refused.due(&format!("n{n}.test"), Instant::now()).is_some()).count();
        assert_eq!(recorded, MAX_RECORDS_PER_MINUTE - 1);
        tokio::time::advance(REPEAT).await;
        let told = refused.due("a.test", Instant::now()).unwrap();
        assert!(told.contains("9 times more") && told.contains("881 refused look-ups"), "{told}");
    }
}
