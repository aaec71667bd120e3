//! A real agent from its registry, headless: it takes turns with tool calls through `inference.local`, and what its tools
//! must not reach is refused, on record, while it goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::stage::finish;
use bed::{Stage, Turn, provider};
use serde_json::{Value, json};

use common::{COFFERDAM, FRIENDLY, ensure_audited, policy_file, program, tools, workspace};

fn main() -> ExitCode {
    bed::harness::main("agent_real", Path::new(COFFERDAM), bed::cases![pi_coding_agent])
}

/// `@mariozechner/pi-coding-agent` (npm): chat completions over SSE, with a `bash` tool.
fn pi_coding_agent(stage: &Stage) -> Result<()> {
    let node = program("node")?;
    let cli = tools().join("agent/node_modules/@mariozechner/pi-coding-agent/dist/cli.js");
    if !cli.exists() {
        bed::skip!("no agent at {}: run `.ci/run --tools`", cli.display());
    }
    let secret = stage.write("home/secret", "the operator's secret")?;
    let bash = |command: String| Turn::tool("bash", json!({ "command": command }));
    let mark = stage.marker();
    stage.world().provider().script(
        format!("script-{mark}"),
        vec![
            bash(format!("echo tool-{mark} > made-by-tool; cat made-by-tool")),
            bash(format!("curl -sSf --max-time 20 https://api.bed.test/echo?m={mark}")),
            bash(format!("cat {}", secret.display())),
            bash(format!("curl -sS --max-time 20 https://evil.bed.test/{mark}")),
            Turn::text(format!("I went on to the end, {mark}")),
        ],
    );
    let config = format!(
        "inference:\n  providers:\n    local: {{ kind: openai, base_url: \"{}\", credential: env:BED_KEY }}\n  routes:\n    \
         - {{ model: helper, to: [ {{ provider: local, model: script-{mark} }} ] }}\n",
        provider::BASE_URL
    );
    let config = stage.write("cofferdam.yaml", config)?.display().to_string();
    let policy = policy_file(stage, FRIENDLY)?;
    let models = json!({ "providers": { "inside": {
        "baseUrl": "https://inference.local/v1", "api": "openai-completions", "apiKey": "placeholder",
        "compat": { "supportsDeveloperRole": false, "supportsReasoningEffort": false },
        "models": [ { "id": "helper" } ] } } });
    stage.write("workspace/models.json", models.to_string())?;
    // Its home is the workspace; the session runs where it may write.
    let script = format!(
        "mkdir -p /tmp/h/.pi/agent /tmp/work && cp /sandbox/models.json /tmp/h/.pi/agent/ && cd /tmp/work && HOME=/tmp/h {node} \
         {} --offline --no-session --provider inside --model helper --mode json -p 'do what is asked'",
        cli.display()
    );
    let mut run = stage.cofferdam(
        [
            "run",
            "--quiet",
            "--name",
            "real",
            "--config",
            &config,
            "--policy",
            &policy,
            "--workspace",
            &workspace(stage),
        ]
        .into_iter()
        .chain(["--", "sh", "-c", &script]),
    );
    run.env("BED_KEY", provider::KEY);
    let done = finish(run, Duration::from_secs(150))?.expect_code(0)?;

    let results: Vec<String> = done
        .out()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|event| event["type"] == "tool_execution_end")
        .map(|event| event["result"].to_string())
        .collect();
    ensure!(results.len() == 4, "{} of 4 tool calls ran:\n{}\n{}", results.len(), done.out(), done.err());
    ensure!(results[0].contains(&format!("tool-{mark}")), "{}", results[0]);
    ensure!(results[1].contains("api.bed.test"), "{}", results[1]);
    ensure!(!results[2].contains("the operator's secret"), "the forbidden file was read: {}", results[2]);
    ensure!(!results[3].contains("hello from evil"), "the forbidden host was reached: {}", results[3]);
    ensure!(
        done.out().contains(&format!("I went on to the end, {mark}")),
        "it did not go on:\n{}",
        done.out()
    );

    let recorder = stage.world().recorder();
    ensure!(recorder.with_marker(&mark).iter().all(|seen| seen.host != "evil.bed.test"));
    ensure_audited(stage, "real", &[("verdict", "denied"), ("host", "evil.bed.test")])?;
    ensure_audited(stage, "real", &[("kind", "inference"), ("verdict", "allowed")])?;
    let asked = recorder
        .all()
        .into_iter()
        .rev()
        .find(|s| s.target == "/v1/chat/completions")
        .context("no model request")?;
    ensure!(asked.header("authorization") == Some(&format!("Bearer {}", provider::KEY)), "{asked:?}");
    Ok(())
}
