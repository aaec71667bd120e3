//! `cofferdam onboard`: `up` can run the file that it makes, the file holds no key, and nothing is
//! overwritten or left behind.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test fails by panic")]

mod agents;
#[path = "../common/mod.rs"]
mod common;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use bed::stage::{Finished, Mode, PATIENCE, finish, poll};
use bed::{Stage, provider};
use serde_json::Value;

use agents::{
    an_agent_in_a_home_is_shown_by_its_file_alone, claude_is_told_what_it_must_be,
    codex_is_told_what_it_must_be, hermes_is_told_what_it_must_be, openclaw_is_told_what_it_must_be,
    opencode_is_told_what_it_must_be,
};
use common::{COFFERDAM, Sandbox, files_below, program};

fn main() -> ExitCode {
    bed::harness::main(
        "onboard",
        Path::new(COFFERDAM),
        bed::cases![
            what_is_typed_becomes_a_file_that_runs,
            nothing_is_written_over.only(Mode::Rootless),
            a_policy_of_somebodys_is_left_as_it_is.only(Mode::Rootless),
            no_key_is_written_or_repeated.only(Mode::Rootless),
            what_cannot_be_had_is_refused_and_leaves_nothing.only(Mode::Rootless),
            a_workspace_is_made_where_agents_may_have_it,
            what_is_written_into_anothers_workspace_is_theirs.only(Mode::Rooted),
            a_person_is_asked.only(Mode::Rootless),
            a_person_sees_every_file_and_no_token.only(Mode::Rootless),
            what_comes_next_works_as_it_stands.only(Mode::Rootless).alone(),
            who_leaves_leaves_nothing_behind.only(Mode::Rootless),
            claude_is_told_what_it_must_be.only(Mode::Rootless).alone(),
            codex_is_told_what_it_must_be.only(Mode::Rootless).alone(),
            opencode_is_told_what_it_must_be.only(Mode::Rootless).alone(),
            an_agent_in_a_home_is_shown_by_its_file_alone.only(Mode::Rootless).alone(),
            hermes_is_told_what_it_must_be.only(Mode::Rootless).alone(),
            openclaw_is_told_what_it_must_be.only(Mode::Rootless).alone(),
        ],
    )
}

/// Runs `onboard --non-interactive ARGS…` in a directory of its own, [`here`].
fn onboard(stage: &Stage, args: &[&str]) -> Result<Finished> {
    finish(command(stage, &[&["--non-interactive"], args].concat()), PATIENCE)
}

fn command(stage: &Stage, args: &[&str]) -> Command {
    let mut command = stage.cofferdam([&["onboard"], args].concat());
    command.env("BED_KEY", provider::KEY).current_dir(stage.dir().join("home"));
    command
}

/// Where [`onboard`] writes.
fn here(stage: &Stage) -> PathBuf {
    stage.dir().join("home")
}

fn text(stage: &Stage) -> Result<String> {
    Ok(std::fs::read_to_string(here(stage).join("cofferdam.yaml"))?)
}

fn near() -> String {
    format!("openai={},env:BED_KEY", provider::BASE_URL)
}

fn what_is_typed_becomes_a_file_that_runs(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let (name, mark) = (stage.name(), stage.marker());
    // Characters that YAML, a shell and JSON could each misread.
    let script = format!(
        "echo \"odd: #'{{}}, \\\"{mark}\\\" ü\"; {curl} -s --max-time 60 -H 'content-type: application/json' \
         -d '{{\"model\":\"any\",\"messages\":[{{\"role\":\"user\",\"content\":\"{mark}\"}}]}}' \
         https://inference.local/v1/chat/completions; exec sleep 600"
    );
    let args = [
        "--name",
        &name,
        "--provider",
        &near(),
        "--model",
        "bed-echo",
        "--preset",
        "pypi",
        "--json",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let done = onboard(stage, &args)?.expect_code(0)?;
    let told: Value = serde_json::from_slice(&done.stdout)?;
    ensure!(told["name"] == name.as_str() && told["notes"] == serde_json::json!([]), "{told}");
    ensure!(told["command"][2] == script.as_str(), "{told}");
    let file = here(stage).join("cofferdam.yaml");
    ensure!(std::fs::metadata(&file)?.mode() & 0o777 == 0o600, "others can read it");
    let written = text(stage)?;
    ensure!(written.contains("presets: [pypi]") && written.contains("credential: env:BED_KEY"), "{written}");
    ensure!(!written.contains(provider::KEY), "{written}");
    ensure!(std::fs::read_dir(here(stage))?.count() == 1, "something lies beside it");

    // The commands that it proposes can be run as printed.
    let next: Vec<&str> =
        told["next"].as_array().context("no next")?.iter().filter_map(Value::as_str).collect();
    ensure!(
        next == [
            "cofferdam provider test -f cofferdam.yaml",
            "cofferdam up -f cofferdam.yaml",
            &format!("cofferdam logs {name} -f")
        ],
        "{next:?}"
    );
    let mut test = stage.cofferdam(["provider", "test", "-f", "cofferdam.yaml"]);
    test.env("BED_KEY", provider::KEY).current_dir(here(stage));
    finish(test, PATIENCE)?.expect_code(0)?;
    let mut up = stage.cofferdam(["up", "-f", "cofferdam.yaml", "--metrics", "off"]);
    up.env("BED_KEY", provider::KEY).current_dir(here(stage));
    let sandbox = Sandbox::adopt(stage, name.clone(), stage.start(up)?);
    let said = || {
        let logs = stage.call(&["logs", &sandbox.name]).ok()?.out();
        logs.contains("You said").then_some(logs)
    };
    let logs = poll("the agent's model to answer", PATIENCE, said)?;
    ensure!(
        logs.contains(&format!("odd: #'{{}}, \"{mark}\" ü")) && logs.contains(&format!("You said: {mark}")),
        "{logs}"
    );
    Ok(())
}

fn nothing_is_written_over(stage: &Stage) -> Result<()> {
    let file = stage.write("home/cofferdam.yaml", "theirs")?;
    let args = ["--provider", "none", "--", "true"];
    let done = onboard(stage, &args)?.expect_code(125)?;
    ensure!(done.err().contains("is there already") && done.err().contains("--force"), "{}", done.err());
    ensure!(std::fs::read_to_string(&file)? == "theirs", "it was written over");
    // A dangling link counts as an existing file, and nothing is created at its target.
    std::fs::remove_file(&file)?;
    let elsewhere = stage.dir().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, &file)?;
    onboard(stage, &args)?.expect_code(125)?;
    ensure!(!elsewhere.exists() && file.symlink_metadata()?.is_symlink(), "it went through the link");
    // With `--force` the link is replaced, and its target left alone.
    std::fs::write(&elsewhere, "theirs")?;
    onboard(stage, &[&["--force"], &args[..]].concat())?.expect_code(0)?;
    ensure!(std::fs::read_to_string(&elsewhere)? == "theirs", "it wrote through the link");
    ensure!(!file.symlink_metadata()?.is_symlink() && text(stage)?.contains("name: "), "it isn't there");
    Ok(())
}

/// A program of this name that is a file alone, in a directory that no sandbox shows; a `PATH` with that in
/// front.
fn alone(stage: &Stage, name: &str) -> Result<String> {
    let bin = stage.dir().join("bin");
    std::fs::create_dir_all(&bin)?;
    std::fs::copy("/usr/bin/true", bin.join(name))?;
    Ok(format!("{}:/usr/bin:/bin", bin.display()))
}

fn a_policy_of_somebodys_is_left_as_it_is(stage: &Stage) -> Result<()> {
    let path = alone(stage, "claude")?;
    let claude = |more: &[&str]| {
        let args =
            ["--non-interactive", "--json", "--agent", "claude", "--show-program", "--provider", "none"];
        let mut command = command(stage, &[&args, more].concat());
        command.env("PATH", &path);
        finish(command, PATIENCE)
    };
    let theirs = stage.write("home/claude-policy.yaml", "by hand")?;
    let file = stage.write("home/cofferdam.yaml", "theirs")?;
    let refused = |more: &[&str]| -> Result<()> {
        let done = claude(more)?.expect_code(125)?;
        let why = done.err();
        ensure!(why.contains("claude-policy.yaml is there already") && why.contains("--name"), "{why}");
        ensure!(std::fs::read_to_string(&theirs)? == "by hand", "the policy was written over");
        Ok(())
    };
    refused(&["--force"])?;
    ensure!(std::fs::read_to_string(&file)? == "theirs", "a file without its policy");
    std::fs::remove_file(&file)?;
    refused(&[])?;
    ensure!(std::fs::read_dir(here(stage))?.count() == 1, "something is left");
    // Nor does the configuration overwrite its own policy file.
    std::fs::remove_file(&theirs)?;
    let one = claude(&["--file", "claude-policy.yaml", "--force"])?.expect_code(125)?;
    ensure!(one.err().contains("--file") && std::fs::read_dir(here(stage))?.count() == 0, "{}", one.err());
    // The proposed fix works; and a file that `onboard` wrote itself is no reason to refuse.
    for more in [&["--name", "other"][..], &["--name", "other", "--force"]] {
        let told: Value = serde_json::from_slice(&claude(more)?.expect_code(0)?.stdout)?;
        let is_new = more.len() == 2;
        ensure!(told["policy"] == if is_new { "other-policy.yaml".into() } else { Value::Null }, "{told}");
        let policy = std::fs::metadata(here(stage).join("other-policy.yaml"))?;
        ensure!(policy.mode() & 0o777 == 0o644, "the supervisor can't read it: {:o}", policy.mode());
    }
    Ok(())
}

fn no_key_is_written_or_repeated(stage: &Stage) -> Result<()> {
    let secret = "sk-live-3f9a71c2e5d84b06";
    for typed in [
        secret.to_owned(),
        format!("openai={secret}"),
        format!("openai=https://a.test/v1,{secret}"),
        format!("{secret}=https://a.test"),
        format!("openai=https://u:{secret}@a.test/v1"),
    ] {
        let done = onboard(stage, &["--provider", &typed, "--", "true"])?.expect_code(125)?;
        let said = done.out() + &done.err();
        ensure!(!said.contains(secret) && said.contains("KIND=URL"), "{said}");
    }
    ensure!(!here(stage).join("cofferdam.yaml").exists(), "it was written");
    // A key found in the environment is referred to by name, and its value is nowhere.
    let mut detect = command(stage, &["--non-interactive", "--", "true"]);
    detect.env("ANTHROPIC_API_KEY", secret).env("OPENAI_API_KEY", secret).env("NVIDIA_API_KEY", secret);
    let done = finish(detect, PATIENCE)?.expect_code(0)?;
    let all = [done.out(), done.err(), text(stage)?].concat();
    ensure!(!all.contains(secret) && all.contains("env:ANTHROPIC_API_KEY"), "{all}");
    // Only the first provider of each kind, so that nothing goes to a provider that the operator didn't
    // choose.
    ensure!(
        text(stage)?.contains("env:OPENAI_API_KEY") && !text(stage)?.contains("NVIDIA"),
        "{}",
        text(stage)?
    );
    ensure!(done.err().contains("not used: nvidia"), "{}", done.err());
    // A variable that isn't set now may be set at the start: a warning is printed, and the reference is
    // written.
    let unset = onboard(
        stage,
        &["--force", "--provider", "anthropic=https://api.anthropic.com,env:NOT_SET", "--", "true"],
    )?;
    ensure!(unset.expect_code(0)?.err().contains("NOT_SET is not set"), "nothing was said");
    Ok(())
}

fn what_cannot_be_had_is_refused_and_leaves_nothing(stage: &Stage) -> Result<()> {
    // Agents, in a place that no sandbox shows.
    let bin = stage.dir().join("bin");
    std::fs::create_dir(&bin)?;
    std::os::unix::fs::symlink("/usr/bin/true", bin.join("codex"))?;
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let none = ["--provider", "none"];
    for (args, why) in [
        (&["--agent", "codex"][..], "which no sandbox shows"),
        (&["--agent", "openclaw"], "openclaw is not in PATH"),
        (&["--agent", "gpt"], "there are claude, codex, opencode, openclaw, hermes"),
        (&[], "--agent NAME"),
        (&["--name", "No Name", "--", "true"], "can't name a sandbox"),
        (&["--preset", "pipy", "--", "true"], "no preset is called 'pipy'"),
        (&["--model", "m", "--", "true"], "--model"),
        (&["--workspace", ".", "--", "true"], "your home"),
        (&["--workspace", "/etc", "--", "true"], "can't be a workspace"),
        (&["--workspace", "none/of/it", "--", "true"], "No such file"),
        (&["--file", "sub/c.yaml", "--", "true"], "No such file"),
    ] {
        let mut command = command(stage, &[&["--non-interactive"], &none[..], args].concat());
        let done = finish(
            {
                command.env("PATH", &path);
                command
            },
            PATIENCE,
        )?
        .expect_code(125)?;
        ensure!(done.err().contains(why) && done.err().lines().count() == 1, "{args:?}: {}", done.err());
        ensure!(
            files_below(&here(stage)).is_empty() && std::fs::read_dir(here(stage))?.count() == 0,
            "{args:?} left something"
        );
    }
    // The file in its own workspace.
    std::fs::create_dir(stage.dir().join("home/work"))?;
    std::os::unix::fs::chown(stage.dir().join("home/work"), Some(stage.uid()), Some(stage.uid()))?;
    let args = ["--provider", "none", "--workspace", "work", "--file", "work/c.yaml", "--", "true"];
    let done = onboard(stage, &args)?.expect_code(125)?;
    ensure!(done.err().contains("where the agent could change it"), "{}", done.err());
    // A program that isn't visible inside is warned of, and written all the same.
    for (program, why) in
        [("codex", "where no sandbox shows it"), ("no-such-program", "no program of this machine's")]
    {
        let mut command =
            command(stage, &["--non-interactive", "--force", "--provider", "none", "--", program]);
        let done = finish(
            {
                command.env("PATH", &path);
                command
            },
            PATIENCE,
        )?
        .expect_code(0)?;
        ensure!(done.err().contains(why), "{}", done.err());
    }
    // No terminal to ask at, and no existing file.
    std::fs::remove_file(here(stage).join("cofferdam.yaml"))?;
    let done = finish(command(stage, &[]), PATIENCE)?.expect_code(125)?;
    ensure!(done.err().contains("--non-interactive"), "{}", done.err());
    Ok(())
}

fn a_workspace_is_made_where_agents_may_have_it(stage: &Stage) -> Result<()> {
    let args = ["--provider", "none", "--workspace", "work", "--json", "--", "true"];
    let told: Value = serde_json::from_slice(&onboard(stage, &args)?.expect_code(0)?.stdout)?;
    ensure!(told["workspace"] == "./work" && text(stage)?.contains("workspace: ./work"), "{told}");
    ensure!(std::fs::metadata(here(stage).join("work"))?.mode() & 0o777 == 0o700, "others can look into it");
    ensure!(told["notes"].to_string().contains("no provider is named"), "{told}");
    // The operator owns what the agent writes there.
    let mut run = stage.cofferdam([
        "run",
        "--quiet",
        "--config",
        "cofferdam.yaml",
        "--",
        "sh",
        "-c",
        "echo mine > /sandbox/note",
    ]);
    finish(
        {
            run.current_dir(here(stage));
            run
        },
        PATIENCE,
    )?
    .expect_code(0)?;
    ensure!(std::fs::metadata(here(stage).join("work/note"))?.uid() == stage.uid(), "it is somebody else's");
    Ok(())
}

/// Root's own files would be nobody's inside: the agent is the workspace's owner there.
fn what_is_written_into_anothers_workspace_is_theirs(stage: &Stage) -> Result<()> {
    let work = here(stage).join("work");
    std::fs::create_dir(&work)?;
    std::os::unix::fs::chown(&work, Some(4321), Some(4322))?;
    let program = here(stage).join("codex");
    std::fs::copy("/bin/true", &program)?;
    let typed = near();
    let args =
        ["--agent", "codex", "--show-program", "--provider", &typed, "--model", "m", "--workspace", "work"];
    let mut onboard = command(stage, &[&["--non-interactive"], &args[..]].concat());
    onboard.env("PATH", format!("{}:/usr/bin:/bin", here(stage).display()));
    finish(onboard, PATIENCE)?.expect_code(0)?;
    for made in [".codex", ".codex/config.toml"] {
        let found = std::fs::metadata(work.join(made))?;
        ensure!((found.uid(), found.gid()) == (4321, 4322), "{made} is {}:{}", found.uid(), found.gid());
    }
    let config = here(stage).join("cofferdam.yaml");
    let mut run = stage.cofferdam(["run", "--quiet", "--config"]);
    run.arg(config).args(["--", "cat", "/sandbox/.codex/config.toml"]).env("BED_KEY", provider::KEY);
    let shown = finish(run, PATIENCE)?.expect_code(0)?.out();
    ensure!(shown.contains("model_provider"), "{shown}");
    Ok(())
}

/// Answers prompts at a terminal: `PROMPT=>ANSWER`, in order; `^C` is the key. Prints all that was shown, and
/// exits as the program does.
const AT_TERMINAL: &str = r#"
import os, pty, select, sys
steps, program = sys.argv[1].split("|"), sys.argv[2:]
pid, fd = pty.fork()
if pid == 0:
    os.execv(program[0], program)
shown = unread = b""
def more():
    global shown, unread
    if not select.select([fd], [], [], 100)[0]:
        print(shown.decode(errors="replace")); sys.exit("nothing more is shown")
    try:
        got = os.read(fd, 65536)
    except OSError:
        got = b""
    shown, unread = shown + got, unread + got
    return got
for step in steps:
    prompt, answer = (part.encode() for part in step.split("=>"))
    while prompt not in unread:
        if not more():
            print(shown.decode(errors="replace")); sys.exit(f"it ended before {prompt}")
    unread = unread.split(prompt, 1)[1]
    os.write(fd, b"\x03" if answer == b"^C" else answer + b"\n")
while more():
    pass
print(shown.decode(errors="replace"))
status = os.waitpid(pid, 0)[1]
sys.exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
"#;

fn at_terminal(stage: &Stage, args: &[&str], steps: &[(&str, &str)]) -> Result<Finished> {
    finish(terminal(stage, args, steps)?, PATIENCE * 2)
}

fn terminal(stage: &Stage, args: &[&str], steps: &[(&str, &str)]) -> Result<Command> {
    let python = program("python3")?;
    let steps: Vec<String> = steps.iter().map(|(prompt, answer)| format!("{prompt}=>{answer}")).collect();
    let mut command = stage.command(python);
    command.args(["-c", AT_TERMINAL, &steps.join("|")]).arg(stage.binary()).arg("onboard").args(args);
    command.env("COFFERDAM_STATE", stage.state()).env("SSL_CERT_FILE", stage.world().ca_file());
    command.env("OPENAI_API_KEY", provider::KEY).env("TERM", "dumb").current_dir(here(stage));
    Ok(command)
}

fn a_person_is_asked(stage: &Stage) -> Result<()> {
    let done = at_terminal(
        stage,
        &[],
        &[
            ("Command that the sandbox runs: ", "sh -c 'echo \"it is $0\"; sleep 9'"),
            ("Name of the sandbox [sh]: ", "Not A Name"),
            ("can't name a sandbox", ""),
            ("Providers [openai]: ", "9"),
            ("a number from 1 to 1", "1"),
            ("Presets [none]: ", "pypi,1"),
            ("Workspace, the agent's home", "./work"),
            ("Write cofferdam.yaml? [yes]: ", ""),
        ],
    )?
    .expect_code(0)?;
    let shown = done.out();
    ensure!(!shown.contains(provider::KEY) && shown.contains("OPENAI_API_KEY is set"), "{shown}");
    ensure!(shown.contains("cofferdam up -f cofferdam.yaml"), "{shown}");
    let written = text(stage)?;
    ensure!(written.contains("name: sh") && written.contains("presets: [pypi, github]"), "{written}");
    ensure!(written.contains("openai: { kind: openai") && written.contains("workspace: ./work"), "{written}");
    ensure!(written.contains(r#"command: [sh, "-c", "echo \"it is $0\"; sleep 9"]"#), "{written}");
    ensure!(here(stage).join("work").is_dir(), "no workspace");
    Ok(())
}

fn a_person_sees_every_file_and_no_token(stage: &Stage) -> Result<()> {
    let path = alone(stage, "hermes")?;
    let provider = near();
    let args = ["--agent", "hermes", "--show-program", "--provider", &provider, "--model", "bed-echo"];
    // The model was given as an option, so it isn't asked for. (Were it asked for, the answers would get out
    // of step.)
    let steps = [
        ("Name of the sandbox [hermes]: ", ""),
        ("Presets [none]: ", ""),
        ("Workspace, the agent's home", ""),
        ("Write cofferdam.yaml, hermes-policy.yaml, ./hermes/.hermes/config.yaml? [yes]: ", ""),
    ];
    let mut command = terminal(stage, &args, &steps)?;
    command.env("PATH", &path);
    let shown = finish(command, PATIENCE * 2)?.expect_code(0)?.out();
    ensure!(!shown.contains("Model at"), "{shown}");
    for file in ["cofferdam.yaml", "hermes-policy.yaml", "hermes/.hermes/config.yaml"] {
        ensure!(here(stage).join(file).is_file() && shown.matches(file).count() >= 2, "{file}: {shown}");
    }
    let written = text(stage)?;
    let (_, rest) = written.split_once("API_SERVER_KEY: \"").context("no token")?;
    let (token, _) = rest.split_once('"').context("no end")?;
    ensure!(
        token.len() == 48 && !shown.contains(token) && shown.contains("API_SERVER_KEY: \"…\""),
        "{shown}"
    );
    Ok(())
}

fn what_comes_next_works_as_it_stands(stage: &Stage) -> Result<()> {
    let elsewhere = stage.dir().join("other state").display().to_string();
    let mark = stage.marker();
    let script = format!("echo {mark}; exec sleep 1000");
    let args = ["--state", &elsewhere, "--provider", "none", "--name", "x", "--", "sh", "-c", &script];
    let shown = onboard(stage, &args)?.expect_code(0)?.out();
    let next = format!(
        "  cofferdam --state '{elsewhere}' up -f cofferdam.yaml\nwhile that runs, in another terminal\n  \
         cofferdam --state '{elsewhere}' logs x -f\n"
    );
    ensure!(shown.ends_with(&next), "{shown}");
    // The commands are typed into shells, each in a terminal of its own, in the directory where they were
    // printed.
    let commands: Vec<&str> = next.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    let [up, logs] = commands[..] else { anyhow::bail!("{commands:?}") };
    let typed = |line: &str| {
        let mut shell = stage.command("sh");
        shell.args(["-c", &format!("exec {line}")]).current_dir(here(stage));
        shell.env("PATH", format!("{}:/usr/bin:/bin", stage.dir().display()));
        stage.start(shell)
    };
    let sandbox = Sandbox::adopt(stage, "x".into(), typed(up)?);
    // There is nothing to be read before it runs.
    let is_there = || {
        let status = stage.json(&["--state", &elsewhere, "status", &sandbox.name, "--json"]).ok()?;
        status["agents"][0]["pid"].is_u64().then_some(())
    };
    poll("the sandbox that was started as printed", PATIENCE, is_there)?;
    typed(logs)?.wait_for(&mark, PATIENCE)?;
    ensure!(!stage.state().join(&sandbox.name).exists(), "it is in another state directory");
    Ok(())
}

fn who_leaves_leaves_nothing_behind(stage: &Stage) -> Result<()> {
    let typed = ["--workspace", "./work", "--", "true"];
    let asked = [("Name of the sandbox", ""), ("Providers", ""), ("Presets", "")];
    for (last, answer, code) in
        [("Write cofferdam.yaml?", "^C", 130), ("Write cofferdam.yaml?", "no", 125), ("Presets", "^C", 130)]
    {
        let before = asked.iter().take_while(|(prompt, _)| *prompt != last).copied();
        let steps: Vec<(&str, &str)> = before.chain([(last, answer)]).collect();
        at_terminal(stage, &typed, &steps)?.expect_code(code)?;
        ensure!(std::fs::read_dir(here(stage))?.count() == 0, "{last}: something is left");
    }
    Ok(())
}
