//! Control groups: what `limits:` promises holds, and none is left behind. Only where memory, pids and cpu are delegated, as
//! `.ci/kernels` sees to; few build machines do.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use agent::launch::cgroup;
use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, Running, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{self, Sandbox, program};

/// A control group that is the stage's user's, as `systemd-run --scope -p Delegate=yes` makes one. Removed when dropped.
struct Delegated<'a> {
    stage: &'a Stage<'a>,
    dir: PathBuf,
}

impl<'a> Delegated<'a> {
    fn to(stage: &'a Stage<'a>) -> Result<Self> {
        let Some(above) = place() else {
            bed::skip!("no control group that hands down memory, pids and cpu is ours here")
        };
        let dir = above.join(stage.marker());
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        let group = Self { stage, dir };
        if stage.uid() != nix::unistd::geteuid().as_raw() {
            for name in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
                chown(group.dir.join(name), Some(stage.uid()), Some(stage.uid()))?;
            }
        }
        Ok(group)
    }

    /// `cofferdam run` under these limits, alone in the group from its first step.
    fn start(&self, limits: &str, command: &[&str], ready: &str) -> Result<Sandbox<'a>> {
        let name = self.stage.name();
        let config = self.stage.write("limits.yaml", format!("limits: {{ {limits} }}\n"))?;
        let mut run = self.stage.cofferdam(["run", "--quiet", "--name", &name, "--config"]);
        run.arg(config).arg("--").args(command);
        // Whoever may not put itself there is put there, and goes on then.
        let mut waits = self.stage.command("sh");
        waits
            .args(["-c", "read go && exec \"$@\" </dev/null", "sh"])
            .arg(run.get_program())
            .args(run.get_args());
        waits.envs(run.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let (read, go) = nix::unistd::pipe()?;
        waits.stdin(Stdio::from(read));
        let mut running = self.stage.start(waits)?;
        fs::write(self.dir.join("cgroup.procs"), running.pid().to_string())
            .context("putting it into its group")?;
        File::from(go).write_all(b"\n")?;
        running.wait_for(ready, common::START)?;
        Ok(Sandbox::adopt(self.stage, name, running))
    }

    /// The groups below it.
    fn below(&self) -> BTreeSet<PathBuf> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    /// A file of the sandbox's own group.
    fn read(&self, file: &str) -> Result<String> {
        let name = format!("cofferdam-{}-", self.stage.name());
        let below = self.below();
        let own =
            below.iter().find(|dir| dir.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&name)));
        let path = own.with_context(|| format!("no group of the sandbox in {below:?}"))?.join(file);
        Ok(fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?
            .trim()
            .to_owned())
    }

    /// A number of a flat keyed file there.
    fn number(&self, file: &str, key: &str) -> Result<u64> {
        let text = self.read(file)?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no {key} in {text}"))?.trim().parse()?)
    }

    /// Nothing is left: it can be used again, by whoever is alone in it.
    fn nothing_left(&self, after: &str) -> Result<()> {
        poll("every group to go", PATIENCE, || self.below().is_empty().then_some(()))
            .with_context(|| format!("after {after}: {:?}", self.below()))?;
        let handed = fs::read_to_string(self.dir.join("cgroup.subtree_control"))?;
        ensure!(handed.trim().is_empty(), "after {after} {handed:?} is handed down still");
        Ok(())
    }
}

impl Drop for Delegated<'_> {
    fn drop(&mut self) {
        for dir in self.below() {
            let _ = fs::remove_dir(dir);
        }
        // Whoever was in it is on its way out.
        let _ = poll("the group to be empty", Duration::from_secs(10), || fs::remove_dir(&self.dir).ok());
    }
}

/// A group of ours with everything handed down already: our own, or the one that it is in. None is changed for that.
fn place() -> Option<PathBuf> {
    let own = cgroup::own_directory().ok()?;
    let fits = |dir: &Path| {
        let handed = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
        let all =
            ["memory", "pids", "cpu"].iter().all(|one| handed.split_whitespace().any(|there| there == *one));
        all && nix::unistd::access(dir, nix::unistd::AccessFlags::W_OK).is_ok()
    };
    [own.clone(), own.parent()?.to_owned()].into_iter().find(|dir| fits(dir))
}

/// The pids of cofferdam's own three.
fn three(stage: &Stage) -> BTreeSet<i32> {
    stage.cofferdam_processes().into_iter().collect()
}

pub fn a_memory_hog_dies_alone(stage: &Stage) -> Result<()> {
    let group = Delegated::to(stage)?;
    let python = program("python3")?;
    // Bounded besides: without the limit nothing worse happens than that it ends by itself.
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
    // Init is counted, too, and not as one of theirs.
    let full = poll("the bomb to go off", PATIENCE, || {
        (group.read("pids.current").ok()?.parse::<u64>().ok()? == PIDS + 1).then_some(())
    });
    full.with_context(|| format!("{:?} of them", group.read("pids.current")))?;
    ensure!(group.read("pids.max")? == (PIDS + 1).to_string());
    poll("a refused fork", PATIENCE, || (group.number("pids.events", "max").ok()? > 0).then_some(()))?;
    sandbox.status()?;
    // Nobody else is short of any, not even of those of the same user.
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

/// However it ends: no group, nothing handed down, and the next start works in the same place.
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
            // Whoever comes next is in the same group: heart and supervisor aren't the agents'.
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
