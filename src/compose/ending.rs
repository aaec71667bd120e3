//! How a supervisor's work ends, and what is done before it does.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use agent::protocol::ToSupervisor;
use agent::wire::WireError;
use nix::libc;
use supervision::Outcome;
use telemetry::audit::SandboxChange;
use tokio::sync::mpsc;

use super::LAST_SAID;
use super::another_cage;
use super::control::ControlApi;
use super::handover::{Handover, HeartLine};
use super::records;
use super::stores::Refused;
use crate::console;
use crate::failure::REFUSED;
use crate::plan::{Mode, STOP_GRACE, slot};
use crate::sealed;
use crate::state;

/// How long output, records and answers to questions may each take to finish.
const LAST_WORK: Duration = Duration::from_secs(3);

/// How long a failed supervisor watches whether the heart is gone: the kernel closes a dead process's
/// descriptors one after the other.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// How a supervisor's work ends.
pub enum End {
    /// The sandbox is over.
    Over {
        /// Its exit code.
        code: u8,
        /// What the operator should be told.
        message: Option<String>,
    },
    /// A part failed beyond its limit: this process ends, the sandbox goes on.
    Escalated(String),
    /// The heart is gone, and with it the sandbox.
    HeartGone,
}

/// Waits for the end, and acts on the heart's messages meanwhile.
pub async fn wait_for_end(
    desk: &Arc<ControlApi>,
    heart: &HeartLine,
    mut told_to_end: mpsc::Receiver<Duration>,
) -> End {
    let escalated = async {
        match desk.tree.get() {
            Some(tree) => match tree.outcome().await {
                Outcome::Escalated { child, failure } => {
                    format!("{child} failed beyond its limit: {failure}")
                }
                Outcome::Stopped => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    };
    let over = async {
        if desk.plan.mode == Mode::Service {
            // A service stays when its agents are over, so that they can be looked at and restarted. One that
            // was told to stop ends with them.
            desk.stopping.cancelled().await;
            desk.agents.all_over().await;
            return End::Over { code: 0, message: None };
        }
        let last = desk.agents.all_over().await;
        let code = last.last_exit.and_then(|exit| u8::try_from(exit.code()).ok()).unwrap_or(REFUSED);
        End::Over { code, message: last.refused }
    };
    let alone = desk.agents.one_without_actor();
    tokio::pin!(escalated, alone, over);
    loop {
        tokio::select! {
            why = &mut escalated => return End::Escalated(why),
            end = &mut over => return end,
            // The next supervisor's actor takes the process over.
            agent = &mut alone => {
                return End::Escalated(format!("the actor of agent '{agent}' failed beyond its limit, and its process may run"));
            }
            Some(grace) = told_to_end.recv() => stop_agents(desk, grace),
            heard = heart.hear() => match heard {
                Ok(ToSupervisor::Signal(libc::SIGTERM)) => stop_agents(desk, STOP_GRACE),
                Ok(ToSupervisor::Signal(libc::SIGHUP)) if desk.plan.mode == Mode::Service => {
                    // A reloader that is down reads the file when it starts.
                    let _ = desk.addresses.policy.cast(policy::actor::Msg::Reload(policy::watch::Look::Meant));
                }
                Ok(ToSupervisor::Signal(signo)) => desk.agents.signal(signo),
                Ok(ToSupervisor::Winch) => desk.agents.resize(),
                // If this fails, the heart is gone, as the next look at the channel shows.
                Ok(ToSupervisor::Ping) => drop(heart.alive().await),
                Ok(ToSupervisor::Turn { uid }) => {
                    another_cage::note(desk, heart, uid).await;
                    stop_agents(desk, STOP_GRACE);
                }
                Ok(ToSupervisor::Handover { .. } | ToSupervisor::HandoverEnd { .. }) => {}
                Err(_) => return End::HeartGone,
            },
        }
    }
}

/// Ends the agents in a background task. [`wait_for_end`] sees their end as it sees any other. Told again, it
/// ends them by the grace of then, if that is over sooner.
fn stop_agents(desk: &Arc<ControlApi>, grace: Duration) {
    desk.stopping.cancel();
    let desk = Arc::clone(desk);
    tokio::spawn(async move { desk.agents.stop(grace, desk.tree.get()).await });
}

/// Puts the sandbox's end on record, and waits until all records are on disk. The actor that writes them must
/// still be there.
pub async fn last_records(desk: &ControlApi, message: Option<String>) {
    desk.stores.audit.ends();
    records::sandbox(&desk.stores.audit.sink(), SandboxChange::Stopped, &desk.plan.name, message);
    desk.stores.audit.flush(LAST_WORK).await;
}

/// Does the last work of a sandbox that is over: writes every byte of output and every record. Meanwhile the
/// heart ends what is left inside.
pub async fn close(
    desk: &ControlApi,
    heart: &HeartLine,
    code: u8,
    message: Option<String>,
) -> Result<(), WireError> {
    desk.stopping.cancel();
    if let Some(approvals) = &desk.stores.approvals {
        approvals.settled(LAST_WORK).await;
    }
    // In parallel: a pipe that a stray process holds open costs the full time once, not once per agent.
    let drains = desk.agents.iter().map(|agent| desk.stores.streams.agent_drained(&agent.name, LAST_WORK));
    tokio::join!(futures_util::future::join_all(drains), desk.exec.end(LAST_WORK));
    heart.steps.done("supervisor: output out");
    // As write(2)'s error is for any program: what was asked for didn't all arrive.
    let code = if code == 0 && desk.stores.streams.have_lost_output() { REFUSED } else { code };
    heart.over(code, message.clone()).await.inspect_err(|_| clean_up())?;
    last_records(desk, message.clone()).await;
    heart.steps.done("supervisor: records on disk");
    let refused = match desk.plan.mode {
        Mode::Foreground { .. } if !desk.plan.quiet => desk.stores.refusals.told(&desk.plan.name),
        _ => None,
    };
    // The actors have nothing left to finish: they end with this process.
    finish(heart, code, refused, message).await
}

/// Sends the last message to the heart, which then kills this process, or closes the channel so that this
/// process ends. The heart may also die before it reads the message.
pub async fn finish(
    heart: &HeartLine,
    code: u8,
    refused: Option<String>,
    message: Option<String>,
) -> Result<(), WireError> {
    // The heart may kill this process as soon as it has the message, so console messages go out first.
    tokio::task::block_in_place(|| console::flush(LAST_SAID));
    let said = heart.finish(code, refused, message).await;
    if said.is_ok() {
        until_it_is_gone(heart).await;
    }
    // As long as this process lives, no other sandbox has this name: the lock came with the handover.
    clean_up();
    said
}

/// Called before a supervisor ends and relies on the heart to start another: the failure may come from the
/// heart's own death, which ends init before our channel shows it. Cleans up in that case.
pub async fn given_up(heart: &HeartLine, why: Refused) -> Refused {
    if tokio::time::timeout(LAST_LOOK, until_it_is_gone(heart)).await.is_ok() {
        clean_up();
    }
    why
}

async fn until_it_is_gone(heart: &HeartLine) {
    while heart.hear().await.is_ok() {}
}

/// Records that the sandbox was ended without its agents having been stopped in order: by a heart that waits
/// no longer, or by the heart's death. What the disk takes of that within a moment is all that there is time
/// for.
pub async fn cut_off(desk: &ControlApi) {
    desk.stores.audit.ends();
    let why = Some("ended by force".to_owned());
    records::sandbox(&desk.stores.audit.sink(), SandboxChange::Stopped, &desk.plan.name, why);
    desk.stores.audit.flush(LAST_SAID).await;
    clean_up();
}

/// Removes the sockets, which must not outlive the sandbox. If the heart was killed, no other process may be
/// left to do it.
pub fn clean_up() {
    state::remove_sockets();
}

/// Returns when the sandbox started: the time that the heart keeps from the first supervisor, or now.
pub async fn started_at(handover: &mut Handover, heart: &HeartLine) -> jiff::Timestamp {
    if let Some(kept) = handover.take(slot::STARTED).and_then(|fd| sealed::read_json(fd).ok()) {
        return kept;
    }
    let now = jiff::Timestamp::now();
    if let Ok(fd) = sealed::seal_json("cofferdam-started", &now) {
        let _ = heart.keep(slot::STARTED, fd.as_fd()).await;
    }
    now
}
