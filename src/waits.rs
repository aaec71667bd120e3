//! Time limits of the heart, the builder and an operator's commands, in a stop and in a move between cages.
//! docs/limits.md has a row for each (a test compares the two). A process that waits for another one that
//! waits must wait longer. So its limit is computed here from the other's, and no two limits expire at the
//! same moment.

use std::time::Duration;

pub use agent::launch::INIT_PATIENCE;

use crate::plan::STOP_GRACE;

/// How long an ordered stop may take beyond the agents' grace before the heart goes on without the
/// supervisor: output and records have three seconds each, and an agent's actor two.
pub const STOP_SLACK: Duration = Duration::from_secs(10);
/// How long init hears nothing of a reported end while the end's record waits for the disk: whoever dies
/// before leaves the report to its successor.
pub const END_RECORDED_WITHIN: Duration = Duration::from_secs(1);
/// How long a killed process is waited for. One that the kernel can't end (under a debugger, in a dead file
/// system) does nothing more, and is reaped later.
pub const GONE_WITHIN: Duration = Duration::from_secs(3);
/// How long a wish may take to arrive completely, and a command to take an answer.
pub const WISH_PATIENCE: Duration = Duration::from_secs(10);
/// How long the check of everything that a policy names may take: it takes milliseconds, or seconds if a
/// network file system has to be mounted first.
pub const LOOK_PATIENCE: Duration = Duration::from_secs(15);
/// How long a supervisor may take to become ready, beside the starts of its agents. One that takes longer is
/// killed, and another is tried.
pub const READY_WITHIN: Duration = Duration::from_secs(120);
/// How long the start of one agent may take before its actor is tried again. Most take milliseconds.
pub const AGENT_START_WITHIN: Duration =
    agent::client::patience::OF_A_START.saturating_add(Duration::from_secs(10));
/// How much longer for each agent: they start one after the other.
pub const AGENT_READY_WITHIN: Duration = AGENT_START_WITHIN.saturating_add(Duration::from_secs(5));
/// How long a supervisor that starts may say nothing, whereas it says every [`PING_EVERY`] that it is alive.
/// Long enough for one read of a very slow disk.
pub const START_SILENCE: Duration = Duration::from_secs(60);
/// The time between two pings of a supervisor that is ready, and between two signs of life of one that starts
/// (`src/heart/watchdog.rs`).
pub const PING_EVERY: Duration = Duration::from_secs(10);
/// How long a command expects a supervisor's start to take at most.
const START: Duration = Duration::from_secs(20);

/// Returns how long a command waits for the end of a sandbox that it has told to stop.
pub const fn of_a_stop(grace: Duration) -> Duration {
    // After the slack the heart ends the sandbox by force, and may then have to wait for three processes.
    grace.saturating_add(STOP_SLACK).saturating_add(GONE_WITHIN.saturating_mul(4))
}

/// Returns how long a command waits for agents to be moved: the check of what the policy names, an init that
/// makes its namespaces, then builds and proves the cage, a stop, another supervisor's start.
pub const fn of_a_move() -> Duration {
    let built = LOOK_PATIENCE.saturating_add(INIT_PATIENCE.saturating_mul(2));
    built.saturating_add(of_a_stop(STOP_GRACE)).saturating_add(START)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_a_row_for_each() {
        let page = include_str!("../docs/limits.md");
        let (_, section) = page.split_once("\n## Stops and moves\n").unwrap();
        let rows = [
            ("INIT_PATIENCE", INIT_PATIENCE),
            ("STOP_GRACE", STOP_GRACE),
            ("STOP_SLACK", STOP_SLACK),
            ("END_RECORDED_WITHIN", END_RECORDED_WITHIN),
            ("GONE_WITHIN", GONE_WITHIN),
            ("WISH_PATIENCE", WISH_PATIENCE),
            ("LOOK_PATIENCE", LOOK_PATIENCE),
            ("READY_WITHIN", READY_WITHIN),
            ("AGENT_START_WITHIN", AGENT_START_WITHIN),
            ("AGENT_READY_WITHIN", AGENT_READY_WITHIN),
            ("START_SILENCE", START_SILENCE),
            ("PING_EVERY", PING_EVERY),
            ("of_a_stop", of_a_stop(STOP_GRACE)),
            ("of_a_move", of_a_move()),
        ];
        for (name, value) in rows {
            let row = format!("| `{name}` | {value:?} |");
            assert!(section.contains(&row), "docs/limits.md lacks a row that begins with {row}");
        }
        assert_eq!(section.lines().filter(|line| line.starts_with("| `")).count(), rows.len());
    }
}
