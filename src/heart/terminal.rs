//! The operator's terminal under `run -t`: in raw mode while the agent has it, and restored while the heart
//! is stopped (a shell has it then) and at the end.
//!
//! The heart owns it because the heart outlives supervisors: whatever happens, the terminal is restored. The
//! supervisor reads what is typed there, except while the heart is stopped or in the background
//! (`compose::stdin`). In the background the heart leaves the terminal as it is: changing it from there would
//! stop the heart (termios(3), SIGTTOU), and a stopped heart notices no end. The heart takes the terminal
//! once a shell's `fg` has put it in the foreground. It has to poll for that: a process that wasn't stopped
//! gets no signal.

use std::io;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, raise};
use nix::unistd::{getpgrp, tcgetpgrp};
use operator::client::RawTerminal;

use super::Heart;
use crate::plan::Mode;

/// How often a heart in the background checks whether it is in the foreground.
const LOOK: Duration = Duration::from_millis(100);

/// Who has the operator's terminal.
pub(super) enum Terminal {
    /// The agent doesn't use the terminal, or there is none.
    NotOurs,
    /// We have it, in raw mode. Dropping this restores it.
    Taken(RawTerminal),
    /// A shell has it meanwhile: dropping this must not change it. `None` as long as we never had it.
    Lent(Option<ManuallyDrop<RawTerminal>>),
}

/// The further signals that the heart of a sandbox with a terminal handles, from before the terminal is raw:
/// a stop from outside, and its continuation. (A typed Ctrl-Z goes inside.) SIGTTOU is among them because it
/// would stop the heart if a shell took the terminal between the heart's check and its change.
pub(super) fn stops(mode: Mode) -> &'static [Signal] {
    match mode {
        Mode::Foreground { tty: true } => &[Signal::SIGTSTP, Signal::SIGCONT, Signal::SIGTTOU],
        _ => &[],
    }
}

/// Whether another process group has the terminal. Never true of a terminal that doesn't control our session.
fn is_in_background() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|in_front| in_front != getpgrp())
}

impl Terminal {
    /// The terminal of a sandbox in this mode: raw at once, or as soon as the heart is in the foreground.
    pub(super) fn of(mode: Mode) -> Self {
        match mode {
            Mode::Foreground { tty: true } => Self::Lent(None).taken(),
            _ => Self::NotOurs,
        }
    }

    /// Takes the terminal: makes it raw, whatever settings another program has left. Leaves it alone from the
    /// background.
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
                // An error means that the terminal is gone: the SIGHUP is on its way.
                let _ = raw.take_again();
                Self::Taken(raw)
            }
            None => RawTerminal::enter(io::stdin()).map_or(Self::NotOurs, Self::Taken),
        }
    }

    /// Restores the terminal for the program that has it next.
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
    /// Restores the terminal, then stops this process as SIGTSTP demands.
    pub(super) fn stop_for_now(&mut self) {
        self.terminal = std::mem::replace(&mut self.terminal, Terminal::NotOurs).lent();
        // Returns after the SIGCONT.
        let _ = raise(Signal::SIGSTOP);
    }

    /// Takes the terminal again if the heart is in the foreground.
    pub(super) fn go_on(&mut self) {
        self.terminal = std::mem::replace(&mut self.terminal, Terminal::NotOurs).taken();
    }

    /// As [`Heart::go_on`], only if the heart waits for its terminal. Returns whether it has just taken it.
    pub(super) fn came_to_front(&mut self) -> bool {
        let has_waited = matches!(self.terminal, Terminal::Lent(_));
        if has_waited {
            self.go_on();
        }
        has_waited && matches!(self.terminal, Terminal::Taken(_))
    }

    /// When to check next whether the heart is in the foreground; `None` if it doesn't wait for its terminal.
    pub(super) fn look_by(&self) -> Option<Instant> {
        matches!(self.terminal, Terminal::Lent(_)).then(|| Instant::now() + LOOK)
    }
}
