//! Which namespaces a process lives in, by the kernel's own names for them (namespaces(7)).

use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;

/// The kinds that a sandbox has of its own.
pub const KINDS: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// The namespaces of one process, in the order of [`KINDS`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces([PathBuf; KINDS.len()]);

impl Namespaces {
    /// This process's.
    ///
    /// # Errors
    /// Without a readable `/proc`, or on a kernel that lacks a kind.
    pub fn read() -> io::Result<Self> {
        let mut names = Self::default();
        for (kind, name) in KINDS.iter().zip(&mut names.0) {
            *name = std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
        }
        Ok(names)
    }

    /// The kinds that both have in common.
    #[must_use]
    pub fn shared_with(&self, other: &Self) -> Vec<&'static str> {
        let pairs = self.0.iter().zip(&other.0);
        KINDS.into_iter().zip(pairs).filter(|(_, (one, two))| one == two).map(|(kind, _)| kind).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_shares_all_with_itself() {
        let own = Namespaces::read().unwrap();
        assert_eq!(own.shared_with(&own), KINDS);
        assert_eq!(own.shared_with(&Namespaces::default()), [""; 0]);
    }
}
