//! A control group in which a sandbox with `limits:` can be started. Available only where memory, pids and
//! cpu are delegated, as in `.ci/kernels`; few build machines delegate them.

#![allow(dead_code, reason = "each suite uses its part of this")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use agent::launch::cgroup;
use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, poll};

use crate::common::{self, Sandbox};

/// A control group that is the stage's user's, as `systemd-run --scope -p Delegate=yes` makes one. Removed
/// when dropped.
pub struct Delegated<'a> {
    stage: &'a Stage<'a>,
    pub dir: PathBuf,
}

impl<'a> Delegated<'a> {
    pub fn to(stage: &'a Stage<'a>) -> Result<Self> {
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
    pub fn start(&self, limits: &str, command: &[&str], ready: &str) -> Result<Sandbox<'a>> {
        let name = self.stage.name();
        let config = self.stage.write("limits.yaml", format!("limits: {{ {limits} }}\n"))?;
        let mut run = self.stage.cofferdam(["run", "--quiet", "--name", &name, "--config"]);
        run.arg(config).arg("--").args(command);
        // An ordinary user's process may not move itself there, so the test moves it; then it goes on.
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
    pub fn below(&self) -> BTreeSet<PathBuf> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    /// A file of the sandbox's own group.
    pub fn read(&self, file: &str) -> Result<String> {
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
    pub fn number(&self, file: &str, key: &str) -> Result<u64> {
        let text = self.read(file)?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no {key} in {text}"))?.trim().parse()?)
    }

    /// Checks that no group is left below it, so that the next sandbox that is alone in it can use it.
    pub fn nothing_left(&self, after: &str) -> Result<()> {
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
        // Processes that were in it may still be ending.
        let _ = poll("the group to be empty", Duration::from_secs(10), || fs::remove_dir(&self.dir).ok());
    }
}

/// A group in which all needed controllers are already delegated: our own, or its parent. No group is changed
/// for that.
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
