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

/// The promise for an optimised build on a machine that does nothing else.
const TOUR: Duration = Duration::from_secs(30);
/// An unoptimised one, or a machine that does other things besides, gets so many times as long.
const SLACK: u32 = if cfg!(debug_assertions) { 8 } else { 4 };

fn the_tour(stage: &Stage) -> Result<()> {
    let mut command = stage.command(stage.binary());
    command.arg("demo");
    let done = finish(command, TOUR * SLACK * 2)?.expect_code(0)?;
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
    ensure!(done.took < TOUR * SLACK, "the tour took {:?}", done.took);
    ensure!(stage.cofferdam_processes().is_empty(), "something is left behind");
    bed::harness::say(&format!("    the tour took {:.1?}", done.took));
    Ok(())
}
