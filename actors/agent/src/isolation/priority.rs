//! Init's scheduling priority: above the processes that it watches over, where the system allows that.
//! Otherwise a crowd of an agent's processes would leave init one share of processor time among all of
//! theirs, and would delay every connection and every kill that init handles.
//!
//! It is set in two ways, since the kernel divides time among sessions (sched(7), autogroups) or, in a
//! control group, among processes. Both need CAP_SYS_NICE, which the heart has as root: an ordinary user's
//! init has its one share. The priority must never be inherited: every process that init starts gives it up.

use crate::sys;
use std::io;

/// How much lower init's nice value is than that of others: ten shares for one.
const AHEAD: i32 = 10;

/// Lowers the nice value of a process that leads a session of its own. If that isn't allowed, nothing
/// changes.
pub(crate) fn put_ahead(pid: i32) {
    let usual = sys::process::niceness(pid);
    let _ = sys::process::set_niceness(pid, usual - AHEAD);
    let _ = std::fs::write(format!("/proc/{pid}/autogroup"), format!("-{AHEAD}"));
}

/// The nice value of a process that wasn't put ahead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usual(i32);

impl Usual {
    /// Returns this process's nice value.
    pub(crate) fn now() -> Self {
        Self(sys::process::niceness(0))
    }

    /// Restores it in a child that leads a session of its own, whose autogroup begins like any other.
    pub(crate) fn take(self) -> io::Result<()> {
        sys::process::set_niceness(0, self.0)
    }
}
