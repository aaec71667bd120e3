//! The local terminal while an exec session has it: raw, and itself again afterwards, however the session ends.

use std::{
    io::{self, IsTerminal as _},
    os::fd::{AsFd, OwnedFd},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::types::Window;

/// A terminal in raw mode; dropped, it is as before.
pub struct RawTerminal {
    terminal: OwnedFd,
    before: Termios,
}

impl RawTerminal {
    /// Makes a terminal raw: every key goes to the process, Ctrl-C too.
    ///
    /// # Errors
    /// When it is no terminal.
    pub fn enter(terminal: impl AsFd) -> io::Result<Self> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Drain, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing is left to do if the terminal itself is gone.
        let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// The size of a terminal; `None` if it is none, or tells no size.
pub fn window_of(terminal: impl AsFd) -> Option<Window> {
    let terminal = terminal.as_fd();
    if !terminal.is_terminal() {
        return None;
    }
    let size = tcgetwinsize(terminal).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(Window { rows: size.ws_row, cols: size.ws_col })
}
