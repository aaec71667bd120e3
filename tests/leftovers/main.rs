//! Nothing stays behind, however a sandbox ends: no process, mount, control group or socket.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test fails by panic")]

#[path = "../common/mod.rs"]
mod common;
mod kept;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Finished, PATIENCE, Running, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use common::{COFFERDAM, START};
use kept::{the_state_directory_can_be_used_again, what_is_removed_is_gone};

fn main() -> ExitCode {
    bed::harness::main(
        "leftovers",
        Path::new(COFFERDAM),
        bed::cases![
            normal_end,
            failure_at_start,
            a_start_without_room_leaves_no_directory,
            nohup,
            ctrl_c,
            ctrl_c_of_a_service,
            sigterm,
            sigkill_of_the_heart,
            sigkill_of_the_supervisor_and_then_the_end,
            sigkill_of_init,
            stop_command,
            stop_beside_a_crowd_on_the_control_socket,
            stop_of_one_with_a_stopped_part,
            stop_of_what_a_killed_heart_has_left,
            sockets_go_with_whoever_is_left,
            what_an_exec_leaves_ends_with_it,
            orphans_of_the_agent,
            the_state_directory_can_be_used_again,
            what_is_removed_is_gone,
            a_long_row_of_starts_and_kills.within(Duration::from_secs(3600)),
        ],
    )
}

/// What exists on this machine that a sandbox could leave behind.
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

/// Control groups whose name contains the sandbox's.
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
    let gone = poll("every process to end", PATIENCE, || {
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
    poll("mounts and control groups to go", PATIENCE, || (Scene::now(name) == *before).then_some(()))
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

/// A start may fail at any of its steps. Here it fails at each step that needs one more descriptor, among
/// them the heart's own.
fn a_start_without_room_leaves_no_directory(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let before = Scene::now(&name);
    let mut by_the_heart = 0;
    for room in 4..64 {
        let script = format!("ulimit -n {room}; exec \"$0\" \"$@\"");
        let mut command = stage.command("sh");
        command
            .args(["-c", &script])
            .arg(stage.binary())
            .args(["run", "--quiet", "--name", &name, "--state"]);
        command.arg(stage.state()).args(["--", "true"]);
        let done = bed::stage::finish(command, PATIENCE)?;
        ensure!(done.code() != 0, "{room} descriptors are enough");
        by_the_heart += usize::from(done.err().contains("can't start the sandbox"));
        // The start came so far that a supervisor was tried, which can't open its log, or can't even begin:
        // the sandbox existed.
        if ["never becomes ready", "listing "].iter().any(|words| done.err().contains(words)) {
            ensure!(by_the_heart > 0, "the heart never refused");
            std::fs::remove_dir_all(stage.state().join(&name))?;
            return nothing_left(stage, &name, &before);
        }
        ensure!(!stage.state().join(&name).exists(), "{room} descriptors: {}", done.err());
    }
    anyhow::bail!("no limit let it get as far as a supervisor")
}

/// A sandbox that was started by nohup(1) survives the loss of its terminal.
fn nohup(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let before = Scene::now(&name);
    let mut command = stage.command("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(stage.binary());
    command.args(["run", "--quiet", "--name", &name, "--state"]).arg(stage.state());
    let agent =
        "trap 'echo hung up' HUP; echo ready; while [ ! -e /sandbox/go ]; do sleep 0.05; done; echo done";
    command.args(["--workspace", &common::workspace(stage), "--", "sh", "-c", agent]);
    let mut running = stage.start(command)?;
    running.wait_for("ready", START)?;
    running.signal(Signal::SIGHUP)?;
    stage.write("workspace/go", "")?;
    let done = running.finish(PATIENCE)?.expect_code(0)?;
    ensure!(done.out() == "ready\ndone\n", "{}", done.out());
    nothing_left(stage, &name, &before)
}

fn ended_by(stage: &Stage, end: impl FnOnce(&Running) -> Result<()>) -> Result<Finished> {
    let name = stage.name();
    let before = Scene::now(&name);
    let running = start(stage, &name)?;
    end(&running)?;
    let done = running.finish(PATIENCE)?;
    nothing_left(stage, &name, &before)?;
    Ok(done)
}

fn ctrl_c(stage: &Stage) -> Result<()> {
    let code = ended_by(stage, |running| running.signal(Signal::SIGINT))?.code();
    ensure!(code == 130, "{code}");
    Ok(())
}

/// Ctrl-C stops a service: its agents aren't started again.
fn ctrl_c_of_a_service(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let before = Scene::now(&name);
    let marker = stage.marker();
    let config = format!(
        "name: {name}\nmetrics: {{ listen: \"off\" }}\nagents:\n  steady:\n    command: [sh, -c, 'while :; do sleep 0.1; done # {marker}']\n"
    );
    let file = stage.write("cofferdam.yaml", config)?.display().to_string();
    let running = stage.start(stage.cofferdam(["up", "--quiet", "-f", &file]))?;
    poll("the agent", START, || (!stage.processes_with(&marker).is_empty()).then_some(()))?;
    running.signal(Signal::SIGINT)?;
    running.finish(PATIENCE)?;
    nothing_left(stage, &name, &before)
}

fn sigterm(stage: &Stage) -> Result<()> {
    let code = ended_by(stage, |running| running.signal(Signal::SIGTERM))?.code();
    ensure!(code == 143, "{code}");
    Ok(())
}

fn sigkill_of_the_heart(stage: &Stage) -> Result<()> {
    let code = ended_by(stage, |running| running.signal(Signal::SIGKILL))?.code();
    ensure!(code == 137, "{code}");
    Ok(())
}

fn sigkill_of_the_supervisor_and_then_the_end(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let code = ended_by(stage, |running| {
        let pid = |status: &serde_json::Value| status["supervisor_pid"].as_i64().map(|p| p as i32);
        let first = pid(&stage.json(&["status", &name, "--json"])?).context("no supervisor pid")?;
        kill(Pid::from_raw(first), Signal::SIGKILL)?;
        poll("a new supervisor", PATIENCE, || {
            pid(&stage.json(&["status", &name, "--json"]).ok()?).filter(|p| *p != first)
        })?;
        running.signal(Signal::SIGTERM)
    })?
    .code();
    ensure!(code == 143, "{code}");
    Ok(())
}

fn sigkill_of_init(stage: &Stage) -> Result<()> {
    let done = ended_by(stage, |_| {
        let init = stage.cofferdam_processes().into_iter().find(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|s| {
                s.lines().any(|l| {
                    l.starts_with("NSpid:") && l.split_whitespace().count() > 2 && l.ends_with("\t1")
                })
            })
        });
        Ok(kill(Pid::from_raw(init.context("no init to be found")?), Signal::SIGKILL)?)
    })?;
    ensure!(done.code() == 137, "{}", done.code());
    // No other message: nothing was left that would have to be reported.
    let said = done.err();
    ensure!(said.lines().count() == 1 && said.contains("init was killed by signal 9"), "{said}");
    Ok(())
}

fn stop_command(stage: &Stage) -> Result<()> {
    let name = stage.name();
    ended_by(stage, |_| stage.call(&["stop", &name])?.expect_code(0).map(drop))?;
    Ok(())
}

/// A stop gets through even if other clients take all places on the control socket.
fn stop_beside_a_crowd_on_the_control_socket(stage: &Stage) -> Result<()> {
    let name = stage.name();
    ended_by(stage, |_| {
        let socket = stage.state().join(&name).join("control.sock");
        let crowd: Vec<_> = (0..64)
            .map(|_| std::os::unix::net::UnixStream::connect(&socket))
            .collect::<std::io::Result<_>>()?;
        stage.call(&["stop", &name])?.expect_code(0)?;
        drop(crowd);
        Ok(())
    })?;
    Ok(())
}

fn stop_process(pid: i32) -> Result<()> {
    kill(Pid::from_raw(pid), Signal::SIGSTOP)?;
    poll("it to stop", PATIENCE, || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.starts_with('T').then_some(())
    })
}

/// A stopped supervisor doesn't notice its heart's death, and keeps the sandbox's name. The dead heart's pid
/// may belong to another process by now.
fn stop_of_what_a_killed_heart_has_left(stage: &Stage) -> Result<()> {
    let name = stage.name();
    ended_by(stage, |running| {
        let supervisor = common::process(stage, "cofferdam: sup").context("no supervisor")?;
        stop_process(supervisor)?;
        running.signal(Signal::SIGKILL)?;
        let said = stage.call(&["stop", &name])?.expect_code(0)?.err();
        let told = format!("the supervisor (process {supervisor}) was stopped, and goes on now");
        ensure!(said.contains(&told), "{said}");
        Ok(())
    })
    .map(drop)
}

fn stop_of_one_with_a_stopped_part(stage: &Stage) -> Result<()> {
    let name = stage.name();
    for (title, called) in
        [("cofferdam", "the heart"), ("cofferdam: sup", "the supervisor"), ("cofferdam: init", "init")]
    {
        ended_by(stage, |running| {
            let pid = match title {
                "cofferdam" => running.pid(),
                _ => common::process(stage, title).context("no such part")?,
            };
            stop_process(pid)?;
            let said = stage.call(&["stop", &name])?.expect_code(0)?.err();
            ensure!(
                said.contains(&format!("{called} (process {pid}) was stopped, and goes on now")),
                "{said}"
            );
            Ok(())
        })
        .context(title)?;
    }
    Ok(())
}

/// A service's heart is killed together with one of the two processes that remove its sockets.
fn sockets_go_with_whoever_is_left(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let sockets = ["control.sock", "build.sock"].map(|socket| stage.state().join(&name).join(socket));
    for (n, (killed, left)) in
        [("cofferdam: sup", None), ("cofferdam: bld", Some(1)), ("", None)].into_iter().enumerate()
    {
        // A new marker each time: the previous round's agent may still be dying.
        let marker = format!("{}-{n}", stage.marker());
        let config = format!(
            "name: {name}\nmetrics: {{ listen: \"off\" }}\nagents:\n  steady:\n    command: [sh, -c, 'while :; do sleep 0.1; done # {marker}']\n"
        );
        let file = stage.write("cofferdam.yaml", config)?.display().to_string();
        let running = stage.start(stage.cofferdam(["up", "--quiet", "-f", &file]))?;
        poll("the agent", START, || (!stage.processes_with(&marker).is_empty()).then_some(()))?;
        // The builder creates its socket while the agent starts.
        poll("both sockets", START, || sockets.iter().all(|socket| socket.exists()).then_some(()))?;
        // The heart is stopped, so that it neither starts a replacement nor removes anything.
        running.signal(Signal::SIGSTOP)?;
        if let Some(pid) = common::process(stage, killed) {
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        }
        running.signal(Signal::SIGKILL)?;
        running.finish(PATIENCE)?;
        poll("every process to end", PATIENCE, || stage.cofferdam_processes().is_empty().then_some(()))?;
        // In rooted mode the supervisor runs as the gateway user, and can remove only its own files.
        let left: Vec<_> =
            left.filter(|_| stage.uid() == 0).into_iter().map(|n: usize| &sockets[n]).collect();
        let found: Vec<_> = sockets.iter().filter(|socket| socket.exists()).collect();
        ensure!(found == left, "heart and {killed:?} were killed: {found:?}");
    }
    Ok(())
}

/// Processes that an `exec` leaves behind end with it, however they detached from its shell, and even if they
/// hold the session's output open.
fn what_an_exec_leaves_ends_with_it(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let before = Scene::now(&name);
    let running = start(stage, &name)?;
    let left = format!("{}-exec", stage.marker());
    let looping = format!("trap '' HUP TERM; : > /sandbox/there; while :; do sleep 0.1; done # {left}");
    for way in [
        "setsid sh -c \"$0\" >/dev/null 2>&1 <&- &",
        "nohup sh -c \"$0\" &",
        "(setsid -f env -i /bin/sh -c \"$0\")",
    ] {
        let script = format!("rm -f there; {way}\nwhile [ ! -e there ]; do sleep 0.01; done; exit 3");
        stage.call(&["exec", &name, "--", "sh", "-c", &script, &looping])?.expect_code(3)?;
        let found = stage.processes_with(&left);
        ensure!(found.is_empty(), "{way}: {found:?} run on");
        ensure!(!stage.processes_with(&stage.marker()).is_empty(), "the agent's child goes on");
    }
    stage.call(&["stop", &name])?.expect_code(0)?;
    running.finish(PATIENCE)?;
    nothing_left(stage, &name, &before)
}

fn orphans_of_the_agent(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let before = Scene::now(&name);
    let marker = stage.marker();
    // Double-forked, in a session of its own, with its streams closed: it still belongs to the sandbox.
    let script =
        format!("setsid sh -c '(while :; do sleep 0.1; done # {marker}) >/dev/null 2>&1 <&- &' ; exit 4");
    stage.run(&["--name", &name], &["sh", "-c", &script])?.expect_code(4)?;
    nothing_left(stage, &name, &before)
}

/// Starts in the long series for each mode; a third of them are killed.
const STARTS: u32 = 250;
/// Environment variable that repeats a series: its seed is printed when it begins.
const SEED: &str = "COFFERDAM_LEFTOVERS_SEED";

/// splitmix64: good enough for choosing moments, and deterministic on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }
}

/// How a sandbox of the series is ended before its time.
#[derive(Debug, Clone, Copy)]
enum Blow {
    KillHeart,
    KillSupervisor,
    KillInit,
    Terminate,
    InterruptTwice,
}

const BLOWS: [Blow; 5] =
    [Blow::KillHeart, Blow::KillSupervisor, Blow::KillInit, Blow::Terminate, Blow::InterruptTwice];

/// What a sandbox of this stage could leave behind: everything but what its state directory is meant to keep.
#[derive(Debug, PartialEq)]
struct Traces {
    mounts: usize,
    groups: BTreeSet<PathBuf>,
    temporary: BTreeSet<PathBuf>,
    shared: BTreeSet<PathBuf>,
    state: BTreeSet<PathBuf>,
    namespaces: BTreeSet<PathBuf>,
}

impl Traces {
    fn now(stage: &Stage, name: &str) -> Self {
        let Scene { mounts, groups } = Scene::now(name);
        // Other cases run concurrently: of shared things, only those that can be recognised as ours count.
        let ours = |dir: &str| -> BTreeSet<PathBuf> {
            let mine = |path: &PathBuf| {
                use std::os::unix::fs::MetadataExt;
                let text = path.to_string_lossy();
                let owner = std::fs::symlink_metadata(path).map(|m| m.uid()).ok();
                text.contains(name)
                    || (text.contains("cofferdam")
                        && owner == Some(stage.uid())
                        && !text.contains("cofferdam-bed"))
            };
            entries(Path::new(dir)).into_iter().filter(mine).collect()
        };
        Self {
            mounts,
            groups,
            temporary: ours("/tmp").into_iter().chain(ours("/var/tmp")).collect(),
            shared: ours("/dev/shm"),
            state: entries(&stage.state().join(name)),
            namespaces: network_namespaces(stage),
        }
    }
}

fn entries(dir: &Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(dir).map(|all| all.flatten().map(|e| e.path()).collect()).unwrap_or_default()
}

/// The network namespaces of this stage's processes, but for the one that the tests themselves are in.
fn network_namespaces(stage: &Stage) -> BTreeSet<PathBuf> {
    let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = of("self");
    stage
        .cofferdam_processes()
        .into_iter()
        .chain(stage.processes_with(&stage.marker()))
        .filter_map(|pid| of(&pid.to_string()))
        .filter(|space| Some(space) != own.as_ref())
        .collect()
}

/// The process of this stage that the blow is for.
fn find(stage: &Stage, blow: Blow, heart: i32) -> Option<i32> {
    match blow {
        Blow::KillSupervisor => common::process(stage, "cofferdam: sup"),
        Blow::KillInit => common::process(stage, "cofferdam: init"),
        _ => Some(heart),
    }
}

fn strike(stage: &Stage, running: &Running, blow: Blow) -> Result<()> {
    let signal = |signal| match find(stage, blow, running.pid()) {
        // The process may have ended, or not begun: that is a random moment too.
        Some(pid) => kill(Pid::from_raw(pid), signal)
            .or_else(|e| if e == nix::errno::Errno::ESRCH { Ok(()) } else { Err(e) }),
        None => Ok(()),
    };
    match blow {
        Blow::KillHeart | Blow::KillSupervisor | Blow::KillInit => signal(Signal::SIGKILL)?,
        Blow::Terminate => signal(Signal::SIGTERM)?,
        Blow::InterruptTwice => {
            signal(Signal::SIGINT)?;
            signal(Signal::SIGINT)?;
        }
    }
    Ok(())
}

/// Five hundred starts in a row (in both modes together), a third of them struck at a random moment.
fn a_long_row_of_starts_and_kills(stage: &Stage) -> Result<()> {
    let seed = std::env::var(SEED).ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64)
    });
    bed::harness::say(&format!("    {STARTS} starts, {SEED}={seed}"));
    let (mut dice, name, marker) = (Dice(seed), stage.name(), stage.marker());
    // Once, so that the state directory is what it will be.
    stage.run(&["--name", &name], &["true"])?.expect_code(0)?;
    let before = Traces::now(stage, &name);
    // Measures how long a run takes from start to end on this machine, under the current load.
    let begun = Instant::now();
    stage.run(&["--name", &name], &["true"])?.expect_code(0)?;
    let usual = begun.elapsed();
    let (mut struck, mut stale) = (0, 0);
    for n in 0..STARTS {
        let told = |what: &str| format!("start {n} of {SEED}={seed}: {what}");
        if dice.roll(3) != 0 {
            let done = stage.run(&["--name", &name], &["true"])?;
            ensure!(done.code() == 0, told(&format!("code {}: {}", done.code(), done.err())));
        } else {
            let blow = BLOWS[dice.roll(BLOWS.len() as u64) as usize];
            let moment = usual.mul_f64(dice.roll(1000) as f64 / 1000.0);
            let socket = stage.state().join(&name).join("control.sock");
            // The socket may be left by a heart that was killed before; a start that is struck early hasn't
            // taken it over yet.
            let inherited = socket.exists();
            let running = stage.start_run(&name, &[], &["sh", "-c", &format!("sleep 0.05 # {marker}")])?;
            std::thread::sleep(moment);
            strike(stage, &running, blow).with_context(|| told(&format!("{blow:?}")))?;
            running.finish(PATIENCE).with_context(|| told(&format!("{blow:?} after {moment:?}: no end")))?;
            struck += 1;
            // The heart's own death leaves the others to the kernel, and the socket to the supervisor or the
            // next start.
            poll("every process to end", PATIENCE, || {
                (stage.cofferdam_processes().is_empty() && stage.processes_with(&marker).is_empty())
                    .then_some(())
            })
            .with_context(|| told(&format!("{blow:?} after {moment:?}")))?;
            if socket.exists() {
                ensure!(
                    inherited || matches!(blow, Blow::KillHeart),
                    told(&format!("{blow:?} after {moment:?} left the socket"))
                );
                ensure!(
                    std::os::unix::net::UnixStream::connect(&socket).is_err(),
                    told("somebody still listens")
                );
                stale += 1;
            }
        }
    }
    // The last start of all takes the name over and cleans what a killed heart could not.
    stage.run(&["--name", &name], &["true"])?.expect_code(0)?;
    ensure!(struck > STARTS / 5, "the control: only {struck} were struck");
    poll("everything to be as it was", PATIENCE, || (Traces::now(stage, &name) == before).then_some(()))
        .with_context(|| format!("{SEED}={seed}: {before:?} before, {:?} now", Traces::now(stage, &name)))?;
    bed::harness::say(&format!(
        "    {struck} of {STARTS} were struck; {stale} left a dead socket to the next start"
    ));
    Ok(())
}
