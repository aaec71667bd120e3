//! The heart's side of making the sandbox's pid 1, in two steps with time between them.
//!
//! [`NewInit::begin`] needs to know next to nothing: while the caller still checks what the operator wrote,
//! init already makes its namespaces and the gate. [`NewInit::furnish`] gives it the plan, from which it
//! builds the cage. So init is a copy of a process that has resolved nothing yet, least of all a key, and it
//! overwrites the environment first of all.
//!
//! ```text
//!   heart                                   init
//!   seteuid(gateway)  (rooted)
//!   clone ───────────────────────────────▶  PDEATHSIG
//!   seteuid(root)     (rooted)              waits
//!   setgroups, gid_map, uid_map
//!   'g' ─────────────────────────────────▶  setresuid (rooted), PDEATHSIG again
//!   reads configuration and policy          unshares everything else, makes the gate
//!          ◀───────────────────────── 'r'
//!   plan, channel, mounts ───────────────▶  builds the cage
//! ```

use super::cgroup::{Cgroup, CgroupError, needed};
use super::elsewhere::Elsewhere;
use super::{Child, INIT_PATIENCE, LaunchError, end, other_root, require_single_thread, system, workspace};

use crate::isolation::namespaces::Namespaces;
use crate::isolation::priority;
use crate::plan::{CagePlan, Control, Enforcement, Ids};
use crate::sys;
use crate::sys::prctl::{Prctl, prctl};
use crate::sys::process::Cloned;
use nix::poll::PollTimeout;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The parts of a plan that must be known before the plan is made. The plan then has to say the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foundation {
    /// The users that the processes run as.
    pub ids: Ids,
    /// See [`CagePlan::witness`].
    pub witness: bool,
    /// See [`CagePlan::sabotage`].
    pub sabotage: Vec<Control>,
}

impl Foundation {
    /// Returns the foundation of an existing plan.
    #[must_use]
    pub fn of(plan: &CagePlan) -> Self {
        Self { ids: plan.ids, witness: plan.witness, sabotage: plan.sabotage.clone() }
    }

    /// See [`CagePlan::sabotaged`].
    pub(crate) fn sabotaged(&self, control: Control) -> bool {
        crate::plan::is_left_out(&self.sabotage, control)
    }
}

/// What init gets with its plan.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Furniture {
    pub(crate) plan: CagePlan,
    /// The heart's, none of which may be the sandbox's.
    pub(crate) outside: Namespaces,
    /// Why limits that were asked for aren't there (best effort).
    pub(crate) no_cgroup: Option<String>,
    /// Which of the mounts follow, in this order: the workspace, the root, its overlay.
    pub(crate) mounts: [bool; 3],
}

/// Bytes of [`Furniture`] at most.
pub(crate) const MAX_FURNITURE: u64 = 16 << 20;
/// Descriptors that come with it at most: itself, the channel, the mounts.
pub(crate) const FURNITURE_DESCRIPTORS: usize = 5;
/// Init's answer that it will die with its parent and has made its namespaces.
pub(crate) const READY: u8 = b'r';
/// Init's answer that it could not make them; the errno follows.
pub(crate) const NO_NAMESPACES: u8 = b'n';

/// Mounts that root opened for init, which may not be able to walk to them itself.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    pub(crate) workspace: Option<OwnedFd>,
    pub(crate) root: crate::isolation::other_root::Mounts,
}

impl Handed {
    fn mounts(&self) -> [&Option<OwnedFd>; 3] {
        [&self.workspace, &self.root.tree, &self.root.overlay]
    }
}

/// Whose child an init is: the process that it dies with, and that waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The caller.
    Caller,
    /// The caller's own parent (clone(2), CLONE_PARENT): the builder makes the heart's.
    Callers,
}

/// A sandbox's pid 1 without a sandbox yet. Dropping it ends init and everything that belongs to it.
#[derive(Debug)]
pub struct NewInit {
    child: Option<Child>,
    sync: OwnedFd,
    foundation: Foundation,
}

impl NewInit {
    /// Starts init in new namespaces with its id maps written. The process dies with its parent, whatever
    /// happens.
    ///
    /// # Errors
    /// See [`LaunchError`]; what init itself finds is told by [`NewInit::furnish`].
    pub fn begin(foundation: Foundation, parent: Parent) -> Result<Self, LaunchError> {
        require_single_thread()?;
        let (ours, theirs) = sys::socket::seqpacket_pair().map_err(system("socketpair"))?;
        // The files under /proc/PID belong to root while a process isn't dumpable, and we must write three of
        // them. Afterwards the flag is what it was before: a process that unpacks an image next, for
        // instance, has to write such files too.
        let dumpable = prctl(Prctl::Dumpable).map_err(system("prctl(PR_GET_DUMPABLE)"))?;
        prctl(Prctl::SetDumpable(true)).map_err(system("prctl(PR_SET_DUMPABLE)"))?;
        let cloned = {
            let _as_gateway =
                AsGateway::enter(foundation.ids).map_err(system("becoming the gateway user"))?;
            let parent = if parent == Parent::Callers { libc::CLONE_PARENT } else { 0 };
            sys::process::clone(libc::CLONE_NEWUSER | libc::CLONE_NEWPID | parent)
            // Leaving the block restores root in the parent; in the child it is a no-op, see
            // `AsGateway::drop`.
        };
        let restore = || {
            let _ = prctl(Prctl::SetDumpable(dumpable == 1));
        };
        // Also if clone(2) fails: the builder lives on.
        match cloned.inspect_err(|_| restore()).map_err(LaunchError::UserNamespace)? {
            Cloned::Child => {
                drop(ours);
                crate::init::begin(&foundation, theirs)
            }
            Cloned::Parent { pid, pidfd } => {
                drop(theirs);
                let elsewhere = Elsewhere::keep(pid);
                let new = Self { child: Some(Child { pid, pidfd, cgroup: None }), sync: ours, foundation };
                let done = write_id_maps(pid, new.foundation.ids).and_then(|()| {
                    sys::socket::send(new.sync.as_fd(), b"g", &[]).map_err(with_init("releasing init"))
                });
                drop(elsewhere);
                restore();
                done.map(|()| new)
            }
        }
    }

    /// The descriptors that this process has for init.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.sync.as_fd()).chain(self.child.iter().map(|child| child.pidfd.as_fd()))
    }

    /// Its pid, as the caller sees it.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().map(|child| child.pid)
    }

    /// Its pidfd.
    #[must_use]
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.child.as_ref().map(|child| child.pidfd.as_fd())
    }

    /// Gives init its plan. `channel` is its end of a [`crate::wire::pair`]; it reports how the cage came out
    /// in answer to the first [`crate::protocol::Request::Report`].
    ///
    /// # Errors
    /// See [`LaunchError`]; a plan that differs from the [`Foundation`] is a fault.
    pub fn furnish(mut self, plan: &CagePlan, channel: OwnedFd) -> Result<Child, LaunchError> {
        plan.check()?;
        let no_cgroup = self.limit(plan)?;
        self.give(plan, channel, no_cgroup)
    }

    /// As [`NewInit::furnish`], but under the limits of the init whose place this one will take; `limits` is
    /// `None` if that init has none.
    ///
    /// # Errors
    /// As [`NewInit::furnish`].
    pub fn furnish_beside(
        self,
        plan: &CagePlan,
        channel: OwnedFd,
        limits: Option<&Cgroup>,
    ) -> Result<Child, LaunchError> {
        plan.check()?;
        if let (Some(cgroup), Some(pid)) = (limits, self.pid()) {
            cgroup.admit(pid)?;
        }
        let missing = limits.is_none() && !needed(&plan.limits).is_empty();
        let no_cgroup = missing.then(|| "they could not be had when the sandbox started".to_owned());
        self.give(plan, channel, no_cgroup)
    }

    /// Puts init under the limits that were asked for, or returns why there are none (best effort).
    fn limit(&mut self, plan: &CagePlan) -> Result<Option<String>, LaunchError> {
        let Some(child) = self.child.as_mut() else { return Err(no_init()) };
        let no_cgroup = match make_cgroup(plan, child.pid) {
            // Owned by `child` at once: whatever fails from here on, the cgroup is removed after init is
            // gone.
            Ok(cgroup) => {
                child.cgroup = cgroup;
                None
            }
            Err(error) if plan.enforcement == Enforcement::BestEffort => Some(error.to_string()),
            Err(error) => return Err(error.into()),
        };
        if let Some(cgroup) = &child.cgroup {
            cgroup.admit(child.pid)?;
        }
        Ok(no_cgroup)
    }

    fn give(
        mut self,
        plan: &CagePlan,
        channel: OwnedFd,
        no_cgroup: Option<String>,
    ) -> Result<Child, LaunchError> {
        if Foundation::of(plan) != self.foundation {
            return Err(system("the plan")(io::Error::other("another foundation (a fault in cofferdam)")));
        }
        require_single_thread()?;
        let outside = Namespaces::read().map_err(system("reading /proc/self/ns"))?;
        let handed = Handed { workspace: workspace::detached(plan)?, root: other_root::detached(plan)? };
        hear(self.sync.as_fd(), INIT_PATIENCE)?;
        self.pid().into_iter().for_each(priority::put_ahead);
        let mounts = handed.mounts().map(Option::is_some);
        let furniture = Furniture { plan: plan.clone(), outside, no_cgroup, mounts };
        let bytes = postcard::to_allocvec(&furniture).map_err(|e| system("the plan")(io::Error::other(e)))?;
        let sealed = sys::memfd::sealed(c"cofferdam-cage", &bytes).map_err(system("memfd_create"))?;
        let fds: Vec<BorrowedFd<'_>> = [sealed.as_fd(), channel.as_fd()]
            .into_iter()
            .chain(handed.mounts().into_iter().flatten().map(AsFd::as_fd))
            .collect();
        sys::socket::send(self.sync.as_fd(), b"p", &fds).map_err(with_init("giving init its plan"))?;
        self.child.take().ok_or_else(no_init)
    }
}

fn no_init() -> LaunchError {
    system("the new init")(io::ErrorKind::NotFound.into())
}

impl Drop for NewInit {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            end(child);
        }
    }
}

/// Takes both steps at once: [`NewInit::begin`] and [`NewInit::furnish`].
///
/// # Errors
/// See [`NewInit`].
pub fn clone_init(plan: &CagePlan, channel: OwnedFd) -> Result<Child, LaunchError> {
    plan.check()?;
    NewInit::begin(Foundation::of(plan), Parent::Caller)?.furnish(plan, channel)
}

/// The namespaces that init makes at once. It is born in its user and pid namespaces. The last, its cgroup
/// namespace, it makes when it has its plan, since that namespace shows the group that its maker is in.
pub(crate) const AT_ONCE: libc::c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// Names what failed in speaking with init: a closed connection means that init has died.
fn with_init(what: &'static str) -> impl FnOnce(io::Error) -> LaunchError {
    move |error| match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => LaunchError::Died(what.into()),
        _ => system(what)(error),
    }
}

/// Waits, for at most `patience`, until init has told how far it got.
fn hear(sync: BorrowedFd<'_>, patience: Duration) -> Result<(), LaunchError> {
    const STEP: &str = "making its namespaces";
    let mut answer = [0_u8; 256];
    let waiting = || with_init("waiting for init");
    let within = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    // A held signal that asks this process to end interrupts the wait.
    let spoke = sys::signals::Requests::of_blocked()
        .and_then(|requests| requests.or(Some(sync), within))
        .map_err(waiting())?;
    if !spoke {
        return Err(LaunchError::Stuck { step: STEP });
    }
    let length = sys::fd::read(sync, &mut answer).map_err(waiting())?;
    match answer.get(..length).unwrap_or_default() {
        [] => Err(LaunchError::Died(STEP.into())),
        [READY] => Ok(()),
        [NO_NAMESPACES, a, b, c, d] => {
            let errno = i32::from_le_bytes([*a, *b, *c, *d]);
            Err(LaunchError::Namespaces(io::Error::from_raw_os_error(errno)))
        }
        text => Err(LaunchError::Died(String::from_utf8_lossy(text).into_owned())),
    }
}

fn make_cgroup(plan: &CagePlan, init: i32) -> Result<Option<Cgroup>, CgroupError> {
    if plan.sabotaged(Control::Cgroup) { Err(CgroupError::NotUnified) } else { Cgroup::make(plan, init) }
}

/// For the time it lives, this root process has the gateway's effective ids, so that what it makes is the
/// gateway's: the owner of a user namespace may look into its processes without any capability.
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
    // CAP_SYS_ADMIN because the namespace is the gateway's (AsGateway), so that root is nobody to it without.
    const PRIVILEGED: &str = "root needs CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID here (in a container: `--cap-add SYS_ADMIN`), and both \
                              ids must exist in its own map";
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_that_says_nothing_is_not_waited_for() {
        let (ours, theirs) = sys::socket::seqpacket_pair().unwrap();
        let heard = hear(ours.as_fd(), Duration::from_millis(1));
        assert!(matches!(heard, Err(LaunchError::Stuck { .. })), "{heard:?}");
        // The control: one that is gone, and one that has spoken, are no such.
        sys::socket::send(theirs.as_fd(), &[READY], &[]).unwrap();
        hear(ours.as_fd(), INIT_PATIENCE).unwrap();
        drop(theirs);
        assert!(matches!(hear(ours.as_fd(), INIT_PATIENCE), Err(LaunchError::Died(_))));
    }
}
