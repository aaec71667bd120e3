//! How long to wait before a child is started again: exponential, with jitter from an injected source.
//!
//! Pure arithmetic; it must never sleep nor read a clock.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A child's streak of failures ends once it has stayed up this many times as long as its last wait.
pub const STEADY: u32 = 10;

/// Waits between restarts: `min`, twice that, four times … up to `max`.
///
/// A child that stayed up [`STEADY`] times as long as its last wait starts over from `min`: failing once an
/// hour is not a streak, and the longer the waits have become, the longer the child must stay up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backoff {
    /// The wait before the first restart. Zero is allowed and means at once.
    pub min: Duration,
    /// The longest wait. At least `min`.
    pub max: Duration,
    /// Share of the wait that chance may take away, 0 (none) to 1 (all): a wait of `d` becomes anything in
    /// `(d × (1 − jitter), d]`. So `max` is never exceeded, and children that failed together are not
    /// restarted together.
    pub jitter: f64,
}

impl Default for Backoff {
    /// 1 ms to 1 s, a fifth of jitter: a child that failed once is back before anybody notices.
    fn default() -> Self {
        Self { min: Duration::from_millis(1), max: Duration::from_secs(1), jitter: 0.2 }
    }
}

impl Backoff {
    /// The wait before the restart that follows `streak` failures in a row (1 for the first).
    pub(crate) fn wait(&self, streak: u32, chance: f64) -> Duration {
        let doublings = streak.saturating_sub(1).min(31);
        let wait = self.min.saturating_mul(1 << doublings).min(self.max);
        // A broken source of jitter (NaN, 7.0) must not break a restart.
        let chance = if chance.is_finite() { chance.clamp(0.0, 1.0) } else { 0.0 };
        wait.mul_f64(1.0 - self.jitter.clamp(0.0, 1.0) * chance)
    }

    /// What is wrong with these values, if anything.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        if self.min > self.max {
            Some("the backoff's min is above its max")
        } else if !(0.0..=1.0).contains(&self.jitter) {
            Some("the backoff's jitter is not within 0 to 1")
        } else {
            None
        }
    }
}

/// The source of jitter: numbers in `[0, 1)`. Injected, so that tests are repeatable.
#[derive(Clone)]
pub struct Chance(Arc<dyn Fn() -> f64 + Send + Sync>);

impl Chance {
    /// Takes chance from `source`.
    pub fn new(source: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(source))
    }

    /// The next number.
    pub(crate) fn roll(&self) -> f64 {
        (self.0)()
    }
}

impl Default for Chance {
    /// A hash of a counter under a random key: enough to spread restarts, not for secrets.
    fn default() -> Self {
        let (key, counter) = (RandomState::new(), AtomicU64::new(0));
        Self::new(move || {
            let mut hasher = key.build_hasher();
            hasher.write_u64(counter.fetch_add(1, Ordering::Relaxed));
            // 53 bits are what an f64 holds exactly.
            (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64
        })
    }
}

impl std::fmt::Debug for Chance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Chance")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn doubles_from_min_to_max() {
        let backoff = Backoff { min: Duration::from_millis(10), max: Duration::from_millis(50), jitter: 0.0 };
        let waits: Vec<_> = (1..=5).map(|n| backoff.wait(n, 0.9).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 50, 50]);
    }

    #[test]
    fn a_broken_source_of_chance_is_harmless() {
        let backoff = Backoff { jitter: 1.0, ..Backoff::default() };
        for chance in [f64::NAN, f64::INFINITY, -3.0, 7.0] {
            assert!(backoff.wait(3, chance) <= backoff.max);
        }
    }

    proptest! {
        #[test]
        fn stays_within_its_bounds(
            min in 0_u64..5_000, more in 0_u64..50_000, jitter in 0.0_f64..=1.0,
            streak in 0_u32.., chance in 0.0_f64..1.0,
        ) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(min + more));
            let backoff = Backoff { min, max, jitter };
            prop_assert_eq!(backoff.fault(), None);
            let wait = backoff.wait(streak, chance);
            prop_assert!(wait <= max);
            prop_assert!(wait >= min.mul_f64((1.0 - jitter).max(0.0)).saturating_sub(Duration::from_nanos(1)));
        }

        #[test]
        fn chance_is_in_the_unit_interval(_n in 0..8) {
            let chance = Chance::default();
            for _ in 0..64 { prop_assert!((0.0..1.0).contains(&chance.roll())); }
        }
    }
}
