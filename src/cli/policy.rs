//! `cofferdam policy`: check, explain, diff, schema and presets need no sandbox; show and set need a running
//! one.

use std::path::{Component, Path, PathBuf};

use http::{HeaderName, HeaderValue};
use operator::Code;
use operator::client::{Client, ClientError};
use operator::types::{AgentStatus, PolicyChange};
use policy::{
    AddressRule, Builtin, Compiled, Denial, Diagnostic, Diagnostics, Executable, Explanation, Host, Layer,
    Question, Severity, Verdict,
};
use proxy::guard::{self, OwnAddresses};
use serde::Serialize;
use serde_json::json;

use crate::builder::{self, Came, Wish};
use crate::cli::args::{ExplainArgs, NamedJson, PolicyCommand, Says};
use crate::cli::live::{client, failure};
use crate::cli::{Place, wait_for};
use crate::console::{Paint, fault, one_line, print, print_json, say, table, warn};
use crate::failure::{Failure, Outcome, REFUSED};
use crate::plan::PolicySource;
use crate::site::policies::{self, Base, Choice};
use crate::start::outside;
use crate::state::{Name, Root};

/// Runs a `policy` command.
pub(super) fn policy(place: &Place, command: PolicyCommand) -> Outcome {
    match command {
        PolicyCommand::Check { files, json } => check(&files, json),
        PolicyCommand::Explain(args) => explain(*args),
        PolicyCommand::Diff { a, b, json } => diff(&a, &b, json),
        PolicyCommand::Show(args) => show(&place.root()?, &args),
        PolicyCommand::Set { name, file, restart_agents, json } => {
            set(&place.root()?, &name, &file, restart_agents, json)
        }
        PolicyCommand::Schema { json: _ } => print_json(&policy::schema()).map(|()| 0),
        PolicyCommand::Presets { name, json } => built_ins(name.as_deref(), json),
    }
}

fn from_file(path: &Path) -> Result<PolicySource, Failure> {
    policies::source(&Choice { base: Some(Base::File(path)), presets: Vec::new() })
}

fn check(files: &[PathBuf], json: bool) -> Outcome {
    let reports: Vec<Report> = files.iter().map(|path| Report::of(path)).collect();
    if json {
        print_json(&reports)?;
    } else {
        // Every file is reported, also after a faulty one.
        reports.iter().try_for_each(Report::tell)?;
    }
    Ok(if reports.iter().all(|report| report.valid) { 0 } else { REFUSED })
}

/// The report on one file: a row of `policy check --json`. Every row has all keys.
#[derive(Serialize)]
struct Report {
    file: String,
    valid: bool,
    errors: Vec<serde_json::Value>,
    warnings: Vec<serde_json::Value>,
    /// Why it can't be read, if that is its error.
    unreadable: Option<String>,
    #[serde(skip)]
    found: Option<Diagnostics>,
}

impl Report {
    fn of(path: &Path) -> Self {
        let file = path.display().to_string();
        match policies::read(path) {
            Ok(text) => Self::found(judge(&file, &text), file),
            Err(Failure { message, .. }) => {
                let error = rows(&Diagnostics::whole(&file, message.as_str()), Severity::Error);
                Self {
                    file,
                    valid: false,
                    errors: error,
                    warnings: Vec::new(),
                    unreadable: Some(message),
                    found: None,
                }
            }
        }
    }

    /// Makes the report on a text that was read.
    fn found(found: Diagnostics, file: String) -> Self {
        Self {
            file,
            valid: !found.has_errors(),
            errors: rows(&found, Severity::Error),
            warnings: rows(&found, Severity::Warning),
            unreadable: None,
            found: Some(found),
        }
    }

    fn tell(&self) -> Result<(), Failure> {
        if let Some(why) = &self.unreadable {
            fault(why);
        }
        if let Some(found) = self.found.as_ref().filter(|found| !found.is_empty()) {
            print(&format!("{}\n", found.render(Paint::stdout().on())))?;
        }
        if self.valid {
            print(&format!("{}: {}\n", self.file, Paint::stdout().good("valid")))?;
        }
        Ok(())
    }
}

/// Returns the diagnostics of one severity as JSON.
fn rows(found: &Diagnostics, severity: Severity) -> Vec<serde_json::Value> {
    let told = serde_json::to_value(found).unwrap_or_default();
    let rows = told.get("diagnostics").and_then(|rows| rows.as_array()).cloned().unwrap_or_default();
    // The JSON has one row per diagnostic, in the same order.
    let both = found.items().iter().zip(rows);
    both.filter(|(item, _)| item.severity == severity).map(|(_, row)| row).collect()
}

/// Returns the errors and warnings of a policy, or of a preset if the file is one.
fn judge(name: &str, text: &str) -> Diagnostics {
    // Only a preset has this key, and a policy may not have it.
    if text.lines().any(|line| line.starts_with("preset:")) {
        return policy::parse_preset(name, text).map_or_else(|errors| errors, |(_, warnings)| warnings);
    }
    of_policy(&PolicySource {
        name: name.to_owned(),
        text: text.to_owned(),
        watch: None,
        presets: Vec::new(),
    })
}

fn of_policy(source: &PolicySource) -> Diagnostics {
    let candidate = match policies::load(source) {
        Ok(candidate) => candidate,
        Err(errors) => return errors,
    };
    let mut found = candidate.warnings().clone();
    // What a start would refuse by the names of the paths alone. Whether they exist is another machine's
    // affair.
    let filesystem = candidate.policy().filesystem();
    for (path, why) in policies::paths(candidate.policy()).faults() {
        let listed = filesystem.read_only.iter().chain(&filesystem.read_write);
        // Where the section is missing, the paths are a profile's, and stand in another text.
        let here = listed.filter(|rule| rule.path == path && *rule.origin.file == *source.name);
        let span = here.map(|rule| rule.origin.span.clone()).next_back();
        found.push(Diagnostic { span, ..Diagnostic::error(0..0, why.to_string()) });
    }
    found
}

/// Adds the address guard's verdict if the request names an address. The addresses of a name are judged when
/// it is resolved.
fn judge_address(compiled: &Compiled, question: &Question, explanation: &mut Explanation) {
    let Host::Addr(address) = &question.destination.host else { return };
    let Ok(grant) = compiled.connect(&question.destination, &question.caller) else { return };
    // This machine's own addresses don't matter: the policy may be for another machine.
    let own = OwnAddresses::fixed([]);
    let Err(refusal) = guard::judge(*address, question.destination.port, &grant.addresses, &own) else {
        return;
    };
    explanation.verdict = Verdict::Deny;
    (explanation.rule, explanation.location) = (None, None);
    explanation.denial = Some(Denial {
        layer: Layer::Ssrf,
        detail: refusal.to_string(),
        policy: Some(grant.policy),
        hint: refusal.hint().map(Into::into),
    });
}

/// Removes the proposed rule for an address that the guard would refuse all the same.
fn judge_mend(question: &Question, explanation: &mut Explanation) {
    let Host::Addr(address) = question.destination.host else { return };
    let as_proposed = AddressRule { allowed_ips: [].into(), exact_host: true };
    let own = OwnAddresses::fixed([]);
    if guard::judge(address, question.destination.port, &as_proposed, &own).is_err() {
        explanation.mend = None;
    }
}

/// Refuses a program that isn't named by its path: the policy knows programs by nothing else, so that the
/// answer would be about a program that there is not.
fn require_path(option: &str, program: &str) -> Result<(), Failure> {
    if program.is_empty() {
        return Err(Failure::refused(format!("{option}: name a program by its path, like /usr/bin/curl")));
    }
    if program.starts_with('/') {
        // Programs are identified by such paths alone: another spelling would be another program's.
        let plain: PathBuf = Path::new(program).components().collect();
        let leads_up = plain.components().any(|part| part == Component::ParentDir);
        return match plain.as_os_str() == program && !leads_up {
            true => Ok(()),
            false => Err(Failure::refused(format!(
                "{option} {}: a program's path has no `//`, `.`, `..` or slash at its end{}",
                one_line(program),
                if leads_up {
                    String::new()
                } else {
                    format!(": write {}", one_line(&plain.display().to_string()))
                }
            ))),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = outside::find(program.as_ref(), &path);
    let example = found.unwrap_or_else(|| Path::new("/usr/bin").join(program));
    Err(Failure::refused(format!(
        "{option} {}: programs are named by their paths inside the sandbox, like {}",
        one_line(program),
        one_line(&example.display().to_string())
    )))
}

fn explain(args: ExplainArgs) -> Outcome {
    require_path("--binary", &args.binary)?;
    args.ancestor.iter().try_for_each(|program| require_path("--ancestor", program))?;
    let source = policies::source(&Choice {
        base: Base::named(args.profile.as_deref(), args.policy.as_deref()),
        presets: args.preset,
    })?;
    let candidate = policies::check(&source, true)?;
    let compiled = Compiled::new(candidate.policy()).map_err(|d| Failure::refused(policies::render(&d)))?;
    let (method, target) = match args.request.as_slice() {
        [target] => (said_by(&args.says).or_else(|| is_of_http(target).then_some("GET")), target),
        [method, target] if method == "CONNECT" => (None, target),
        [method, target, ..] => (Some(method.as_str()), target),
        [] => return Err(Failure::refused("nothing to explain: give METHOD URL")),
    };
    let parsed = Question::parse(&args.binary, method, target);
    let odd = parsed.as_ref().err().and_then(|why| compiled.explain_odd(&args.binary, method, target, why));
    if let Some((mut explanation, meant)) = odd {
        meant.iter().for_each(|question| judge_mend(question, &mut explanation));
        return tell(&explanation, args.json);
    }
    let mut question = parsed.map_err(|e| Failure::refused(e.to_string()))?;
    match &mut question.request {
        Some(asked) => {
            asked.message = message(&args.says, asked.websocket);
            asked.body = body(&args.says, &args.arg)?;
            asked.headers = args.header.iter().map(|field| header(field)).collect::<Result<_, _>>()?;
        }
        None if args.header.is_empty() => {}
        None => return Err(Failure::refused("--header: a connection alone has no header fields")),
    }
    if let Some(hash) = &args.sha256 {
        let wrong = || Failure::refused(format!("--sha256 {hash}: not 64 hexadecimal digits"));
        question.caller.executable.sha256 =
            hex::decode(hash).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)?;
    }
    question.caller.ancestors =
        args.ancestor.iter().map(|path| Executable { path: path.as_str().into(), sha256: [0; 32] }).collect();
    let mut explanation = compiled.explain(&question);
    judge_address(&compiled, &question, &mut explanation);
    judge_mend(&question, &mut explanation);
    tell(&explanation, args.json)
}

fn tell(explanation: &Explanation, json: bool) -> Outcome {
    if json {
        print_json(explanation)?;
    } else {
        print(&format!("{explanation}\n"))?;
    }
    Ok(0)
}

/// Parses a header field, written as for other clients: `NAME: VALUE`.
fn header(field: &str) -> Result<(HeaderName, HeaderValue), Failure> {
    let read = || {
        let (name, value) = field.split_once(':')?;
        Some((name.parse().ok()?, value.trim_matches([' ', '\t']).parse().ok()?))
    };
    read().ok_or_else(|| Failure::refused(format!("--header {field}: not NAME: VALUE")))
}

/// Whether a target is an HTTP URL. Without a method it means a `GET`, as for every client.
fn is_of_http(target: &str) -> bool {
    target.split_once("://").is_some_and(|(scheme, _)| {
        scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
    })
}

/// Returns the method that the options imply, if none is given.
fn said_by(says: &Says) -> Option<&'static str> {
    let in_body = [&says.graphql, &says.mcp_tool, &says.rpc_method, &says.body];
    match in_body.iter().any(|text| text.is_some()) {
        true => Some("POST"),
        false => says.ws_text.as_ref().map(|_| "GET"),
    }
}

/// Returns the WebSocket message that a client would send for these options.
fn message(says: &Says, websocket: bool) -> Option<String> {
    let asks = |document: &String| {
        json!({ "id": "1", "type": "subscribe", "payload": { "query": document } }).to_string()
    };
    says.ws_text.clone().or_else(|| says.graphql.as_ref().filter(|_| websocket).map(asks))
}

/// Returns the body that a client would send for these options.
fn body(says: &Says, args: &[String]) -> Result<Option<String>, Failure> {
    let mut arguments = serde_json::Map::new();
    for arg in args {
        let Some((name, value)) = arg.split_once('=') else {
            return Err(Failure::refused(format!("--arg {arg}: not NAME=VALUE")));
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        arguments.insert(name.to_owned(), value);
    }
    let call = |method: &str, params: serde_json::Value| {
        json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string()
    };
    Ok(match says {
        Says { graphql: Some(document), .. } => Some(json!({ "query": document }).to_string()),
        Says { mcp_tool: Some(tool), .. } => {
            Some(call("tools/call", json!({ "name": tool, "arguments": arguments })))
        }
        Says { rpc_method: Some(method), .. } => Some(call(method, arguments.into())),
        Says { body, .. } => body.clone(),
    })
}

fn diff(a: &Path, b: &Path, json: bool) -> Outcome {
    let before = policies::check(&from_file(a)?, true)?;
    let after = policies::check(&from_file(b)?, true)?;
    let changes = policy::diff(before.policy(), after.policy());
    if json {
        print_json(&changes)?;
    } else if changes.is_empty() {
        print("nothing changes\n")?;
    } else {
        for change in &changes {
            print(&format!("{change}\n"))?;
        }
    }
    Ok(0)
}

fn show(root: &Root, args: &NamedJson) -> Outcome {
    let client = client(root, &args.name)?;
    let view = wait_for(async { client.policy().await.map_err(failure) })?;
    if args.json {
        print_json(&view)?;
    } else {
        print(&view.text)?;
    }
    Ok(0)
}

fn set(root: &Root, name: &str, file: &Path, restart_agents: bool, json: bool) -> Outcome {
    let source = from_file(file).inspect_err(|_| {
        if json {
            let _ = print_json(&Report::of(file));
        }
    })?;
    // Checked here, where the file is, so that every error is shown at its place. The sandbox checks again
    // with its presets.
    let checked = policies::check(&source, true);
    let client = client(root, name)?;
    if let Err(faults) = checked {
        // Sent all the same: the sandbox refuses it too, and thereby records and counts the attempt.
        let report = Report::found(of_policy(&source), source.name.clone());
        let _ = wait_for(async { client.set_policy(source.text, false).await.map_err(failure) });
        if json {
            print_json(&report)?;
        }
        return Err(faults);
    }
    let change = match restart_agents {
        true => move_agents(root, &client, &Name::parse(name)?, source, json)?,
        false => wait_for(async { client.set_policy(source.text, false).await.map_err(failure) })?,
    };
    if json {
        print_json(&change)?;
    } else {
        change.warnings.iter().for_each(|warning| warn(warning));
        let is = if change.unchanged { "unchanged: generation" } else { "generation" };
        print(&format!("{is} {} is in force\n", change.generation))?;
        if !change.restarted.is_empty() {
            print(&format!("started again: {}\n", change.restarted.join(", ")))?;
        }
    }
    Ok(0)
}

/// Has the agents start again under a policy, in another cage if it needs one. The builder is asked first: it
/// can tell, whatever state the supervisor is in.
fn move_agents(
    root: &Root,
    client: &Client,
    name: &Name,
    source: PolicySource,
    json: bool,
) -> Result<PolicyChange, Failure> {
    let wish = Wish { name: source.name, policy: source.text };
    let building = || {
        if !json {
            say("a changed static section: another cage is built, and the agents move there");
        }
    };
    let came = builder::another_cage(root, name, &wish, building)?;
    if let Came::Moved(warnings) = came {
        return moved(client, warnings);
    }
    match wait_for(async { Ok(client.set_policy(wish.policy, true).await) })? {
        Err(ClientError::Fault(fault)) if fault.code == Code::NeedsCage => {
            let why = match came {
                Came::NoBuilder(error) => format!("'{name}' has no builder that answers ({error})"),
                _ => fault.to_string(),
            };
            Err(Failure::refused(format!("{why}: stop it, and start it with the new policy")))
        }
        answer => answer.map_err(failure),
    }
}

/// Returns what is in force after a move, and which agents run under it.
fn moved(client: &Client, mut warnings: Vec<String>) -> Result<PolicyChange, Failure> {
    let status = wait_for(async { client.status().await.map_err(failure) })?;
    warnings.extend(status.agents.iter().filter_map(|agent| not_running(&status.name, agent)));
    Ok(PolicyChange {
        generation: status.policy.generation,
        unchanged: false,
        warnings,
        restarted: status
            .agents
            .into_iter()
            .filter(|agent| agent.pid.is_some())
            .map(|agent| agent.name)
            .collect(),
    })
}

/// Returns the warning about an agent that doesn't run in the new cage.
fn not_running(sandbox: &str, agent: &AgentStatus) -> Option<String> {
    if agent.pid.is_some() {
        return None;
    }
    let name = &agent.name;
    let by_hand = format!("`cofferdam restart {sandbox} agents/{name}` starts it");
    Some(match agent.state.as_str() {
        "exited" => format!("agent '{name}' is over, and isn't started in the new cage: {by_hand}"),
        "gave-up" => format!(
            "agent '{name}' isn't running, its restarts are used up: once its fault is mended, {by_hand}"
        ),
        _ => format!("agent '{name}' isn't running: see `cofferdam logs {sandbox}`"),
    })
}

fn built_ins(name: Option<&str>, json: bool) -> Outcome {
    let all: Vec<(&str, &Builtin)> = policy::profiles()
        .iter()
        .map(|builtin| ("profile", builtin))
        .chain(policy::presets().iter().map(|builtin| ("preset", builtin)))
        .collect();
    if let Some(name) = name {
        let Some((kind, found)) = all.iter().find(|(_, builtin)| builtin.name == name) else {
            return Err(Failure::refused(format!(
                "no profile or preset is called '{name}': see `cofferdam policy presets`"
            )));
        };
        if json {
            let Builtin { name, text, .. } = found;
            print_json(&json!({ "kind": kind, "name": name, "description": purpose(found), "text": text }))?;
        } else {
            print(found.text)?;
        }
        return Ok(0);
    }
    if json {
        print_json(&all.iter().map(|(kind, builtin)| listed(kind, builtin)).collect::<Vec<_>>())?;
        return Ok(0);
    }
    let head = ["KIND", "NAME", "WHAT FOR"].map(String::from).to_vec();
    let rows = all.iter().map(|(kind, builtin)| vec![(*kind).into(), builtin.name.into(), purpose(builtin)]);
    print(&table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))?;
    Ok(0)
}

fn listed(kind: &str, builtin: &Builtin) -> serde_json::Value {
    json!({ "kind": kind, "name": builtin.name, "description": purpose(builtin) })
}

/// Returns a preset's own description, or the first sentence of a profile's file.
fn purpose(builtin: &Builtin) -> String {
    if let Ok(preset) = builtin.preset() {
        return preset.description.to_string();
    }
    let comment = builtin.text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim);
    let text = comment.collect::<Vec<_>>().join(" ");
    text.split_once(". ").map_or(text.clone(), |(first, _)| first.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_agent_that_stays_down_is_told_of() {
        let of = |state: &str, pid| AgentStatus {
            name: "a".into(),
            state: state.into(),
            pid,
            restarts: 0,
            uptime_ms: None,
            health: None,
            last_exit: None,
        };
        assert_eq!(not_running("box", &of("running", Some(2))), None);
        for (state, said) in [("backoff", "logs box"), ("exited", "is over"), ("gave-up", "used up")] {
            assert!(not_running("box", &of(state, None)).unwrap().contains(said), "{state}");
        }
    }
}
