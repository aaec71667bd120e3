//! How a sandbox ends: every process gone, every file of the moment removed, one clear last message, the right code.

use std::os::fd::AsFd;
use std::time::Duration;

use agent::launch::Child;
use agent::protocol::ExitStatus;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, UnlinkatFlags, unlinkat};

use super::slots::Slots;
use crate::console::{fault, warn};
use crate::failure::REFUSED;
use crate::plan::slot;
use crate::state::{BUILD_SOCKET, CONTROL_SOCKET};
use crate::waits::GONE_WITHIN;

/// What a supervisor gets to write its last audit records and go.
const SUPERVISOR_PATIENCE: Duration = Duration::from_secs(3);

/// The code and the last message of a sandbox.
#[derive(Debug, PartialEq, Eq)]
pub struct Ending {
    /// The exit code.
    pub code: u8,
    /// What agents were refused.
    pub refused: Option<String>,
    /// What the operator should know besides.
    pub message: Option<String>,
}

impl Ending {
    /// As the supervisor says.
    pub fn with(exit_code: i32, message: Option<String>) -> Self {
        Self { code: u8::try_from(exit_code).unwrap_or(REFUSED), refused: None, message }
    }

    /// cofferdam itself failed.
    pub fn failed(message: &str) -> Self {
        Self::with(REFUSED.into(), Some(message.into()))
    }

    /// It was told to stop: 128 + SIGTERM.
    pub fn stopped(message: &str) -> Self {
        Self::with(143, Some(message.into()))
    }

    /// Says the last messages and gives the code.
    pub fn tell(self) -> u8 {
        if let Some(refused) = &self.refused {
            warn(refused);
        }
        if let Some(message) = &self.message {
            fault(message);
        }
        self.code
    }
}

/// Waits for the supervisor, which ends by itself once the heart's channel closes, but not for ever.
pub fn end_supervisor(supervisor: &Child) {
    if has_ended_within(supervisor, SUPERVISOR_PATIENCE) {
        reap(supervisor);
    } else {
        end_child(supervisor);
    }
}

/// Ends a child by force, and collects it. One that the kernel can't end yet (an agent of an init's may hang in a dead file system, or in a
/// debugger's hands) runs no more code: nobody waits for it longer, and [`super::Heart::reap_strangers`] collects it, or whoever collects what
/// the heart leaves.
pub fn end_child(child: &Child) -> Option<ExitStatus> {
    child.kill();
    if has_ended_within(child, GONE_WITHIN) { reap(child) } else { None }
}

/// Whether a child is over, collected or not.
pub fn has_ended(child: &Child) -> bool {
    has_ended_within(child, Duration::ZERO)
}

fn has_ended_within(child: &Child, patience: Duration) -> bool {
    let within = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, within).is_ok_and(|n| n > 0)
}

/// Collects an ended child.
pub fn reap(child: &Child) -> Option<ExitStatus> {
    match waitpid(Pid::from_raw(child.pid), Some(WaitPidFlag::__WALL)).ok()? {
        WaitStatus::Exited(_, code) => Some(ExitStatus::Code(code)),
        WaitStatus::Signaled(_, signal, _) => Some(ExitStatus::Signal(signal as i32)),
        _ => None,
    }
}

/// Removes what must not outlive the sandbox: its sockets.
pub fn clean_state(slots: &Slots) {
    [CONTROL_SOCKET, BUILD_SOCKET].into_iter().for_each(|socket| remove(slots, socket));
}

/// Removes one of them.
pub fn remove(slots: &Slots, socket: &str) {
    if let Some(state) = slots.find(slot::STATE) {
        let _ = unlinkat(state, socket, UnlinkatFlags::NoRemoveDir);
    }
}
