//! The cage of a sandbox as a plan: what the configuration says of it, and what a policy says.

use std::path::{Path, PathBuf};

use agent::isolation::capabilities::REQUIRE_CAP_DROP;
use agent::launch::Foundation;
use agent::plan::{CagePlan, Hidden, Limits, Paths};

use crate::config;
use crate::failure::Failure;
use crate::plan::{explicit_listeners, inference_listeners};
use crate::start::Wanted;
use crate::start::other_root::Chosen;

/// What the configuration and the command line say. What a policy says is missing, see [`shape`].
pub fn of_wanted(
    wanted: &Wanted,
    name: &str,
    foundation: Foundation,
    workspace: PathBuf,
    hidden: Hidden,
) -> CagePlan {
    let mut cage = CagePlan::new(name, foundation.ids, workspace);
    cage.hidden = hidden;
    cage.enforcement = match wanted.enforcement {
        config::Enforcement::Strict => agent::plan::Enforcement::Strict,
        config::Enforcement::BestEffort => agent::plan::Enforcement::BestEffort,
    };
    cage.limits = limits(&wanted.limits);
    cage.require_cap_drop = std::env::var_os(REQUIRE_CAP_DROP).is_some_and(|value| value == "1");
    (cage.witness, cage.sabotage) = (foundation.witness, foundation.sabotage);
    cage.listeners = [explicit_listeners(), inference_listeners()].concat();
    cage
}

/// Puts in what a policy says: its `paths`, in the root that was `named` where one was, with a place for what it lets agents change there.
///
/// # Errors
/// A root that can't be one.
pub fn shape(
    cage: &mut CagePlan,
    paths: Paths,
    named: Option<&Path>,
    chosen: &Chosen<'_>,
) -> Result<(), Failure> {
    cage.paths = paths;
    cage.root = named.map(|named| chosen.locate(named, &mut cage.paths)).transpose()?;
    Ok(())
}

/// Whether a plan can be carried out, as far as that can be told without trying.
///
/// # Errors
/// Why not.
pub fn check(cage: &CagePlan) -> Result<(), Failure> {
    cage.check().map_err(|e| Failure::refused(e.to_string()))
}

fn limits(wanted: &config::Limits) -> Limits {
    Limits {
        memory: wanted.memory.map(|bytes| bytes.as_u64()),
        pids: wanted.pids.map(u64::from),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to 0..=4096 before"
        )]
        cpu_millis: wanted.cpu.map(|cpus| (cpus.clamp(0.0, config::CPU_MAX) * 1000.0) as u32),
        disk_read: wanted.disk_read.map(|bytes| bytes.as_u64()),
        disk_write: wanted.disk_write.map(|bytes| bytes.as_u64()),
        ..Limits::default()
    }
}
