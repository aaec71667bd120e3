//! The local terminal during an exec session: in raw mode, and restored afterwards, however the session ends.

use std::{
    io::{self, IsTerminal as _},
    os::fd::{AsFd, OwnedFd},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::types::Window;

/// A terminal in raw mode; dropping this restores it.
///
/// Each change is made at once (`TCSANOW`): waiting until all output is written (`TCSADRAIN`) would take for
/// ever if the output has been stopped (Ctrl-S).
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

    /// Restores the terminal, for the program that uses it while this one is stopped.
    pub fn give_back(&self) {
        // Nothing is left to do if the terminal itself is gone.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }

    /// Makes the terminal raw again. A caller in the background is stopped by that until it is in the
    /// foreground again (termios(3), SIGTTOU).
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

/// Returns the size of a terminal; `None` if it isn't one, or reports no size.
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
    use std::{fs::File, io::Write as _, sync::mpsc, time::Duration};

    use nix::pty::openpty;
    use rustix::termios::{Action, tcflow};

    use super::*;

    /// Ctrl-S was typed, or the other side reads no more, and our own output waits for that.
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
