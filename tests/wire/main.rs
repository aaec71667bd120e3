//! Raw bytes from a hostile agent that may speak with one host: what the policy refuses never arrives there,
//! however it is wrapped. The server records every byte and checks none (`bed::raw`).
//!
//! Cases are data: `messages`, `paths`, `tunnels` and `h2` list them; `client.py` speaks them inside one
//! sandbox. Each case has a word of its own, by which what arrived is recognised; controls that must arrive
//! stand between the attacks.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test fails by panic"
)]

mod case;
#[path = "../common/mod.rs"]
mod common;
mod h2;
mod messages;
mod paths;
mod tunnels;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bed::Stage;
use bed::stage::finish;
use serde_json::Value;

use case::{Case, Expect};
use common::{COFFERDAM, policy_file, program, workspace};

/// Bytes of the word that stands for a case.
pub const WORD: usize = 24;
/// What the whole list may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(1200);

const CLIENT: &str = include_str!("client.py");

/// One host, one place, three methods.
const POLICY: &str = r#"  raw:
    name: raw
    endpoints:
      - host: h1.bed.test
        ports: [8090, 8490]
        protocol: rest
        rules:
          - { allow: { method: GET, path: "/ok/**" } }
          - { allow: { method: POST, path: "/ok/**" } }
    binaries: [ { path: "/**", allow_foreign_code: true } ]"#;

fn main() -> ExitCode {
    bed::harness::main(
        "wire",
        Path::new(COFFERDAM),
        bed::cases![
            messages_on_every_road.within(PATIENCE),
            paths_on_every_road.within(PATIENCE),
            tunnels_lead_where_they_say.within(PATIENCE),
            frames_never_become_lines.within(PATIENCE),
            the_list_is_long,
        ],
    )
}

fn messages_on_every_road(stage: &Stage) -> Result<()> {
    try_all(stage, &messages::cases())
}

fn paths_on_every_road(stage: &Stage) -> Result<()> {
    try_all(stage, &paths::cases())
}

fn tunnels_lead_where_they_say(stage: &Stage) -> Result<()> {
    try_all(stage, &tunnels::cases())
}

fn frames_never_become_lines(stage: &Stage) -> Result<()> {
    try_all(stage, &h2::cases())
}

fn the_list_is_long(_: &Stage) -> Result<()> {
    let all = [messages::cases(), paths::cases(), tunnels::cases(), h2::cases()].concat();
    let attacks = all.iter().filter(|case| !matches!(case.expect, Expect::Arrives { .. })).count();
    ensure!(attacks >= 200, "{attacks} attacks");
    bed::harness::say(&format!("    {attacks} attacks, {} that must arrive", all.len() - attacks));
    let names: std::collections::BTreeSet<&str> = all.iter().map(|case| case.name.as_str()).collect();
    ensure!(names.len() == all.len(), "two cases have one name");
    Ok(())
}

/// What the client says of a case.
struct Told {
    got: Vec<u8>,
    end: String,
}

impl Told {
    fn status(&self) -> Option<u16> {
        let text = String::from_utf8_lossy(&self.got);
        text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
    }
}

fn try_all(stage: &Stage, cases: &[Case]) -> Result<()> {
    let python = program("python3")?;
    let words: Vec<String> = (0..cases.len()).map(|n| word(stage, n)).collect();
    let lines: Vec<String> =
        cases.iter().zip(&words).map(|(case, word)| case.line(word).to_string()).collect();
    stage.write("workspace/cases.jsonl", lines.join("\n"))?;
    stage.script("client.py", CLIENT)?;
    let file = policy_file(stage, POLICY)?;
    let space = workspace(stage);
    let arguments = [
        "run",
        "--quiet",
        "--policy",
        &file,
        "--workspace",
        &space,
        "--",
        &python,
        "-B",
        "/sandbox/client.py",
    ];
    let done = finish(stage.cofferdam(arguments), PATIENCE)?.expect_code(0)?;
    let told = read_told(&done.out())?;
    let wrong: Vec<String> = cases
        .iter()
        .zip(&words)
        .filter_map(|(case, word)| {
            let why = judge(stage, case, word, told.get(word)).err()?;
            Some(format!("{}: {why:#}", case.name))
        })
        .collect();
    ensure!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    Ok(())
}

fn word(stage: &Stage, number: usize) -> String {
    let mut word = format!("{}n{number}", stage.marker());
    while word.len() < WORD {
        word.push('z');
    }
    assert_eq!(word.len(), WORD, "{word}");
    word
}

fn read_told(out: &str) -> Result<BTreeMap<String, Told>> {
    out.lines()
        .map(|line| {
            let value: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
            let got = STANDARD.decode(text("got"))?;
            Ok((text("id"), Told { got, end: text("end") }))
        })
        .collect()
}

fn judge(stage: &Stage, case: &Case, word: &str, told: Option<&Told>) -> Result<()> {
    let told = told.context("the client says nothing of it")?;
    let arrived = stage.world().recorder().streams_with(word);
    let text: Vec<String> = arrived.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
    let shown = format!(
        "the client got {:?} ({}), the server {text:?}",
        String::from_utf8_lossy(&told.got).chars().take(300).collect::<String>(),
        told.end
    );
    ensure!(told.end != "patience", "it did not end: {shown}");
    // None of these may arrive as a request line, in any case.
    let secret = ["GET", "POST", "get"].map(|method| format!("{method} /secret/"));
    ensure!(
        !text.iter().any(|t| secret.iter().any(|s| t.contains(s))),
        "the secret place was reached: {shown}"
    );
    match &case.expect {
        Expect::Refused(statuses) => {
            ensure!(told.status().is_some_and(|s| statuses.contains(&s)), "not one of {statuses:?}: {shown}");
            ensure!(arrived.is_empty(), "it arrived: {shown}");
        }
        Expect::Silent => {
            ensure!(told.status() != Some(200), "it was answered: {shown}");
            ensure!(arrived.is_empty(), "it arrived: {shown}");
        }
        Expect::Cut => {
            ensure!(told.status() != Some(200), "it was answered: {shown}");
        }
        Expect::Arrives { has, hasnt } => {
            ensure!(!arrived.is_empty(), "it did not arrive: {shown}");
            let all = text.concat();
            for part in has {
                ensure!(all.contains(&part.replace("{M}", word)), "without {part:?}: {shown}");
            }
            for part in hasnt {
                ensure!(!all.contains(&part.replace("{M}", word)), "with {part:?}: {shown}");
            }
        }
    }
    Ok(())
}
