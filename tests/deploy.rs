//! The files of `deploy/` hold: units verify, alerts fire when they should, images are pinned.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Mode, PATIENCE, finish};

use common::{COFFERDAM, program};

fn main() -> ExitCode {
    bed::harness::main(
        "deploy",
        Path::new(COFFERDAM),
        bed::cases![
            the_unit_verifies.only(Mode::Rootless),
            the_units_capabilities_are_enough.only(Mode::Rooted),
            alerts_are_proven.only(Mode::Rootless),
            alerts_name_only_what_exists.only(Mode::Rootless),
            images_are_pinned_by_digest.only(Mode::Rootless),
        ],
    )
}

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

fn the_unit_verifies(stage: &Stage) -> Result<()> {
    let verify = program("systemd-analyze")?;
    // The installed path isn't there on a build machine; everything else is judged as it stands.
    let text = std::fs::read_to_string(deploy("systemd/cofferdam@.service"))?;
    ensure!(text.contains("ExecStart=/usr/bin/cofferdam up "), "{text}");
    let text = text.replace("/usr/bin/cofferdam", &stage.binary().display().to_string());
    let unit = stage.write("cofferdam@.service", text)?;
    let mut command = stage.command(verify);
    command.args(["verify", "--man=no"]).arg(&unit);
    let done = finish(command, PATIENCE)?;
    ensure!(done.code() == 0 && !done.err().contains("cofferdam@"), "{} {}", done.code(), done.err());
    Ok(())
}

/// A rooted sandbox under exactly the bounding set and no_new_privs of the unit.
fn the_units_capabilities_are_enough(stage: &Stage) -> Result<()> {
    let setpriv = program("setpriv")?;
    let text = std::fs::read_to_string(deploy("systemd/cofferdam@.service"))?;
    let line =
        text.lines().find_map(|l| l.strip_prefix("CapabilityBoundingSet=")).context("no bounding set")?;
    let set: Vec<String> = line
        .split_whitespace()
        .map(|cap| format!("+{}", cap.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    let mut command = stage.command(setpriv);
    command.env("COFFERDAM_STATE", stage.state());
    command.args(["--no-new-privs", &format!("--bounding-set=-all,{}", set.join(","))]);
    command.arg(stage.binary()).args(["run", "--quiet", "--", "id", "-u"]);
    let done = finish(command, PATIENCE)?.expect_code(0)?;
    ensure!(done.out() == "1000\n", "{}", done.out());
    Ok(())
}

fn promtool(stage: &Stage, args: &[&str]) -> Result<()> {
    let promtool = program("promtool")?;
    let mut command = stage.command(promtool);
    command.args(args).current_dir(deploy("prometheus"));
    // The repository may lie where only its owner looks.
    let command = if stage.uid() == nix::unistd::geteuid().as_raw() { command } else { as_ourselves(args)? };
    finish(command, PATIENCE)?.expect_code(0)?;
    Ok(())
}

fn as_ourselves(args: &[&str]) -> Result<std::process::Command> {
    let mut command = std::process::Command::new(program("promtool")?);
    command.args(args).current_dir(deploy("prometheus"));
    Ok(command)
}

fn alerts_are_proven(stage: &Stage) -> Result<()> {
    promtool(stage, &["check", "config", "prometheus.yml"])?;
    promtool(stage, &["check", "rules", "cofferdam.rules.yml"])?;
    promtool(stage, &["test", "rules", "cofferdam.rules.test.yml"])
}

fn alerts_name_only_what_exists(_stage: &Stage) -> Result<()> {
    let rules = std::fs::read_to_string(deploy("prometheus/cofferdam.rules.yml"))?;
    let names = include_str!("../actors/telemetry/src/metrics/names.rs");
    let mut found = 0;
    for word in rules
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|w| w.starts_with("cofferdam_"))
    {
        let base = word.trim_end_matches("_bucket");
        ensure!(names.contains(&format!("\"{base}\"")), "{word} is no metric of ours");
        found += 1;
    }
    ensure!(found > 10, "the rules name {found} metrics only");
    Ok(())
}

fn images_are_pinned_by_digest(_stage: &Stage) -> Result<()> {
    let text = std::fs::read_to_string(deploy("docker/Dockerfile"))?;
    let froms: Vec<&str> = text.lines().filter(|l| l.starts_with("FROM ")).collect();
    ensure!(froms.len() >= 2, "not multi-stage");
    for from in froms {
        let digest = from.split("@sha256:").nth(1).unwrap_or_default();
        let hex = digest.chars().take_while(char::is_ascii_hexdigit).count();
        ensure!(hex == 64, "{from}");
    }
    Ok(())
}
