//! The operator's terminal under `run -t`: raw while the agent has it, and itself again while the heart is
//! stopped, for then a shell has it, and at the end.
//!
//! It is the heart's, which outlives supervisors: whatever happens, the terminal is restored. What is typed
//! there the supervisor reads, and leaves alone while the heart is stopped or in the background
//! (`compose::stdin`). From the background the heart leaves the terminal as it is: to change it there is to
//! be stopped (termios(3), SIGTTOU), and one that is stopped hears of no end. It takes the terminal once a
//! shell's `fg` has put it in front, of which nobody tells one that wasn't stopped.

use std::io;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, raise};
use nix::unistd::{getpgrp, tcgetpgrp};
use operator::client::RawTerminal;

use super::Heart;
use crate::plan::Mode;

/// How often one in the background looks whether it is in front.
const LOOK: Duration = Duration::from_millis(100);

/// The operator's terminal, and who has it.
pub(super) enum Terminal {
    /// It is none of the agent's, or none at all.
    NotOurs,
    /// Raw, and itself again when this is dropped.
    Taken(RawTerminal),
    /// A shell's meanwhile: dropping this must change nothing of it. Empty as long as it was never ours.
    Lent(Option<ManuallyDrop<RawTerminal>>),
}

/// What the heart of such a sandbox hears besides, from before its terminal is raw: a stop from outside, and
/// going on. (Of the keys Ctrl-Z goes inside.) And what would stop it if a shell took the terminal between
/// its look and its change.
pub(super) fn stops(mode: Mode) -> &'static [Signal] {
    match mode {
        Mode::Foreground { tty: true } => &[Signal::SIGTSTP, Signal::SIGCONT, Signal::SIGTTOU],
        _ => &[],
    }
}

/// A terminal that isn't the one of our own session has no background.
fn is_in_background() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|in_front| in_front != getpgrp())
}

impl Terminal {
    /// That of a sandbox that has one, raw from here on, or once it is in front.
    pub(super) fn of(mode: Mode) -> Self {
        match mode {
            Mode::Foreground { tty: true } => Self::Lent(None).taken(),
            _ => Self::NotOurs,
        }
    }

    /// Raw, of whatever somebody else may have made it; left alone in the background.
    fn taken(self) -> Self {
        let before = match self {
            Self::NotOurs => return self,
            Self::Taken(raw) => Some(ManuallyDrop::new(raw)),
            Self::Lent(before) => before,
        };
        if is_in_background() {
            return Self::Lent(before);
        }
        match before.map(ManuallyDrop::into_inner) {
            Some(raw) => {
                // Gone: then the SIGHUP is on its way.
                let _ = raw.take_again();
                Self::Taken(raw)
            }
            None => RawTerminal::enter(io::stdin()).map_or(Self::NotOurs, Self::Taken),
        }
    }

    /// As it was, for whoever has it next.
    fn lent(self) -> Self {
        match self {
            Self::Taken(raw) => {
                raw.give_back();
                Self::Lent(Some(ManuallyDrop::new(raw)))
            }
            other => other,
        }
    }
}

impl Heart {
    /// Stops as it was told, with the terminal given back.
    pub(super) fn stop_for_now(&mut self) {
        self.terminal = std::mem::replace(&mut self.terminal, Terminal::NotOurs).lent();
        // What comes next is the SIGCONT.
        let _ = raise(Signal::SIGSTOP);
    }

    /// Takes the terminal again where it is in front.
    pub(super) fn go_on(&mut self) {
        self.terminal = std::mem::replace(&mut self.terminal, Terminal::NotOurs).taken();
    }

    /// The same for one that waits for its terminal. Whether it has it now.
    pub(super) fn came_to_front(&mut self) -> bool {
        let has_waited = matches!(self.terminal, Terminal::Lent(_));
        if has_waited {
            self.go_on();
        }
        has_waited && matches!(self.terminal, Terminal::Taken(_))
    }

    /// When it looks next whether it is in front.
    pub(super) fn look_by(&self) -> Option<Instant> {
        matches!(self.terminal, Terminal::Lent(_)).then(|| Instant::now() + LOOK)
    }
}
