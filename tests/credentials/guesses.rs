//! A server echoes guesses in pieces. What is held back, and where pieces are cut, reveals a few times
//! whether a guess is the value's beginning, and then no more.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::{self, Sandbox, program};
use crate::{KEY, command};

/// How often an agent may learn something (docs/limits.md, guesses).
const MAX_OF_ONE: usize = 16;
/// More rounds than that, of a right guess and a wrong one.
const ROUNDS: usize = MAX_OF_ONE + 4;
/// Length of the right guess: long enough to count as a guess.
const RIGHT: usize = 14;

/// The number of rounds in which the right guess and the wrong one came in different pieces. Checks that the
/// whole text arrived in every round.
fn told(lines: &[&str]) -> Result<usize> {
    ensure!(lines.len() == 2 * ROUNDS, "{lines:?}");
    let mut told = 0;
    for pair in lines.chunks(2) {
        let lengths: Vec<&str> = pair
            .iter()
            .zip(guesses())
            .map(|(line, guess)| {
                let (lengths, text) = line.split_once(' ').with_context(|| format!("{line:?}"))?;
                ensure!(text == format!("you said: {guess}~ and so on"), "{text}");
                Ok(lengths)
            })
            .collect::<Result<_>>()?;
        told += usize::from(lengths[0] != lengths[1]);
    }
    Ok(told)
}

/// The right guess and the wrong one.
fn guesses() -> [String; 2] {
    [KEY[..RIGHT].to_owned(), format!("{}~", &KEY[..RIGHT - 1])]
}

fn on_record(sandbox: &Sandbox<'_>) -> Result<usize> {
    let is_one = |record: &&Value| record.to_string().contains("give the credentials anew");
    let records = sandbox.audit()?;
    let found: Vec<&Value> = records.iter().filter(is_one).collect();
    for record in &found {
        let text = record.to_string();
        ensure!(
            text.contains("api.bed.test") && text.contains("python3") && !text.contains(&KEY[..RIGHT]),
            "{text}"
        );
    }
    Ok(found.len())
}

pub fn pieces_tell_little_of_how_the_value_begins(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    stage.script("tunnel.py", include_str!("../inside/tunnel.py"))?;
    stage.script("pieces.py", include_str!("../inside/pieces.py"))?;
    let said: String = (0..ROUNDS).flat_map(|_| guesses()).map(|guess| format!(" '{guess}'")).collect();
    let guess = format!("{python} -u /sandbox/pieces.py api.bed.test");
    // One agent, before and after its supervisor dies.
    let script = format!(
        "echo up; for turn in one two; do until [ -e /sandbox/$turn ]; do sleep 0.1; done; {guess}{said} || exit 1; \
         echo done $turn; done; exec sleep 1000"
    );
    let name = stage.name();
    let mut running = stage.start(command(stage, &name, &["sh", "-c", &script])?)?;
    running.wait_for("up", common::START)?;
    let mut sandbox = Sandbox::adopt(stage, name, running);
    let turn = |sandbox: &mut Sandbox<'_>, turn: &str| -> Result<usize> {
        stage.write(&format!("workspace/{turn}"), "")?;
        sandbox.heart().wait_for(&format!("done {turn}"), Duration::from_secs(240))?;
        let out = sandbox.heart().out();
        let of_it: Vec<&str> = out.lines().filter(|line| line.contains("you said")).collect();
        told(of_it.get(of_it.len().saturating_sub(2 * ROUNDS)..).unwrap_or_default())
    };
    let first = turn(&mut sandbox, "one")?;
    // A round has two guesses, either of which may be the last that is counted.
    ensure!((1..=MAX_OF_ONE / 2).contains(&first), "told {first} times");
    poll("a record", PATIENCE, || (on_record(&sandbox).ok()? == 1).then_some(()))?;
    let pid = |status: &Value| status["supervisor_pid"].as_i64();
    let before = pid(&sandbox.status()?).context("no supervisor")?;
    kill(Pid::from_raw(i32::try_from(before)?), Signal::SIGKILL)?;
    poll("the supervisor's return", PATIENCE, || {
        let status = sandbox.status().ok()?;
        (pid(&status)? != before && common::find(&sandbox.tree().ok()?, "proxy")?["state"] == "up")
            .then_some(())
    })?;
    ensure!(turn(&mut sandbox, "two")? == 0, "a new supervisor has forgotten");
    ensure!(on_record(&sandbox)? == 1, "it is told once");
    // Other agents aren't affected: what they read isn't delayed.
    let other = stage.call(&["exec", &sandbox.name, "--", "sh", "-c", &format!("{guess} '!!!'")])?;
    let other = other.expect_code(0)?.out();
    ensure!(other.starts_with("13,"), "{other}");
    let whole = stage.call(&["exec", &sandbox.name, "--", "sh", "-c", &format!("{guess} '{KEY}'")])?;
    let whole = whole.expect_code(0)?.out();
    ensure!(whole.contains(&"*".repeat(KEY.len())), "{whole}");
    Ok(())
}
