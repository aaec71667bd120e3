//! The limit on restarts: a sliding window, and what happens beyond it.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// At most `restarts` in any span of `within`; one more is beyond the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intensity {
    /// Restarts allowed. 0 means never restart: the first failure is beyond the limit.
    pub restarts: u32,
    /// The span they are counted in.
    pub within: Duration,
}

impl Default for Intensity {
    /// 10 in a minute.
    fn default() -> Self {
        Self { restarts: 10, within: Duration::from_secs(60) }
    }
}

/// What happens when a child fails beyond its intensity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Beyond {
    /// Its supervisor stops all children in reverse order and fails in turn.
    #[default]
    Escalate,
    /// The child stays down until somebody restarts it by hand; the others go on.
    GiveUp,
}

/// The restarts counted in the current window. Holds at most `restarts` instants.
#[derive(Debug)]
pub(crate) struct Window {
    limit: Intensity,
    at: VecDeque<Instant>,
}

impl Window {
    pub(crate) fn new(limit: Intensity) -> Self {
        Self { limit, at: VecDeque::new() }
    }

    /// Counts one restart at `now`. False if that is beyond the limit.
    pub(crate) fn admit(&mut self, now: Instant) -> bool {
        while self.at.front().is_some_and(|&then| now.duration_since(then) > self.limit.within) {
            self.at.pop_front();
        }
        if self.at.len() >= self.limit.restarts as usize {
            return false;
        }
        self.at.push_back(now);
        true
    }

    /// Forgets everything, as after a restart by hand of a child that had given up.
    pub(crate) fn clear(&mut self) {
        self.at.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(restarts: u32, secs: u64) -> Window {
        Window::new(Intensity { restarts, within: Duration::from_secs(secs) })
    }

    #[test]
    fn zero_means_never() {
        assert!(!window(0, 3600).admit(Instant::now()));
    }

    #[test]
    fn old_restarts_are_forgotten() {
        let (mut window, start) = (window(2, 10), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        assert!(window.admit(at(0)));
        assert!(window.admit(at(5)));
        assert!(!window.admit(at(10)), "the span includes its ends, as in OTP");
        assert!(window.admit(at(11)), "the one at 0 is out of the window; the refused one was not counted");
        assert!(!window.admit(at(12)));
        window.clear();
        assert!(window.admit(at(12)));
    }
}
