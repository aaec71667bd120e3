//! What goes along from one cage to the next: who has ended stays ended, on both sides of a turn
//! (`heart::turn`), and whoever wanted it is on record.
//!
//! The heart is told who is over as soon as somebody is, so that a supervisor that dies or hangs in a turn
//! has said it before; and whom it is about to stop. Where the way leads back it is those that start again,
//! and nobody else, however many supervisors die on it: their ends are forgotten once, before anybody starts.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use agent::InitClient;
use agent::protocol::{Beginning, ExitStatus, ProcessId, ProcessRecord, ProcessState};
use futures_util::future::select_all;
use serde::{Deserialize, Serialize};
use telemetry::audit::Event;

use super::control::Desk;
use super::handover::{Handover, HeartLine};
use super::news;
use super::stores::Refused;
use crate::plan::{Mode, slot};
use crate::sealed;

/// Agents that are over, and how they ended.
pub type Over = Vec<(String, ExitStatus)>;

/// What the heart's file of [`Stopped`] is called.
const STOPPED_FILE: &str = "cofferdam-stopped";

/// Processes that are stopped for another cage.
#[derive(Debug, Serialize, Deserialize)]
struct Stopped {
    /// Those that ran at the last look.
    ran: Vec<ProcessId>,
    /// And all behind this one, until the next look. Init counts upwards: they were started between the look
    /// and the stop, as an agent is that was about to start again.
    behind: Option<ProcessId>,
}

impl Stopped {
    /// Those of a table that are about to be.
    fn of(rows: &[ProcessRecord]) -> Self {
        let runs = rows.iter().filter(|row| row.state == ProcessState::Running);
        // It counts from 1.
        let last = rows.iter().map(|row| row.process).max().unwrap_or(ProcessId(0));
        Self { ran: runs.map(|row| row.process).collect(), behind: Some(last) }
    }

    fn has(&self, row: &ProcessRecord) -> bool {
        self.ran.contains(&row.process) || self.behind.is_some_and(|last| row.process > last)
    }

    /// Those that ended because they were stopped, whether that was noted or not; and the others of them, who
    /// may yet. Whoever was over before has ended on its own account.
    fn part(&self, rows: &[ProcessRecord]) -> (Vec<ProcessId>, Self) {
        let (run, ended): (Vec<_>, Vec<_>) =
            rows.iter().filter(|row| self.has(row)).partition(|row| row.state == ProcessState::Running);
        let names = |rows: Vec<&ProcessRecord>| rows.into_iter().map(|row| row.process).collect();
        (names(ended), Self { ran: names(run), behind: None })
    }
}

/// The old cage's supervisor, before it stops what runs.
pub async fn note(desk: &Arc<Desk>, heart: &HeartLine, uid: u32) {
    news::tell(heart, &desk.stores.audit.sink(), wanted(uid)).await;
    keep(desk, heart).await;
    keep_who_runs(desk, heart).await;
}

/// Has the heart keep who is about to be stopped.
async fn keep_who_runs(desk: &Desk, heart: &HeartLine) {
    // None where init is gone: there is no way back.
    let Ok(rows) = desk.init.list().await else { return };
    if let Ok(fd) = sealed::seal_json(STOPPED_FILE, &Stopped::of(&rows)) {
        let _ = heart.keep(slot::STOPPED, fd.as_fd()).await;
    }
}

/// Who wants this.
pub fn wanted(uid: u32) -> Event {
    let detail = Some("its agents move to another cage".into());
    Event::Operator { action: "policy set".into(), uid: Some(uid), detail }
}

/// Has the heart keep who is over, whenever somebody is, until they are stopped.
pub fn keep_who_is_over(desk: &Arc<Desk>, heart: &HeartLine) {
    if desk.plan.mode != Mode::Service {
        return;
    }
    let (desk, heart) = (Arc::clone(desk), heart.clone());
    tokio::spawn(async move {
        let mut conditions: Vec<_> = desk.agents.iter().map(|agent| agent.condition.subscribe()).collect();
        while !conditions.is_empty() && keep(&desk, &heart).await {
            let changes = conditions.iter_mut().map(|condition| Box::pin(condition.changed()));
            // The senders live as long as the desk.
            let _ = select_all(changes).await;
        }
    });
}

/// False once agents are being stopped, whose ends say nothing.
async fn keep(desk: &Desk, heart: &HeartLine) -> bool {
    // One at a time: the last list that the heart is told must be the latest.
    let mut told = desk.over.lock().await;
    let over = match who_is_over(desk).await {
        Some(over) if !desk.stopping.load(Ordering::Relaxed) => over,
        _ => return false,
    };
    if told.as_ref() != Some(&over)
        && let Ok(fd) = sealed::seal_json("cofferdam-ended", &over)
        && heart.keep(slot::ENDED, fd.as_fd()).await.is_ok()
    {
        *told = Some(over);
    }
    true
}

/// None where init is gone: everything ended.
async fn who_is_over(desk: &Desk) -> Option<Over> {
    let is_over = |name: &str| desk.agents.find(name).is_some_and(|agent| agent.condition.borrow().over);
    let rows = desk.init.list().await.ok()?.into_iter();
    Some(
        rows.filter_map(|row| match row.state {
            ProcessState::Exited(status) if is_over(&row.agent) => Some((row.agent, status)),
            _ => None,
        })
        .collect(),
    )
}

/// A supervisor, before it starts anyone: tells a new init who is over, and has an old one forget the ends
/// that count for nothing. Both may have been done by one before it, that died.
///
/// # Errors
/// Init's; nobody may be started then.
pub async fn remember(handover: &mut Handover, init: &InitClient, heart: &HeartLine) -> Result<(), Refused> {
    match handover.beginning {
        Beginning::Cage => {
            let over = handover.take(slot::ENDED).map(sealed::read_json::<Over>).transpose()?;
            for (agent, status) in over.unwrap_or_default() {
                init.remember(&agent, status).await?;
            }
        }
        Beginning::SameCage => {
            if let Some(stopped) = handover.take(slot::STOPPED) {
                let stopped: Stopped = sealed::read_json(stopped)?;
                let (ended, left) = stopped.part(&init.list().await?);
                for process in ended {
                    init.forget(process).await?;
                }
                // Whoever is started from here on ends on its own account.
                heart.keep(slot::STOPPED, sealed::seal_json(STOPPED_FILE, &left)?.as_fd()).await?;
            }
        }
        // Its table says everything.
        Beginning::Sandbox | Beginning::Succession => {}
    }
    Ok(())
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
            // Started after the look, and stopped with the others, or not yet.
            row(4, over, true),
            row(5, over, false),
            row(6, ProcessState::Running, false),
        ];
        let (ended, left) = stopped.part(&after);
        assert_eq!(ended, [2, 3, 4, 5].map(ProcessId));
        // Looked at again by another supervisor: with what the first one started.
        let later = [row(1, over, true), row(6, over, false), row(7, over, true)];
        assert_eq!(left.part(&later).0, [ProcessId(6)]);
        assert_eq!(Stopped::of(&[]).part(&after[..2]).0, [1, 2].map(ProcessId));
    }
}
