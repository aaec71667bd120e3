//! What goes along from one cage to the next: who has ended stays ended, on both sides of a turn (`heart::turn`), and whoever wanted it is
//! on record.
//!
//! The heart is told who is over as soon as somebody is, so that a supervisor that dies or hangs in a turn has said it before.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use agent::InitClient;
use agent::protocol::{Beginning, ExitStatus, ProcessState};
use futures_util::future::select_all;
use telemetry::audit::{Event, Sink};

use super::control::Desk;
use super::handover::{Handover, HeartLine};
use super::records::record;
use super::stores::Refused;
use crate::plan::{Mode, slot};
use crate::sealed;

/// Agents that are over, and how they ended.
pub type Over = Vec<(String, ExitStatus)>;

/// The old cage's supervisor, before it stops what runs.
pub async fn note(desk: &Arc<Desk>, heart: &HeartLine, uid: u32) {
    wanted(&desk.stores.audit.sink(), uid);
    keep(desk, heart).await;
}

/// Records who wants this.
pub fn wanted(sink: &Sink, uid: u32) {
    let detail = Some("its agents move to another cage".into());
    record(sink, Event::Operator { action: "policy set".into(), uid: Some(uid), detail });
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
    let rows = desk.exec.init.list().await.ok()?.into_iter();
    Some(
        rows.filter_map(|row| match row.state {
            ProcessState::Exited(status) if is_over(&row.agent) => Some((row.agent, status)),
            _ => None,
        })
        .collect(),
    )
}

/// A supervisor, before it starts anyone: tells init who is over, which it may know already.
///
/// # Errors
/// Init's; nobody may be started then.
pub async fn remember(handover: &mut Handover, init: &InitClient) -> Result<(), Refused> {
    if handover.beginning == Beginning::SameCage {
        // They ended because they were stopped, which was noted; what has ended since is news.
        for row in init.list().await? {
            if row.noted && row.state != ProcessState::Running {
                init.forget(row.process).await?;
            }
        }
    }
    let Some(fd) = handover.take(slot::ENDED) else { return Ok(()) };
    for (agent, status) in sealed::read_json::<Over>(fd)? {
        init.remember(&agent, status).await?;
    }
    Ok(())
}
