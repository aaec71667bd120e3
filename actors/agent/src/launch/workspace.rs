//! Rooted: the workspace as a detached mount, made by root, since the gateway may not be able to walk to it,
//! and since its files may belong to someone else: then an id-mapped mount shows them as the sandbox user's.

use super::{LaunchError, system};
use crate::plan::{CagePlan, Id, Ids};
use crate::sys;
use crate::sys::mount::Attributes;
use crate::sys::process::Cloned;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// The workspace's mount to hand to init; `None` when rootless, where init opens the path itself.
pub(super) fn detached(plan: &CagePlan) -> Result<Option<OwnedFd>, LaunchError> {
    let Ids::Rooted { sandbox, .. } = plan.ids else { return Ok(None) };
    let path = plan.workspace.display().to_string();
    let fault = |what: &'static str, mend: String| {
        let path = path.clone();
        move |source: io::Error| LaunchError::Workspace { path, what, source, mend }
    };
    let chown = format!("chown -R {}:{} {path}, or choose another workspace", sandbox.uid, sandbox.gid);
    let mend = "create it first; a link that stands in its way was put there since the sandbox started";
    let (tree, meta) = sys::beneath::clone_real(&plan.workspace, Attributes::NONE)
        .map_err(fault("can't be opened", mend.into()))?;
    if !meta.is_dir() {
        return Err(fault("isn't a directory", "name one".into())(io::ErrorKind::NotADirectory.into()));
    }
    let owner = Id { uid: meta.uid(), gid: meta.gid() };
    if owner.uid == sandbox.uid {
        return Ok(Some(tree));
    }
    // What the agent writes into a directory of root's belongs to root outside, as in an ordinary user's
    // directory it belongs to that user. It can't be set-uid: the seccomp list refuses those mode bits, in
    // every call that takes a mode.
    let mapping =
        mapping_namespace(owner, sandbox).map_err(system("making a user namespace for the workspace"))?;
    sys::mount::set_id_map(tree.as_fd(), mapping.as_fd())
        .map_err(fault("belongs to another user, and its filesystem takes no id-mapped mount", chown))?;
    Ok(Some(tree))
}

/// Makes a user namespace that maps the owner's ids on disk to the sandbox user's (mount_setattr(2),
/// ID-mapped mounts).
pub(super) fn mapping_namespace(owner: Id, sandbox: Id) -> io::Result<OwnedFd> {
    let (read, write) = sys::fd::pipe()?;
    match sys::process::clone(libc::CLONE_NEWUSER)? {
        Cloned::Child => {
            // Lives until the parent has opened its namespace: the end of file on the pipe, also by the
            // parent's death, ends it.
            drop(write);
            let _ = sys::fd::read(read.as_fd(), &mut [0]);
            sys::process::exit_now(0)
        }
        Cloned::Parent { pid, .. } => {
            let made =
                std::fs::write(format!("/proc/{pid}/uid_map"), format!("{} {} 1", owner.uid, sandbox.uid))
                    .and_then(|()| {
                        std::fs::write(
                            format!("/proc/{pid}/gid_map"),
                            format!("{} {} 1", owner.gid, sandbox.gid),
                        )
                    })
                    .and_then(|()| std::fs::File::open(format!("/proc/{pid}/ns/user")));
            drop((read, write));
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
            made.map(OwnedFd::from)
        }
    }
}
