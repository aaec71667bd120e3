//! The terminal UI on a terminal: what it shows of a real sandbox, what its keys do, and that the terminal is
//! itself again afterwards.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test fails by panic")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../cage/console.rs"]
mod console;
mod screen;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Mode, PATIENCE, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use common::{COFFERDAM, Sandbox, program, workspace};
use console::Console;
use screen::Screen;

fn main() -> ExitCode {
    bed::harness::main(
        "term",
        Path::new(COFFERDAM),
        bed::cases![
            it_shows_a_sandbox_and_answers_for_it_by_keys,
            what_an_agent_wrote_does_nothing_to_the_terminal.only(Mode::Rootless),
            every_end_gives_the_terminal_back.only(Mode::Rootless),
            it_waits_for_a_supervisor_and_says_when_the_sandbox_has_ended,
            a_shell_has_the_terminal_while_it_is_stopped.only(Mode::Rootless),
            one_of_several_is_chosen_and_the_window_may_change.only(Mode::Rootless),
            what_it_cannot_show_it_says_in_one_line.only(Mode::Rootless),
        ],
    )
}

/// The key, as terminals send it.
const HOME: &str = "\x1b[H";
const SIZE: (u16, u16) = (40, 140);

/// `cofferdam term ARGS…` on a terminal, or a skip where it was left out.
struct Term {
    console: Console,
    size: (u16, u16),
}

impl Term {
    fn start(stage: &Stage, args: &[&str]) -> Result<Self> {
        leave_out_without_it()?;
        let args = [&["term"], args].concat();
        Ok(Self { console: Console::start(stage, SIZE, &args)?, size: SIZE })
    }

    fn screen(&self) -> Result<Screen> {
        Screen::of(&self.console.screen(), self.size)
    }

    /// Waits until the screen shows all of these.
    fn see(&mut self, texts: &[&str]) -> Result<()> {
        let seen = poll(&format!("{texts:?} on the screen"), PATIENCE, || {
            let Ok(screen) = self.screen() else { return Some(()) };
            let text = screen.text();
            texts.iter().all(|wanted| text.contains(wanted)).then_some(())
        });
        let text = self.screen()?.text();
        seen.with_context(|| format!("it shows\n{text}"))
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        self.console.type_in(keys)
    }

    /// Selects the question whose row holds `row`, and gives the answer of this key, once the confirmation
    /// shows the right title and path.
    fn answer(&mut self, key: &str, title: &str, row: &str, path: &str) -> Result<()> {
        self.see(&[row])?;
        self.press(HOME)?;
        for _ in 0..8 {
            self.press(key)?;
            let text = poll("an answer to be confirmed, or why there is none", PATIENCE, || {
                let text = self.screen().ok()?.text();
                ["y yes   n no", "could be revoked"].iter().any(|said| text.contains(said)).then_some(text)
            })?;
            if text.contains(title) && text.lines().any(|line| line.contains("path ") && line.contains(path))
            {
                return self.press("y");
            }
            self.press("n")?;
            poll("it to be closed", PATIENCE, || {
                let text = self.screen().ok()?.text();
                (!text.contains("y yes") && !text.contains("could be revoked")).then_some(())
            })?;
            self.press("j")?;
        }
        anyhow::bail!("no question with {path}: it shows\n{}", self.screen()?.text())
    }

    /// Waits for the end, and returns the exit code, or 128 plus the signal's number.
    fn end(&mut self) -> Result<i32> {
        use std::os::unix::process::ExitStatusExt as _;
        let status = self.console.end()?;
        Ok(status.code().or_else(|| status.signal().map(|n| 1000 + n)).unwrap_or(-1))
    }

    /// Checks that the terminal is restored.
    fn ensure_given_back(&self) -> Result<()> {
        poll("the terminal to be as before", PATIENCE, || {
            let screen = self.screen().ok()?;
            (!screen.is_other && screen.cursor_shown && self.console.is_as_before().ok()?).then_some(())
        })
        .with_context(|| {
            format!("the last bytes: {:?}", self.console.screen().chars().rev().take(200).collect::<String>())
        })?;
        ensure!(self.console.is_cooked()?);
        Ok(())
    }
}

fn leave_out_without_it() -> Result<()> {
    if !cfg!(feature = "term") {
        bed::skip!("built without the terminal UI");
    }
    Ok(())
}

/// A sandbox in which requests that no entry names are asked about.
fn asking<'a>(stage: &'a Stage<'a>, script: &str) -> Result<Sandbox<'a>> {
    let file = stage.write("c.yaml", "approvals: { unlisted: ask, hold: 100s }\n")?.display().to_string();
    let policy = common::policy_file(stage, "")?;
    let workspace = workspace(stage);
    let options =
        ["--config", &file, "--policy", &policy, "--workspace", &workspace, "--allow-fault-injection"];
    Sandbox::start(stage, &options, &["sh", "-c", script], "ready")
}

fn quiet<'a>(stage: &'a Stage<'a>) -> Result<Sandbox<'a>> {
    asking(stage, "echo ready; sleep 1000")
}

fn it_shows_a_sandbox_and_answers_for_it_by_keys(stage: &Stage) -> Result<()> {
    leave_out_without_it()?;
    let (curl, mark) = (program("curl")?, stage.marker());
    let get = |path: &str| {
        format!(
            "{curl} -s -m 90 -o /dev/null -w '{path} %{{http_code}}\\n' https://api.bed.test/{mark}/{path}"
        )
    };
    // One after the other; between the third and the fourth there is nothing to be asked.
    let script = format!("echo ready; {}; {}; {}; {}; sleep 1000", get("a"), get("b"), get("c"), get("c"));
    let mut sandbox = asking(stage, &script)?;
    let arrived = || stage.world().recorder().with_marker(&mark).len();
    let mut term = Term::start(stage, &[])?;
    let asked = |path: &str| format!("GET api.bed.test:443/{mark}/{path}  by");
    term.see(&["HELD (1)", &asked("a"), "policy generation", "running", &sandbox.name.clone()])?;
    term.see(&["├── proxy", "├── operator", "RESTARTS", "decisions denied", "connections open", "agents"])?;
    ensure!(arrived() == 0, "nothing before the word");
    term.press("a")?;
    term.see(&["approve once?", &format!("/{mark}/a"), "y yes", "api.bed.test", "/curl"])?;
    // No answer yet: `n` doesn't confirm.
    term.press("n")?;
    term.see(&["nothing was answered"])?;
    ensure!(arrived() == 0, "nothing before the yes");
    // Nor does pasted text, or a key with a modifier.
    term.press("\x1b[200~ay\x1b[201~\x1ba\x1by?")?;
    term.see(&["Shift-Tab", "Esc close"])?;
    term.press("\x1b")?;
    // A key that follows an Esc at once would be taken for a part of its sequence.
    poll("the keys to be closed", PATIENCE, || {
        (!term.screen().ok()?.text().contains("Shift-Tab")).then_some(())
    })?;
    // Nor does a key that was typed before the question was shown.
    term.press("ay")?;
    term.see(&["approve once?", "read it to its end first"])?;
    term.press("n")?;
    ensure!(arrived() == 0, "a paste is no word, nor is what is typed ahead");
    term.answer("a", "approve once?", &asked("a"), &format!("/{mark}/a"))?;
    sandbox.heart().wait_for("a 200", PATIENCE)?;
    term.see(&["approved once", "allowed"])?;
    term.answer("d", "deny?", &asked("b"), &format!("/{mark}/b"))?;
    sandbox.heart().wait_for("b 403", PATIENCE)?;
    ensure!(arrived() == 1);
    // Approved for the run: the second request goes through without a question.
    term.answer("r", "approve until the sandbox ends?", &asked("c"), &format!("/{mark}/c"))?;
    sandbox.heart().wait_for("c 200\nc 200", PATIENCE)?;
    let shown = stage.call(&["policy", "show", &sandbox.name])?.expect_code(0)?.out();
    ensure!(shown.contains("approved-"), "{shown}");
    term.see(&["approved (run)"])?;
    term.answer("x", "revoke?", &asked("c"), &format!("/{mark}/c"))?;
    // Not the words of the confirmation, which are similar.
    poll("that it was taken back", PATIENCE, || {
        let text = term.screen().ok()?.text();
        (!text.contains("y yes") && text.contains("taken back: ")).then_some(())
    })?;
    let shown = stage.call(&["policy", "show", &sandbox.name])?.expect_code(0)?.out();
    ensure!(!shown.contains("approved-"), "{shown}");
    term.press("q")?;
    ensure!(term.end()? == 0);
    term.ensure_given_back()?;
    ensure!(stage.json(&["status", &sandbox.name, "--json"])?["state"] == "running", "the sandbox goes on");
    Ok(())
}

/// A program whose name holds escape sequences; its request is approved like any other.
fn what_an_agent_wrote_does_nothing_to_the_terminal(stage: &Stage) -> Result<()> {
    leave_out_without_it()?;
    let (curl, mark) = (program("curl")?, stage.marker());
    let script = format!(
        "p=\"/sandbox/x$(printf '\\033]0;owned\\007\\033[2J\\342\\200\\256live')\"; cp {curl} \"$p\"; echo ready; \
         \"$p\" -s -m 90 -o /dev/null -w 'a %{{http_code}}\\n' https://api.bed.test/{mark}; sleep 1000"
    );
    let mut sandbox = asking(stage, &script)?;
    let mut term = Term::start(stage, &[&sandbox.name.clone()])?;
    let shown = "\\u{1b}]0;owned\\u{7}\\u{1b}[2J\\u{202e}live";
    term.see(&["HELD (1)", shown])?;
    term.press("a")?;
    term.see(&["approve once?", shown])?;
    term.press("y")?;
    sandbox.heart().wait_for("a 200", PATIENCE)?;
    term.see(&["allowed"])?;
    // All output consists of sequences that the UI itself uses, or `Screen` would have failed.
    ensure!(!term.console.screen().contains("\x1b]"), "{:?}", term.console.screen());
    term.press("\x03")?;
    ensure!(term.end()? == 0);
    term.ensure_given_back()
}

fn every_end_gives_the_terminal_back(stage: &Stage) -> Result<()> {
    let sandbox = quiet(stage)?;
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1] {
        let mut term = Term::start(stage, &[&sandbox.name.clone()])?;
        term.see(&["├── proxy"])?;
        ensure!(!term.console.is_as_before()? && term.screen()?.is_other, "it has the terminal");
        kill(term.console.pid(), signal)?;
        let code = term.end()?;
        ensure!(code == 128 + signal as i32, "{signal}: {code}");
        term.ensure_given_back().with_context(|| signal.to_string())?;
    }
    for keys in ["q", "\x03", "?q", "\t\tq"] {
        let mut term = Term::start(stage, &[&sandbox.name.clone()])?;
        term.see(&["├── proxy"])?;
        term.press(keys)?;
        ensure!(term.end()? == 0, "{keys:?}");
        term.ensure_given_back().with_context(|| format!("{keys:?}"))?;
    }
    Ok(())
}

fn it_waits_for_a_supervisor_and_says_when_the_sandbox_has_ended(stage: &Stage) -> Result<()> {
    let sandbox = quiet(stage)?;
    let mut term = Term::start(stage, &[&sandbox.name.clone()])?;
    term.see(&["├── proxy", "running"])?;
    // An actor that fails is seen, too.
    sandbox.crash("proxy")?;
    term.see(&["restarted"])?;
    let supervisor = sandbox.status()?["supervisor_pid"].as_i64().context("a supervisor")?;
    kill(Pid::from_raw(i32::try_from(supervisor)?), Signal::SIGKILL)?;
    // Search everything that was written: the connection may be back by the time of the check.
    poll("that it is away", PATIENCE, || term.console.screen().contains("DISCONNECTED").then_some(()))?;
    term.see(&["running", "reconnected", "├── proxy"])?;
    ensure!(!term.screen()?.text().contains("DISCONNECTED"));
    stage.call(&["stop", &sandbox.name])?.expect_code(0)?;
    ensure!(term.end()? == 0);
    term.ensure_given_back()?;
    let said = format!("cofferdam: '{}' has ended", sandbox.name);
    poll("the words of its end", PATIENCE, || {
        let screen = term.console.screen();
        screen.rsplit("\x1b[?1049l").next()?.contains(&said).then_some(())
    })
}

fn a_shell_has_the_terminal_while_it_is_stopped(stage: &Stage) -> Result<()> {
    leave_out_without_it()?;
    let Some(bash) = bed::stage::program("bash") else { bed::skip!("no bash on this machine") };
    let sandbox = quiet(stage)?;
    let script = format!(
        "set -m; \"$0\" term {}; echo \"stopped: $?\"; read line; echo \"read: $line\"; fg >/dev/null; echo \"ended: $?\"",
        sandbox.name
    );
    let console = Console::shell(stage, SIZE, &bash.display().to_string(), &script)?;
    let mut term = Term { console, size: SIZE };
    term.see(&["├── proxy"])?;
    term.press("\x1a")?;
    // 128 and the number of a signal that stops.
    poll("the shell to go on", PATIENCE, || term.console.screen().contains("stopped: 14").then_some(()))
        .with_context(|| format!("{:?}", term.console.screen()))?;
    ensure!(!term.screen()?.is_other && term.screen()?.cursor_shown);
    ensure!(term.console.is_cooked()?, "the shell reads lines");
    term.press("words\n")?;
    poll("the shell to read", PATIENCE, || term.console.screen().contains("read: words").then_some(()))?;
    poll("it to have the terminal again", PATIENCE, || {
        term.screen().is_ok_and(|screen| screen.is_other).then_some(())
    })?;
    term.see(&["├── proxy"])?;
    ensure!(term.screen()?.is_other && !term.console.is_as_before()?, "it has the terminal again");
    term.press("q")?;
    poll("its end", PATIENCE, || term.console.screen().contains("ended: 0").then_some(()))
        .with_context(|| format!("{:?}", term.console.screen()))?;
    term.end()?;
    term.ensure_given_back()?;
    // The terminal's session leader has no shell that could continue it, so it doesn't stop.
    let mut term = Term::start(stage, &[&sandbox.name.clone()])?;
    term.see(&["├── proxy"])?;
    term.press("\x1a")?;
    kill(term.console.pid(), Signal::SIGTSTP)?;
    term.press("?")?;
    term.see(&["Shift-Tab"])?;
    ensure!(!term.console.is_stopped());
    term.press("q")?;
    ensure!(term.end()? == 0);
    term.ensure_given_back()
}

fn one_of_several_is_chosen_and_the_window_may_change(stage: &Stage) -> Result<()> {
    leave_out_without_it()?;
    let mut running = Vec::new();
    for name in ["one", "two"] {
        let mut sandbox = stage.start_run(name, &[], &["sh", "-c", "echo ready; sleep 1000"])?;
        sandbox.wait_for("ready", common::START)?;
        running.push(Sandbox::adopt(stage, name.into(), sandbox));
    }
    let mut term = Term::start(stage, &[])?;
    term.see(&["which sandbox?", "one", "two", "running"])?;
    term.press("j\r")?;
    term.see(&["two  running", "├── proxy"])?;
    for size in [(10, 30), (50, 160), (2, 1), (24, 80)] {
        term.console.resize(size)?;
        term.size = size;
        // Earlier output was for another size: only the last full redraw counts.
        poll("a screen of that size", PATIENCE, || {
            let written = term.console.screen();
            let last = written.rfind("\x1b[2J")?;
            let screen = Screen::of(written.get(last..)?, size).ok()?;
            let text = screen.text();
            (text.starts_with(if size.1 == 1 { "t" } else { "two  running" })
                && (size.0 < 20 || text.contains(" actors ")))
            .then_some(())
        })
        .with_context(|| format!("{size:?}"))?;
    }
    term.press("q")?;
    ensure!(term.end()? == 0);
    term.ensure_given_back()
}

fn what_it_cannot_show_it_says_in_one_line(stage: &Stage) -> Result<()> {
    let done = stage.call(&["term", "nobody"])?.expect_code(125)?;
    if !cfg!(feature = "term") {
        ensure!(done.err().contains("--features term"), "{}", done.err());
        return Ok(());
    }
    ensure!(done.err().lines().count() == 1 && done.out().is_empty(), "{}", done.err());
    ensure!(
        done.err().contains("cofferdam status") && done.err().contains("approvals watch"),
        "no terminal: {}",
        done.err()
    );
    for (args, said) in
        [(&["nobody"][..], "no sandbox named 'nobody' is running"), (&[], "no sandbox of yours is running")]
    {
        let mut term = Term::start(stage, args)?;
        ensure!(term.end()? == 125);
        poll("its words", PATIENCE, || term.console.screen().contains(said).then_some(()))?;
        let screen = term.console.screen();
        ensure!(screen.trim_end().lines().count() == 1, "{screen:?}");
        ensure!(!screen.contains('\x1b'), "the terminal isn't touched: {screen:?}");
        term.ensure_given_back()?;
    }
    Ok(())
}
