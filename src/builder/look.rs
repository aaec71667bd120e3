//! Checks what a new policy names, before anything is built for it. A child does it, since a file system that
//! the policy leads to may never answer (a network file system whose server is gone). The builder waits for
//! the child up to [`LOOK_PATIENCE`], and no longer than the heart lives; then it takes the next wish.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::time::Instant;

use agent::isolation::shown;
use agent::launch::{Errand, MAX_ANSWER};
use agent::wire::Wire;
use serde::{Deserialize, Serialize};

use super::Work;
use super::wish::{Happened, Wish, wait_for};
use crate::children::end_child;
use crate::failure::Failure;
use crate::plan::Plan;
use crate::site::policies::{self, FILE_MAX};
use crate::site::reach;
use crate::waits::LOOK_PATIENCE;

/// The result of the check.
#[derive(Serialize, Deserialize)]
enum Seen {
    /// The policy says the same of the cage.
    Same,
    /// The plan of another cage, and the policy's warnings.
    Another(Box<Plan>, Vec<String>),
    /// No cage can be built for it: an exit code, and why.
    Refused(u8, String),
}

/// Returns the plan of another cage and the policy's warnings. `None` if the policy says the same about the
/// cage as the one in force.
pub(super) fn another(
    work: &Work<'_>,
    plan: &Plan,
    wish: Wish,
) -> Result<Option<(Plan, Vec<String>)>, Failure> {
    let told = |e: &dyn std::fmt::Display| Failure::refused(format!("looking at what the policy names: {e}"));
    let errand = Errand::begin(|| serde_json::to_vec(&see(work, plan, wish)).unwrap_or_default());
    let Errand { child, answer } = errand.map_err(|e| told(&e))?;
    let heard = hear(File::from(answer), work.heart, Instant::now() + LOOK_PATIENCE);
    // A child that can't be ended yet is reaped later.
    end_child(&child);
    match serde_json::from_slice(&heard.map_err(|e| told(&e))?).map_err(|e| told(&e))? {
        Seen::Same => Ok(None),
        Seen::Another(plan, warnings) => Ok(Some((*plan, warnings))),
        Seen::Refused(code, message) => Err(Failure { code, message }),
    }
}

fn hear(mut answer: File, heart: &Wire, by: Instant) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut part = [0; 16 << 10];
    while bytes.len() as u64 <= MAX_ANSWER {
        match wait_for(answer.as_fd(), heart, Some(by))? {
            Happened::Came => {}
            Happened::TimeIsUp => {
                return Err(io::Error::other(format!(
                    "no end within {} s: is a file system dead that it leads to?",
                    LOOK_PATIENCE.as_secs()
                )));
            }
            Happened::HeartGone => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        match answer.read(&mut part)? {
            0 => return Ok(bytes),
            length => bytes.extend_from_slice(part.get(..length).unwrap_or_default()),
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

fn see(work: &Work<'_>, plan: &Plan, wish: Wish) -> Seen {
    match look(work, plan, wish) {
        Ok(None) => Seen::Same,
        Ok(Some((plan, warnings))) => Seen::Another(Box::new(plan), warnings),
        Err(Failure { code, message }) => Seen::Refused(code, message),
    }
}

fn look(work: &Work<'_>, plan: &Plan, wish: Wish) -> Result<Option<(Plan, Vec<String>)>, Failure> {
    if wish.policy.len() as u64 > FILE_MAX {
        return Err(Failure::refused(format!("the policy is larger than {FILE_MAX} bytes")));
    }
    // Without colours: the text is read on another terminal than ours.
    let load = |source| policies::load(source).map_err(|errors| Failure::refused(errors.render(false)));
    let mut next = plan.clone();
    next.policy.name = wish.name;
    next.policy.text = wish.policy;
    next.cages_before += 1;
    let candidate = load(&next.policy)?;
    if load(&plan.policy)?.policy().static_changes(candidate.policy()).is_empty() {
        return Ok(None);
    }
    next.cage = work.site.cage(&plan.cage, candidate.policy())?;
    let warnings = candidate.warnings().items().iter().map(|item| item.message.clone());
    let warnings = warnings.chain(reach::answered(&shown::places(&next.cage))).collect();
    Ok(Some((next, warnings)))
}
