//! A snapshot or restore that is killed, or asked to end, in the middle leaves nothing that could be taken
//! for a result, and the next one clears away the rest.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, Running, poll};
use nix::sys::signal::Signal;

use crate::tree::tree;
use crate::{file, nothing_came, own, sandbox};

/// A workspace that takes long enough to be interrupted in the middle.
const MUCH: &str =
    "for n in $(seq 40); do mkdir d$n; head -c 1000000 /dev/urandom > d$n/noise; chmod 500 d$n; done";

fn much(stage: &Stage) -> Result<(String, String)> {
    let name = stage.name();
    sandbox(stage, &name, MUCH)?;
    let (_, text) = file(stage, "one.cofferdam");
    Ok((name, text))
}

/// Most rounds: on a busy machine a command may be done before the signal comes.
const ROUNDS: usize = 20;

/// Runs rounds until one interrupts the command in the middle, and returns that round's number.
fn met(round: impl Fn(usize) -> Result<bool>) -> Result<usize> {
    for number in 0..ROUNDS {
        if round(number)? {
            return Ok(number);
        }
    }
    bail!("not once met in the middle")
}

/// Starts the command, and ends it once `begun` says that it is in the middle; it must then end with `code`.
/// Returns false if it was done before the signal came.
fn in_the_middle(
    stage: &Stage,
    args: &[&str],
    begun: impl Fn(i32) -> bool,
    (end, code): (impl Fn(&Running) -> Result<()>, i32),
) -> Result<bool> {
    let running = stage.start(stage.cofferdam(args))?;
    let pid = running.pid();
    let ready = || (begun(pid) || is_through(pid)).then_some(());
    poll("it to be in the middle", PATIENCE, ready)?;
    end(&running)?;
    let done = running.finish(PATIENCE)?;
    all_gone(stage)?;
    ensure!(done.code() == code || done.code() == 0, "{} {}", done.code(), done.err());
    Ok(done.code() == code)
}

fn is_through(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
}

/// Whether the process has written bytes to a file in this directory, even to an unnamed one (open(2),
/// O_TMPFILE).
fn writes_into(dir: &Path, pid: i32) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.flatten().any(|fd| {
        let lies_there = std::fs::read_link(fd.path()).is_ok_and(|file| file.parent() == Some(dir));
        lies_there && std::fs::metadata(fd.path()).is_ok_and(|file| file.is_file() && file.len() > 0)
    })
}

fn killed(running: &Running) -> Result<()> {
    running.signal(Signal::SIGKILL)
}

fn all_gone(stage: &Stage) -> Result<()> {
    poll("every process to end", PATIENCE, || stage.cofferdam_processes().is_empty().then_some(()))
}

pub fn a_killed_snapshot_leaves_no_file(stage: &Stage) -> Result<()> {
    let (name, text) = much(stage)?;
    let before = tree(&own(stage, &name))?;
    let files = || std::fs::read_dir(stage.dir()).unwrap().flatten().count();
    let there = files();
    met(|_| {
        let _of_a_round_before = std::fs::remove_file(&text);
        let writes = |pid| writes_into(stage.dir(), pid);
        in_the_middle(stage, &["snapshot", &name, &text], writes, (killed, 137))
    })?;
    ensure!(files() <= there + 1 && !Path::new(&text).exists(), "a file is there");
    ensure!(tree(&own(stage, &name))? == before, "and the sandbox is as it was");
    stage.call(&["snapshot", &name, &text])?.expect_code(0)?;
    ensure!(files() == there + 1, "what a killed one left is gone");
    Ok(())
}

/// Restores the snapshot under ever new names until one restore is interrupted in the middle, and returns
/// that name.
fn half_restored(
    stage: &Stage,
    (name, text): (&str, &str),
    (end, code): (impl Fn(&Running) -> Result<()>, i32),
) -> Result<String> {
    let called = |round: usize| format!("{name}-b{round}");
    let round = met(|round| {
        let coming = coming(stage, &called(round));
        let args = ["restore", text, "--name", &called(round)];
        in_the_middle(stage, &args, |_| coming.join("d2").exists(), (&end, code))
    })?;
    Ok(called(round))
}

/// Where a restore makes the agent's files.
fn coming(stage: &Stage, name: &str) -> PathBuf {
    stage.state().join(".restoring").join(name).join("workspace")
}

pub fn a_killed_restore_leaves_nothing_that_is_used(stage: &Stage) -> Result<()> {
    let (name, text) = much(stage)?;
    stage.call(&["snapshot", &name, &text])?.expect_code(0)?;
    let second = half_restored(stage, (&name, &text), (killed, 137))?;
    ensure!(coming(stage, &second).exists(), "the control: it was in the middle");
    ensure!(!stage.state().join(&second).exists(), "half a sandbox is there");
    ensure!(stage.json(&["ps", "--json"])?.as_array().is_some_and(Vec::is_empty));
    stage.run(&["--name", "other"], &["true"])?.expect_code(0)?;
    // A restore under another name clears away the rest all the same.
    let third = format!("{name}-c");
    stage.call(&["restore", &text, "--name", &third])?.expect_code(0)?;
    nothing_came(stage, &second)?;
    ensure!(tree(&own(stage, &third))? == tree(&own(stage, &name))?);
    Ok(())
}

pub fn an_interrupted_one_leaves_nothing(stage: &Stage) -> Result<()> {
    let (name, text) = much(stage)?;
    let files = || std::fs::read_dir(stage.dir()).unwrap().flatten().count();
    let there = files();
    met(|_| {
        let _of_a_round_before = std::fs::remove_file(&text);
        let writes = |pid| writes_into(stage.dir(), pid);
        let interrupted = |running: &Running| running.signal_group(Signal::SIGINT);
        in_the_middle(stage, &["snapshot", &name, &text], writes, (interrupted, 130))
    })?;
    ensure!(files() == there, "a file is there");
    stage.call(&["snapshot", &name, &text])?.expect_code(0)?;
    let asked = |running: &Running| running.signal_group(Signal::SIGTERM);
    let second = half_restored(stage, (&name, &text), (asked, 143))?;
    nothing_came(stage, &second)
}
