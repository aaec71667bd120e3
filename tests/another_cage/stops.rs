//! Stops and kills in the middle of a move: each is carried out, and leaves nothing behind.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, Running, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::faults::debugger;
use crate::service::{Moving, Service, moments};

/// A service with an agent that ignores SIGTERM, and a `stop` command that waits for it.
fn stopping<'a>(stage: &'a Stage<'a>) -> Result<(Service<'a>, Running)> {
    let service = Service::start_deaf(stage)?;
    let stop = stage.start(stage.cofferdam(["stop", &service.sandbox.name, "--grace", "5s"]))?;
    poll("the agents to be stopped", PATIENCE, || {
        service.sandbox.status().ok().filter(|status| status["state"] == "stopping")
    })?;
    Ok((service, stop))
}

/// A command that waits for a stop learns of its end, even if the heart has to force it.
pub fn a_stop_is_waited_for_until_its_heart_forces_it(stage: &Stage) -> Result<()> {
    let (mut service, stop) = stopping(stage)?;
    let stuck = service.process("cofferdam: sup").context("a supervisor")?;
    kill(Pid::from_raw(stuck), Signal::SIGSTOP)?;
    let ended = service.sandbox.running.take().context("it ran")?.finish(PATIENCE)?;
    ensure!(
        ended.expect_code(143)?.err().contains("ended by force"),
        "the control: nobody stopped the agents"
    );
    stop.finish(PATIENCE)?.expect_code(0)?;
    ensure!(stage.cofferdam_processes().is_empty(), "processes are left");
    Ok(())
}

/// A process that is traced by a debugger which doesn't reap it keeps init from ending, but doesn't hold up a
/// stop.
pub fn a_debugger_holds_up_no_stop(stage: &Stage) -> Result<()> {
    let mut service = Service::start(stage, "")?;
    let init = service.process("cofferdam: init").context("init")?;
    let debugger = debugger(stage, init)?;
    stage.call(&["stop", &service.sandbox.name])?.expect_code(0)?;
    ensure!(Path::new(&format!("/proc/{init}")).exists(), "the control: init is held up");
    let ended = service.sandbox.running.take().context("it ran")?.finish(PATIENCE)?;
    ensure!(ended.err().contains("yet to end a process"), "{}", ended.err());
    let state = stage.state().join(&service.sandbox.name);
    ensure!(!state.join("control.sock").exists() && !state.join("build.sock").exists(), "sockets are left");
    debugger.signal(Signal::SIGKILL)?;
    debugger.finish(PATIENCE)?;
    let is_there = || Path::new(&format!("/proc/{init}")).exists();
    poll("init's end", PATIENCE, || (!is_there()).then_some(()))
}

/// A stop survives the supervisor that was told to stop: the next one stops what is left.
pub fn a_stop_outlives_its_supervisor(stage: &Stage) -> Result<()> {
    let (mut service, stop) = stopping(stage)?;
    let old = service.process("cofferdam: sup").context("a supervisor")?;
    kill(Pid::from_raw(old), Signal::SIGKILL)?;
    service.sandbox.running.take().context("it ran")?.finish(PATIENCE)?;
    stop.finish(PATIENCE)?;
    ensure!(stage.cofferdam_processes().is_empty(), "processes are left");
    Ok(())
}

pub fn a_stop_ends_a_move_too(stage: &Stage) -> Result<()> {
    let Moving { mut service, command, .. } = Moving::start(stage)?;
    stage.call(&["stop", &service.sandbox.name, "--grace", "1s"])?.expect_code(0)?;
    let refused = command.finish(PATIENCE)?.expect_code(125)?.err();
    ensure!(refused.contains("is being stopped"), "{refused}");
    service.sandbox.running.take().context("it ran")?.finish(PATIENCE)?;
    ensure!(stage.cofferdam_processes().is_empty(), "processes are left");
    Ok(())
}

/// The agents have ended, and their supervisor writes the remaining output for up to three seconds, while
/// another process holds an agent's output open.
pub fn a_stop_is_heard_among_the_last_records(stage: &Stage) -> Result<()> {
    let lend = "import socket, time; s = socket.socket(socket.AF_UNIX); s.bind('lent'); s.listen(); c, _ = s.accept(); \
                socket.send_fds(c, [b'x'], [1]); time.sleep(1000)";
    let lender = format!("  lender:\n    command: [python3, -c, \"{lend}\"]\n");
    let mut service = Service::start_with(stage, "", &lender)?;
    let name = service.sandbox.name.clone();
    poll("the lender", PATIENCE, || stage.workspace().join("lent").exists().then_some(()))?;
    // A session is told to end with its sandbox: this one takes the time that it is given.
    let hold = "import signal, socket, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); s = socket.socket(socket.AF_UNIX); s.connect('lent'); fds = socket.recv_fds(s, 1, 1)[1]; \
                print('holds', len(fds), flush=True); time.sleep(1000)";
    let mut holder = stage.start(stage.cofferdam(["exec", &name, "--", "python3", "-c", hold]))?;
    holder.wait_for("holds 1", PATIENCE)?;
    let command = service.start_set(&service.wide)?;
    poll("the agents' end", PATIENCE, || {
        let status = service.sandbox.status().ok().filter(|status| status["state"] == "stopping")?;
        status["agents"].as_array()?.iter().all(|agent| agent["pid"].is_null()).then_some(())
    })?;
    stage.call(&["stop", &name, "--grace", "1s"])?.expect_code(0)?;
    let refused = command.finish(PATIENCE)?.expect_code(125)?.err();
    ensure!(refused.contains("is being stopped"), "{refused}");
    service.sandbox.running.take().context("it ran")?.finish(PATIENCE)?.expect_code(0)?;
    holder.finish(PATIENCE)?;
    ensure!(stage.cofferdam_processes().is_empty(), "processes are left");
    Ok(())
}

/// The heart is killed or told to stop at random moments of a move, each at least once while there are two
/// cages.
pub fn an_end_at_any_moment_leaves_nothing(stage: &Stage) -> Result<()> {
    let mut met = [false; 2];
    for (n, moment) in moments(stage)?.enumerate() {
        if n >= 12 && met == [true; 2] {
            break;
        }
        ensure!(n < 60, "not once met in the middle: killed, told to stop: {met:?}");
        let _again = std::fs::remove_file(stage.workspace().join("ran"));
        let mut service = Service::start(stage, "")?;
        let name = service.sandbox.name.clone();
        let moving = service.start_set(&service.wide)?;
        let in_the_middle = moment.come(stage, &moving)?;
        let signal = if n % 2 == 0 { Signal::SIGKILL } else { Signal::SIGTERM };
        met[n % 2] |= in_the_middle;
        service.sandbox.heart().signal(signal)?;
        let running = service.sandbox.running.take().context("it runs")?;
        running.finish(PATIENCE).with_context(|| format!("{signal} at {n}"))?;
        moving.finish(PATIENCE)?;
        poll("every process to end", PATIENCE, || stage.cofferdam_processes().is_empty().then_some(()))
            .with_context(|| format!("{signal} at {n}"))?;
        let left = |file: &str| stage.state().join(&name).join(file).exists();
        poll("the builder's socket to go", PATIENCE, || (!left("build.sock")).then_some(()))
            .with_context(|| format!("{signal} at {n}"))?;
        ensure!(signal == Signal::SIGKILL || !left("control.sock"), "{signal} at {n}: a control socket");
    }
    Ok(())
}
