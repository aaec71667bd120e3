//! The heart: the process that a shell or systemd sees. It starts init and the supervisor, keeps their
//! descriptors, and starts the supervisor again when it dies.
//!
//! ```text
//! give init its plan ────────→ ┬─ start a supervisor, hand it every slot ─┐
//!                              │        wait: its packets, its death,     │
//!                              │        init's death, signals             │
//!                              ├──────── it died: wait, again ◀───────────┤
//!                              └──────── another cage stands ([`turn`]) ◀──┘
//!                                        Finish, init died, nobody to stop agents in order: end
//! ```
//!
//! Single-threaded, and it must stay so: it forks. It parses nothing but packets from the supervisor
//! (bounded, typed), reads no file of the agent's, and decides nothing about policy. It must never hold a
//! secret: those pass through it as a descriptor only.

mod ending;
mod notify;
mod pace;
mod signalled;
mod slots;
mod supervisor;
mod terminal;
mod turn;
mod watchdog;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use agent::launch::{self, Child, HeldSignals, NewInit};
use agent::own::Role;
use agent::plan::Ids;
use agent::protocol::{Beginning, News, Slot, ToSupervisor};
use agent::wire::{self, Wire};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use crate::builder::{Builder, Commission};
use crate::children;
use crate::console::{fault, say, wait_briefly, warn};
use crate::plan::{Mode, Plan, STOP_GRACE, slot};
use crate::state::Made;
use crate::steps::Steps;
use ending::Ending;
use pace::{Next, Pace};
pub use signalled::{INTERRUPTED, INTERRUPTED_TWICE, SECOND_INTERRUPT, hold_signals};
pub use slots::Slots;
use supervisor::Running;
use terminal::Terminal;
use turn::CageMove;
use watchdog::Watchdog;

/// How many packets are read before signals and deaths are looked at again: a compromised supervisor could
/// send without end.
const HEARD_AT_ONCE: usize = 64;

/// What the command has prepared for the heart.
pub struct Prepared {
    /// The plan.
    pub plan: Plan,
    /// The sandbox's pid 1, without its plan yet.
    pub init: NewInit,
    /// What was made in the state directory. It is removed if the sandbox doesn't start, and before the lock,
    /// which is a slot, is released.
    pub made: Made,
    /// Descriptors to keep from the start.
    pub slots: Slots,
    /// What the builder is made with. Only a service has one.
    pub builder: Option<Commission>,
    /// The clock that times the steps of a start and of an end.
    pub steps: Steps,
}

/// Turns this process, the command, into the heart of a sandbox whose init is already running. The arguments
/// and environment that the command was started with are erased from its memory, and every descriptor that
/// isn't a slot is closed.
///
/// # Errors
/// Why the sandbox could not start. Nothing is left of it then.
pub fn begin(prepared: Prepared, signals: &HeldSignals) -> Result<Heart, String> {
    // This comes first: from here on, every open descriptor has an owner in this process.
    let listener = prepared.builder.iter().map(|commission| commission.listener.as_fd());
    let kept = prepared.slots.iter().map(|(_, fd)| fd).chain(prepared.init.descriptors()).chain(listener);
    launch::close_all_but(&kept.collect::<Vec<_>>())
        .map_err(|e| format!("can't close what isn't ours: {e}"))?;
    // A write to a standard error that nobody reads would block us for ever, and with us all who wait for us,
    // and the name's lock.
    wait_briefly();
    Heart::of(prepared, signals)
}

/// The heart of a sandbox.
pub struct Heart {
    plan: Plan,
    executable: OwnedFd,
    slots: Slots,
    init: Child,
    signals: SignalFd,
    pace: Pace,
    watchdog: Watchdog,
    /// How many supervisors were started.
    started: u32,
    /// How many of them died.
    restarts: u32,
    /// Events that no supervisor has recorded yet.
    news: News,
    interrupted: Option<Instant>,
    stop_by: Option<Instant>,
    terminal: Terminal,
    /// How the sandbox will end. Set once the agents are over and init was killed.
    over: Option<Ending>,
    /// The situation that the next supervisor starts in.
    beginning: Beginning,
    /// Whether the operator was warned that output is no longer kept.
    dropped: bool,
    /// The builder. Only a service has one.
    builder: Option<Builder>,
    /// Where there is a control group: the process that removes it if we are killed, and the channel whose
    /// end tells it so.
    sweeper: Option<(Child, Wire)>,
    /// A move to another cage that is under way.
    turn: Option<CageMove>,
    steps: Steps,
}

/// Which of the events that the heart waits for have happened.
struct Ready {
    signalled: bool,
    packets: bool,
    supervisor_died: bool,
    init_died: bool,
    built: bool,
    next_cage_died: bool,
}

/// How the time with one supervisor ended.
enum Life {
    /// It died; another may follow.
    Died,
    /// Another cage is ready, and nothing is left to do in this one.
    Turn,
    /// The sandbox ends.
    End(Ending),
}

impl Heart {
    fn of(prepared: Prepared, signals: &HeldSignals) -> Result<Self, String> {
        // Locals are dropped in reverse order: `made` is removed while the lock, a slot, is still held.
        let Prepared { plan, mut slots, init, builder, made, steps } = prepared;
        agent::own::retitle(c"cofferdam: hrt", "cofferdam: heart")
            .map_err(|e| format!("can't take our environment out of memory: {e}"))?;
        let executable = launch::own_executable().map_err(|e| format!("can't open our own binary: {e}"))?;
        if let Some(state) = slots.find(slot::STATE) {
            // The supervisor inherits this working directory, so it needs no permission on the path to it.
            nix::unistd::fchdir(state).map_err(|e| format!("can't enter the state directory: {e}"))?;
        }
        let signals = signals.and(terminal::stops(plan.mode)).and_then(|held| held.descriptor());
        let signals = signals.map_err(|e| format!("can't wait for signals: {e}"))?;
        let (supervisors_end, inits_end) = wire::pair().map_err(|e| e.to_string())?;
        let init = init.furnish(&plan.cage, inits_end).map_err(|e| e.to_string())?;
        slots.keep(Slot::new(slot::INIT), supervisors_end);
        slots.own_these();
        // Init must end before its control group is removed.
        let end_init = |_: &String| {
            children::end_child(&init);
        };
        // The control group, which would be left behind if the heart were killed.
        let sweeper = init.cgroup.as_ref().map(|limits| {
            let sweep = |heart: Wire| {
                limits.outlive(&heart);
                0
            };
            let behind = launch::stay_behind(c"cofferdam: swp", "cofferdam: sweeper", &[], sweep);
            behind.map_err(|e| format!("the sweeper: {e}")).inspect_err(end_init)
        });
        let sweeper = sweeper.transpose()?;
        let builder = builder.map(|commission| {
            let held: Vec<_> =
                [slot::STATE, slot::LOCK].into_iter().filter_map(|name| slots.find(name)).collect();
            let begun = Builder::begin(commission, &plan, &held, init.cgroup.as_ref());
            begun.map_err(|e| format!("the builder: {e}")).inspect_err(end_init)
        });
        let builder = builder.transpose()?;
        // Only after both have started: giving init what it needs takes privileges for a while, and the
        // builder keeps some of them for good.
        agent::own::settle(Role::Heart { rooted: matches!(plan.cage.ids, Ids::Rooted { .. }) })
            .map_err(|e| e.to_string())
            .inspect_err(end_init)?;
        made.keep();
        steps.done("heart: init has its plan");
        let terminal = Terminal::of(plan.mode);
        Ok(Self {
            plan,
            executable,
            slots,
            init,
            signals,
            pace: Pace::new(),
            watchdog: Watchdog::started(Instant::now(), 0),
            started: 0,
            restarts: 0,
            news: News::default(),
            interrupted: None,
            stop_by: None,
            terminal,
            over: None,
            beginning: Beginning::Sandbox,
            dropped: false,
            builder,
            sweeper,
            turn: None,
            steps,
        })
    }

    /// Runs until the sandbox ends. Returns its exit code.
    pub fn live(mut self) -> u8 {
        loop {
            match self.start_supervisor() {
                Ok(running) => match self.accompany(&running) {
                    Life::End(ending) => return self.end(ending, Some(running)),
                    Life::Turn => match self.turn_over(running) {
                        Some(ending) => return self.end(ending, None),
                        None => continue,
                    },
                    Life::Died => {}
                },
                Err(error) => {
                    // Once it is tried every few seconds for as long as it takes, it was said often enough.
                    if !self.pace.is_patient() {
                        fault(&format!("the supervisor could not be started: {error}"));
                    }
                    self.supervisor_died(None);
                }
            }
            if let Some(ending) = self.alone() {
                return self.end(ending, None);
            }
        }
    }

    /// Waits between two supervisors. Returns `Some` if the sandbox ends instead.
    fn alone(&mut self) -> Option<Ending> {
        match self.pace.died(Instant::now()) {
            Next::After(wait) => {
                // Signals stay pending until the next supervisor is there.
                std::thread::sleep(wait);
                None
            }
            Next::Patiently { .. } if self.stop_by.is_some() => {
                Some(Ending::stopped("no supervisor is there to stop the agents in order: ended by force"))
            }
            Next::Patiently { first } => {
                if first {
                    fault(&format!(
                        "no supervisor becomes ready: it is tried again every {} s; the agents keep running, and nothing is let through \
                         meanwhile",
                        pace::PATIENT.as_secs()
                    ));
                }
                self.wait_patiently()
            }
            Next::GiveUp => Some(Ending::failed("the supervisor never becomes ready; the sandbox ends")),
        }
    }

    /// Waits up to [`pace::PATIENT`]. If the sandbox is told to stop meanwhile, the wait ends: the next
    /// supervisor is started at once, is told to stop, and is the last one tried.
    fn wait_patiently(&mut self) -> Option<Ending> {
        let until = Instant::now() + pace::PATIENT;
        while self.stop_by.is_none() && Instant::now() < until {
            let mut fds = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.init.pidfd.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, timeout_at(Some(until))) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Some(Ending::failed(&format!("poll: {error}"))),
            }
            let [signalled, init_died] = fds.map(|fd| fd.any().unwrap_or(false));
            if init_died {
                return Some(self.init_ended());
            }
            while signalled && let Ok(Some(info)) = self.signals.read_signal() {
                match Signal::try_from(info.ssi_signo as i32) {
                    // With no supervisor to pass SIGINT on to, an interrupt means that the sandbox is to end.
                    Ok(Signal::SIGTERM | Signal::SIGINT) => self.must_stop(STOP_GRACE),
                    // The terminal is gone, and with it whoever could end what was started there.
                    Ok(Signal::SIGHUP) if self.plan.mode != Mode::Service => self.must_stop(STOP_GRACE),
                    Ok(Signal::SIGTSTP) => self.stop_for_now(),
                    Ok(Signal::SIGCONT) => self.go_on(),
                    // Other signals would be passed on, and there is no supervisor to pass them to.
                    _ => {}
                }
            }
        }
        None
    }

    /// Serves a running supervisor until it dies, another cage is ready, or the sandbox ends.
    fn accompany(&mut self, running: &Running) -> Life {
        loop {
            let ready = match self.wait(running) {
                Ok(ready) => ready,
                Err(error) => return Life::End(Ending::failed(&format!("poll: {error}"))),
            };
            if self.came_to_front() {
                // The terminal may have another size by now.
                running.tell(&ToSupervisor::Winch);
            }
            if ready.packets
                && let Some(life) = self.hear(running, HEARD_AT_ONCE)
            {
                return life;
            }
            if ready.init_died && self.over.is_none() {
                if !self.has_next_cage() {
                    return Life::End(self.init_ended());
                }
                self.old_cage_has_died();
            }
            if ready.built {
                self.hear_builder(running);
            }
            if ready.next_cage_died {
                self.next_cage_died();
            }
            if ready.supervisor_died {
                return self.supervisor_ended(running);
            }
            if ready.signalled
                && let Some(ending) = self.signalled(running)
            {
                return Life::End(ending);
            }
            if turn::is_past(self.stop_by) {
                return Life::End(self.out_of_time());
            }
            if turn::is_past(self.turn_by()) {
                return Life::Turn;
            }
            if let Some(life) = self.watch_over(running) {
                return life;
            }
            self.reap_strangers(running);
        }
    }

    fn wait(&self, running: &Running) -> nix::Result<Ready> {
        let when = |wanted| if wanted { PollFlags::POLLIN } else { PollFlags::empty() };
        // The death of an init that was killed on purpose is no event.
        let init = when(self.over.is_none() && !self.has_left_cage());
        // A placeholder for descriptors that don't exist; no event of it is requested.
        let nobody = self.signals.as_fd();
        let builder = self.builder.as_ref().map_or(nobody, |builder| builder.wire.as_fd());
        let next = self.next_cage();
        let mut fds = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(running.wire.as_fd(), PollFlags::POLLIN),
            PollFd::new(running.child.pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.init.pidfd.as_fd(), init),
            PollFd::new(builder, when(self.builder.is_some())),
            PollFd::new(next.unwrap_or(nobody), when(next.is_some())),
        ];
        let by = [self.stop_by, self.turn_by(), self.look_by(), self.watch_by()];
        let by = by.into_iter().flatten().min();
        match poll(&mut fds, timeout_at(by)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        // A hang-up counts as readable: the read then reports the end.
        let [signalled, packets, supervisor_died, init_died, built, next_cage_died] =
            fds.map(|fd| fd.any().unwrap_or(false));
        Ok(Ready { signalled, packets, supervisor_died, init_died, built, next_cage_died })
    }

    /// How a sandbox ends whose supervisor has had all the time for its end that there is.
    fn out_of_time(&mut self) -> Ending {
        match self.over.take() {
            Some(over) => {
                warn("the supervisor does not finish: its last records are not known to be written");
                over
            }
            None => Ending::stopped("the stop took too long: ended by force"),
        }
    }

    fn init_ended(&mut self) -> Ending {
        let how = children::end_in_words(children::reap(&self.init));
        let message = format!("the sandbox's init {how}, and every process of the sandbox with it");
        Ending::with(137, Some(message))
    }

    /// Ends everything in order: the sandbox's processes, the supervisor, the sockets in the state directory.
    fn end(mut self, ending: Ending, supervisor: Option<Running>) -> u8 {
        drop(std::mem::replace(&mut self.terminal, Terminal::NotOurs));
        self.steps.done("heart: hears of the end");
        self.end_builder();
        // This kills every process of the sandbox too (pid_namespaces(7)).
        self.init.kill();
        if let Some(Running { child, wire, .. }) = supervisor {
            // The closed channel tells it that nothing is left to supervise.
            drop(wire);
            ending::end_supervisor(&child);
        }
        self.steps.done("heart: supervisor gone");
        // Init was killed before the wait for the supervisor so that both end in parallel: each takes the
        // kernel a millisecond.
        children::end_child(&self.init);
        let gone = children::has_ended(&self.init);
        drop(self.init.cgroup.take());
        // If init isn't gone, the sweeper still has a control group to remove.
        if let Some((sweeper, _)) = self.sweeper.take().filter(|_| gone) {
            children::end_child(&sweeper);
        }
        self.steps.done("heart: init and its namespaces gone");
        ending::clean_state(&self.slots);
        if let Some(table) = self.steps.table() {
            say(&table);
        }
        if !gone {
            warn(
                "the kernel has yet to end a process of the sandbox (in a dead file system, or a debugger's hands?): it runs no more code",
            );
        }
        ending.tell()
    }
}

/// The time-out for poll(2) that ends at `by`. A millisecond is added, so that it never ends early.
fn timeout_at(by: Option<Instant>) -> PollTimeout {
    let Some(by) = by else { return PollTimeout::NONE };
    PollTimeout::try_from(by.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
        .unwrap_or(PollTimeout::MAX)
}
