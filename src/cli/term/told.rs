//! What a sandbox told, in the model's words. Every text goes through [`text`] or [`short`]: an agent may have chosen it.

use operator::types::{AgentStatus, Approval, ApprovalState, Event, SandboxState, Scope, Status, TreeNode};
use serde_json::{Map, Value};
use tui::Text;
use tui::facts::{Agent, Answer, Candidate, Condition, Happening, Part, Question, Standing, Tone};

use crate::cli::live::{age, branch, last_exit, state};
use crate::cli::out::one_line;
use crate::cli::ps;

/// Characters of what is only read: an event's field, a failure.
const SHORT: usize = 512;

/// The whole of a text, harmless.
pub fn text(raw: &str) -> Text {
    Text::new(&one_line(raw))
}

/// Its beginning.
fn short(raw: &str) -> Text {
    Text::cut(&one_line(raw), SHORT)
}

/// A row of the list of sandboxes.
pub fn candidate(listed: &ps::Listed) -> Candidate {
    let mut cells = ps::row(listed).into_iter();
    let name = cells.next().unwrap_or_default();
    Candidate { name, about: cells.map(|cell| short(&cell)).collect() }
}

/// The condition of a sandbox and of its agents.
pub fn condition(status: &Status) -> Condition {
    Condition {
        state: Text::new(state(status.state)),
        tone: if status.state == SandboxState::Running { Tone::Good } else { Tone::Warn },
        up: Text::new(&age(status.uptime_ms)),
        generation: status.policy.generation,
        missing: status.controls.iter().filter(|c| !c.enforced).map(|c| short(&c.name)).collect(),
        agents: status.agents.iter().map(agent).collect(),
    }
}

fn agent(agent: &AgentStatus) -> Agent {
    let pid = agent.pid.map(|pid| format!("pid {pid} inside"));
    let about: Vec<String> = [pid, agent.health.clone()].into_iter().flatten().collect();
    Agent {
        name: short(&agent.name),
        state: short(&agent.state),
        tone: match agent.state.as_str() {
            "running" => Tone::Good,
            "gave-up" => Tone::Bad,
            _ => Tone::Warn,
        },
        up: agent.uptime_ms.map_or(Text::new("-"), |ms| Text::new(&age(ms))),
        restarts: agent.restarts,
        about: short(&format!("{}{}", about.join(", "), last_exit(agent))),
    }
}

/// The tree, a row each.
pub fn tree(root: &TreeNode) -> Vec<Part> {
    let mut rows = Vec::new();
    branch(root, "", "", &mut rows);
    rows.into_iter().map(part).collect()
}

fn part(row: Vec<String>) -> Part {
    let [name, state, up, restarts, failure] =
        std::array::from_fn(|n| short(row.get(n).map_or("", String::as_str)));
    let tone = if state.as_str() == "up" { Tone::Good } else { Tone::Warn };
    Part { name, state, tone, up, restarts, failure }
}

/// A question, whole: it is decided about.
pub fn question(approval: &Approval) -> Question {
    Question {
        id: approval.id.clone(),
        standing: match (approval.state, approval.scope) {
            (ApprovalState::Held, _) => Standing::Held,
            (ApprovalState::Waiting, _) => Standing::Waiting,
            (ApprovalState::Denied, _) => Standing::Denied,
            (ApprovalState::Approved, Some(Scope::Run)) => Standing::Approved(Answer::Run),
            (ApprovalState::Approved, Some(Scope::Good)) => Standing::Approved(Answer::Good),
            (ApprovalState::Approved, _) => Standing::Approved(Answer::Once),
        },
        held: approval.held,
        asked: approval.asked,
        host: text(&approval.host),
        port: approval.port,
        method: text(&approval.method),
        path: text(&approval.path),
        program: text(&approval.binary),
        sha256: text(&approval.sha256),
        generation: approval.generation,
    }
}

/// An event; none for the end of what was allowed, whose decision was told.
pub fn happening(event: &Event) -> Option<Happening> {
    let empty = Map::new();
    let fields = event.data.as_object().unwrap_or(&empty);
    let of = |name: &str| fields.get(name).map(shown).unwrap_or_default();
    let verdict = of("verdict");
    let (word, tone, what) = match event.kind.as_str() {
        "egress" if of("phase") == "finished" && verdict == "allowed" => return None,
        "egress" => (verdict.clone(), of_verdict(&verdict), egress(fields)),
        "inference" => (verdict.clone(), of_verdict(&verdict), inference(fields)),
        kind => (kind.replace('_', " "), of_change(&of("change"), &of("result")), rest(fields)),
    };
    let record = fields.iter().map(|(name, value)| (short(name), short(&shown(value))));
    Some(Happening {
        at: time(&event.at),
        tone,
        word: short(&word),
        what: short(&what),
        record: record.collect(),
    })
}

/// The time of day, UTC as in the audit log.
fn time(at: &str) -> Text {
    at.parse::<jiff::Timestamp>()
        .map_or_else(|_| short(at), |t| Text::new(&t.strftime("%H:%M:%S").to_string()))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn of_verdict(verdict: &str) -> Tone {
    match verdict {
        "allowed" => Tone::Good,
        "denied" => Tone::Bad,
        _ => Tone::Warn,
    }
}

fn of_change(change: &str, result: &str) -> Tone {
    match (change, result) {
        ("failed" | "gave_up" | "changed" | "curbed" | "silent", _) | (_, "rejected") => Tone::Bad,
        ("asked" | "supervisor_restarted" | "restarting" | "exited", _) => Tone::Warn,
        ("restarted" | "started" | "adopted", _) | (_, "loaded") => Tone::Good,
        _ => Tone::Plain,
    }
}

/// `l7 GET api.example.com:443/a by /usr/bin/curl: why`.
fn egress(fields: &Map<String, Value>) -> String {
    let of = |name: &str| fields.get(name).map(shown).unwrap_or_default();
    let (host, port) = (of("host"), of("port"));
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let parts =
        [of("layer"), of("method"), format!("{host}:{port}{}", of("path")), named("by", &of("binary"))];
    sentence(parts.into(), &of("detail"))
}

fn inference(fields: &Map<String, Value>) -> String {
    let of = |name: &str| fields.get(name).map(shown).unwrap_or_default();
    let tokens = match (of("input_tokens"), of("output_tokens")) {
        (input, output) if input.is_empty() && output.is_empty() => String::new(),
        (input, output) => format!("{input}+{output} tokens"),
    };
    let parts = [
        "model".to_owned(),
        of("model"),
        named("at", &of("provider")),
        of("code"),
        tokens,
        named("by", &of("binary")),
    ];
    sentence(parts.into(), &of("detail"))
}

/// Of any other kind what there is, the most telling first.
fn rest(fields: &Map<String, Value>) -> String {
    const FIRST: [&str; 6] = ["name", "id", "action", "control", "path", "change"];
    const NOT_HERE: [&str; 5] = ["kind", "version", "sha256", "failure", "detail"];
    let of = |name: &str| fields.get(name).map(shown).unwrap_or_default();
    let mut parts: Vec<String> = FIRST.iter().map(|name| of(name)).collect();
    for (name, value) in fields {
        if !FIRST.contains(&name.as_str()) && !NOT_HERE.contains(&name.as_str()) {
            parts.push(named(name, &shown(value)));
        }
    }
    let why = if of("failure").is_empty() { of("detail") } else { of("failure") };
    sentence(parts, &why)
}

fn named(name: &str, value: &str) -> String {
    if value.is_empty() { String::new() } else { format!("{name} {value}") }
}

fn sentence(parts: Vec<String>, why: &str) -> String {
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    format!("{}{why}", parts.join(" "))
}
