//! `--root`: finds the directory, or has the pinned image unpacked once. Gives the sandbox a directory for
//! its changes if the policy lets it make any.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use agent::image::{Store, Wanted};
use agent::plan::{Hidden, Ids, OtherRoot, Paths};
use sha2::{Digest, Sha256};

use crate::console::{say, warn};
use crate::failure::Failure;
use crate::site::overlay::Changes;
use crate::site::places;

/// Directories that this machine always has and a small image may lack. The policy's rules for them become
/// optional: a missing one shows nothing, so no harm is done.
const NOT_IN_EVERY_IMAGE: &[&str] = &["/usr", "/bin", "/sbin", "/lib"];

/// The refusal of a move that would have two cages share an overlay.
pub const MOVES_NOT: &str = "agents that write to another root can't move from cage to cage: stop the sandbox, and start it with the new policy";

/// What the choice of a root depends on.
pub struct Chosen<'a> {
    /// The directory of all sandboxes.
    pub state: &'a Path,
    /// Where the agents' changes to a root go. `None` if other agents may be using them: two cages can't
    /// share an overlay (overlayfs, "upperdir in use").
    pub changes: Option<Changes<'a>>,
    /// The ids of the sandbox's users.
    pub ids: Ids,
    /// The state that no root may show.
    pub hidden: &'a Hidden,
    /// Where the agents of earlier cages could write.
    pub before: &'a BTreeSet<PathBuf>,
    /// Whether to print nothing but errors.
    pub quiet: bool,
}

impl Chosen<'_> {
    /// Finds the root that was named.
    pub fn locate(&self, named: &Path, paths: &mut Paths) -> Result<OtherRoot, Failure> {
        let (path, key, image) = match Wanted::parse(named).map_err(as_failure)? {
            Wanted::Directory(path) => {
                let path = directory(&path, self.before)?;
                self.shows_no_state(&path)?;
                let key = key(&path);
                (path, key, false)
            }
            Wanted::Mutable { path, tag } => {
                return Err(as_failure(Store::refuse_mutable(&path, tag.as_deref(), self.ids)));
            }
            Wanted::Image(reference) => {
                let begin = || {
                    if !self.quiet {
                        say(&format!("unpacking {}, once for all sandboxes", reference.path.display()));
                    }
                };
                let unpacked =
                    Store::below(self.state).fetch(&reference, self.ids, begin).map_err(as_failure)?;
                if let Some(left_out) = unpacked.left_out.filter(|_| !self.quiet) {
                    warn(&left_out);
                }
                (fs::canonicalize(unpacked.path)?, reference.digest.hex(), true)
            }
        };
        for rule in &mut paths.read_only {
            rule.optional |= NOT_IN_EVERY_IMAGE.iter().any(|path| rule.path == Path::new(path));
        }
        let writable = paths.writable_in_root().next().is_some();
        let overlay = match (writable, self.changes) {
            (false, _) => None,
            (true, Some(changes)) => Some(changes.over(&key)?),
            (true, None) => return Err(Failure::refused(MOVES_NOT)),
        };
        Ok(OtherRoot { path, image, overlay })
    }

    /// Refuses a root that holds cofferdam's state or lies in it, as for a workspace.
    fn shows_no_state(&self, root: &Path) -> Result<(), Failure> {
        self.hidden.seen_at(root).map_or(Ok(()), |state| {
            Err(Failure::refused(format!(
                "--root {}: cofferdam keeps its own state in {}: the agent would speak to a control socket; name a directory \
                 elsewhere",
                root.display(),
                state.display()
            )))
        })
    }
}

/// Returns the key under which the changes to a directory are kept. It is the same for every build of
/// cofferdam.
fn key(directory: &Path) -> String {
    let hash = hex::encode(Sha256::digest(directory.as_os_str().as_bytes()));
    format!("dir-{hash:.32}")
}

fn as_failure(error: agent::image::ImageError) -> Failure {
    Failure::refused(format!("--root: {error}"))
}

fn directory(path: &Path, before: &BTreeSet<PathBuf>) -> Result<PathBuf, Failure> {
    let shown = path.display();
    let real = places::follow(path, before).map_err(|e| Failure::refused(format!("--root {shown}: {e}")))?;
    if real == Path::new("/") {
        return Err(Failure::refused("--root /: that is the default: leave --root out"));
    }
    Ok(real)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directorys_key_is_no_other_in_another_build() {
        assert_eq!(key(Path::new("/srv/root")), "dir-8f155b2d9af6ebf77f715ea48df50920");
    }
}
