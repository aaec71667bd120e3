//! `--root`: what the policy names is looked up in another tree than the host's.
//!
//! While it looks the paths up, init has that tree as its root (chroot(2)). So the kernel resolves every path
//! and every link inside the tree, absolute ones too, and the same code opens them as on the host. What is
//! only the host's (devices, /proc, /sys, the workspace) is collected while init has its own root.
//!
//! Where the policy makes something of the tree writable, an overlay of the sandbox's own lies over it:
//! neither a shared image nor the operator's directory is ever written to.

use super::root::{Failed, at};
use crate::plan::OtherRoot;
use crate::sys;
use crate::sys::mount::Attributes;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Where the tree is attached while it is looked at: any directory does, since nobody else has this mount
/// namespace.
const ATTACH_POINTS: &[&str] = &["/tmp", "/usr", "/var", "/etc"];
/// Subdirectory of an overlay's directory for what was changed.
pub const UPPER: &str = "upper";
/// Subdirectory of an overlay's directory for overlayfs itself; empty between mounts.
pub const WORK: &str = "work";

const SAFE: Attributes = Attributes::NO_SUID.and(Attributes::NO_DEV);

/// Mounts of the tree and of the overlay's directory, made by root where init may not be able to walk to
/// them.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    pub(crate) tree: Option<OwnedFd>,
    pub(crate) overlay: Option<OwnedFd>,
}

/// Runs `look` with the tree as the root of this process, then restores the old root.
pub(super) fn within<T>(
    root: &OtherRoot,
    mounts: Mounts,
    look: impl FnOnce() -> Result<T, Failed>,
) -> Result<T, Failed> {
    let opened = |given: Option<OwnedFd>, path: &Path| match given {
        Some(mount) => Ok(mount),
        None => sys::beneath::clone_real(path, Attributes::NONE)
            .map(|(mount, _)| mount)
            .map_err(at(format!("opening {}", path.display()))),
    };
    // Both before anything is attached, which could cover them.
    let tree = opened(mounts.tree, &root.path)?;
    sys::mount::set_attributes(tree.as_fd(), SAFE, true).map_err(at("the root"))?;
    let overlay = root.overlay.as_deref().map(|path| opened(mounts.overlay, path)).transpose()?;
    let host = std::fs::File::open("/").map_err(at("opening /"))?;
    let spot = ATTACH_POINTS.iter().find(|path| Path::new(path).is_dir()).copied().unwrap_or("/");
    let place = attach_all(spot, &tree, overlay.as_ref())?;
    let seen = enter(Path::new(&place)).and_then(|()| look());
    // If this fails, the sandbox would go on in the wrong root: return no result then.
    leave(&host, spot).map_err(at("leaving the root that was looked at"))?;
    seen
}

/// Attaches the tree, and the overlay (if there is one) over it; returns the path of the result.
fn attach_all(spot: &str, tree: &OwnedFd, overlay: Option<&OwnedFd>) -> Result<String, Failed> {
    let step = || at("attaching the root");
    let scratch = sys::mount::new_filesystem(c"tmpfs", &[(c"mode", c"0755"), (c"size", c"64k")], SAFE)
        .map_err(step())?;
    let host = std::fs::File::open("/").map_err(step())?;
    let below = Path::new(spot).strip_prefix("/").unwrap_or(Path::new(spot));
    sys::mount::attach(scratch.as_fd(), host.as_fd(), below).map_err(step())?;
    for name in ["tree", "changes", "merged"] {
        std::fs::create_dir(Path::new(spot).join(name)).map_err(step())?;
    }
    sys::mount::attach(tree.as_fd(), scratch.as_fd(), Path::new("tree")).map_err(step())?;
    refuse_proc(&format!("{spot}/tree"))?;
    let Some(overlay) = overlay else { return Ok(format!("{spot}/tree")) };
    sys::mount::attach(overlay.as_fd(), scratch.as_fd(), Path::new("changes")).map_err(step())?;
    let merged = merge(spot).map_err(|source| Failed {
        step: "mounting an overlay, which the policy's writable paths in the root need".into(),
        source,
        mend: Some(
            "Linux 5.11 or newer, and a state directory (--state DIR) on a filesystem that overlayfs can write to, \
             such as ext4, xfs or btrfs; or take those paths out of read_write",
        ),
    })?;
    sys::mount::attach(merged.as_fd(), scratch.as_fd(), Path::new("merged")).map_err(step())?;
    Ok(format!("{spot}/merged"))
}

/// Fails if a /proc is mounted in the tree. Its links (`/proc/self/fd/4`) lead to open files whatever the
/// root is, so a link of the tree into that /proc would lead out of the tree.
fn refuse_proc(tree: &str) -> Result<(), Failed> {
    let mounts = std::fs::read("/proc/self/mountinfo").map_err(at("reading the mounts of the root"))?;
    match proc_below(&mounts, tree) {
        None => Ok(()),
        Some(place) => Err(Failed {
            step: format!("looking into the root, in which a /proc is mounted at {place}"),
            source: io::ErrorKind::PermissionDenied.into(),
            mend: Some("unmount it: a sandbox has a /proc of its own"),
        }),
    }
}

/// `36 35 98:0 /mnt1 /mnt2 ro shared:1 - ext3 /dev/root rw` (proc_pid_mountinfo(5)): the fifth field is the
/// mount point, the one after the dash the type.
fn proc_below(mounts: &[u8], tree: &str) -> Option<String> {
    let below = |line: &[u8]| {
        let line = String::from_utf8_lossy(line).into_owned();
        let (place, kind) = line.split_once(" - ")?;
        let place = place.split(' ').nth(4)?.strip_prefix(tree)?;
        (kind.split(' ').next() == Some("proc") && (place.is_empty() || place.starts_with('/')))
            .then(|| place.to_owned())
    };
    mounts.split(|byte| *byte == b'\n').find_map(below)
}

fn merge(spot: &str) -> io::Result<OwnedFd> {
    let path = |below: String| CString::new(format!("{spot}/{below}")).map_err(io::Error::other);
    let (lower, upper, work) =
        (path("tree".into())?, path(format!("changes/{UPPER}"))?, path(format!("changes/{WORK}"))?);
    sys::mount::new_filesystem(
        c"overlay",
        // overlayfs.rst, "Permission model": in a user namespace its attributes are user.*, not trusted.*.
        &[(c"lowerdir", &lower), (c"upperdir", &upper), (c"workdir", &work), (c"userxattr", c"")],
        SAFE,
    )
}

fn enter(place: &Path) -> Result<(), Failed> {
    let go = || -> nix::Result<()> {
        nix::unistd::chroot(place)?;
        nix::unistd::chdir("/")
    };
    go().map_err(io::Error::from).map_err(at("looking into the root"))
}

fn leave(host: &std::fs::File, spot: &str) -> io::Result<()> {
    nix::unistd::fchdir(host)?;
    nix::unistd::chroot(".")?;
    nix::mount::umount2(spot, nix::mount::MntFlags::MNT_DETACH)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::proc_below;

    #[test]
    fn a_proc_in_the_tree_is_found() {
        let of =
            |line: &str| proc_below(format!("22 1 0:5 / / rw - ext4 x rw\n{line}\n").as_bytes(), "/tmp/tree");
        for found in [
            "36 35 0:4 / /tmp/tree/proc rw,nosuid - proc proc rw",
            "36 35 0:4 / /tmp/tree/a\\040b rw shared:2 master:1 - proc none rw",
            "36 35 0:4 /sys /tmp/tree rw - proc proc rw",
        ] {
            assert!(of(found).is_some(), "{found}");
        }
        for other in [
            "36 35 0:4 / /proc rw - proc proc rw",
            "36 35 0:4 / /tmp/trees/proc rw - proc proc rw",
            "36 35 0:4 / /tmp/tree/proc rw - tmpfs proc rw",
            "",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
