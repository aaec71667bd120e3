//! `cofferdam demo`: the tour. A small private internet, a sandbox in it, and an agent that tries every
//! control. Then cofferdam's own parts are killed one after another while the agent counts.
//!
//! Everything shown is real: the sandbox is started by the same `run` that a person types, the agent's words
//! come through the redactor, and the parts are killed by `cofferdam crash` and SIGKILL. Nothing leaves the
//! machine.

mod agent;
mod kills;
mod show;
mod stage;

use std::io::{self, BufRead, BufReader};
use std::time::Duration;

use crate::console::fault;
use crate::failure::{Failure, Outcome, REFUSED};

use agent::Line;
use show::Show;
use stage::Stage;

/// Runs the demo's agent, in a sandbox only: what it tries is meant to be refused. Returns the exit code.
pub fn agent_main() -> u8 {
    if !in_a_cage() {
        fault(
            "this is the demo's agent, which tries what a sandbox refuses: `cofferdam demo` starts it in one",
        );
        return REFUSED;
    }
    match agent::main() {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// Whether this process is confined as an agent is: by a seccomp filter, with no_new_privs, and with the
/// directory of what agents trust in place.
fn in_a_cage() -> bool {
    nix::sys::prctl::get_no_new_privs().unwrap_or(false)
        && ::agent::isolation::seccomp::is_loaded().unwrap_or(false)
        && std::path::Path::new(::agent::plan::RUN_DIR).is_dir()
}

/// How far the agent counts before the first part is killed, so that there is something to compare with.
const WARM_UP: u64 = 10;

/// Runs the tour; with `keep`, its state directory stays. The exit code is 0 only if every verdict was as it
/// should be, every part came back, no number was missing and the audit log is intact.
pub fn demo(keep: bool) -> Outcome {
    let show = Show::new();
    let told = |e: anyhow::Error| Failure::refused(format!("demo: {e:#}"));
    let mut stage = Stage::set(keep).map_err(told)?;
    let result = tour(&show, &mut stage);
    let code = match result {
        Ok(true) => 0,
        Ok(false) => REFUSED,
        Err(error) => return Err(told(error)),
    };
    if keep {
        show.aside(&format!("state kept in {}", stage.dir().display()))?;
    }
    Ok(code)
}

fn tour(show: &Show, stage: &mut Stage) -> anyhow::Result<bool> {
    show.opening()?;
    let mut sandbox = stage.start()?;
    let mut lines = BufReader::new(sandbox.output()?).lines();
    let surprises = walls(show, stage, &mut lines)?;
    let (gaps, lost) = kills::every_part(show, stage, &mut sandbox, lines)?;
    show.verdict(surprises, gaps, lost)?;
    let intact = stage.verify_audit(show)?;
    Ok(surprises == 0 && gaps == 0 && lost == 0 && intact)
}

/// Shows the agent's attempts. Returns how many verdicts were not as they should be.
fn walls(
    show: &Show,
    stage: &Stage,
    lines: &mut impl Iterator<Item = io::Result<String>>,
) -> anyhow::Result<usize> {
    let mut surprises = 0;
    let mut layer = String::new();
    for line in lines {
        match serde_json::from_str::<Line>(&line?)? {
            Line::Tried { layer: of, what, meant_to_work, worked, answer } => {
                if of != layer {
                    show.layer(&of)?;
                    layer = of;
                }
                // An unmasked token in the output means that redaction failed, whatever the agent reports.
                let right = meant_to_work == worked && !answer.contains("ghp_a1B2");
                surprises += usize::from(!right);
                show.tried(&what, worked, right, &answer)?;
            }
            Line::Count(n) if n >= WARM_UP => break,
            Line::Count(_) => {}
        }
    }
    show.rules(&stage.decisions()?)?;
    Ok(surprises)
}

/// How long anything in the demo may take before it counts as failed.
pub const PATIENCE: Duration = Duration::from_secs(10);
