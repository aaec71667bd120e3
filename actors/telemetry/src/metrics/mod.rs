//! The metrics: every name, its help text and its labels in one table (`names`), a typed function for each,
//! and the recorder, which outlives every actor and is installed once in a process. No label value may come
//! from an agent: names come from the configuration, the policy or closed sets.

mod asked;
mod names;
mod recorder;
mod registry;
pub mod server;

use std::time::Duration;

use metrics::{counter, gauge, histogram};

pub use names::{Kind, Metric, TABLE};
pub use recorder::{MetricsError, Recorder};

use crate::audit::{PolicyResult, Verdict};

/// A direction seen from the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Out of the sandbox.
    Up,
    /// Into the sandbox.
    Down,
}

impl Direction {
    /// The label value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// A kind of token of a model request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Of the prompt.
    Input,
    /// Of the answer.
    Output,
}

impl TokenKind {
    /// The label value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

/// What a budget limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetCounts {
    /// Tokens.
    Tokens,
    /// Requests.
    Requests,
}

impl BudgetCounts {
    /// The label value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Requests => "requests",
        }
    }
}

/// Sets the build info: a constant 1 whose labels tell version and mode.
pub fn build_info(version: &'static str, mode: &'static str) {
    gauge!(names::BUILD_INFO, "version" => version, "mode" => mode).set(1.0);
}

/// Whether an actor runs. `actor` is its path in the tree.
pub fn actor_up(actor: &str, up: bool) {
    gauge!(names::ACTOR_UP, "actor" => actor.to_owned()).set(f64::from(u8::from(up)));
    // So that the series is there, at 0, before the first restart.
    counter!(names::ACTOR_RESTARTS, "actor" => actor.to_owned()).increment(0);
}

/// An actor was restarted.
pub fn actor_restarted(actor: &str) {
    counter!(names::ACTOR_RESTARTS, "actor" => actor.to_owned()).increment(1);
}

/// Whether an agent process runs. `agent` is its name in the configuration.
pub fn agent_up(agent: &str, up: bool) {
    gauge!(names::AGENT_UP, "agent" => agent.to_owned()).set(f64::from(u8::from(up)));
    // So that these series are there, at 0, before what they count.
    counter!(names::AGENT_RESTARTS, "agent" => agent.to_owned()).increment(0);
    counter!(names::LOG_LOST, "agent" => agent.to_owned()).increment(0);
}

/// Whether an agent's restarts are used up. One that ended as configured hasn't given up.
pub fn agent_gave_up(agent: &str, gave_up: bool) {
    gauge!(names::AGENT_GAVE_UP, "agent" => agent.to_owned()).set(f64::from(u8::from(gave_up)));
}

/// Whether an agent answers its health check.
pub fn agent_healthy(agent: &str, healthy: bool) {
    gauge!(names::AGENT_HEALTHY, "agent" => agent.to_owned()).set(f64::from(u8::from(healthy)));
}

/// An agent process was restarted.
pub fn agent_restarted(agent: &str) {
    counter!(names::AGENT_RESTARTS, "agent" => agent.to_owned()).increment(1);
}

/// Bytes that an agent's log has lost.
pub fn log_lost(agent: &str, bytes: u64) {
    counter!(names::LOG_LOST, "agent" => agent.to_owned()).increment(bytes);
}

/// How often the heart has restarted the supervisor process. Set once at start, since counters begin at 0 in
/// each process while the heart keeps the number.
pub fn supervisor_restarts(total: u64) {
    counter!(names::SUPERVISOR_RESTARTS).absolute(total);
}

/// The policy generation in force.
pub fn policy_generation(number: u64) {
    // Exact up to 2^53 generations.
    #[expect(clippy::cast_precision_loss, reason = "generations count single reloads")]
    gauge!(names::POLICY_GENERATION).set(number as f64);
}

/// A policy was loaded, refused or found unchanged.
pub fn policy_reload(result: PolicyResult) {
    counter!(names::POLICY_RELOADS, "result" => result.as_str()).increment(1);
}

/// A decision. `layer` is a `policy::Layer`'s name; `policy` the entry's name, empty where none matched.
pub fn decision(layer: &'static str, verdict: Verdict, policy: &str) {
    let verdict = verdict.as_str();
    counter!(names::DECISIONS, "layer" => layer, "verdict" => verdict, "policy" => policy.to_owned())
        .increment(1);
}

/// How long a decision took, from the parsed request to the verdict.
pub fn decision_seconds(took: Duration) {
    histogram!(names::DECISION_SECONDS).record(took.as_secs_f64());
}

/// Counts a proxy connection for as long as it lives.
#[derive(Debug)]
#[must_use = "the connection counts only while this lives"]
pub struct ConnectionGuard(());

/// A connection was accepted.
pub fn proxy_connection() -> ConnectionGuard {
    gauge!(names::PROXY_CONNECTIONS).increment(1.0);
    ConnectionGuard(())
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        gauge!(names::PROXY_CONNECTIONS).decrement(1.0);
    }
}

/// Bytes relayed.
pub fn proxy_bytes(direction: Direction, bytes: u64) {
    counter!(names::PROXY_BYTES, "direction" => direction.as_str()).increment(bytes);
}

/// A model request ended with this status. `provider` and `model` are names from the configuration.
pub fn inference_request(provider: &str, model: &str, code: u16) {
    // Anything that isn't an HTTP status counts as one value, so that an upstream cannot invent labels.
    let code = if (100..600).contains(&code) { code.to_string() } else { "other".to_owned() };
    counter!(
        names::INFERENCE_REQUESTS,
        "provider" => provider.to_owned(),
        "model" => model.to_owned(),
        "code" => code
    )
    .increment(1);
}

/// Tokens used.
pub fn inference_tokens(provider: &str, model: &str, kind: TokenKind, tokens: u64) {
    counter!(
        names::INFERENCE_TOKENS,
        "provider" => provider.to_owned(),
        "model" => model.to_owned(),
        "kind" => kind.as_str()
    )
    .increment(tokens);
}

/// How much of a budget is used. The budget's window, provider and model are those that the configuration
/// names, or `*`.
pub fn inference_budget(
    (per, provider, model): (&'static str, &str, &str),
    counts: BudgetCounts,
    used: u64,
    limit: u64,
) {
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let ratio = used as f64 / limit.max(1) as f64;
    gauge!(
        names::INFERENCE_BUDGET_USED,
        "per" => per,
        "provider" => provider.to_owned(),
        "model" => model.to_owned(),
        "counts" => counts.as_str()
    )
    .set(ratio);
}

/// The time from a model request's arrival to the first byte of its answer.
pub fn inference_first_byte(took: Duration) {
    histogram!(names::INFERENCE_FIRST_BYTE).record(took.as_secs_f64());
}

/// Secrets masked. `kind` is a token format's or a configured secret's name.
pub fn redactions(kind: &str, count: u64) {
    counter!(names::REDACTIONS, "kind" => kind.to_owned()).increment(count);
}

/// An agent has used up its guesses at credentials.
pub fn guesses_spent() {
    counter!(names::GUESSES_SPENT).increment(1);
}

/// Requests that wait for the operator.
pub fn approvals_pending(count: u32) {
    gauge!(names::APPROVALS_PENDING).set(f64::from(count));
}

/// Whether a control is missing here, under `enforcement: best-effort`.
pub fn control_missing(control: &'static str, missing: bool) {
    gauge!(names::CONTROL_MISSING, "control" => control).set(f64::from(u8::from(missing)));
}

pub(crate) fn audit_records(count: u64) {
    counter!(names::AUDIT_RECORDS).increment(count);
}

pub(crate) fn audit_refused() {
    counter!(names::AUDIT_REFUSED).increment(1);
}
