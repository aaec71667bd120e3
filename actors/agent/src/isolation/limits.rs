//! Resource limits of every process (setrlimit(2)). `RLIMIT_AS` is never set: Node and the JVM reserve far
//! more than they use.

use crate::plan::Limits;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;

/// Agents may have so many descriptors fewer than cofferdam's processes and init's children. unix(7) bounds
/// the descriptors that a user has in flight in sockets by the sender's limit, and those processes send some
/// (a child its filter's listener, init its answers, the heart the handover): they could not, if agents could
/// use up the whole limit.
///
/// The kernel looks at the count, copies the message, and only then counts its descriptors: each thread that
/// is held up in the copy (by a page of its own that has to be fetched) comes to lie beyond the limit by all
/// of its message. So as many threads as a user may have count, each with a whole message.
const IN_RESERVE: u64 = OF_A_MESSAGE * crate::plan::AGENT_THREADS;

/// Descriptors of one message (SCM_MAX_FD).
const OF_A_MESSAGE: u64 = 253;

/// The hard limit that lets agents have all the descriptors that they may have.
pub(crate) fn descriptors_wanted() -> u64 {
    crate::plan::AGENT_DESCRIPTORS + IN_RESERVE
}

/// Bounds pending signals and timers (sigqueue(3), timer_create(2)). They are counted per user, and without
/// root that user is the operator's too.
const SIGNALS_PENDING: u64 = 4096;

/// Applies the limits that a child can have from its start, soft and hard, and reads them back.
///
/// # Errors
/// The kernel's, or an error that names the limit that did not take.
pub fn apply(limits: &Limits) -> io::Result<()> {
    set(Resource::RLIMIT_CORE, 0, 0)?;
    set(Resource::RLIMIT_SIGPENDING, SIGNALS_PENDING, 0)?;
    // Some desktops allow their users negative nice values or real-time scheduling; nothing in a cage may run
    // ahead of init.
    set(Resource::RLIMIT_NICE, 0, 0)?;
    set(Resource::RLIMIT_RTPRIO, 0, 0)?;
    set(Resource::RLIMIT_NPROC, limits.nproc, 0)
}

/// Applies the limit on descriptors. To be called once the child has sent the descriptors that it has to
/// send.
///
/// # Errors
/// As [`apply`].
pub fn apply_descriptors(limits: &Limits) -> io::Result<()> {
    set(Resource::RLIMIT_NOFILE, limits.nofile, IN_RESERVE)
}

/// Lowers a limit to `wanted`, or to the hard limit less the reserve if that is lower.
fn set(resource: Resource, wanted: u64, reserve: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    // Below twice the reserve, it is half the hard limit.
    let value = wanted.min(hard.saturating_sub(reserve).max(hard.div_ceil(2)));
    setrlimit(resource, value, value)?;
    if getrlimit(resource)? == (value, value) {
        Ok(())
    } else {
        Err(io::Error::other(format!("{resource:?} did not take")))
    }
}

/// Whether this process's limits are no higher than these.
///
/// # Errors
/// The system call's.
pub fn are_applied(limits: &Limits) -> io::Result<bool> {
    let within = |resource, bound| -> io::Result<bool> {
        let (soft, hard) = getrlimit(resource)?;
        Ok(soft <= bound && hard <= bound)
    };
    Ok(within(Resource::RLIMIT_CORE, 0)?
        && within(Resource::RLIMIT_SIGPENDING, SIGNALS_PENDING)?
        && within(Resource::RLIMIT_NICE, 0)?
        && within(Resource::RLIMIT_RTPRIO, 0)?
        && within(Resource::RLIMIT_NPROC, limits.nproc)?
        && within(Resource::RLIMIT_NOFILE, limits.nofile)?)
}
