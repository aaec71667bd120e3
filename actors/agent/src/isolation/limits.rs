//! Resource limits of every process (setrlimit(2)). `RLIMIT_AS` is never set: Node and the JVM reserve far more than
//! they use.

use crate::plan::Limits;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;

/// Applies them, soft and hard, and reads them back.
///
/// # Errors
/// The kernel's, or an error that names the limit that did not take.
pub fn apply(limits: &Limits) -> io::Result<()> {
    set(Resource::RLIMIT_CORE, 0)?;
    set(Resource::RLIMIT_NPROC, limits.nproc)?;
    set(Resource::RLIMIT_NOFILE, limits.nofile)
}

/// Lowers one; a hard limit that is lower already stays.
fn set(resource: Resource, wanted: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    let value = wanted.min(hard);
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
        && within(Resource::RLIMIT_NPROC, limits.nproc)?
        && within(Resource::RLIMIT_NOFILE, limits.nofile)?)
}
