//! What init reports of a cage: how it came out, what was tried, and why it could not be built.

use serde::{Deserialize, Serialize};

use super::because;
use crate::plan::{Control, PlanError};

/// A cage that could not be built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum CageFailure {
    /// A step failed.
    #[error("{step}{}{}", because(*errno), mend.as_deref().map(|m| format!(" ({m})")).unwrap_or_default())]
    Step {
        /// What the step was.
        step: String,
        /// The kernel's reason; 0 when the step's own text says it.
        errno: i32,
        /// What the operator can do.
        mend: Option<String>,
    },
    /// A path of the policy isn't there.
    #[error("{0} doesn't exist here; mark it optional in the policy, or take it out")]
    MissingPath(String),
    /// A control is missing under `strict`.
    #[error(
        "{control} can't be enforced: {why}; run `cofferdam doctor`, or choose `--enforcement best-effort`"
    )]
    Missing {
        /// The control.
        control: Control,
        /// Why it is missing.
        why: String,
    },
    /// The proof found a hole.
    #[error("the cage doesn't hold: {}", .0.join("; "))]
    Unproven(Vec<String>),
    /// The plan itself is invalid.
    #[error("{0}")]
    Plan(PlanError),
}

/// How the cage came out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CageReport {
    /// Controls that are not enforced, with the reason (only under best effort).
    pub missing: Vec<Missing>,
    /// Landlock's ABI version in use, 0 when absent.
    pub landlock_abi: u32,
    /// What the probe tried.
    pub proof: Vec<Check>,
    /// Why connections to the world can't be captured, where they can't: then only programs that know a proxy
    /// have a way out.
    pub no_capture: Option<String>,
    /// Why refusals by the kernel behind the gate aren't seen, where that was wanted.
    pub no_witness: Option<String>,
    /// Microseconds from init's first instruction to a built cage.
    pub build_micros: u64,
    /// Microseconds of the proof.
    pub proof_micros: u64,
    /// The steps on the way, and when each was done (CLOCK_MONOTONIC in nanoseconds).
    pub steps: Vec<(String, u64)>,
}

/// A control that isn't enforced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Missing {
    /// The control.
    pub control: Control,
    /// Why it isn't enforced.
    pub why: String,
}

/// One thing that the probe tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// A short name, such as `mount` or `write /usr`.
    pub name: String,
    /// The control it stands for.
    pub control: Control,
    /// Whether it had to fail.
    pub must_fail: bool,
    /// 0 when it worked, else errno.
    pub errno: i32,
    /// Whether that result is right.
    pub right: bool,
}
