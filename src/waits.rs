//! How long heart, builder and an operator's commands wait for what may never come, in a stop and in a move
//! between cages. docs/limits.md has a row for each (a test compares the two). Whoever waits for another that
//! waits must wait longer: such a bound is made of the other's here, so that no two of them run out at one
//! moment.

use std::time::Duration;

pub use agent::launch::INIT_PATIENCE;

use crate::plan::STOP_GRACE;

/// What an ordered stop may take beyond the agents' grace before the heart goes on without the supervisor:
/// output and records have three seconds each, and an agent's actor two.
pub const STOP_SLACK: Duration = Duration::from_secs(10);
/// What a process that was killed gets to be gone: one that the kernel can't end (a debugger's, a dead file
/// system's) does nothing more, and is collected later.
pub const GONE_WITHIN: Duration = Duration::from_secs(3);
/// What a wish may take to come whole, and a command to take an answer.
pub const WISH_PATIENCE: Duration = Duration::from_secs(10);
/// What a look at all that a policy names may take: milliseconds, and seconds where a network's file system
/// has to be mounted first.
pub const LOOK_PATIENCE: Duration = Duration::from_secs(15);
/// What a supervisor that is started gets, as a command reckons.
const START: Duration = Duration::from_secs(20);

/// How long a command waits for the end of a sandbox that it has told to stop.
pub const fn of_a_stop(grace: Duration) -> Duration {
    // The heart ends it by force within the slack. Three of its processes may have to be waited for then.
    grace.saturating_add(STOP_SLACK).saturating_add(GONE_WITHIN.saturating_mul(4))
}

/// How long a command waits for agents to be moved: a look at what the policy names, an init that makes its
/// namespaces, then builds and proves, a stop, another supervisor.
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
            ("GONE_WITHIN", GONE_WITHIN),
            ("WISH_PATIENCE", WISH_PATIENCE),
            ("LOOK_PATIENCE", LOOK_PATIENCE),
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
