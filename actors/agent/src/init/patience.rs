//! Measures how long a look takes, without the time that init waits for a processor: a busy machine is not
//! the fault of the agent whose program is looked at. Other waits, such as for the lock of that program's
//! memory, count.
//!
//! Must never count less than the time that init was given: where the kernel doesn't tell of waits, all time
//! counts.

use super::schedstat::Schedstat;
use std::time::{Duration, Instant};

/// Less than any bound that is measured by this.
const MOMENT: Duration = Duration::from_millis(1);

/// The kernel's account of how long init has waited for a processor.
#[derive(Debug, Default)]
pub(crate) struct Waits(Option<Schedstat>);

impl Waits {
    /// Opens the account of this process, which must have one thread. Where the kernel keeps none, no waits
    /// are known.
    pub(crate) fn of_this_process() -> Self {
        Self(Schedstat::of_this_process().ok())
    }

    /// All waits since the process began.
    fn so_far(&self) -> Duration {
        let counts = self.0.as_ref().and_then(|told| told.read().ok());
        counts.map(|counts| counts.waited).unwrap_or_default()
    }

    /// Begins to count.
    pub(crate) fn stopwatch(&self) -> Stopwatch<'_> {
        Stopwatch { waits: self, waited: self.so_far(), begun: Instant::now() }
    }
}

/// Counts the time since it was started.
#[derive(Clone, Copy)]
pub(crate) struct Stopwatch<'a> {
    waits: &'a Waits,
    waited: Duration,
    begun: Instant,
}

impl Stopwatch<'_> {
    /// Returns the time since the start without waits for a processor. Of less than a [`MOMENT`] all counts,
    /// and the kernel isn't asked: nobody owes so little.
    pub(crate) fn elapsed(&self) -> Duration {
        let elapsed = self.begun.elapsed();
        if elapsed < MOMENT {
            return elapsed;
        }
        elapsed.saturating_sub(self.waits.so_far().saturating_sub(self.waited))
    }

    /// Whether that is more than `most`. While the clock says no, the kernel isn't asked.
    pub(crate) fn is_past(&self, most: Duration) -> bool {
        self.begun.elapsed() > most && self.elapsed() > most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_waited_for_a_processor_does_not_count() {
        const HOUR: Duration = Duration::from_secs(3600);
        let account = tempfile::NamedTempFile::new().unwrap();
        let says = |waited: Duration| {
            std::fs::write(account.path(), format!("9 {} 9\n", waited.as_nanos())).unwrap()
        };
        says(HOUR);
        let waits = Waits(Some(Schedstat::told_by(account.reopen().unwrap())));
        let mut watch = waits.stopwatch();
        // As if it had begun three hours ago, of which two were spent waiting.
        watch.begun = Instant::now().checked_sub(3 * HOUR).unwrap();
        says(3 * HOUR);
        assert!(watch.elapsed() >= HOUR && watch.elapsed() < 2 * HOUR);
        assert!(watch.is_past(HOUR / 2) && !watch.is_past(2 * HOUR) && !watch.is_past(4 * HOUR));
        // Where the kernel doesn't tell, the clock alone counts.
        std::fs::write(account.path(), "").unwrap();
        assert!(watch.elapsed() >= 3 * HOUR);
        let untold = Waits::default();
        let blind = Stopwatch { waits: &untold, ..watch };
        assert!(blind.elapsed() >= 3 * HOUR && blind.is_past(2 * HOUR));
    }

    #[test]
    fn this_kernel_tells_or_the_clock_does() {
        let waits = Waits::of_this_process();
        if waits.0.is_none() {
            eprintln!("SKIPPED: this kernel keeps no account of waits");
            return;
        }
        let before = waits.so_far();
        std::thread::yield_now();
        assert!(waits.so_far() >= before);
    }
}
