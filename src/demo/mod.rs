//! `cofferdam demo`: the tour. A private little internet, a sandbox in it, an agent that walks up to every
//! wall, and then cofferdam's own parts killed one after another while the agent counts.
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

/// What the agent does, and counts to, inside the demo's sandbox. Nowhere else: what it tries is meant to
/// fail.
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

/// Whether this process is confined as an agent is: by a filter, without the way to new privileges, and with
/// what agents trust in its place.
fn in_a_cage() -> bool {
    nix::sys::prctl::get_no_new_privs().unwrap_or(false)
        && ::agent::isolation::seccomp::is_loaded().unwrap_or(false)
        && std::path::Path::new(::agent::plan::RUN_DIR).is_dir()
}

/// How long the agent counts before the first part is killed, so that there is a before.
const WARM_UP: u64 = 10;

/// Gives the tour; `keep` leaves its state directory. The exit code is 0 only when every verdict was as it
/// should be and no number was missing.
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

/// The agent at every wall; gives how many verdicts were not as they should be.
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
                // A token that came through whole would be a failed redaction, whatever the agent says.
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
