//! `/dev`: six harmless devices, pseudo-terminals and shared memory of the sandbox's own, nothing else.

use super::root::{Failed, at, attach, make_dir, make_file};
use crate::plan::{CagePlan, Control};
use crate::sys;
use crate::sys::mount::Attributes;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Bound from the host (a user namespace can't make devices).
pub const DEVICES: &[&str] =
    &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
/// May be missing: `/dev/tty` only leads to the process's own terminal, and a host without it has no
/// terminals.
const OPTIONAL: &[&str] = &["/dev/tty"];
/// Programs expect these.
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Bounds the pseudo-terminals that are open at a time: all devpts mounts share the machine's limit
/// (`kernel.pty.max`, 4096 less a reserve).
const MAX_TERMINALS: &CStr = c"256";

/// Mount points in `/dev`.
const DIRECTORIES: &[&str] = &["/dev/pts", "/dev/shm"];

/// Returns what is in `/dev` and wasn't made by the cage.
///
/// # Errors
/// When it can't be listed.
pub(crate) fn strangers() -> std::io::Result<Vec<String>> {
    let ours: Vec<&str> = DEVICES
        .iter()
        .chain(DIRECTORIES)
        .chain(super::masks::COVERS)
        .copied()
        .chain(LINKS.iter().map(|(_, link)| *link))
        .collect();
    let mut strangers = Vec::new();
    for entry in std::fs::read_dir("/dev")? {
        let path = entry?.path();
        if !ours.iter().any(|own| path == Path::new(own)) {
            strangers.push(path.display().to_string());
        }
    }
    Ok(strangers)
}

#[derive(Debug)]
pub(super) struct Collected {
    devices: Vec<(&'static str, OwnedFd)>,
    terminals: OwnedFd,
    shared_memory: OwnedFd,
}

impl Collected {
    pub(super) fn collect(limits: &crate::plan::Limits) -> Result<Self, Failed> {
        let safe = Attributes::NO_SUID.and(Attributes::NO_EXEC);
        let mut devices = Vec::new();
        for path in DEVICES {
            // Read-only protects the node (its mode and times); the device itself can still be read and
            // written.
            match sys::mount::clone_tree(Path::new(path), safe.and(Attributes::READ_ONLY)) {
                Ok(mount) => devices.push((*path, mount)),
                Err(_) if OPTIONAL.contains(path) => {}
                Err(error) => return Err(at(format!("binding {path}"))(error)),
            }
        }
        let terminals = sys::mount::new_filesystem(
            c"devpts",
            &[(c"mode", c"0620"), (c"ptmxmode", c"0666"), (c"max", MAX_TERMINALS)],
            safe,
        )
        .map_err(at("mounting a devpts of its own"))?;
        let shared_memory = sys::mount::new_filesystem(
            c"tmpfs",
            &[(c"mode", c"1777"), (c"size", &super::root::number(limits.shm_size())), (c"nr_inodes", c"64k")],
            safe.and(Attributes::NO_DEV),
        )
        .map_err(at("mounting /dev/shm"))?;
        Ok(Self { devices, terminals, shared_memory })
    }

    pub(super) fn build(&self, plan: &CagePlan, root: BorrowedFd<'_>) -> Result<(), Failed> {
        make_dir(Path::new("/dev"), 0o755)?;
        if plan.sabotaged(Control::Devices) {
            make_file(Path::new("/dev/mem"), &[])?;
        }
        for (path, mount) in &self.devices {
            make_file(Path::new(path), &[])?;
            attach(root, mount.as_fd(), path)?;
        }
        for (path, mount) in [("/dev/pts", &self.terminals), ("/dev/shm", &self.shared_memory)] {
            make_dir(Path::new(path), 0o755)?;
            attach(root, mount.as_fd(), path)?;
        }
        for (target, link) in LINKS {
            std::os::unix::fs::symlink(target, link).map_err(at(*link))?;
        }
        Ok(())
    }
}
