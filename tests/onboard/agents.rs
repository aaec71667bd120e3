//! The agents that `onboard` knows: each is run with the file that `onboard` writes, and asked something,
//! which shows that its configuration is sufficient.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::stage::{PATIENCE, finish, poll};
use bed::{Stage, provider};
use serde_json::Value;

use crate::common::{Sandbox, tools};
use crate::{command, here};

/// How long an agent may take to start, and to answer: OpenClaw takes half a minute on a good day.
const AGENT: Duration = Duration::from_secs(400);

/// Mounts an agent below /opt, which every sandbox shows, as its users install it there; skips the case where
/// the agent isn't on this machine. The mounts exist only in this suite's world.
fn installed(name: &str) -> Result<()> {
    let (opt, dir) = (Path::new("/opt"), if name == "claude" { "claude-code" } else { name });
    if !tools().join("agents").join(dir).exists() || !opt.is_dir() {
        bed::skip!("no {name} at {}: run `.ci/run --tools`", tools().display());
    }
    let bin = opt.join("bin");
    if !bin.join("made-by-onboards-tests").exists() {
        use nix::mount::{MsFlags, mount};
        mount(None::<&str>, opt, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))?;
        for made in ["bin", "agents", "agent"] {
            std::fs::create_dir(opt.join(made))?;
        }
        std::fs::write(bin.join("made-by-onboards-tests"), "")?;
        for made in ["agents", "agent"] {
            let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(&tools().join(made)), &opt.join(made), None::<&str>, bind, None::<&str>)?;
        }
    }
    let (here, at) = (opt.join("agents").join(dir), bin.join(name));
    let script = match name {
        // A virtual environment's programs name their interpreter by its path.
        "hermes" => {
            let text = std::fs::read_to_string(here.join("bin/hermes"))?;
            let rest = text.split_once('\n').context("no script")?.1;
            format!("#!{}/bin/python3\n{rest}", here.display())
        }
        // It wants a newer Node than distributions have.
        "openclaw" => format!(
            "#!/bin/sh\nexec /opt/agent/node_modules/.bin/node {}/node_modules/openclaw/openclaw.mjs \"$@\"\n",
            here.display()
        ),
        _ => return Ok(symlink(here.join("node_modules/.bin").join(name), at)?),
    };
    std::fs::write(&at, script)?;
    Ok(std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o755))?)
}

/// Runs an agent in the sandbox that `onboard` writes for it, asks it something with these arguments, and
/// checks that it prints its model's answer.
fn is_told(stage: &Stage, name: &str, kind: &str, ask: &[&str]) -> Result<()> {
    installed(name)?;
    is_told_from(stage, name, kind, ("/opt/bin", &[]), ask)
}

/// The same for an agent that lies in this directory, with further options.
fn is_told_from(
    stage: &Stage,
    name: &str,
    kind: &str,
    (bin, more): (&str, &[&str]),
    ask: &[&str],
) -> Result<()> {
    let mark = stage.marker();
    let base =
        if kind == "anthropic" { provider::BASE_URL.trim_end_matches("/v1") } else { provider::BASE_URL };
    let typed = format!("{kind}={base},env:BED_KEY");
    let args = ["--non-interactive", "--json", "--agent", name, "--provider", &typed, "--model", "bed-echo"];
    let mut onboard = command(stage, &[&args, more].concat());
    onboard.env("PATH", format!("{bin}:/usr/bin:/bin"));
    let told: Value = serde_json::from_slice(&finish(onboard, PATIENCE)?.expect_code(0)?.stdout)?;
    ensure!(told["notes"] == serde_json::json!([]) && told["workspace"] == format!("./{name}"), "{told}");
    let settings = here(stage).join(told["settings"].as_str().context("no settings")?);
    ensure!(std::fs::metadata(&settings)?.mode() & 0o777 == 0o600, "others can read {}", settings.display());

    let mut up = stage.cofferdam(["up", "-f", "cofferdam.yaml", "--metrics", "off"]);
    up.env("BED_KEY", provider::KEY).current_dir(here(stage));
    let sandbox = Sandbox::adopt(stage, name.to_owned(), stage.start(up)?);
    let is_well = |agent: &Value| {
        let health = agent["health"].as_str();
        agent["restarts"] == 0 && (health.is_none() || health == Some("healthy")) && agent["pid"].is_i64()
    };
    let agents = || sandbox.status().ok()?["agents"].as_array().cloned();
    poll("the agent to be well", AGENT, || agents().filter(|all| all.len() == 1 && all.iter().all(is_well)))
        .with_context(|| format!("{:?}", stage.call(&["logs", name]).map(|logs| logs.out())))?;
    let program = told["command"][0].as_str().context("no command")?;
    let question = format!("say {mark}");
    let words: Vec<&str> =
        ask.iter().map(|word| if *word == "QUESTION" { &question } else { *word }).collect();
    let exec = stage.cofferdam([&["exec", name, "--", program], &words[..]].concat());
    let done = finish(exec, AGENT)?;
    let said = done.out() + &done.err();
    ensure!(said.contains("You said"), "exit code {}: {said}", done.code());
    let arrived = stage.world().recorder().all();
    let is_mine = |body: &[u8]| String::from_utf8_lossy(body).contains(&mark);
    ensure!(
        arrived.iter().any(|it| it.method == "POST" && is_mine(&it.body)),
        "the provider was asked something else"
    );
    Ok(())
}

pub fn claude_is_told_what_it_must_be(stage: &Stage) -> Result<()> {
    is_told(stage, "claude", "anthropic", &["-p", "QUESTION", "--dangerously-skip-permissions"])
}

/// The agent is installed as by its own installer: a link in `~/.local/bin` to a single file.
pub fn an_agent_in_a_home_is_shown_by_its_file_alone(stage: &Stage) -> Result<()> {
    let claude = tools().join("agents/claude-code/node_modules/.bin/claude");
    if !claude.exists() {
        bed::skip!("no claude at {}: run `.ci/run --tools`", tools().display());
    }
    let (bin, beside) = (stage.dir().join("bin"), stage.dir().join("versions"));
    std::fs::create_dir(&bin)?;
    std::fs::create_dir(&beside)?;
    std::fs::hard_link(claude.canonicalize()?, beside.join("2.1"))
        .or_else(|_| std::fs::copy(&claude, beside.join("2.1")).map(drop))?;
    std::fs::write(beside.join("private"), "nobody's")?;
    symlink(beside.join("2.1"), bin.join("claude"))?;
    let bin = bin.display().to_string();
    // The file is shown only if the option asks for it.
    let mut unsaid = command(stage, &["--non-interactive", "--provider", "none", "--agent", "claude"]);
    unsaid.env("PATH", &bin);
    let unsaid = finish(unsaid, PATIENCE)?.expect_code(125)?;
    ensure!(unsaid.err().contains("--show-program"), "{}", unsaid.err());
    ensure!(std::fs::read_dir(here(stage))?.count() == 0, "something is left");

    let ask = ["-p", "QUESTION", "--dangerously-skip-permissions"];
    is_told_from(stage, "claude", "anthropic", (&bin, &["--show-program"]), &ask)?;
    let policy = here(stage).join("claude-policy.yaml");
    stage.call(&["policy", "check", &policy.display().to_string()])?.expect_code(0)?;
    let see = format!("ls {} && ls {} | wc -l", bin, beside.display());
    let policy = policy.display().to_string();
    let seen = stage.run(&["--policy", &policy], &["sh", "-c", &see])?;
    ensure!(seen.code() != 0 && seen.out().is_empty(), "the way to it is shown: {}", seen.out());
    let seen = stage.run(&["--policy", &policy], &["ls", &beside.display().to_string()])?;
    ensure!(seen.out().trim() == "2.1", "more than the file is shown: {}", seen.out());
    Ok(())
}

pub fn codex_is_told_what_it_must_be(stage: &Stage) -> Result<()> {
    is_told(
        stage,
        "codex",
        "openai",
        &["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "QUESTION"],
    )
}

pub fn opencode_is_told_what_it_must_be(stage: &Stage) -> Result<()> {
    is_told(stage, "opencode", "openai", &["run", "QUESTION"])
}

pub fn hermes_is_told_what_it_must_be(stage: &Stage) -> Result<()> {
    is_told(stage, "hermes", "openai", &["chat", "-Q", "--yolo", "-q", "QUESTION"])
}

pub fn openclaw_is_told_what_it_must_be(stage: &Stage) -> Result<()> {
    is_told(stage, "openclaw", "openai", &["agent", "--session-id", "one", "--message", "QUESTION"])
}
