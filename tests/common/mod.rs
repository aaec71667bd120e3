//! What the suites share: policies for the world's hosts, client programs, and readers of what a sandbox
//! recorded.

#![allow(dead_code, reason = "each suite uses its part of this")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, Running, poll};
use serde_json::Value;

/// The program under test.
pub const COFFERDAM: &str = env!("CARGO_BIN_EXE_cofferdam");
/// How long a sandbox may take to come up: far more than it needs, for a loaded machine.
pub const START: Duration = PATIENCE;

/// Where `.ci/run` puts client programs that no distribution package brings.
pub fn tools() -> PathBuf {
    std::env::var_os("COFFERDAM_BED_TOOLS").map_or_else(|| "/var/cache/cofferdam-bed".into(), PathBuf::from)
}

/// The Python with requests, httpx, openai and anthropic.
pub fn python_with_packages() -> Result<String> {
    let python = tools().join("venv/bin/python3");
    if !python.exists() {
        bed::skip!("no Python packages at {}: run `.ci/run --tools`", python.display());
    }
    Ok(python.display().to_string())
}

/// A program inside sandboxes, or a skip.
pub fn program(name: &str) -> Result<String> {
    match bed::stage::program(name) {
        Some(path) => Ok(path.display().to_string()),
        None => bed::skip!("no {name} on this machine"),
    }
}

/// Runs `start` on a thread where the system call of this number fails with `errno` (if there are rules: only
/// where one of them matches). Processes that it starts inherit that.
pub fn under_filter<T: Send>(
    call: i64,
    rules: Vec<seccompiler::SeccompRule>,
    errno: nix::errno::Errno,
    start: impl FnOnce() -> T + Send,
) -> Result<T> {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
    let filter = SeccompFilter::new(
        [(call, rules)].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        TargetArch::try_from(std::env::consts::ARCH)?,
    )?;
    let program = BpfProgram::try_from(filter)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| -> Result<T> {
            seccompiler::apply_filter(&program)?;
            Ok(start())
        });
        thread.join().unwrap_or_else(|_| bail!("the thread panicked"))
    })
}

/// The default profile: its static part is what every test's policy begins with.
const LOCKED_DOWN: &str = include_str!("../../policies/profiles/locked-down.yaml");

/// A whole policy: the default profile's static part, the client programs' directory, and these
/// `network_policies:` entries (two spaces of indent).
pub fn policy(entries: &str) -> String {
    let tools = format!("    - {{ path: {}, optional: true }}\n    - /etc ", tools().display());
    let network = if entries.trim().is_empty() {
        "network_policies: {}".into()
    } else {
        format!("network_policies:\n{entries}")
    };
    LOCKED_DOWN.replace("    - /etc ", &tools).replace("network_policies: {}", &network)
}

/// The entry that most suites use: the friendly hosts, any method, any program.
pub const FRIENDLY: &str = r#"  friendly:
    name: friendly
    endpoints:
      - { host: api.bed.test, ports: [443, 8443], protocol: rest, access: full }
      - { host: api.bed.test, ports: [80, 8080], protocol: rest, access: full }
      - { host: files.bed.test, port: 443, protocol: rest, access: full }
      - { host: h1.bed.test, port: 443, protocol: rest, access: full }
      - { host: h2.bed.test, port: 443, protocol: rest, access: full }
      - { host: six.bed.test, port: 443, protocol: rest, access: full }
      - { host: git.bed.test, port: 443, protocol: rest, access: full }
      - { host: pypi.bed.test, port: 443, protocol: rest, access: full }
      - { host: npm.bed.test, port: 443, protocol: rest, access: full }
      - { host: h1.bed.test, port: 8443, protocol: websocket, access: full }
    binaries: [ { path: "/**", allow_foreign_code: true } ]"#;

/// Writes a policy file and gives its path as text.
pub fn policy_file(stage: &Stage, entries: &str) -> Result<String> {
    Ok(stage.write("policy.yaml", policy(entries))?.display().to_string())
}

/// The workspace's path as text.
pub fn workspace(stage: &Stage) -> String {
    stage.workspace().display().to_string()
}

/// The first of the case's cofferdam processes with this title, such as `cofferdam: sup`.
pub fn process(stage: &Stage, title: &str) -> Option<i32> {
    processes(stage, title).into_iter().next()
}

/// All of the case's cofferdam processes with this title.
pub fn processes(stage: &Stage, title: &str) -> Vec<i32> {
    let is_called = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == title)
    };
    stage.cofferdam_processes().into_iter().filter(is_called).collect()
}

/// A sandbox running in the background, ended in order when dropped.
pub struct Sandbox<'a> {
    stage: &'a Stage<'a>,
    /// Its name.
    pub name: String,
    /// The heart.
    pub running: Option<Running>,
}

impl<'a> Sandbox<'a> {
    /// `cofferdam run` in the background, up once it has said `ready`.
    pub fn start(stage: &'a Stage<'a>, options: &[&str], command: &[&str], ready: &str) -> Result<Self> {
        let name = stage.name();
        let mut running = stage.start_run(&name, options, command)?;
        running.wait_for(ready, START)?;
        Ok(Self { stage, name, running: Some(running) })
    }

    /// Wraps a sandbox that the suite started itself.
    pub fn adopt(stage: &'a Stage<'a>, name: String, running: Running) -> Self {
        Self { stage, name, running: Some(running) }
    }

    /// The heart's process.
    pub fn heart(&mut self) -> &mut Running {
        self.running.as_mut().expect("not ended yet")
    }

    /// `GET /v1/status`.
    pub fn status(&self) -> Result<Value> {
        self.stage.json(&["status", &self.name, "--json"])
    }

    /// `GET /v1/tree`.
    pub fn tree(&self) -> Result<Value> {
        self.stage.json(&["tree", &self.name, "--json"])
    }

    /// Waits until an actor has been restarted more than `before` times and is up.
    pub fn wait_restarted(&self, actor: &str, before: u64) -> Result<()> {
        poll(&format!("{actor} to come back"), PATIENCE, || {
            let tree = self.tree().ok()?;
            let node = find(&tree, actor)?;
            (node["restarts"].as_u64()? > before && node["state"] == "up").then_some(())
        })
    }

    /// How often an actor was restarted.
    pub fn restarts(&self, actor: &str) -> Result<u64> {
        let tree = self.tree()?;
        find(&tree, actor)
            .and_then(|n| n["restarts"].as_u64())
            .with_context(|| format!("no {actor} in {tree}"))
    }

    /// `cofferdam crash`, and waits until the actor is back.
    pub fn crash(&self, actor: &str) -> Result<()> {
        let before = self.restarts(actor)?;
        self.stage.call(&["crash", &self.name, actor])?.expect_code(0)?;
        self.wait_restarted(actor, before)
    }

    /// The audit log's records so far.
    pub fn audit(&self) -> Result<Vec<Value>> {
        audit(self.stage, &self.name)
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.signal(nix::sys::signal::Signal::SIGTERM);
            let _ = running.finish(Duration::from_secs(15));
        }
    }
}

/// A node of the tree by its path below the root, such as `agents/sh`.
pub fn find<'v>(tree: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('/').try_fold(tree, |node, name| {
        node["children"].as_array()?.iter().find(|child| child["name"].as_str() == Some(name))
    })
}

/// The complete records of a sandbox's audit log; a line that is still being written is left out.
pub fn audit(stage: &Stage, name: &str) -> Result<Vec<Value>> {
    let path = stage.state().join(name).join("audit.jsonl");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).context("an audit line is no JSON")).collect()
}

/// Whether a record, or its nested event, has these fields.
pub fn record_has(record: &Value, fields: &[(&str, &str)]) -> bool {
    let text = record.to_string();
    fields.iter().all(|(key, value)| text.contains(&format!("\"{key}\":\"{value}\"")))
}

/// Fails unless some record has all these fields.
pub fn ensure_audited(stage: &Stage, name: &str, fields: &[(&str, &str)]) -> Result<()> {
    let found = poll("an audit record", PATIENCE, || {
        audit(stage, name).ok()?.iter().any(|record| record_has(record, fields)).then_some(())
    });
    if found.is_err() {
        let tail: Vec<String> = audit(stage, name)?.iter().rev().take(12).map(ToString::to_string).collect();
        ensure!(false, "no audit record with {fields:?}; the last ones:\n{}", tail.join("\n"));
    }
    Ok(())
}

/// Kills a sandbox's supervisor, and waits until another has taken over.
pub fn replace_supervisor(stage: &Stage, name: &str) -> Result<()> {
    let status = || stage.json(&["status", name, "--json"]);
    let before = status()?["supervisor_pid"].as_i64().context("a supervisor")?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(before)?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
    poll("another supervisor", START, || {
        let status = status().ok()?;
        (status["supervisor_pid"] != before && status["state"] == "running").then_some(())
    })
}

/// Every file below a directory.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path()),
            Ok(kind) if kind.is_file() => vec![entry.path()],
            _ => Vec::new(),
        })
        .collect()
}
