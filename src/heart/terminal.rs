//! The operator's terminal under `run -t`: raw while the agent has it, and itself again while the heart is stopped, for then a shell has it,
//! and at the end.
//!
//! It is the heart's, which outlives supervisors: whatever happens, the terminal is restored. What is typed there the supervisor reads, and
//! leaves alone while the heart is stopped (`compose::stdin`).

use std::io;

use nix::sys::signal::{Signal, raise};
use operator::client::RawTerminal;

use super::Heart;
use crate::plan::Mode;

/// What the heart of such a sandbox hears besides, from before its terminal is raw: a stop from outside, and going on. (Of the keys Ctrl-Z goes
/// inside.)
pub(super) fn stops(mode: Mode) -> &'static [Signal] {
    match mode {
        Mode::Foreground { tty: true } => &[Signal::SIGTSTP, Signal::SIGCONT],
        _ => &[],
    }
}

/// The terminal of a sandbox that has one, raw from here on.
pub(super) fn enter(mode: Mode) -> Option<RawTerminal> {
    match mode {
        Mode::Foreground { tty: true } => RawTerminal::enter(io::stdin()).ok(),
        _ => None,
    }
}

impl Heart {
    /// Stops as it was told, with the terminal given back.
    pub(super) fn stop_for_now(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.give_back();
        }
        // What comes next is the SIGCONT.
        let _ = raise(Signal::SIGSTOP);
    }

    /// Takes the terminal again, of which somebody else may have made anything.
    pub(super) fn go_on(&self) {
        if let Some(terminal) = &self.terminal {
            // Gone: then the SIGHUP is on its way.
            let _ = terminal.take_again();
        }
    }
}
