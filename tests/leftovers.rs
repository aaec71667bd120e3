//! Nothing stays behind, however a sandbox ends: no process, mount, control group or socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, Running, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use common::{COFFERDAM, START};

fn main() -> ExitCode {
    bed::harness::main(
        "leftovers",
        Path::new(COFFERDAM),
        bed::cases![
            normal_end,
            failure_at_start,
            ctrl_c,
            sigterm,
            sigkill_of_the_heart,
            sigkill_of_the_supervisor_and_then_the_end,
            sigkill_of_init,
            stop_command,
            orphans_of_the_agent,
            the_state_directory_can_be_used_again,
        ],
    )
}

/// What is there that a sandbox could leave behind.
#[derive(Debug, PartialEq)]
struct Scene {
    mounts: usize,
    groups: BTreeSet<PathBuf>,
}

impl Scene {
    fn now(name: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().count();
        Self { mounts, groups: groups(Path::new("/sys/fs/cgroup"), name, 6) }
    }
}

/// Control groups whose name holds the sandbox's.
fn groups(dir: &Path, name: &str, depth: u32) -> BTreeSet<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return BTreeSet::new() };
    let mut found = BTreeSet::new();
    for path in entries.flatten().map(|e| e.path()).filter(|p| p.is_dir() && depth > 0) {
        if path.file_name().is_some_and(|n| n.to_string_lossy().contains(name)) {
            found.insert(path.clone());
        }
        found.extend(groups(&path, name, depth - 1));
    }
    found
}

/// A sandbox with a child in the background, a moment after it said so.
fn start(stage: &Stage, name: &str) -> Result<Running> {
    let marker = stage.marker();
    let script = format!("sh -c 'while :; do sleep 0.1; done # {marker}' & echo ready; wait");
    let mut running = stage.start_run(name, &[], &["sh", "-c", &script])?;
    running.wait_for("ready", START)?;
    ensure!(!stage.processes_with(&stage.marker()).is_empty(), "the control: the agent's child is there");
    ensure!(stage.cofferdam_processes().len() >= 3, "the control: heart, supervisor and init are there");
    Ok(running)
}

fn nothing_left(stage: &Stage, name: &str, before: &Scene) -> Result<()> {
    let marker = stage.marker();
    let gone = poll("every process to end", Duration::from_secs(10), || {
        (stage.cofferdam_processes().is_empty() && stage.processes_with(&marker).is_empty()).then_some(())
    });
    if gone.is_err() {
        let what: Vec<String> = stage
            .cofferdam_processes()
            .into_iter()
            .chain(stage.processes_with(&marker))
            .map(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                format!("{pid}: {}", String::from_utf8_lossy(&line).replace('\0', " "))
            })
            .collect();
        anyhow::bail!("left behind: {what:?}");
    }
    poll("mounts and control groups to go", Duration::from_secs(5), || {
        (Scene::now(name) == *before).then_some(())
    })
    .with_context(|| format!("{:?} before, {:?} now", before, Scene::now(name)))?;
    let socket = stage.state().join(name).join("control.sock");
    if socket.exists() {
        // A file may stay after a SIGKILL; it must be dead, and the name free.
        ensure!(std::os::unix::net::UnixStream::connect(&socket).is_err(), "somebody still listens");
    }
    stage.run(&["--name", name], &["true"])?.expect_code(0)?;
    Ok(())
}

fn normal_end(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let before = Scene::now(&name);
    stage.run(&["--name", &name], &["sh", "-c", "exit 0"])?.expect_code(0)?;
    ensure!(!stage.state().join(&name).join("control.sock").exists(), "the control socket stayed");
    nothing_left(stage, &name, &before)
}

fn failure_at_start(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let before = Scene::now(&name);
    stage.run(&["--name", &name], &["no-such-program"])?.expect_code(127)?;
    nothing_left(stage, &name, &before)?;
    let bad =
        stage.write("bad.yaml", common::policy("").replace("    - /etc ", "    - /no/such\n    - /etc "))?;
    stage.run(&["--name", &name, "--policy", &bad.display().to_string()], &["true"])?.expect_code(125)?;
    nothing_left(stage, &name, &before)
}

fn ended_by(stage: &Stage, end: impl FnOnce(&Running) -> Result<()>) -> Result<i32> {
    let name = stage.name();
    let before = Scene::now(&name);
    let running = start(stage, &name)?;
    end(&running)?;
    let code = running.finish(PATIENCE)?.code();
    nothing_left(stage, &name, &before)?;
    Ok(code)
}

fn ctrl_c(stage: &Stage) -> Result<()> {
    let code = ended_by(stage, |running| running.signal(Signal::SIGINT))?;
    ensure!(code == 130, "{code}");
    Ok(())
}

fn sigterm(stage: &Stage) -> Result<()> {
    let code = ended_by(stage, |running| running.signal(Signal::SIGTERM))?;
    ensure!(code == 143, "{code}");
    Ok(())
}

fn sigkill_of_the_heart(stage: &Stage) -> Result<()> {
    let code = ended_by(stage, |running| running.signal(Signal::SIGKILL))?;
    ensure!(code == 137, "{code}");
    Ok(())
}

fn sigkill_of_the_supervisor_and_then_the_end(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let code = ended_by(stage, |running| {
        let pid = |status: &serde_json::Value| status["supervisor_pid"].as_i64().map(|p| p as i32);
        let first = pid(&stage.json(&["status", &name, "--json"])?).context("no supervisor pid")?;
        kill(Pid::from_raw(first), Signal::SIGKILL)?;
        poll("a new supervisor", Duration::from_secs(10), || {
            pid(&stage.json(&["status", &name, "--json"]).ok()?).filter(|p| *p != first)
        })?;
        running.signal(Signal::SIGTERM)
    })?;
    ensure!(code == 143, "{code}");
    Ok(())
}

fn sigkill_of_init(stage: &Stage) -> Result<()> {
    let code = ended_by(stage, |_| {
        let init = stage.cofferdam_processes().into_iter().find(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|s| {
                s.lines().any(|l| {
                    l.starts_with("NSpid:") && l.split_whitespace().count() > 2 && l.ends_with("\t1")
                })
            })
        });
        Ok(kill(Pid::from_raw(init.context("no init to be found")?), Signal::SIGKILL)?)
    })?;
    ensure!(code != 0, "the end of a sandbox is no success");
    Ok(())
}

fn stop_command(stage: &Stage) -> Result<()> {
    let name = stage.name();
    ended_by(stage, |_| stage.call(&["stop", &name])?.expect_code(0).map(drop))?;
    Ok(())
}

fn orphans_of_the_agent(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let before = Scene::now(&name);
    let marker = stage.marker();
    // Twice forked, with a session of its own and its streams closed: still the sandbox's.
    let script =
        format!("setsid sh -c '(while :; do sleep 0.1; done # {marker}) >/dev/null 2>&1 <&- &' ; exit 4");
    stage.run(&["--name", &name], &["sh", "-c", &script])?.expect_code(4)?;
    nothing_left(stage, &name, &before)
}

fn the_state_directory_can_be_used_again(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let script = "cat note 2>/dev/null; echo written > note";
    stage.run(&["--name", &name], &["sh", "-c", script])?.expect_code(0)?;
    let again = stage.run(&["--name", &name], &["sh", "-c", script])?.expect_code(0)?;
    ensure!(again.out() == "written\n", "the workspace is not the same: {:?}", again.out());
    stage.call(&["audit", "verify", &name])?.expect_code(0)?;
    Ok(())
}
