//! Whether an agent still answers: it is asked at intervals, and after so many silences in a row its process
//! is given up.
//!
//! A process that runs and does nothing any more looks well to whoever waits for its end. How it is asked is
//! [`Probe`]'s; what its answers come to is [`Pulse`]'s, which knows no clock and asks nobody. Must never end
//! anything: that is the actor's.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, MissedTickBehavior};

/// Asks an agent once.
pub trait Probe: Send + Sync {
    /// Waits for its answer, but not for ever; `Err` says what came instead of a good one.
    fn ask(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// How an agent is watched.
#[derive(Clone)]
pub struct Watch {
    /// Asks it.
    pub probe: Arc<dyn Probe>,
    /// From one question to the next.
    pub every: Duration,
    /// So many silences in a row, and it is given up. At least 1.
    pub failures: u32,
    /// Until it has answered once, silence counts only after this time: some take a minute to start.
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

/// How an agent is that is watched.
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

/// What one answer, or its lack, comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing new.
    Same,
    /// Its health is another one.
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
    /// `age`: since the process was started or found.
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

/// Asks until the process is given up, and tells each change and, last, why.
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

    /// What is told, at which second.
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
