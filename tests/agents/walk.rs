//! The script through which a model leads every agent: what it may do, what it must not, and a last message.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::recorder::Seen;
use bed::stage::{Finished, finish};
use bed::{Stage, Turn, provider};
use serde_json::{Value, json};

use crate::common::{FRIENDLY, ensure_audited, policy_file, workspace};

/// The shape in which an agent asks its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`
    Messages,
}

impl Shape {
    fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
        }
    }

    /// The provider's kind, its base, and the header that carries its key.
    fn provider(self) -> (&'static str, String, &'static str, String) {
        match self {
            Self::Chat | Self::Responses => (
                "openai",
                provider::BASE_URL.to_owned(),
                "authorization",
                format!("Bearer {}", provider::KEY),
            ),
            Self::Messages => {
                let base = provider::BASE_URL.trim_end_matches("/v1").to_owned();
                ("anthropic", base, "x-api-key", provider::KEY.to_owned())
            }
        }
    }
}

/// An agent, ready to be led through the script.
pub struct Agent {
    /// Its model's protocol.
    pub shape: Shape,
    /// Its tool that runs a command, and the arguments that this takes.
    pub tool: (&'static str, fn(&str) -> Value),
    /// What the shell inside runs: it begins in a directory of its own below a home that may be written, and
    /// ends with the agent's own headless turn. `$MODEL` is the model's name.
    pub script: String,
}

/// How long an agent may take for five turns: the slowest needs half a minute to start.
const PATIENCE: Duration = Duration::from_secs(600);
const SECRET: &str = "the operator's secret";

/// Leads an agent through the script, and checks the results.
pub fn lead(stage: &Stage, agent: &Agent) -> Result<()> {
    let mark = stage.marker();
    let secret = stage.write("home/secret", SECRET)?;
    let run = |command: String| Turn::tool(agent.tool.0, (agent.tool.1)(&command));
    stage.world().provider().script(
        format!("script-{mark}"),
        vec![
            run(format!("echo tool-{mark} > made-by-tool; cat made-by-tool")),
            run(format!("curl -sSf --max-time 60 https://api.bed.test/echo?m={mark}")),
            run(format!("cat {}", secret.display())),
            run(format!("curl -sS --max-time 60 https://evil.bed.test/{mark}")),
            Turn::text(format!("I went on to the end, {mark}")),
        ],
    );
    let done = start(stage, agent, &mark)?;
    let last_word = format!("I went on to the end, {mark}");
    ensure!(
        done.out().contains(&last_word),
        "it did not go on:\n{}\n{}{}",
        done.out(),
        done.err(),
        asked(stage, agent, &mark)
    );

    // The output of its tools is in the next request to the model.
    let last = last_request(stage, agent, &mark)?;
    let told = conversation(&serde_json::from_slice(&last.body)?).to_string();
    // Once in the command, once in what it printed.
    ensure!(told.matches(&format!("tool-{mark}")).count() >= 2, "no tool ran: {told}");
    ensure!(!told.contains(SECRET), "the forbidden file was read: {told}");
    ensure!(!told.contains("hello from evil"), "the forbidden host was reached: {told}");

    let recorder = stage.world().recorder();
    let arrived = recorder.with_marker(&mark);
    ensure!(
        arrived.iter().any(|seen| seen.host == "api.bed.test"),
        "the allowed host was not reached: {told}"
    );
    ensure!(arrived.iter().all(|seen| seen.host != "evil.bed.test"));
    ensure_audited(stage, "agent", &[("verdict", "denied"), ("host", "evil.bed.test")])?;
    ensure_audited(stage, "agent", &[("kind", "inference"), ("verdict", "allowed")])?;
    let (_, _, header, key) = agent.shape.provider();
    ensure!(last.header(header) == Some(&key), "{:?}", last.headers);
    Ok(())
}

fn start(stage: &Stage, agent: &Agent, mark: &str) -> Result<Finished> {
    let (kind, base, ..) = agent.shape.provider();
    let config = json!({ "inference": {
        "providers": { "local": { "kind": kind, "base_url": base, "credential": "env:BED_KEY" } },
        "routes": [ { "model": "*", "to": [ { "provider": "local", "model": format!("script-{mark}") } ] } ] } });
    // JSON is YAML.
    let config = stage.write("cofferdam.yaml", config.to_string())?.display().to_string();
    let (policy, workspace) = (policy_file(stage, FRIENDLY)?, workspace(stage));
    let script =
        format!("set -e; mkdir -p /tmp/h /tmp/work; export HOME=/tmp/h; cd /tmp/work; {}", agent.script);
    let options = ["--name", "agent", "--config", &config, "--policy", &policy, "--workspace", &workspace];
    let mut run =
        stage.cofferdam(["run", "--quiet"].into_iter().chain(options).chain(["--", "sh", "-c", &script]));
    run.env("BED_KEY", provider::KEY);
    finish(run, PATIENCE)?.expect_code(0)
}

/// Every request to the model of this case.
fn requests(stage: &Stage, agent: &Agent, mark: &str) -> Vec<Seen> {
    let model = format!("\"script-{mark}\"");
    let is_ours = |seen: &Seen| {
        seen.target.starts_with(agent.shape.path()) && String::from_utf8_lossy(&seen.body).contains(&model)
    };
    stage.world().recorder().all().into_iter().filter(is_ours).collect()
}

/// The request with the longest conversation.
fn last_request(stage: &Stage, agent: &Agent, mark: &str) -> Result<Seen> {
    requests(stage, agent, mark).into_iter().max_by_key(|seen| seen.body.len()).context("no model request")
}

/// The conversation in a request, without the agent's system prompt.
fn conversation(body: &Value) -> Value {
    let said = if body["input"].is_null() { &body["messages"] } else { &body["input"] };
    let said = said.as_array().map(Vec::as_slice).unwrap_or_default();
    said.iter().filter(|message| message["role"] != "system").cloned().collect()
}

/// Text for a failure message: the requests, and which tools the agent offers.
fn asked(stage: &Stage, agent: &Agent, mark: &str) -> String {
    let mut out = String::new();
    for seen in requests(stage, agent, mark) {
        let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let tools = body["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
        let name = |tool: &Value| {
            tool["name"].as_str().or(tool["function"]["name"].as_str()).unwrap_or("?").to_owned()
        };
        let names: Vec<String> = tools.iter().map(name).collect();
        let conversation = if body["input"].is_null() { &body["messages"] } else { &body["input"] };
        let said =
            conversation.as_array().and_then(|said| said.last()).map(Value::to_string).unwrap_or_default();
        out.push_str(&format!(
            "\n{} {} bytes, tools {names:?}, last: {said:.600}",
            seen.target,
            seen.body.len()
        ));
    }
    out
}
