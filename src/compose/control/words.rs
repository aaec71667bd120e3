//! Converts the supervisor's own types for agents, credentials, providers and controls to the control API's.

use agent::health::Health;
use agent::protocol::CageReport;
use operator::types::{AgentStatus, BudgetStatus, ControlStatus, CredentialStatus, ProviderStatus, Used};
use proxy::credentials::{Section, Told};

use crate::compose::agents::Agent;
use crate::compose::capture::UNSEEN;
use crate::compose::exec;

pub(super) fn agent_status(agent: &Agent) -> AgentStatus {
    let now = agent.condition.borrow().clone();
    let state = match (now.pid, now.over) {
        _ if now.gave_up => "gave-up",
        (Some(_), _) => "running",
        (None, true) => "exited",
        (None, false) => "backoff",
    };
    AgentStatus {
        name: agent.name.to_string(),
        state: state.into(),
        pid: now.pid.and_then(|pid| u32::try_from(pid).ok()),
        restarts: now.restarts,
        health: (agent.is_watched && now.pid.is_some()).then(|| health_word(now.health).to_owned()),
        uptime_ms: now.since.and_then(|since| u64::try_from(since.elapsed().as_millis()).ok()),
        last_exit: now.last_exit.map(exec::exit),
    }
}

/// Returns the warnings about a policy that is in force.
pub(super) fn warnings(sandbox: &str, published: &policy::Published) -> Vec<String> {
    let left_out = published
        .left_out
        .iter()
        .map(|id| format!("what was approved as {sandbox}-{id} contradicts it, and is no part of it"));
    published.warnings.items().iter().map(|item| item.message.clone()).chain(left_out).collect()
}

fn health_word(health: Health) -> &'static str {
    match health {
        Health::Starting => "starting",
        Health::Healthy => "healthy",
        Health::Failing => "failing",
    }
}

/// Returns the credentials by name, with where each may go. The section was checked before the start, so
/// reading it can't fail.
pub(super) fn credential_status(section: &Section) -> Vec<CredentialStatus> {
    let told = section.told().unwrap_or_default().into_iter();
    told.map(|Told { name, env, uses }| CredentialStatus { name, env, uses }).collect()
}

pub(super) fn provider_status(provider: gateway::ProviderStatus) -> ProviderStatus {
    let word = |value: serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let shown = |value: serde_json::Result<serde_json::Value>| value.map(word).unwrap_or_default();
    ProviderStatus {
        name: provider.name.to_string(),
        kind: shown(serde_json::to_value(provider.kind)),
        endpoint: provider.endpoint,
        trust: shown(serde_json::to_value(provider.trust)),
        cost: shown(serde_json::to_value(provider.cost)),
        credential: provider.credential,
        state: shown(serde_json::to_value(provider.health.state)),
    }
}

/// Returns every budget with what is used of it.
pub(super) fn budget_status(gateway: &gateway::Gateway) -> Vec<BudgetStatus> {
    let (standing, fault) = gateway.budgets();
    let status = |budget: gateway::budgets::Standing| {
        let known = fault.is_none();
        let used = |(used, limit): (u64, Option<u64>)| {
            limit.map(|limit| Used { used: known.then_some(used), limit })
        };
        let (tokens, requests) = (used(budget.tokens), used(budget.requests));
        let is_spent = [tokens, requests].into_iter().flatten().any(|it| it.used >= Some(it.limit));
        BudgetStatus {
            per: budget.which.per.as_str().into(),
            provider: budget.which.provider.map(Into::into),
            model: budget.which.model.map(Into::into),
            state: match (&fault, is_spent) {
                (Some(_), _) => "unreadable",
                (None, true) => "spent",
                (None, false) => "open",
            }
            .into(),
            tokens,
            requests,
            ends_at: gateway::budgets::written(budget.ends),
        }
    };
    standing.into_iter().map(status).collect()
}

/// Returns one row per control, from what the proof tried and what init reports as missing.
pub(super) fn controls(cage: &CageReport) -> Vec<ControlStatus> {
    let mut rows: Vec<ControlStatus> = Vec::new();
    for check in &cage.proof {
        let name = check.control.as_str();
        match rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row.enforced &= check.right,
            None => rows.push(ControlStatus { name: name.into(), enforced: check.right, detail: None }),
        }
    }
    for row in &mut rows {
        let tried = cage.proof.iter().filter(|check| check.control.as_str() == row.name).count();
        let attempts = if tried == 1 { "attempt" } else { "attempts" };
        let mut detail = format!("proven at start by {tried} {attempts}");
        if row.name == agent::plan::Control::Network.as_str() {
            let lacks = [
                ("no program that ignores the proxy has a way out", &cage.no_capture),
                (UNSEEN, &cage.no_witness),
            ];
            for (what, why) in lacks {
                why.iter().for_each(|why| detail.push_str(&format!("; {what}: {why}")));
            }
        }
        row.detail = Some(detail);
    }
    for missing in &cage.missing {
        let name = missing.control.as_str();
        rows.retain(|row| row.name != name);
        rows.push(ControlStatus { name: name.into(), enforced: false, detail: Some(missing.why.clone()) });
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}
