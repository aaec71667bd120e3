//! Killed in the middle, or asked to end there: nothing that anybody uses is left, and the next clears away the rest.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, Running, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::tree::tree;
use crate::{file, nothing_came, own, sandbox};

/// What takes long enough to be met in the middle.
const MUCH: &str =
    "for n in $(seq 40); do mkdir d$n; head -c 1000000 /dev/urandom > d$n/noise; chmod 500 d$n; done";

fn much(stage: &Stage) -> Result<(String, String)> {
    let name = stage.name();
    sandbox(stage, &name, MUCH)?;
    let (_, text) = file(stage, "one.cofferdam");
    Ok((name, text))
}

/// Stopped once some of it is there.
fn in_the_middle(stage: &Stage, args: &[&str], begun: impl Fn() -> bool) -> Result<Running> {
    let running = stage.start(stage.cofferdam(args))?;
    poll("it to be in the middle", PATIENCE, || begun().then_some(()))?;
    Ok(running)
}

fn all_gone(stage: &Stage) -> Result<()> {
    poll("every process to end", PATIENCE, || stage.cofferdam_processes().is_empty().then_some(()))
}

fn is_held(lock: &Path) -> bool {
    std::fs::File::open(lock).is_ok_and(|lock| lock.try_lock_shared().is_err())
}

pub fn a_killed_snapshot_leaves_no_file(stage: &Stage) -> Result<()> {
    let (name, text) = much(stage)?;
    let before = tree(&own(stage, &name))?;
    let lock = stage.state().join(&name).join("lock");
    let files = || std::fs::read_dir(stage.dir()).unwrap().flatten().count();
    let there = files();
    let running = in_the_middle(stage, &["snapshot", &name, &text], || is_held(&lock))?;
    kill(Pid::from_raw(running.pid()), Signal::SIGKILL)?;
    ensure!(running.finish(PATIENCE)?.code() == 137, "the control: it was killed");
    all_gone(stage)?;
    ensure!(files() <= there + 1 && !Path::new(&text).exists(), "a file is there");
    ensure!(tree(&own(stage, &name))? == before, "and the sandbox is as it was");
    stage.call(&["snapshot", &name, &text])?.expect_code(0)?;
    ensure!(files() == there + 1, "what a killed one left is gone");
    Ok(())
}

pub fn a_killed_restore_leaves_nothing_that_is_used(stage: &Stage) -> Result<()> {
    let (name, text) = much(stage)?;
    stage.call(&["snapshot", &name, &text])?.expect_code(0)?;
    let second = format!("{name}-b");
    let coming = stage.state().join(".restoring").join(&second).join("workspace");
    let args = ["restore", &text, "--name", &second];
    let running = in_the_middle(stage, &args, || coming.join("d2").exists())?;
    kill(Pid::from_raw(running.pid()), Signal::SIGKILL)?;
    ensure!(running.finish(PATIENCE)?.code() == 137, "the control: it was killed");
    all_gone(stage)?;
    ensure!(coming.exists(), "the control: it was in the middle");
    ensure!(!stage.state().join(&second).exists(), "half a sandbox is there");
    ensure!(stage.json(&["ps", "--json"])?.as_array().is_some_and(Vec::is_empty));
    stage.run(&["--name", "other"], &["true"])?.expect_code(0)?;
    // Of another name: what is left goes all the same.
    let third = format!("{name}-c");
    stage.call(&["restore", &text, "--name", &third])?.expect_code(0)?;
    nothing_came(stage, &second)?;
    ensure!(tree(&own(stage, &third))? == tree(&own(stage, &name))?);
    Ok(())
}

pub fn an_interrupted_one_leaves_nothing(stage: &Stage) -> Result<()> {
    let (name, text) = much(stage)?;
    let lock = stage.state().join(&name).join("lock");
    let running = in_the_middle(stage, &["snapshot", &name, &text], || is_held(&lock))?;
    running.signal_group(Signal::SIGINT)?;
    ensure!(running.finish(PATIENCE)?.code() == 130, "it ends of what it was sent");
    all_gone(stage)?;
    ensure!(!Path::new(&text).exists());
    stage.call(&["snapshot", &name, &text])?.expect_code(0)?;
    let second = format!("{name}-b");
    let coming = stage.state().join(".restoring").join(&second).join("workspace");
    let running =
        in_the_middle(stage, &["restore", &text, "--name", &second], || coming.join("d2").exists())?;
    running.signal_group(Signal::SIGTERM)?;
    let done = running.finish(Duration::from_secs(60))?;
    ensure!(done.code() == 143, "{} {}", done.code(), done.err());
    all_gone(stage)?;
    nothing_came(stage, &second)
}
