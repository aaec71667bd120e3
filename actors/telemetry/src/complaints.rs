//! Limits how often a failure is logged that agents can cause as often as they like: the first one, and then
//! one a minute with a count.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Least time between two failures that are logged.
const APART: Duration = Duration::from_secs(60);

/// The failures of one kind.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<Option<Told>>);

#[derive(Debug)]
struct Told {
    at: Instant,
    untold_since: u64,
}

impl Complaints {
    /// Nothing has failed yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// If this failure is to be logged, returns the number of those since the last logged one that weren't.
    #[must_use]
    pub fn told(&self, now: Instant) -> Option<u64> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let untold = match &mut *last {
            Some(told) if now.saturating_duration_since(told.at) < APART => {
                told.untold_since = told.untold_since.saturating_add(1);
                return None;
            }
            Some(told) => told.untold_since,
            None => 0,
        };
        *last = Some(Told { at: now, untold_since: 0 });
        Some(untold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_and_one_a_minute_with_the_count() {
        let (complaints, now) = (Complaints::default(), Instant::now());
        assert_eq!(complaints.told(now), Some(0));
        for _ in 0..3 {
            assert_eq!(complaints.told(now + APART / 2), None);
        }
        assert_eq!(complaints.told(now + APART), Some(3));
        assert_eq!(complaints.told(now + APART), None);
        assert_eq!(complaints.told(now + APART * 2), Some(1));
    }
}
