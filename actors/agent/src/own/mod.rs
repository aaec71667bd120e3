//! Confines heart, init and supervisor once they have started: each gives up all that it doesn't need for its
//! work.
//!
//! ```text
//! heart        after init has its plan          keeps what starting and ending its children needs
//! init         after the cage was proven        keeps what forking, looking at and signalling agents needs
//! supervisor   before its first thread          keeps nothing
//! ```
//! The steps, in this order: no core file, memory that no other process may look into, capabilities down to
//! the role's, no_new_privs, no memory that is writable and executable, the role's system calls ([`calls`]).
//! Any step that fails is an error, and the caller must end: there is no half-settled process.
//! `docs/processes.md` names what older kernels lack.
//!
//! A system call that no honest path makes ends the heart or the supervisor by SIGSYS. The heart starts a
//! supervisor that dies so again, with the signal on record in the audit log; if heart or init dies, the
//! sandbox ends.

mod calls;

use crate::isolation::seccomp::{Filter, table};
use crate::sys;
use crate::sys::prctl::{Prctl, prctl};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::io;

/// Which of the three processes this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Parent of the other two.
    Heart {
        /// Started as root.
        rooted: bool,
    },
    /// Pid 1 of the sandbox.
    Init,
    /// Parses everything hostile.
    Supervisor,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("this process could not be shut in ({step}): {source}")]
pub struct Unsettled {
    /// Which.
    pub step: &'static str,
    /// The kernel's reason.
    pub source: io::Error,
}

/// The capabilities of a heart that was started as root: it ends children of other users, becomes `gateway`
/// to start a supervisor, empties the supervisor's bounding set, removes a socket from a directory that isn't
/// its own, and puts init ahead of the agents (SYS_NICE).
const HEART: &[Capability] = &[
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_KILL,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_NICE,
];

/// Init's, in the sandbox's user namespace: it gives pipes and terminals to the agent's user (CHOWN), keeps
/// credential files at 0600 (FOWNER, DAC_OVERRIDE), signals agents (KILL), listens on 80 and 443 inside
/// (NET_BIND_SERVICE), takes children's privileges away (SETUID, SETGID, SETPCAP), and sees who holds a
/// socket (SYS_PTRACE).
const INIT: &[Capability] = &[
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_KILL,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_PTRACE,
];

/// Returns the capabilities that a role keeps, of those that it has.
#[must_use]
pub fn kept(role: Role) -> &'static [Capability] {
    match role {
        Role::Init => INIT,
        Role::Heart { rooted: true } => HEART,
        Role::Heart { rooted: false } | Role::Supervisor => &[],
    }
}

/// Confines this process, for good. It must have one thread.
///
/// # Errors
/// The first step that failed; the process must not go on.
pub fn settle(role: Role) -> Result<(), Unsettled> {
    let at = |step: &'static str| move |source: io::Error| Unsettled { step, source };
    no_core_files().map_err(at("core files"))?;
    sys::signals::ignore_full_files();
    prctl(Prctl::SetDumpable(false)).map_err(at("dumpable"))?;
    keep_only(kept(role)).map_err(at("capabilities"))?;
    prctl(Prctl::SetNoNewPrivileges).map_err(at("no_new_privs"))?;
    refuse_executable_memory(role).map_err(at("executable memory"))?;
    let filter = filter(role).map_err(|e| at("system calls")(io::Error::other(e)))?;
    filter.load().map_err(|e| at("system calls")(io::Error::other(e)))?;
    if role != Role::Init && executable_memory() != (false, false) {
        return Err(at("executable memory")(io::Error::other("it can still be had")));
    }
    Ok(())
}

/// Loads init's filter into a child that was forked before init settled; those forked afterwards inherit it.
///
/// # Errors
/// The kernel's; the process must not go on.
pub(crate) fn settle_as_inits_child() -> io::Result<()> {
    let filter = filter(Role::Init).map_err(io::Error::other)?;
    filter.load().map(drop).map_err(io::Error::other)
}

/// Gives this process a name (at most 15 bytes) and a command line, and erases from its memory what it was
/// started with: its arguments, and the environment, where keys are. Anybody who sees a process sees its
/// command line.
///
/// # Errors
/// The kernel's, or that there is more than one thread; the process must not go on.
pub fn retitle(name: &CStr, title: &str) -> io::Result<()> {
    sys::process::set_name(name)?;
    sys::title::overwrite(title)
}

/// Whether this process can map memory that is writable and executable, and whether writable memory can
/// become executable: each by trying.
#[must_use]
pub fn executable_memory() -> (bool, bool) {
    (sys::process::map_executable().is_ok(), sys::process::gain_execution().is_ok())
}

/// No core file of this process or of what it starts: it would hold what memory holds.
///
/// # Errors
/// The kernel's.
pub fn no_core_files() -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?)
}

/// Lets the allocator share heaps between threads and give back what a burst of connections took. To be
/// called before there are threads.
pub fn share_heaps() {
    /// One for each of the two threads that do most.
    const HEAPS: i32 = 2;
    const KEPT: i32 = 1 << 20;
    sys::process::limit_heaps(HEAPS, KEPT);
}

/// Lets the heap that this thread uses grow in a few steps to what a start takes. Every heap but the first
/// grows page by page, each time with a system call. Memory that isn't used costs nothing.
pub fn grow_heap() {
    /// Below the size from which a piece gets a mapping of its own (mallopt(3), M_MMAP_THRESHOLD).
    const PIECE: usize = 96 << 10;
    let pieces = [(); 8].map(|()| Vec::<u8>::with_capacity(PIECE));
    // All must be there at one time: freed together, they stay the heap's.
    std::hint::black_box(&pieces);
}

/// Raises the limit on descriptors to `own`, or to as many as init needs for its agents if that is more; at
/// most to the hard limit, which root raises too. A limit that is higher already stays.
///
/// # Errors
/// The kernel's.
pub fn want_descriptors(own: u64) -> io::Result<()> {
    let wanted = own.max(crate::isolation::limits::descriptors_wanted());
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= wanted || (hard < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok()) {
        return Ok(());
    }
    Ok(setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard)?)
}

/// Reduces every set to these, also the bounding set if that may be lowered, and reads the effective and the
/// permitted set back.
fn keep_only(kept: &[Capability]) -> io::Result<()> {
    let fault = |e: caps::errors::CapsError| io::Error::other(e.to_string());
    let permitted = caps::read(None, CapSet::Permitted).map_err(fault)?;
    let now: CapsHashSet = kept.iter().copied().filter(|c| permitted.contains(c)).collect();
    if permitted.contains(&Capability::CAP_SETPCAP) {
        lower_bounding(kept)?;
    }
    caps::clear(None, CapSet::Ambient).map_err(fault)?;
    caps::clear(None, CapSet::Inheritable).map_err(fault)?;
    // Effective first: it must not hold what is no longer permitted.
    caps::set(None, CapSet::Effective, &now).map_err(fault)?;
    caps::set(None, CapSet::Permitted, &now).map_err(fault)?;
    for (set, expected) in [(CapSet::Effective, &now), (CapSet::Permitted, &now)] {
        if caps::read(None, set).map_err(fault)? != *expected {
            return Err(io::Error::other(format!("the {set:?} set did not take")));
        }
    }
    Ok(())
}

fn lower_bounding(kept: &[Capability]) -> io::Result<()> {
    // By number, so that one newer than the `caps` crate goes too; EINVAL is the kernel's "no more".
    for number in 0..64_u8 {
        if kept.iter().any(|capability| capability.index() == number) {
            continue;
        }
        match prctl(Prctl::DropBounding(number.into())) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// PR_SET_MDWE (Linux 6.3): memory never gains the right to be executed. The supervisor inherits the heart's,
/// from its first instruction. Init's must not reach the agents, which compile at run time (Linux 6.6). On
/// older kernels only the filters of heart and supervisor enforce this, and nothing does for init.
fn refuse_executable_memory(role: Role) -> io::Result<()> {
    const REFUSE_EXEC_GAIN: libc::c_ulong = 1;
    const NO_INHERIT: libc::c_ulong = 2;
    let wanted = if role == Role::Init { REFUSE_EXEC_GAIN | NO_INHERIT } else { REFUSE_EXEC_GAIN };
    match prctl(Prctl::Mdwe) {
        // Inherited from the heart: it can be set once, and is never lifted.
        Ok(set) if set != 0 => return Ok(()),
        _ => {}
    }
    match prctl(Prctl::SetMdwe(wanted)) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other.map(drop),
    }
}

fn filter(role: Role) -> Result<Filter, crate::isolation::seccomp::FilterError> {
    match role {
        Role::Heart { .. } => amended(&calls::HEART),
        Role::Supervisor => amended(&calls::SUPERVISOR),
        Role::Init => Ok(Filter::refusing(&calls::INIT.concat())),
    }
}

fn amended(difference: &calls::Difference) -> Result<Filter, crate::isolation::seccomp::FilterError> {
    let without: BTreeSet<&str> = difference.without.concat().into_iter().collect();
    let mut list: BTreeMap<i64, &table::Call> =
        table::calls().filter(|call| !without.contains(call.name)).map(|call| (call.number, call)).collect();
    list.extend(difference.with.iter().map(|call| (call.number, call)));
    let deadly = difference.deadly.concat();
    list.retain(|number, _| !deadly.contains(number));
    Filter::allowing(&list.into_values().collect::<Vec<_>>(), &deadly)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_off_is_on_the_agents_list() {
        let names: Vec<&str> = table::calls().map(|call| call.name).collect();
        // The older names exist on x86_64 only.
        let foreign = ["fork", "vfork", "mknod"];
        for difference in [&calls::HEART, &calls::SUPERVISOR] {
            for name in difference.without.concat() {
                assert!(names.contains(&name) || foreign.contains(&name), "{name}");
            }
        }
    }

    #[test]
    fn the_agents_list_needs_nothing_that_init_refuses() {
        let refused = calls::INIT.concat();
        for call in table::calls() {
            assert!(
                !refused.contains(&call.number),
                "agents inherit init's filter, which refuses {}",
                call.name
            );
        }
    }

    #[test]
    fn the_heart_may_do_all_that_a_supervisor_may() {
        // The supervisor is under both filters.
        let named = |difference: &calls::Difference| -> Vec<&str> { difference.without.concat() };
        let (heart, supervisor) = (named(&calls::HEART), named(&calls::SUPERVISOR));
        assert!(heart.iter().all(|name| supervisor.contains(name)));
        for call in calls::SUPERVISOR.with.iter().filter(|call| call.name != "clone") {
            assert!(calls::HEART.with.iter().any(|own| own.number == call.number), "{}", call.name);
        }
    }

    #[test]
    fn every_filter_fits_the_kernels_limit() {
        for role in [Role::Heart { rooted: true }, Role::Init, Role::Supervisor] {
            let length = filter(role).unwrap().len();
            assert!(length < 4096, "{role:?}: {length} instructions");
        }
    }
}
