//! Every metric: name, kind, labels, help. The page docs/metrics.md is tested against this table.

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the supervisor process's start.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution, in seconds.
    Histogram,
}

impl Kind {
    /// As in a `# TYPE` line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels' names.
    pub labels: &'static [&'static str],
    /// Its `# HELP` line.
    pub help: &'static str,
}

pub(super) const BUILD_INFO: &str = "cofferdam_build_info";
pub(super) const ACTOR_UP: &str = "cofferdam_actor_up";
pub(super) const ACTOR_RESTARTS: &str = "cofferdam_actor_restarts_total";
pub(super) const AGENT_UP: &str = "cofferdam_agent_up";
pub(super) const AGENT_GAVE_UP: &str = "cofferdam_agent_gave_up";
pub(super) const AGENT_HEALTHY: &str = "cofferdam_agent_healthy";
pub(super) const AGENT_RESTARTS: &str = "cofferdam_agent_restarts_total";
pub(super) const LOG_LOST: &str = "cofferdam_log_lost_bytes_total";
pub(super) const SUPERVISOR_RESTARTS: &str = "cofferdam_supervisor_restarts_total";
pub(super) const POLICY_GENERATION: &str = "cofferdam_policy_generation";
pub(super) const POLICY_RELOADS: &str = "cofferdam_policy_reloads_total";
pub(super) const DECISIONS: &str = "cofferdam_decisions_total";
pub(super) const DECISION_SECONDS: &str = "cofferdam_proxy_decision_seconds";
pub(super) const PROXY_CONNECTIONS: &str = "cofferdam_proxy_connections";
pub(super) const PROXY_BYTES: &str = "cofferdam_proxy_bytes_total";
pub(super) const INFERENCE_REQUESTS: &str = "cofferdam_inference_requests_total";
pub(super) const INFERENCE_TOKENS: &str = "cofferdam_inference_tokens_total";
pub(super) const INFERENCE_BUDGET_USED: &str = "cofferdam_inference_budget_used_ratio";
pub(super) const INFERENCE_FIRST_BYTE: &str = "cofferdam_inference_first_byte_seconds";
pub(super) const REDACTIONS: &str = "cofferdam_redactions_total";
pub(super) const GUESSES_SPENT: &str = "cofferdam_guesses_spent_total";
pub(super) const APPROVALS_PENDING: &str = "cofferdam_approvals_pending";
pub(super) const CONTROL_MISSING: &str = "cofferdam_control_missing";
pub(super) const AUDIT_RECORDS: &str = "cofferdam_audit_records_total";
pub(super) const AUDIT_REFUSED: &str = "cofferdam_audit_refused_total";

const fn metric(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, labels, help }
}

/// Every metric that cofferdam has.
pub const TABLE: &[Metric] = &[
    metric(BUILD_INFO, Kind::Gauge, &["version", "mode"], "Always 1; the labels tell what runs."),
    metric(ACTOR_UP, Kind::Gauge, &["actor"], "1 while the actor runs, 0 while it is down."),
    metric(ACTOR_RESTARTS, Kind::Counter, &["actor"], "How often the actor was restarted."),
    metric(AGENT_UP, Kind::Gauge, &["agent"], "1 while the agent process runs, 0 while it doesn't."),
    metric(
        AGENT_GAVE_UP,
        Kind::Gauge,
        &["agent"],
        "1 for an agent that failed more often than its restarts allow and is not started again, 0 for any other.",
    ),
    metric(
        AGENT_HEALTHY,
        Kind::Gauge,
        &["agent"],
        "1 while the agent answers its health check, 0 while it doesn't; of agents that have one.",
    ),
    metric(AGENT_RESTARTS, Kind::Counter, &["agent"], "How often the agent process was restarted."),
    metric(
        LOG_LOST,
        Kind::Counter,
        &["agent"],
        "Bytes of the agent's output that its log lost, because the disk took none.",
    ),
    metric(SUPERVISOR_RESTARTS, Kind::Counter, &[], "How often the supervisor process was restarted."),
    metric(POLICY_GENERATION, Kind::Gauge, &[], "The number of the policy generation in force."),
    metric(POLICY_RELOADS, Kind::Counter, &["result"], "Policy reloads, by what came of them."),
    metric(
        DECISIONS,
        Kind::Counter,
        &["layer", "verdict", "policy"],
        "Decisions about connections and requests, by layer, verdict and policy entry.",
    ),
    metric(
        DECISION_SECONDS,
        Kind::Histogram,
        &[],
        "Time from a parsed request to its verdict, without the time that it was held for the operator.",
    ),
    metric(PROXY_CONNECTIONS, Kind::Gauge, &[], "Connections of the sandbox open in the proxy."),
    metric(
        PROXY_BYTES,
        Kind::Counter,
        &["direction"],
        "Bytes relayed out of (up) and into (down) the sandbox.",
    ),
    metric(
        INFERENCE_REQUESTS,
        Kind::Counter,
        &["provider", "model", "code"],
        "Model requests, by provider, model and the HTTP status answered.",
    ),
    metric(
        INFERENCE_TOKENS,
        Kind::Counter,
        &["provider", "model", "kind"],
        "Tokens of model requests and answers.",
    ),
    metric(
        INFERENCE_BUDGET_USED,
        Kind::Gauge,
        &["per", "provider", "model", "counts"],
        "What of a budget is used in the present window, from 0 to 1 and beyond, what is held for requests in flight included.",
    ),
    metric(
        INFERENCE_FIRST_BYTE,
        Kind::Histogram,
        &[],
        "Time from a model request to the first byte of its answer.",
    ),
    metric(REDACTIONS, Kind::Counter, &["kind"], "Secrets masked in output, logs and records, by kind."),
    metric(
        GUESSES_SPENT,
        Kind::Counter,
        &[],
        "Agents that guessed at credentials so often that answers come late to them.",
    ),
    metric(
        APPROVALS_PENDING,
        Kind::Gauge,
        &[],
        "Questions for which requests are held until the operator answers; 0 where nobody is asked.",
    ),
    metric(
        CONTROL_MISSING,
        Kind::Gauge,
        &["control"],
        "1 for a control that the kernel does not enforce here.",
    ),
    metric(AUDIT_RECORDS, Kind::Counter, &[], "Records written to the audit log, durably."),
    metric(
        AUDIT_REFUSED,
        Kind::Counter,
        &[],
        "Records that could not be taken, so that what they were for was refused.",
    ),
];
