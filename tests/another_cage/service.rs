//! The service that the cases move.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bed::Stage;
use bed::stage::{Finished, PATIENCE, Running, poll};
use serde_json::Value;

use crate::common::{START, Sandbox, policy, processes, record_has, workspace};

/// A service with an agent `one` that prints every 50 ms whether it sees the data, and an agent `once` that
/// ran once.
pub struct Service<'a> {
    pub stage: &'a Stage<'a>,
    pub sandbox: Sandbox<'a>,
    /// A policy file that doesn't show the data.
    pub narrow: String,
    /// A policy file that shows the data.
    pub wide: String,
}

impl<'a> Service<'a> {
    /// Starts the service with `more` in its file.
    pub fn start(stage: &'a Stage<'a>, more: &str) -> Result<Self> {
        Self::start_with(stage, more, "")
    }

    /// Starts it with `more` in its file, and with more agents.
    pub fn start_with(stage: &'a Stage<'a>, more: &str, agents: &str) -> Result<Self> {
        Self::start_in(stage, more, agents, &[])
    }

    /// Starts it with an agent that ignores SIGTERM, and waits until that agent does.
    pub fn start_deaf(stage: &'a Stage<'a>) -> Result<Self> {
        let service = Self::start_with(stage, "", DEAF)?;
        poll("the agent to be deaf", PATIENCE, || {
            let logs = stage.call(&["logs", &service.sandbox.name, "--agent", "stub"]).ok()?;
            logs.out().contains("deaf").then_some(())
        })?;
        Ok(service)
    }

    /// Starts it with these environment variables too.
    pub fn start_in(
        stage: &'a Stage<'a>,
        more: &str,
        agents: &str,
        environment: &[(&str, &Path)],
    ) -> Result<Self> {
        let data = stage.dir().join("data");
        std::fs::create_dir_all(&data)?;
        std::fs::write(data.join("seen"), "")?;
        let narrow = stage.write("narrow.yaml", policy(""))?.display().to_string();
        let wide = stage.write("wide.yaml", showing(&data))?.display().to_string();
        let name = stage.name();
        let text = format!(
            "name: {name}\npolicy: {narrow}\nworkspace: {}\nmetrics: {{ listen: \"off\" }}\n{more}agents:\n  one:\n    command: [sh, -c, \
             \"n=0; while :; do n=$((n+1)); echo $$-$n $(test -e {}/seen && echo wide || echo narrow); sleep 0.05; done\"]\n  once:\n    \
             command: [sh, -c, 'echo x >> ran']\n    restart: {{ policy: never }}\n{agents}",
            workspace(stage),
            data.display()
        );
        let file = stage.write("cofferdam.yaml", text)?.display().to_string();
        let mut command = stage.cofferdam(["up", "-f", &file]);
        command.envs(environment.iter().copied());
        let running = stage.start(command)?;
        let service = Self { stage, sandbox: Sandbox::adopt(stage, name, running), narrow, wide };
        poll("both agents", START, || service.both().filter(|_| service.ran() == 1))?;
        Ok(service)
    }

    /// The status, once `one` runs and `once` has ended.
    pub fn both(&self) -> Option<Value> {
        let status = self.sandbox.status().ok()?;
        let agents = status["agents"].as_array()?;
        let one = agents.iter().find(|agent| agent["name"] == "one")?;
        let once = agents.iter().find(|agent| agent["name"] == "once")?;
        (one["pid"].is_u64() && once["last_exit"]["code"] == 0).then_some(status)
    }

    pub fn ran(&self) -> usize {
        let text = std::fs::read_to_string(self.stage.workspace().join("ran"));
        text.map_or(0, |text| text.lines().count())
    }

    pub fn set(&self, file: &str) -> Result<Finished> {
        self.stage.call(&["policy", "set", &self.sandbox.name, file, "--restart-agents", "--json"])
    }

    /// As [`Self::set`], in the background.
    pub fn start_set(&self, file: &str) -> Result<Running> {
        let args = ["policy", "set", &self.sandbox.name, file, "--restart-agents"];
        self.stage.start(self.stage.cofferdam(args))
    }

    pub fn moved(&self, file: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.set(file)?.expect_code(0)?.stdout)?)
    }

    /// What the agent has said so far.
    pub fn said(&self) -> String {
        let log = self.stage.call(&["logs", &self.sandbox.name, "--agent", "one"]);
        log.map(|done| done.out()).unwrap_or_default()
    }

    /// Waits until the agent's last line ends with this word.
    pub fn says(&self, word: &str) -> Result<()> {
        let last = || Some(self.said().lines().next_back()?.ends_with(word)).filter(|is| *is);
        poll(&format!("the agent to say {word}"), PATIENCE, last).map(drop)
    }

    /// How often the audit log records the operator's `policy set`.
    pub fn wishes_on_record(&self) -> Result<usize> {
        let wish = [("kind", "operator"), ("action", "policy set")];
        Ok(self.sandbox.audit()?.iter().filter(|record| record_has(record, &wish)).count())
    }

    pub fn process(&self, title: &str) -> Option<i32> {
        crate::common::process(self.stage, title)
    }
}

/// The suites' policy, which also shows a directory.
pub fn showing(path: &Path) -> String {
    policy("").replace("    - /etc ", &format!("    - {}\n    - /etc ", path.display()))
}

/// An agent that ignores SIGTERM, and says so once it does.
const DEAF: &str =
    "  stub:\n    command: [sh, -c, \"trap '' TERM; echo deaf; while :; do sleep 0.1; done\"]\n";

/// A move under way, of a service with an agent that uses up the whole grace period.
pub struct Moving<'a> {
    pub service: Service<'a>,
    /// `policy set`.
    pub command: Running,
    /// The init of the cage that the agents leave.
    pub old_init: i32,
}

impl<'a> Moving<'a> {
    pub fn start(stage: &'a Stage<'a>) -> Result<Self> {
        let service = Service::start_deaf(stage)?;
        let old_init = service.process("cofferdam: init").context("init")?;
        let command = service.start_set(&service.wide)?;
        poll("the agents to be stopped", PATIENCE, || {
            service.sandbox.status().ok().filter(|s| s["state"] == "stopping")
        })?;
        Ok(Self { service, command, old_init })
    }
}

/// A moment of a move.
pub enum Moment {
    /// There are two cages.
    Middle,
    /// This long after the move's beginning, whatever its state is then.
    After(Duration),
}

/// An endless series of moments of a move: every third one is its middle, the others are spread over the time
/// that a move takes here.
pub fn moments(stage: &Stage) -> Result<impl Iterator<Item = Moment>> {
    let service = Service::start(stage, "")?;
    let begun = Instant::now();
    service.moved(&service.wide)?;
    let whole = begun.elapsed();
    drop(service);
    Ok((0..).map(move |n: u32| match n % 3 {
        0 => Moment::Middle,
        _ => Moment::After(whole * (n * 37 % 100) / 100),
    }))
}

impl Moment {
    /// Waits for the moment, and returns whether there are two cages then. If the move ends first, there
    /// never will be.
    pub fn come(&self, stage: &Stage, moving: &Running) -> Result<bool> {
        let are_two = || processes(stage, "cofferdam: init").len() > 1;
        let is_over = || !stage.cofferdam_processes().contains(&moving.pid());
        match self {
            Self::Middle => poll("two cages", PATIENCE, || (are_two() || is_over()).then_some(()))?,
            Self::After(time) => std::thread::sleep(*time),
        }
        Ok(are_two())
    }
}
