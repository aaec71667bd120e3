//! The step clock: where the time of a start and of an end goes, told by `run --timings`.
//!
//! Every process of a sandbox stamps what it has done by one clock (CLOCK_MONOTONIC, which all of them
//! share); the heart collects the stamps and tells them at the end, each with the time since the one before
//! it of the same process. Without `--timings` a stamp costs a look at a flag.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

/// Steps told at most: a start has some twenty; a supervisor can't make the heart keep more.
pub const STEPS_MAX: usize = 64;

/// Something that was done, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What was done, led by the process that did it.
    pub what: String,
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub at: u64,
}

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn now() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| u64::try_from(now.tv_sec() * 1_000_000_000 + now.tv_nsec()).unwrap_or(0))
}

static BEGUN: OnceLock<u64> = OnceLock::new();

/// Notes the first instruction of this process that is ours. What the kernel and the loader did before is not
/// in it.
pub fn begin() {
    let _ = BEGUN.set(now());
}

/// The steps so far; clones share them. None are kept unless they were asked for.
#[derive(Debug, Clone, Default)]
pub struct Steps(Option<Arc<Mutex<Vec<Step>>>>);

impl Steps {
    /// With the first step of this process, if they are wanted.
    pub fn of_process(wanted: bool, name: &str) -> Self {
        let steps = Self(wanted.then(Arc::default));
        steps.add(&format!("{name}: begins"), BEGUN.get().copied().unwrap_or_else(now));
        steps
    }

    /// This has been done just now.
    pub fn done(&self, what: &str) {
        if self.0.is_some() {
            self.add(what, now());
        }
    }

    /// This was done then.
    pub fn add(&self, what: &str, at: u64) {
        let Some(steps) = &self.0 else { return };
        let mut steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
        if steps.len() < STEPS_MAX {
            steps.push(Step { what: what.to_owned(), at });
        }
    }

    /// Takes them out.
    pub fn take(&self) -> Vec<Step> {
        let Some(steps) = &self.0 else { return Vec::new() };
        std::mem::take(&mut steps.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether any are kept.
    pub fn are_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// All steps as lines for a person: when, how long after the step before it of the same process, what.
    pub fn table(&self) -> Option<String> {
        let mut steps = self.take();
        steps.sort_by_key(|step| step.at);
        let first = steps.first()?.at;
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        let mut before = first;
        let mut table = String::from(
            "milliseconds since the command began, since the process's step before, what was done",
        );
        for Step { what, at } in steps {
            let process = what.split(':').next().unwrap_or_default().to_owned();
            let since = last.insert(process, at).unwrap_or(before);
            let (at_millis, own) = (millis(at - first), millis(at - since));
            table.push_str(&format!("\n  {at_millis:>7.2} {own:>+7.2}  {what}"));
            before = at;
        }
        Some(table)
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_in_the_order_of_time_and_no_more_than_the_bound() {
        let steps = Steps::of_process(true, "a");
        steps.take();
        steps.add("a: late", 3_500_000);
        steps.add("b: between", 3_000_000);
        steps.add("a: early", 2_000_000);
        let table = steps.table().unwrap();
        let lines: Vec<&str> = table.lines().skip(1).map(str::trim).collect();
        let expected = ["0.00   +0.00  a: early", "1.00   +1.00  b: between", "1.50   +1.50  a: late"];
        assert_eq!(lines, expected, "{table}");
        for _ in 0..2 * STEPS_MAX {
            steps.done("again");
        }
        assert_eq!(steps.take().len(), STEPS_MAX);
    }

    #[test]
    fn unwanted_steps_cost_nothing_and_tell_nothing() {
        let steps = Steps::of_process(false, "a");
        steps.done("b");
        assert_eq!(steps.table(), None);
    }
}
