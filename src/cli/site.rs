//! Where a sandbox's cages are built: everything about one that no policy says, so that the builder can build another later, in an
//! hour or in months.
//!
//! Its process has no environment by then, and another working directory: every path here is absolute.

use std::path::{Path, PathBuf};

use agent::plan::{CagePlan, OtherRoot};
use policy::Policy;

use crate::cli::other_root::Chosen;
use crate::cli::out::Failure;
use crate::cli::reach::Apart;
use crate::cli::{cage, policies};

/// See the module.
#[derive(Debug)]
pub struct Site {
    /// The directory of all sandboxes.
    pub state: PathBuf,
    /// The sandbox's own.
    pub dir: PathBuf,
    /// Another root than the host's, as it was named.
    pub root: Option<PathBuf>,
    /// What the agents must have no hand in.
    pub apart: Apart,
    /// Say nothing but errors.
    pub quiet: bool,
}

impl Site {
    /// The cage of another policy in the place of `before`.
    ///
    /// # Errors
    /// What a start under that policy is refused for; a writable root, which two cages can't share.
    pub fn cage(&self, before: &CagePlan, policy: &Policy) -> Result<CagePlan, Failure> {
        let mut cage = before.clone();
        let chosen = Chosen {
            state: &self.state,
            dir: &self.dir,
            ids: cage.ids,
            hidden: &before.hidden,
            quiet: self.quiet,
        };
        cage::shape(&mut cage, policies::paths(policy), self.root.as_deref(), &chosen)?;
        if [&before.root, &cage.root].into_iter().flatten().any(has_overlay) {
            // Both would be there at once for a moment: the kernel leaves undefined what is read then (overlayfs, "upperdir in use").
            return Err(Failure::refused(
                "agents that write to another root can't move from cage to cage: stop the sandbox, and start it with the new policy",
            ));
        }
        self.apart.keep_out(&cage)?;
        cage::check(&cage)?;
        Ok(cage)
    }
}

fn has_overlay(root: &OtherRoot) -> bool {
    root.overlay.is_some()
}

/// A path as it stays, wherever the process that has it goes.
///
/// # Errors
/// Without a working directory.
pub fn lasting(path: &Path) -> Result<PathBuf, Failure> {
    Ok(std::path::absolute(path)?)
}
