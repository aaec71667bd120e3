//! What each agent needs: where its program is, how it is configured with its model, how it takes one turn
//! without a terminal.

use anyhow::Result;
use bed::Stage;
use serde_json::{Value, json};

use crate::common::{program, tools};
use crate::walk::{Agent, Shape, lead};

/// A program that `.ci/run` installed for an agent, or a skip.
fn installed(path: &str) -> Result<String> {
    let path = tools().join(path);
    if !path.exists() {
        bed::skip!("no agent at {}: run `.ci/run --tools`", path.display());
    }
    Ok(path.display().to_string())
}

/// `@mariozechner/pi-coding-agent` (npm).
pub fn pi(stage: &Stage) -> Result<()> {
    let (node, cli) =
        (program("node")?, installed("agent/node_modules/@mariozechner/pi-coding-agent/dist/cli.js")?);
    let models = json!({ "providers": { "inside": {
        "baseUrl": "https://inference.local/v1", "api": "openai-completions", "apiKey": "placeholder",
        "compat": { "supportsDeveloperRole": false, "supportsReasoningEffort": false },
        "models": [ { "id": "helper" } ] } } });
    let script = format!(
        "mkdir -p $HOME/.pi/agent; echo '{models}' > $HOME/.pi/agent/models.json; {node} {cli} --offline --no-session \
         --provider inside --model helper -p 'do what is asked'"
    );
    lead(
        stage,
        &Agent { shape: Shape::Chat, tool: ("bash", |command| json!({ "command": command })), script },
    )
}

/// `@anthropic-ai/claude-code` (npm): only the environment that cofferdam sets tells it where its model is.
pub fn claude_code(stage: &Stage) -> Result<()> {
    let claude = installed("agents/claude-code/node_modules/.bin/claude")?;
    let script = format!(
        "{claude} -p 'do what is asked' --model claude-sonnet-4-5 --dangerously-skip-permissions </dev/null"
    );
    let tool = ("Bash", (|command| json!({ "command": command, "description": "does it" })) as fn(&str) -> _);
    lead(stage, &Agent { shape: Shape::Messages, tool, script })
}

/// `@openai/codex` (npm). Its own sandbox is off: it would be one within ours, which grants no namespaces.
pub fn codex(stage: &Stage) -> Result<()> {
    let codex = installed("agents/codex/node_modules/.bin/codex")?;
    let config = r#"
model = "gpt-5"
model_provider = "inside"
[model_providers.inside]
name = "inside"
base_url = "https://inference.local/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
"#;
    let script = format!(
        "mkdir -p $HOME/.codex; echo '{config}' > $HOME/.codex/config.toml; {codex} exec --skip-git-repo-check \
         --dangerously-bypass-approvals-and-sandbox 'do what is asked' </dev/null"
    );
    let tool = ("exec_command", (|command| json!({ "cmd": command })) as fn(&str) -> _);
    lead(stage, &Agent { shape: Shape::Responses, tool, script })
}

/// `opencode-ai` (npm). It asks its operator before it looks outside its directory; there is none here.
pub fn opencode(stage: &Stage) -> Result<()> {
    let opencode = installed("agents/opencode/node_modules/.bin/opencode")?;
    let config = json!({ "provider": { "inside": {
            "npm": "@ai-sdk/openai-compatible", "name": "inside",
            "options": { "baseURL": "https://inference.local/v1", "apiKey": "{env:OPENAI_API_KEY}" },
            "models": { "helper": { "name": "helper" } } } },
        "model": "inside/helper", "permission": "allow" });
    let script = format!("echo '{config}' > opencode.json; {opencode} run 'do what is asked' </dev/null");
    let tool = ("bash", (|command| json!({ "command": command, "description": "does it" })) as fn(&str) -> _);
    lead(stage, &Agent { shape: Shape::Chat, tool, script })
}

/// `hermes-agent` (PyPI).
pub fn hermes(stage: &Stage) -> Result<()> {
    let script = format!("{} chat -Q --yolo -q 'do what is asked' </dev/null", hermes_at_home()?);
    let tool = ("terminal", (|command| json!({ "command": command })) as fn(&str) -> _);
    lead(stage, &Agent { shape: Shape::Chat, tool, script })
}

/// Its program with its model configured: the beginning of a shell command.
pub fn hermes_at_home() -> Result<String> {
    let hermes = installed("agents/hermes/bin/hermes")?;
    let config = "model:\\n  provider: custom\\n  default: helper\\n  base_url: https://inference.local/v1\\n  api_key: placeholder\\n\
                  allow_lazy_installs: false\\n";
    Ok(format!("mkdir -p $HOME/.hermes; printf '{config}' > $HOME/.hermes/config.yaml; {hermes}"))
}

/// `openclaw` (npm), which wants a newer Node than distributions have.
pub fn openclaw(stage: &Stage) -> Result<()> {
    let openclaw = openclaw_at_home(&Value::Null)?;
    let script = format!("{openclaw} agent --local --session-id one --message 'do what is asked' </dev/null");
    let tool = ("exec", (|command| json!({ "command": command })) as fn(&str) -> _);
    lead(stage, &Agent { shape: Shape::Chat, tool, script })
}

/// The same, with its `gateway` section.
pub fn openclaw_at_home(gateway: &Value) -> Result<String> {
    let node = installed("agent/node_modules/.bin/node")?;
    let openclaw = installed("agents/openclaw/node_modules/openclaw/openclaw.mjs")?;
    let mut config = json!({
        "models": { "providers": { "inside": {
            "baseUrl": "https://inference.local/v1", "apiKey": "placeholder", "api": "openai-completions",
            "models": [ { "id": "helper", "name": "helper", "contextWindow": 128_000, "maxTokens": 8192 } ] } } },
        "agents": { "defaults": { "model": { "primary": "inside/helper" }, "workspace": "/tmp/work" } },
        "tools": { "exec": { "security": "full", "ask": "off" } } });
    if !gateway.is_null() {
        config["gateway"] = gateway.clone();
    }
    Ok(format!(
        "mkdir -p $HOME/.openclaw; echo '{config}' > $HOME/.openclaw/openclaw.json; {node} {openclaw}"
    ))
}
