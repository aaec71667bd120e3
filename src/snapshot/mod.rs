//! What a sandbox leaves between runs, in one file, and a sandbox again of that.
//!
//! ```text
//! manifest    what a file says of itself
//! place       the file, whole or not at all
//! make        a stopped sandbox → a file that was read back
//! look        a file, judged to its end → what it says, and what it would have trusted
//! bring       a file → a sandbox: beside the others, then one rename
//! ```
//! Never in it: credentials (nothing of a sandbox holds one), sockets, locks, user ids, whatever belongs to a
//! running instance; policies and `cofferdam.yaml`, which are the operator's own files elsewhere; and what
//! was changed in another root (`root/`), since there whiteouts and attributes steer overlayfs, and who hands
//! one a file must not. How trees are packed and unpacked is the `agent` crate's ([`agent::snapshot`]).

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

/// The member that has cofferdam's own records of a sandbox.
const STATE: &str = "state.tar.gz";
/// The member that has the agent's files.
const WORKSPACE: &str = "workspace.tar.gz";
/// In the order in which they stand.
const MEMBERS: &[&str] = &[STATE, WORKSPACE];

/// A word a second or so, on a terminal, with the bytes that are done: called by whatever process reads.
pub type Meter = fn(u64);

/// Of a sandbox's directory, what is kept: answers for good, counts of budgets, and the record.
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

/// What a sandbox goes on with; the rest is what became of it before.
fn is_in_force(name: &str) -> bool {
    [crate::state::APPROVALS, gateway::budgets::FILE].contains(&name)
}

fn records() -> Select<'static> {
    Select { kinds: Kinds::Plain, belongs: &is_kept }
}

fn everything() -> Select<'static> {
    Select { kinds: Kinds::All, belongs: &|_, _| true }
}

/// Whom cofferdam's records belong to.
fn keeper(ids: Ids) -> Id {
    match ids {
        Ids::Rootless { operator } => operator,
        Ids::Rooted { gateway, .. } => gateway,
    }
}

/// Whom the agent's files belong to.
fn owner(ids: Ids) -> Id {
    match ids {
        Ids::Rootless { operator } => operator,
        Ids::Rooted { sandbox, .. } => sandbox,
    }
}

/// Of a process that reads and makes nothing.
fn reads(source: &std::fs::File) -> Reach<'_> {
    Reach { source, into: None, out: None, reads_all: false, largest: 0, memory: MAX_MEMORY }
}

fn failure(error: SnapshotError) -> Failure {
    Failure::refused(mended(error).to_string())
}

/// With the mend, where there is one.
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
