//! The types of what goes over the control socket. openapi.json describes the same; a test keeps the two in
//! step.
//!
//! These types are for the wire only: an inner type may change without an operator's script noticing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The sandbox's name.
    pub name: String,
    /// cofferdam's version.
    pub version: String,
    /// What it is doing.
    pub state: SandboxState,
    /// Why the audit log takes no records, so that everything that would have to be on record is refused;
    /// none while it takes them.
    pub audit_refuses: Option<String>,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// Milliseconds since the sandbox started; a restart of the supervisor doesn't reset it.
    pub uptime_ms: u64,
    /// Process id of the heart, as the host sees it.
    pub heart_pid: Option<u32>,
    /// Process id of the supervisor.
    pub supervisor_pid: u32,
    /// How often the supervisor was restarted.
    pub supervisor_restarts: u64,
    /// Whether it was started as root.
    pub rooted: bool,
    /// `strict` or `best-effort`.
    pub enforcement: String,
    /// Whether `crash` is allowed.
    pub fault_injection: bool,
    /// The controls of the cage and what the proof at the start found.
    pub controls: Vec<ControlStatus>,
    /// The policy in force.
    pub policy: PolicyStatus,
    /// The agent processes.
    pub agents: Vec<AgentStatus>,
    /// The model providers.
    pub providers: Vec<ProviderStatus>,
    /// How much of the budgets of model requests is used.
    pub budgets: Vec<BudgetStatus>,
    /// The credentials that stand behind placeholders.
    pub credentials: Vec<CredentialStatus>,
}

/// What a sandbox is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxState {
    /// Not all parts are up yet.
    Starting,
    /// All parts are up.
    Running,
    /// A part is down or restarting; the rest goes on.
    Degraded,
    /// It is going down.
    Stopping,
}

/// One control of the cage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlStatus {
    /// Its name, such as `landlock`.
    pub name: String,
    /// Whether the control is in force.
    pub enforced: bool,
    /// What the proof saw, or why it is missing.
    pub detail: Option<String>,
}

/// The policy in force, without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// The number of the generation.
    pub generation: u64,
    /// SHA-256 of its text, in hex.
    pub sha256: String,
    /// RFC 3339, UTC.
    pub loaded_at: String,
}

/// One agent process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its name.
    pub name: String,
    /// `running`, `backoff` (to be started again), `gave-up` (its restarts are used up) or `exited`.
    pub state: String,
    /// Process id inside the sandbox.
    pub pid: Option<u32>,
    /// Restarts since the sandbox started.
    pub restarts: u64,
    /// If it has a health check (`health` in the configuration) and runs: `starting` (has not answered yet),
    /// `healthy` or `failing`.
    pub health: Option<String>,
    /// Milliseconds that the present process has run.
    pub uptime_ms: Option<u64>,
    /// How the last process ended.
    pub last_exit: Option<Exit>,
}

/// One model provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderStatus {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub kind: String,
    /// Host and port.
    pub endpoint: String,
    /// Trust tier.
    pub trust: String,
    /// What it costs.
    pub cost: String,
    /// Reference of its key; never the key.
    pub credential: Option<String>,
    /// `unused`, `answering` or `failing`.
    pub state: String,
}

/// One budget of model requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetStatus {
    /// Length of its windows: `minute`, `hour` or `day`, of UTC.
    pub per: String,
    /// The provider whose requests count; none for all.
    pub provider: Option<String>,
    /// The models that count, by the agent's name, as the configuration writes them; none for all.
    pub model: Option<String>,
    /// `open`, `spent`, or `unreadable`: what was used isn't known, and nothing is sent.
    pub state: String,
    /// Tokens, where they are limited.
    pub tokens: Option<Used>,
    /// Requests, where they are limited.
    pub requests: Option<Used>,
    /// When the present window ends: RFC 3339, UTC.
    pub ends_at: String,
}

/// How much of a limit is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Used in the present window, including what is reserved for requests in flight; none if that isn't
    /// known.
    pub used: Option<u64>,
    /// The limit.
    pub limit: u64,
}

/// One credential that stands behind a placeholder. Its value is never shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialStatus {
    /// Its name: the placeholder is `cofferdam:cred:NAME`.
    pub name: String,
    /// The variable inside that holds the placeholder.
    pub env: Option<String>,
    /// Where it may go: host, ports, path and programs.
    pub uses: Vec<String>,
}

/// `GET /v1/tree`: one node of the live tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeNode {
    /// Its name below its parent.
    pub name: String,
    /// `supervisor` or `actor`.
    pub kind: String,
    /// `waiting`, `starting`, `up`, `stopping`, `backoff`, `finished`, `gave-up` or `stopped`
    pub state: String,
    /// Milliseconds since it was last started.
    pub uptime_ms: Option<u64>,
    /// Restarts since the supervisor process started.
    pub restarts: u64,
    /// Why it last failed.
    pub last_failure: Option<String>,
    /// In start order.
    pub children: Vec<TreeNode>,
}

/// One event of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up by one; a gap means that this reader was too slow and lost some.
    pub seq: u64,
    /// RFC 3339, UTC.
    pub at: String,
    /// Such as `decision`, `actor`, `policy`, `agent`.
    pub kind: String,
    /// Depends on the kind; redacted.
    pub data: Value,
}

/// `GET /v1/policy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// The number of the generation.
    pub generation: u64,
    /// SHA-256 of its text, in hex.
    pub sha256: String,
    /// RFC 3339, UTC.
    pub loaded_at: String,
    /// The policy in force, as YAML.
    pub text: String,
}

/// Answer to `PUT /v1/policy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChange {
    /// The number of the generation in force.
    pub generation: u64,
    /// Whether this text was in force already, so that no new generation was made.
    pub unchanged: bool,
    /// Warnings about what is risky in the policy.
    pub warnings: Vec<String>,
    /// Agents that were restarted, if that was asked for.
    pub restarted: Vec<String>,
}

/// One of `GET /v1/identities`: what a program contained when it first asked for the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its path inside the sandbox.
    pub path: String,
    /// SHA-256 at first use, or as it was last accepted, in hex.
    pub sha256: String,
    /// SHA-256 of another content that was seen there since, in hex: denied until it is accepted.
    pub pending: Option<String>,
}

/// Body of `POST /v1/identities/accept`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptIdentity {
    /// The program's path inside the sandbox.
    pub path: String,
    /// SHA-256 of the accepted content, in hex: only what the operator has looked at is accepted, not what
    /// came after.
    pub sha256: String,
}

/// Body of `POST /v1/identities/forget`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgetIdentity {
    /// The program's path inside the sandbox.
    pub path: String,
}

/// One of `GET /v1/approvals`: a request that no policy entry names, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The sandbox's name, `-` and a number that is never given twice.
    pub id: String,
    /// Its state.
    pub state: ApprovalState,
    /// How far the approval goes; none if it isn't approved.
    #[serde(rename = "for")]
    pub scope: Option<Scope>,
    /// The host, canonical.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The method that was asked for, or that the operator's rule has.
    pub method: String,
    /// The canonical path that was asked for, without the query, or the operator's pattern.
    pub path: String,
    /// The program's path inside the sandbox.
    pub binary: String,
    /// What the program contains, SHA-256 in hex.
    pub sha256: String,
    /// The policy's generation under which it was last asked.
    pub generation: u64,
    /// How often it was asked.
    pub asked: u64,
    /// How many requests are held for it now.
    pub held: u64,
    /// When it was first asked: RFC 3339, UTC.
    pub first_at: String,
    /// When it was last asked: RFC 3339, UTC.
    pub last_at: String,
    /// The user id of the operator who answered last.
    pub answered_by: Option<u32>,
}

impl Approval {
    /// Returns the request as people write it: `GET api.example.com:443/a`. Chosen by the agent, so not to be
    /// written to a terminal as it is.
    #[must_use]
    pub fn request(&self) -> String {
        let Self { method, host, port, path, .. } = self;
        match host.contains(':') {
            true => format!("{method} [{host}]:{port}{path}"),
            false => format!("{method} {host}:{port}{path}"),
        }
    }
}

/// The state of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApprovalState {
    /// A request is held for the answer.
    Held,
    /// No request waits any more; the question can still be answered.
    Waiting,
    /// The request is allowed: once, or by an entry of the policy.
    Approved,
    /// The request is refused.
    Denied,
}

/// How far an approval goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// One request.
    Once,
    /// Until the sandbox ends.
    Run,
    /// For good: also in later runs, until it is revoked or the sandbox's state is removed.
    Good,
}

/// Body of `POST /v1/approvals/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalAnswer {
    /// The operator's decision.
    pub verdict: ApprovalVerdict,
    /// How far an approval goes; once if absent.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Another method than was asked for, `*` for any; not for `once`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Another path than was asked for, or a pattern; not for `once`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// An operator's decision on a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApprovalVerdict {
    /// Allow the request.
    Approve,
    /// Refuse the request.
    Deny,
    /// The earlier answer is revoked: the operator is asked again.
    Revoke,
}

/// Query of `GET /v1/logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only this agent's.
    pub agent: Option<String>,
    /// Go on as more is written.
    pub follow: bool,
    /// Only so many of the last lines.
    pub tail: Option<u32>,
}

/// Body of `POST /v1/stop`; an empty body means the defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stop {
    /// Milliseconds that the agents get to end by themselves after SIGTERM.
    pub grace_ms: Option<u64>,
}

/// Answer to an operation that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// What was asked for: `stop`, `restart` or `crash`.
    pub action: String,
    /// What it was asked for.
    pub target: String,
}

/// Body of `POST /v1/exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments; not empty.
    pub command: Vec<String>,
    /// Added to the sandbox's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory; `/sandbox` if absent.
    #[serde(default)]
    pub cwd: Option<String>,
    /// A terminal of this size instead of pipes.
    #[serde(default)]
    pub tty: Option<Window>,
    /// Whether standard input is connected; else it is empty.
    #[serde(default)]
    pub stdin: bool,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub cols: u16,
}

/// How a process ended: one of the two is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl Exit {
    /// Returns the exit code as a shell gives it: the code, or 128 plus the signal.
    pub fn shell_code(self) -> i32 {
        match (self.code, self.signal) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => 125,
        }
    }
}
