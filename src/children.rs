//! Our child processes and their ends. Never waits for one without a limit.

use std::os::fd::AsFd;
use std::time::Duration;

use agent::launch::Child;
use agent::protocol::ExitStatus;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::waits::GONE_WITHIN;

/// Kills a child and reaps it. A child that the kernel can't end yet (an init whose agent hangs in a dead
/// file system, or under a debugger) runs no more code. It is waited for no longer than [`GONE_WITHIN`]; the
/// heart reaps it later, or the process that inherits the heart's children.
pub fn end_child(child: &Child) -> Option<ExitStatus> {
    child.kill();
    if has_ended_within(child, GONE_WITHIN) { reap(child) } else { None }
}

/// Whether a child has ended, reaped or not.
pub fn has_ended(child: &Child) -> bool {
    has_ended_within(child, Duration::ZERO)
}

/// As [`has_ended`], after waiting up to `patience`.
pub fn has_ended_within(child: &Child, patience: Duration) -> bool {
    let within = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, within).is_ok_and(|n| n > 0)
}

/// Returns how a child ended, as the rest of a sentence.
pub fn end_in_words(how: Option<ExitStatus>) -> String {
    match how {
        Some(ExitStatus::Code(code)) => format!("ended with exit code {code}"),
        Some(ExitStatus::Signal(signal)) => format!("was killed by signal {signal}"),
        None => "ended in an unknown way".to_owned(),
    }
}

/// Reaps an ended child.
pub fn reap(child: &Child) -> Option<ExitStatus> {
    match waitpid(Pid::from_raw(child.pid), Some(WaitPidFlag::__WALL)).ok()? {
        WaitStatus::Exited(_, code) => Some(ExitStatus::Code(code)),
        WaitStatus::Signaled(_, signal, _) => Some(ExitStatus::Signal(signal as i32)),
        _ => None,
    }
}
