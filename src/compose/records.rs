//! Records what happens to cofferdam itself: supervision reports, identity changes, the sandbox's beginning
//! and end.
//!
//! Every function here turns one crate's report into an audit event and a metric, and decides nothing.

use std::collections::HashMap;

use agent::protocol::Death;
use proxy::identity::Changed;
use supervision::{Event as Happened, Failure, Report};
use telemetry::audit::{
    ActorChange, AuditUnavailable, Event, IdentityChange, PolicyResult, RecordId, SandboxChange, Sink, Text,
};
use telemetry::complaints::Complaints;
use telemetry::metrics;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::agents::Agents;
use super::lost::LostLogs;
use crate::plan::Plan;

/// Returns the function that records a binary whose content differs from its first use.
pub fn binary_changed(sink: Sink) -> impl Fn(&Changed) + Send + Sync + 'static {
    move |changed| {
        record(
            &sink,
            Event::Identity {
                path: changed.path.to_string().into(),
                change: IdentityChange::Changed,
                was: Some(hex::encode(changed.first).into()),
                is: Some(hex::encode(changed.now).into()),
            },
        );
    }
}

/// Records what the supervision tree reports, until the tree is gone. Passes each report on to `agents`.
pub async fn reports(mut reports: broadcast::Receiver<Report>, sink: Sink, agents: Agents) {
    let mut told = Told::default();
    loop {
        match reports.recv().await {
            Ok(report) => {
                if let Some(event) = told.one(&report) {
                    record(&sink, event);
                }
                agents.hear(&report);
            }
            Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "supervision reports were missed"),
            Err(RecvError::Closed) => return,
        }
    }
}

/// What the tree has reported so far.
#[derive(Default)]
struct Told {
    /// How often each actor has come up again, by its path: the report that one is given up doesn't say it.
    restarts: HashMap<String, u64>,
}

impl Told {
    /// Sets the metrics by a report, and returns what is to be put on record of it.
    fn one(&mut self, report: &Report) -> Option<Event> {
        let actor = report.path.as_str();
        if let Happened::Started { restarts, .. } = report.event {
            self.restarts.insert(actor.to_owned(), restarts);
        }
        let event = |change, failure: Option<String>, restarts| Event::Actor {
            name: actor.into(),
            change,
            failure: failure.map(Text::from),
            restarts,
        };
        let gave_up = |failure: &Failure| {
            let restarts = self.restarts.get(actor).copied().unwrap_or_default();
            event(ActorChange::GaveUp, Some(failure.to_string()), restarts)
        };
        // An agent's starts and ends are recorded where its exit code is known. Only here it is known that
        // the agent won't be started again.
        if actor.starts_with("agents/") {
            return match &report.event {
                Happened::GaveUp { failure } => Some(gave_up(failure)),
                _ => None,
            };
        }
        match &report.event {
            Happened::Started { restarts, .. } => {
                metrics::actor_up(actor, true);
                if *restarts == 0 {
                    return None;
                }
                metrics::actor_restarted(actor);
                Some(event(ActorChange::Restarted, None, *restarts))
            }
            Happened::Failed { failure, .. } => {
                metrics::actor_up(actor, false);
                Some(event(ActorChange::Failed, Some(failure.to_string()), 0))
            }
            Happened::GaveUp { failure } => {
                metrics::actor_up(actor, false);
                Some(gave_up(failure))
            }
            Happened::Stopped { .. } | Happened::Removed => {
                metrics::actor_up(actor, false);
                None
            }
            _ => None,
        }
    }
}

/// Returns events for the deaths of supervisors: `deaths` are the last ones of `restarts` in all.
pub fn deaths(deaths: &[Death], restarts: u32) -> impl Iterator<Item = Event> {
    let before = u64::from(restarts).saturating_sub(deaths.len() as u64);
    (before + 1..).zip(deaths).map(|(number, death)| Event::Actor {
        name: "supervisor".into(),
        change: ActorChange::SupervisorRestarted,
        failure: match death {
            Death::Unknown => None,
            Death::Ended(status) => Some(status.to_string().into()),
            Death::Hung => Some("it hung, and was killed".into()),
        },
        restarts: number,
    })
}

/// Returns the event that the sandbox began, or goes on in another cage.
pub fn started(plan: &Plan) -> Event {
    of_sandbox(SandboxChange::Started, &plan.name, Some(plan.policy.name.clone()))
}

/// Returns the event that says which policy is in force after a move. Counts the reload.
pub fn moved(store: &policy::Store) -> Event {
    metrics::policy_reload(PolicyResult::Loaded);
    in_force(store, PolicyResult::Loaded, None)
}

/// Records that the sandbox began or ended.
pub fn sandbox(sink: &Sink, change: SandboxChange, name: &str, detail: Option<String>) {
    record(sink, of_sandbox(change, name, detail));
}

fn of_sandbox(change: SandboxChange, name: &str, detail: Option<String>) -> Event {
    Event::Sandbox {
        change,
        name: name.into(),
        version: Text::new_static(env!("CARGO_PKG_VERSION")),
        detail: detail.map(Text::from),
    }
}

/// Records something that has happened already, so that a failure can't refuse it: the record waits while the
/// disk takes none, and if too many wait a warning says so.
pub fn record(sink: &Sink, event: Event) {
    told(sink.note(event));
}

/// Warns that an event could not be recorded.
pub fn told(noted: Result<RecordId, AuditUnavailable>) {
    if let Err(error) = noted
        // Closed with the process, after the last record of all.
        && error != AuditUnavailable::Closed
    {
        static EVENTS: Complaints = Complaints::new();
        error.complain("an event", &EVENTS);
    }
}

/// Counts what the redactor masks as metrics, and warns of what it loses.
#[derive(Default)]
pub struct Redactions {
    lost: LostLogs,
}

impl redactor::pump::Observer for Redactions {
    fn on_hits(&self, kind: &str, count: u64) {
        metrics::redactions(kind, count);
    }

    fn on_log_lost(&self, agent: &str, bytes: u64) {
        self.lost.lose(agent, bytes);
    }
}

/// Returns the function that turns the result of a policy reload into an audit event and metrics.
pub fn policy_loaded(store: policy::Store, sink: Sink) -> policy::Observer {
    std::sync::Arc::new(move |result| {
        let (outcome, detail) = match result {
            // An unchanged policy is not worth a record.
            Ok(policy::Reloaded::Unchanged) => return metrics::policy_reload(PolicyResult::Unchanged),
            Ok(policy::Reloaded::Published(published)) => {
                metrics::policy_generation(published.generation);
                (PolicyResult::Loaded, None)
            }
            Err(refused) => (PolicyResult::Rejected, Some(refused.to_string())),
        };
        policy_in_force(&store, &sink, outcome, detail);
    })
}

/// Records which policy is in force after a change with this result.
pub fn policy_in_force(store: &policy::Store, sink: &Sink, result: PolicyResult, detail: Option<String>) {
    metrics::policy_reload(result);
    record(sink, in_force(store, result, detail));
}

fn in_force(store: &policy::Store, result: PolicyResult, detail: Option<String>) -> Event {
    let now = store.load();
    Event::Policy {
        generation: now.number,
        result,
        sha256: Some(hex::encode(now.sha256).into()),
        detail: detail.map(Text::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gave_up_says_how_often_it_was_started_again() {
        let mut told = Told::default();
        let mut hear = |path: &str, event| told.one(&Report { path: path.into(), at_unix_ms: 0, event });
        for path in ["agents/a", "proxy"] {
            let started = |restarts| Happened::Started { took_ms: 1, restarts };
            assert!(hear(path, started(0)).is_none());
            assert_eq!(hear(path, started(3)).is_some(), path == "proxy", "an agent's starts are on record");
            let failure = Failure::Failed { message: "exit code 1".into() };
            let gave_up = hear(path, Happened::GaveUp { failure });
            let expected = (path, ActorChange::GaveUp, 3);
            let Some(Event::Actor { name, change, restarts, .. }) = gave_up else { panic!("{gave_up:?}") };
            assert_eq!((&*name, change, restarts), expected);
        }
        let stopped = hear("agents/a", Happened::Stopped { reason: None });
        assert!(stopped.is_none());
    }
}
