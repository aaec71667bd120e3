//! Budgets of model requests: they are never exceeded, and nothing that is killed, stopped or damaged makes
//! them lose a count.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test fails by panic")]

mod common;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bed::stage::{Finished, PATIENCE, Running, poll};
use bed::{Stage, provider};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use common::{COFFERDAM, START, Sandbox, ensure_audited, policy_file, program, workspace};

fn main() -> ExitCode {
    bed::harness::main(
        "budgets",
        Path::new(COFFERDAM),
        bed::cases![
            a_spent_budget_stays_spent_whatever_is_killed,
            what_is_in_flight_when_the_supervisor_is_killed_is_used,
            a_hundred_requests_at_one_time_pass_no_budget_together,
            a_crowd_that_names_no_maximum_passes_no_budget_together,
            damaged_counts_let_nothing_through_until_they_are_mended,
            what_cannot_be_kept_is_told_by_line_and_column,
        ],
    )
}

fn config(stage: &Stage, budgets: &str) -> Result<String> {
    let text = format!(
        "inference:\n  providers:\n    near: {{ kind: openai, base_url: \"{}\", credential: env:BED_KEY }}\n  routes:\n    \
         - {{ model: \"bed-*\", to: [ {{ provider: near }} ] }}\n  budgets: {budgets}\n",
        provider::BASE_URL
    );
    Ok(stage.write("cofferdam.yaml", text)?.display().to_string())
}

fn begin(stage: &Stage, name: &str, budgets: &str, command: &[&str]) -> Result<Running> {
    let (config, policy, workspace) = (config(stage, budgets)?, policy_file(stage, "")?, workspace(stage));
    let options = ["run", "--name", name, "--config", &config, "--policy", &policy];
    let more = ["--workspace", &workspace, "--allow-fault-injection", "--"];
    let mut run = stage.cofferdam([&options[..], &more, command].concat());
    run.env("BED_KEY", provider::KEY);
    stage.start(run)
}

/// A sandbox whose agent only waits; requests are made by `exec`.
fn idle<'a>(stage: &'a Stage<'a>, name: &str, budgets: &str) -> Result<Sandbox<'a>> {
    let mut running = begin(stage, name, budgets, &["sh", "-c", "echo ready; exec sleep 1000"])?;
    running.wait_for("ready", START)?;
    Ok(Sandbox::adopt(stage, name.to_owned(), running))
}

/// The status, the `retry-after` and the body that a request for `model` gets.
fn ask(stage: &Stage, name: &str, model: &str) -> Result<(u16, String, String)> {
    let curl = program("curl")?;
    let body = format!(
        r#"{{"model":"{model}","max_tokens":100,"messages":[{{"role":"user","content":"{name}"}}]}}"#
    );
    let format = "\n%{http_code} %header{retry-after}";
    let url = "http://inference.local/v1/chat/completions";
    let json = "content-type: application/json";
    let run = [&curl, "-s", "--max-time", "60", "-w", format, "-H", json, "-d", &body, url];
    let done: Finished = stage.call(&[&["exec", name, "--"], &run[..]].concat())?.expect_code(0)?;
    let text = done.out();
    let (body, last) = text.rsplit_once('\n').context("no status")?;
    let (code, after) = last.split_once(' ').context("no header")?;
    Ok((code.parse()?, after.to_owned(), body.to_owned()))
}

/// The used tokens that the status shows for the first budget.
fn used(status: &Value) -> Option<u64> {
    status["budgets"][0]["tokens"]["used"].as_u64()
}

/// Kills the supervisor, and waits for the next one.
fn kill_supervisor(sandbox: &Sandbox) -> Result<()> {
    let pid = |status: &Value| status["supervisor_pid"].as_i64();
    let before = pid(&sandbox.status()?).context("no supervisor")?;
    kill(Pid::from_raw(before as i32), Signal::SIGKILL)?;
    poll("the next supervisor", PATIENCE, || {
        let status = sandbox.status().ok()?;
        (pid(&status)? != before && status["state"] == "running").then_some(())
    })
}

fn ensure_spent(stage: &Stage, name: &str, when: &str) -> Result<()> {
    let (code, after, body) = ask(stage, name, "bed-spends-1")?;
    let refusal: Value = serde_json::from_str(&body).with_context(|| format!("{when}: {code} {body}"))?;
    ensure!(code == 403 && refusal["layer"] == "budget", "{when}: {code} {body}");
    ensure!(refusal["error"] == "policy_denied" && refusal["policy"] == "bed-*", "{when}: {body}");
    ensure!(refusal["detail"] == "the budget of 500 tokens a day is spent", "{when}: {body}");
    ensure!(refusal["hint"].as_str().is_some_and(|hint| hint.contains("T00:00:00Z")), "{when}: {body}");
    ensure!((1..=86_400).contains(&after.parse::<u64>()?), "{when}: retry-after {after:?}");
    Ok(())
}

fn a_spent_budget_stays_spent_whatever_is_killed(stage: &Stage) -> Result<()> {
    let budgets =
        "[ { per: day, tokens: 500 }, { per: hour, requests: 100, provider: near, model: \"bed-*\" } ]";
    let name = stage.name();
    let sandbox = idle(stage, &name, budgets)?;
    let (code, _, body) = ask(stage, &name, "bed-spends-600")?;
    ensure!(code == 200, "{code} {body}");
    ensure_spent(stage, &name, "at first")?;
    ensure_audited(stage, &name, &[("kind", "inference"), ("verdict", "denied"), ("layer", "budget")])?;
    sandbox.crash("gateway")?;
    ensure_spent(stage, &name, "after a crash of the gateway")?;
    kill_supervisor(&sandbox)?;
    ensure_spent(stage, &name, "after the supervisor was killed")?;
    let status = sandbox.status()?;
    ensure!(used(&status) == Some(600) && status["budgets"][0]["state"] == "spent", "{status}");
    ensure!(status["budgets"][1]["requests"]["used"] == 1, "{status}");
    let text = stage.call(&["status", &name])?.expect_code(0)?.out();
    ensure!(text.contains("600 of 500 tokens until "), "{text}");
    stage.call(&["stop", &name])?.expect_code(0)?;
    drop(sandbox);
    let file = stage.state().join(&name).join("budgets.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file)?.permissions());
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    let sandbox = idle(stage, &name, budgets)?;
    ensure_spent(stage, &name, "after a new start")?;
    // The count survives a change of the limit.
    drop(sandbox);
    let _sandbox = idle(stage, &name, "[ { per: day, tokens: 5000 } ]")?;
    let (code, _, body) = ask(stage, &name, "bed-spends-1")?;
    ensure!(code == 200, "{code} {body}");
    let status = stage.json(&["status", &name, "--json"])?;
    ensure!(used(&status) == Some(601), "{status}");
    let arrived = stage.world().recorder().all();
    let ours = |body: &str| body.contains("bed-spends-1\"") && body.contains(&format!("\"{name}\""));
    let arrived = arrived.iter().filter(|s| ours(&String::from_utf8_lossy(&s.body))).count();
    ensure!(arrived == 1, "{arrived} reached the provider");
    Ok(())
}

fn what_is_in_flight_when_the_supervisor_is_killed_is_used(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let name = stage.name();
    let body = r#"{"model":"bed-ticks-400","stream":true,"max_tokens":450,"messages":[{"role":"user","content":"go"}]}"#;
    let script = format!(
        "{curl} -sSN --max-time 120 -H 'content-type: application/json' -d '{body}' \
         http://inference.local/v1/chat/completions; exec sleep 1000"
    );
    let mut running = begin(stage, &name, "[ { per: day, tokens: 500 } ]", &["sh", "-c", &script])?;
    running.wait_for("tick 3", START)?;
    let sandbox = Sandbox::adopt(stage, name.clone(), running);
    // The estimate: the maximum of the answer, and half a token for each byte of the request.
    let held = 450 + body.len().div_ceil(2) as u64;
    ensure!(used(&sandbox.status()?) == Some(held), "{}", sandbox.status()?);
    let (code, after, text) = ask(stage, &name, "bed-spends-1")?;
    ensure!(code == 403 && text.contains("in flight") && after == "5", "{code} {after} {text}");
    kill_supervisor(&sandbox)?;
    ensure!(used(&sandbox.status()?) == Some(held), "{}", sandbox.status()?);
    Ok(())
}

/// Sends a hundred requests at once, for the model and with the members that its arguments give, and prints
/// how often each status came.
const CROWD: &str = r#"
import http.client, json, sys, threading, collections
path, asked = sys.argv[1], json.loads(sys.argv[2])
codes, start = [], threading.Barrier(100)
def ask():
    connection = http.client.HTTPConnection("inference.local", 80, timeout=100)
    connection.connect()
    start.wait()
    for _ in range(50):
        connection.request("POST", path, json.dumps(asked), {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        # Too many at one time is another limit.
        if answer.status != 503:
            break
    codes.append(answer.status)
threads = [threading.Thread(target=ask) for _ in range(100)]
[t.start() for t in threads]
[t.join() for t in threads]
print("codes", json.dumps(collections.Counter(codes)), flush=True)
import time; time.sleep(1000)
"#;

/// Sends a hundred chat requests at once in a sandbox of its own (`which`) with a budget; each uses `each`
/// tokens and has the members `more`. Returns how many were served, and checks that the provider saw and the
/// budget counts exactly those.
fn served_of_a_crowd(stage: &Stage, which: &str, (budget, each): (u64, u64), more: &str) -> Result<u64> {
    let python = program("python3")?;
    let (name, marker) = (format!("{}-{which}", stage.name()), format!("{}-{which}", stage.marker()));
    let asked = format!(
        r#"{{"model":"bed-spends-{each}","messages":[{{"role":"user","content":"{marker}"}}]{more}}}"#
    );
    let command = [&python, "-c", CROWD, "/v1/chat/completions", &asked];
    let budgets = format!("[ {{ per: day, tokens: {budget} }} ]");
    let mut running = begin(stage, &name, &budgets, &command.map(|s| s as &str))?;
    running.wait_for("codes", START)?;
    running.wait_for("}", PATIENCE)?;
    let out = running.out();
    let sandbox = Sandbox::adopt(stage, name.clone(), running);
    let codes: Value = serde_json::from_str(out.split("codes ").nth(1).context("no codes")?.trim())?;
    let served = codes["200"].as_u64().unwrap_or(0);
    ensure!(served + codes["403"].as_u64().unwrap_or(0) == 100, "{codes}");
    let arrived = stage.world().recorder().all();
    let arrived =
        arrived.iter().filter(|s| String::from_utf8_lossy(&s.body).contains(&marker)).count() as u64;
    ensure!(arrived == served, "{arrived} reached the provider, {served} were served");
    let status = sandbox.status()?;
    ensure!(used(&status) == Some(served * each), "{codes} {status}");
    Ok(served)
}

fn a_hundred_requests_at_one_time_pass_no_budget_together(stage: &Stage) -> Result<()> {
    let served = served_of_a_crowd(stage, "small", (1000, 150), r#","max_tokens":100"#)?;
    // Each is admitted with 100 tokens and more, and uses 150.
    ensure!((1..=9).contains(&served), "{served}");
    Ok(())
}

fn a_crowd_that_names_no_maximum_passes_no_budget_together(stage: &Stage) -> Result<()> {
    for (which, more) in
        [("none", ""), ("foreign", r#","max_output_tokens":1"#), ("negative", r#","max_tokens":-1"#)]
    {
        // Two use more than the budget has, so the second was admitted while no other was in flight.
        let served = served_of_a_crowd(stage, which, (100_000, 60_000), more)?;
        ensure!((1..=2).contains(&served), "{which}: {served}");
    }
    Ok(())
}

fn damaged_counts_let_nothing_through_until_they_are_mended(stage: &Stage) -> Result<()> {
    let (name, budgets) = (stage.name(), "[ { per: day, tokens: 500 } ]");
    let sandbox = idle(stage, &name, budgets)?;
    ensure!(ask(stage, &name, "bed-spends-10")?.0 == 200, "not served");
    drop(sandbox);
    let file = stage.state().join(&name).join("budgets.json");
    let whole = std::fs::read(&file)?;
    std::fs::OpenOptions::new().write(true).open(&file)?.set_len(20)?;
    let mut sandbox = idle(stage, &name, budgets)?;
    sandbox.heart().wait_for_err("budgets.json", PATIENCE)?;
    let (code, _, body) = ask(stage, &name, "bed-spends-10")?;
    ensure!(code == 503 && body.contains("budgets.json"), "{code} {body}");
    ensure!(!body.contains(&*stage.state().to_string_lossy()), "the operator's path is told: {body}");
    let status = sandbox.status()?;
    ensure!(status["budgets"][0]["state"] == "unreadable" && used(&status).is_none(), "{status}");
    // Written back in place, since the directory may be another user's.
    std::fs::write(&file, &whole)?;
    let (code, _, body) = ask(stage, &name, "bed-spends-10")?;
    ensure!(code == 200, "{code} {body}");
    let status = sandbox.status()?;
    ensure!(used(&status) == Some(20) && status["budgets"][0]["state"] == "open", "{status}");
    Ok(())
}

fn what_cannot_be_kept_is_told_by_line_and_column(stage: &Stage) -> Result<()> {
    for (budgets, told) in [
        ("[ { per: day, tokns: 5 } ]", "did you mean `tokens`?"),
        ("[ { per: week, tokens: 5 } ]", "line 6, column "),
        ("[ { per: day, tokens: 99999999999999999999 } ]", "line 6, column "),
        ("[ { per: day, tokens: -5 } ]", "inference.budgets[0].tokens"),
        ("[ { tokens: 5 } ]", "missing field `per`"),
        ("[ { per: day } ]", "inference.budgets[0]: limits nothing"),
        ("[ { per: day, tokens: 0 } ]", "inference.budgets[0].tokens: must lie between 1 and"),
        ("[ { per: day, tokens: 5 }, { per: day, requests: 5 } ]", "is already budgets[0]"),
        ("[ { per: day, tokens: 5, provider: naer } ]", "did you mean \"near\"?"),
    ] {
        let file = config(stage, budgets)?;
        let mut run = stage.cofferdam(["run", "--config", &file, "--", "true"]);
        run.env("BED_KEY", provider::KEY);
        let done = bed::stage::finish(run, PATIENCE)?.expect_code(125)?;
        ensure!(done.err().contains(told), "{budgets}: {}", done.err());
    }
    Ok(())
}
