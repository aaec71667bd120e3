//! Converts what a sandbox reports to the model's types. Every text goes through [`text`] or [`short`]: an
//! agent may have chosen it.

use operator::types::{AgentStatus, Approval, ApprovalState, Event, SandboxState, Scope, Status, TreeNode};
use serde_json::{Map, Value};
use tui::Text;
use tui::facts::{Agent, Answer, Candidate, Condition, Happening, Part, Question, Standing, Tone};

use crate::cli::live::{age, branch, last_exit, state};
use crate::cli::ps;
use crate::console::one_line;

/// How many characters are shown of a text that is only read: an event's field, a failure.
pub const SHORT: usize = 512;

/// Returns a whole text, made harmless.
pub fn text(raw: &str) -> Text {
    Text::new(&one_line(raw))
}

/// Returns the beginning of a text, made harmless.
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

/// Returns the tree, one row per node.
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

/// Converts a question, without cutting any text: the operator decides by it.
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

/// Converts an event. `None` for the end of an allowed request, whose decision was reported already.
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

/// Returns the time of day, in UTC as in the audit log.
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

/// Describes an event of any other kind: all its fields, the most telling first.
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(kind: &str, data: Value) -> Option<Happening> {
        happening(&Event { seq: 1, at: "2026-11-30T12:03:04.5Z".into(), kind: kind.into(), data })
    }

    #[test]
    fn decisions_are_told_once_with_all_that_says_why() {
        let data = json!({
            "kind": "egress", "phase": "decided", "verdict": "denied", "layer": "l7", "host": "api.bed.test", "port": 443,
            "method": "GET", "path": "/a", "binary": "/usr/bin/curl", "detail": "no rule allows it"
        });
        let event = told("egress", data.clone()).unwrap();
        assert_eq!((event.at.as_str(), event.word.as_str(), event.tone), ("12:03:04", "denied", Tone::Bad));
        assert_eq!(event.what.as_str(), "l7 GET api.bed.test:443/a by /usr/bin/curl: no rule allows it");
        assert_eq!(event.record.len(), 10);
        let mut end = data;
        end["phase"] = "finished".into();
        assert!(told("egress", end.clone()).is_some(), "what was refused at its end is told");
        end["verdict"] = "allowed".into();
        assert!(told("egress", end).is_none());
        let six = json!({ "verdict": "allowed", "layer": "l4", "host": "fd00::1", "port": 80 });
        assert_eq!(told("egress", six).unwrap().what.as_str(), "l4 [fd00::1]:80");
    }

    #[test]
    fn what_happens_to_parts_is_told_with_its_failure() {
        let failed = json!({ "kind": "actor", "name": "proxy", "change": "failed", "failure": "panicked: boom", "restarts": 2 });
        let event = told("actor", failed).unwrap();
        assert_eq!((event.word.as_str(), event.tone), ("actor", Tone::Bad));
        assert_eq!(event.what.as_str(), "proxy failed restarts 2: panicked: boom");
        let model = json!({ "verdict": "allowed", "model": "m", "provider": "p", "code": 200, "input_tokens": 3, "output_tokens": 4 });
        assert_eq!(told("inference", model).unwrap().what.as_str(), "model m at p 200 3+4 tokens");
        // An event of an unknown kind, and one without any known form.
        assert_eq!(
            told("control_missing", json!({ "control": "landlock" })).unwrap().what.as_str(),
            "landlock"
        );
        assert_eq!(told("new", json!("x")).unwrap().what.as_str(), "");
    }

    #[test]
    fn what_is_decided_about_is_whole_and_what_is_read_is_cut_and_all_of_it_harmless() {
        let path = format!("/\x1b]0;x\x07{}end", "a".repeat(3000));
        let approval: Approval = serde_json::from_value(json!({
            "id": "assistant-1", "state": "held", "for": null, "host": "h", "port": 1, "method": "GET", "path": path, "binary": "/b\u{202e}",
            "sha256": "00", "generation": 1, "asked": 1, "held": 1, "first_at": "", "last_at": "", "answered_by": null
        }))
        .unwrap();
        let question = question(&approval);
        assert!(
            question.path.as_str().starts_with("/\\u{1b}]0;x\\u{7}aaa")
                && question.path.as_str().ends_with("aend")
        );
        assert_eq!(question.program.as_str(), "/b\\u{202e}");
        let event =
            told("egress", json!({ "verdict": "denied\x1b[2J", "path": path, "detail": path })).unwrap();
        assert_eq!(event.word.as_str(), "denied\\u{1b}[2J");
        for text in event.record.iter().flat_map(|(name, value)| [name, value]).chain([&event.what]) {
            assert!(text.as_str().chars().count() <= SHORT + 1 && !text.as_str().contains('\x1b'));
        }
    }
}
