//! How fast a dead supervisor is started again, and when the heart gives up. Pure: time is given, nothing waits here.
//!
//! A supervisor that dies after it was ready is restarted at once, then ever slower; ten starts in a row that never
//! became ready mean that no further start will help, and the sandbox ends with a clear last message.

use std::time::{Duration, Instant};

/// The wait before the first restart: none is owed to a supervisor that worked.
const FIRST: Duration = Duration::from_millis(5);
/// The longest wait. The contract wants a killed supervisor back within a second.
const LONGEST: Duration = Duration::from_millis(400);
/// A supervisor that was ready for this long starts over with the first wait.
const SETTLED: Duration = Duration::from_secs(2);
/// Starts in a row that never became ready before the heart gives up.
const FRUITLESS_MAX: u32 = 10;

/// The pace of one sandbox's supervisor.
#[derive(Debug)]
pub struct Pace {
    wait: Duration,
    fruitless: u32,
    ready_since: Option<Instant>,
}

/// What to do about a death.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Start another after this long.
    After(Duration),
    /// It never becomes ready: end the sandbox.
    GiveUp,
}

impl Pace {
    /// Before the first start.
    pub fn new() -> Self {
        Self { wait: FIRST, fruitless: 0, ready_since: None }
    }

    /// The supervisor said that it is ready.
    pub fn ready(&mut self, now: Instant) {
        self.fruitless = 0;
        self.ready_since = Some(now);
    }

    /// The supervisor died.
    pub fn died(&mut self, now: Instant) -> Next {
        match self.ready_since.take() {
            Some(since) if now.duration_since(since) >= SETTLED => self.wait = FIRST,
            Some(_) => {}
            None => self.fruitless += 1,
        }
        if self.fruitless >= FRUITLESS_MAX {
            return Next::GiveUp;
        }
        let wait = self.wait;
        self.wait = (self.wait * 2).min(LONGEST);
        Next::After(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_over_once_settled() {
        let (mut pace, mut now) = (Pace::new(), Instant::now());
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            pace.ready(now);
            let Next::After(wait) = pace.died(now) else { panic!("gave up on one that becomes ready") };
            assert!(wait >= last && wait <= LONGEST);
            last = wait;
        }
        assert_eq!(last, LONGEST);
        pace.ready(now);
        now += SETTLED;
        assert_eq!(pace.died(now), Next::After(FIRST));
    }

    #[test]
    fn ten_fruitless_starts_in_a_row_end_it_and_one_good_one_forgives() {
        let (mut pace, now) = (Pace::new(), Instant::now());
        for _ in 0..FRUITLESS_MAX - 1 {
            assert_ne!(pace.died(now), Next::GiveUp);
        }
        pace.ready(now);
        for _ in 0..FRUITLESS_MAX {
            assert_ne!(pace.died(now), Next::GiveUp);
        }
        assert_eq!(pace.died(now), Next::GiveUp);
    }
}
