//! `cofferdam demo`: the tour from beginning to end, in which every part is killed and comes back; plain text
//! when piped.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test fails by panic"
)]

mod common;

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use bed::Stage;
use bed::stage::finish;

use common::COFFERDAM;

fn main() -> ExitCode {
    bed::harness::main(
        "demo",
        Path::new(COFFERDAM),
        bed::cases![what_is_a_part_of_it_alone_does_nothing, the_tour.alone()],
    )
}

/// Time-out of the tour: one that takes this long hangs.
const NEVER: Duration = Duration::from_secs(600);

/// What is killed, in that order.
const KILLED: &[&str] =
    &["proxy", "gateway", "policy", "redactor", "operator", "telemetry", "-9 the supervisor"];

/// The demo's agent attacks every wall, and so must not run outside a sandbox; nor may a supervisor run
/// without its heart.
fn what_is_a_part_of_it_alone_does_nothing(stage: &Stage) -> Result<()> {
    for role in ["__demo-agent", "cofferdam: supervisor"] {
        let mut command = stage.command(stage.binary());
        // The one by its first argument, the other by its title.
        match role.starts_with("__") {
            true => command.arg(role),
            false => command.arg0(role),
        };
        let done = finish(command, NEVER)?.expect_code(125)?;
        ensure!(
            done.out().is_empty() && done.err().lines().count() == 1,
            "{role}: {}{}",
            done.out(),
            done.err()
        );
    }
    Ok(())
}

fn the_tour(stage: &Stage) -> Result<()> {
    let mut command = stage.command(stage.binary());
    command.arg("demo");
    let done = finish(command, NEVER)?.expect_code(0)?;
    let told = done.out();
    ensure!(!told.contains('\u{1b}'), "colours in a pipe");
    let lines: Vec<&str> = told.lines().map(str::trim).collect();
    for layer in ["network", "filesystem", "process", "inference", "redaction"] {
        ensure!(lines.contains(&layer), "no wall of {layer}:\n{told}");
    }
    ensure!(!told.contains("not as it should be"), "{told}");
    ensure!(!done.err().contains("ERROR"), "{}", done.err());
    // Only kills of parts: the agent itself also tries to kill the sandbox's init, and that line has no
    // count.
    let of_a_part = |line: &&str| line.contains("the agent counted on to ");
    let kills: Vec<&str> =
        lines.iter().filter_map(|line| line.strip_prefix("kill ")).filter(of_a_part).collect();
    ensure!(kills.len() == KILLED.len(), "{} parts were killed, not {}:\n{told}", kills.len(), KILLED.len());
    let mut counted = 0;
    for (kill, part) in kills.iter().zip(KILLED) {
        let (killed, rest) = kill.split_once("   ").unwrap_or((kill, ""));
        ensure!(killed == *part, "{killed} was killed where {part} would be:\n{told}");
        ensure!(rest.trim_start().starts_with("back  "), "{part} is not back:\n{told}");
        let (_, to) = rest.split_once("the agent counted on to ").unwrap();
        let to: u64 = to.split(';').next().unwrap().parse()?;
        ensure!(to > counted, "the agent did not count on over {part}:\n{told}");
        counted = to;
    }
    ensure!(
        told.contains(
            "supervisors started after the first: 1; the agent is still the process that was started"
        ),
        "{told}"
    );
    let verdicts = &lines[lines.len().saturating_sub(4)..];
    let [as_they_should, numbers, parts, record] = verdicts else { anyhow::bail!("no verdicts:\n{told}") };
    ensure!(*as_they_should == "every verdict as it should be", "{told}");
    ensure!(*numbers == "not one number missing", "{told}");
    ensure!(*parts == "every killed part came back", "{told}");
    ensure!(unbroken(record), "the record:\n{told}");
    ensure!(stage.cofferdam_processes().is_empty(), "something is left behind");
    bed::harness::say(&format!("    the tour took {:.1?}", done.took));
    Ok(())
}

/// "43 records, 1 to 43, unbroken; the last hash is 6e091cfdf419…", of more than none.
fn unbroken(verdict: &str) -> bool {
    let Some((count, rest)) = verdict.split_once(" records, 1 to ") else { return false };
    let Some((last, hash)) = rest.split_once(", unbroken; the last hash is ") else { return false };
    let hash = hash.trim_end_matches('…');
    let is_hash = !hash.is_empty() && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    count == last && is_hash && count.parse::<u64>().is_ok_and(|count| count > KILLED.len() as u64)
}
