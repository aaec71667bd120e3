//! `cofferdam ps`: the sandboxes. The running ones are asked in parallel, so that one that hangs hides no
//! other.

use std::time::Duration;

use futures_util::future::join_all;
use operator::client::{Client, ClientError};
use operator::types::{AgentStatus, Status};
use serde::Serialize;

use crate::cli::args::PsArgs;
use crate::cli::live::{SOON, age, state};
use crate::cli::wait_for;
use crate::console::{print, print_json, say, table};
use crate::failure::{Failure, Outcome};
use crate::state::{Name, Presence, Root};

/// How long a sandbox may take to answer; one that works takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// A sandbox.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Listed {
    /// It has answered with its status.
    Answering(Box<Status>),
    /// Only this much is known of it.
    Named { name: String, state: Known },
}

/// What is known of a sandbox without its answer.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Known {
    /// It is there, and told nothing in time.
    NotAnswering,
    /// It doesn't run; its logs, records and workspace are there.
    Stopped,
}

/// The sandboxes of a state directory.
pub(super) struct Present {
    /// Those that run.
    pub running: Vec<Name>,
    /// Those that don't.
    stopped: Vec<Name>,
    /// Those of other users, of which nothing more can be told.
    others: Vec<Name>,
}

/// `cofferdam ps`.
pub fn ps(root: &Root, args: &PsArgs) -> Outcome {
    let Present { running, stopped, others } = present(root)?;
    if !others.is_empty() {
        let others: Vec<&str> = others.iter().map(Name::as_str).collect();
        say(&format!("left out, since they belong to another user: {}", others.join(", ")));
    }
    let mut listed = wait_for(async { Ok(listed(root, &running).await) })?;
    if args.all {
        let state = Known::Stopped;
        listed.extend(stopped.iter().map(|name| Listed::Named { name: name.to_string(), state }));
    }
    if args.json {
        print_json(&listed)?;
        return Ok(0);
    }
    let mut rows = vec![["NAME", "STATE", "AGENTS", "UPTIME", "POLICY", "PID"].map(String::from).to_vec()];
    rows.extend(listed.iter().map(row));
    print(&table(&rows))?;
    Ok(0)
}

/// Returns the sandboxes that have a directory.
pub(super) fn present(root: &Root) -> Result<Present, Failure> {
    let mut present = Present { running: Vec::new(), stopped: Vec::new(), others: Vec::new() };
    for name in root.names()? {
        match root.presence(&name) {
            Presence::Running => present.running.push(name),
            Presence::Anothers => present.others.push(name),
            Presence::Stopped => present.stopped.push(name),
        }
    }
    Ok(present)
}

/// As [`present`], on a blocking thread: connecting to a socket whose owner accepts no connections may block.
pub(super) async fn there(root: &Root) -> Result<Present, Failure> {
    let root = root.clone();
    let knock = tokio::task::spawn_blocking(move || present(&root));
    knock.await.unwrap_or_else(|_| Err(Failure::refused("the sandboxes could not be looked for")))
}

/// Whether a sandbox runs. Checked on a blocking thread: connecting to a socket whose owner accepts no
/// connections may block.
pub(super) async fn runs(root: &Root, name: &Name) -> bool {
    let (root, name) = (root.clone(), name.clone());
    let knock = tokio::task::spawn_blocking(move || root.is_running(&name));
    // A sandbox that doesn't refuse the connection in time counts as running.
    tokio::time::timeout(SOON, knock).await.map_or(true, |knocked| knocked.unwrap_or(true))
}

/// Asks the sandboxes for their status, and returns the answers in the same order.
pub(super) async fn listed(root: &Root, running: &[Name]) -> Vec<Listed> {
    join_all(running.iter().map(|name| ask(root, name))).await.into_iter().flatten().collect()
}

/// Asks one sandbox. `None` if it has ended meanwhile.
async fn ask(root: &Root, name: &Name) -> Option<Listed> {
    let client = Client::new(root.socket(name));
    match in_time(root, name, client.status()).await {
        Asked::Answered(status) => Some(Listed::Answering(Box::new(status))),
        Asked::Ended => None,
        Asked::Silent => Some(Listed::Named { name: name.to_string(), state: Known::NotAnswering }),
    }
}

/// The result of asking a sandbox that ran a moment ago.
pub(super) enum Asked<T> {
    /// Its answer.
    Answered(T),
    /// It has ended meanwhile.
    Ended,
    /// It is there, and told nothing in time.
    Silent,
}

/// Waits for a sandbox's answer, up to [`PATIENCE`].
pub(super) async fn in_time<T>(
    root: &Root,
    name: &Name,
    answer: impl Future<Output = Result<T, ClientError>>,
) -> Asked<T> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(told)) => Asked::Answered(told),
        Ok(Err(_)) if !runs(root, name).await => Asked::Ended,
        _ => Asked::Silent,
    }
}

/// Returns a table row: name, state, agents, uptime, policy, process.
pub(super) fn row(listed: &Listed) -> Vec<String> {
    let none = || "-".to_owned();
    match listed {
        Listed::Answering(s) => vec![
            s.name.clone(),
            state(s.state).to_owned(),
            s.agents.iter().map(agent).collect::<Vec<_>>().join(","),
            age(s.uptime_ms),
            format!("generation {}", s.policy.generation),
            s.heart_pid.map_or("?".into(), |pid| pid.to_string()),
        ],
        Listed::Named { name, state } => {
            let state = match state {
                Known::NotAnswering => "not answering",
                Known::Stopped => "stopped",
            };
            vec![name.clone(), state.to_owned(), none(), none(), none(), none()]
        }
    }
}

/// Returns an agent's name. If the agent is only started again on command, its state is added, so that it
/// doesn't look like one that works.
fn agent(agent: &AgentStatus) -> String {
    match agent.state.as_str() {
        state @ ("gave-up" | "exited") => format!("{} ({state})", agent.name),
        _ => agent.name.clone(),
    }
}
