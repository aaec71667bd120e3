//! Signals: which ones the heart acts on, which it passes on, and when a stop takes too long.

use std::io;
use std::time::{Duration, Instant};

use agent::launch::HeldSignals;
use agent::protocol::ToSupervisor;
use nix::sys::signal::Signal;

use super::ending::Ending;
use super::{Heart, Running, turn};
use crate::plan::{Mode, STOP_GRACE};
use crate::waits::STOP_SLACK;

/// A second Ctrl-C within this time ends the sandbox without waiting for anyone.
pub const SECOND_INTERRUPT: Duration = Duration::from_secs(2);

/// The exit code of a sandbox that was interrupted twice: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;
/// And its last message.
pub const INTERRUPTED_TWICE: &str = "interrupted twice: ended by force";

/// Blocks the signals that the heart handles, so that they stay pending until it reads them.
pub fn hold_signals() -> io::Result<HeldSignals> {
    HeldSignals::hold(&[
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGWINCH,
        Signal::SIGCHLD,
    ])
}

impl Heart {
    /// Passes signals on; ends the sandbox on the second interrupt.
    pub(super) fn signalled(&mut self, running: &Running) -> Option<Ending> {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let Ok(signal) = Signal::try_from(info.ssi_signo as i32) else { continue };
            match signal {
                Signal::SIGWINCH => running.tell(&ToSupervisor::Winch),
                Signal::SIGTERM => self.stop(running),
                Signal::SIGTSTP => self.stop_for_now(),
                Signal::SIGCONT => {
                    self.go_on();
                    // The terminal may have another size by now.
                    running.tell(&ToSupervisor::Winch);
                }
                Signal::SIGINT => {
                    let now = Instant::now();
                    if self.interrupted.is_some_and(|first| now.duration_since(first) <= SECOND_INTERRUPT) {
                        return Some(Ending::with(INTERRUPTED.into(), Some(INTERRUPTED_TWICE.into())));
                    }
                    self.interrupted = Some(now);
                    match self.plan.mode {
                        Mode::Foreground { .. } => running.tell(&ToSupervisor::Signal(signal as i32)),
                        // Nobody types to a service's agents: SIGINT tells the service to stop.
                        Mode::Service => self.stop(running),
                    }
                }
                // SIGCHLD: every child is waited for by its pidfd. SIGTTOU: the terminal isn't ours at the
                // moment.
                Signal::SIGCHLD | Signal::SIGTTOU => {}
                other => match self.plan.mode {
                    Mode::Foreground { .. } => running.tell(&ToSupervisor::Signal(other as i32)),
                    // A signal is meant for the service, not for its agents, most of which it would end. The
                    // service knows SIGHUP: read the policy file again.
                    Mode::Service if other == Signal::SIGHUP => {
                        running.tell(&ToSupervisor::Signal(other as i32));
                    }
                    Mode::Service => {}
                },
            }
        }
        None
    }

    /// Tells the supervisor to stop the agents, and sets the time limit for that.
    fn stop(&mut self, running: &Running) {
        self.must_stop(STOP_GRACE);
        running.tell(&ToSupervisor::Signal(Signal::SIGTERM as i32));
    }

    /// Sets the time after which the sandbox is ended by force. A repeated call never moves it later.
    pub(super) fn must_stop(&mut self, grace: Duration) {
        self.give_up_turn();
        let by = Instant::now().checked_add(grace.saturating_add(STOP_SLACK));
        self.stop_by = turn::earlier(self.stop_by, by);
    }
}
