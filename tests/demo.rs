//! `cofferdam demo`: the tour, from the first word to the last, within half a minute, plain when piped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use bed::Stage;
use bed::stage::finish;

use common::COFFERDAM;

fn main() -> ExitCode {
    bed::harness::main("demo", Path::new(COFFERDAM), bed::cases![the_tour.alone()])
}

/// The promise for an optimised build; an unoptimised one gets twice as long.
const TOUR: Duration = Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 30 });

fn the_tour(stage: &Stage) -> Result<()> {
    let mut command = stage.command(stage.binary());
    command.arg("demo");
    let done = finish(command, Duration::from_secs(120))?.expect_code(0)?;
    let told = done.out();
    ensure!(!told.contains('\u{1b}'), "colours in a pipe");
    for part in [
        "network",
        "filesystem",
        "process",
        "inference",
        "proxy",
        "gateway",
        "policy",
        "redactor",
        "operator",
        "telemetry",
        "supervisor",
    ] {
        ensure!(told.contains(part), "not a word about {part}:\n{told}");
    }
    ensure!(done.took < TOUR, "the tour took {:?}", done.took);
    ensure!(stage.cofferdam_processes().is_empty(), "something is left behind");
    bed::harness::say(&format!("    the tour took {:.1?}", done.took));
    Ok(())
}
