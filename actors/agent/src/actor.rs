//! One actor per agent process. The only file of this crate that names ractor.
//!
//! ```text
//! pre_start: ask init's table ─┬─ it runs already ────▶ adopt it
//!                              ├─ it has ended ───────▶ as if its end had just come
//!                              └─ nothing, or an end ─▶ open its streams, spawn it
//!                                 that was judged here
//! its end  : told ─┬─ to be restarted ─▶ the actor fails, and its supervisor starts it after the backoff
//!                  └─ not ─────────────▶ the actor stops
//! silence  : ended, and judged as a failure ([`crate::health`])
//! ```
//! The process belongs to init, not to this actor: a panic here leaves it running, to be adopted by the next
//! incarnation, and so does every ordered stop of the actor. Only [`Msg::Stop`] ends a process.
//!
//! An ended process keeps its row in init's table until another start of it is wanted. The table outlives
//! supervisors: without the row a new supervisor would take an ended process for one that was never started,
//! and run it a second time.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use supervision::{Duty, DutyEnded};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::client::{ClientError, InitClient, Spawned};
use crate::health::{self, Health, Verdict, Watch};
use crate::protocol::{Event, ExitStatus, ProcessId, ProcessRecord, ProcessState, Refusal, SpawnSpec};

/// Between SIGTERM and SIGKILL for a process that doesn't answer any more.
const SILENT_GRACE: Duration = Duration::from_secs(10);

/// Messages to the actor. While it is down, casts are dropped and calls wait with their deadline.
#[derive(Debug)]
pub enum Msg {
    /// The process ended. Sent by the actor's own watcher; a missed one is found in init's table at the next
    /// start.
    Exited(ProcessId, ExitStatus),
    /// Pass a signal to the process's group. Dropped while the actor is down: the sender sees no effect, and
    /// may send it again.
    Signal(i32),
    /// End the process: SIGTERM, and after the grace SIGKILL. The actor stays, idle, until it is stopped or
    /// restarted. Waits with the caller's deadline while the actor is down.
    Stop {
        /// Between SIGTERM and SIGKILL.
        grace: Duration,
        /// Whether a start follows. If it does, the start stays wanted even if it is left to the next
        /// supervisor.
        again: bool,
        /// How it ended; `None` when there was nothing to end.
        reply: RpcReplyPort<Option<ExitStatus>>,
    },
    /// The grace of a [`Msg::Stop`] is over. Sent by the actor to itself.
    GraceOver(ProcessId),
    /// Result of watching the process: its health has changed, or it is given up, and why. Sent by the
    /// actor's own watch, which begins anew with the actor.
    Pulse(ProcessId, Verdict, String),
    /// Init has ended a process of the agent's, see [`Event::Flooded`]: its pid, and how many descriptors it
    /// had. Sent by the actor's own watcher; a missed one is not made up for.
    Flooded(i32, usize),
    /// The watch for the process's end, or its health check, ended: the actor fails, and its next incarnation
    /// adopts the process. Dropped while the actor is down.
    DutyEnded(DutyEnded),
    /// Fault injection: the handler panics. Sent only where the operator enabled it; dropped while the actor
    /// is down.
    InjectPanic,
}

/// Which ends are followed by a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartOn {
    /// No end.
    Never,
    /// Any but exit code 0.
    Failure,
    /// Every end.
    Always,
}

impl RestartOn {
    fn wants(self, success: bool) -> bool {
        match self {
            Self::Never => false,
            Self::Failure => !success,
            Self::Always => true,
        }
    }
}

/// Where a new process's standard streams come from.
pub trait Streams: Send + Sync {
    /// Makes them for one start.
    ///
    /// # Errors
    /// Out of descriptors.
    fn open(&self) -> BoxFuture<'_, io::Result<Opened>>;
    /// Takes the master of the terminal that was made for a start that asked for one; the process runs
    /// already.
    fn terminal(&self, master: OwnedFd) -> BoxFuture<'_, io::Result<()>>;
}

/// Streams for one start.
#[derive(Debug)]
pub enum Opened {
    /// Descriptors for 0, 1 and 2.
    Given([OwnedFd; 3]),
    /// A terminal of this size, made inside.
    Terminal {
        /// Lines.
        rows: u16,
        /// Columns.
        columns: u16,
    },
}

/// What becomes of the process.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentEvent {
    /// It runs.
    Started {
        /// Its pid inside.
        pid: i32,
    },
    /// It was already running when this incarnation of the actor started.
    Adopted {
        /// Its pid inside.
        pid: i32,
    },
    /// It ended.
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// Whether it was stopped on purpose.
        stopped: bool,
        /// Whether a start follows, as far as the supervisor's limit allows.
        restarts: bool,
    },
    /// It had ended, and its end was reported, before this supervisor started.
    WasOver {
        /// How it ended.
        status: ExitStatus,
        /// As for [`AgentEvent::Exited`].
        restarts: bool,
        /// Whether its restarts were used up then.
        gave_up: bool,
    },
    /// Its health has changed: it answers, or doesn't.
    Health(Health),
    /// It has failed to answer too often, and is being ended.
    Silent {
        /// What came instead of its last expected answer.
        why: String,
    },
    /// One of the agent's processes was ended, since the agent kept others from the network.
    Curbed {
        /// The process, by its pid inside.
        pid: i32,
        /// The reason.
        why: String,
    },
    /// It could not be started.
    Refused {
        /// Why it could not.
        why: String,
        /// 127, 126 or 125.
        code: i32,
        /// Whether it is tried again.
        restarts: bool,
    },
}

/// What the actor is started with, the same each time.
#[derive(Clone)]
pub struct Arguments {
    /// The agent's name.
    pub name: Arc<str>,
    /// Init.
    pub init: InitClient,
    /// What to run.
    pub spec: Arc<SpawnSpec>,
    /// Where its streams come from.
    pub streams: Arc<dyn Streams>,
    /// Which ends are followed by a start.
    pub restart_on: RestartOn,
    /// Whether its restarts were used up under an earlier supervisor, so that no start follows the end that
    /// was reported then.
    pub gave_up: bool,
    /// Hears what becomes of the process. Must not block.
    pub told: Arc<dyn Fn(&AgentEvent) + Send + Sync>,
    /// Resolves once all that was told is on record. Bounded: what can't be recorded holds nothing up for
    /// long.
    pub recorded: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
    /// The last end that was dealt with, see [`Judged`].
    pub judged: Judged,
    /// How it is watched, if it is.
    pub watch: Option<Watch>,
}

/// The last end that any incarnation of the actor has judged in this supervisor. If an incarnation finds this
/// end in the table again, it is no news: a start is wanted.
#[derive(Debug, Clone, Default)]
pub struct Judged(Arc<AtomicU64>);

impl Judged {
    /// Init numbers processes from 1, so the default, 0, is no process.
    fn has(&self, process: ProcessId) -> bool {
        self.0.load(Ordering::Relaxed) == process.0
    }

    fn note(&self, process: ProcessId) {
        self.0.store(process.0, Ordering::Relaxed);
    }
}

/// The actor of an agent process; see the module.
#[derive(Debug, Default)]
pub struct AgentActor;

/// One incarnation.
pub struct State {
    given: Arguments,
    process: Option<ProcessId>,
    /// Its end was reported before this supervisor started.
    noted: bool,
    stopping: Option<Stopping>,
    /// It was given up for its silence: its end counts as a failure, whatever its exit status.
    silent: bool,
    _watch: Duty,
    _pulse: Option<Duty>,
}

/// A [`Msg::Stop`] under way.
struct Stopping {
    again: bool,
    /// Of all who have asked for it by now.
    replies: Vec<RpcReplyPort<Option<ExitStatus>>>,
}

impl Actor for AgentActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Msg>, given: Arguments) -> Result<State, ActorProcessingErr> {
        // Subscribed before the table is read, so that no end falls between the two.
        let events = given.init.events();
        let watching = watch(given.init.clone(), events, given.name.clone(), myself.clone());
        let ends = Duty::begin(&myself, Msg::DutyEnded, "the watch for its process's end", watching);
        let mut rows: Vec<ProcessRecord> =
            given.init.list().await?.into_iter().filter(|record| *record.agent == *given.name).collect();
        // The running process counts, else the one that ran last. An ended one besides it is from an earlier
        // start, and was dealt with.
        rows.sort_by_key(|record| (record.state == ProcessState::Running, record.process));
        let known = rows.pop();
        let mut noted = false;
        let process = match known {
            Some(ProcessRecord { process, pid, state: ProcessState::Running, .. }) => {
                (given.told)(&AgentEvent::Adopted { pid });
                Some(process)
            }
            Some(ProcessRecord { process, state: ProcessState::Exited(status), noted: before, .. })
                if !given.judged.has(process) =>
            {
                noted = before;
                let _ = myself.cast(Msg::Exited(process, status));
                Some(process)
            }
            judged => {
                // A start is wanted, so the rows have done their work.
                for record in rows.into_iter().chain(judged) {
                    let _ = given.init.forget(record.process).await;
                }
                match start(&given).await {
                    Ok(record) => {
                        (given.told)(&AgentEvent::Started { pid: record.pid });
                        Some(record.process)
                    }
                    Err(error) => refused(&given, &myself, &error)?,
                }
            }
        };
        let watched = given.watch.clone().zip(process);
        let pulse = watched.map(|(watch, process)| take_pulse(watch, process, &myself));
        Ok(State { given, process, noted, stopping: None, silent: false, _watch: ends, _pulse: pulse })
    }

    #[expect(clippy::panic, reason = "fault injection is there to panic")]
    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Exited(process, status) if state.process == Some(process) => {
                state.exited(&myself, process, status).await
            }
            // From an earlier incarnation of the actor.
            Msg::Exited(..) => Ok(()),
            Msg::Signal(signo) => {
                if let Some(process) = state.process {
                    state.signal(process, signo).await;
                }
                Ok(())
            }
            Msg::Stop { grace, again, reply } => {
                state.stop(&myself, grace, Stopping { again, replies: vec![reply] }).await;
                Ok(())
            }
            Msg::Flooded(pid, descriptors) => {
                let why =
                    format!("it had {descriptors} descriptors open, and other agents waited for the network");
                (state.given.told)(&AgentEvent::Curbed { pid, why });
                Ok(())
            }
            Msg::GraceOver(process) => {
                if state.process == Some(process) {
                    state.signal(process, libc::SIGKILL).await;
                }
                Ok(())
            }
            Msg::Pulse(process, verdict, why) => {
                if state.process == Some(process) && state.stopping.is_none() {
                    state.pulse(&myself, process, verdict, why).await;
                }
                Ok(())
            }
            Msg::DutyEnded(ended) => Err(ended.into()),
            Msg::InjectPanic => panic!("fault injected into an agent's actor"),
        }
    }
}

impl State {
    async fn exited(
        &mut self,
        myself: &ActorRef<Msg>,
        process: ProcessId,
        status: ExitStatus,
    ) -> Result<(), ActorProcessingErr> {
        self.process = None;
        // A daemon that the process left behind must not hold its ports when it starts again. Init remembers
        // the outcome: it refuses a start while there are survivors, see `start`.
        let _ = self.given.init.kill_strays(&self.given.name).await;
        let stopped = self.stopping.take();
        let gave_up = self.noted && self.given.gave_up;
        let restarts =
            stopped.is_none() && !gave_up && self.given.restart_on.wants(status.success() && !self.silent);
        (self.given.told)(&match self.noted {
            true => AgentEvent::WasOver { status, restarts, gave_up },
            false => AgentEvent::Exited { status, stopped: stopped.is_some(), restarts },
        });
        self.given.judged.note(process);
        // A supervisor that dies in between makes two records of this end. In the other order it made none.
        (self.given.recorded)().await;
        // If this fails, the only effect is that a new supervisor finds the row again, as an end that was not
        // reported.
        let _ = match &stopped {
            Some(Stopping { again: true, .. }) => self.given.init.forget(process).await,
            _ => self.given.init.note_end(process).await,
        };
        if let Some(Stopping { replies, .. }) = stopped {
            // A caller that gave up is no fault of ours.
            replies.into_iter().for_each(|reply| drop(reply.send(Some(status))));
            return Ok(());
        }
        if restarts {
            return Err(format!("the process ended: {status}").into());
        }
        myself.stop(None);
        Ok(())
    }

    async fn pulse(&mut self, myself: &ActorRef<Msg>, process: ProcessId, verdict: Verdict, why: String) {
        match verdict {
            Verdict::Same => {}
            Verdict::Now(health) => (self.given.told)(&AgentEvent::Health(health)),
            Verdict::GivenUp => {
                self.silent = true;
                (self.given.told)(&AgentEvent::Silent { why });
                self.signal(process, libc::SIGTERM).await;
                myself.send_after(SILENT_GRACE, move || Msg::GraceOver(process));
            }
        }
    }

    async fn stop(&mut self, myself: &ActorRef<Msg>, grace: Duration, mut stopping: Stopping) {
        let Some(process) = self.process else {
            stopping.replies.into_iter().for_each(|reply| drop(reply.send(None)));
            return;
        };
        self.signal(process, libc::SIGTERM).await;
        stopping.replies.extend(self.stopping.take().into_iter().flat_map(|earlier| earlier.replies));
        self.stopping = Some(stopping);
        myself.send_after(grace, move || Msg::GraceOver(process));
    }

    /// A process that has just ended takes no signal, and needs none.
    async fn signal(&self, process: ProcessId, signo: i32) {
        if let Err(error) = self.given.init.signal(process, signo).await {
            tracing::debug!(agent = %self.given.name, %error, "a signal was not delivered");
        }
    }
}

/// As [`spawn`]; but where processes of an earlier start stand in the way, a search for them is made once
/// more. While they are still there the start is refused, on record, and tried again after the backoff, like
/// any start that failed.
async fn start(given: &Arguments) -> Result<ProcessRecord, ClientError> {
    match spawn(given).await {
        Err(ClientError::Refused(Refusal::Survivors)) => {
            given.init.kill_strays(&given.name).await?;
            spawn(given).await
        }
        done => done,
    }
}

async fn spawn(given: &Arguments) -> Result<ProcessRecord, ClientError> {
    match given.streams.open().await? {
        Opened::Given(streams) => Ok(given.init.spawn(&given.name, &given.spec, streams).await?.record),
        Opened::Terminal { rows, columns } => {
            let Spawned { record, pty } =
                given.init.spawn_pty(&given.name, &given.spec, rows, columns).await?;
            if let Some(master) = pty {
                given.streams.terminal(master).await?;
            }
            Ok(record)
        }
    }
}

/// Handles a start that failed: it is tried again after the backoff where restarts are wanted; else the actor
/// ends.
fn refused(
    given: &Arguments,
    myself: &ActorRef<Msg>,
    error: &ClientError,
) -> Result<Option<ProcessId>, ActorProcessingErr> {
    let code = match error {
        ClientError::Refused(refusal) => Refusal::exit_code(refusal),
        _ => 125,
    };
    let restarts = given.restart_on.wants(false);
    (given.told)(&AgentEvent::Refused { why: error.to_string(), code, restarts });
    if restarts {
        return Err(error.to_string().into());
    }
    myself.stop(None);
    Ok(None)
}

/// Watches the process for as long as this incarnation lives.
fn take_pulse(watch: Watch, process: ProcessId, myself: &ActorRef<Msg>) -> Duty {
    let actor = myself.clone();
    let told = move |verdict, why| {
        // Fails only when the actor is gone, and with it the reason to tell it.
        let _ = actor.cast(Msg::Pulse(process, verdict, why));
    };
    Duty::begin(myself, Msg::DutyEnded, "its health check", async move {
        health::watch(watch, told).await;
        // The process is given up: nothing of it is left to watch.
        std::future::pending().await
    })
}

/// Tells the actor of its process's end. Missed events are made up for from init's table.
async fn watch(
    init: InitClient,
    mut events: Receiver<Event>,
    name: Arc<str>,
    actor: ActorRef<Msg>,
) -> io::Result<()> {
    loop {
        let ended = match events.recv().await {
            Ok(Event::Exited { process, agent, status }) => (*agent == *name).then_some((process, status)),
            Ok(Event::Flooded { agent, pid, descriptors }) => {
                if *agent == *name {
                    let _ = actor.cast(Msg::Flooded(pid, descriptors));
                }
                continue;
            }
            Err(RecvError::Lagged(_)) => ended_in_table(&init, &name).await,
            // Init is gone, and the sandbox with it.
            Err(RecvError::Closed) => std::future::pending().await,
        };
        if let Some((process, status)) = ended {
            // Fails only when the actor is gone, and with it the reason to tell it.
            let _ = actor.cast(Msg::Exited(process, status));
        }
    }
}

async fn ended_in_table(init: &InitClient, name: &str) -> Option<(ProcessId, ExitStatus)> {
    let records = init.list().await.ok()?;
    let ours = records.into_iter().filter(|record| record.agent == name);
    // Rows of starts before may still be there.
    ours.max_by_key(|record| record.process).and_then(|record| match record.state {
        ProcessState::Exited(status) => Some((record.process, status)),
        ProcessState::Running => None,
    })
}
