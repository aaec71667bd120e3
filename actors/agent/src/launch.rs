//! The heart's side of starting the two other processes.
//!
//! [`NewInit`] makes the sandbox's pid 1 by clone(2), without exec; [`exec_supervisor`] forks and executes
//! our own binary as the supervisor; [`in_child`] runs work in a process that then ends, so that all it
//! learnt is gone. All three require a single-threaded caller and return an error otherwise. The first two
//! wait only until the child has taken its first steps, and at most for [`INIT_PATIENCE`]; none of the three
//! processes can outlive the heart. Only a child of [`stay_behind`] can, to clean up.

pub mod cgroup;
mod elsewhere;
mod errand;
mod held;
mod new_init;
mod other_root;
mod proven;
mod stay;
mod workspace;

pub use errand::{Errand, MAX_ANSWER, in_child};
pub use held::{HeldSignals, pause};
pub(crate) use new_init::{
    AT_ONCE, FURNITURE_DESCRIPTORS, Furniture, Handed, MAX_FURNITURE, NO_NAMESPACES, READY,
};
pub use new_init::{Foundation, NewInit, Parent, clone_init};
pub use proven::{Unproven, proven};
pub use stay::stay_behind;

pub use crate::sys::process::user_has_processes;

use cgroup::{Cgroup, CgroupError};

use crate::plan::{Ids, PlanError};
use crate::sys;
use crate::sys::fd::AFTER_STREAMS;
use crate::sys::prctl::{Prctl, prctl};
use crate::sys::process::Cloned;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

/// How long an init may take to make its namespaces, and again to build its cage and prove it, and a
/// supervisor to be executed. Each takes milliseconds; a process that takes longer than this is stuck.
pub const INIT_PATIENCE: Duration = Duration::from_secs(30);

/// A started process; it is the caller's to wait for.
#[derive(Debug)]
pub struct Child {
    /// Its pid as the caller sees it.
    pub pid: i32,
    /// A descriptor that becomes readable when it ends (pidfd_open(2)), close-on-exec.
    pub pidfd: OwnedFd,
    /// Init's: the limits of the sandbox. Drop it, with the rest, only after waiting for the process.
    pub cgroup: Option<Cgroup>,
}

impl Child {
    /// Ends the process by SIGKILL; the caller must still wait for it. Uses the pidfd, since the pid may be
    /// another process's by now.
    pub fn kill(&self) {
        // If this fails, the process has ended already.
        let _ = sys::signals::send(self.pidfd.as_fd(), libc::SIGKILL);
    }
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The plan itself.
    #[error("{0}")]
    Plan(#[from] PlanError),
    /// The caller has threads: a fork would copy their locks.
    #[error("a process with {0} threads can't start a sandbox (a fault in cofferdam)")]
    Threads(u64),
    /// The kernel makes no user namespace for us.
    #[error(
        "the kernel refuses a new user namespace: {0}; check user.max_user_namespaces, \
         kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns, or start as root"
    )]
    UserNamespace(io::Error),
    /// The kernel makes none of the other namespaces, within a user namespace of ours.
    #[error(
        "the kernel refuses the sandbox's other namespaces: {0}; check user.max_mnt_namespaces, user.max_net_namespaces, \
         user.max_ipc_namespaces and user.max_uts_namespaces, which must allow one more, and whether a security module \
         (kernel.apparmor_restrict_unprivileged_userns) forbids them to an ordinary user"
    )]
    Namespaces(io::Error),
    /// The id maps were refused.
    #[error("can't write {file} of the sandbox: {source}; {mend}")]
    IdMap {
        /// `uid_map`, `gid_map` or `setgroups`.
        file: &'static str,
        /// The kernel's reason.
        source: io::Error,
        /// What to do.
        mend: &'static str,
    },
    /// The workspace can't be shown to the agent's user.
    #[error("workspace {path}: {what}: {source}; {mend}")]
    Workspace {
        /// The directory.
        path: String,
        /// What failed.
        what: &'static str,
        /// The kernel's reason.
        source: io::Error,
        /// What to do.
        mend: String,
    },
    /// The root can't be shown.
    #[error("root {path}: {what}: {source}; {mend}")]
    Root {
        /// The directory.
        path: String,
        /// What failed.
        what: &'static str,
        /// The kernel's reason.
        source: io::Error,
        /// What to do.
        mend: String,
    },
    /// Limits were asked for that can't be had.
    #[error("limits can't be enforced: {0}")]
    Cgroup(#[from] CgroupError),
    /// The child ended before its first step was done.
    #[error("the new process ended at once, at: {0}")]
    Died(String),
    /// The child lives, but doesn't finish its first step.
    #[error("the new process hangs: within {} s it was not done with {step}", INIT_PATIENCE.as_secs())]
    Stuck {
        /// The step that isn't finished.
        step: &'static str,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> LaunchError {
    move |source| LaunchError::System { what, source }
}

fn end(child: &Child) {
    child.kill();
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child.pid), None);
}

fn require_single_thread() -> Result<(), LaunchError> {
    let count = sys::process::thread_count().map_err(system("reading /proc/self/task"))?;
    if count == 1 { Ok(()) } else { Err(LaunchError::Threads(count)) }
}

/// What to execute as the supervisor.
#[derive(Debug)]
pub struct SupervisorSpec<'a> {
    /// Our own binary, see [`own_executable`].
    pub executable: BorrowedFd<'a>,
    /// Its arguments, the zeroth included (`cofferdam: supervisor`).
    pub argv: &'a [CString],
    /// Its whole environment.
    pub env: &'a [CString],
    /// Its descriptors: 0, 1 and 2 are the caller's, `keep[i]` becomes number `3 + i`, nothing else is open.
    pub keep: &'a [BorrowedFd<'a>],
    /// The ids to run with: the gateway's when rooted.
    pub ids: Ids,
}

/// Our own binary, opened once early: later it may have been replaced on disk, or not be reachable.
///
/// # Errors
/// The system call's.
pub fn own_executable() -> io::Result<OwnedFd> {
    Ok(std::fs::File::open("/proc/self/exe")?.into())
}

/// Closes every descriptor of this process except the standard streams and `kept`: what a shell left open has
/// no owner here. No other value of the process may own a descriptor: it would be left with a number that may
/// be reused.
///
/// # Errors
/// The system call's; if there is another thread, which may own a descriptor.
#[expect(unsafe_code, reason = "closes by number what nobody owns")]
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    sys::process::require_one_thread("close what it doesn't know")?;
    let kept: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: no other thread owns any, and of what this one owns all is kept, by the doc.
    unsafe { sys::fd::close_all_but(&kept) }
}

/// Forks, gives up every privilege, and executes the supervisor, which gets SIGTERM when the caller dies.
///
/// # Errors
/// See [`LaunchError`]; [`LaunchError::Died`] names the step that failed in the child.
pub fn exec_supervisor(spec: &SupervisorSpec<'_>) -> Result<Child, LaunchError> {
    let (child, read) = fork(|write, parent| {
        // Above the numbers that the supervisor's descriptors will get.
        if let Ok(report) =
            sys::fd::duplicate_above(write.as_fd(), AFTER_STREAMS + spec.keep.len() as RawFd + 1)
        {
            drop(write);
            let (step, error) = become_supervisor(spec, parent, report.as_fd());
            let _ = sys::fd::write_all(report.as_fd(), format!("{step}: {error}").as_bytes());
        }
        125
    })?;
    let mut text = [0_u8; 256];
    // The end of file comes from the successful exec, which closes the write end.
    let told = sys::fd::wait(read.as_fd(), sys::fd::Ready::Readable, Some(INIT_PATIENCE));
    if let Ok(false) = told {
        end(&child);
        return Err(LaunchError::Stuck { step: "its exec" });
    }
    match told.and_then(|_| sys::fd::read(read.as_fd(), &mut text)) {
        Ok(0) => Ok(child),
        Ok(length) => {
            end(&child);
            let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
            Err(LaunchError::Died(text.into_owned()))
        }
        Err(error) => {
            end(&child);
            Err(system("waiting for the supervisor")(error))
        }
    }
}

/// Forks a copy of this process, which runs `child` with the write end of a pipe and its parent's pid, and
/// exits with the code that `child` returns. The caller gets the read end.
fn fork(child: impl FnOnce(OwnedFd, u32) -> i32) -> Result<(Child, OwnedFd), LaunchError> {
    require_single_thread()?;
    let (read, write) = sys::fd::pipe().map_err(system("pipe"))?;
    let parent = std::process::id();
    match sys::process::clone(0).map_err(system("fork"))? {
        Cloned::Child => {
            drop(read);
            sys::process::exit_now(child(write, parent))
        }
        Cloned::Parent { pid, pidfd } => {
            drop(write);
            Ok((Child { pid, pidfd, cgroup: None }, read))
        }
    }
}

fn become_supervisor(
    spec: &SupervisorSpec<'_>,
    parent: u32,
    report: BorrowedFd<'_>,
) -> (&'static str, io::Error) {
    match try_become_supervisor(spec, parent, report) {
        Ok(never) => match never {},
        Err(failed) => failed,
    }
}

#[expect(unsafe_code, reason = "a fresh child closes what isn't its own")]
fn try_become_supervisor(
    spec: &SupervisorSpec<'_>,
    parent: u32,
    report: BorrowedFd<'_>,
) -> Result<std::convert::Infallible, (&'static str, io::Error)> {
    let at = |step: &'static str| move |error: io::Error| (step, error);
    // Its own session: a Ctrl-C at the terminal is for the heart to handle.
    nix::unistd::setsid().map_err(|e| ("setsid", e.into()))?;
    sys::signals::reset().map_err(at("signals"))?;
    let first_free = AFTER_STREAMS + spec.keep.len() as RawFd;
    let executable = sys::fd::duplicate_above(spec.executable, first_free + 1).map_err(at("descriptors"))?;
    // SAFETY: what the child owns is kept; all else belongs to copies of the heart's values, in frames to
    // which it never returns.
    unsafe { sys::fd::hand_on(spec.keep, &[report.as_raw_fd(), executable.as_raw_fd()]) }
        .map_err(at("descriptors"))?;
    prctl(Prctl::SetNoNewPrivileges).map_err(at("no_new_privs"))?;
    if let Ids::Rooted { gateway, .. } = spec.ids {
        crate::isolation::capabilities::empty_bounding().map_err(at("bounding set"))?;
        sys::process::clear_groups().map_err(at("setgroups"))?;
        sys::process::set_gids(Some(gateway.gid), Some(gateway.gid), Some(gateway.gid))
            .map_err(at("setresgid"))?;
        sys::process::set_uids(Some(gateway.uid), Some(gateway.uid), Some(gateway.uid))
            .map_err(at("setresuid"))?;
    }
    crate::isolation::capabilities::clear_sets().map_err(at("capabilities"))?;
    // After the change of user, which clears it.
    sys::process::die_with_parent(libc::SIGTERM).map_err(at("prctl(PR_SET_PDEATHSIG)"))?;
    if std::os::unix::process::parent_id() != parent {
        return Err(("parent", io::Error::other("the heart is gone")));
    }
    Err(("exec", sys::process::exec_fd(executable.as_fd(), spec.argv, spec.env)))
}
