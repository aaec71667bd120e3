//! Init's place on the processors: before what it watches over, where that may be had. A crowd of an agent's
//! processes would else leave init one share among all of theirs, and with it everybody who connects or whose
//! processes are to be ended.
//!
//! Two ways lead there, since the kernel shares time out among sessions (sched(7), autogroups) or, in a
//! control group, among processes. Both want CAP_SYS_NICE, which the heart has as root: an ordinary user's
//! init has its one share. Must never be inherited: whatever init starts gives it up.

use crate::sys;
use std::io;

/// So much nicer is everybody else: ten shares for one.
const AHEAD: i32 = 10;

/// Puts a process ahead that leads a session of its own. Where that can't be had it stays where it is.
pub(crate) fn put_ahead(pid: i32) {
    let usual = sys::process::niceness(pid);
    let _ = sys::process::set_niceness(pid, usual - AHEAD);
    let _ = std::fs::write(format!("/proc/{pid}/autogroup"), format!("-{AHEAD}"));
}

/// What a process has that nobody has put ahead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usual(i32);

impl Usual {
    /// This process's, now.
    pub(crate) fn now() -> Self {
        Self(sys::process::niceness(0))
    }

    /// Goes back there, in a child that leads a session of its own, whose group begins like any other.
    pub(crate) fn take(self) -> io::Result<()> {
        sys::process::set_niceness(0, self.0)
    }
}
