//! Snapshots: what a sandbox keeps between runs, packed into one file, and unpacked into a sandbox again.
//!
//! ```text
//! manifest    what a file says of itself
//! place       the file, whole or not at all
//! make        a stopped sandbox → a file that was read back
//! look        a file, judged to its end → what it says, and what it would have trusted
//! bring       a file → a sandbox: beside the others, then one rename
//! ```
//! A snapshot never holds credentials (nothing of a sandbox holds one), nor sockets, locks, user ids or
//! anything else that belongs to a running instance. It holds no policies and no `cofferdam.yaml`, which are
//! the operator's own files elsewhere. Nor does it hold the changes to another root (`root/`): whiteouts and
//! attributes there control overlayfs, and a file from someone else must not. The `agent` crate packs and
//! unpacks the trees ([`agent::snapshot`]).

mod bring;
mod look;
mod make;
mod manifest;
mod place;

use std::path::{Component, Path};

use agent::confine::Reach;
use agent::plan::{Id, Ids};
use agent::snapshot::{Kinds, MAX_MEMORY, Select, SnapshotError};

pub use bring::bring;
pub use look::{Found, look};
pub use make::{Made, Wanted, make};
pub use manifest::{Manifest, Origin};

use crate::failure::Failure;
use crate::state::files;

/// The member with cofferdam's own records of a sandbox.
const STATE: &str = "state.tar.gz";
/// The member with the agent's files.
const WORKSPACE: &str = "workspace.tar.gz";
/// All members, in the order in which they are stored.
const MEMBERS: &[&str] = &[STATE, WORKSPACE];

/// Called with the number of bytes done, by the process that reads. Shows progress on a terminal about once a
/// second.
pub type Meter = fn(u64);

/// Whether an entry of a sandbox's directory belongs in a snapshot: answers for good, counts of budgets, and
/// the record.
fn is_kept(path: &Path, directory: bool) -> bool {
    let names: Option<Vec<&str>> = path
        .components()
        .map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    match (names.as_deref(), directory) {
        (Some([name]), true) => *name == files::LOGS,
        (Some([files::LOGS, log]), false) => crate::logs::is_a_log(log),
        (Some([name]), false) => is_in_force(name) || crate::ids::is_of_log(name),
        _ => false,
    }
}

/// Whether a restored sandbox goes on with this file. Everything else is only a record of what happened
/// before.
fn is_in_force(name: &str) -> bool {
    [crate::state::APPROVALS, gateway::budgets::FILE].contains(&name)
}

fn records() -> Select<'static> {
    Select { kinds: Kinds::Plain, belongs: &is_kept }
}

fn everything() -> Select<'static> {
    Select { kinds: Kinds::All, belongs: &|_, _| true }
}

/// Returns the user who owns cofferdam's records.
fn keeper(ids: Ids) -> Id {
    match ids {
        Ids::Rootless { operator } => operator,
        Ids::Rooted { gateway, .. } => gateway,
    }
}

/// Returns the user who owns the agent's files.
fn owner(ids: Ids) -> Id {
    match ids {
        Ids::Rootless { operator } => operator,
        Ids::Rooted { sandbox, .. } => sandbox,
    }
}

/// Returns the reach of a process that reads one file and makes nothing.
fn reads(source: &std::fs::File) -> Reach<'_> {
    Reach { source, into: None, out: None, reads_all: false, largest: 0, memory: MAX_MEMORY }
}

fn failure(error: SnapshotError) -> Failure {
    Failure::refused(mended(error).to_string())
}

/// Adds the remedy to an error, if there is one.
fn mended(error: SnapshotError) -> SnapshotError {
    match error {
        SnapshotError::NoRoom { .. } => {
            SnapshotError::Refused(format!("{error}: raise it with --max-size, or take something away"))
        }
        SnapshotError::TooMuch { .. } => {
            SnapshotError::Refused(format!("{error}: no --max-size raises that"))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_kept_of_a_sandboxs_directory() {
        for kept in [
            "approvals.json",
            "budgets.json",
            "audit.jsonl",
            "audit-000000000001.jsonl",
            "audit.head",
            "logs/a.log",
            "logs/a.log.3",
        ] {
            assert!(is_kept(Path::new(kept), false), "{kept}");
            assert!(!is_kept(Path::new(kept), true), "{kept}");
        }
        assert!(is_kept(Path::new("logs"), true) && !is_kept(Path::new("logs"), false));
        for not in [
            "lock",
            "control.sock",
            "build.sock",
            "ids",
            "places",
            "workspace",
            "root",
            "root/audit.jsonl",
            "logs/sub/a.log",
            "logs/x",
            "approvals-unreadable.json",
            "../audit.jsonl",
            "/audit.jsonl",
            "",
        ] {
            assert!(!is_kept(Path::new(not), false) && !is_kept(Path::new(not), true), "{not}");
        }
    }
}
