//! The tour's stage: the private internet, the files that a person would write, and the sandbox in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use super::PATIENCE;
use super::show::Show;

/// The sandbox's name.
const NAME: &str = "demo";
/// The demo's policy: a file such as a person would write.
const POLICY: &str = include_str!("policy.yaml");
/// How often a condition is checked again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The stage. Dropping it removes its files.
pub struct Stage {
    dir: PathBuf,
    keep: bool,
    world: bed::World,
}

/// The sandbox on the stage.
pub struct Sandbox {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Stage {
    /// Enters the private internet and writes the files. The process must still be single-threaded.
    pub fn set(keep: bool) -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("cofferdam-demo-{}", std::process::id()));
        let world = bed::demo_world(&dir)?;
        let stage = Self { dir: world.dir().to_owned(), keep, world };
        fs::create_dir(stage.workspace())?;
        fs::copy("/proc/self/exe", stage.workspace().join("agent"))
            .context("copying the agent into its workspace")?;
        fs::write(stage.dir.join("policy.yaml"), POLICY)?;
        fs::write(stage.dir.join("cofferdam.yaml"), config())?;
        Ok(stage)
    }

    /// The stage's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn workspace(&self) -> PathBuf {
        self.dir.join("work")
    }

    fn cofferdam(&self) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command
            .env("COFFERDAM_STATE", self.dir.join("state"))
            .env("SSL_CERT_FILE", self.world.ca_file())
            .env("COFFERDAM_DEMO_KEY", bed::provider::KEY);
        command
    }

    /// Starts the sandbox, as a person would.
    pub fn start(&self) -> anyhow::Result<Sandbox> {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let mut child = self
            .cofferdam()
            .args(["run", "--quiet", "--name", NAME, "--allow-fault-injection"])
            .args(["--policy", &file("policy.yaml"), "--config", &file("cofferdam.yaml")])
            .args(["--workspace", &self.workspace().display().to_string()])
            .args(["--", "/sandbox/agent", &crate::DEMO_AGENT_ROLE.to_string_lossy()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the sandbox")?;
        let stdin = child.stdin.take();
        Ok(Sandbox { child, stdin })
    }

    fn ask(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.cofferdam().args(args).output()?;
        if !output.status.success() {
            bail!("cofferdam {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn ask_json(&self, args: &[&str]) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.ask(args)?)?)
    }

    /// Makes an actor panic.
    pub fn crash(&self, actor: &str) -> anyhow::Result<()> {
        self.ask(&["crash", NAME, actor]).map(drop)
    }

    /// The tree, as `cofferdam tree` prints it.
    pub fn tree(&self) -> anyhow::Result<String> {
        self.ask(&["tree", NAME])
    }

    fn node(&self, actor: &str) -> anyhow::Result<Value> {
        let tree = self.ask_json(&["tree", NAME, "--json"])?;
        let children = tree.get("children").and_then(Value::as_array).into_iter().flatten();
        children
            .into_iter()
            .find(|child| child.get("name").is_some_and(|name| name == actor))
            .cloned()
            .with_context(|| format!("no actor {actor}"))
    }

    /// How often an actor was restarted.
    pub fn restarts_of(&self, actor: &str) -> anyhow::Result<u64> {
        Ok(self.node(actor)?.get("restarts").and_then(Value::as_u64).unwrap_or(0))
    }

    /// Whether an actor is up.
    pub fn is_up(&self, actor: &str) -> anyhow::Result<bool> {
        Ok(self.node(actor)?.get("state").is_some_and(|state| state == "up"))
    }

    /// The supervisor's process id.
    pub fn supervisor(&self) -> anyhow::Result<i32> {
        let status = self.ask_json(&["status", NAME, "--json"])?;
        let pid =
            status.get("supervisor_pid").and_then(Value::as_i64).and_then(|pid| i32::try_from(pid).ok());
        pid.context("status names no supervisor")
    }

    /// How often the supervisor process was started anew.
    pub fn supervisor_restarts(&self) -> anyhow::Result<u64> {
        let status = self.ask_json(&["status", NAME, "--json"])?;
        Ok(status.get("supervisor_restarts").and_then(Value::as_u64).unwrap_or(0))
    }

    /// Waits up to [`PATIENCE`] until a condition holds; returns whether it does. An error counts as not yet.
    pub fn wait(&self, holds: impl Fn(&Self) -> anyhow::Result<bool>) -> bool {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if holds(self).unwrap_or(false) {
                return true;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        false
    }

    /// Returns the audit log's network decisions: verdict, request, layer, policy, rule.
    pub fn decisions(&self) -> anyhow::Result<Vec<Vec<String>>> {
        let text = self.ask(&["audit", "show", NAME, "--json"])?;
        let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(records.filter_map(|record| decision(record.get("event")?)).collect())
    }

    /// Verifies the audit log.
    pub fn verify_audit(&self, show: &Show) -> anyhow::Result<bool> {
        let result = self.ask(&["audit", "verify", NAME]);
        match &result {
            Ok(text) => show.check(true, text.trim_end())?,
            Err(error) => show.check(false, &error.to_string())?,
        }
        Ok(result.is_ok())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

impl Sandbox {
    /// The agent's output.
    pub fn output(&mut self) -> anyhow::Result<ChildStdout> {
        self.child.stdout.take().context("the sandbox's output is taken already")
    }

    /// Lets the agent end, and waits for the sandbox.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        self.stdin = None;
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                return if status.success() { Ok(()) } else { bail!("the sandbox ended with {status}") };
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        bail!("the sandbox did not end")
    }
}

impl Drop for Sandbox {
    /// A tour that broke off leaves no sandbox behind.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn decision(event: &Value) -> Option<Vec<String>> {
    let field = |key: &str| event.get(key).and_then(Value::as_str);
    if field("kind") != Some("egress") || field("phase") != Some("decided") {
        return None;
    }
    let text = |key: &str| field(key).unwrap_or_default().to_owned();
    let target = match field("path") {
        Some(path) => format!("{} {}{path}", text("method"), text("host")),
        None => format!("{} {}:{}", text("method"), text("host"), event.get("port")?),
    };
    Some(vec![text("verdict"), target, text("layer"), text("policy"), text("rule")])
}

fn config() -> String {
    format!(
        "inference:\n  providers:\n    bed: {{ kind: openai, base_url: \"{}\", credential: env:COFFERDAM_DEMO_KEY, \
         trust: self-hosted, cost: none }}\n  routes:\n    - {{ model: demo, to: [ {{ provider: bed, model: bed-echo }} ] }}\n",
        bed::provider::BASE_URL
    )
}
