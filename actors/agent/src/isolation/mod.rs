//! The walls, one file each. What is in `root` and its neighbours happens once, in init; the rest happens in
//! every child between fork and exec, in the order of `init::confine`.
//!
//! Nothing here decides policy: a file takes its part of the plan and makes the kernel hold it, or returns
//! the error.

pub mod capabilities;
pub mod devices;
pub mod etc;
pub mod gate;
pub(crate) mod judge;
pub mod landlock;
pub mod landlock_versions;
pub mod limits;
pub mod links;
pub mod masks;
pub mod namespaces;
pub mod network;
pub mod other_root;
pub(crate) mod paths;
pub(crate) mod priority;
pub(crate) mod root;
pub(crate) mod sabotage;
pub mod seccomp;
pub mod shown;
pub mod stock;
pub mod terminal;
pub mod user;
mod witness;

use std::path::Path;

/// Places where the cage has something of its own, whatever the host has there: never bound from the host.
const PROVIDED: &[&str] = &[
    crate::plan::WORKSPACE,
    crate::plan::RUN_DIR,
    "/tmp",
    "/var/tmp",
    "/var/log",
    "/proc",
    "/sys",
    "/dev",
    "/etc",
    "/var/run",
];

/// Those of [`PROVIDED`] in which everything is the cage's own.
const WHOLE: &[&str] = &["/proc", "/sys", "/dev", crate::plan::RUN_DIR, crate::plan::WORKSPACE];

/// Whether a path of the policy is, or lies in, something that the cage makes itself.
///
/// `/etc` is: ours is reduced, and single files of the host's are added to it by name.
#[must_use]
pub fn is_provided(path: &Path) -> bool {
    PROVIDED.iter().any(|own| path == Path::new(own)) || WHOLE.iter().any(|own| path.starts_with(own))
}
