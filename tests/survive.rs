//! Parts that die come back, and the rest goes on: each row of the design's table, fifty kills a row.
//!
//! While a part is killed again and again, an agent counts aloud, opens new connections all the time and
//! holds a stream open. Its numbers must come complete and in order; no connection may be refused; no stream
//! lost.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test fails by panic"
)]

mod common;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Finished, PATIENCE, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use common::{COFFERDAM, FRIENDLY, Sandbox, policy_file, program, record_has, workspace};

/// Kills a row.
const KILLS: usize = 50;
/// How soon an actor must be back, at the 99th percentile, with an optimised build on an otherwise idle
/// machine.
const ACTOR_BACK: Duration = Duration::from_millis(50);
/// The same for the supervisor process.
const SUPERVISOR_BACK: Duration = Duration::from_secs(1);
/// The same for an agent with hardly any back-off.
const AGENT_BACK: Duration = Duration::from_secs(1);
/// How soon everything of a sandbox must be gone after its init or heart.
const SANDBOX_GONE: Duration = Duration::from_secs(5);
/// Half of a row's recoveries may take at most this many times as long: an unoptimised build is slower, and
/// machines have other work to do.
const SLACK: u32 = if cfg!(debug_assertions) { 4 } else { 2 };
/// The 99th percentile of fifty recoveries is the worst one, which may have met another program's burst. It
/// may take this many times as long; a part that waits for a back-off or a deadline of seconds exceeds it all
/// the same.
const WORST_SLACK: u32 = 40;
/// Least requests and ticks that must have come through during a row; with fewer, the row proves nothing. A
/// fast build has done its kills before that, and then the row goes on until they are reached.
const ALIVE: u64 = 50;
/// The longest time of a row.
const ROW: Duration = Duration::from_secs(1200);

fn main() -> ExitCode {
    bed::harness::main(
        "survive",
        Path::new(COFFERDAM),
        bed::cases![
            proxy.alone().within(ROW),
            gateway.alone().within(ROW),
            policy.alone().within(ROW),
            redactor.alone().within(ROW),
            operator.alone().within(ROW),
            telemetry.alone().within(ROW),
            an_agent_process.alone().within(ROW),
            supervisor.alone().within(ROW),
            init_or_heart.alone().within(ROW),
            crash_needs_permission,
            an_agent_that_stays_down_is_told,
            a_stop_is_heard_out_and_can_be_cut_short,
            a_stop_outlives_the_actor_that_carries_it_out,
            an_agent_that_is_silent_is_started_again,
        ],
    )
}

/// What the agent said at its end.
struct Report {
    end: Value,
    repeated: usize,
}

fn start<'a>(stage: &'a Stage<'a>) -> Result<Sandbox<'a>> {
    let python = program("python3")?;
    stage.script("workload.py", include_str!("inside/workload.py"))?;
    let file = policy_file(stage, FRIENDLY)?;
    let options = ["--policy", &file, "--workspace", &workspace(stage), "--allow-fault-injection"];
    Sandbox::start(stage, &options, &[&python, "-u", "/sandbox/workload.py"], "\n20\n")
}

/// What the agent's requests and its stream have come to.
#[derive(Clone, Copy)]
struct Alive {
    requests: u64,
    ticks: u64,
}

impl Alive {
    fn read(stage: &Stage) -> Option<Self> {
        let text = std::fs::read_to_string(stage.workspace().join("alive")).ok()?;
        let (requests, ticks) = text.split_once(' ')?;
        Some(Self { requests: requests.parse().ok()?, ticks: ticks.parse().ok()? })
    }

    /// The present counts; waits for them, since an agent that has just started hasn't written any yet.
    fn now(stage: &Stage) -> Result<Self> {
        poll("the agent's first word of itself", PATIENCE, || Self::read(stage))
    }

    /// Waits until both have risen by `more`, however long this machine takes.
    fn wait_for(self, stage: &Stage, more: u64) -> Result<()> {
        poll("the agent's requests and its stream to go on", PATIENCE, || {
            Self::read(stage)
                .filter(|now| now.requests >= self.requests + more && now.ticks >= self.ticks + more)
        })
        .map(drop)
    }
}

/// Ends the agent and judges its numbers: all of them, in order; repeats are counted.
fn report(sandbox: &mut Sandbox) -> Result<Report> {
    let running = sandbox.running.take().unwrap();
    running.signal(Signal::SIGTERM)?;
    let done: Finished = running.finish(PATIENCE)?.expect_code(0)?;
    let text = done.out();
    let (mut last, mut repeated, mut end) = (0u64, 0, Value::Null);
    for line in text.lines() {
        if let Some(json) = line.strip_prefix("END ") {
            end = serde_json::from_str(json)?;
            continue;
        }
        let n: u64 = line.parse().with_context(|| format!("after {last}: {line:?}"))?;
        ensure!(n <= last + 1, "after {last} came {n}: {} numbers lost", n - last - 1);
        repeated += usize::from(n <= last);
        last = last.max(n);
    }
    ensure!(end["counted"] == last, "it counted to {}, we heard {last}", end["counted"]);
    Ok(Report { end, repeated })
}

/// Prints the percentiles of a row beside the promise, and checks them.
fn told(what: &str, mut times: Vec<Duration>, promise: Duration) -> Result<()> {
    times.sort();
    let at = |p: f64| times[((times.len() - 1) as f64 * p).ceil() as usize];
    let (p50, p99, worst) = (at(0.5), at(0.99), at(1.0));
    bed::harness::say(&format!(
        "    {what}: {} kills, back after p50 {p50:.1?}, p99 {p99:.1?}, worst {worst:.1?} (promised: p99 {promise:?})",
        times.len()
    ));
    let is_far_off = p50 > promise * SLACK || p99 > promise * WORST_SLACK;
    ensure!(!is_far_off, "{what} is back after {p50:?} (p50), {p99:?} (p99): {promise:?} is the promise");
    Ok(())
}

/// Failure to readiness, as the audit log has it: (failed, back) pairs of an actor.
fn recoveries(stage: &Stage, name: &str, actor: &str) -> Result<Vec<Duration>> {
    let shown = stage.call(&["audit", "show", name, "--json"])?.expect_code(0)?.out();
    let mut failed: Option<jiff::Timestamp> = None;
    let mut times = Vec::new();
    for line in shown.lines() {
        let record: Value = serde_json::from_str(line)?;
        let ours = record_has(&record, &[("kind", "actor"), ("name", actor)]);
        let at: jiff::Timestamp = record["t"].as_str().context("a record without time")?.parse()?;
        if ours && record_has(&record, &[("change", "failed")]) {
            failed = Some(at);
        } else if ours
            && record_has(&record, &[("change", "restarted")])
            && let Some(failed) = failed.take()
        {
            times.push(Duration::try_from(at.duration_since(failed)).unwrap_or_default());
        }
    }
    Ok(times)
}

/// One row: an actor of the tree.
fn row(stage: &Stage, actor: &str) -> Result<()> {
    let mut sandbox = start(stage)?;
    let supervisor = sandbox.status()?["supervisor_pid"].clone();
    let begun = Alive::now(stage)?;
    for n in 0..KILLS {
        sandbox.crash(actor).with_context(|| format!("kill {n}"))?;
    }
    begun.wait_for(stage, ALIVE)?;
    let after = sandbox.status()?;
    let name = sandbox.name.clone();
    let Report { end, repeated } = report(&mut sandbox)?;
    let times = recoveries(stage, &name, actor)?;
    if after["supervisor_pid"] == supervisor {
        ensure!(times.len() >= KILLS, "only {} of {KILLS} recoveries are on record", times.len());
        ensure!(end["streams_lost"] == 0, "streams were lost: {end}");
        ensure!(end["cut"] == 0, "requests were cut: {end}");
    } else {
        anyhow::bail!("killing {actor} {KILLS} times took the supervisor with it");
    }
    ensure!(end["refused"] == 0, "connections were refused: {end}");
    ensure!(repeated == 0, "{repeated} numbers came twice on standard output");
    bed::harness::say(&format!(
        "    {actor}: {} requests answered meanwhile, the slowest in {:.0} ms; {} ticks of one stream",
        end["requests"],
        end["worst_ms"].as_f64().unwrap_or_default(),
        end["ticks"]
    ));
    told(actor, times, ACTOR_BACK)
}

fn proxy(stage: &Stage) -> Result<()> {
    row(stage, "proxy")
}

fn gateway(stage: &Stage) -> Result<()> {
    row(stage, "gateway")
}

fn policy(stage: &Stage) -> Result<()> {
    row(stage, "policy")
}

fn redactor(stage: &Stage) -> Result<()> {
    row(stage, "redactor")
}

fn operator(stage: &Stage) -> Result<()> {
    row(stage, "operator")
}

fn telemetry(stage: &Stage) -> Result<()> {
    row(stage, "telemetry")
}

fn an_agent_process(stage: &Stage) -> Result<()> {
    let marker = stage.marker();
    let text = format!(
        "name: {}\nagents:\n  steady: {{ command: [sh, -c, \"while :; do sleep 0.05; done # steady-{marker}\"] }}\n  \
         frail:\n    command: [sleep, \"98{}\"]\n    restart: {{ policy: always, backoff: {{ min: 10ms, max: 20ms }}, at_most: \
         1000, within: 1m }}\nmetrics: {{ listen: \"off\" }}\n",
        stage.name(),
        std::process::id(),
    );
    let file = stage.write("cofferdam.yaml", text)?.display().to_string();
    let running = stage.start(stage.cofferdam(["up", "--quiet", "-f", &file]))?;
    let sleeper = format!("98{}", std::process::id());
    let find = || {
        stage.processes_with(&sleeper).into_iter().find(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "sleep")
        })
    };
    let mut pid = poll("the frail agent", PATIENCE, find)?;
    let steady = poll("the steady agent", PATIENCE, || {
        stage.processes_with(&format!("steady-{marker}")).first().copied()
    })?;
    let mut times = Vec::new();
    for n in 0..KILLS {
        let begun = Instant::now();
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        pid = poll("the frail agent's return", PATIENCE, || find().filter(|p| *p != pid))
            .with_context(|| format!("kill {n}"))?;
        times.push(begun.elapsed());
    }
    ensure!(
        stage.processes_with(&format!("steady-{marker}")).contains(&steady),
        "the other agent was touched"
    );
    let status = stage.json(&["status", &stage.name(), "--json"])?;
    let frail = status["agents"].as_array().unwrap().iter().find(|a| a["name"] == "frail").unwrap();
    ensure!(frail["restarts"].as_u64() >= Some(KILLS as u64 - 1), "{frail}");
    running.signal(Signal::SIGTERM)?;
    running.finish(PATIENCE)?;
    told("an agent process", times, AGENT_BACK)
}

fn supervisor(stage: &Stage) -> Result<()> {
    let mut sandbox = start(stage)?;
    let pid = |status: &Value| status["supervisor_pid"].as_i64().map(|p| p as i32);
    let mut times = Vec::new();
    for n in 0..KILLS {
        let before = pid(&sandbox.status()?).context("no supervisor pid")?;
        let done = Alive::now(stage)?;
        let begun = Instant::now();
        kill(Pid::from_raw(before), Signal::SIGKILL)?;
        // Up is when the control socket answers with a new process whose proxy is up.
        poll("the supervisor's return", PATIENCE, || {
            let status = sandbox.status().ok()?;
            let tree = sandbox.tree().ok()?;
            (pid(&status)? != before && common::find(&tree, "proxy")?["state"] == "up").then_some(())
        })
        .with_context(|| format!("kill {n}"))?;
        times.push(begun.elapsed());
        // It must be back for the agent too: a request is answered, and a new stream has its first tick.
        done.wait_for(stage, 1).with_context(|| format!("kill {n}"))?;
    }
    let restarts = sandbox.status()?["supervisor_restarts"].as_u64();
    let Report { end, repeated } = report(&mut sandbox)?;
    ensure!(restarts >= Some(KILLS as u64), "{restarts:?} restarts on record");
    ensure!(end["refused"] == 0, "connections were refused: {end}");
    bed::harness::say(&format!(
        "    supervisor: {repeated} numbers repeated, {} tunnels and {} requests cut, {} requests answered",
        end["streams_lost"], end["cut"], end["requests"]
    ));
    told("supervisor (SIGKILL)", times, SUPERVISOR_BACK)
}

fn init_or_heart(stage: &Stage) -> Result<()> {
    let mut times = Vec::new();
    for n in 0..KILLS {
        let marker = format!("{}n{n}", stage.marker());
        let script = format!("echo ready; while :; do sleep 0.05; done # {marker}");
        let mut running = stage.start_run(&format!("end{n}"), &[], &["sh", "-c", &script])?;
        running.wait_for("ready", common::START)?;
        let init = stage
            .cofferdam_processes()
            .into_iter()
            .find(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|s| {
                    // Its own pid namespace shows it as 1.
                    s.lines().any(|l| l.starts_with("NSpid:") && l.split_whitespace().last() == Some("1"))
                })
            })
            .context("no init to be found")?;
        let victim = if n % 2 == 0 { init } else { running.pid() };
        let begun = Instant::now();
        kill(Pid::from_raw(victim), Signal::SIGKILL)?;
        let code = running.finish(PATIENCE)?.code();
        ensure!(code != 0, "the end of a sandbox is no success");
        poll("the end of every process", PATIENCE, || {
            (stage.processes_with(&marker).is_empty() && stage.cofferdam_processes().is_empty()).then_some(())
        })?;
        let socket = stage.state().join(format!("end{n}")).join("control.sock");
        ensure!(!socket.exists(), "{} is left behind", socket.display());
        times.push(begun.elapsed());
    }
    told("init and heart in turn, all gone", times, SANDBOX_GONE)
}

fn crash_needs_permission(stage: &Stage) -> Result<()> {
    let sandbox = Sandbox::start(stage, &[], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let done = stage.call(&["crash", &sandbox.name, "proxy"])?.expect_code(125)?;
    ensure!(done.err().contains("--allow-fault-injection"), "{}", done.err());
    let before = sandbox.restarts("proxy")?;
    stage.call(&["restart", &sandbox.name, "proxy"])?.expect_code(0)?;
    sandbox.wait_restarted("proxy", before)
}

/// It is reported in status, list, log and on standard error, until an operator starts it again.
fn an_agent_that_stays_down_is_told(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let config = format!(
        "name: {name}\nmetrics: {{ listen: \"off\" }}\nagents:\n  steady: {{ command: [sleep, '1000'] }}\n  frail:\n    command: [sh, -c, \
         'test -e mended && exec sleep 1000; exit 3']\n    restart: {{ policy: always, backoff: {{ min: 10ms, max: 20ms }}, at_most: 2, \
         within: 1m }}\n"
    );
    let file = stage.write("cofferdam.yaml", config)?.display().to_string();
    let running = stage.start(stage.cofferdam(["up", "-f", &file]))?;
    let mut sandbox = Sandbox::adopt(stage, name.clone(), running);
    let frail = || {
        let status = sandbox.status().ok()?;
        status["agents"].as_array()?.iter().find(|agent| agent["name"] == "frail").cloned()
    };
    let state = |wanted: &str| {
        poll(&format!("the frail agent to be {wanted}"), PATIENCE, || {
            frail().filter(|agent| agent["state"] == wanted)
        })
    };
    let given_up = state("gave-up")?;
    ensure!(given_up["last_exit"]["code"] == 3 && given_up["pid"].is_null(), "{given_up}");
    let listed = stage.call(&["ps"])?.expect_code(0)?.out();
    ensure!(listed.contains("frail (gave-up)"), "{listed}");
    let shown = stage.call(&["status", &name])?.expect_code(0)?.out();
    ensure!(shown.contains(" restarts, last exit 3\n"), "{shown}");
    common::ensure_audited(
        stage,
        &name,
        &[("kind", "actor"), ("name", "agents/frail"), ("change", "gave_up")],
    )?;
    let mend = format!("cofferdam restart {name} agents/frail");
    // No supervisor begins the count anew.
    let starts = || {
        let started = [("kind", "agent"), ("name", "frail"), ("change", "started")];
        let records = common::audit(stage, &name)?;
        Ok::<_, anyhow::Error>(records.iter().filter(|record| common::record_has(record, &started)).count())
    };
    let before = starts()?;
    ensure!(before == 3, "{before} starts: the first, and two more");
    common::replace_supervisor(stage, &name)?;
    state("gave-up")?;
    ensure!(starts()? == before, "it was started again by the next supervisor");
    // In the workspace, which is the agent's working directory.
    std::fs::write(stage.state().join(&name).join("workspace/mended"), "")?;
    stage.call(&["restart", &name, "agents/frail"])?.expect_code(0)?;
    state("running")?;
    sandbox.heart().wait_for_err(&mend, PATIENCE)?;
    let said = sandbox.heart().err();
    ensure!(said.lines().filter(|line| line.contains(&mend)).count() == 1, "{said}");
    Ok(())
}

/// While an agent takes its time to end, its supervisor hears of its heart's death, of a stop that gives less
/// time, and of a second Ctrl-C.
fn a_stop_is_heard_out_and_can_be_cut_short(stage: &Stage) -> Result<()> {
    // Each by a name of its own: a log outlives its sandbox.
    let start = |name: &str| {
        let name = format!("{}-{name}", stage.name());
        let script = "trap '' TERM INT; echo deaf; while :; do sleep 0.2; done";
        let config = format!(
            "name: {name}\nmetrics: {{ listen: \"off\" }}\nagents:\n  main: {{ command: [sh, -c, \"{script}\"] }}\n"
        );
        let file = stage.write("deaf.yaml", config)?.display().to_string();
        let running = stage.start(stage.cofferdam(["up", "-f", &file]))?;
        poll("the agent to be deaf", PATIENCE, || {
            let said = stage.call(&["logs", &name]).ok()?;
            said.out().contains("deaf").then_some(())
        })?;
        Ok::<_, anyhow::Error>((name, running))
    };
    // Longer than anybody here waits.
    let stopping = |name: &str| {
        let stop = stage.start(stage.cofferdam(["stop", name, "--grace", "10m"]))?;
        poll("the stop to begin", PATIENCE, || {
            let status = stage.json(&["status", name, "--json"]).ok()?;
            (status["state"] == "stopping").then_some(())
        })
        .with_context(|| stop.err())?;
        Ok::<_, anyhow::Error>(stop)
    };
    let (name, heart) = start("killed")?;
    let stop = stopping(&name)?;
    heart.signal(Signal::SIGKILL)?;
    stop.finish(PATIENCE)?;
    heart.finish(PATIENCE)?;
    poll("everything of it to end", SANDBOX_GONE, || stage.cofferdam_processes().is_empty().then_some(()))?;

    let (name, heart) = start("hurried")?;
    let stop = stopping(&name)?;
    stage.call(&["stop", &name, "--grace", "0s"])?.expect_code(0)?;
    stop.finish(PATIENCE)?.expect_code(0)?;
    heart.finish(PATIENCE)?.expect_code(0)?;

    let (name, heart) = start("interrupted")?;
    for _ in 0..2 {
        heart.signal(Signal::SIGINT)?;
        std::thread::sleep(Duration::from_millis(200));
    }
    heart.finish(PATIENCE)?.expect_code(130)?;
    let forced = [("kind", "sandbox"), ("change", "stopped"), ("detail", "ended by force")];
    common::ensure_audited(stage, &name, &forced)
}

/// The agent is deaf, and its actor fails within the grace: the next incarnation ends it.
fn a_stop_outlives_the_actor_that_carries_it_out(stage: &Stage) -> Result<()> {
    let script = "trap 'echo told' TERM; echo up; while :; do sleep 0.1; done";
    let mut sandbox = Sandbox::start(stage, &["--allow-fault-injection"], &["sh", "-c", script], "up")?;
    let status = sandbox.status()?;
    let actor = format!("agents/{}", status["agents"][0]["name"].as_str().context("no agent")?);
    let stop = stage.start(stage.cofferdam(["stop", &sandbox.name, "--grace", "3s"]))?;
    sandbox.heart().wait_for("told", PATIENCE)?;
    sandbox.crash(&actor)?;
    stop.finish(PATIENCE)?.expect_code(0)?;
    let forced = [("kind", "sandbox"), ("change", "stopped"), ("detail", "ended by force")];
    let records = sandbox.audit()?;
    ensure!(!records.iter().any(|record| record_has(record, &forced)), "the grace was forgotten");
    let killed = [("kind", "agent"), ("change", "stopped")];
    ensure!(records.iter().any(|record| record_has(record, &killed)), "its end is not on record");
    Ok(())
}

/// A server that answers until the workspace holds `hang`, then never again; on SIGTERM it exits with 0.
const DEAF: &str = r#"
import http.server, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if os.path.exists("hang"): os.remove("hang")
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        while os.path.exists("hang"): time.sleep(0.1)
        self.send_response(204); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", 8642), Answer).serve_forever()
"#;

/// An agent's process runs on and does nothing. That is noticed and recorded, and its end counts as a failure
/// though it exits with 0. The other agents go on.
fn an_agent_that_is_silent_is_started_again(stage: &Stage) -> Result<()> {
    let (name, python) = (stage.name(), program("python3")?);
    stage.script("deaf.py", DEAF)?;
    let config = serde_json::json!({ "name": name, "metrics": { "listen": "off" }, "workspace": workspace(stage), "agents": {
        "steady": { "command": ["sleep", "1000"] },
        "deaf": {
            "command": [python, "deaf.py"],
            "restart": { "policy": "on-failure", "backoff": { "min": "10ms", "max": "20ms" } },
            "health": { "http": "http://127.0.0.1:8642/health", "every": "1s", "timeout": "5s", "failures": 2 } } } });
    // JSON is YAML.
    let file = stage.write("cofferdam.yaml", config.to_string())?.display().to_string();
    let mut sandbox = Sandbox::adopt(stage, name.clone(), stage.start(stage.cofferdam(["up", "-f", &file]))?);
    let agent = |name: &str| {
        let status = sandbox.status().ok()?;
        status["agents"].as_array()?.iter().find(|agent| agent["name"] == name).cloned()
    };
    let deaf = |what: &str, is: &dyn Fn(&Value) -> bool| {
        poll(what, PATIENCE, || agent("deaf").filter(|now| is(now)))
    };
    let first = deaf("the first answer", &|now| now["health"] == "healthy")?;
    let steady = agent("steady").context("no steady agent")?;
    ensure!(steady["health"].is_null(), "{steady}");
    std::fs::write(stage.workspace().join("hang"), "")?;
    let second = deaf("another start", &|now| now["pid"] != first["pid"] && now["health"] == "healthy")?;
    ensure!(second["last_exit"]["code"] == 0, "{first}\n{second}");
    ensure!(agent("steady").is_some_and(|now| now["pid"] == steady["pid"] && now["restarts"] == 0));
    let silent =
        [("kind", "agent"), ("name", "deaf"), ("change", "silent"), ("detail", "no answer within 5s")];
    common::ensure_audited(stage, &name, &silent)?;
    sandbox.heart().wait_for_err("agent 'deaf' doesn't answer any more", PATIENCE)
}
