//! Resource limits of every process (setrlimit(2)). `RLIMIT_AS` is never set: Node and the JVM reserve far
//! more than they use.

use crate::plan::Limits;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;

/// So many descriptors fewer than init's children are agents allowed: unix(7) bounds what a user has in
/// flight in sockets by the limit of whoever sends, and a child sends its filter's listener. It could not, if
/// agents could fill all of that.
const IN_RESERVE: u64 = 512;

/// The hard limit under which agents get all that they may have.
pub(crate) const DESCRIPTORS_WANTED: u64 = crate::plan::AGENT_DESCRIPTORS + IN_RESERVE;

/// Signals and timers that wait (sigqueue(3), timer_create(2)): counted for a user, who without root is the
/// operator, too.
const SIGNALS_PENDING: u64 = 4096;

/// Applies those that a child can have from its first step, soft and hard, and reads them back.
///
/// # Errors
/// The kernel's, or an error that names the limit that did not take.
pub fn apply(limits: &Limits) -> io::Result<()> {
    set(Resource::RLIMIT_CORE, 0, 0)?;
    set(Resource::RLIMIT_SIGPENDING, SIGNALS_PENDING, 0)?;
    // Some desktops let their users go first, or by the clock alone; nobody in a cage goes before init.
    set(Resource::RLIMIT_NICE, 0, 0)?;
    set(Resource::RLIMIT_RTPRIO, 0, 0)?;
    set(Resource::RLIMIT_NPROC, limits.nproc, 0)
}

/// The number of descriptors: once the child has sent what it has to send.
///
/// # Errors
/// As [`apply`].
pub fn apply_descriptors(limits: &Limits) -> io::Result<()> {
    set(Resource::RLIMIT_NOFILE, limits.nofile, IN_RESERVE)
}

/// Lowers one; a hard limit that is lower already, less a reserve, stays.
fn set(resource: Resource, wanted: u64, reserve: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    // Where there is less than twice the reserve, it is half of what there is.
    let value = wanted.min(hard.saturating_sub(reserve).max(hard.div_ceil(2)));
    setrlimit(resource, value, value)?;
    if getrlimit(resource)? == (value, value) {
        Ok(())
    } else {
        Err(io::Error::other(format!("{resource:?} did not take")))
    }
}

/// Whether this process has them.
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
