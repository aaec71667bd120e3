//! An agent's condition, as its actor reports it. The status, the sandbox's end and the operator's error line
//! use it.
//!
//! Decides nothing: whether an agent is started again is up to its actor and the actor tree.

use std::path::{Path, PathBuf};

use agent::actor::AgentEvent;
use agent::health::Health;
use agent::protocol::ExitStatus;
use telemetry::metrics;

use crate::console::one_line;

/// How an agent is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Condition {
    /// Its pid inside, while it runs.
    pub pid: Option<i32>,
    /// When the process was started or found, for its uptime.
    pub since: Option<std::time::Instant>,
    /// Whether it answers. Meaningful only while it runs and has a health check.
    pub health: Health,
    /// Starts after the first.
    pub restarts: u64,
    /// How it ended last, or the exit code that its failed start stands for.
    pub last_exit: Option<ExitStatus>,
    /// Why it could not be started.
    pub refused: Option<String>,
    /// It ended, and no start follows.
    pub over: bool,
    /// It failed more often than its restarts allow: only an operator starts it again.
    pub gave_up: bool,
}

impl Condition {
    pub(super) fn take(&mut self, told: &AgentEvent, name: &str, program: &Program) {
        match told {
            AgentEvent::Started { pid } | AgentEvent::Adopted { pid } => {
                if matches!(told, AgentEvent::Started { .. }) && self.last_exit.is_some() {
                    self.restarts += 1;
                    metrics::agent_restarted(name);
                }
                self.pid = Some(*pid);
                self.health = Health::Starting;
                self.since = Some(std::time::Instant::now());
                self.refused = None;
                (self.over, self.gave_up) = (false, false);
            }
            AgentEvent::Exited { status, restarts, .. } => self.ended(*status, *restarts),
            AgentEvent::WasOver { status, restarts, gave_up } => {
                self.ended(*status, *restarts);
                self.gave_up = *gave_up;
            }
            AgentEvent::Health(health) => self.health = *health,
            AgentEvent::Silent { .. } => self.health = Health::Failing,
            // The agent goes on, or its end is reported separately.
            AgentEvent::Curbed { .. } => {}
            AgentEvent::Refused { why, code, restarts } => {
                (self.pid, self.since) = (None, None);
                self.last_exit = Some(ExitStatus::Code(*code));
                self.refused = Some(mend(&program.name, program.outside.as_deref(), why, *code));
                self.over = !restarts;
            }
        }
    }

    /// Its actor is not started again. Only an agent that is known to have ended is over: there may be a
    /// process that the actor could not even ask for.
    pub(super) fn give_up(&mut self) {
        self.gave_up = true;
        self.over = self.pid.is_none() && self.last_exit.is_some();
    }

    fn ended(&mut self, status: ExitStatus, restarts: bool) {
        (self.pid, self.since) = (None, None);
        self.last_exit = Some(status);
        self.over = !restarts;
    }
}

/// The program that an agent's command begins with.
pub(super) struct Program {
    pub(super) name: String,
    pub(super) outside: Option<PathBuf>,
}

/// Returns the one line for the operator that says what could not be started, and what to do about it.
pub(in crate::compose) fn mend(program: &str, outside: Option<&Path>, why: &str, code: i32) -> String {
    let program = one_line(program);
    match (code, outside) {
        (127, Some(outside)) => format!(
            "{program}: not found inside the sandbox; on this machine it is {}: name it by its whole path, and have the policy show that \
             and, if it is a script, its interpreter (filesystem_policy: read_only)",
            outside.display()
        ),
        (127, None) => format!(
            "{program}: not found inside the sandbox (PATH is {}; a script's interpreter must be there too)",
            agent::environment::PATH
        ),
        (126, _) => {
            format!("{program}: can't be executed inside the sandbox ({why}); is it a program with mode +x?")
        }
        _ => format!("{program}: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_is_given_up_is_over_only_if_it_is_known_to_have_ended() {
        let given_up = |mut condition: Condition| {
            condition.give_up();
            assert!(condition.gave_up);
            condition.over
        };
        let ended = Condition { last_exit: Some(ExitStatus::Code(1)), ..Condition::default() };
        assert!(given_up(ended.clone()));
        assert!(!given_up(Condition { pid: Some(7), ..ended }), "it runs");
        assert!(!given_up(Condition::default()), "its actor could not even ask for it");
    }
}
