//! How fast a dead supervisor is started again, and when the heart gives up. Pure: the time is an argument,
//! and nothing waits here.
//!
//! A supervisor that dies after it was ready is restarted at once, then with exponential back-off. After ten
//! starts in a row that never became ready, another is unlikely to help soon. If no supervisor was ever
//! ready, the sandbox ends with a clear last message: nothing runs in it. If one was, agents run, and keeping
//! them is worth the noise: the heart keeps trying, slowly, for as long as they exist, since the cause (a
//! full disk, a file that was replaced) may be fixed.

use std::time::{Duration, Instant};

/// The wait before the first restart: short, since the supervisor worked before.
const FIRST: Duration = Duration::from_millis(5);
/// The longest wait. A killed supervisor is promised to be back within a second.
const LONGEST: Duration = Duration::from_millis(400);
/// After a supervisor was ready for this long, the waits start over with [`FIRST`].
const SETTLED: Duration = Duration::from_secs(2);
/// How many starts in a row may fail to become ready before the heart gives up or turns patient.
const FRUITLESS_MAX: u32 = 10;
/// The wait between starts once the heart is patient.
pub const PATIENT: Duration = Duration::from_secs(5);

/// The restart pace of one sandbox's supervisor.
#[derive(Debug)]
pub struct Pace {
    wait: Duration,
    fruitless: u32,
    ready_since: Option<Instant>,
    ever_ready: bool,
}

/// What to do when a supervisor has died.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Start another after this long.
    After(Duration),
    /// Start another after [`PATIENT`]: nobody supervises meanwhile.
    Patiently {
        /// Whether this is the first wait of this length.
        first: bool,
    },
    /// None was ever ready: end the sandbox.
    GiveUp,
}

impl Pace {
    /// Before the first start.
    pub fn new() -> Self {
        Self { wait: FIRST, fruitless: 0, ready_since: None, ever_ready: false }
    }

    /// The supervisor said that it is ready.
    pub fn ready(&mut self, now: Instant) {
        self.fruitless = 0;
        self.ready_since = Some(now);
        self.ever_ready = true;
    }

    /// Whether starts have slowed down to one per [`PATIENT`], because none became ready.
    pub fn is_patient(&self) -> bool {
        self.ever_ready && self.fruitless >= FRUITLESS_MAX
    }

    /// The supervisor died.
    pub fn died(&mut self, now: Instant) -> Next {
        match self.ready_since.take() {
            Some(since) if now.duration_since(since) >= SETTLED => self.wait = FIRST,
            Some(_) => {}
            None => self.fruitless = self.fruitless.saturating_add(1),
        }
        if self.fruitless >= FRUITLESS_MAX {
            return match self.ever_ready {
                true => Next::Patiently { first: self.fruitless == FRUITLESS_MAX },
                false => Next::GiveUp,
            };
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
    fn ten_fruitless_starts_in_a_row_end_it_where_none_was_ever_ready() {
        let (mut pace, now) = (Pace::new(), Instant::now());
        for _ in 0..FRUITLESS_MAX - 1 {
            assert!(matches!(pace.died(now), Next::After(_)));
        }
        assert_eq!(pace.died(now), Next::GiveUp);
    }

    #[test]
    fn once_one_was_ready_it_never_gives_up_and_says_once_that_it_turns_patient() {
        let (mut pace, now) = (Pace::new(), Instant::now());
        for _ in 0..2 {
            pace.ready(now);
            for _ in 0..FRUITLESS_MAX {
                assert!(matches!(pace.died(now), Next::After(_)));
            }
            assert!(!pace.is_patient());
            assert_eq!(pace.died(now), Next::Patiently { first: true });
            assert!(pace.is_patient());
            for _ in 0..1000 {
                assert_eq!(pace.died(now), Next::Patiently { first: false });
            }
        }
    }
}
