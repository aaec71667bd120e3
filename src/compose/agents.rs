//! The agents of a sandbox: the specs of their actors, the streams of each start, and the events of their
//! processes.

mod condition;
mod output;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::InitClient;
use agent::actor::{AgentActor, AgentEvent, Arguments, Judged, Msg, RestartOn};
use agent::health::Health;
use agent::protocol::SpawnSpec;
use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redactor::Streams;
use redactor::pump::{AgentLog, LogLimits};
use supervision::{
    Address, Backoff, Beyond, CallError, ChildSpec, Event as Happened, Intensity, Report, Restart, Supervisor,
};
use telemetry::audit::{AgentChange, Event, Sink, Text};
use telemetry::metrics;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::handover::{Handover, HeartLine};
use super::records::record;
use super::stdin::Stdin;
use super::terminal::Terminal;
use crate::config::RestartPolicy;
use crate::plan::{AgentPlan, Mode, Plan};
use crate::state::files;
use crate::waits::{AGENT_START_WITHIN, END_RECORDED_WITHIN};
pub use condition::Condition;
use condition::Program;
pub(super) use condition::mend;
use output::Output;

/// How long an agent's end may take beyond its grace.
const END_SLACK: Duration = Duration::from_secs(2);

/// One agent as the rest of the supervisor sees it.
#[derive(Clone)]
pub struct Agent {
    /// Its name.
    pub name: Arc<str>,
    /// Its actor.
    pub address: Address<Msg>,
    /// Its condition.
    pub condition: Arc<watch::Sender<Condition>>,
    /// Its terminal, if it has one and runs.
    pub terminal: Arc<ArcSwap<Option<Terminal>>>,
    /// Whether it has a health check.
    pub is_watched: bool,
}

impl Agent {
    async fn without_actor(&self) -> Arc<str> {
        let mut condition = self.condition.subscribe();
        let came = condition.wait_for(|now| now.gave_up && !now.over).await.is_ok();
        if !came {
            // Never, since the sender lives as long as the agents.
            std::future::pending::<()>().await;
        }
        Arc::clone(&self.name)
    }
}

impl Agent {
    /// Ends the process: SIGTERM, and SIGKILL after the grace. Waits until it is over, a little longer than
    /// the grace.
    async fn end(&self, grace: Duration) {
        let kill_at = Instant::now() + grace;
        loop {
            // The actor that follows one that failed meanwhile adopts the process, and knows of no grace.
            let grace = kill_at.saturating_duration_since(Instant::now());
            let stop = self.address.call(|reply| Msg::Stop { grace, again: false, reply }, grace + END_SLACK);
            if !matches!(stop.await, Err(CallError::Lost { .. })) {
                return;
            }
        }
    }
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
    /// The agents whose restarts were used up under an earlier supervisor.
    pub gave_up: Vec<String>,
}

impl Surroundings<'_> {
    /// Makes an agent and its child spec. Resumes the output that an earlier supervisor left in its pipes
    /// first.
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
            log: Arc::new(AgentLog::open(Path::new(files::LOGS), &name, LogLimits::default())?),
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
            gave_up: self.gave_up.contains(&plan.name.as_str().to_owned()),
            told: tell(plan, self.sink.clone(), Arc::clone(&condition)),
            recorded: recorded(self.sink.clone()),
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
                .start_deadline(AGENT_START_WITHIN);
        let is_watched = plan.health.is_some();
        Ok((Agent { name, address, condition, terminal, is_watched }, child))
    }
}

/// Returns the function that turns events of an agent's process into its condition, audit records and
/// metrics.
fn tell(
    plan: &AgentPlan,
    sink: Sink,
    condition: Arc<watch::Sender<Condition>>,
) -> Arc<dyn Fn(&AgentEvent) + Send + Sync> {
    let name = plan.name.clone();
    let is_watched = plan.health.is_some();
    let program = Program {
        name: plan.command.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default(),
        outside: plan.outside.clone(),
    };
    let shown = name.clone();
    let show = move |told: &AgentEvent| {
        condition.send_modify(|now| now.take(told, &shown, &program));
        let now = condition.borrow();
        metrics::agent_up(&shown, now.pid.is_some());
        metrics::agent_gave_up(&shown, now.gave_up);
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
            // Recorded already, or not to be recorded.
            AgentEvent::WasOver { .. } | AgentEvent::Health(_) => {
                show(told);
                return;
            }
            AgentEvent::Started { pid } => (AgentChange::Started, Some(*pid), None, None),
            AgentEvent::Adopted { pid } => (AgentChange::Adopted, Some(*pid), None, None),
            AgentEvent::Exited { status, stopped, .. } => {
                let change = if *stopped { AgentChange::Stopped } else { AgentChange::Exited };
                (change, None, Some(status.code()), None)
            }
            AgentEvent::Silent { why } => {
                tracing::warn!("agent '{name}' doesn't answer any more and is ended: {why}");
                (AgentChange::Silent, None, None, Some(why.clone()))
            }
            AgentEvent::Curbed { pid, why } => {
                tracing::warn!("process {pid} of agent '{name}' was ended: {why}");
                (AgentChange::Curbed, Some(*pid), None, Some(why.clone()))
            }
            AgentEvent::Refused { why, code, .. } => {
                (AgentChange::Failed, None, Some(*code), Some(why.clone()))
            }
        };
        record(&sink, event(change, pid, code, detail));
        show(told);
    })
}

/// Returns the function that waits for the records of [`tell`].
fn recorded(sink: Sink) -> Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync> {
    Arc::new(move || {
        let sink = sink.clone();
        Box::pin(async move {
            let _late_or_failing = sink.flush(END_RECORDED_WITHIN).await;
        })
    })
}

/// Returns the one line that tells the operator of an agent that stays down. `service` is the name of a
/// sandbox that goes on without it.
fn stays_down(service: Option<&str>, agent: &str, failure: &str) -> String {
    let told = format!("agent '{agent}' is not started again: its restarts are used up ({failure})");
    match service {
        Some(name) => {
            format!("{told}; `cofferdam restart {name} agents/{agent}` starts it once its fault is mended")
        }
        None => told,
    }
}

/// An agent whose program can't be run at the start of a sandbox: a mistyped one is reported at once, not
/// retried for ever.
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
    /// Collects the agents of the sandbox.
    pub fn new(plan: &Plan, agents: Vec<Agent>) -> Self {
        let service = (plan.mode == Mode::Service).then(|| plan.name.as_str().into());
        Self { service, all: Arc::new(agents) }
    }

    /// Takes what the tree reports of an agent's actor: that its restarts are used up, which only the tree
    /// knows, or that it is up again.
    pub fn hear(&self, report: &Report) {
        let Some(agent) = report.path.strip_prefix("agents/").and_then(|name| self.find(name)) else {
            return;
        };
        match &report.event {
            Happened::GaveUp { failure } => {
                agent.condition.send_modify(Condition::give_up);
                tracing::warn!("{}", stays_down(self.service.as_deref(), &agent.name, &failure.to_string()));
            }
            Happened::Started { .. } => {
                // The actor of an agent that gave up under an earlier supervisor starts, too, to find it
                // over.
                agent.condition.send_if_modified(|now| !now.over && std::mem::take(&mut now.gave_up));
            }
            _ => return,
        }
        metrics::agent_gave_up(&agent.name, agent.condition.borrow().gave_up);
    }

    /// Returns the first agent that could not be started, if any.
    pub fn not_started(&self) -> Option<NotStarted> {
        self.iter().find_map(|agent| {
            let now = agent.condition.borrow();
            let message = format!("agent '{}': {}", agent.name, now.refused.as_ref()?);
            Some(NotStarted { code: now.last_exit.and_then(|exit| exit.code().try_into().ok())?, message })
        })
    }

    /// Waits until the actor of an agent is given up whose process is not known to have ended. Returns the
    /// agent's name.
    pub async fn one_without_actor(&self) -> Arc<str> {
        let mut each: FuturesUnordered<_> = self.iter().map(Agent::without_actor).collect();
        match each.next().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }

    /// Iterates over all agents.
    pub fn iter(&self) -> impl Iterator<Item = &Agent> {
        self.all.iter()
    }

    /// Returns the agent of this name.
    pub fn find(&self, name: &str) -> Option<&Agent> {
        self.all.iter().find(|agent| &*agent.name == name)
    }

    /// Passes a signal to each agent.
    pub fn signal(&self, signo: i32) {
        for agent in self.iter() {
            // An agent whose actor is down misses this one, and gets the next Ctrl-C.
            let _ = agent.address.cast(Msg::Signal(signo));
        }
    }

    /// Ends every agent's process: SIGTERM, and SIGKILL after the grace. The actor of an agent that waits for
    /// its restart is removed from the tree instead. Afterwards all agents count as over: a stop must
    /// complete, whatever state an actor is in.
    pub async fn stop(&self, grace: Duration, tree: Option<&Supervisor>) {
        let stops = self.iter().map(|agent| async move {
            let now = agent.condition.borrow().clone();
            if now.pid.is_some() {
                agent.end(grace).await;
            } else if let Some(tree) = tree.filter(|_| !now.over) {
                let _ = tree.remove_child(&format!("agents/{}", agent.name)).await;
            }
        });
        futures_util::future::join_all(stops).await;
        for agent in self.iter() {
            agent.condition.send_if_modified(|now| !std::mem::replace(&mut now.over, true));
        }
    }

    /// Sets each terminal to the size of the operator's.
    pub fn resize(&self) {
        let Some(size) = operator::client::window_of(io::stdin()) else { return };
        for agent in self.iter() {
            if let Some(terminal) = &**agent.terminal.load() {
                terminal.resize(size.rows, size.cols);
            }
        }
    }

    /// Waits until no agent runs or will run. Returns the condition of the one that ended last.
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
