//! One supervisor in a succession of them: how it is started with every slot, how its packets are read, and
//! what follows its death.
//!
//! Its packets are bounded and typed, and come from a process that may be compromised. The heart believes
//! only what it can do without, and no packet keeps it from a signal or a death.

use std::cell::Cell;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use agent::launch::{self, Child, LaunchError, SupervisorSpec};
use agent::protocol::{Beginning, Death, ExitStatus, News, Slot, ToHeart, ToSupervisor};
use agent::wire::{self, Packet, Wire, WireError};
use nix::sys::signal::Signal;

use super::ending::Ending;
use super::watchdog::{Due, Watchdog};
use super::{Heart, Life, notify, turn};
use crate::children;
use crate::console::{fault, warn};
use crate::plan::slot;
use crate::waits::STOP_SLACK;

/// How long to try to send a packet to a supervisor that doesn't read: its death will be seen soon.
const SEND_PATIENCE: Duration = Duration::from_secs(1);
/// How long a new supervisor may take to receive everything that is handed over: milliseconds, unless the
/// machine is crowded. Signals wait meanwhile.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(10);

/// Packets of a dead supervisor that are read: twice what its queue holds if they are small (socket(7),
/// `wmem_max`). Whoever it gave its end to may send without end, and the death must be seen to.
pub(super) const LAST_HEARD: usize = 1024;
/// How long packets are read at once. It takes milliseconds.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// A supervisor that runs.
pub(super) struct Running {
    pub(super) child: Child,
    pub(super) wire: Wire,
    /// Whether the operator was warned of an unreadable packet: a compromised supervisor could send nothing
    /// else.
    garbled: Cell<bool>,
}

impl Running {
    pub(super) fn tell(&self, message: &ToSupervisor) {
        // A failure is ignored: a dying supervisor takes no messages, and its successor is sent everything
        // again.
        let _ = self.wire.send(message, &[], Some(SEND_PATIENCE));
    }
}

impl Heart {
    pub(super) fn start_supervisor(&mut self) -> Result<Running, LaunchError> {
        self.watchdog = Watchdog::started(Instant::now(), self.plan.agents.len());
        let broken = |e: WireError| LaunchError::System {
            what: "the supervisor's channel",
            source: io::Error::other(e),
        };
        let (ours, theirs) = wire::pair().map_err(broken)?;
        let wire = Wire::new(ours).map_err(broken)?;
        let argv = [crate::SUPERVISOR_ROLE.to_owned()];
        let env = self.environment();
        let child = launch::exec_supervisor(&SupervisorSpec {
            executable: self.executable.as_fd(),
            argv: &argv,
            env: &env,
            keep: &[theirs.as_fd()],
            ids: self.plan.cage.ids,
        })?;
        drop(theirs);
        self.steps.done("heart: supervisor forked and executed");
        let running = Running { child, wire, garbled: Cell::new(false) };
        match self.hand_over(&running.wire) {
            // One that died meanwhile is no failure to start it: its death is seen by its pidfd.
            Ok(()) | Err(WireError::Closed) => {}
            Err(error) => {
                children::end_child(&running.child);
                let source = io::Error::other(error);
                return Err(LaunchError::System { what: "handing over to the supervisor", source });
            }
        }
        self.started = self.started.saturating_add(1);
        if self.beginning == Beginning::Sandbox {
            // Whatever becomes of this supervisor, agents may run by the time that another follows.
            self.beginning = Beginning::Succession;
        }
        if self.stop_by.is_some() {
            // The previous supervisor was told to stop and died before it had done so.
            running.tell(&ToSupervisor::Signal(Signal::SIGTERM as i32));
        }
        Ok(running)
    }

    /// Hands over every slot, or fails: a successor without the policy in force, or without what programs
    /// contained at first use, would begin as the first supervisor did.
    fn hand_over(&self, wire: &Wire) -> Result<(), WireError> {
        let by = Instant::now() + HANDOVER_PATIENCE;
        let left = || Some(by.saturating_duration_since(Instant::now()));
        let mut sent = 0;
        for (name, fd) in self.slots.iter() {
            wire.send(&ToSupervisor::Handover { slot: name.clone() }, &[fd], left())?;
            sent += 1;
        }
        let end = ToSupervisor::HandoverEnd {
            slots: sent,
            predecessors: self.started,
            supervisor_restarts: self.restarts,
            news: self.news.clone(),
            beginning: self.beginning,
        };
        wire.send(&end, &[], left())
    }

    /// The supervisor's whole environment: the files of root certificates that the operator named for
    /// upstream servers, if any.
    fn environment(&self) -> Vec<CString> {
        let roots = self.plan.system_roots.iter();
        roots.filter_map(|path| CString::new(format!("SSL_CERT_FILE={}", path.display())).ok()).collect()
    }

    /// Reads what the supervisor has sent so far, up to `at_once` packets. Returns `Some` if that ends the
    /// time with this supervisor.
    pub(super) fn hear(&mut self, running: &Running, at_once: usize) -> Option<Life> {
        let until = Instant::now() + HEARD_WITHIN;
        for _ in 0..at_once {
            if Instant::now() > until {
                return None;
            }
            match running.wire.try_recv::<ToHeart>() {
                Ok(Packet { body: ToHeart::Keep { slot }, fds }) => {
                    if let Some(fd) = fds.into_iter().next()
                        && !self.slots.keep_for_supervisor(slot, fd)
                        && !std::mem::replace(&mut self.dropped, true)
                    {
                        warn(
                            "too many output pipes for the heart to keep: what is in the newest ones is lost if the supervisor dies",
                        );
                    }
                }
                Ok(Packet { body: ToHeart::Release { slot }, .. }) => {
                    self.slots.release_for_supervisor(&slot);
                }
                Ok(Packet { body: ToHeart::Stopping { grace_ms }, .. }) => {
                    self.must_stop(Duration::from_millis(grace_ms));
                }
                Ok(Packet { body: ToHeart::Ready, .. }) => {
                    self.beginning = Beginning::Succession;
                    self.pace.ready(Instant::now());
                    self.watchdog.ready(Instant::now());
                    notify::ready(self.plan.notify_socket.as_deref());
                    self.has_turned();
                }
                Ok(Packet { body: ToHeart::Over { .. }, .. }) if self.is_turning() => self.old_cage_is_over(),
                Ok(Packet { body: ToHeart::Over { exit_code, message }, .. }) => {
                    self.steps.done("heart: hears that the agents are over; kills init");
                    self.init.kill();
                    self.over = Some(Ending::with(exit_code, message));
                    // Only the last records are left to be written.
                    let by = Instant::now() + STOP_SLACK;
                    self.stop_by = turn::earlier(self.stop_by, Some(by));
                }
                Ok(Packet { body: ToHeart::Alive, .. }) => self.watchdog.heard(),
                Ok(Packet { body: ToHeart::OnRecord, .. }) => {
                    self.news = News::default();
                    // The next news are different events, though they may read the same.
                    self.slots.release(&Slot::new(slot::NEWS));
                }
                Ok(Packet { body: ToHeart::Steps(told), .. }) => {
                    told.iter().for_each(|(what, at)| self.steps.add(what, *at));
                }
                Ok(Packet { body: ToHeart::Finish { .. }, .. }) if self.is_turning() => {
                    self.old_supervisor_has_finished();
                    return Some(Life::Turn);
                }
                Ok(Packet { body: ToHeart::Finish { exit_code, refused, message }, .. }) => {
                    if self.over.is_some() {
                        // All output was written and all records are on disk: an orderly exit would only take
                        // time.
                        running.child.kill();
                    }
                    return Some(Life::End(Ending { refused, ..Ending::with(exit_code, message) }));
                }
                // Nothing to read, or closed. Its death is seen by its pidfd.
                Err(WireError::NotReady | WireError::Closed) => return None,
                Err(error) => {
                    if !running.garbled.replace(true) {
                        warn(&format!("an unreadable packet from the supervisor: {error}"));
                    }
                    return None;
                }
            }
        }
        None
    }

    pub(super) fn supervisor_ended(&mut self, running: &Running) -> Life {
        // It may have said Finish just before it ended.
        if let Some(life) = self.hear(running, LAST_HEARD) {
            return life;
        }
        if self.is_turning() {
            // The next supervisor does what this one left undone: output is still in its pipes.
            return Life::Turn;
        }
        let status = children::reap(&running.child);
        if let Some(over) = self.over.take() {
            warn("the supervisor ended before its last records were known to be written");
            return Life::End(over);
        }
        if !self.plan.quiet && !self.pace.is_patient() {
            let how = children::end_in_words(status);
            warn(&format!("the supervisor {how}: starting another; the agents keep running"));
        }
        self.supervisor_died(status);
        Life::Died
    }

    /// When the watchdog is to be asked next. `None` where other limits hold.
    pub(super) fn watch_by(&self) -> Option<Instant> {
        let has_own_limit = self.over.is_some() || self.is_turning();
        (!has_own_limit).then(|| self.watchdog.by())
    }

    /// Pings the supervisor when it is time, and kills one that answers no more. Returns `Some` if the kernel
    /// doesn't end the killed one: it runs no more code, and another follows.
    pub(super) fn watch_over(&mut self, running: &Running) -> Option<Life> {
        self.watch_by()?;
        match self.watchdog.due(Instant::now()) {
            Due::Nothing => {}
            // One whose buffer is full reads nothing: that counts as silence.
            Due::Ping => drop(running.wire.send(&ToSupervisor::Ping, &[], Some(Duration::ZERO))),
            Due::Kill => {
                let threads = children::threads_in_words(running.child.pid);
                let threads = threads.map(|told| format!(" ({told})")).unwrap_or_default();
                fault(&format!("the supervisor hangs{threads}: it is killed, so that another can follow"));
                running.child.kill();
            }
            Due::GoOnWithout => {
                warn(
                    "the kernel has yet to end the supervisor that hung: it runs no more code, and another follows",
                );
                self.supervisor_died(None);
                return Some(Life::Died);
            }
        }
        None
    }

    /// Notes that the supervisor died, by its exit status, or could not be started.
    pub(super) fn supervisor_died(&mut self, status: Option<ExitStatus>) {
        self.restarts = self.restarts.saturating_add(1);
        self.news.died(if self.watchdog.has_hung() { Death::Hung } else { status.into() });
    }
}
