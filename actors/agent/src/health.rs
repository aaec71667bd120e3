//! Watches whether an agent still answers: it is asked at intervals, and after so many silences in a row its
//! process is given up.
//!
//! A process that runs but does nothing any more looks well to code that only waits for its end. [`Probe`]
//! asks the agent; [`Pulse`] judges the answers, knows no clock and asks nobody. Must never end a process:
//! that is left to the actor.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, MissedTickBehavior};

/// A way to ask an agent whether it is well.
pub trait Probe: Send + Sync {
    /// Asks once and waits for the answer, but not for ever; `Err` says what came instead of a good one.
    fn ask(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// How an agent is watched.
#[derive(Clone)]
pub struct Watch {
    /// Asks it.
    pub probe: Arc<dyn Probe>,
    /// Time from one question to the next.
    pub every: Duration,
    /// Silences in a row after which it is given up. At least 1.
    pub failures: u32,
    /// Time from its start during which silence doesn't count, until it has answered once: some take a minute
    /// to start.
    pub start: Duration,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { probe: _, every, failures, start } = self;
        f.debug_struct("Watch")
            .field("every", every)
            .field("failures", failures)
            .field("start", start)
            .finish()
    }
}

/// The health of a watched agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// It has not answered yet.
    #[default]
    Starting,
    /// It answers.
    Healthy,
    /// It has been silent, and not yet too often.
    Failing,
}

/// What follows from one answer, or its lack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing new.
    Same,
    /// Its health has changed to this.
    Now(Health),
    /// It is given up.
    GivenUp,
}

/// The answers of one process.
#[derive(Debug, Default)]
struct Pulse {
    health: Health,
    silences: u32,
}

impl Pulse {
    /// Judges an answer or its lack. `age` is the time since the process was started or found.
    fn heard(&mut self, answered: bool, age: Duration, watch: &Watch) -> Verdict {
        let health = match (answered, self.health) {
            (true, _) => Health::Healthy,
            (false, Health::Starting) if age < watch.start => Health::Starting,
            (false, _) => Health::Failing,
        };
        self.silences = if health == Health::Failing { self.silences + 1 } else { 0 };
        let before = std::mem::replace(&mut self.health, health);
        match self.silences {
            silences if silences >= watch.failures => Verdict::GivenUp,
            _ if before == health => Verdict::Same,
            _ => Verdict::Now(health),
        }
    }
}

/// Asks until the process is given up. Tells each change, with what came instead of a good answer, and the
/// giving up last.
pub(crate) async fn watch(watch: Watch, told: impl Fn(Verdict, String)) {
    let (begun, mut pulse) = (Instant::now(), Pulse::default());
    let mut ticks = tokio::time::interval(watch.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = watch.probe.ask().await;
        let verdict = pulse.heard(answer.is_ok(), begun.elapsed(), &watch);
        let is_last = verdict == Verdict::GivenUp;
        if verdict != Verdict::Same {
            told(verdict, answer.err().unwrap_or_default());
        }
        if is_last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Script(Vec<bool>, AtomicU32);

    impl Probe for Script {
        fn ask(&self) -> BoxFuture<'_, Result<(), String>> {
            Box::pin(async {
                let at = self.1.fetch_add(1, Ordering::Relaxed) as usize;
                if self.0.get(at).copied().unwrap_or(false) { Ok(()) } else { Err(format!("silence {at}")) }
            })
        }
    }

    /// Watches an agent that gives these answers; returns what is told, each with the second at which it is.
    async fn told(answers: &[bool], failures: u32, start: u64) -> Vec<(u64, Verdict, String)> {
        let (probe, all, begun) =
            (Script(answers.to_vec(), AtomicU32::new(0)), Mutex::new(Vec::new()), Instant::now());
        let given = Watch {
            probe: Arc::new(probe),
            every: Duration::from_secs(10),
            failures,
            start: Duration::from_secs(start),
        };
        let tell = |verdict, why| all.lock().unwrap().push((begun.elapsed().as_secs(), verdict, why));
        watch(given, tell).await;
        all.into_inner().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn silences_count_in_a_row_and_only_once_it_has_answered() {
        let silent = |at: u64, n: u32| (at, Verdict::GivenUp, format!("silence {n}"));
        let now = |at: u64, health, why: &str| (at, Verdict::Now(health), why.to_owned());
        let all = told(&[false, true, false, true, false, false, false], 3, 120).await;
        assert_eq!(
            all,
            [
                now(10, Health::Healthy, ""),
                now(20, Health::Failing, "silence 2"),
                now(30, Health::Healthy, ""),
                now(40, Health::Failing, "silence 4"),
                silent(60, 6),
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_never_answers_has_its_time_to_start_and_no_more() {
        let all = told(&[], 2, 35).await;
        let failing = (40, Verdict::Now(Health::Failing), "silence 4".to_owned());
        assert_eq!(all, [failing, (50, Verdict::GivenUp, "silence 5".to_owned())]);
        let all = told(&[], 1, 0).await;
        assert_eq!(all, [(0, Verdict::GivenUp, "silence 0".to_owned())]);
    }
}
