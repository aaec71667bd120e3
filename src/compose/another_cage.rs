//! What is carried from one cage to the next: an agent that has ended stays ended on both sides of a turn
//! (`heart::turn`), and the operator who wanted the turn is recorded.
//!
//! The heart is told which agents are over as soon as one is, so that it knows even if the supervisor dies or
//! hangs in a turn. It is also told which processes are about to be stopped. If the turn leads back to the
//! old cage, exactly those start again, however many supervisors die meanwhile: their ends are forgotten
//! once, before any agent starts.

use std::sync::Arc;

use agent::InitClient;
use agent::protocol::{Beginning, ExitStatus, ProcessId, ProcessRecord, ProcessState};
use futures_util::future::select_all;
use serde::{Deserialize, Serialize};
use telemetry::audit::Event;

use super::control::ControlApi;
use super::handover::{Handover, HeartLine, KEEP_AGAIN};
use super::news;
use super::stores::Refused;
use crate::plan::{Mode, slot};
use crate::sealed;

/// An agent that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    agent: String,
    status: ExitStatus,
    /// Its restarts were used up: only an operator starts it again. Init's table doesn't say that.
    gave_up: bool,
}

/// The agents that are over.
pub type Over = Vec<Ended>;

/// How long the heart may take to be told which processes are stopped.
const KEPT_WITHIN: std::time::Duration = std::time::Duration::from_secs(3);

/// The processes that are being stopped for another cage.
#[derive(Debug, Serialize, Deserialize)]
struct Stopped {
    /// The processes that ran when the table was last read.
    ran: Vec<ProcessId>,
    /// All processes with a higher id than this one belong here too, until the table is read again. Init
    /// counts upwards, so they were started between the reading and the stop, as an agent is that was about
    /// to restart.
    behind: Option<ProcessId>,
}

impl Stopped {
    /// Returns the processes of a table that are about to be stopped.
    fn of(rows: &[ProcessRecord]) -> Self {
        let runs = rows.iter().filter(|row| row.state == ProcessState::Running);
        // Init counts from 1.
        let last = rows.iter().map(|row| row.process).max().unwrap_or(ProcessId(0));
        Self { ran: runs.map(|row| row.process).collect(), behind: Some(last) }
    }

    fn has(&self, row: &ProcessRecord) -> bool {
        self.ran.contains(&row.process) || self.behind.is_some_and(|last| row.process > last)
    }

    /// Splits the stopped processes into those that have ended, whether or not their end was noted, and those
    /// that still run. A process that was over before the stop is in neither: it ended of its own accord.
    fn part(&self, rows: &[ProcessRecord]) -> (Vec<ProcessId>, Self) {
        let (run, ended): (Vec<_>, Vec<_>) =
            rows.iter().filter(|row| self.has(row)).partition(|row| row.state == ProcessState::Running);
        let names = |rows: Vec<&ProcessRecord>| rows.into_iter().map(|row| row.process).collect();
        (names(ended), Self { ran: names(run), behind: None })
    }
}

/// Run by the old cage's supervisor before it stops the agents: records who wants the turn, and has the heart
/// keep which agents are over and which processes run.
pub async fn note(desk: &Arc<ControlApi>, heart: &HeartLine, uid: u32) {
    news::tell(heart, &desk.stores.audit.sink(), wanted(uid)).await;
    keep(desk, heart).await;
    keep_who_runs(desk, heart).await;
}

/// Has the heart keep which processes are about to be stopped.
async fn keep_who_runs(desk: &ControlApi, heart: &HeartLine) {
    // Init doesn't answer if it is gone: then there is no way back.
    let Ok(rows) = desk.init.list().await else { return };
    let stopped = Stopped::of(&rows);
    // Bounded: the move must go on, and without this list it is merely told as the agents' own ends.
    let _late = tokio::time::timeout(KEPT_WITHIN, heart.keep_value(slot::STOPPED, || &stopped)).await;
}

/// Returns the audit event that says who wants the move.
pub fn wanted(uid: u32) -> Event {
    let detail = Some("its agents move to another cage".into());
    Event::Operator { action: "policy set".into(), uid: Some(uid), detail }
}

/// Has the heart keep which agents are over, after each change, until the agents are stopped.
pub fn keep_who_is_over(desk: &Arc<ControlApi>, heart: &HeartLine) {
    if desk.plan.mode != Mode::Service {
        return;
    }
    let (desk, heart) = (Arc::clone(desk), heart.clone());
    supervision::essential(async move {
        let mut conditions: Vec<_> = desk.agents.iter().map(|agent| agent.condition.subscribe()).collect();
        while !conditions.is_empty() {
            match keep(&desk, &heart).await {
                Told::Kept => {}
                Told::NotYet => {
                    tokio::time::sleep(KEEP_AGAIN).await;
                    continue;
                }
                Told::NoMore => return,
            }
            let changes = conditions.iter_mut().map(|condition| Box::pin(condition.changed()));
            // The senders live as long as the desk.
            let _ = select_all(changes).await;
        }
    });
}

/// Whether the heart knows which agents are over.
enum Told {
    Kept,
    /// It couldn't be told.
    NotYet,
    /// Agents are being stopped, so their ends mean nothing any more.
    NoMore,
}

/// Has the heart keep which agents are over.
async fn keep(desk: &ControlApi, heart: &HeartLine) -> Told {
    // The lock is held throughout: the last list that the heart gets must be the latest.
    let mut told = desk.over.lock().await;
    let over = match who_is_over(desk).await {
        Some(over) if !desk.stopping.is_cancelled() => over,
        _ => return Told::NoMore,
    };
    if told.as_ref() == Some(&over) {
        return Told::Kept;
    }
    if heart.try_keep(slot::ENDED, &over).await.is_err() {
        return Told::NotYet;
    }
    *told = Some(over);
    Told::Kept
}

/// Returns the agents that are over. `None` if init is gone, and everything with it.
async fn who_is_over(desk: &ControlApi) -> Option<Over> {
    let ended = |row: ProcessRecord| {
        let ProcessState::Exited(status) = row.state else { return None };
        let now = desk.agents.find(&row.agent)?.condition.borrow().clone();
        now.over.then_some(Ended { agent: row.agent, status, gave_up: now.gave_up })
    };
    Some(desk.init.list().await.ok()?.into_iter().filter_map(ended).collect())
}

/// Run by a supervisor before it starts any agent: tells a new init which agents are over, and has an old
/// init forget the ends of the processes that were stopped for the turn. An earlier supervisor that died may
/// have done either already. Returns the agents whose restarts were used up.
///
/// # Errors
/// Errors of init, of the heart's channel, or of a kept file. No agent may be started then.
pub async fn remember(
    handover: &mut Handover,
    init: &InitClient,
    heart: &HeartLine,
) -> Result<Vec<String>, Refused> {
    let over = handover.take(slot::ENDED).map(sealed::read_json::<Over>).transpose()?.unwrap_or_default();
    match handover.beginning {
        Beginning::Cage => {
            for Ended { agent, status, .. } in &over {
                init.remember(agent, *status).await?;
            }
        }
        Beginning::SameCage => {
            if let Some(stopped) = handover.take(slot::STOPPED) {
                let stopped: Stopped = sealed::read_json(stopped)?;
                let (ended, left) = stopped.part(&init.list().await?);
                for process in ended {
                    init.forget(process).await?;
                }
                // A process that is started from here on ends of its own accord.
                heart.try_keep(slot::STOPPED, &left).await?;
            }
        }
        // Init's table says all that is to be known of ends.
        Beginning::Sandbox | Beginning::Succession => {}
    }
    Ok(over.into_iter().filter(|ended| ended.gave_up).map(|ended| ended.agent).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_those_that_were_stopped_are_forgotten_and_no_others() {
        let row = |process, state, noted| ProcessRecord {
            process: ProcessId(process),
            agent: process.to_string(),
            pid: 2,
            start_time: 0,
            pty: false,
            state,
            noted,
        };
        let over = ProcessState::Exited(ExitStatus::Code(0));
        let before =
            [row(1, over, true), row(2, ProcessState::Running, false), row(3, ProcessState::Running, false)];
        let stopped = Stopped::of(&before);
        let after = [
            row(1, over, true),
            row(2, over, true),
            row(3, over, false),
            // Started after the table was read, and stopped with the others, or not stopped yet.
            row(4, over, true),
            row(5, over, false),
            row(6, ProcessState::Running, false),
        ];
        let (ended, left) = stopped.part(&after);
        assert_eq!(ended, [2, 3, 4, 5].map(ProcessId));
        // Read again by another supervisor, with what the first one started.
        let later = [row(1, over, true), row(6, over, false), row(7, over, true)];
        assert_eq!(left.part(&later).0, [ProcessId(6)]);
        assert_eq!(Stopped::of(&[]).part(&after[..2]).0, [1, 2].map(ProcessId));
    }
}
