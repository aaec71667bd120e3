//! Processes that are started later, by `exec` and `exec -t`: they are under exactly the same controls, have
//! a session and terminal of their own, get the window's size and signals, and end when their client is gone.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, poll};
use serde_json::Value;

use crate::common::{Sandbox, policy_file, program, workspace};
use crate::console::Console;
use crate::native;
use crate::themes::{PLAIN, TERMINALS};

/// Prints what the kernel says about a process; tries nothing.
const POSTURE: &str = include_str!("inside/posture.py");
/// How long an ending process may take to be gone.
pub const GONE: std::time::Duration = PATIENCE;

/// An agent that does nothing, in a sandbox with the case's workspace.
pub fn idle<'a>(stage: &'a Stage<'a>) -> Result<Sandbox<'a>> {
    let policy = policy_file(stage, "")?;
    let options = ["--policy", &policy, "--workspace", &workspace(stage)];
    Sandbox::start(stage, &options, &["sh", "-c", "echo ready; exec sleep 1000"], "ready")
}

/// Every attack, by a process started by `exec`.
pub fn attacks_by_exec(stage: &Stage) -> Result<()> {
    native::compile(stage)?;
    let sandbox = idle(stage)?;
    for theme in PLAIN {
        let command = theme.place(stage, &[])?;
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let done = stage.call(&[&["exec", &sandbox.name, "--"], &command[..]].concat())?.expect_code(0)?;
        theme.judge(&done.out())?;
    }
    native::judged(&stage.call(&["exec", &sandbox.name, "--", "/sandbox/native"])?.expect_code(0)?.out())?;
    Ok(())
}

/// The agent, an exec'd process and one on a terminal, compared in everything that the kernel says of them.
pub fn later_processes_are_the_same(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    stage.script("posture.py", POSTURE)?;
    let policy = policy_file(stage, "")?;
    let script = format!("{python} -B /sandbox/posture.py; echo ready; exec sleep 1000");
    let options = ["--policy", &policy, "--workspace", &workspace(stage)];
    let mut sandbox = Sandbox::start(stage, &options, &["sh", "-c", &script], "ready")?;
    let agent = posture(&sandbox.heart().out())?;
    ensure!(agent["status"]["NoNewPrivs"] == "1" && agent["status"]["Seccomp"] == "2", "{agent}");

    let exec = ["exec", &sandbox.name, "--", &python, "-B", "/sandbox/posture.py"];
    let later = posture(&stage.call(&exec)?.expect_code(0)?.out())?;
    same(&agent, &later, "exec")?;
    // The shell between is the agent; what exec starts leads its session itself.
    ensure!(later["leads_session"] == true, "{later}");
    // To a file: a terminal would fold the line.
    let line = format!("{python} -B /sandbox/posture.py > /sandbox/posture");
    let mut console =
        Console::start(stage, (24, 80), &["exec", "-it", &sandbox.name, "--", "sh", "-c", &line])?;
    ensure!(console.end()?.code() == Some(0), "{}", console.screen());
    same(&agent, &posture(&std::fs::read_to_string(stage.workspace().join("posture"))?)?, "exec -t")
}

fn posture(printed: &str) -> Result<Value> {
    let line = printed.lines().find(|line| line.starts_with('{')).context("no posture")?;
    Ok(serde_json::from_str(line)?)
}

/// Compares every field, but for those that identify the process rather than say what it may do.
fn same(agent: &Value, later: &Value, how: &str) -> Result<()> {
    let (Some(agent), Some(later)) = (agent.as_object(), later.as_object()) else {
        anyhow::bail!("a posture is an object")
    };
    let differ: Vec<String> = agent
        .iter()
        .filter(|(key, _)| !["leads_session", "death"].contains(&key.as_str()))
        .filter(|(key, value)| later.get(*key) != Some(value))
        .map(|(key, value)| format!("{key}: {value} for the agent, {} later", later[key]))
        .collect();
    ensure!(differ.is_empty(), "{how} is not the same:\n{}", differ.join("\n"));
    Ok(())
}

/// The exit status of a process that ends before the client has sent anything is still reported.
pub fn quick_ends_are_told(stage: &Stage) -> Result<()> {
    let sandbox = idle(stage)?;
    for n in 0..20 {
        stage
            .call(&["exec", &sandbox.name, "--", "false"])?
            .expect_code(1)
            .with_context(|| format!("time {n}"))?;
    }
    stage.call(&["exec", &sandbox.name, "--", "sh", "-c", "exit 9"])?.expect_code(9)?;
    stage.call(&["exec", &sandbox.name, "--", "sh", "-c", "kill -9 $$"])?.expect_code(137)?;
    let absent = stage.call(&["exec", &sandbox.name, "--", "no-such-program"])?.expect_code(127)?.err();
    stage.call(&["exec", &sandbox.name, "--", ""])?.expect_code(127)?;
    ensure!(absent.contains("no-such-program: not found") && absent.contains("PATH is"), "{absent}");
    stage.call(&["exec", &sandbox.name, "--", ""])?.expect_code(127)?;
    stage.call(&["exec", &sandbox.name, "--", "/etc/passwd"])?.expect_code(126)?;
    Ok(())
}

/// Makes every open of a file block until its own input ends (by a lease), as a slow network filesystem
/// would.
const SLOW: &str = "import fcntl, signal, sys\nsignal.signal(signal.SIGIO, signal.SIG_IGN)\nheld = open(sys.argv[1])\n\
    fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)\nprint('held', flush=True)\nsys.stdin.read()";

/// Starts such a holder on a file of the workspace; it lets go when its input is dropped.
pub fn slow_to_open(stage: &Stage, python: &str, name: &str) -> Result<Child> {
    let mut slow = Command::new(python)
        .args(["-c", SLOW])
        .arg(stage.workspace().join(name))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut held = String::new();
    BufReader::new(slow.stdout.take().context("its output")?).read_line(&mut held)?;
    ensure!(held == "held\n", "{held}");
    Ok(slow)
}

/// A program that takes long to open holds up nobody: no other start, and no connection.
pub fn a_slow_start_holds_up_nobody(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    let sandbox = idle(stage)?;
    stage.script("slow", "#!/bin/sh\necho at last\n")?;
    let mut slow = slow_to_open(stage, &python, "slow")?;
    let waits = stage.start(stage.cofferdam(["exec", &sandbox.name, "--", "/sandbox/slow"]))?;
    // By a program that starts quickly: the slow one is waited for only up to a limit, even on slow machines.
    let connects = "exec 3<>/dev/tcp/127.0.0.1/3128 && echo connected";
    for _ in 0..5 {
        let done = stage.call(&["exec", &sandbox.name, "--", "bash", "-c", connects])?.expect_code(0)?;
        ensure!(done.out() == "connected\n", "{}", done.out());
    }
    drop(slow.stdin.take());
    slow.wait()?;
    let done = waits.finish(GONE)?.expect_code(0)?;
    ensure!(done.out() == "at last\n", "{}{}", done.out(), done.err());
    Ok(())
}

/// On the terminal that `exec -t` gives: nothing can be typed for others, and nothing was.
pub fn attacks_on_a_terminal(stage: &Stage) -> Result<()> {
    let sandbox = idle(stage)?;
    let command = TERMINALS.place(stage, &["tty=1".into()])?.join(" ");
    // The report goes to a file: standard output is the terminal that the attacks stand on.
    let report = "/sandbox/report";
    let mut console = Console::start(
        stage,
        (24, 80),
        &["exec", "-it", &sandbox.name, "--", "sh", "-c", &format!("exec {command} report={report}")],
    )?;
    ensure!(console.end()?.code() == Some(0), "{}", console.screen());
    TERMINALS.judge(&std::fs::read_to_string(stage.workspace().join("report"))?)?;
    ensure!(console.waiting_input()? == 0, "something was typed on the operator's terminal");
    Ok(())
}

/// The process gets the size of the operator's window, and every later size.
pub fn the_window_is_passed_on(stage: &Stage) -> Result<()> {
    let sandbox = idle(stage)?;
    let python = program("python3")?;
    // Uses os.write, since print isn't reentrant if a second signal comes.
    let script = "import os, signal, time\ndef say(*_): os.write(1, b'size %d %d\\n' % os.get_terminal_size()[::-1])\n\
                  signal.signal(signal.SIGWINCH, say)\nsay()\nwhile True: time.sleep(1)";
    let args = ["exec", "-it", &sandbox.name, "--", &python, "-c", script];
    let mut console = Console::start(stage, (31, 97), &args)?;
    console.see("size 31 97")?;
    for (rows, columns) in [(55, 133), (20, 40), (24, 80), (200, 300), (1, 1), (33, 77)] {
        console.resize((rows, columns))?;
        console.see(&format!("size {rows} {columns}"))?;
    }
    Ok(())
}

/// Ctrl-C goes to the process inside, whose reaction counts; the client neither dies of it nor swallows it.
pub fn control_c_goes_inside(stage: &Stage) -> Result<()> {
    let mut sandbox = idle(stage)?;
    let script = "trap 'echo got-it; exit 7' INT; echo rea''dy; while :; do sleep 0.05; done";
    let mut console =
        Console::start(stage, (24, 80), &["exec", "-it", &sandbox.name, "--", "bash", "-c", script])?;
    console.see("ready")?;
    console.type_in("\x03")?;
    console.see("got-it")?;
    ensure!(console.end()?.code() == Some(7), "{}", console.screen());
    // Without a terminal inside, the client passes on what its own terminal sends it.
    let mut console = Console::start(stage, (24, 80), &["exec", &sandbox.name, "--", "bash", "-c", script])?;
    console.see("ready")?;
    console.type_in("\x03")?;
    console.see("got-it")?;
    ensure!(console.end()?.code() == Some(7), "{}", console.screen());
    // Untrapped it ends the process, as a shell tells it.
    let mut console = Console::start(
        stage,
        (24, 80),
        &["exec", &sandbox.name, "--", "bash", "-c", "echo rea''dy; exec sleep 1000"],
    )?;
    console.see("ready")?;
    console.type_in("\x03")?;
    ensure!(console.end()?.code() == Some(130), "{}", console.screen());
    ensure!(sandbox.heart().out().contains("ready"), "the sandbox itself is untouched");
    sandbox.status().map(drop)
}

/// A shell's job control: Ctrl-C ends the job in the foreground, not the shell nor the job in the background;
/// Ctrl-Z stops it, and it goes on.
pub fn job_control_works(stage: &Stage) -> Result<()> {
    let sandbox = idle(stage)?;
    let mut console = Console::start(
        stage,
        (24, 200),
        &["exec", "-it", "--env", "PS1=here> ", &sandbox.name, "--", "bash", "--norc", "-i"],
    )?;
    console.see("here> ")?;
    console.type_in("sleep 1001 &\n")?;
    console.see("here> ")?;
    // One command prints the word and sleeps: a key that comes while the shell is between two commands would
    // go to the shell.
    console.type_in("sh -c \"echo fore''ground; sleep 1002 | cat\"\n")?;
    console.see("foreground")?;
    console.type_in("\x03")?;
    console.see("here> ")?;
    console.type_in("jobs; echo jobs-''end\n")?;
    console.see("Running")?;
    console.see("jobs-end")?;
    console.see("here> ")?;
    console.type_in("sh -c \"echo fore''ground; exec sleep 1003\"\n")?;
    console.see("foreground")?;
    console.type_in("\x1a")?;
    console.see("Stopped")?;
    ensure!(!console.is_stopped(), "Ctrl-Z stopped the client");
    console.see("here> ")?;
    console.type_in("kill -KILL %1 %2\n")?;
    console.see("here> ")?;
    // Twice: while the shell has not yet seen the stopped job die, the first one is only warned about.
    console.type_in("exit 4\nexit 4\n")?;
    ensure!(console.end()?.code() == Some(4), "{}", console.screen());
    Ok(())
}

/// Without `-t`, Ctrl-Z stops the client as any program; what it started goes on, and so does the client
/// later.
pub fn a_stopped_client_goes_on(stage: &Stage) -> Result<()> {
    let sandbox = idle(stage)?;
    let script = "echo rea''dy; while ! [ -e /sandbox/go ]; do sleep 0.05; done; echo do''ne > /sandbox/went; echo do''ne";
    let mut console = Console::start(stage, (24, 80), &["exec", &sandbox.name, "--", "bash", "-c", script])?;
    console.see("ready")?;
    // Sent, since an orphaned process group is not stopped by its terminal.
    nix::sys::signal::kill(console.pid(), nix::sys::signal::Signal::SIGSTOP)?;
    poll("the client to stop", GONE, || console.is_stopped().then_some(()))?;
    stage.write("workspace/go", "")?;
    poll("the process to go on", GONE, || stage.workspace().join("went").exists().then_some(()))?;
    nix::sys::signal::kill(console.pid(), nix::sys::signal::Signal::SIGCONT)?;
    console.see("done")?;
    ensure!(console.end()?.code() == Some(0), "{}", console.screen());
    Ok(())
}

/// A client that is killed, or whose terminal goes away, leaves none of its processes running.
pub fn nothing_runs_unwatched(stage: &Stage) -> Result<()> {
    let sandbox = idle(stage)?;
    let mark = stage.marker();
    for tty in [true, false] {
        let script = format!("sh -c 'while :; do sleep 0.1; done # {mark}' & echo rea''dy; wait # {mark}");
        let flags: &[&str] = if tty { &["exec", "-it"] } else { &["exec", "-i"] };
        let args = [flags, &[&sandbox.name, "--", "bash", "-c", &script]].concat();
        let mut console = Console::start(stage, (24, 80), &args)?;
        console.see("ready")?;
        // The client's own command line holds the mark too.
        poll("the control: they are there", GONE, || (stage.processes_with(&mark).len() >= 3).then_some(()))?;
        console.kill()?;
        console.end()?;
        poll("what it started to end", GONE, || stage.processes_with(&mark).is_empty().then_some(()))
            .with_context(|| format!("tty={tty}"))?;
    }
    sandbox.status().map(drop)
}

/// `run -t`: the same for the first agent; the heart leaves Ctrl-C to it.
pub fn the_first_agents_terminal(stage: &Stage) -> Result<()> {
    let command = TERMINALS.place(stage, &["tty=1".into(), "report=/sandbox/report".into()])?.join(" ");
    let script = format!(
        "{command}; trap 'stty size' WINCH; trap 'echo got-it; exit 6' INT; stty size; echo rea''dy; while :; do sleep 0.05; done"
    );
    let workspace = workspace(stage);
    let args = ["run", "--quiet", "-t", "--workspace", &workspace, "--", "bash", "-c", &script];
    let mut console = Console::start(stage, (28, 91), &args)?;
    console.see("28 91")?;
    console.see("ready")?;
    console.resize((44, 111))?;
    console.see("44 111")?;
    console.type_in("\x03")?;
    console.see("got-it")?;
    ensure!(console.end()?.code() == Some(6), "{}", console.screen());
    TERMINALS.judge(&std::fs::read_to_string(stage.workspace().join("report"))?)?;
    ensure!(console.waiting_input()? == 0, "something was typed on the operator's terminal");
    Ok(())
}
