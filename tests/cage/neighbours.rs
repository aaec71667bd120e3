//! Agents and sandboxes set on each other: what one does must not be done to another.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, Running, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Sandbox, policy_file, program, workspace};
use crate::themes::{APART, BESIDE, WINDOW};

/// An agent with something to lose.
const VICTIM: &str = include_str!("inside/neighbour.py");
/// One that opens its own output again, to read it.
const EATS: &str = include_str!("inside/eats.py");

/// Ends the victim, and returns its report of what was done to it.
fn lost(running: Running, workspace: &Path) -> Result<String> {
    running.signal(Signal::SIGTERM)?;
    let done = running.finish(PATIENCE)?;
    let said = std::fs::read_to_string(workspace.join("lost"));
    said.with_context(|| format!("the victim said nothing: {}{}", done.out(), done.err()))
}

/// The pid of the victim itself, not of its child, as the host sees it.
fn victim(stage: &Stage, mark: &str) -> Result<i32> {
    poll("the victim", PATIENCE, || {
        stage.processes_with(mark).into_iter().filter(|pid| is_python(*pid)).min()
    })
}

fn is_python(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with("python"))
}

/// Two agents of one sandbox: they share a user, files and the loopback, and nothing else.
pub fn two_agents(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    stage.script("neighbour.py", VICTIM)?;
    let mark = format!("{}-abstract", stage.marker());
    let report = "/sandbox/beside.jsonl";
    let facts = ["victim=/tmp/victim.json".into(), format!("abstract={mark}"), format!("report={report}")];
    let attacker = BESIDE.place(stage, &facts)?;
    let text = format!(
        "name: {}\nworkspace: {}\nmetrics: {{ listen: \"off\" }}\nagents:\n  victim:\n    command: {}\n    restart: {{ policy: never }}\n  \
         attacker:\n    command: {}\n    restart: {{ policy: never }}\n",
        stage.name(),
        workspace(stage),
        serde_json::to_string(&[&python, "-B", "/sandbox/neighbour.py", "/tmp/victim.json", &mark])?,
        serde_json::to_string(&attacker)?,
    );
    let file = stage.write("cofferdam.yaml", text)?.display().to_string();
    let running = stage.start(stage.cofferdam(["up", "--quiet", "-f", &file]))?;
    let done = stage.workspace().join("beside.jsonl.done");
    let ended = poll("the attacker's report", PATIENCE, || done.exists().then_some(()));
    let text = std::fs::read_to_string(&done)
        .or_else(|_| std::fs::read_to_string(stage.workspace().join("beside.jsonl")));
    ended.with_context(|| format!("{text:?}\n{}\n{}", running.out(), running.err()))?;
    BESIDE.judge(&text?)?;
    // The control: a signal that does come is noticed.
    let pid = victim(stage, &format!("victim.json\0{mark}"))?;
    kill(Pid::from_raw(pid), Signal::SIGUSR2)?;
    let lost = lost(running, &stage.workspace())?;
    ensure!(lost == "[\"got signal 12\"]", "the victim lost {lost}");
    Ok(())
}

/// Two sandboxes of one operator side by side.
pub fn two_sandboxes(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    let (first, second) = (stage.workspace().join("first"), stage.workspace().join("second"));
    for dir in [&first, &second] {
        std::fs::create_dir(dir)?;
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    }
    stage.write("workspace/first/neighbour.py", VICTIM)?;
    let mark = format!("{}-abstract", stage.marker());
    let policy = policy_file(stage, "")?;
    let options = ["--policy", &policy, "--workspace", &first.display().to_string()];
    let command = [python.as_str(), "-B", "/sandbox/neighbour.py", "/sandbox/victim.json", &mark];
    let mut sandbox = Sandbox::start(stage, &options, &command, "ready")?;
    let outer = victim(stage, &format!("victim.json\0{mark}"))?;
    let namespaces = namespaces(outer)?;
    let supervisor = sandbox.status()?["supervisor_pid"].to_string();

    // `place` writes into the case's workspace; the second sandbox has its own.
    let facts = [
        format!("abstract={mark}"),
        format!("outer={outer}"),
        format!("heart={}", sandbox.heart().pid()),
        format!("supervisor={supervisor}"),
        format!("workspace={}", first.display()),
        format!("state={}", stage.state().display()),
        format!("namespaces={namespaces}"),
    ];
    let command = APART.place(stage, &facts)?;
    for name in ["probe.py", "apart.py"] {
        std::fs::copy(stage.workspace().join(name), second.join(name))?;
    }
    std::fs::copy(first.join("victim.json"), second.join("victim.json"))?;
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let done = stage.run(&["--name", "second", "--workspace", &second.display().to_string()], &command)?;
    APART.judge(&done.expect_code(0)?.out())?;
    kill(Pid::from_raw(outer), Signal::SIGUSR2)?;
    let running = sandbox.running.take().context("ended already")?;
    let lost = lost(running, &first)?;
    ensure!(lost == "[\"got signal 12\"]", "the victim lost {lost}");
    Ok(())
}

/// A process's namespaces by kind and number.
fn namespaces(pid: i32) -> Result<String> {
    let mut all = Vec::new();
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let link = std::fs::read_link(Path::new("/proc").join(pid.to_string()).join("ns").join(kind))?;
        let link = link.display().to_string();
        let number = link.trim_start_matches(|c: char| !c.is_ascii_digit()).trim_end_matches(']').to_owned();
        all.push(format!("{kind}:{number}"));
    }
    Ok(all.join(","))
}

/// Processes started by `exec`, looked at by an agent from their very first moment.
pub fn no_window_between_fork_and_exec(stage: &Stage) -> Result<()> {
    let command = WINDOW.place(stage, &[])?;
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let options = ["--workspace", &workspace(stage)];
    let mut sandbox = Sandbox::start(stage, &options, &command, "looking")?;
    // On a slow machine the looking agent misses many processes, so the starts go on until it has seen some.
    let seen = || -> Option<u32> {
        std::fs::read_to_string(stage.workspace().join("seen")).ok()?.strip_suffix('\n')?.parse().ok()
    };
    let mut n = 0;
    while n < 30 || seen().is_none_or(|seen| seen < 10) {
        stage
            .call(&["exec", &sandbox.name, "--", "true"])?
            .expect_code(0)
            .with_context(|| format!("time {n}"))?;
        n += 1;
        ensure!(n < 1000, "it sees none of them");
    }
    stage.write("workspace/stop", "")?;
    let running = sandbox.running.take().context("ended already")?;
    let done = running.finish(PATIENCE)?.expect_code(0)?;
    WINDOW.judge(done.out().trim_start_matches("looking\n"))
}

/// An agent that reads its own output pipe from the other side: its own output ends, and the operator is
/// told. Nothing passes raw, and nothing else notices.
pub fn an_agent_that_eats_its_own_output(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    stage.script("eats.py", EATS)?;
    let policy = policy_file(stage, "")?;
    let options = ["--policy", &policy, "--workspace", &workspace(stage)];
    let mut sandbox = Sandbox::start(stage, &options, &[&python, "-B", "/sandbox/eats.py"], "ready")?;
    for n in 0..5 {
        let done = stage.call(&["exec", &sandbox.name, "--", "echo", "others go on"])?.expect_code(0)?;
        ensure!(done.out() == "others go on\n", "time {n}: {}", done.out());
    }
    ensure!(sandbox.restarts("redactor")? == 0, "the redactor died of it");
    let running = sandbox.running.take().context("ended already")?;
    let done = running.finish(PATIENCE)?.expect_code(0)?;
    let told = done.err().contains("output can no longer be shown");
    ensure!(told || done.out().ends_with("the end\n"), "it ended, and nobody was told: {}", done.err());
    Ok(())
}
