//! The step clock: shows where the time of a start and of an end goes, for `run --timings`.
//!
//! Every process of a sandbox timestamps what it has done by one clock (CLOCK_MONOTONIC, which all of them
//! share). The heart collects the timestamps and prints them at the end, each with the time since the same
//! process's previous one. Without `--timings` a timestamp costs one check of a flag.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

/// How many steps are kept at most: a start has some twenty, and a supervisor can't make the heart keep more.
pub const STEPS_MAX: usize = 64;

/// A step: what was done, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What was done, after the name of the process that did it and a colon.
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

/// Notes the time of this process's first own instruction. What the kernel and the loader did before isn't
/// included.
pub fn begin() {
    let _ = BEGUN.set(now());
}

/// The steps so far; clones share them. Steps are kept only if they were asked for.
#[derive(Debug, Clone, Default)]
pub struct Steps(Option<Arc<Mutex<Vec<Step>>>>);

impl Steps {
    /// Begins the list with the first step of this process. Keeps no steps unless they are `wanted`.
    pub fn of_process(wanted: bool, name: &str) -> Self {
        let steps = Self(wanted.then(Arc::default));
        steps.add(&format!("{name}: begins"), BEGUN.get().copied().unwrap_or_else(now));
        steps
    }

    /// Adds a step that was done just now.
    pub fn done(&self, what: &str) {
        if self.0.is_some() {
            self.add(what, now());
        }
    }

    /// Adds a step with its time.
    pub fn add(&self, what: &str, at: u64) {
        let Some(steps) = &self.0 else { return };
        let mut steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
        if steps.len() < STEPS_MAX {
            steps.push(Step { what: what.to_owned(), at });
        }
    }

    /// Takes the steps out.
    pub fn take(&self) -> Vec<Step> {
        let Some(steps) = &self.0 else { return Vec::new() };
        std::mem::take(&mut steps.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether steps are kept.
    pub fn are_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Takes the steps and formats them as lines for a person: when, how long after the same process's
    /// previous step, what. `None` if there are none.
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
