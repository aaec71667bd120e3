//! Everything about a sandbox's cages that no policy says, so that the builder can build another one later,
//! in an hour or in months.
//!
//! By then the builder's process has no environment and another working directory, so every path here is
//! absolute.

pub mod apart;
pub mod other_root;
pub mod overlay;
pub mod places;
pub mod policies;
pub mod reach;

use std::path::{Path, PathBuf};

use agent::isolation::shown;
use agent::plan::CagePlan;
use policy::Policy;

use crate::failure::Failure;
use apart::Apart;
use other_root::{Chosen, MOVES_NOT};

/// What the builder needs to build further cages; see the module.
#[derive(Debug)]
pub struct Site {
    /// The directory of all sandboxes.
    pub state: PathBuf,
    /// The sandbox's own directory.
    pub dir: PathBuf,
    /// Another root than the host's, as it was named.
    pub root: Option<PathBuf>,
    /// The files that the agents must not touch.
    pub apart: Apart,
    /// Whether to print nothing but errors.
    pub quiet: bool,
}

impl Site {
    /// Returns the plan of the cage that replaces `before` under another policy.
    ///
    /// # Errors
    /// What a start under that policy would be refused for, or a writable root, which two cages can't share.
    pub fn cage(&self, before: &CagePlan, policy: &Policy) -> Result<CagePlan, Failure> {
        if before.root.as_ref().is_some_and(|root| root.overlay.is_some()) {
            return Err(Failure::refused(MOVES_NOT));
        }
        let mut cage = before.clone();
        let (ids, hidden) = (cage.ids, &before.hidden);
        let (changes, before) = (None, &before.written_before);
        let chosen = Chosen { state: &self.state, changes, ids, hidden, before, quiet: self.quiet };
        shape(&mut cage, policy, self.root.as_deref(), &chosen)?;
        self.apart.keep_out(&shown::places(&cage))?;
        check(&cage)?;
        Ok(cage)
    }
}

/// Sets the policy's paths and ports in the plan and, if another root is `named`, that root and the directory
/// that keeps agents' changes to it.
///
/// # Errors
/// A root that can't be one.
pub fn shape(
    cage: &mut CagePlan,
    policy: &Policy,
    named: Option<&Path>,
    chosen: &Chosen<'_>,
) -> Result<(), Failure> {
    cage.paths = policies::paths(policy);
    cage.captured_ports = policies::ports(policy);
    cage.root = named.map(|named| chosen.locate(named, &mut cage.paths)).transpose()?;
    Ok(())
}

/// Checks whether a plan can be carried out, as far as that can be told without trying.
///
/// # Errors
/// Why not.
pub fn check(cage: &CagePlan) -> Result<(), Failure> {
    cage.check().map_err(|e| Failure::refused(e.to_string()))
}
