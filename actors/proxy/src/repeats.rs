//! Folds repeats of refusals that cost nothing to provoke into few records: names that don't exist inside,
//! and outside ports that are not captured.
//!
//! The first refusal of a kind is recorded, then one a minute with the number of repeats meanwhile. An agent
//! can make up new kinds without end, so the records of one minute are bounded, and the next record says how
//! many refusals went unrecorded.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Minimal time between two records of the same refusal.
pub const REPEAT: Duration = Duration::from_secs(60);
/// Maximal number of records of one sort in one minute.
pub const MAX_RECORDS_PER_MINUTE: usize = 120;
/// Maximal number of refusals of one sort that are remembered, so that their repeats are folded.
pub const MAX_REMEMBERED: usize = 512;

/// See the module.
#[derive(Debug)]
pub struct Repeats(Mutex<State>);

#[derive(Debug)]
struct State {
    seen: HashMap<String, Seen>,
    minute: Instant,
    recorded: usize,
    unrecorded: u64,
}

#[derive(Debug)]
struct Seen {
    recorded: Instant,
    since: u64,
}

impl Repeats {
    /// Starts with nothing remembered.
    pub(crate) fn new() -> Self {
        let state = State { seen: HashMap::new(), minute: Instant::now(), recorded: 0, unrecorded: 0 };
        Self(Mutex::new(state))
    }

    /// Returns `None` if this refusal is not to be recorded, else what its record adds about unrecorded ones:
    /// mostly nothing.
    pub(crate) fn due(&self, what: &str) -> Option<String> {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let mut repeats = 0;
        if let Some(seen) = state.seen.get_mut(what) {
            if now.duration_since(seen.recorded) < REPEAT {
                seen.since += 1;
                return None;
            }
            repeats = seen.since;
        }
        if now.duration_since(state.minute) >= REPEAT {
            state.minute = now;
            state.recorded = 0;
            state.seen.retain(|_, seen| now.duration_since(seen.recorded) < REPEAT || seen.since > 0);
        }
        let is_full = state.seen.len() >= MAX_REMEMBERED && !state.seen.contains_key(what);
        if is_full {
            let forgotten = state.seen.extract_if(|_, seen| now.duration_since(seen.recorded) >= REPEAT);
            state.unrecorded += forgotten.map(|(_, seen)| seen.since).sum::<u64>();
        }
        if is_full || state.recorded >= MAX_RECORDS_PER_MINUTE {
            state.unrecorded += 1;
            return None;
        }
        state.recorded += 1;
        state.seen.insert(what.to_owned(), Seen { recorded: now, since: 0 });
        let mut more = String::new();
        if repeats > 0 {
            more.push_str(&format!("; {repeats} times more since the last record"));
        }
        if state.unrecorded > 0 {
            more.push_str(&format!("; {} other refusals like it are not on record", state.unrecorded));
            state.unrecorded = 0;
        }
        Some(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn repeats_are_folded_and_floods_are_counted() {
        let refused = Repeats::new();
        assert_eq!(refused.due("a.test").as_deref(), Some(""));
        for _ in 0..9 {
            assert_eq!(refused.due("a.test"), None);
        }
        let recorded = (0..1000).filter(|n| refused.due(&format!("n{n}.test")).is_some()).count();
        assert_eq!(recorded, MAX_RECORDS_PER_MINUTE - 1);
        tokio::time::advance(REPEAT).await;
        let told = refused.due("a.test").unwrap();
        assert!(told.contains("9 times more") && told.contains("881 other refusals"), "{told}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_refusal_is_forgotten_uncounted() {
        let refused = Repeats::new();
        let mut sent = 0;
        let mut due = |what: String| {
            sent += 1;
            let told = refused.due(&what)?;
            // Itself, and all that it speaks for.
            let of = |word: &str| told.split(word).next()?.rsplit(' ').next()?.parse::<u64>().ok();
            Some(1 + of(" times more").unwrap_or_default() + of(" other refusals").unwrap_or_default())
        };
        let mut told = 0;
        // New kinds until the table is full, each repeated once; some of them again, later.
        for minute in 0..12 {
            for n in 0..MAX_RECORDS_PER_MINUTE {
                for _ in 0..2 {
                    told += due(format!("n{}.test", minute * 60 + n)).unwrap_or_default();
                }
            }
            tokio::time::advance(REPEAT).await;
        }
        for _ in 0..2 {
            for n in 0..2000 {
                told += due(format!("n{n}.test")).unwrap_or_default();
                tokio::time::advance(REPEAT / 100).await;
            }
        }
        let waits: u64 = refused.0.lock().unwrap().seen.values().map(|seen| seen.since).sum();
        let waits = waits + refused.0.lock().unwrap().unrecorded;
        assert_eq!(told + waits, sent);
    }
}
