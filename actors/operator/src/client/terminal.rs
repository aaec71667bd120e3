//! The local terminal while an exec session has it: raw, and itself again afterwards, however the session
//! ends.

use std::{
    io::{self, IsTerminal as _},
    os::fd::{AsFd, OwnedFd},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::types::Window;

/// A terminal in raw mode; dropped, it is as before.
///
/// Each change is made at once (`TCSANOW`): to wait until all output is out (`TCSADRAIN`) would wait for ever
/// where somebody has stopped it (Ctrl-S).
pub struct RawTerminal {
    terminal: OwnedFd,
    before: Termios,
    raw: Termios,
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
        let entered = Self { terminal, before, raw };
        entered.take_again()?;
        Ok(entered)
    }

    /// Makes it what it was, for whoever has it while its owner is stopped.
    pub fn give_back(&self) {
        // Nothing is left to do if the terminal itself is gone.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }

    /// Makes it raw again. In the background that waits, stopped, until the owner is in the foreground again
    /// (termios(3), SIGTTOU).
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn take_again(&self) -> io::Result<()> {
        Ok(tcsetattr(&self.terminal, OptionalActions::Now, &self.raw)?)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        self.give_back();
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop")]
    use std::{fs::File, io::Write as _, sync::mpsc, time::Duration};

    use nix::pty::openpty;
    use rustix::termios::{Action, tcflow};

    use super::*;

    /// Somebody has typed Ctrl-S, or the other side reads no more, and our own output waits for that.
    #[test]
    fn a_terminal_that_takes_no_output_is_given_back_at_once() {
        let pty = openpty(None, None).unwrap();
        let raw = RawTerminal::enter(&pty.slave).unwrap();
        tcflow(&pty.slave, Action::OOff).unwrap();
        let mut output = File::from(pty.slave.try_clone().unwrap());
        let (begins, begun) = mpsc::channel();
        let writer = std::thread::spawn(move || {
            begins.send(()).unwrap();
            // Ends with the terminal.
            let _ = output.write_all(&[b'x'; 1 << 16]);
        });
        begun.recv().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let (ends, ended) = mpsc::channel();
        let dropper = std::thread::spawn(move || {
            drop(raw);
            let _ = ends.send(());
        });
        let waited = ended.recv_timeout(Duration::from_secs(10));
        drop(pty.master);
        tcflow(&pty.slave, Action::OOn).unwrap_or_default();
        assert!(waited.is_ok(), "it waits for output that nobody takes");
        writer.join().unwrap();
        dropper.join().unwrap();
    }
}
