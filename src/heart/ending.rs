//! How a sandbox ends: every process is gone, its sockets are removed, and one clear last message and the
//! right exit code are left.

use std::time::Duration;

use agent::launch::Child;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::slots::Slots;
use crate::children::{end_child, has_ended_within, reap};
use crate::console::{fault, warn};
use crate::failure::REFUSED;
use crate::plan::slot;
use crate::state::{BUILD_SOCKET, CONTROL_SOCKET};

/// How long a supervisor may take to write its last audit records and exit.
const SUPERVISOR_PATIENCE: Duration = Duration::from_secs(3);

/// A sandbox's exit code and last messages.
#[derive(Debug, PartialEq, Eq)]
pub struct Ending {
    /// The exit code.
    pub code: u8,
    /// A summary of what agents were refused.
    pub refused: Option<String>,
    /// What else the operator should know.
    pub message: Option<String>,
}

impl Ending {
    /// The ending that the supervisor reported. A code that isn't an exit code becomes [`REFUSED`].
    pub fn with(exit_code: i32, message: Option<String>) -> Self {
        Self { code: u8::try_from(exit_code).unwrap_or(REFUSED), refused: None, message }
    }

    /// The ending of a sandbox in which cofferdam itself failed.
    pub fn failed(message: &str) -> Self {
        Self::with(REFUSED.into(), Some(message.into()))
    }

    /// The ending of a sandbox that was told to stop: 128 + SIGTERM.
    pub fn stopped(message: &str) -> Self {
        Self::with(143, Some(message.into()))
    }

    /// Prints the last messages and returns the exit code.
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

/// Waits for the supervisor, which exits by itself once the heart's channel closes. Kills it after
/// [`SUPERVISOR_PATIENCE`].
pub fn end_supervisor(supervisor: &Child) {
    if has_ended_within(supervisor, SUPERVISOR_PATIENCE) {
        reap(supervisor);
    } else {
        end_child(supervisor);
    }
}

/// Removes what must not outlive the sandbox: its sockets.
pub fn clean_state(slots: &Slots) {
    [CONTROL_SOCKET, BUILD_SOCKET].into_iter().for_each(|socket| remove(slots, socket));
}

/// Removes one socket from the state directory.
pub fn remove(slots: &Slots, socket: &str) {
    if let Some(state) = slots.find(slot::STATE) {
        let _ = unlinkat(state, socket, UnlinkatFlags::NoRemoveDir);
    }
}
