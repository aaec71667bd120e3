//! Commands about one running sandbox: `status`, `tree`, `stop`, `restart`, `crash`.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use operator::client::{Client, ClientError};
use operator::fault::Code;
use operator::types::{AgentStatus, Exit, SandboxState, Status, Stop, TreeNode};
use tokio::time::timeout;

use crate::cli::args::{ActorArgs, NamedJson, StopArgs};
use crate::cli::{parts, wait_for};
use crate::console::{Paint, print, print_json, table};
use crate::failure::{Failure, Outcome};
use crate::plan::STOP_GRACE;
use crate::state::{Name, Root};
use crate::waits;

/// How long to wait for the supervisor. It answers sooner, even if it was just restarted.
pub(super) const SOON: Duration = Duration::from_secs(6);

/// Returns a client of a running sandbox.
pub fn client(root: &Root, name: &str) -> Result<Client, Failure> {
    let name = Name::parse(name)?;
    root.require_running(&name)?;
    Ok(Client::new(root.socket(&name)))
}

/// Converts a failed call into a message for a person.
pub fn failure(error: ClientError) -> Failure {
    match error {
        ClientError::Local(error) => Failure::from(error),
        other => Failure::refused(other.to_string()),
    }
}

/// `cofferdam status`.
pub fn status(root: &Root, args: &NamedJson) -> Outcome {
    let client = client(root, &args.name)?;
    let status = wait_for(async { client.status().await.map_err(failure) })?;
    if args.json {
        print_json(&status)?;
    } else {
        print(&status_text(&status, Paint::stdout()))?;
    }
    Ok(0)
}

fn status_text(s: &Status, paint: Paint) -> String {
    let shown_state = match s.state {
        SandboxState::Running => paint.good(state(s.state)),
        _ => paint.warn(state(s.state)),
    };
    let mut rows = vec![vec!["sandbox".into(), s.name.clone()], vec!["state".into(), shown_state]];
    rows.extend(audit_row(s.audit_refuses.as_deref(), paint));
    rows.extend([
        vec!["up".into(), age(s.uptime_ms)],
        vec!["started as".into(), if s.rooted { "root" } else { "ordinary user" }.into()],
        vec!["enforcement".into(), s.enforcement.clone()],
        vec!["policy".into(), format!("generation {}, sha256 {}", s.policy.generation, s.policy.sha256)],
        vec!["supervisor".into(), format!("pid {}, {} restarts", s.supervisor_pid, s.supervisor_restarts)],
    ]);
    for agent in &s.agents {
        let pid = agent.pid.map_or(String::new(), |pid| format!(", pid {pid} inside"));
        let health = agent.health.as_ref().map_or(String::new(), |health| format!(", {health}"));
        rows.push(vec![
            format!("agent {}", agent.name),
            format!("{}{pid}{health}, {} restarts{}", agent.state, agent.restarts, last_exit(agent)),
        ]);
    }
    for provider in &s.providers {
        rows.push(vec![
            format!("provider {}", provider.name),
            format!(
                "{} at {}, trust {}, cost {}: {}",
                provider.kind, provider.endpoint, provider.trust, provider.cost, provider.state
            ),
        ]);
    }
    for budget in &s.budgets {
        let of = |what: &str, name: &Option<String>| {
            name.as_ref().map_or_else(String::new, |name| format!(", {what} {name}"))
        };
        let (provider, model) = (of("provider", &budget.provider), of("model", &budget.model));
        let limits = [("tokens", budget.tokens), ("requests", budget.requests)];
        let used: Vec<String> = limits
            .iter()
            .filter_map(|(what, it)| {
                let it = it.as_ref()?;
                let used = it.used.map_or_else(|| "an unknown part".to_owned(), |used| used.to_string());
                Some(format!("{used} of {} {what}", it.limit))
            })
            .collect();
        let state = match budget.state.as_str() {
            "open" => paint.good("open"),
            other => paint.bad(other),
        };
        rows.push(vec![
            format!("budget a {}{provider}{model}", budget.per),
            format!("{state}  {} until {}", used.join(", "), budget.ends_at),
        ]);
    }
    for credential in &s.credentials {
        let held = credential.env.as_ref().map_or(String::new(), |name| format!("as {name} inside, "));
        rows.push(vec![
            format!("credential {}", credential.name),
            format!("{held}may go to {}", credential.uses.join("; ")),
        ]);
    }
    for control in &s.controls {
        let word = if control.enforced { paint.good("enforced") } else { paint.bad("MISSING") };
        let detail = control.detail.as_deref().map_or(String::new(), |d| format!("  {d}"));
        rows.push(vec![format!("control {}", control.name), format!("{word}{detail}")]);
    }
    table(&rows)
}

/// Returns the row about an audit log that refuses: next to the state, since agents get nothing out although
/// every part is up.
fn audit_row(refuses: Option<&str>, paint: Paint) -> Option<Vec<String>> {
    Some(vec!["audit log".into(), format!("{}  {}", paint.bad("REFUSES"), refuses?)])
}

/// `cofferdam tree`.
pub fn tree(root: &Root, args: &NamedJson) -> Outcome {
    let client = client(root, &args.name)?;
    let tree = wait_for(async { client.tree().await.map_err(failure) })?;
    if args.json {
        print_json(&tree)?;
    } else {
        let mut rows = vec![["ACTOR", "STATE", "UP", "RESTARTS", "LAST FAILURE"].map(String::from).to_vec()];
        branch(&tree, "", "", &mut rows);
        let paint = Paint::stdout();
        for state in rows.iter_mut().skip(1).filter_map(|row| row.get_mut(1)) {
            *state = if state == "up" { paint.good(state) } else { paint.warn(state) };
        }
        print(&table(&rows))?;
    }
    Ok(0)
}

/// Adds a row for a node and for each node below it: name with the lines that lead to it, state, uptime,
/// restarts, last failure.
pub(super) fn branch(node: &TreeNode, lead: &str, below: &str, rows: &mut Vec<Vec<String>>) {
    rows.push(vec![
        format!("{lead}{}", node.name),
        node.state.clone(),
        node.uptime_ms.map_or("-".into(), age),
        node.restarts.to_string(),
        node.last_failure.clone().unwrap_or_default(),
    ]);
    for (n, child) in node.children.iter().enumerate() {
        let last = n + 1 == node.children.len();
        let (lead, further) = if last { ("└── ", "    ") } else { ("├── ", "│   ") };
        branch(child, &format!("{below}{lead}"), &format!("{below}{further}"), rows);
    }
}

/// `cofferdam stop`.
pub fn stop(root: &Root, args: &StopArgs) -> Outcome {
    let client = client(root, &args.name)?;
    let grace = u64::try_from(args.grace.as_millis()).unwrap_or(u64::MAX);
    let name = Name::parse(&args.name)?;
    let heart = root.heart(&name);
    match &heart {
        Ok(heart) => parts::wake(*heart),
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => {
            return end_what_is_left(root, &name);
        }
        // The sandbox is just ending by itself.
        Err(_) => {}
    }
    wait_for(async {
        match timeout(SOON, client.stop(Stop { grace_ms: Some(grace) })).await {
            Ok(Err(error)) if !has_answered(&error) => end_by_its_heart(root, &name),
            Err(_) => end_by_its_heart(root, &name),
            Ok(answer) => answer.map(drop).map_err(failure),
        }
    })?;
    // If only the heart could be told, the agents get the default grace.
    let until = std::time::Instant::now().checked_add(waits::of_a_stop(args.grace.max(STOP_GRACE)));
    while root.is_running(&name) {
        if until.is_some_and(|until| std::time::Instant::now() > until) {
            let left = heart.map(parts::left).unwrap_or_default();
            return Err(Failure::refused(format!(
                "'{name}' was told to stop, but is still there: {left}; see `cofferdam ps`"
            )));
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(0)
}

/// Ends what a killed heart has left. Those processes end by themselves, unless they are stopped or hang.
fn end_what_is_left(root: &Root, name: &Name) -> Outcome {
    let dir = root.instance(name);
    parts::wake_left_behind(&dir);
    if !is_gone_soon(root, name) {
        parts::end_left_behind(&dir);
        if !is_gone_soon(root, name) {
            return Err(Failure::refused(format!(
                "the heart of '{name}' is gone, and something that it left can't be ended: see `cofferdam ps`"
            )));
        }
    }
    Ok(0)
}

fn is_gone_soon(root: &Root, name: &Name) -> bool {
    let until = std::time::Instant::now() + waits::GONE_WITHIN;
    // The socket is removed first; the lock is held until the last process that has it ends.
    while root.is_running(name) || !parts::is_none_left_behind(&root.instance(name)) {
        if std::time::Instant::now() > until {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    true
}

/// Whether the supervisor itself has answered. A lost connection, a timeout and `Unavailable` (an actor is
/// down, or all places are taken) don't count.
fn has_answered(error: &ClientError) -> bool {
    match error {
        ClientError::Lost(_) | ClientError::Timeout(_) => false,
        ClientError::Fault(fault) => fault.code != Code::Unavailable,
        _ => true,
    }
}

/// Tells the heart to end the sandbox, which it does even without a supervisor.
fn end_by_its_heart(root: &Root, name: &Name) -> Result<(), Failure> {
    let signalled = root.heart(name).and_then(|heart| Ok(kill(heart, Signal::SIGTERM)?));
    signalled
        .map_err(|e| Failure::refused(format!("'{name}' does not answer, and can't be told to stop: {e}")))
}

/// `cofferdam restart`.
pub fn restart(root: &Root, args: &ActorArgs) -> Outcome {
    let client = client(root, &args.name)?;
    wait_for(async { client.restart(&args.actor).await.map_err(failure) }).map(|_| 0)
}

/// `cofferdam crash`.
pub fn crash(root: &Root, args: &ActorArgs) -> Outcome {
    let client = client(root, &args.name)?;
    wait_for(async { client.crash(&args.actor).await.map_err(failure) }).map(|_| 0)
}

/// A sandbox's state in a word.
pub(super) fn state(state: SandboxState) -> &'static str {
    match state {
        SandboxState::Starting => "starting",
        SandboxState::Running => "running",
        SandboxState::Degraded => "degraded",
        SandboxState::Stopping => "stopping",
    }
}

/// Formats milliseconds for people: in the two largest units.
pub(super) fn age(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{s}s"),
        60..3600 => format!("{}m {}s", s / 60, s % 60),
        3600..86400 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86400, s % 86400 / 3600),
    }
}

/// Returns the words for how an agent that doesn't run has ended.
pub(super) fn last_exit(agent: &AgentStatus) -> String {
    match agent.last_exit.filter(|_| agent.state != "running") {
        Some(Exit { code: Some(code), .. }) => format!(", last exit {code}"),
        Some(Exit { signal: Some(signal), .. }) => format!(", last exit by {}", signal_words(signal)),
        _ => String::new(),
    }
}

/// Returns a signal's number and its name, if it has one: real-time signals have none.
fn signal_words(signal: i32) -> String {
    match Signal::try_from(signal) {
        Ok(named) => format!("signal {signal} ({named})"),
        Err(_) => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units_at_most() {
        let of =
            [(999, "999ms"), (59_999, "59s"), (61_000, "1m 1s"), (3_660_000, "1h 1m"), (90_000_000, "1d 1h")];
        for (ms, text) in of {
            assert_eq!(age(ms), text);
        }
    }

    #[test]
    fn an_audit_log_that_refuses_has_a_row() {
        let paint = Paint::stdout();
        assert!(audit_row(None, paint).is_none());
        let row = audit_row(Some("no space"), paint).unwrap();
        assert!(
            row[0] == "audit log" && row[1].contains("REFUSES") && row[1].ends_with("  no space"),
            "{row:?}"
        );
    }

    #[test]
    fn an_exit_is_a_code_or_a_signal_by_its_name() {
        let of = |code, signal| {
            last_exit(&AgentStatus {
                name: "a".into(),
                state: "exited".into(),
                pid: None,
                restarts: 0,
                uptime_ms: None,
                health: None,
                last_exit: Some(Exit { code, signal }),
            })
        };
        assert_eq!(of(Some(3), None), ", last exit 3");
        assert_eq!(of(None, Some(9)), ", last exit by signal 9 (SIGKILL)");
        assert_eq!(of(None, Some(40)), ", last exit by signal 40");
    }
}
