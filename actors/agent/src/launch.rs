//! The heart's side of starting the two other processes, and of replacing itself.
//!
//! [`clone_init`] makes the sandbox's pid 1 by clone(2), without exec; [`exec_supervisor`] forks and executes our own
//! binary as the supervisor; [`reexec`] replaces the calling process by our own binary with a clean environment.
//! All three demand a single-threaded caller and say so with an error otherwise. Nothing here waits for longer than
//! the child needs to take its first steps, and nothing starts a process that could outlive the heart.
//!
//! ```text
//!   heart                                   init
//!   seteuid(gateway)  (rooted)
//!   clone ───────────────────────────────▶  PDEATHSIG
//!   seteuid(root)     (rooted)              waits
//!   setgroups, gid_map, uid_map
//!   'g' ─────────────────────────────────▶  setresuid (rooted), PDEATHSIG again
//!   waits  ◀───────────────────────── 'r'   builds the cage
//! ```

pub mod cgroup;
mod other_root;
mod workspace;

use cgroup::{Cgroup, CgroupError};

use crate::init::Outside;
use crate::isolation::namespaces::Namespaces;
use crate::plan::{CagePlan, Control, Enforcement, Ids, PlanError};
use crate::sys;
use crate::sys::process::Cloned;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

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

/// What root opened for init, which may not be able to walk there itself.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    pub(crate) workspace: Option<OwnedFd>,
    pub(crate) root: crate::isolation::other_root::Mounts,
}

impl Handed {
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        [&self.workspace, &self.root.tree, &self.root.overlay].into_iter().flatten().map(AsRawFd::as_raw_fd)
    }
}

/// All namespaces of the sandbox.
const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// Starts init in new namespaces with its id maps written. `channel` is its end of a [`crate::wire::pair`]; it
/// reports how the cage came out to the first [`crate::protocol::Request::Report`].
///
/// The process dies with the caller, whatever happens.
///
/// # Errors
/// See [`LaunchError`].
pub fn clone_init(plan: &CagePlan, channel: OwnedFd) -> Result<Child, LaunchError> {
    plan.check()?;
    require_single_thread()?;
    let handed = Handed { workspace: workspace::detached(plan)?, root: other_root::detached(plan)? };
    let namespaces = Namespaces::read().map_err(system("reading /proc/self/ns"))?;
    let (cgroup, missing) = match make_cgroup(plan) {
        Ok(cgroup) => (cgroup, None),
        Err(error) if plan.enforcement == Enforcement::BestEffort => (None, Some(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let (ours, theirs) = sys::socket::seqpacket_pair().map_err(system("socketpair"))?;
    // The files under /proc/PID belong to root while a process isn't dumpable, and we must write three of them.
    sys::process::prctl(libc::PR_SET_DUMPABLE, 1).map_err(system("prctl(PR_SET_DUMPABLE)"))?;
    let cloned = {
        let _as_gateway = AsGateway::enter(plan.ids).map_err(system("becoming the gateway user"))?;
        sys::process::clone(wanted_namespaces(plan))
        // Leaving the block restores root in the parent; in the child it is a no-op, see `AsGateway::drop`.
    };
    match cloned.map_err(LaunchError::Namespaces)? {
        Cloned::Child => {
            drop(ours);
            crate::init::begin(plan, channel, theirs, Outside { handed, no_cgroup: missing, namespaces })
        }
        Cloned::Parent { pid, pidfd } => {
            drop((channel, theirs, handed));
            let child = Child { pid, pidfd, cgroup };
            let limited = child.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.admit(pid));
            let done = limited
                .map_err(LaunchError::from)
                .and_then(|()| write_id_maps(pid, plan.ids))
                .and_then(|()| handshake(ours.as_fd()));
            let _ = sys::process::prctl(libc::PR_SET_DUMPABLE, 0);
            match done {
                Ok(()) => Ok(child),
                Err(error) => {
                    end(&child);
                    Err(error)
                }
            }
        }
    }
}

/// All but what a test leaves out.
fn wanted_namespaces(plan: &CagePlan) -> libc::c_int {
    if plan.sabotaged(Control::Namespaces) { NAMESPACES & !libc::CLONE_NEWCGROUP } else { NAMESPACES }
}

fn make_cgroup(plan: &CagePlan) -> Result<Option<Cgroup>, CgroupError> {
    if plan.sabotaged(Control::Cgroup) {
        Err(CgroupError::NotUnified)
    } else {
        Cgroup::make(&plan.name, &plan.limits)
    }
}

/// For the time it lives, this root process has the gateway's effective ids, so that what it makes is the gateway's:
/// the owner of a user namespace may look into its processes without any capability.
struct AsGateway {
    restore_in: Option<u32>,
}

impl AsGateway {
    fn enter(ids: Ids) -> io::Result<Self> {
        let Ids::Rooted { gateway, .. } = ids else { return Ok(Self { restore_in: None }) };
        sys::process::set_gids(None, Some(gateway.gid), None)?;
        sys::process::set_uids(None, Some(gateway.uid), None)?;
        Ok(Self { restore_in: Some(std::process::id()) })
    }
}

impl Drop for AsGateway {
    fn drop(&mut self) {
        // In the clone the pid is another one (1), and its ids are set later, once they are mapped.
        if self.restore_in == Some(std::process::id()) {
            let _ = sys::process::set_uids(None, Some(0), None);
            let _ = sys::process::set_gids(None, Some(0), None);
        }
    }
}

fn write_id_maps(pid: i32, ids: Ids) -> Result<(), LaunchError> {
    const UNPRIVILEGED: &str = "is /proc mounted, and does a security module forbid user namespaces?";
    const PRIVILEGED: &str =
        "root needs CAP_SETUID and CAP_SETGID here, and both ids must exist in its own map";
    let put = |file: &'static str, text: String, mend: &'static str| {
        std::fs::write(format!("/proc/{pid}/{file}"), text).map_err(|source| LaunchError::IdMap {
            file,
            source,
            mend,
        })
    };
    let inside = crate::plan::AGENT_ID;
    match ids {
        Ids::Rootless { operator } => {
            // user_namespaces(7): an unprivileged process must first give up setgroups.
            put("setgroups", "deny".into(), UNPRIVILEGED)?;
            put("gid_map", format!("{inside} {} 1", operator.gid), UNPRIVILEGED)?;
            put("uid_map", format!("{inside} {} 1", operator.uid), UNPRIVILEGED)
        }
        Ids::Rooted { gateway, sandbox } => {
            put("gid_map", format!("0 {} 1\n{inside} {} 1\n", gateway.gid, sandbox.gid), PRIVILEGED)?;
            put("uid_map", format!("0 {} 1\n{inside} {} 1\n", gateway.uid, sandbox.uid), PRIVILEGED)
        }
    }
}

/// Lets the child go on and waits until it is tied to our life.
fn handshake(socket: BorrowedFd<'_>) -> Result<(), LaunchError> {
    sys::socket::send(socket, b"g", &[]).map_err(system("releasing init"))?;
    let mut answer = [0_u8; 256];
    match sys::fd::read(socket, &mut answer).map_err(system("waiting for init"))? {
        1 if answer[0] == b'r' => Ok(()),
        length => Err(LaunchError::Died(
            String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned(),
        )),
    }
}

fn end(child: &Child) {
    let pid = nix::unistd::Pid::from_raw(child.pid);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    let _ = nix::sys::wait::waitpid(pid, None);
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
    /// Whom to become: the gateway when rooted.
    pub ids: Ids,
}

/// The number of the first kept descriptor, after the standard streams.
const FIRST_KEPT: RawFd = 3;

/// Our own binary, opened once early: later it may have been replaced on disk, or not be reachable.
///
/// # Errors
/// The system call's.
pub fn own_executable() -> io::Result<OwnedFd> {
    Ok(std::fs::File::open("/proc/self/exe")?.into())
}

/// Forks, gives up every privilege, and executes the supervisor, which gets SIGTERM when the caller dies.
///
/// # Errors
/// See [`LaunchError`]; [`LaunchError::Died`] names the step that failed in the child.
pub fn exec_supervisor(spec: &SupervisorSpec<'_>) -> Result<Child, LaunchError> {
    require_single_thread()?;
    let (read, write) = sys::fd::pipe().map_err(system("pipe"))?;
    let parent = std::process::id();
    match sys::process::clone(0).map_err(system("fork"))? {
        Cloned::Child => {
            drop(read);
            // Above the numbers that are about to be given away.
            if let Ok(report) =
                sys::fd::duplicate_above(write.as_fd(), FIRST_KEPT + spec.keep.len() as RawFd + 1)
            {
                let (step, error) = become_supervisor(spec, parent, report.as_fd());
                let _ = sys::fd::write_all(report.as_fd(), format!("{step}: {error}").as_bytes());
            }
            sys::process::exit_now(125)
        }
        Cloned::Parent { pid, pidfd } => {
            drop(write);
            let child = Child { pid, pidfd, cgroup: None };
            let mut text = [0_u8; 256];
            // The end of file comes from the successful exec, which closes the write end.
            match sys::fd::read(read.as_fd(), &mut text) {
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

fn try_become_supervisor(
    spec: &SupervisorSpec<'_>,
    parent: u32,
    report: BorrowedFd<'_>,
) -> Result<std::convert::Infallible, (&'static str, io::Error)> {
    let at = |step: &'static str| move |error: io::Error| (step, error);
    // Its own session: a Ctrl-C at the terminal is the heart's to judge.
    nix::unistd::setsid().map_err(|e| ("setsid", e.into()))?;
    sys::process::reset_signals().map_err(at("signals"))?;
    let first_free = FIRST_KEPT + spec.keep.len() as RawFd;
    let executable = sys::fd::duplicate_above(spec.executable, first_free + 1).map_err(at("descriptors"))?;
    place_from_three(spec.keep, &[report.as_raw_fd(), executable.as_raw_fd()]).map_err(at("descriptors"))?;
    sys::process::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(at("no_new_privs"))?;
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

/// Puts `keep[i]` at `3 + i`, open across exec, and closes everything else but `spare`. For processes about to exec.
fn place_from_three(keep: &[BorrowedFd<'_>], spare: &[RawFd]) -> io::Result<()> {
    let first_free = FIRST_KEPT + keep.len() as RawFd;
    // First out of the way, so that no placing overwrites one that is yet to be placed.
    let lifted: Vec<OwnedFd> =
        keep.iter().map(|fd| sys::fd::duplicate_above(*fd, first_free + 1)).collect::<io::Result<_>>()?;
    for (number, fd) in (FIRST_KEPT..).zip(&lifted) {
        sys::fd::place_at(fd.as_fd(), number)?;
    }
    sys::fd::close_from(first_free, spare)?;
    // Their numbers are closed already.
    std::mem::forget(lifted);
    Ok(())
}

/// Replaces this process by our own binary with an empty environment; `keep[i]` becomes number `3 + i`, nothing
/// else above 2 stays open. Returns only on failure.
pub fn reexec(executable: BorrowedFd<'_>, argv: &[CString], keep: &[BorrowedFd<'_>]) -> LaunchError {
    if let Err(error) = require_single_thread() {
        return error;
    }
    let first_free = FIRST_KEPT + keep.len() as RawFd;
    let lifted = match sys::fd::duplicate_above(executable, first_free + 1) {
        Ok(fd) => fd,
        Err(error) => return system("descriptors")(error),
    };
    if let Err(error) = place_from_three(keep, &[lifted.as_raw_fd()]) {
        return system("descriptors")(error);
    }
    system("exec")(sys::process::exec_fd(lifted.as_fd(), argv, &[]))
}
