//! Control groups: `limits:` are enforced, and no group is left behind. Runs only where memory, pids and cpu
//! are delegated, as in `.ci/kernels`; few build machines delegate them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, Running, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{self, Sandbox, program};
use crate::delegated::Delegated;

/// The pids of cofferdam's own three processes.
fn three(stage: &Stage) -> BTreeSet<i32> {
    stage.cofferdam_processes().into_iter().collect()
}

pub fn a_memory_hog_dies_alone(stage: &Stage) -> Result<()> {
    let group = Delegated::to(stage)?;
    let python = program("python3")?;
    // The script has a bound of its own: without the limit, it just ends by itself.
    let eats = "kept = [b'x' * (1 << 20) for n in range(400)]";
    let script = format!(
        "echo before; ulimit -v 2000000; {python} -c \"{eats}\"; echo it ended with $?; exec sleep 1000"
    );
    let mut sandbox = group.start("memory: 96MiB", &["bash", "-c", &script], "before")?;
    let before = three(stage);
    sandbox.heart().wait_for("it ended with 137", PATIENCE)?;
    ensure!(group.read("memory.max")? == (96 << 20).to_string());
    ensure!(group.number("memory.events", "oom_kill")? == 1, "{}", group.read("memory.events")?);
    ensure!(three(stage) == before, "heart, supervisor and init are who they were");
    stage.call(&["exec", &sandbox.name, "--", "true"])?.expect_code(0)?;
    ensure!(sandbox.status()?["agents"][0]["restarts"] == 0, "{}", sandbox.status()?);
    drop(sandbox);
    group.nothing_left("a memory hog's end")
}

pub fn tmp_counts_as_memory(stage: &Stage) -> Result<()> {
    let group = Delegated::to(stage)?;
    let script =
        "head -c 104857600 /dev/zero >/tmp/big 2>/dev/null; stat -c 'took %s' /tmp/big; exec sleep 1000";
    let mut sandbox = group.start("memory: 96MiB", &["bash", "-c", script], "took")?;
    let told = sandbox.heart().out();
    ensure!(told.trim() == format!("took {}", 48 << 20), "{told}");
    ensure!(group.number("memory.stat", "shmem")? >= 48 << 20, "{}", group.read("memory.stat")?);
    ensure!(group.number("memory.events", "oom_kill")? == 0, "{}", group.read("memory.events")?);
    Ok(())
}

pub fn a_fork_bomb_stops_at_its_count(stage: &Stage) -> Result<()> {
    const PIDS: u64 = 40;
    let group = Delegated::to(stage)?;
    // At most 300 tries, of which each ends by itself.
    let bomb = "i=0; while [ $i -lt 300 ]; do sleep 600 & i=$((i+1)); done 2>/dev/null & echo lit; wait; exec sleep 1000";
    let sandbox = group.start(&format!("pids: {PIDS}"), &["bash", "-c", bomb], "lit")?;
    // Init is in the group's count too, but not among the processes that the limit is for.
    let full = poll("the bomb to go off", PATIENCE, || {
        (group.read("pids.current").ok()?.parse::<u64>().ok()? == PIDS + 1).then_some(())
    });
    full.with_context(|| format!("{:?} of them", group.read("pids.current")))?;
    ensure!(group.read("pids.max")? == (PIDS + 1).to_string());
    poll("a refused fork", PATIENCE, || (group.number("pids.events", "max").ok()? > 0).then_some(()))?;
    sandbox.status()?;
    // Other processes can still fork, even those of the same user.
    let beside = stage.run(&[], &["sh", "-c", "for i in 1 2 3 4 5; do sh -c : || exit 1; done"])?;
    beside.expect_code(0)?;
    stage.call(&["stop", &sandbox.name])?.expect_code(0)?;
    drop(sandbox);
    group.nothing_left("a fork bomb's end")
}

pub fn processors_are_shared_out(stage: &Stage) -> Result<()> {
    const OVER: Duration = Duration::from_secs(6);
    let group = Delegated::to(stage)?;
    let script = "(while :; do :; done) & (while :; do :; done) & echo busy; wait";
    let sandbox = group.start("cpu: 0.5", &["bash", "-c", script], "busy")?;
    ensure!(group.read("cpu.max")? == "50000 100000", "{}", group.read("cpu.max")?);
    let (begun, before) = (Instant::now(), group.number("cpu.stat", "usage_usec")?);
    std::thread::sleep(OVER);
    let used = group.number("cpu.stat", "usage_usec")? - before;
    let share = used as f64 / begun.elapsed().as_micros() as f64;
    ensure!((0.2..0.6).contains(&share), "two that never rest use {share:.2} processors of 0.50");
    ensure!(group.number("cpu.stat", "nr_throttled")? > 0, "{}", group.read("cpu.stat")?);
    sandbox.status()?;
    Ok(())
}

/// A way to end a sandbox.
type Blow<'a> = &'a dyn Fn(&mut Sandbox) -> Result<()>;

/// However the sandbox ends, no group is left, no controller stays delegated, and the next start works in the
/// same place.
pub fn no_group_is_left(stage: &Stage) -> Result<()> {
    let group = Delegated::to(stage)?;
    let begin = || {
        group.start("memory: 256MiB, pids: 64, cpu: 1", &["sh", "-c", "echo ready; exec sleep 1000"], "ready")
    };
    let blows: [(&str, Blow); 5] = [
        ("`stop`", &|sandbox| stage.call(&["stop", &sandbox.name])?.expect_code(0).map(drop)),
        ("SIGTERM", &|sandbox| sandbox.heart().signal(Signal::SIGTERM)),
        ("init's SIGKILL", &|_| strike(stage, "cofferdam: init")),
        ("the supervisor's SIGKILL", &|sandbox| {
            let before = one(stage, "cofferdam: sup")?;
            strike(stage, "cofferdam: sup")?;
            poll("another supervisor", PATIENCE, || {
                (common::process(stage, "cofferdam: sup").is_some_and(|pid| pid != before)).then_some(())
            })?;
            // The next supervisor is in the same group: heart and supervisor aren't in the agents' group.
            ensure!(group.below().len() == 2, "{:?}", group.below());
            poll("it answers", PATIENCE, || sandbox.status().ok().map(drop))?;
            stage.call(&["stop", &sandbox.name])?.expect_code(0).map(drop)
        }),
        ("the heart's SIGKILL", &|_| strike(stage, "cofferdam: hrt")),
    ];
    for (after, blow) in blows {
        let mut sandbox = begin().with_context(|| format!("the start before {after}"))?;
        ensure!(group.below().len() == 2, "the control: {:?}", group.below());
        blow(&mut sandbox).context(after)?;
        let running: Running = sandbox.running.take().context("it was started")?;
        running.finish(PATIENCE)?;
        poll("every process to end", PATIENCE, || stage.cofferdam_processes().is_empty().then_some(()))?;
        group.nothing_left(after)?;
    }
    Ok(())
}

fn one(stage: &Stage, title: &str) -> Result<i32> {
    common::process(stage, title).with_context(|| format!("no process is called {title:?}"))
}

fn strike(stage: &Stage, title: &str) -> Result<()> {
    Ok(kill(Pid::from_raw(one(stage, title)?), Signal::SIGKILL)?)
}
