//! How a sandbox ends: every process gone, every file of the moment removed, one clear last message, the
//! right code.

use std::time::Duration;

use agent::launch::Child;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::slots::Slots;
use crate::children::{end_child, has_ended_within, reap};
use crate::console::{fault, warn};
use crate::failure::REFUSED;
use crate::plan::slot;
use crate::state::{BUILD_SOCKET, CONTROL_SOCKET};

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
