//! How a session of `exec` ends when something is slow or goes wrong: a client that reads slowly, one that is
//! killed while its process starts, one that is told to end; and in what state each leaves the terminal. What
//! the process may do is tested in `later.rs`.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::poll;
use nix::sys::signal::{Signal, kill};

use crate::common::{process, program, workspace};
use crate::console::Console;
use crate::later::{GONE, idle, slow_to_open};

/// All output of a process arrives, however slowly the client reads, including what was in the pipe when the
/// process ended.
pub fn a_slow_reader_gets_everything(stage: &Stage) -> Result<()> {
    const PAUSE: Duration = Duration::from_secs(2);
    let sandbox = idle(stage)?;
    // The buffers between the process and the reader hold about half a MiB, so one of these sizes makes a
    // process end while its pipe is full and not being read.
    let sizes: Vec<usize> = (16..48).step_by(2).map(|n| n << 14).collect();
    let mut readers = Vec::new();
    for size in &sizes {
        let command = ["exec", &sandbox.name, "--", "head", "-c", &size.to_string(), "/dev/zero"];
        readers.push(stage.cofferdam(command).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
    }
    std::thread::sleep(PAUSE);
    for (reader, size) in readers.iter_mut().zip(sizes) {
        let mut out = Vec::new();
        reader.stdout.take().context("its output")?.read_to_end(&mut out)?;
        ensure!(reader.wait()?.success() && out.len() == size, "{} bytes of {size}", out.len());
    }
    // A process in the background that keeps writing doesn't keep the session from ending.
    let done =
        stage.call(&["exec", &sandbox.name, "--", "sh", "-c", "yes & sleep 1; exit 4"])?.expect_code(4)?;
    ensure!(done.out().starts_with("y\n"), "nothing of what a child wrote");
    Ok(())
}

/// A client that is killed while its process starts leaves nothing running, though its request is still being
/// carried out.
pub fn a_client_killed_at_the_start_leaves_nothing(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    let sandbox = idle(stage)?;
    let mark = stage.marker();
    stage.script("slow", &format!("#!/bin/sh\nsleep 1000 # {mark}\n"))?;
    for flags in [&["exec"][..], &["exec", "-i"]] {
        // Counts init's children: a process that was hung up stays one until it is reaped.
        let count = || process(stage, "cofferdam: init").map(children);
        poll("the agent to be init's only child", GONE, || (count() == Some(1)).then_some(()))?;
        let mut slow = slow_to_open(stage, &python, "slow")?;
        let args = [flags, &[&sandbox.name, "--", "/sandbox/slow", &mark]].concat();
        let mut client = stage.cofferdam(args).stdin(Stdio::piped()).spawn()?;
        poll("the process to wait for its program", GONE, || (count() == Some(2)).then_some(()))?;
        client.kill()?;
        client.wait()?;
        // Time for the supervisor to notice, before the program can be opened.
        std::thread::sleep(Duration::from_millis(200));
        drop(slow.stdin.take());
        slow.wait()?;
        // It may be hung up before it has done anything.
        poll("it to be hung up", GONE, || (count() == Some(1)).then_some(()))?;
        ensure!(stage.processes_with(&mark).is_empty(), "what it started runs on");
    }
    sandbox.status().map(drop)
}

/// How many children a process has.
fn children(pid: i32) -> usize {
    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().count()
}

/// A session ends with its sandbox, whoever ends that, and its client has the exit code of its process: by
/// the signal that ended it.
pub fn a_session_ends_with_its_sandbox(stage: &Stage) -> Result<()> {
    const SIGHUP: i32 = 129;
    const SIGKILL: i32 = 137;
    const SIGTERM: i32 = 143;
    let sandbox = idle(stage)?;
    let exec = |script: &str| -> Result<_> {
        let args = ["exec", &sandbox.name, "--", "sh", "-c", script];
        let mut client = stage.cofferdam(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        // It has begun, and what it minds is in place.
        client.stdout.as_mut().context("its output")?.read_exact(&mut [0; 6])?;
        Ok(client)
    };
    let mut ends = exec("echo ready; exec sleep 1000")?;
    let mut minds = exec("trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done")?;
    let mut stays = exec("trap '' TERM; echo ready; while :; do sleep 0.1; done")?;
    let script = "echo rea''dy; exec sleep 1000";
    let args = ["exec", "-it", &sandbox.name, "--", "sh", "-c", script];
    let mut console = Console::start(stage, (24, 80), &args)?;
    console.see("ready")?;
    stage.call(&["stop", &sandbox.name])?.expect_code(0)?;
    for (client, code) in [(&mut ends, SIGTERM), (&mut minds, 7), (&mut stays, SIGKILL)] {
        let found = client.wait()?.code();
        ensure!(found == Some(code), "{found:?} for {code}");
    }
    let found = console.end()?.code();
    ensure!(found == Some(SIGHUP), "{found:?} on a terminal: {}", console.screen());
    Ok(())
}

/// Whatever signal ends a session, its terminal is itself again; the loss of the terminal ends it whatever
/// the process makes of that.
pub fn the_terminal_is_itself_again(stage: &Stage) -> Result<()> {
    let sandbox = idle(stage)?;
    let passed = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGALRM];
    for signal in passed.into_iter().chain([Signal::SIGHUP]) {
        let script = "echo rea''dy; exec sleep 1000";
        let args = ["exec", "-it", &sandbox.name, "--", "sh", "-c", script];
        let mut console = Console::start(stage, (24, 80), &args)?;
        console.see("ready")?;
        ensure!(!console.is_cooked()?, "the control: every key goes inside");
        kill(console.pid(), signal)?;
        ensure!(console.end()?.code() == Some(128 + signal as i32), "{signal}: {}", console.screen());
        ensure!(console.is_cooked()?, "{signal} left the terminal raw");
    }
    let mark = stage.marker();
    for signals in [&[Signal::SIGHUP][..], &[Signal::SIGTERM, Signal::SIGTERM]] {
        let script = format!(
            "trap '' HUP; trap 'echo no''t-now' TERM; echo rea''dy; while :; do sleep 0.1; done # {mark}"
        );
        let args = ["exec", "-it", &sandbox.name, "--", "bash", "-c", &script];
        let mut console = Console::start(stage, (24, 80), &args)?;
        console.see("ready")?;
        for (n, signal) in signals.iter().enumerate() {
            if n > 0 {
                console.see("not-now")?;
            }
            kill(console.pid(), *signal)?;
        }
        console.end()?;
        ensure!(console.is_cooked()?, "{signals:?} left the terminal raw");
        poll("what it started to end", GONE, || stage.processes_with(&mark).is_empty().then_some(()))?;
    }
    Ok(())
}

/// A client that is stopped from outside restores its terminal for the shell. When it continues, it takes the
/// terminal again, with the size that it has by then.
pub fn a_stopped_client_lends_its_terminal(stage: &Stage) -> Result<()> {
    let sandbox = idle(stage)?;
    lends_its_terminal(stage, &["exec", "-it", &sandbox.name, "--", "bash", "-c", TELLS_LINES])
}

/// So does the heart of a `run -t`, though another process reads the terminal.
pub fn a_stopped_heart_lends_its_terminal(stage: &Stage) -> Result<()> {
    let workspace = workspace(stage);
    lends_its_terminal(
        stage,
        &["run", "--quiet", "-t", "--workspace", &workspace, "--", "bash", "-c", TELLS_LINES],
    )
}

/// Without `-t` too, what is typed while a shell has the terminal goes to the shell, though the process that
/// reads for the agent isn't the one that was stopped.
pub fn what_is_typed_for_the_shell_is_not_the_agents(stage: &Stage) -> Result<()> {
    let workspace = workspace(stage);
    let args = ["run", "--quiet", "--workspace", &workspace, "--", "bash", "-c", TELLS_LINES];
    let mut console = Console::start(stage, (24, 80), &args)?;
    console.see("ready")?;
    console.type_in("before\n")?;
    console.see("got-before")?;
    kill(console.pid(), Signal::SIGSTOP)?;
    poll("it to be stopped", GONE, || console.is_stopped().then_some(()))?;
    console.type_in("for-the-shell\n")?;
    ensure!(console.read_line()? == "for-the-shell\n");
    kill(console.pid(), Signal::SIGCONT)?;
    console.type_in("after\n\x04")?;
    console.see("got-after")?;
    ensure!(console.end()?.success(), "{}", console.screen());
    ensure!(!console.screen().contains("got-for-the-shell"), "{}", console.screen());
    Ok(())
}

/// A shell with job control, which starts a sandbox in the background and then runs `then`.
fn shell_with_a_job(stage: &Stage, options: &str, then: &str) -> Result<Console> {
    let bash = program("bash")?;
    stage.script("tells-lines", &format!("#!{bash}\n{TELLS_LINES}\n"))?;
    let workspace = workspace(stage);
    let script = format!(
        "set -m; \"$0\" run --quiet {options} --workspace {workspace} -- /sandbox/tells-lines & {then}"
    );
    Console::shell(stage, (24, 80), &bash, &script)
}

/// A sandbox in the background isn't stopped by the terminal, since the process that reads for the agent
/// isn't in the terminal's session; it must not read there either.
pub fn a_job_in_the_background_reads_nothing(stage: &Stage) -> Result<()> {
    let then = "while read -r line; do echo \"shell-$line\"; [ \"$line\" = front ] && break; done; fg >/dev/null; echo \"ended: $?\"";
    let mut console = shell_with_a_job(stage, "", then)?;
    console.see("ready")?;
    for word in ["one", "two", "three", "four", "front"] {
        console.type_in(&format!("{word}\n"))?;
        console.see(&format!("shell-{word}"))?;
    }
    // The job isn't notified of being in the foreground. Until it has noticed, the terminal is still cooked
    // and takes Ctrl-D for an end of input.
    poll("the terminal to be raw", GONE, || (!console.is_cooked().ok()?).then_some(()))?;
    console.type_in("inside\n")?;
    console.see("got-inside")?;
    console.type_in("\x04")?;
    console.see("ended: 0")?;
    ensure!(console.end()?.success(), "{}", console.screen());
    ensure!(!console.screen().contains("got-one"), "{}", console.screen());
    Ok(())
}

/// A job in the background doesn't touch the terminal, which would stop it, and still ends when told to.
pub fn a_job_in_the_background_is_stopped(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let then = format!("read -r line; echo \"shell-$line\"; \"$0\" stop {name}; echo \"told: $?\"");
    let mut console = shell_with_a_job(stage, &format!("-t --name {name}"), &then)?;
    console.see("ready")?;
    ensure!(console.is_cooked()?, "the terminal is the shell's");
    console.type_in("word\n")?;
    console.see("shell-word")?;
    console.see("told: 0")?;
    console.end()?;
    ensure!(console.is_cooked()?, "the terminal was left raw");
    Ok(())
}

/// Prints each line that it reads, and each new size.
const TELLS_LINES: &str =
    "trap 'stty size' WINCH; echo rea''dy; while read -r line; do echo \"got-$line\"; done";

fn lends_its_terminal(stage: &Stage, args: &[&str]) -> Result<()> {
    let mut console = Console::start(stage, (24, 80), args)?;
    console.see("ready")?;
    for (round, size) in [(1, (31, 101)), (2, (32, 102))] {
        ensure!(!console.is_cooked()?, "the control: every key goes inside");
        kill(console.pid(), Signal::SIGTSTP)?;
        poll("it to be stopped", GONE, || console.is_stopped().then_some(()))?;
        ensure!(console.is_cooked()?, "{round}: stopped, it left the terminal raw");
        console.type_in("for-the-shell\n")?;
        ensure!(console.read_line()? == "for-the-shell\n");
        console.resize(size)?;
        kill(console.pid(), Signal::SIGCONT)?;
        poll("the terminal to be raw", GONE, || (!console.is_cooked().ok()?).then_some(()))?;
        console.type_in(&format!("line{round}\n"))?;
        console.see(&format!("got-line{round}"))?;
        // A shell that is signalled just before it waits for a line runs the trap only after that line.
        let told = format!("{} {}\r\n", size.0, size.1);
        poll("its size of now", GONE, || {
            if console.screen().contains(&told) {
                return Some(());
            }
            std::thread::sleep(Duration::from_millis(100));
            console.type_in("another\n").ok().and(None)
        })
        .with_context(|| format!("it shows {:?}", console.screen()))?;
    }
    // SIGSTOP can't be caught, so the terminal isn't restored; and whoever has it meanwhile may change it.
    kill(console.pid(), Signal::SIGSTOP)?;
    poll("it to be stopped", GONE, || console.is_stopped().then_some(()))?;
    console.cook()?;
    kill(console.pid(), Signal::SIGCONT)?;
    poll("the terminal to be raw", GONE, || (!console.is_cooked().ok()?).then_some(()))?;
    console.type_in("\x04")?;
    ensure!(console.end()?.success(), "{}", console.screen());
    ensure!(console.is_cooked()?, "the terminal was left raw");
    ensure!(!console.screen().contains("got-for-the-shell"), "{}", console.screen());
    Ok(())
}

/// A program that reads the terminal key by key (raw mode) gets every Ctrl-C, however often it is typed: two
/// of them must not end the sandbox. A program that ignores everything is ended from another terminal, and
/// this one is restored.
pub fn a_deaf_agents_terminal_is_given_back(stage: &Stage) -> Result<()> {
    let (name, workspace) = (stage.name(), workspace(stage));
    let script = "trap '' INT QUIT TSTP TERM HUP; stty -icanon; echo rea''dy; while :; do read -r line && echo \"got-$line\"; done";
    let args =
        ["run", "--quiet", "-t", "--name", &name, "--workspace", &workspace, "--", "bash", "-c", script];
    let mut console = Console::start(stage, (24, 80), &args)?;
    console.see("ready")?;
    console.type_in("\x03\x03\x03\x1a\x1c")?;
    console.type_in("key\n")?;
    console.see("got-key")?;
    stage.call(&["stop", &name, "--grace", "1s"])?.expect_code(0)?;
    ensure!(console.end()?.code() == Some(137), "{}", console.screen());
    ensure!(console.is_cooked()?, "the terminal was left raw");
    Ok(())
}

/// For a program that reads lines (cooked mode), Ctrl-C is a signal: one reaches the program, and two in a
/// row end its sandbox, even if it ignores them.
pub fn two_interrupts_end_a_deaf_agent(stage: &Stage) -> Result<()> {
    let workspace = workspace(stage);
    let script = "trap 'echo heard' INT; echo rea''dy; while :; do read -r line; done";
    let args = ["run", "--quiet", "-t", "--workspace", &workspace, "--", "bash", "-c", script];
    let mut console = Console::start(stage, (24, 80), &args)?;
    console.see("ready")?;
    console.type_in("\x03")?;
    console.see("heard")?;
    console.type_in("\x03\x03")?;
    ensure!(console.end()?.code() == Some(130), "{}", console.screen());
    console.see("interrupted twice: ended by force")?;
    ensure!(console.is_cooked()?, "the terminal was left raw");
    Ok(())
}

/// While a sandbox is silent, Ctrl-C ends the client that waits for it.
pub fn a_silent_sandbox_holds_no_terminal(stage: &Stage) -> Result<()> {
    let sandbox = idle(stage)?;
    let supervisor = process(stage, "cofferdam: sup").context("a supervisor")?;
    let supervisor = nix::unistd::Pid::from_raw(supervisor);
    kill(supervisor, Signal::SIGSTOP)?;
    let mut console = Console::start(stage, (24, 80), &["exec", "-it", &sandbox.name, "--", "true"])?;
    let ended = poll("the client to wait, and to end of Ctrl-C", GONE, || {
        // Repeat it: what is typed before the client has the terminal is lost.
        let _typed = console.type_in("\x03");
        console.has_ended().then_some(())
    });
    kill(supervisor, Signal::SIGCONT)?;
    ended?;
    ensure!(console.is_cooked()?, "the terminal was left raw");
    sandbox.status().map(drop)
}
