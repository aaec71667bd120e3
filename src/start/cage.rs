//! The plan of a sandbox's cage, as far as the configuration and the command line determine it.

use std::path::PathBuf;

use agent::isolation::capabilities::REQUIRE_CAP_DROP;
use agent::launch::Foundation;
use agent::plan::{CagePlan, Hidden, Limits};

use crate::config;
use crate::plan::{explicit_listeners, inference_listeners};
use crate::start::Wanted;

/// Returns the plan that the configuration and the command line determine. The policy's part is added by
/// [`crate::site::shape`].
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
