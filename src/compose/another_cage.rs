//! What goes along from one cage to the next: who has ended stays ended, on both sides of a turn (`heart::turn`).

use std::os::fd::AsFd;
use std::sync::Arc;

use agent::InitClient;
use agent::protocol::{ExitStatus, ProcessState};
use operator::Peer;

use super::control::Desk;
use super::handover::{Handover, HeartLine};
use super::stores::Refused;
use crate::plan::slot;
use crate::sealed;

/// The old cage's supervisor, before it stops what runs: has the heart keep who was over before, and records who wants this.
pub async fn note(desk: &Arc<Desk>, heart: &HeartLine, uid: u32) {
    desk.done(Peer { uid, pid: None }, "policy set", "its agents move to another cage".into());
    let over: Vec<(String, ExitStatus)> = match desk.exec.init.list().await {
        Ok(rows) => rows
            .into_iter()
            .filter_map(|row| match row.state {
                ProcessState::Exited(status) => Some((row.agent, status)),
                ProcessState::Running => None,
            })
            .filter(|(agent, _)| desk.agents.find(agent).is_some_and(|agent| agent.condition.borrow().over))
            .collect(),
        // It ended this very moment: so did everything.
        Err(_) => Vec::new(),
    };
    if let Ok(fd) = sealed::seal_json("cofferdam-ended", &over) {
        let _ = heart.keep(slot::ENDED, fd.as_fd()).await;
    }
}

/// The new cage's supervisor, before it starts anyone: tells init who is over.
///
/// # Errors
/// Init's; nobody may be started then.
pub async fn remember(handover: &mut Handover, init: &InitClient, heart: &HeartLine) -> Result<(), Refused> {
    let Some(fd) = handover.take(slot::ENDED) else { return Ok(()) };
    for (agent, status) in sealed::read_json::<Vec<(String, ExitStatus)>>(fd)? {
        init.remember(&agent, status).await?;
    }
    // Init knows it from here on, whoever supervises.
    Ok(heart.release(slot::ENDED).await?)
}
