//! Tells the operator what agents' logs lose while a disk takes nothing: at once the first time, and then
//! once a minute with the sum.
//!
//! How much an agent writes is in its own hands, so a line for each lost write would let it fill the
//! operator's own log without limit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use telemetry::metrics;

/// From one line about an agent to the next.
const APART: Duration = Duration::from_secs(60);

/// The agents that a line was said about within the last minute, each with the bytes lost since.
pub struct LostLogs {
    untold: Arc<Mutex<HashMap<String, u64>>>,
    tell: Tell,
    apart: Duration,
}

type Tell = Arc<dyn Fn(&str, u64) + Send + Sync>;

impl Default for LostLogs {
    fn default() -> Self {
        let tell = |agent: &str, bytes: u64| {
            tracing::warn!(agent, bytes, "the agent's log could not be written; is the disk full?");
        };
        Self { untold: Arc::default(), tell: Arc::new(tell), apart: APART }
    }
}

impl LostLogs {
    /// Counts bytes that an agent's log has lost. Must be called in a runtime: the sum of what follows is
    /// told by a task, also if nothing more is lost.
    pub fn lose(&self, agent: &str, bytes: u64) {
        metrics::log_lost(agent, bytes);
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sum) = untold.get_mut(agent) {
            *sum = sum.saturating_add(bytes);
            return;
        }
        untold.insert(agent.to_owned(), 0);
        drop(untold);
        (self.tell)(agent, bytes);
        let (untold, tell, apart) = (Arc::clone(&self.untold), Arc::clone(&self.tell), self.apart);
        let agent = agent.to_owned();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(apart).await;
                match take(&untold, &agent) {
                    0 => return,
                    sum => tell(&agent, sum),
                }
            }
        });
    }
}

/// Takes the sum of an agent. Where nothing was lost for a whole minute the agent is forgotten, so that its
/// next loss is told at once again.
fn take(untold: &Mutex<HashMap<String, u64>>, agent: &str) -> u64 {
    let mut untold = untold.lock().unwrap_or_else(PoisonError::into_inner);
    let sum = untold.get_mut(agent).map(std::mem::take).unwrap_or_default();
    if sum == 0 {
        untold.remove(agent);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn the_first_loss_is_told_at_once_and_what_follows_as_a_sum() {
        let (told, mut lines) = mpsc::unbounded_channel();
        let tell = move |agent: &str, bytes| drop(told.send((agent.to_owned(), bytes)));
        let lost =
            LostLogs { untold: Arc::default(), tell: Arc::new(tell), apart: Duration::from_millis(100) };
        lost.lose("a", 5);
        assert_eq!(lines.try_recv().unwrap(), ("a".to_owned(), 5));
        for _ in 0..1000 {
            lost.lose("a", 7);
        }
        assert!(lines.try_recv().is_err(), "summed up");
        lost.lose("b", 1);
        assert_eq!(lines.try_recv().unwrap(), ("b".to_owned(), 1), "each agent for itself");
        assert_eq!(lines.recv().await.unwrap(), ("a".to_owned(), 7000), "though nothing more is lost");
        while !lost.untold.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        lost.lose("a", 3);
        assert_eq!(lines.try_recv().unwrap(), ("a".to_owned(), 3), "at once again");
    }
}
