//! The world itself, used without any sandbox: the positive control for everything that the other tests
//! expect to be refused.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panic")]

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use bed::stage::{PATIENCE, finish, program};
use bed::{Stage, Turn, provider};
use serde_json::{Value, json};

fn main() -> ExitCode {
    bed::harness::main(
        "world",
        Path::new("/bin/true"),
        bed::cases![
            websites,
            hostile_addresses_are_alive,
            streams,
            big_bodies,
            git_clone,
            pip_install,
            npm_install,
            openai_shapes,
            anthropic_shapes,
        ],
    )
}

fn curl(stage: &Stage, args: &[&str]) -> Result<String> {
    let Some(curl) = program("curl") else { bed::skip!("no curl on this machine") };
    let mut command = stage.command(curl);
    command
        .args(["-sS", "--fail-with-body", "--max-time", "60", "--cacert"])
        .arg(stage.world().ca_file())
        .args(args);
    Ok(finish(command, PATIENCE)?.expect_code(0)?.out())
}

fn websites(stage: &Stage) -> Result<()> {
    let target = format!("https://api.bed.test/echo?m={}", stage.marker());
    let shown: Value = serde_json::from_str(&curl(stage, &["-d", "a=1", &target])?)?;
    ensure!(shown["body"] == "a=1" && shown["version"] == "HTTP/2.0", "{shown}");
    let seen = stage.world().recorder().with_marker(&stage.marker());
    ensure!(seen.len() == 1 && seen[0].tls && seen[0].body == b"a=1", "{seen:?}");
    ensure!(curl(stage, &["https://h1.bed.test/echo"])?.contains("HTTP/1.1"));
    ensure!(curl(stage, &["--http2", "https://h2.bed.test/echo"])?.contains("HTTP/2.0"));
    ensure!(curl(stage, &["http://api.bed.test:8080/"])? == "hello from api.bed.test\n");
    if stage.world().ipv6() {
        ensure!(curl(stage, &["https://six.bed.test/"])? == "hello from six.bed.test\n");
    }
    ensure!(curl(stage, &["https://untrusted.bed.test/"]).is_err());
    ensure!(curl(stage, &["-k", "https://untrusted.bed.test/"])?.contains("untrusted"));
    Ok(())
}

fn hostile_addresses_are_alive(stage: &Stage) -> Result<()> {
    for host in ["evil", "loopback", "private", "metadata", "alibaba-metadata", "mixed"] {
        let url = format!("http://{host}.bed.test/");
        ensure!(curl(stage, &[&url])?.contains(host), "{url}");
    }
    for address in ["169.254.169.254", "127.0.0.1", "10.0.0.9"] {
        curl(stage, &[&format!("http://{address}/")])?;
    }
    Ok(())
}

fn streams(stage: &Stage) -> Result<()> {
    let ticks = curl(stage, &["-N", "https://api.bed.test/sse?n=5&every=5"])?;
    ensure!(ticks.matches("data: tick").count() == 5, "{ticks}");
    ensure!(curl(stage, &["https://api.bed.test/reset"]).is_err());
    ensure!(
        curl(stage, &["-L", "https://api.bed.test/redirect?to=https://files.bed.test/x"])?.contains("files")
    );
    Ok(())
}

fn big_bodies(stage: &Stage) -> Result<()> {
    let file = stage.write("big", "")?;
    let path = file.to_str().unwrap();
    curl(stage, &["-o", path, "https://files.bed.test/bytes/50000001"])?;
    ensure!(std::fs::metadata(&file)?.len() == 50_000_001);
    let checked = curl(stage, &["-T", path, "https://files.bed.test/upload"])?;
    ensure!(checked.contains("\"whole\":true") && checked.contains("50000001"), "{checked}");
    Ok(())
}

fn git_clone(stage: &Stage) -> Result<()> {
    let Some(git) = program("git") else { bed::skip!("no git on this machine") };
    let mut command = stage.command(git);
    command.env("GIT_SSL_CAINFO", stage.world().ca_file()).current_dir(stage.workspace());
    command.args(["clone", "-q", "https://git.bed.test/demo.git", "copy"]);
    finish(command, PATIENCE)?.expect_code(0)?;
    ensure!(std::fs::read_to_string(stage.workspace().join("copy/README.md"))?.contains("cofferdam"));
    Ok(())
}

fn pip_install(stage: &Stage) -> Result<()> {
    let pip = finish(
        {
            let mut probe = stage.command("python3");
            probe.args(["-m", "pip", "--version"]);
            probe
        },
        PATIENCE,
    )?;
    if pip.code() != 0 {
        bed::skip!("no pip for the system's python3");
    }
    let mut command = stage.command("python3");
    command.args([
        "-m",
        "pip",
        "-q",
        "install",
        "--no-cache-dir",
        "--index-url",
        "https://pypi.bed.test/simple",
    ]);
    command.arg("--cert").arg(stage.world().ca_file()).arg("--target").arg(stage.workspace()).arg("bedpkg");
    finish(command, PATIENCE)?.expect_code(0)?;
    ensure!(stage.workspace().join("bedpkg/__init__.py").exists());
    Ok(())
}

fn npm_install(stage: &Stage) -> Result<()> {
    let Some(npm) = program("npm") else { bed::skip!("no npm on this machine") };
    let mut command = stage.command(npm);
    command.env("NPM_CONFIG_CAFILE", stage.world().ca_file()).current_dir(stage.workspace());
    command.args(["install", "--no-audit", "--no-fund", "--registry", "https://npm.bed.test/", "bedpkg"]);
    finish(command, PATIENCE)?.expect_code(0)?;
    ensure!(stage.workspace().join("node_modules/bedpkg/index.js").exists());
    Ok(())
}

fn ask(stage: &Stage, header: &str, path: &str, body: &Value) -> Result<String> {
    let url = format!("https://llm.bed.test{path}");
    let version = "anthropic-version: 2023-06-01";
    curl(
        stage,
        &["-H", header, "-H", version, "-H", "content-type: application/json", "-d", &body.to_string(), &url],
    )
}

fn openai_shapes(stage: &Stage) -> Result<()> {
    let key = format!("authorization: Bearer {}", provider::KEY);
    let model = stage.marker();
    let call = Turn::tool("bash", json!({ "command": "true" }));
    stage.world().provider().script(&model, vec![call, Turn::text("all done")]);
    let mut chat = json!({ "model": model, "messages": [{ "role": "user", "content": "hi there" }] });
    let whole: Value = serde_json::from_str(&ask(stage, &key, "/v1/chat/completions", &chat)?)?;
    ensure!(whole["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "bash", "{whole}");
    chat["messages"].as_array_mut().unwrap().push(json!({ "role": "assistant", "content": "x" }));
    chat["stream"] = json!(true);
    let streamed = ask(stage, &key, "/v1/chat/completions", &chat)?;
    ensure!(streamed.contains("all done") && streamed.ends_with("data: [DONE]\n\n"), "{streamed}");
    let body = json!({ "model": "bed-echo", "input": "hi", "stream": true });
    ensure!(ask(stage, &key, "/v1/responses", &body)?.contains("event: response.completed"));
    ensure!(ask(stage, "authorization: Bearer wrong", "/v1/responses", &body).is_err());
    Ok(())
}

fn anthropic_shapes(stage: &Stage) -> Result<()> {
    let key = format!("x-api-key: {}", provider::KEY);
    let mut body =
        json!({ "model": "bed-echo", "max_tokens": 9, "messages": [{ "role": "user", "content": "hi" }] });
    let whole: Value = serde_json::from_str(&ask(stage, &key, "/v1/messages", &body)?)?;
    ensure!(whole["content"][0]["text"] == "You said: hi", "{whole}");
    body["stream"] = json!(true);
    ensure!(ask(stage, &key, "/v1/messages?beta=true", &body)?.contains("event: message_stop"));
    ensure!(ask(stage, &key, "/v1/messages/count_tokens", &body)?.contains("\"input_tokens\":1"));
    Ok(())
}
