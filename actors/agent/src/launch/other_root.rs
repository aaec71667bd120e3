//! Rooted: another root and its overlay as detached mounts, made by root, since the gateway may not be able
//! to walk to them. The files of an image, and of any root that an overlay lies over, are shown as the
//! agent's own by an id-mapped mount.

use super::workspace::mapping_namespace;
use super::{LaunchError, system};
use crate::isolation::other_root::Mounts;
use crate::plan::{CagePlan, Id, Ids};
use crate::sys;
use crate::sys::mount::Attributes;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

/// The mounts to hand to init; none when rootless, where init opens the paths itself.
pub(super) fn detached(plan: &CagePlan) -> Result<Mounts, LaunchError> {
    let (Ids::Rooted { sandbox, .. }, Some(root)) = (plan.ids, &plan.root) else {
        return Ok(Mounts::default());
    };
    let fault = |what: &'static str, mend: &str| {
        let (path, mend) = (root.path.display().to_string(), mend.to_owned());
        move |source| LaunchError::Root { path, what, source, mend }
    };
    let (tree, meta) = sys::beneath::clone_real(&root.path, Attributes::NONE)
        .map_err(fault("can't be opened", "does it still exist?"))?;
    let owner = Id { uid: meta.uid(), gid: meta.gid() };
    if (root.image || root.overlay.is_some()) && owner.uid != sandbox.uid {
        let mapping =
            mapping_namespace(owner, sandbox).map_err(system("making a user namespace for the root"))?;
        let mapped = sys::mount::set_id_map(tree.as_fd(), mapping.as_fd());
        // Without the id map the agent still reads what everyone may read; only to change a file must it own
        // that.
        if root.overlay.is_some() {
            mapped.map_err(fault(
                "is to be writable, and its filesystem takes no id-mapped mount",
                "keep it on another filesystem, or take its paths out of read_write",
            ))?;
        }
    }
    let overlay = root
        .overlay
        .as_deref()
        .map(|path| sys::beneath::clone_real(path, Attributes::NONE).map(|(mount, _)| mount))
        .transpose()
        .map_err(fault("has an overlay that can't be opened", "does the state directory still exist?"))?;
    Ok(Mounts { tree: Some(tree), overlay })
}
