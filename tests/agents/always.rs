//! Two always-on agents in one sandbox, as a file describes them: they are asked from outside through a
//! forward, health-checked, and not disturbed by the death of their supervisor.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::stage::{finish, free_port, poll};
use bed::{Stage, Turn, provider};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::agents::{hermes_at_home, openclaw_at_home};
use crate::common::{FRIENDLY, Sandbox, policy_file, workspace};

/// How long they may take to start: OpenClaw takes half a minute on a good day.
const STARTING: Duration = Duration::from_secs(600);
/// And to answer a question.
const ANSWERING: Duration = Duration::from_secs(300);
/// The key that clients outside show the agents: the agents' own, not a provider's.
const TOKEN: &str = "the-agents-own-key-0123456789abcdef";

pub fn always_on(stage: &Stage) -> Result<()> {
    let (name, mark) = (stage.name(), stage.marker());
    stage.world().provider().script(format!("script-{mark}"), vec![Turn::text(format!("awake {mark}"))]);
    let (hermes, claw) = (free_port()?, free_port()?);
    let gateway = json!({ "mode": "local", "port": 18789, "bind": "loopback", "auth": { "mode": "token", "token": TOKEN },
        "http": { "endpoints": { "chatCompletions": { "enabled": true } } } });
    let at_home = |line: &str| {
        json!([
            "sh",
            "-c",
            format!("mkdir -p /tmp/$0; export HOME=/tmp/$0; cd $HOME; {line}"),
            stage.marker()
        ])
    };
    let config = json!({
        "name": name, "policy": policy_file(stage, FRIENDLY)?, "workspace": workspace(stage), "metrics": { "listen": "off" },
        "agents": {
            "hermes": {
                "command": at_home(&format!("{} gateway run", hermes_at_home()?)),
                "env": { "API_SERVER_ENABLED": "true", "API_SERVER_KEY": TOKEN },
                "health": health("http://127.0.0.1:8642/health") },
            "claw": {
                "command": at_home(&format!("{} gateway run", openclaw_at_home(&gateway)?)),
                "health": health("http://127.0.0.1:18789/") } },
        "forwards": [
            { "listen": format!("127.0.0.1:{hermes}"), "to": 8642 },
            { "listen": format!("127.0.0.1:{claw}"), "to": 18789 } ],
        "inference": {
            "providers": { "local": { "kind": "openai", "base_url": provider::BASE_URL, "credential": "env:BED_KEY" } },
            "routes": [ { "model": "*", "to": [ { "provider": "local", "model": format!("script-{mark}") } ] } ] } });
    let file = stage.write("cofferdam.yaml", config.to_string())?.display().to_string();
    let mut up = stage.cofferdam(["up", "-f", &file]);
    up.env("BED_KEY", provider::KEY);
    let sandbox = Sandbox::adopt(stage, name, stage.start(up)?);
    let pids = |status: &Value| -> Option<Vec<Value>> {
        let agents = status["agents"].as_array()?;
        let is_well = |agent: &Value| agent["health"] == "healthy" && agent["restarts"] == 0;
        agents.iter().all(is_well).then(|| agents.iter().map(|agent| agent["pid"].clone()).collect())
    };
    let before = poll("both agents to answer", STARTING, || pids(&sandbox.status().ok()?))?;
    let both_speak = || {
        [(hermes, "hermes"), (claw, "openclaw")]
            .iter()
            .try_for_each(|(port, model)| ask(stage, *port, model, &mark))
    };
    both_speak()?;

    let supervisor = sandbox.status()?["supervisor_pid"].as_i64().context("no supervisor")?;
    kill(Pid::from_raw(i32::try_from(supervisor)?), Signal::SIGKILL)?;
    let after = poll("both agents to be well again", STARTING, || {
        let status = sandbox.status().ok()?;
        (status["supervisor_pid"] != supervisor).then(|| pids(&status))?
    })?;
    ensure!(before == after, "an agent was started again: {before:?}, {after:?}");
    both_speak()
}

/// A health check with time-outs so long that a slow agent isn't restarted.
fn health(http: &str) -> Value {
    json!({ "http": http, "every": "1s", "timeout": "60s", "start": "10m" })
}

/// A question from outside to the agent, which asks its model.
fn ask(stage: &Stage, port: u16, model: &str, mark: &str) -> Result<()> {
    let url = format!("http://127.0.0.1:{port}/v1/chat/completions");
    let (key, body) = (
        format!("authorization: Bearer {TOKEN}"),
        json!({ "model": model, "messages": [ { "role": "user", "content": "are you there?" } ] })
            .to_string(),
    );
    let mut curl = stage.command("curl");
    curl.args([
        "-sS",
        "--max-time",
        &ANSWERING.as_secs().to_string(),
        "-H",
        &key,
        "-H",
        "content-type: application/json",
        "-d",
        &body,
        &url,
    ]);
    let answer = finish(curl, ANSWERING * 2)?.expect_code(0)?.out();
    ensure!(answer.contains(&format!("awake {mark}")), "{model}: {answer}");
    Ok(())
}
