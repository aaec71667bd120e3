//! How long whoever failed is left alone: one number, read and written without a lock.
//!
//! Each provider has one (it can't be connected to) and each target (that model there is overloaded, or its
//! rate is used up), so there are never more than the configuration has targets. It lives with the routes,
//! above the actor. Never here: what is a failure.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Longest rest, whatever a provider asks for: so soon an outage's end, and a mistake in a header, is
/// noticed.
pub const MAX_REST: Duration = Duration::from_secs(60);
/// Rest of whoever names no time.
pub const REST: Duration = Duration::from_secs(10);

/// The monotonic clock's beginning, here.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// See the module. Of two that write at a time the later time may be lost: it rests a little less.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// Milliseconds since [`BEGAN`]; 0 for none.
    until: AtomicU64,
}

impl Rest {
    /// Rests for so long from `now` on, [`MAX_REST`] at most, and never shorter than it would anyway.
    pub fn begin(&self, now: Instant, how_long: Duration) {
        let until = since_began(now).saturating_add(millis(how_long.min(MAX_REST)));
        if !how_long.is_zero() {
            self.until.fetch_max(until, Relaxed);
        }
    }

    /// It works again.
    pub fn end(&self) {
        if self.until.load(Relaxed) != 0 {
            self.until.store(0, Relaxed);
        }
    }

    /// Whether it rests at `now`.
    pub fn lasts(&self, now: Instant) -> bool {
        self.until.load(Relaxed) > since_began(now)
    }
}

fn since_began(now: Instant) -> u64 {
    millis(now.saturating_duration_since(*BEGAN))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_ends_by_itself_or_when_it_works_again_and_is_bounded() {
        let rest = Rest::default();
        let now = (*BEGAN).max(Instant::now());
        assert!(!rest.lasts(now));
        rest.begin(now, Duration::ZERO);
        assert!(!rest.lasts(now));
        rest.begin(now, REST);
        rest.begin(now, Duration::from_secs(1));
        assert!(rest.lasts(now + REST / 2) && !rest.lasts(now + REST));
        rest.begin(now, Duration::MAX);
        assert!(rest.lasts(now + MAX_REST / 2) && !rest.lasts(now + MAX_REST));
        rest.end();
        assert!(!rest.lasts(now));
    }
}
