//! For how long a provider or target that failed is avoided: one number, read and written without a lock.
//!
//! Each provider has one (set when it can't be connected to), and so has each target (set when that model
//! there is overloaded, or its rate limit is used up), so the configuration bounds their number. They are
//! owned by the routes, above the actor. What counts as a failure is not decided here.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Longest rest, whatever a provider asks for, so that the end of an outage, or a mistake in a header, is
/// noticed soon.
pub const MAX_REST: Duration = Duration::from_secs(60);
/// Rest of a provider that names no time.
pub const REST: Duration = Duration::from_secs(10);

/// The moment from which [`Rest`] counts time.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A time until which a provider or target is avoided; see the module. Concurrent writes may lose the later
/// time, which makes the rest a little shorter.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// Milliseconds since [`BEGAN`]; 0 for none.
    until: AtomicU64,
}

impl Rest {
    /// Begins a rest of `how_long` from `now` on, at most [`MAX_REST`]. Never shortens a rest that is under
    /// way.
    pub fn begin(&self, now: Instant, how_long: Duration) {
        let until = since_began(now).saturating_add(millis(how_long.min(MAX_REST)));
        if !how_long.is_zero() {
            self.until.fetch_max(until, Relaxed);
        }
    }

    /// Ends the rest: the provider or target works again.
    pub fn end(&self) {
        if self.until.load(Relaxed) != 0 {
            self.until.store(0, Relaxed);
        }
    }

    /// Whether the rest still lasts at `now`.
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
