//! What operators see: metrics, audit, status, tree, ps, logs; redacted, and provable.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test fails by panic"
)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use bed::stage::{Mode, PATIENCE, finish, free_port, poll};
use bed::{Stage, provider};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use common::{COFFERDAM, FRIENDLY, Sandbox, find, policy_file, program, workspace};

fn main() -> ExitCode {
    bed::harness::main(
        "observe",
        Path::new(COFFERDAM),
        bed::cases![
            every_metric_is_served_and_promtool_agrees,
            a_real_prometheus_scrapes_it,
            audit_verifies_and_tampering_shows,
            what_starts_something_waits_for_a_log_that_takes_records,
            listings_are_json_and_text,
            one_that_hangs_hides_no_other,
            restarting_the_operator_is_answered,
            an_agents_actor_has_its_short_name.only(Mode::Rootless),
            output_is_redacted_and_logged,
            redact_is_a_filter.only(Mode::Rootless),
            every_help_has_an_example.only(Mode::Rootless),
            what_ps_may_not_see_is_said.only(Mode::Rootless),
        ],
    )
}

/// The metrics of the design's section 11 that are implemented.
const METRICS: &[&str] = &[
    "cofferdam_build_info",
    "cofferdam_actor_up{",
    "cofferdam_actor_restarts_total{",
    "cofferdam_agent_up{",
    "cofferdam_agent_restarts_total{",
    "cofferdam_supervisor_restarts_total",
    "cofferdam_policy_generation",
    "cofferdam_policy_reloads_total{",
    "cofferdam_decisions_total{",
    "cofferdam_proxy_connections",
    "cofferdam_proxy_bytes_total{",
    "cofferdam_proxy_decision_seconds_bucket{",
    "cofferdam_inference_requests_total{",
    "cofferdam_inference_tokens_total{",
    "cofferdam_inference_first_byte_seconds_bucket{",
    "cofferdam_redactions_total{",
    "cofferdam_audit_records_total",
];

/// Samples that must be on the page of a sandbox in which the gateway has died once.
const SAMPLES: &[&str] = &[
    "cofferdam_actor_up{actor=\"proxy\"} 1",
    "cofferdam_actor_restarts_total{actor=\"gateway\"} 1",
    "cofferdam_supervisor_restarts_total 0",
];

fn scrape(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    ensure!(page.starts_with("HTTP/1.1 200"), "{}", page.lines().next().unwrap_or_default());
    Ok(page.split_once("\r\n\r\n").context("no body")?.1.to_owned())
}

/// A sandbox in which everything has happened once: requests, refusals, a model request, a redaction, a
/// restart.
fn busy<'a>(stage: &'a Stage<'a>, port: u16) -> Result<Sandbox<'a>> {
    let curl = program("curl")?;
    let config = format!(
        "inference:\n  providers:\n    local: {{ kind: openai, base_url: \"{}\", credential: env:BED_KEY }}\n  routes:\n    \
         - {{ model: near, to: [ {{ provider: local, model: bed-echo }} ] }}\n",
        provider::BASE_URL
    );
    let config = stage.write("cofferdam.yaml", config)?.display().to_string();
    let policy = policy_file(stage, FRIENDLY)?;
    let body = r#"{"model":"near","messages":[{"role":"user","content":"one two three"}]}"#;
    let script = format!(
        "{curl} -sSf -o /dev/null https://api.bed.test/; {curl} -s -o /dev/null https://evil.bed.test/; {curl} -sSf -o /dev/null \
         -H 'content-type: application/json' -d '{body}' https://inference.local/v1/chat/completions; echo \
         ghp_$(head -c 27 /dev/zero | tr '\\0' a)123456789; echo ready; exec sleep 1000"
    );
    let metrics = format!("127.0.0.1:{port}");
    let name = stage.name();
    let mut run =
        stage.cofferdam(["run", "--quiet", "--name", &name, "--config", &config, "--policy", &policy]);
    run.args(["--metrics", &metrics, "--allow-fault-injection", "--", "sh", "-c", &script]);
    run.env("BED_KEY", provider::KEY);
    let mut running = stage.start(run)?;
    running.wait_for("ready", common::START)?;
    let sandbox = Sandbox::adopt(stage, name, running);
    sandbox.crash("gateway")?;
    Ok(sandbox)
}

fn every_metric_is_served_and_promtool_agrees(stage: &Stage) -> Result<()> {
    let port = free_port()?;
    let sandbox = busy(stage, port)?;
    // The last events may not be counted yet.
    let all_there = |page: &String| {
        METRICS.iter().all(|name| page.lines().any(|line| line.starts_with(name)))
            && SAMPLES.iter().all(|sample| page.lines().any(|line| line == *sample))
    };
    let page = poll("every metric", PATIENCE, || scrape(port).ok().filter(all_there))
        .with_context(|| format!("not all of {METRICS:?} and {SAMPLES:?} in\n{:?}", scrape(port)))?;
    ensure!(!page.contains("evil.bed.test"), "an agent's word became a label");
    if let Ok(promtool) = program("promtool") {
        let mut check = stage.command(promtool);
        check.args(["check", "metrics"]).stdin(Stdio::piped());
        let mut child = check.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().unwrap().write_all(page.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "promtool: {}", String::from_utf8_lossy(&output.stderr));
    }
    drop(sandbox);
    Ok(())
}

fn a_real_prometheus_scrapes_it(stage: &Stage) -> Result<()> {
    let prometheus = program("prometheus")?;
    let (port, web) = (free_port()?, free_port()?);
    let _sandbox = busy(stage, port)?;
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    let config = std::fs::read_to_string(deploy.join("prometheus.yml"))?;
    let config = config.replace("127.0.0.1:9464", &format!("127.0.0.1:{port}")).replace("15s", "1s");
    let config = stage.write("prometheus.yml", config)?;
    stage.write("cofferdam.rules.yml", std::fs::read(deploy.join("cofferdam.rules.yml"))?)?;
    let mut run = stage.command(prometheus);
    run.arg("--config.file").arg(&config).arg("--storage.tsdb.path").arg(stage.dir().join("home/tsdb"));
    run.arg(format!("--web.listen-address=127.0.0.1:{web}"));
    let _running = stage.start(run)?;
    let ask = |query: &str| -> Option<serde_json::Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", web)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(stream, "GET /api/v1/query?query={query} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let answer: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        Some(answer["data"]["result"][0]["value"][1].clone())
    };
    poll("a scrape", PATIENCE, || ask("up%7Bjob%3D%22cofferdam%22%7D").filter(|v| v == "1"))?;
    poll("a sample", PATIENCE, || ask("cofferdam_actor_up%7Bactor%3D%22proxy%22%7D").filter(|v| v == "1"))?;
    Ok(())
}

fn audit_verifies_and_tampering_shows(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let policy = policy_file(stage, FRIENDLY)?;
    let script = format!("for i in 1 2 3 4 5; do {curl} -sSf -o /dev/null https://api.bed.test/$i; done");
    stage.run(&["--name", "kept", "--policy", &policy], &["sh", "-c", &script])?.expect_code(0)?;
    stage.call(&["audit", "verify", "kept"])?.expect_code(0)?;
    let report = stage.json(&["audit", "verify", "kept", "--json"])?;
    ensure!(report.to_string().contains("records"), "{report}");
    let shown = stage.call(&["audit", "show", "kept"])?.expect_code(0)?.out();
    ensure!(shown.contains("api.bed.test"), "{shown}");

    let path = stage.state().join("kept/audit.jsonl");
    let good = std::fs::read_to_string(&path)?;
    let lines: Vec<&str> = good.lines().collect();
    ensure!(lines.len() > 6, "{} records", lines.len());
    let join = |lines: &[&str]| lines.iter().map(|l| format!("{l}\n")).collect::<String>();
    let mut swapped = lines.clone();
    swapped.swap(3, 4);
    let changed = good.replacen("api.bed.test", "api.bad.test", 1);
    let missing = join(&[&lines[..3], &lines[4..]].concat());
    let cut = join(&lines[..lines.len() - 1]);
    for (what, text) in
        [("changed", changed), ("reordered", join(&swapped)), ("missing", missing), ("cut off", cut)]
    {
        std::fs::write(&path, &text)?;
        let done = stage.call(&["audit", "verify", "kept"])?;
        ensure!(done.code() == 125, "a {what} record is not found: {}", done.out());
        ensure!(done.err().starts_with("cofferdam: the audit log"), "{}", done.err());
    }
    std::fs::remove_file(&path)?;
    let done = stage.call(&["audit", "verify", "kept"])?.expect_code(125)?;
    ensure!(done.out().contains("cut off"), "a log that was taken away: {}{}", done.out(), done.err());
    std::fs::write(&path, &good)?;
    stage.call(&["audit", "verify", "kept"])?.expect_code(0)?;
    // Where there never was a log, there is nothing to verify or to show.
    let elsewhere = stage.write("notes.txt", "no log\n")?.display().to_string();
    for what in ["verify", "show"] {
        let said = stage.call(&["audit", what, &elsewhere])?.expect_code(125)?.err();
        ensure!(said.contains("no audit log in "), "{said}");
    }
    Ok(())
}

/// The log's file is replaced by something that can't be written. Nothing is started or accepted without a
/// record; what an operator does all the same is recorded as soon as the log works again.
fn what_starts_something_waits_for_a_log_that_takes_records(stage: &Stage) -> Result<()> {
    let nothing = stage.write("nothing.yaml", common::policy(""))?.display().to_string();
    let ready = ["sh", "-c", "echo ready; exec sleep 1000"];
    let sandbox = Sandbox::start(stage, &["--policy", &nothing], &ready, "ready")?;
    let log = stage.state().join(&sandbox.name).join("audit.jsonl");
    std::fs::rename(&log, log.with_extension("aside"))?;
    std::fs::create_dir(&log)?;
    let exec = || stage.call(&["exec", &sandbox.name, "--", "echo", "started"]);
    let refused = poll("exec refused", PATIENCE, || exec().ok().filter(|done| done.code() == 125))?;
    ensure!(
        refused.out().is_empty() && refused.err().contains("audit log cannot be written"),
        "{}",
        refused.err()
    );
    ensure!(refused.err().contains("make room"), "no mend: {}", refused.err());
    let zeros = "0".repeat(64);
    let accepted = stage.call(&["identity", "accept", &sandbox.name, "/bin/sh", "--sha256", &zeros])?;
    ensure!(accepted.code() == 125 && accepted.err().contains("audit log"), "{}", accepted.err());
    let policy = policy_file(stage, FRIENDLY)?;
    stage.call(&["policy", "set", &sandbox.name, &policy])?.expect_code(0)?;
    std::fs::remove_dir(&log)?;
    let again = poll("exec again", PATIENCE, || exec().ok().filter(|done| done.code() == 0))?;
    ensure!(again.out() == "started\n", "{}", again.out());
    poll("what was done meanwhile on record", PATIENCE, || {
        let shown = stage.call(&["audit", "show", &sandbox.name]).ok()?.expect_code(0).ok()?.out();
        shown.contains("policy set").then_some(())
    })
}

fn listings_are_json_and_text(stage: &Stage) -> Result<()> {
    let sandbox = Sandbox::start(stage, &[], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let name = &sandbox.name;
    let listed = stage.json(&["ps", "--json"])?;
    ensure!(listed.as_array().is_some_and(|l| l.iter().any(|s| s["name"] == name.as_str())), "{listed}");
    // One that has ended is listed where that is asked for.
    stage.run(&["--name", "over"], &["true"])?.expect_code(0)?;
    let of_over = |listed: serde_json::Value| {
        listed.as_array().and_then(|all| all.iter().find(|one| one["name"] == "over").cloned())
    };
    ensure!(of_over(stage.json(&["ps", "--json"])?).is_none());
    let over = of_over(stage.json(&["ps", "--all", "--json"])?);
    ensure!(over.as_ref().is_some_and(|one| one["state"] == "stopped"), "{over:?}");
    let listed = stage.call(&["ps", "-a"])?.expect_code(0)?.out();
    ensure!(listed.contains(name.as_str()) && listed.lines().any(|row| row.starts_with("over")), "{listed}");
    let tree = sandbox.tree()?;
    for part in ["telemetry", "redactor", "policy", "operator", "gateway", "proxy", "agents"] {
        ensure!(find(&tree, part).is_some_and(|node| node["state"] == "up"), "{part} is not up: {tree}");
    }
    let status = sandbox.status()?;
    ensure!(status["state"] == "running" && status["rooted"] == (stage.mode() == Mode::Rooted), "{status}");
    ensure!(status["policy"]["generation"] == 1, "{status}");
    for args in [&["ps"][..], &["status", name], &["tree", name], &["policy", "show", name]] {
        let done = stage.call(args)?.expect_code(0)?;
        ensure!(
            !done.stdout.is_empty() && !done.stdout.contains(&0x1b),
            "{args:?} prints colours into a pipe"
        );
    }
    for args in [
        &["status", "nobody"][..],
        &["tree", "nobody"],
        &["logs", "nobody"],
        &["stop", "nobody"],
        &["exec", "nobody", "--", "true"],
    ] {
        let done = stage.call(args)?.expect_code(125)?;
        ensure!(done.err().contains("nobody") && done.err().lines().count() == 1, "{args:?}: {}", done.err());
    }
    Ok(())
}

/// A stopped supervisor still accepts connections (by its backlog), but answers none.
fn one_that_hangs_hides_no_other(stage: &Stage) -> Result<()> {
    let start = |name: &str| -> Result<Sandbox> {
        let mut running = stage.start_run(name, &[], &["sh", "-c", "echo ready; exec sleep 1000"])?;
        running.wait_for("ready", common::START)?;
        Ok(Sandbox::adopt(stage, name.to_owned(), running))
    };
    let (frozen, _lively) = (start("frozen")?, start("lively")?);
    let supervisor = frozen.status()?["supervisor_pid"].as_i64().context("no pid")?;
    let supervisor = Pid::from_raw(i32::try_from(supervisor)?);
    kill(supervisor, Signal::SIGSTOP)?;
    // Try again if a busy machine kept the running one from answering in time as well.
    let asked = || {
        let json = stage.json(&["ps", "--json"]).ok()?;
        let text = stage.call(&["ps"]).ok()?.out();
        let state = |name: &str| json.as_array()?.iter().find(|s| s["name"] == name)?["state"].as_str();
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        let is_told = state("frozen") == Some("not-answering") && line("frozen").contains("not answering");
        let is_there = state("lively") == Some("running") && line("lively").contains("running");
        (is_told && is_there).then_some(())
    };
    let told = poll("both to be listed as they are", PATIENCE, asked)
        .with_context(|| format!("{:?}", stage.call(&["ps"]).map(|done| done.out())));
    kill(supervisor, Signal::SIGCONT)?;
    told
}

fn output_is_redacted_and_logged(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    let config = format!(
        "inference:\n  providers:\n    local: {{ kind: openai, base_url: \"{}\", credential: env:BED_KEY }}\n  routes:\n    \
         - {{ model: near, to: [ {{ provider: local, model: bed-echo }} ] }}\n",
        provider::BASE_URL
    );
    let config = stage.write("cofferdam.yaml", config)?.display().to_string();
    // Written a byte at a time, the key is caught all the same; the script gets it in two halves.
    let (a, b) = provider::KEY.split_at(11);
    let script = format!(
        "import sys,time,base64\nk='{a}'+'{b}'\nfor c in 'key '+k+' end\\n':\n  sys.stdout.write(c); sys.stdout.flush()\n\
         print(base64.b64encode(k.encode()).decode())\nsys.stderr.write(k+'\\n')\nprint('plain text stays')\n"
    );
    stage.script("leak.py", &script)?;
    let workspace = workspace(stage);
    let mut run = stage.cofferdam([
        "run",
        "--quiet",
        "--name",
        "leaks",
        "--config",
        &config,
        "--workspace",
        &workspace,
    ]);
    run.args(["--", &python, "-u", "/sandbox/leak.py"]).env("BED_KEY", provider::KEY);
    let done = finish(run, PATIENCE)?.expect_code(0)?;
    let (out, err) = (done.out(), done.err());
    for text in [&out, &err] {
        ensure!(!text.contains(provider::KEY), "the key came out: {text}");
        ensure!(text.contains("[REDACTED:"), "nothing marks the place: {text}");
    }
    ensure!(out.contains("plain text stays") && out.contains(" end\n"), "{out}");
    ensure!(out.matches("[REDACTED:").count() == 2, "the base64 form passed: {out}");
    for file in common::files_below(&stage.state()) {
        let bytes = std::fs::read(&file)?;
        let holds = bytes.windows(provider::KEY.len()).any(|w| w == provider::KEY.as_bytes());
        ensure!(!holds, "the key is in {}", file.display());
    }
    let sandbox = Sandbox::start(
        stage,
        &[],
        &[
            "sh",
            "-c",
            "echo a line; echo another >&2; printf '\\302\\233\\342\\200\\256x\\n'; echo ready; exec sleep 1000",
        ],
        "ready",
    )?;
    let logged = poll("the log", PATIENCE, || {
        let text = stage.call(&["logs", &sandbox.name]).ok()?.out();
        ["a line", "another", "ready"].iter().all(|said| text.contains(said)).then_some(text)
    })?;
    // CSI as one character (C1), and text that would run backwards.
    let odd = "\u{9b}\u{202e}x\n";
    let json = stage.call(&["logs", &sandbox.name, "--json"])?.expect_code(0)?.out();
    ensure!(json.is_ascii(), "{json:?}");
    let lines: Vec<serde_json::Value> = json.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(logged.contains(odd) && lines.iter().any(|line| line["text"] == odd), "{lines:?}");
    // What is masked is counted, in `exec` and in what the record has of it, too.
    let token = format!("ghp_{}", "a1B2c3".repeat(6));
    let said = stage.call(&["exec", &sandbox.name, "--", "echo", &token])?.expect_code(0)?.out();
    ensure!(said.starts_with("[REDACTED:"), "{said}");
    let mut control = UnixStream::connect(stage.state().join(&sandbox.name).join("control.sock"))?;
    control.write_all(b"GET /v1/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut metrics = String::new();
    control.read_to_string(&mut metrics)?;
    let counted = metrics.lines().find(|line| line.starts_with("cofferdam_redactions_total{"));
    let times = counted.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    ensure!(times >= Some(2), "{counted:?}");
    for (tail, lines) in [("0", 0), ("1", 1), ("2", 2), ("1000", logged.lines().count())] {
        let last = stage.call(&["logs", &sandbox.name, "--tail", tail])?.expect_code(0)?.out();
        ensure!(last.lines().count() == lines && logged.ends_with(&last), "{tail}: {last:?} of {logged:?}");
    }
    Ok(())
}

fn redact_is_a_filter(stage: &Stage) -> Result<()> {
    let mut run = stage.cofferdam(["redact"]);
    run.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = run.spawn()?;
    let token = format!("ghp_{}", "a1B2c3".repeat(6));
    let input = [b"\x00\xff binary stays \n".as_slice(), b"token ", token.as_bytes(), b" end\n"].concat();
    child.stdin.take().unwrap().write_all(&input)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success());
    ensure!(output.stdout.starts_with(b"\x00\xff binary stays \ntoken [REDACTED:"), "{:?}", output.stdout);
    ensure!(output.stdout.ends_with(b" end\n"));
    Ok(())
}

/// An empty list must mean that nothing runs, not that the state directory can't be read.
fn what_ps_may_not_see_is_said(stage: &Stage) -> Result<()> {
    let closed = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o000));
    std::fs::create_dir_all(stage.state().join("anothers"))?;
    closed(&stage.state().join("anothers"))?;
    let listed = stage.call(&["ps", "--json"])?.expect_code(0)?;
    ensure!(listed.out().trim() == "[]" && listed.err().contains("anothers"), "{}", listed.err());
    closed(&stage.state())?;
    let refused = stage.call(&["ps"])?.expect_code(125)?;
    std::fs::set_permissions(stage.state(), std::fs::Permissions::from_mode(0o755))?;
    std::fs::remove_dir(stage.state().join("anothers"))?;
    ensure!(refused.err().contains("can't read"), "{}", refused.err());
    Ok(())
}

fn every_help_has_an_example(stage: &Stage) -> Result<()> {
    for command in [
        "run", "up", "exec", "ps", "status", "tree", "logs", "stop", "restart", "crash", "redact", "doctor",
        "demo", "policy", "audit", "identity",
    ] {
        let done = stage.call(&[command, "--help"])?.expect_code(0)?;
        ensure!(done.out().contains(&format!("cofferdam {command}")), "{command}: {}", done.out());
        ensure!(done.out().contains("Example"), "{command} has no example");
    }
    // Commands that need nothing from the user's state still work.
    for (command, said) in [
        (&["redact"][..], "[REDACTED:"),
        (&["policy", "explain"], "ALLOWED"),
        (&["policy", "presets"], "github"),
        (&["policy", "schema"], ""),
    ] {
        let help = stage.call(&[command, &["--help"]].concat())?.expect_code(0)?.out();
        let example = help.split("Example").nth(1).and_then(|rest| rest.lines().nth(1)).unwrap_or_default();
        let binary = stage.binary().display().to_string();
        let mut run = stage.command("sh");
        run.args(["-c", &example.replace("cofferdam ", &format!("{binary} "))])
            .current_dir(stage.workspace());
        let done = finish(run, PATIENCE)?.expect_code(0)?;
        ensure!(done.out().contains(said), "{example}: {}", done.out());
    }
    Ok(())
}

/// An agent's actor can be named by the last part of its path in the tree; a node above the actors isn't an
/// actor.
fn an_agents_actor_has_its_short_name(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let config = format!(
        "name: {name}\nmetrics: {{ listen: \"off\" }}\nagents: {{ steady: {{ command: [sleep, '1000'] }} }}\n"
    );
    let file = stage.write("steady.yaml", config)?.display().to_string();
    let running = stage.start(stage.cofferdam(["up", "--allow-fault-injection", "-f", &file]))?;
    let sandbox = Sandbox::adopt(stage, name, running);
    let before = poll("the agent", PATIENCE, || sandbox.restarts("agents/steady").ok())?;
    for (n, command) in (0..).zip(["crash", "restart"]) {
        stage.call(&[command, &sandbox.name, "steady"])?.expect_code(0)?;
        sandbox.wait_restarted("agents/steady", before + n)?;
    }
    for command in ["crash", "restart"] {
        let refused = stage.call(&[command, &sandbox.name, "agents"])?.expect_code(125)?.err();
        ensure!(refused.contains("agents/NAME"), "{command}: {refused}");
    }
    Ok(())
}

/// The request comes through the very actor that is restarted.
fn restarting_the_operator_is_answered(stage: &Stage) -> Result<()> {
    let sandbox = Sandbox::start(stage, &[], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    for n in 1..4 {
        let before = sandbox.restarts("operator")?;
        stage.call(&["restart", &sandbox.name, "operator"])?.expect_code(0)?;
        poll("the restart", PATIENCE, || {
            sandbox.restarts("operator").ok().filter(|restarts| *restarts > before)
        })
        .with_context(|| format!("restart {n}"))?;
    }
    let unknown = stage.call(&["logs", &sandbox.name, "--agent", "nope"])?.expect_code(125)?.err();
    ensure!(unknown.contains("there are logs of sh"), "{unknown}");
    Ok(())
}
