//! The agents of a sandbox: their actors' specs, the streams of each start, and what becomes of them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent::InitClient;
use agent::actor::{AgentActor, Arguments, Judged, Msg, Opened, RestartOn, Streams as AgentStreams, Told};
use agent::health::Health;
use agent::protocol::SpawnSpec;
use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use redactor::pump::{AgentLog, LogLimits, Source};
use redactor::{StreamKind, StreamSpec, Streams};
use supervision::{
    Address, Backoff, Beyond, ChildSpec, Event as Happened, Intensity, Report, Restart, Supervisor,
};
use telemetry::audit::{AgentChange, Event, Sink, Text};
use telemetry::metrics;
use tokio::sync::{mpsc, watch};

use super::handover::{Handover, HeartLine};
use super::records::record;
use super::stdin::Stdin;
use super::terminal::Terminal;
use crate::config::RestartPolicy;
use crate::plan::{AgentPlan, Mode, Plan, slot};

/// What follows a terminal's slot for the journal's write end.
const FEED: &str = ":feed";
/// What follows a terminal's slot for its master.
const MASTER: &str = ":master";
/// How long an agent's actor may take to start: init forks in milliseconds.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// A terminal without a size.
const USUAL_SIZE: (u16, u16) = (24, 80);

/// One agent as the rest of the supervisor sees it.
#[derive(Clone)]
pub struct Agent {
    /// Its name.
    pub name: Arc<str>,
    /// Its actor.
    pub address: Address<Msg>,
    /// How it is.
    pub condition: Arc<watch::Sender<Condition>>,
    /// Its terminal, where it has one and runs.
    pub terminal: Arc<ArcSwap<Option<Terminal>>>,
    /// Whether it is asked if it still answers.
    pub is_watched: bool,
}

/// How an agent is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Condition {
    /// Its pid inside, while it runs.
    pub pid: Option<i32>,
    /// When the process was started or found, for its uptime.
    pub since: Option<std::time::Instant>,
    /// Whether it answers: told only of one that runs and is asked.
    pub health: Health,
    /// Starts after the first.
    pub restarts: u64,
    /// The last exit code, 128+n for signal n.
    pub last_code: Option<i32>,
    /// Why it could not be started.
    pub refused: Option<String>,
    /// It ended, and no start follows.
    pub over: bool,
    /// It failed more often than its restarts allow: only an operator starts it again.
    pub gave_up: bool,
}

/// What agents need of the supervisor.
pub struct Surroundings<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Init.
    pub init: &'a InitClient,
    /// The heart.
    pub heart: &'a HeartLine,
    /// The output streams.
    pub streams: &'a Streams,
    /// The audit log.
    pub sink: Sink,
    /// Where standard input is led, for an agent in the foreground.
    pub stdin: Option<Stdin>,
}

impl Surroundings<'_> {
    /// An agent and its child spec. Output that a supervisor before this one left in its pipes is taken up first.
    pub fn agent(&self, plan: &AgentPlan, handover: &mut Handover) -> io::Result<(Agent, ChildSpec)> {
        let name: Arc<str> = plan.name.as_str().into();
        let address = Address::new(format!("agents/{name}"));
        let condition = Arc::new(watch::Sender::new(Condition::default()));
        let terminal = Arc::new(ArcSwap::from_pointee(None));
        let output = Arc::new(Output {
            name: Arc::clone(&name),
            mode: self.plan.mode,
            heart: self.heart.clone(),
            streams: self.streams.clone(),
            log: Arc::new(AgentLog::open(Path::new("logs"), &name, LogLimits::default())?),
            stdin: self.stdin.clone(),
            terminal: Arc::clone(&terminal),
        });
        output.resume(handover)?;
        let spec = Arc::new(SpawnSpec {
            argv: plan.command.iter().map(|word| word.as_encoded_bytes().to_vec()).collect(),
            env: plan.env.clone(),
            cwd: agent::plan::WORKSPACE.into(),
        });
        let restart = &plan.restart;
        let arguments = Arguments {
            name: Arc::clone(&name),
            init: self.init.clone(),
            spec,
            streams: output,
            restart_on: match restart.policy {
                RestartPolicy::Never => RestartOn::Never,
                RestartPolicy::OnFailure => RestartOn::Failure,
                RestartPolicy::Always => RestartOn::Always,
            },
            told: tell(plan, self.sink.clone(), Arc::clone(&condition)),
            judged: Judged::default(),
            watch: plan.health.as_ref().map(|health| super::health::watch(health, self.init)),
        };
        let child =
            ChildSpec::actor(plan.name.as_str(), address.clone(), move || (AgentActor, arguments.clone()))
                // The actor itself judges which ends are failures; a panic of the actor always is one.
                .restart(Restart::Transient)
                .backoff(Backoff { min: restart.backoff.min, max: restart.backoff.max, jitter: 0.1 })
                .intensity(Intensity { restarts: restart.at_most, within: restart.within })
                .beyond(Beyond::GiveUp)
                .start_deadline(START_DEADLINE);
        let is_watched = plan.health.is_some();
        Ok((Agent { name, address, condition, terminal, is_watched }, child))
    }
}

/// What an agent's command begins with.
struct Program {
    name: String,
    outside: Option<PathBuf>,
}

/// Turns what becomes of a process into its condition, the audit log and the metrics.
fn tell(
    plan: &AgentPlan,
    sink: Sink,
    condition: Arc<watch::Sender<Condition>>,
) -> Arc<dyn Fn(&Told) + Send + Sync> {
    let name = plan.name.clone();
    let is_watched = plan.health.is_some();
    let program = Program {
        name: plan.command.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default(),
        outside: plan.outside.clone(),
    };
    let shown = name.clone();
    let show = move |told: &Told| {
        condition.send_modify(|now| now.take(told, &shown, &program));
        let now = condition.borrow();
        metrics::agent_up(&shown, now.pid.is_some());
        if is_watched {
            metrics::agent_healthy(&shown, now.pid.is_some() && now.health == Health::Healthy);
        }
    };
    Arc::new(move |told| {
        let event = |change, pid, code, detail: Option<String>| Event::Agent {
            name: name.as_str().into(),
            change,
            pid,
            code,
            detail: detail.map(Text::from),
        };
        let (change, pid, code, detail) = match told {
            // On record already, or not for the record.
            Told::WasOver { .. } | Told::Health(_) => {
                show(told);
                return;
            }
            Told::Started { pid } => (AgentChange::Started, Some(*pid), None, None),
            Told::Adopted { pid } => (AgentChange::Adopted, Some(*pid), None, None),
            Told::Exited { status, stopped, .. } => {
                let change = if *stopped { AgentChange::Stopped } else { AgentChange::Exited };
                (change, None, Some(status.code()), None)
            }
            Told::Silent { why } => {
                tracing::warn!("agent '{name}' doesn't answer any more and is ended: {why}");
                (AgentChange::Silent, None, None, Some(why.clone()))
            }
            Told::Refused { why, code, .. } => (AgentChange::Failed, None, Some(*code), Some(why.clone())),
        };
        record(&sink, event(change, pid, code, detail));
        show(told);
    })
}

impl Condition {
    fn take(&mut self, told: &Told, name: &str, program: &Program) {
        match told {
            Told::Started { pid } | Told::Adopted { pid } => {
                if matches!(told, Told::Started { .. }) && self.last_code.is_some() {
                    self.restarts += 1;
                    metrics::agent_restarted(name);
                }
                self.pid = Some(*pid);
                self.health = Health::Starting;
                self.since = Some(std::time::Instant::now());
                self.refused = None;
                (self.over, self.gave_up) = (false, false);
            }
            Told::Exited { status, restarts, .. } | Told::WasOver { status, restarts } => {
                (self.pid, self.since) = (None, None);
                self.last_code = Some(status.code());
                self.over = !restarts;
            }
            Told::Health(health) => self.health = *health,
            Told::Silent { .. } => self.health = Health::Failing,
            Told::Refused { why, code, restarts } => {
                (self.pid, self.since) = (None, None);
                self.last_code = Some(*code);
                self.refused = Some(mend(&program.name, program.outside.as_deref(), why, *code));
                self.over = !restarts;
            }
        }
    }
}

/// The one line for the operator of an agent that stays down; `service` is the sandbox that goes on without it.
fn stays_down(service: Option<&str>, agent: &str, failure: &str) -> String {
    let told = format!("agent '{agent}' is not started again: its restarts are used up ({failure})");
    match service {
        Some(name) => {
            format!("{told}; `cofferdam restart {name} agents/{agent}` starts it once its fault is mended")
        }
        None => told,
    }
}

/// The one line for the operator: what could not be started, and what to do about it.
pub(super) fn mend(program: &str, outside: Option<&Path>, why: &str, code: i32) -> String {
    match (code, outside) {
        (127, Some(outside)) => format!(
            "{program}: not found inside the sandbox; on this machine it is {}: name it by its whole path, and have the policy show that \
             and, if it is a script, its interpreter (filesystem_policy: read_only)",
            outside.display()
        ),
        (127, None) => format!(
            "{program}: not found inside the sandbox (PATH is {}; a script's interpreter must be there too)",
            agent::environment::PATH
        ),
        (126, _) => {
            format!("{program}: can't be executed inside the sandbox ({why}); is it a program with mode +x?")
        }
        _ => format!("{program}: {why}"),
    }
}

/// Where an agent's output goes: into pipes that the heart keeps too, so that none of it is lost with this process.
struct Output {
    name: Arc<str>,
    mode: Mode,
    heart: HeartLine,
    streams: Streams,
    log: Arc<AgentLog>,
    stdin: Option<Stdin>,
    terminal: Arc<ArcSwap<Option<Terminal>>>,
}

impl Output {
    /// The slot of one stream of one start. Every start has names of its own: the end of an old stream, which a child of
    /// the old process may hold open for long, must not release what a new one needs.
    fn slot(&self, stream: StreamKind) -> String {
        static STARTS: AtomicU64 = AtomicU64::new(0);
        let start = STARTS.fetch_add(1, Ordering::Relaxed);
        format!("{}{}:{}:{}-{start}", slot::OUTPUT, self.name, stream.as_str(), std::process::id())
    }

    fn foreground(&self, stream: StreamKind) -> io::Result<Option<OwnedFd>> {
        if self.mode == Mode::Service {
            return Ok(None);
        }
        match stream {
            StreamKind::Stdout => io::stdout().as_fd().try_clone_to_owned(),
            StreamKind::Stderr => io::stderr().as_fd().try_clone_to_owned(),
        }
        .map(Some)
    }

    fn pump(&self, slot: String, stream: StreamKind, source: Source, resumed: bool) -> io::Result<()> {
        let spec = StreamSpec {
            agent: Arc::clone(&self.name),
            stream,
            source,
            foreground: self.foreground(stream)?,
            log: Some(Arc::clone(&self.log)),
            resumed,
        };
        let mut handle = self.streams.add(spec);
        let heart = self.heart.clone();
        let slots = [slot.clone(), format!("{slot}{FEED}"), format!("{slot}{MASTER}")];
        tokio::spawn(async move {
            // An ended stream is not handed to a successor. Where its reader went away, the agent now gets SIGPIPE.
            handle.drained().await;
            for slot in slots {
                let _ = heart.release(&slot).await;
            }
        });
        Ok(())
    }

    /// Takes up the pipes that the heart kept from a supervisor before this one.
    fn resume(&self, handover: &mut Handover) -> io::Result<()> {
        for stream in [StreamKind::Stdout, StreamKind::Stderr] {
            let prefix = format!("{}{}:{}:", slot::OUTPUT, self.name, stream.as_str());
            let mut kept = handover.take_all(&prefix);
            let starts: Vec<String> = kept.keys().filter(|name| !name.contains(':')).cloned().collect();
            for start in starts {
                let Some(journal) = kept.remove(&start) else { continue };
                let (feed, master) =
                    (kept.remove(&format!("{start}{FEED}")), kept.remove(&format!("{start}{MASTER}")));
                let source = match (feed, master) {
                    (Some(feed), Some(master)) => {
                        self.show_terminal(&master)?;
                        Source::Pty { master, journal, feed }
                    }
                    _ => Source::Pipe(journal),
                };
                self.pump(format!("{prefix}{start}"), stream, source, true)?;
            }
        }
        Ok(())
    }

    fn show_terminal(&self, master: &OwnedFd) -> io::Result<()> {
        let terminal = Terminal::new(master.try_clone()?)?;
        if let Some(stdin) = &self.stdin {
            stdin.lead_to_terminal(terminal.clone());
        }
        self.terminal.store(Arc::new(Some(terminal)));
        Ok(())
    }

    async fn pipe(&self, stream: StreamKind) -> io::Result<OwnedFd> {
        let (read, write) = io::pipe()?;
        let read = OwnedFd::from(read);
        let slot = self.slot(stream);
        // Kept before anything is written to it.
        self.heart.keep(&slot, read.as_fd()).await.map_err(io::Error::other)?;
        self.pump(slot, stream, Source::Pipe(read), false)?;
        Ok(write.into())
    }
}

impl AgentStreams for Output {
    fn open(&self) -> BoxFuture<'_, io::Result<Opened>> {
        Box::pin(async move {
            if self.mode == (Mode::Foreground { tty: true }) {
                let size = operator::client::window_of(io::stdin());
                let (rows, columns) = size.map_or(USUAL_SIZE, |size| (size.rows, size.cols));
                return Ok(Opened::Terminal { rows, columns });
            }
            let stdin = match &self.stdin {
                Some(stdin) => stdin.lead_to_pipe(&self.heart).await?,
                None => std::fs::File::open("/dev/null")?.into(),
            };
            let streams = [stdin, self.pipe(StreamKind::Stdout).await?, self.pipe(StreamKind::Stderr).await?];
            Ok(Opened::Given(streams))
        })
    }

    fn terminal(&self, master: OwnedFd) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let (journal, feed) = io::pipe()?;
            let (journal, feed) = (OwnedFd::from(journal), OwnedFd::from(feed));
            let slot = self.slot(StreamKind::Stdout);
            let parts = [
                (slot.clone(), &journal),
                (format!("{slot}{FEED}"), &feed),
                (format!("{slot}{MASTER}"), &master),
            ];
            for (name, fd) in parts {
                self.heart.keep(&name, fd.as_fd()).await.map_err(io::Error::other)?;
            }
            self.show_terminal(&master)?;
            self.pump(slot, StreamKind::Stdout, Source::Pty { master, journal, feed }, false)
        })
    }
}

/// An agent whose program can't be run, at the start of a sandbox: one that is mistyped is told at once, not tried for ever.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct NotStarted {
    /// 127, 126 or 125.
    pub code: u8,
    message: String,
}

/// The agents of the sandbox.
#[derive(Clone)]
pub struct Agents {
    /// The sandbox's name, if it goes on without them.
    service: Option<Arc<str>>,
    all: Arc<Vec<Agent>>,
}

impl Agents {
    /// All of them.
    pub fn new(plan: &Plan, agents: Vec<Agent>) -> Self {
        let service = (plan.mode == Mode::Service).then(|| plan.name.as_str().into());
        Self { service, all: Arc::new(agents) }
    }

    /// Takes what the tree reports of an agent's actor: that its restarts are used up, which nobody else tells, or that
    /// it is up again.
    pub fn hear(&self, report: &Report) {
        let Some(agent) = report.path.strip_prefix("agents/").and_then(|name| self.find(name)) else {
            return;
        };
        match &report.event {
            Happened::GaveUp { failure } => {
                // What still runs, its actor alone being gone, is not over.
                agent.condition.send_modify(|now| (now.gave_up, now.over) = (true, now.pid.is_none()));
                tracing::warn!("{}", stays_down(self.service.as_deref(), &agent.name, &failure.to_string()));
            }
            Happened::Started { .. } => {
                agent.condition.send_if_modified(|now| std::mem::take(&mut now.gave_up));
            }
            _ => {}
        }
    }

    /// The first that could not be started, if any.
    pub fn not_started(&self) -> Option<NotStarted> {
        self.iter().find_map(|agent| {
            let now = agent.condition.borrow();
            let message = format!("agent '{}': {}", agent.name, now.refused.as_ref()?);
            Some(NotStarted { code: now.last_code.and_then(|code| code.try_into().ok())?, message })
        })
    }

    /// Each.
    pub fn iter(&self) -> impl Iterator<Item = &Agent> {
        self.all.iter()
    }

    /// By name.
    pub fn find(&self, name: &str) -> Option<&Agent> {
        self.all.iter().find(|agent| &*agent.name == name)
    }

    /// Passes a signal to each.
    pub fn signal(&self, signo: i32) {
        for agent in self.iter() {
            // One whose actor is down is told by the next Ctrl-C.
            let _ = agent.address.cast(Msg::Signal(signo));
        }
    }

    /// Ends every process: SIGTERM, and SIGKILL after the grace. One that waits for its restart leaves the tree instead.
    /// Afterwards all count as over: a stop must come to its end, whatever became of an actor.
    pub async fn stop(&self, grace: Duration, tree: Option<&Supervisor>) {
        let deadline = grace + Duration::from_secs(2);
        let stops = self.iter().map(|agent| async move {
            let now = agent.condition.borrow().clone();
            if now.pid.is_some() {
                let _ = agent.address.call(|reply| Msg::Stop { grace, again: false, reply }, deadline).await;
            } else if let Some(tree) = tree.filter(|_| !now.over) {
                let _ = tree.remove_child(&format!("agents/{}", agent.name)).await;
            }
        });
        futures_util::future::join_all(stops).await;
        for agent in self.iter() {
            agent.condition.send_if_modified(|now| !std::mem::replace(&mut now.over, true));
        }
    }

    /// Tells each terminal the operator's size.
    pub fn resize(&self) {
        let Some(size) = operator::client::window_of(io::stdin()) else { return };
        for agent in self.iter() {
            if let Some(terminal) = &**agent.terminal.load() {
                terminal.resize(size.rows, size.cols);
            }
        }
    }

    /// Waits until no agent runs or will run, and gives the last one's condition.
    pub async fn all_over(&self) -> Condition {
        let (send, mut receive) = mpsc::channel(1);
        for agent in self.iter() {
            let (mut condition, send) = (agent.condition.subscribe(), send.clone());
            tokio::spawn(async move {
                // The sender lives as long as the agents.
                let over =
                    condition.wait_for(|now| now.over).await.map(|now| now.clone()).unwrap_or_default();
                let _ = send.send(over).await;
            });
        }
        drop(send);
        let mut last = Condition::default();
        while let Some(over) = receive.recv().await {
            last = over;
        }
        last
    }
}
