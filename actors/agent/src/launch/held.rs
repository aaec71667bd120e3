//! Signals that are blocked: from the moment that there is something to clean up at the end, none of them may
//! simply end the process.

use crate::sys;
use nix::poll::PollTimeout;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::time::Duration;

/// Signals that are blocked until they are read or released. Dropping this leaves them blocked.
#[derive(Debug)]
#[must_use = "what is held waits for ever, unless somebody reads or releases it"]
pub struct HeldSignals {
    held: SigSet,
    before: SigSet,
}

impl HeldSignals {
    /// Blocks these signals, except SIGHUP if it is ignored: a program started by nohup(1) should not be told
    /// that its terminal goes. (SIGINT and SIGQUIT are held even if ignored: a script's shell ignores them
    /// for everything in its background, and one that is sent to us on purpose is meant for us.)
    ///
    /// SIGCHLD is reset to its default: a process that ignores it never learns how a child ended.
    ///
    /// # Errors
    /// The system call's.
    pub fn hold(signals: &[Signal]) -> io::Result<Self> {
        sys::signals::to_default(libc::SIGCHLD);
        let unwanted = |signal| signal == Signal::SIGHUP && sys::signals::is_ignored(libc::SIGHUP);
        let held: SigSet = signals.iter().copied().filter(|signal| !unwanted(*signal)).collect();
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&held), Some(&mut before))?;
        Ok(Self { held, before })
    }

    /// Blocks `more` signals, too, and returns all of them.
    ///
    /// # Errors
    /// The system call's.
    pub fn and(&self, more: &[Signal]) -> io::Result<Self> {
        let held: SigSet = self.held.iter().chain(more.iter().copied()).collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&held), None)?;
        Ok(Self { held, before: self.before })
    }

    /// Returns a descriptor on which the signals can be read.
    ///
    /// # Errors
    /// The system call's.
    pub fn descriptor(&self) -> io::Result<SignalFd> {
        Ok(SignalFd::with_flags(&self.held, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
    }

    /// As [`HeldSignals::release`], for work that failed: if a signal asked this process to end meanwhile,
    /// that is why, and the process ends by that signal. Also by one that it ignores, as a script's shell has
    /// it do in the background: held signals are heeded all the same.
    ///
    /// # Errors
    /// The system call's.
    pub fn heed(self) -> io::Result<()> {
        for signal in sys::signals::pending(&self.held)? {
            sys::signals::to_default(signal as libc::c_int);
        }
        self.release()
    }

    /// Restores the former mask. Pending signals then take effect, which for most ends the process.
    ///
    /// # Errors
    /// The system call's.
    pub fn release(self) -> io::Result<()> {
        Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None)?)
    }
}

/// Waits for this long, or until a held signal asks the process to end.
///
/// # Errors
/// [`io::ErrorKind::Interrupted`] if there is such a signal. It stays pending.
pub fn pause(time: Duration) -> io::Result<()> {
    let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    sys::signals::Requests::of_blocked()?.or(None, time).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::raise;

    /// In a process of its own, which ends by it.
    #[test]
    fn a_request_to_end_is_heeded_even_if_it_is_ignored() {
        for (name, meant) in [("INT", libc::SIGINT), ("TERM", libc::SIGTERM)] {
            let own = std::env::current_exe().unwrap();
            let mut script = std::process::Command::new("sh");
            script.args(["-c", &format!("trap '' {name}; exec \"$0\" --exact launch::held::tests::heeds")]);
            let ended = script.arg(own).env("HEEDS", meant.to_string()).output().unwrap();
            assert_eq!(
                std::os::unix::process::ExitStatusExt::signal(&ended.status),
                Some(meant),
                "{ended:?}"
            );
        }
    }

    /// The process of the test above; nothing without it.
    #[test]
    fn heeds() {
        let Ok(meant) = std::env::var("HEEDS") else { return };
        let meant: i32 = meant.parse().unwrap();
        let meant = Signal::try_from(meant).unwrap();
        let held = HeldSignals::hold(&[Signal::SIGINT, Signal::SIGTERM]).unwrap();
        raise(meant).unwrap();
        assert_eq!(pause(Duration::from_secs(60)).unwrap_err().kind(), io::ErrorKind::Interrupted);
        held.heed().unwrap();
    }

    #[test]
    fn a_request_to_end_ends_a_pause_and_goes_on_waiting() {
        // Of this thread alone.
        let held = SigSet::from(Signal::SIGUSR1);
        held.thread_block().unwrap();
        pause(Duration::from_millis(1)).unwrap();
        raise(Signal::SIGUSR1).unwrap();
        for _ in 0..2 {
            assert_eq!(pause(Duration::from_secs(3600)).unwrap_err().kind(), io::ErrorKind::Interrupted);
        }
        assert_eq!(held.wait().unwrap(), Signal::SIGUSR1);
        pause(Duration::ZERO).unwrap();
    }
}
