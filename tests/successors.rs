//! What a new supervisor must not undo, and what happens while none can start: agents that have ended,
//! policies that were set, a sandbox whose supervisor can no longer be started, signals to a service.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test fails by panic"
)]

mod common;

use std::io::Read as _;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use common::{COFFERDAM, FRIENDLY, START, Sandbox, policy, record_has, workspace};

/// Longest time of a stop that no supervisor can carry out. It is forced after a grace of ten seconds; a busy
/// machine may take longer, but a stop that is put off again and again would never end.
const FORCED: Duration = Duration::from_secs(60);
/// Longest time until a supervisor that hangs is replaced: the heart's watchdog waits forty seconds.
const NOTICED: Duration = Duration::from_secs(120);
/// What the heart prints once, when it begins to retry less often.
const PATIENT: &str = "no supervisor becomes ready";

fn main() -> ExitCode {
    bed::harness::main(
        "successors",
        Path::new(COFFERDAM),
        bed::cases![
            what_is_over_stays_over,
            a_run_that_is_over_ends_with_its_code,
            nobody_watches_an_exec_any_more,
            one_that_cannot_be_made_ends_nothing,
            a_stop_while_there_is_none,
            a_policy_that_was_set_stays_set,
            a_service_keeps_signals_to_itself,
            each_further_sigterm_puts_nothing_off,
            one_that_hangs_is_replaced,
        ],
    )
}

fn supervisor(stage: &Stage) -> Option<i32> {
    common::process(stage, "cofferdam: sup")
}

fn kill_supervisor(stage: &Stage) -> Result<i32> {
    let pid = poll("a supervisor", PATIENCE, || supervisor(stage))?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    Ok(pid)
}

/// Kills the supervisor, and waits until the next one answers and has its agents.
fn replace_supervisor(stage: &Stage, name: &str) -> Result<Value> {
    let first = kill_supervisor(stage)?;
    poll("a new supervisor", PATIENCE, || {
        let status = stage.json(&["status", name, "--json"]).ok()?;
        let agents = status["agents"].as_array()?;
        let known = agents.iter().all(|agent| agent["pid"].is_u64() || agent["last_exit"].is_object());
        (status["supervisor_pid"].as_i64()? != i64::from(first) && known).then_some(status)
    })
}

/// Runs `up` with these agents (YAML, indented by two), and one more that records its signals and stays.
fn service<'a>(stage: &'a Stage<'a>, agents: &str, more: &str) -> Result<Sandbox<'a>> {
    let name = stage.name();
    let text = format!(
        "name: {name}\nworkspace: {}\nmetrics: {{ listen: \"off\" }}\n{more}agents:\n  steady:\n    command: [sh, -c, \
         \"trap 'echo hit >> /sandbox/hit' HUP USR1 USR2 QUIT; trap 'echo heard >> /sandbox/heard' ALRM; echo up >> /sandbox/steady; while :; do sleep 0.05; done\"]\n{agents}",
        workspace(stage)
    );
    let file = stage.write("cofferdam.yaml", text)?.display().to_string();
    let running = stage.start(stage.cofferdam(["up", "-f", &file]))?;
    poll("the steady agent", START, || stage.workspace().join("steady").exists().then_some(()))?;
    Ok(Sandbox::adopt(stage, name, running))
}

fn lines(stage: &Stage, file: &str) -> usize {
    std::fs::read_to_string(stage.workspace().join(file)).map_or(0, |text| text.lines().count())
}

fn agent<'v>(status: &'v Value, name: &str) -> &'v Value {
    status["agents"].as_array().unwrap().iter().find(|agent| agent["name"] == name).unwrap()
}

fn what_is_over_stays_over(stage: &Stage) -> Result<()> {
    let once = |name: &str, policy: &str, code: u8| {
        format!(
            "  {name}:\n    command: [sh, -c, \"echo x >> /sandbox/{name}; exit {code}\"]\n    restart: {{ policy: {policy} }}\n"
        )
    };
    let agents = [once("never", "never", 3), once("succeeded", "on-failure", 0)].concat();
    let sandbox = service(stage, &agents, "")?;
    let over = |status: &Value| {
        agent(status, "never")["last_exit"]["code"] == 3
            && agent(status, "succeeded")["last_exit"]["code"] == 0
            && ["never", "succeeded"].iter().all(|name| agent(status, name)["state"] == "exited")
    };
    poll("the ends", PATIENCE, || sandbox.status().ok().filter(over))?;
    let recorded = |name: &str| -> Result<usize> {
        let is_end =
            |record: &Value| record_has(record, &[("kind", "agent"), ("name", name), ("change", "exited")]);
        Ok(sandbox.audit()?.iter().filter(|record| is_end(record)).count())
    };
    // An end is shown before it is on disk. A supervisor that dies between the record and init's note of it
    // leaves two: `ps` takes far longer than that.
    poll("their records", PATIENCE, || {
        (recorded("never").ok()? + recorded("succeeded").ok()? == 2).then_some(())
    })?;
    let listed = stage.call(&["ps"])?.expect_code(0)?.out();
    ensure!(listed.contains("never (exited),steady,succeeded (exited)"), "{listed}");
    for n in 0..3 {
        let status = replace_supervisor(stage, &sandbox.name)?;
        ensure!(over(&status), "after {n} deaths: {}", status["agents"]);
    }
    for name in ["never", "succeeded"] {
        ensure!(lines(stage, name) == 1, "{name} was run {} times", lines(stage, name));
        let told = recorded(name)?;
        ensure!(told == 1, "{name}'s end is {told} times on record");
    }
    ensure!(lines(stage, "steady") == 1, "the steady one was started again");
    // The operator may start an ended agent again.
    stage.call(&["restart", &sandbox.name, "agents/never"])?.expect_code(0)?;
    poll("another run", PATIENCE, || (lines(stage, "never") == 2).then_some(()))?;
    stage.call(&["restart", &sandbox.name, "agents/steady"])?.expect_code(0)?;
    poll("the steady one's next start", PATIENCE, || (lines(stage, "steady") == 2).then_some(()))?;
    Ok(())
}

fn a_run_that_is_over_ends_with_its_code(stage: &Stage) -> Result<()> {
    // A run waits only a few seconds for the reader of its output. If the machine is busy for that long, the
    // kill comes too late, so try several times.
    for n in 0..5 {
        if let Some(ended) = run_that_is_over(stage, &format!("{}-{n}", stage.name()))? {
            let Ended { code, output, runs } = ended;
            ensure!(runs == 1, "it was run {runs} times");
            ensure!(code == Some(7), "{code:?}");
            ensure!(output >= 70_000, "only {output} bytes came");
            return Ok(());
        }
    }
    bail!("five runs ended before anybody could see that they were over")
}

struct Ended {
    code: Option<i32>,
    output: usize,
    runs: usize,
}

/// A run whose supervisor is killed after its agent has ended and before its output is out; `None` if the run
/// ended too early.
fn run_that_is_over(stage: &Stage, name: &str) -> Result<Option<Ended>> {
    let ran = stage.workspace().join("ran");
    let _ = std::fs::remove_file(&ran);
    // Slightly more than the operator's pipe holds: pages that are written in parts hold less (pipe(7)), and
    // an agent that still waits for its reader hasn't ended.
    let script = "echo x >> /sandbox/ran; head -c 70000 /dev/zero; exit 7";
    let options = ["run", "--quiet", "--name", name, "--workspace", &workspace(stage), "--"];
    let mut command = stage.cofferdam([&options[..], &["sh", "-c", script]].concat());
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let status = || stage.json(&["status", name, "--json"]).ok();
    let before = poll("the run's end to be known", START, || {
        if child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return Some(None);
        }
        status().filter(|status| status["agents"][0]["last_exit"]["code"] == 7).map(Some)
    })?;
    let Some(before) = before else { return Ok(None) };
    let before = before["supervisor_pid"].as_i64().context("a supervisor")?;
    kill(Pid::from_raw(i32::try_from(before)?), Signal::SIGKILL)?;
    // Its output isn't out, since the test hasn't read any of it yet.
    let replaced = poll("a new supervisor, or the end", PATIENCE, || {
        if child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return Some(false);
        }
        status().filter(|status| status["supervisor_pid"] != before).map(|_| true)
    })?;
    let mut read = Vec::new();
    child.stdout.take().context("a pipe")?.read_to_end(&mut read)?;
    let code = child.wait()?.code();
    Ok(replaced.then(|| Ended { code, output: read.len(), runs: lines(stage, "ran") }))
}

fn nobody_watches_an_exec_any_more(stage: &Stage) -> Result<()> {
    let sandbox = Sandbox::start(stage, &[], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let marker = stage.marker();
    let deaf = format!("trap '' HUP TERM; while :; do sleep 0.05; done # {marker}");
    let running = stage.start(stage.cofferdam(["exec", &sandbox.name, "--", "sh", "-c", &deaf]))?;
    let inside = || {
        let own = running.pid();
        stage.processes_with(&marker).into_iter().any(|pid| pid != own)
    };
    poll("the exec", START, || inside().then_some(()))?;
    kill_supervisor(stage)?;
    poll("the end of the exec", PATIENCE, || (!inside()).then_some(()))?;
    sandbox.status()?;
    Ok(())
}

/// A sandbox whose next supervisor fails, since the operator's root certificates are gone; and the path where
/// they were.
fn broken<'a>(stage: &'a Stage<'a>, mode: &str) -> Result<(Sandbox<'a>, std::path::PathBuf)> {
    let roots = stage.write("roots.pem", std::fs::read(stage.world().ca_file())?)?;
    let name = stage.name();
    let script = "echo up >> /sandbox/steady; while :; do date >> /sandbox/ticks; sleep 0.1; done";
    let mut command = match mode {
        "up" => {
            let text = format!(
                "name: {name}\nworkspace: {}\nmetrics: {{ listen: \"off\" }}\nagents:\n  a: {{ command: [sh, -c, \"{script}\"] }}\n",
                workspace(stage)
            );
            let file = stage.write("cofferdam.yaml", text)?.display().to_string();
            stage.cofferdam(["up", "-f", &file])
        }
        _ => stage.cofferdam([
            "run",
            "--name",
            &name,
            "--workspace",
            &workspace(stage),
            "--",
            "sh",
            "-c",
            script,
        ]),
    };
    command.env("SSL_CERT_FILE", &roots);
    let running = stage.start(command)?;
    let mut sandbox = Sandbox::adopt(stage, name, running);
    poll("the agent", START, || (lines(stage, "ticks") > 1).then_some(()))?;
    poll("readiness", START, || sandbox.status().ok().filter(|s| s["state"] == "running"))?;
    std::fs::write(&roots, "nothing of the kind\n")?;
    kill_supervisor(stage)?;
    sandbox.heart().wait_for_err(PATIENT, PATIENCE)?;
    let ticks = lines(stage, "ticks");
    poll("the agent to go on", PATIENCE, || (lines(stage, "ticks") > ticks + 2).then_some(()))?;
    Ok((sandbox, roots))
}

fn one_that_cannot_be_made_ends_nothing(stage: &Stage) -> Result<()> {
    let (mut sandbox, roots) = broken(stage, "up")?;
    std::fs::write(&roots, std::fs::read(stage.world().ca_file())?)?;
    poll("a supervisor again", PATIENCE, || sandbox.status().ok().filter(|s| s["state"] == "running"))?;
    ensure!(lines(stage, "steady") == 1, "the agent was started again");
    sandbox.heart().wait_for_err("the supervisor failed: ", PATIENCE)?;
    let err = sandbox.heart().err();
    ensure!(err.matches(PATIENT).count() == 1, "said more than once: {err}");
    Ok(())
}

fn a_stop_while_there_is_none(stage: &Stage) -> Result<()> {
    for (mode, how) in [("up", "SIGTERM"), ("run", "SIGINT"), ("up", "stop"), ("up", "mended")] {
        std::fs::remove_file(stage.workspace().join("ticks")).ok();
        let (mut sandbox, roots) = broken(stage, mode)?;
        let running = sandbox.running.take().context("it runs")?;
        let begun = Instant::now();
        let mut wanted = 143;
        match how {
            "SIGTERM" => running.signal(Signal::SIGTERM)?,
            "SIGINT" => running.signal(Signal::SIGINT)?,
            "stop" => drop(stage.call(&["stop", &sandbox.name])?.expect_code(0)?),
            _ => {
                std::fs::write(&roots, std::fs::read(stage.world().ca_file())?)?;
                running.signal(Signal::SIGTERM)?;
                // If the last supervisor that is tried ends it in order.
                wanted = 0;
            }
        }
        let done = running.finish(PATIENCE)?.expect_code(wanted).with_context(|| how)?;
        let took = begun.elapsed();
        bed::harness::say(&format!("    {mode}, {how}: over after {took:.1?}"));
        ensure!(took < FORCED, "{how}: {took:?}\n{}", done.err());
        poll("every process to end", PATIENCE, || stage.cofferdam_processes().is_empty().then_some(()))?;
        ensure!(!stage.state().join(&sandbox.name).join("control.sock").exists(), "{how}: a socket is left");
    }
    Ok(())
}

/// Waits until a process opens, reads and closes a file: a watched policy is read every few seconds.
fn is_read(file: &Path) -> Result<()> {
    let seen = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    seen.add_watch(file, AddWatchFlags::IN_CLOSE_NOWRITE)?;
    poll("the policy's file to be read", PATIENCE, || seen.read_events().is_ok().then_some(()))
}

fn a_policy_that_was_set_stays_set(stage: &Stage) -> Result<()> {
    let file = stage.write("policy.yaml", policy(""))?.display().to_string();
    let sandbox =
        Sandbox::start(stage, &["--policy", &file], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let generation = || sandbox.status().ok()?["policy"]["generation"].as_u64();
    // An edit that opens, then a narrower one by hand.
    stage.write("policy.yaml", policy(FRIENDLY))?;
    poll("the edit", PATIENCE, || (generation()? == 2).then_some(()))?;
    let narrow = stage.write("narrow.yaml", policy(""))?.display().to_string();
    stage.call(&["policy", "set", &sandbox.name, &narrow])?.expect_code(0)?;
    for number in 3..5 {
        let before = sandbox.status()?["policy"].clone();
        ensure!(before["generation"] == number, "not {number}: {before}");
        replace_supervisor(stage, &sandbox.name)?;
        is_read(Path::new(&file))?;
        let after = sandbox.status()?["policy"].clone();
        ensure!(
            after["generation"] == number && after["sha256"] == before["sha256"],
            "{before} became {after} with a supervisor's death"
        );
        // The outcome of that read would come before the policy that is set after it; there was none.
        stage.write("narrow.yaml", format!("{}# {number}\n", policy("")))?;
        stage.call(&["policy", "set", &sandbox.name, &narrow])?.expect_code(0)?;
        let next = generation();
        ensure!(next == Some(number + 1), "{next:?} follows {number}");
    }
    // The next edit takes effect.
    stage.write("policy.yaml", format!("{}# edited\n", policy(FRIENDLY)))?;
    poll("another edit", PATIENCE, || (generation()? == 6).then_some(()))?;
    // Once a policy was reported to be in force, no supervisor's death undoes that.
    for n in 7..12 {
        stage.write("narrow.yaml", format!("{}# {n}\n", policy("")))?;
        stage.call(&["policy", "set", &sandbox.name, &narrow])?.expect_code(0)?;
        replace_supervisor(stage, &sandbox.name)?;
        let after = generation();
        ensure!(after == Some(n), "generation {n} was in force, now {after:?}");
    }
    Ok(())
}

/// Whether a signal that a process was sent still waits for it (proc_pid_status(5)).
fn is_pending(pid: i32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let sets =
        status.lines().filter_map(|line| line.strip_prefix("ShdPnd:").or(line.strip_prefix("SigPnd:")));
    sets.filter_map(|set| u64::from_str_radix(set.trim(), 16).ok())
        .any(|set| set & (1 << (signal as u64 - 1)) != 0)
}

fn a_service_keeps_signals_to_itself(stage: &Stage) -> Result<()> {
    let file = stage.write("policy.yaml", policy(""))?.display().to_string();
    let mut sandbox = service(stage, "", &format!("policy: {file}\n"))?;
    poll("readiness", START, || sandbox.status().ok().filter(|s| s["state"] == "running"))?;
    let heart = sandbox.heart().pid();
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGQUIT] {
        sandbox.heart().signal(signal)?;
        poll("the heart to take it", PATIENCE, || (!is_pending(heart, signal)).then_some(()))?;
    }
    // Signals that the heart passed on would take this way, and arrive before the signal that the agent is
    // sent now.
    stage.call(&["exec", &sandbox.name, "--", "true"])?.expect_code(0)?;
    for pid in stage.processes_with("/sandbox/heard") {
        // A shell that is about to be its `sleep` may be gone by now.
        let _ = kill(Pid::from_raw(pid), Signal::SIGALRM);
    }
    poll("the agent to hear a signal of its own", PATIENCE, || (lines(stage, "heard") > 0).then_some(()))?;
    ensure!(lines(stage, "hit") == 0, "the agent was sent {} of them", lines(stage, "hit"));
    ensure!(lines(stage, "steady") == 1, "the agent was started again");
    ensure!(sandbox.status()?["policy"]["generation"] == 1, "the file hasn't changed");
    Ok(())
}

fn each_further_sigterm_puts_nothing_off(stage: &Stage) -> Result<()> {
    let mut sandbox = Sandbox::start(stage, &[], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    // A supervisor that lives but stops no agent.
    let stuck = supervisor(stage).context("no supervisor")?;
    kill(Pid::from_raw(stuck), Signal::SIGSTOP)?;
    let running = sandbox.running.take().context("it runs")?;
    let begun = Instant::now();
    while kill(Pid::from_raw(running.pid()), Signal::SIGTERM).is_ok()
        && stage.cofferdam_processes().contains(&running.pid())
    {
        ensure!(begun.elapsed() < FORCED, "it is still there");
        std::thread::sleep(Duration::from_secs(1));
    }
    running.finish(PATIENCE)?.expect_code(143)?;
    Ok(())
}

fn one_that_hangs_is_replaced(stage: &Stage) -> Result<()> {
    let sandbox = service(stage, "", "")?;
    let stuck = poll("a supervisor", PATIENCE, || supervisor(stage))?;
    poll("readiness", START, || sandbox.status().ok().filter(|status| status["state"] == "running"))?;
    // It lives, and does nothing any more.
    kill(Pid::from_raw(stuck), Signal::SIGSTOP)?;
    let status = poll("another supervisor", NOTICED, || {
        (supervisor(stage).is_some_and(|pid| pid != stuck)).then(|| sandbox.status().ok()).flatten()
    })?;
    ensure!(status["supervisor_restarts"] == 1, "{status}");
    ensure!(lines(stage, "steady") == 1, "the agent was started again");
    let hung = [("kind", "actor"), ("name", "supervisor"), ("failure", "it hung, and was killed")];
    poll("the record", PATIENCE, || {
        sandbox.audit().ok()?.iter().any(|record| record_has(record, &hung)).then_some(())
    })?;
    Ok(())
}
