//! The agent's root: an empty, read-only tmpfs with what the policy names bound into it, and nothing else of
//! the host.
//!
//! Two phases, so that no step of the second can still see the host: [`Collection::collect`] opens everything
//! that is to be shown as detached mounts, already read-only, nosuid and nodev; then the root changes and the
//! old one is gone; then [`Collection::build`] attaches what was collected. Nothing is resolved by path on
//! the host after that.

use super::paths::{self, Links, Modes, Shown};
use super::{devices, etc, masks, other_root};
use crate::launch::Handed;
use crate::plan::{CagePlan, Control, RUN_DIR, WORKSPACE};
use crate::sys;
use crate::sys::mount::Attributes;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where the new root may be attached for the moment before it becomes the root: any directory does.
const ATTACH_POINTS: &[&str] = &["/tmp", "/usr", "/var", "/etc"];

const SAFE: Attributes = Attributes::NO_SUID.and(Attributes::NO_DEV);
const SAFE_READ_ONLY: Attributes = SAFE.and(Attributes::READ_ONLY);
/// A file that everyone may read by its mode and by the mounts, but that no Landlock rule names: if it can be
/// read, Landlock isn't in force.
pub(crate) const LANDLOCK_WITNESS: &str = "/run/landlock-witness";

/// A step that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) step: String,
    pub(crate) source: io::Error,
    pub(crate) mend: Option<&'static str>,
}

/// Names the step of an error.
pub(crate) fn at(step: impl Into<String>) -> impl FnOnce(io::Error) -> Failed {
    let step = step.into();
    move |source| Failed { step, source, mend: None }
}

/// Everything that will be in the new root, opened but not attached.
#[derive(Debug)]
pub(crate) struct Collection {
    root: OwnedFd,
    /// Sorted by path, so that parents come before what lies in them.
    shown: Vec<Shown>,
    links: Links,
    etc: etc::Collected,
    devices: devices::Collected,
    workspace: OwnedFd,
    proc: OwnedFd,
    temporary: OwnedFd,
    run: OwnedFd,
    cgroup: Option<OwnedFd>,
}

/// What init keeps of the built root.
#[derive(Debug)]
pub(crate) struct Built {
    /// A second, writable mount of the run directory; no path leads to it.
    pub(crate) run: OwnedFd,
    /// Where something of the host is bound.
    pub(crate) shown: Vec<PathBuf>,
    /// The writable paths among these, in the workspace and in `/etc`.
    pub(crate) writable: Vec<PathBuf>,
}

impl Collection {
    /// Opens everything. The mount namespace must be ours.
    pub(crate) fn collect(plan: &CagePlan, handed: Handed) -> Result<Self, Failed> {
        sys::mount::make_all_private().map_err(at("making mounts private"))?;
        let modes = Modes::of(plan);
        // Runs inside the other root, if there is one.
        let look = || {
            let agents = paths::agents_places(plan);
            Ok((paths::collect(plan, modes, &agents)?, etc::Collected::collect(plan, modes, &agents)))
        };
        let ((mut shown, links), etc) = match &plan.root {
            None => look()?,
            Some(root) => other_root::within(root, handed.root, look)?,
        };
        shown.extend(paths::collect_sys(modes)?);
        if plan.sabotaged(Control::Root) {
            let mount = sys::mount::clone_tree(Path::new("/"), Attributes::NONE).map_err(at("binding /"))?;
            shown.push(Shown { path: "/mnt".into(), mount, directory: true, writable: false });
        }
        let workspace = match handed.workspace {
            Some(mount) => mount,
            None => {
                sys::beneath::clone_real(&plan.workspace, Attributes::NONE)
                    .map_err(at(format!("opening the workspace {}", plan.workspace.display())))?
                    .0
            }
        };
        sys::mount::set_attributes(workspace.as_fd(), modes.writable, true).map_err(at("workspace"))?;
        let size = number(plan.limits.tmp_size());
        let inodes = number(plan.limits.tmp_inodes());
        Ok(Self {
            root: tmpfs(c"0755", c"16m", OWN_INODES, SAFE.and(Attributes::NO_EXEC))?,
            shown,
            links,
            etc,
            devices: devices::Collected::collect(&plan.limits)?,
            workspace,
            proc: fresh_proc(plan)?,
            temporary: tmpfs(c"1777", &size, &inodes, SAFE)?,
            run: tmpfs(c"0755", c"32m", OWN_INODES, SAFE.and(Attributes::NO_EXEC))?,
            cgroup: sys::mount::new_filesystem(c"cgroup2", &[], modes.read_only.and(Attributes::NO_EXEC))
                .ok(),
        })
    }

    /// Changes the root and attaches everything. After this nothing of the host is reachable by any path.
    pub(crate) fn build(self, plan: &CagePlan) -> Result<Built, Failed> {
        let host = open_root().map_err(at("opening /"))?;
        let spot = ATTACH_POINTS.iter().find(|path| Path::new(path).is_dir()).copied().unwrap_or("/");
        sys::mount::attach(self.root.as_fd(), host.as_fd(), Path::new(spot))
            .map_err(at("attaching the new root"))?;
        sys::mount::enter_root(self.root.as_fd()).map_err(at("pivot_root"))?;
        drop(host);
        let root = self.root.as_fd();

        make_dir(Path::new("/tmp"), 0o1777)?;
        if !plan.sabotaged(Control::PrivateTmp) {
            attach(root, self.temporary.as_fd(), "/tmp")?;
        }
        for (path, target) in &self.links {
            make_parent(path)?;
            std::os::unix::fs::symlink(target, path).map_err(at(format!("linking {}", path.display())))?;
        }
        for Shown { path, mount, directory, .. } in &self.shown {
            place(root, mount.as_fd(), path, *directory)?;
        }
        make_dir(Path::new(WORKSPACE), 0o755)?;
        attach(root, self.workspace.as_fd(), WORKSPACE)?;
        let mut writable = paths::mount_workspace(plan, self.workspace.as_fd())?;
        writable.extend(self.shown.iter().filter(|shown| shown.writable).map(|shown| shown.path.clone()));
        for (path, mode) in [("/run", 0o755), ("/proc", 0o555), ("/sys", 0o555)] {
            make_dir(Path::new(path), mode)?;
        }
        // What the policy shows of /var is left as it is.
        let is_shown = |path: &Path| self.shown.iter().any(|shown| path.starts_with(&shown.path));
        if !is_shown(Path::new("/var/log")) {
            make_dir(Path::new("/var/log"), 0o755)?;
        }
        make_file(Path::new(LANDLOCK_WITNESS), b"Landlock isn't in force here.\n")?;
        for (target, path) in [("/tmp", "/var/tmp"), ("/run", "/var/run")] {
            // A policy's path below it has made it a directory already.
            if !Path::new(path).exists() && !is_shown(Path::new(path)) {
                std::os::unix::fs::symlink(target, path).map_err(at(format!("linking {path}")))?;
            }
        }
        attach(root, self.proc.as_fd(), "/proc")?;
        if let Some(cgroup) = &self.cgroup {
            make_dir(Path::new("/sys/fs/cgroup"), 0o555)?;
            // The kernel may make the filesystem and still refuse to attach it here: an empty directory does
            // as well.
            let _ = sys::mount::attach(cgroup.as_fd(), root, Path::new("sys/fs/cgroup"));
        }
        self.devices.build(plan, root)?;
        let run = self.build_run(root)?;
        writable.extend(self.etc.build(plan, root)?);
        if !plan.sabotaged(Control::MaskedProc) {
            masks::apply(root)?;
        }
        if !plan.sabotaged(Control::ReadOnlyMounts) {
            sys::mount::set_attributes(root, Attributes::READ_ONLY, false).map_err(at("sealing the root"))?;
        }
        let shown =
            self.shown.iter().map(|shown| shown.path.clone()).filter(|path| path != Path::new("/mnt"));
        Ok(Built { run, shown: shown.collect(), writable })
    }

    /// The run directory: one filesystem, a read-only mount for the agents and a writable one for init alone.
    fn build_run(&self, root: BorrowedFd<'_>) -> Result<OwnedFd, Failed> {
        let dir = self.run.as_fd();
        // Empty until the supervisor sends the roots, which it does before it starts an agent.
        for name in [crate::plan::CA_BUNDLE, crate::plan::JAVA_STORE] {
            open_run_file(dir, name).map_err(at("certificate bundle"))?;
        }
        make_dir(Path::new(RUN_DIR), 0o755)?;
        attach(root, dir, RUN_DIR)?;
        // Only now: before Linux 6.15 a mount that isn't attached can't be copied.
        let writable = sys::mount::clone_tree_at(dir, Attributes::NONE).map_err(at("run directory"))?;
        sys::mount::set_attributes(dir, Attributes::READ_ONLY, false).map_err(at("run directory"))?;
        Ok(writable)
    }
}

/// Opens a file of the run directory for writing, at its beginning; it is made if it isn't there.
pub(crate) fn open_run_file(dir: BorrowedFd<'_>, name: &str) -> io::Result<std::fs::File> {
    use nix::fcntl::{OFlag, openat};
    use nix::sys::stat::Mode;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(dir, name, flags, Mode::from_bits_truncate(0o644))?.into())
}

/// Inode limit of the filesystems in which only init makes files.
const OWN_INODES: &CStr = c"64k";

/// A number as a mount option.
pub(super) fn number(value: u64) -> CString {
    // No digit is a NUL.
    CString::new(value.to_string()).unwrap_or_default()
}

fn tmpfs(mode: &CStr, size: &CStr, inodes: &CStr, attributes: Attributes) -> Result<OwnedFd, Failed> {
    sys::mount::new_filesystem(
        c"tmpfs",
        &[(c"mode", mode), (c"size", size), (c"nr_inodes", inodes)],
        attributes,
    )
    .map_err(at("making a tmpfs"))
}

fn fresh_proc(plan: &CagePlan) -> Result<OwnedFd, Failed> {
    let proc = sys::mount::new_filesystem(c"proc", &[], SAFE.and(Attributes::NO_EXEC)).map_err(|source| Failed {
        step: "mounting a fresh /proc".into(),
        mend: (source.raw_os_error() == Some(libc::EPERM)).then_some(
            "the /proc outside is masked, as container engines do; start the container with an unmasked /proc \
             (Docker: --security-opt systempaths=unconfined; Kubernetes: procMount: Unmasked)",
        ),
        source,
    })?;
    if !plan.sabotaged(Control::UserNamespaces) {
        // If it can't be set, the proof notices.
        let _ = set_sysctl(proc.as_fd(), "user/max_user_namespaces", 0);
    }
    bound_what_is_counted(proc.as_fd(), plan);
    sys::mount::set_attributes(proc.as_fd(), SAFE_READ_ONLY, false).map_err(at("/proc"))?;
    Ok(proc)
}

/// Bounds what the kernel counts per user of the machine, or per namespace without a bound of its own. A
/// bound that the kernel doesn't let be set in a namespace stays as it is.
///
/// Without root, inotify's instances and watches are counted as the operator's too, who keeps half of them
/// (namespaces(7), /proc/sys/user). SysV shared memory, semaphores and messages stay when their last user is
/// gone: they get bounds like those of `/dev/shm`.
fn bound_what_is_counted(proc: BorrowedFd<'_>, plan: &CagePlan) {
    for (own, machines) in [
        ("user/max_inotify_instances", "fs/inotify/max_user_instances"),
        ("user/max_inotify_watches", "fs/inotify/max_user_watches"),
    ] {
        if let Some(all) = sysctl(proc, machines) {
            let _ = set_sysctl(proc, own, all.div_ceil(2));
        }
    }
    let _ = set_sysctl(proc, "kernel/shmall", plan.limits.shm_size() / PAGE);
    let _ = set_sysctl(proc, "kernel/msgmni", MESSAGE_QUEUES);
    let _ = write_sysctl(proc, "kernel/sem", SEMAPHORES);
}

/// Bytes of a page, in which SysV shared memory is counted; larger pages only make the bound larger.
const PAGE: u64 = 4096;
/// SysV message queues: each holds 16 KiB, which take a megabyte if each byte is a message of its own.
const MESSAGE_QUEUES: u64 = 32;
/// SysV semaphores (proc_sys_kernel(5)): in a set, in all, operations at once, sets. Some two megabytes.
const SEMAPHORES: &str = "250 32000 100 128";

fn sysctl(proc: BorrowedFd<'_>, name: &str) -> Option<u64> {
    use nix::fcntl::{OFlag, openat};
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(proc, format!("sys/{name}").as_str(), flags, nix::sys::stat::Mode::empty()).ok()?;
    let mut text = [0; 32];
    let length = sys::fd::read(file.as_fd(), &mut text).ok()?;
    std::str::from_utf8(text.get(..length)?).ok()?.trim().parse().ok()
}

/// Sets a number that is this namespace's own.
fn set_sysctl(proc: BorrowedFd<'_>, name: &str, value: u64) -> io::Result<()> {
    write_sysctl(proc, name, &value.to_string())
}

fn write_sysctl(proc: BorrowedFd<'_>, name: &str, value: &str) -> io::Result<()> {
    use nix::fcntl::{OFlag, openat};
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(proc, format!("sys/{name}").as_str(), flags, nix::sys::stat::Mode::empty())?;
    sys::fd::write_all(file.as_fd(), value.as_bytes())
}

fn open_root() -> io::Result<OwnedFd> {
    Ok(std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open("/")?
        .into())
}

/// Attaches a mount of the host at the same path. That may lie where agents write, and another cage's still
/// do: so no link is followed, which could lead to any other place of this root.
pub(super) fn place(
    root: BorrowedFd<'_>,
    mount: BorrowedFd<'_>,
    path: &Path,
    is_directory: bool,
) -> Result<(), Failed> {
    let below = path.strip_prefix("/").unwrap_or(path);
    sys::beneath::make_place(root, below, is_directory)
        .and_then(|place| sys::mount::attach(mount, place.as_fd(), Path::new("")))
        .map_err(at(format!("attaching {}", path.display())))
}

pub(super) fn attach(
    root: BorrowedFd<'_>,
    mount: BorrowedFd<'_>,
    path: impl AsRef<Path>,
) -> Result<(), Failed> {
    let path = path.as_ref();
    let below = path.strip_prefix("/").unwrap_or(path);
    sys::mount::attach(mount, root, below).map_err(at(format!("attaching {}", path.display())))
}

pub(super) fn make_dir(path: &Path, mode: u32) -> Result<(), Failed> {
    let step = || at(format!("making {}", path.display()));
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(step())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(step())
}

pub(super) fn make_parent(path: &Path) -> Result<(), Failed> {
    match path.parent() {
        Some(parent) if !parent.exists() => make_dir(parent, 0o755),
        _ => Ok(()),
    }
}

pub(super) fn make_file(path: &Path, bytes: &[u8]) -> Result<(), Failed> {
    let write = || -> io::Result<()> {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
        file.write_all(bytes)
    };
    write().map_err(at(format!("making {}", path.display())))
}
