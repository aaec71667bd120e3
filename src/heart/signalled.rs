//! Signals: which the heart judges, which it passes on, and the end of all patience.

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

/// What such a sandbox ends with: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;
/// And its last message.
pub const INTERRUPTED_TWICE: &str = "interrupted twice: ended by force";

/// Keeps the signals that the heart judges waiting for it.
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
                    // Its size of now.
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
                        // Nobody types to a service's agents: it is told to stop.
                        Mode::Service => self.stop(running),
                    }
                }
                // Of our own children, each of whom is waited for; and of a terminal that isn't ours at the
                // moment.
                Signal::SIGCHLD | Signal::SIGTTOU => {}
                other => match self.plan.mode {
                    Mode::Foreground { .. } => running.tell(&ToSupervisor::Signal(other as i32)),
                    // Meant for the service, not for its agents, which most of them would end. It knows this
                    // one: read your file.
                    Mode::Service if other == Signal::SIGHUP => {
                        running.tell(&ToSupervisor::Signal(other as i32));
                    }
                    Mode::Service => {}
                },
            }
        }
        None
    }

    /// Has the supervisor stop the agents, but not for ever.
    fn stop(&mut self, running: &Running) {
        self.must_stop(STOP_GRACE);
        running.tell(&ToSupervisor::Signal(Signal::SIGTERM as i32));
    }

    /// Sets the end of all patience. Being told again puts it off no further.
    pub(super) fn must_stop(&mut self, grace: Duration) {
        self.give_up_turn();
        let by = Instant::now().checked_add(grace.saturating_add(STOP_SLACK));
        self.stop_by = turn::earlier(self.stop_by, by);
    }
}
