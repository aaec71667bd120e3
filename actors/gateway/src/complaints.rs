//! How often it is told that a provider fails: at first, and once a minute with a count. How often it is
//! asked is in the hands of agents, and each failure is on record anyway.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// From one that is told to the next.
const APART: Duration = Duration::from_secs(60);

/// Those about one provider.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Mutex<Option<Told>>);

#[derive(Debug)]
struct Told {
    at: Instant,
    untold_since: u64,
}

impl Complaints {
    /// Whether this failure is told, and how many weren't since the last one that was.
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
