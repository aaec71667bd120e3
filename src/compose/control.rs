//! Carries out what the control API offers: the one place that can reach every part.
//!
//! Each method asks or tells the part that is responsible. Each change is recorded with the operator who made
//! it.

mod words;

use std::sync::Arc;
use std::time::Duration;

use agent::InitClient;
use agent::protocol::{Beginning, CageReport};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::BoxStream;
use operator::types::{
    AcceptIdentity, Accepted, Approval, ApprovalAnswer, Event, ExecRequest, ForgetIdentity, Identity,
    LogQuery, PolicyChange, PolicyStatus, PolicyView, SandboxState, Status, Stop, TreeNode,
};
use operator::{Answer, Code, Control, ExecSession, Fault, Peer};
use supervision::{State, Supervisor};
use telemetry::audit;
use tokio::sync::{Mutex, OnceCell, mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::agents::{Agent, Agents};
use super::another_cage::Over;
use super::approvals::InForce;
use super::capture::{self, Followed};
use super::exec::Exec;
use super::feeds;
use super::handover::HeartLine;
use super::identities;
use super::records::record;
use super::stores::Stores;
use super::tree::Addresses;
use crate::plan::{Mode, Plan, STOP_GRACE};
use words::{agent_status, budget_status, controls, credential_status, provider_status};

/// How long a part may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// The actor that receives all these requests.
const OPERATOR: &str = "operator";
/// How long an answer takes to go out, at most.
const ANSWERED: Duration = Duration::from_millis(100);

/// What is said of a change that the heart hasn't taken in time.
const NOT_KEPT: &str =
    "it is in force, but not kept yet: a supervisor that is restarted now would begin with the policy before";

/// What is said if init doesn't answer in time.
const NOT_FOLLOWED: &str = "it is in force, but init has yet to lead its ports to the proxy: until then programs that use no proxy don't reach them";

/// Everything that the control API needs.
pub struct ControlApi {
    /// The plan.
    pub plan: Arc<Plan>,
    /// What outlives the actors.
    pub stores: Arc<Stores>,
    /// The actors' addresses.
    pub addresses: Addresses,
    /// The agents.
    pub agents: Agents,
    /// The cage's report, once the cage is proven.
    pub cage: OnceCell<CageReport>,
    /// Starts exec sessions.
    pub exec: Exec,
    /// Init.
    pub init: InitClient,
    /// The actor tree, once it is up.
    pub tree: OnceCell<Supervisor>,
    /// The heart.
    pub heart: HeartLine,
    /// The sender for the grace when an operator wants the sandbox to end. Used after the heart was told.
    pub ending: mpsc::Sender<Duration>,
    /// The last generation of the policy that a successor would begin with.
    pub policy_kept: watch::Receiver<u64>,
    /// How far the captured ports have followed the policy.
    pub ports_followed: watch::Receiver<Followed>,
    /// Cancelled once the sandbox is being stopped, or the agents are for another cage.
    pub stopping: CancellationToken,
    /// The agents that are over, as the heart was told last.
    pub over: Mutex<Option<Over>>,
    /// When the sandbox started.
    pub started_at: jiff::Timestamp,
    /// Supervisor processes that died before this one.
    pub restarts: u32,
    /// The situation that this supervisor started in.
    pub beginning: Beginning,
}

impl ControlApi {
    fn tree(&self) -> Result<&Supervisor, Fault> {
        self.tree.get().ok_or_else(|| Fault::new(Code::Unavailable, "the actor tree is not up yet"))
    }

    async fn snapshot(&self) -> Result<supervision::TreeNode, Fault> {
        self.tree()?.tree().await.map_err(|e| Fault::new(Code::Unavailable, e.to_string()))
    }

    /// Records what was done, even if the log takes no records for a while.
    pub(super) fn done(&self, by: Peer, action: &str, target: String) -> Accepted {
        record(&self.stores.audit.sink(), operator_did(by, action, &target));
        Accepted { action: action.into(), target }
    }

    /// Refuses if the log takes no records. For requests that start a process or trust a program.
    async fn log_takes_records(&self) -> Result<(), Fault> {
        let sink = self.stores.audit.sink();
        sink.room().await;
        sink.check().map_err(unrecorded)
    }

    fn no_actor(&self, actor: &str) -> Fault {
        let fault = Fault::new(Code::NotFound, format!("no actor is called '{actor}': see `cofferdam tree`"));
        match self.agents.find(actor) {
            Some(agent) => fault.hint(format!("the agent's actor is agents/{}", agent.name)),
            None => fault,
        }
    }

    async fn overview(&self) -> Status {
        let tree = self.snapshot().await.ok();
        let down = tree.as_ref().map(|t| t.children.iter().any(|c| c.state != State::Up));
        let state = match (self.stopping.is_cancelled(), down) {
            (true, _) => SandboxState::Stopping,
            (false, None) => SandboxState::Starting,
            (false, Some(true)) => SandboxState::Degraded,
            (false, Some(false)) => SandboxState::Running,
        };
        let generation = self.stores.policy.load();
        let uptime = jiff::Timestamp::now().duration_since(self.started_at).as_millis();
        let rooted = matches!(self.plan.cage.ids, agent::plan::Ids::Rooted { .. });
        Status {
            name: self.plan.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            state,
            audit_refuses: self.stores.audit.sink().check().err().map(|error| error.to_string()),
            started_at: self.started_at.to_string(),
            uptime_ms: u64::try_from(uptime).unwrap_or(0),
            heart_pid: Some(std::os::unix::process::parent_id()),
            supervisor_pid: std::process::id(),
            supervisor_restarts: self.restarts.into(),
            rooted,
            enforcement: match self.plan.cage.enforcement {
                agent::plan::Enforcement::Strict => "strict",
                agent::plan::Enforcement::BestEffort => "best-effort",
            }
            .into(),
            fault_injection: self.plan.fault_injection,
            controls: self.cage.get().map(controls).unwrap_or_default(),
            policy: PolicyStatus {
                generation: generation.number,
                sha256: hex::encode(generation.sha256),
                loaded_at: generation.loaded_at.to_string(),
            },
            agents: self.agents.iter().map(agent_status).collect(),
            providers: self.stores.gateway.status().into_iter().map(provider_status).collect(),
            budgets: budget_status(&self.stores.gateway),
            credentials: credential_status(&self.plan.credentials),
        }
    }

    fn can_restart_agents(&self, mend: &str) -> Result<(), Fault> {
        match self.plan.mode {
            Mode::Service => Ok(()),
            Mode::Foreground { .. } => Err(Fault::new(
                Code::Conflict,
                "the end of what `cofferdam run` started is the end of its sandbox: it can't be started again",
            )
            .hint(mend)),
        }
    }

    async fn change_policy(
        &self,
        by: Peer,
        text: String,
        restart_agents: bool,
    ) -> Result<PolicyChange, Fault> {
        if restart_agents {
            self.can_restart_agents("leave --restart-agents out, or start agents by `cofferdam up`")?;
        }
        // The same text changes nothing, as with the watched file. Agents that are to restart do so all the
        // same.
        let now = self.stores.policy.load();
        if !restart_agents && *now.source.text == *text {
            return Ok(PolicyChange {
                generation: now.number,
                unchanged: true,
                warnings: self.uncaptured(now.number).await.into_iter().collect(),
                restarted: Vec::new(),
            });
        }
        let set = self.addresses.policy.call(|reply| policy::actor::Msg::Set { text, reply }, DEADLINE);
        let published =
            set.await.map_err(|e| Fault::new(Code::Unavailable, e.to_string()))?.map_err(|refused| {
                match refused {
                    policy::Refused::Rejected(errors) => Fault {
                        diagnostics: serde_json::to_value(&errors).ok(),
                        ..Fault::new(Code::InvalidPolicy, errors.to_string())
                    },
                    // Agents that restart in this cage would have the old paths. The client may ask the
                    // builder for another cage: this process can't have one built.
                    changed @ policy::Refused::StaticChanged { .. } => {
                        Fault::new(Code::NeedsCage, changed.to_string())
                    }
                    other => Fault::new(Code::Conflict, other.to_string()),
                }
            })?;
        // A client that reads that the policy is in force may rely on it, whatever process dies next.
        let mut kept = self.policy_kept.clone();
        let keeping = timeout(DEADLINE, kept.wait_for(|number| *number >= published.generation));
        let is_kept = matches!(keeping.await, Ok(Ok(_)));
        let mut warnings = words::warnings(&self.plan.name, &published);
        if !is_kept {
            warnings.push(NOT_KEPT.to_owned());
        }
        warnings.extend(self.uncaptured(published.generation).await);
        self.done(by, "policy set", format!("generation {}", published.generation));
        let running = |agent: &&Agent| restart_agents && agent.condition.borrow().pid.is_some();
        let running = self.agents.iter().filter(running).cloned().collect();
        let restarted = self.restart_agents(running).await.map_err(|fault| {
            let detail = format!("generation {} is in force, but {}", published.generation, fault.detail);
            Fault { detail, ..fault }
        })?;
        Ok(PolicyChange { generation: published.generation, unchanged: false, warnings, restarted })
    }

    /// Says which ports of this generation, or of one after it, programs that use no proxy don't reach. Where
    /// they reach none, that was said at the start.
    async fn uncaptured(&self, generation: u64) -> Option<String> {
        if self.cage.get().is_none_or(|cage| cage.no_capture.is_some()) {
            return None;
        }
        let mut followed = self.ports_followed.clone();
        match timeout(DEADLINE, followed.wait_for(|ports| ports.generation >= generation)).await {
            Ok(Ok(ports)) => capture::listed(&ports.uncaptured).map(|ports| {
                format!(
                    "programs that use no proxy don't reach {ports} in this sandbox: a new start mends it"
                )
            }),
            _ => Some(NOT_FOLLOWED.to_owned()),
        }
    }

    /// Ends agents in parallel and has them started again, even if the client leaves meanwhile: none may be
    /// left between its end and its start. Returns their names.
    async fn restart_agents(&self, agents: Vec<Agent>) -> Result<Vec<String>, Fault> {
        if agents.is_empty() {
            return Ok(Vec::new());
        }
        let (tree, stopping) = (self.tree()?.clone(), self.stopping.clone());
        let work = tokio::spawn(async move {
            let each = agents.iter().map(|agent| async {
                (agent.name.to_string(), restart_agent(agent, &tree, &stopping).await)
            });
            join_all(each).await
        });
        let done = work.await.map_err(|panicked| Fault::new(Code::Internal, panicked.to_string()))?;
        let (again, failed): (Vec<_>, Vec<_>) = done.into_iter().partition(|(_, result)| result.is_ok());
        if failed.is_empty() {
            return Ok(again.into_iter().map(|(name, _)| name).collect());
        }
        let why = |(name, result): (String, Result<(), Fault>)| {
            format!(
                "{name} was not restarted: {}",
                result.err().map(|fault| fault.detail).unwrap_or_default()
            )
        };
        Err(Fault::new(Code::Conflict, failed.into_iter().map(why).collect::<Vec<_>>().join("; ")))
    }

    /// Returns an actor's path in the tree, given the path, or only an agent's name.
    async fn path_of(&self, actor: String) -> Result<String, Fault> {
        let tree = self.snapshot().await?;
        let of_an_agent = format!("agents/{actor}");
        let known = [actor.clone(), of_an_agent].into_iter().find(|path| tree.find(path).is_some());
        match known.as_deref() {
            Some("agents") => Err(Fault::new(
                Code::NotFound,
                "'agents' is a supervisor and no actor of its own: name one of them, as in agents/NAME",
            )),
            _ => known.ok_or_else(|| self.no_actor(&actor)),
        }
    }

    async fn restart_actor(&self, by: Peer, actor: String) -> Result<Accepted, Fault> {
        let actor = self.path_of(actor).await?;
        match actor.strip_prefix("agents/").and_then(|name| self.agents.find(name)) {
            Some(agent) => {
                self.can_restart_agents("start agents by `cofferdam up`")?;
                drop(self.restart_agents(vec![agent.clone()]).await?);
            }
            None if actor == OPERATOR => {
                let tree = self.tree()?.clone();
                after_the_answer(async move {
                    if let Err(fault) = restart_child(&tree, OPERATOR).await {
                        tracing::warn!(%fault, "the operator actor was not restarted");
                    }
                });
            }
            None => restart_child(self.tree()?, &actor).await?,
        }
        Ok(self.done(by, "restart", actor))
    }

    async fn crash_actor(&self, by: Peer, actor: String) -> Result<Accepted, Fault> {
        if !self.plan.fault_injection {
            return Err(Fault::new(Code::Forbidden, "this sandbox was started without fault injection")
                .hint("start it with --allow-fault-injection"));
        }
        let actor = self.path_of(actor).await?;
        // Recorded before the actor is gone: it may be the one that writes the record.
        let accepted = self.done(by, "crash", actor.clone());
        let sent = match actor.strip_prefix("agents/").and_then(|name| self.agents.find(name)) {
            Some(agent) => agent.address.cast(agent::actor::Msg::InjectPanic).is_ok(),
            None if actor == OPERATOR => {
                let addresses = self.addresses.clone();
                after_the_answer(async move {
                    let _where_it_is_up = addresses.inject_panic(OPERATOR);
                });
                true
            }
            None => self.addresses.inject_panic(&actor),
        };
        if sent {
            return Ok(accepted);
        }
        Err(Fault::new(
            Code::Unavailable,
            format!("'{actor}' is down already, or is no actor that can be crashed"),
        ))
    }

    async fn begin_stop(&self, by: Peer, stop: Stop) -> Result<Accepted, Fault> {
        let grace = stop.grace_ms.map_or(STOP_GRACE, Duration::from_millis);
        let accepted = self.done(by, "stop", String::new());
        // The heart is told first: otherwise the agents would move into a cage that is ready. Once sent to
        // the heart, the stop outlives this process, which may be writing its last records.
        let told = self.heart.stopping(grace).await;
        told.map_err(|e| Fault::new(Code::Unavailable, format!("the sandbox's heart is gone: {e}")))?;
        // If the channel is full, the sandbox stops already. If it is closed, no agent is left to be stopped.
        let _ = self.ending.try_send(grace);
        Ok(accepted)
    }
}

fn operator_did(by: Peer, action: &str, target: &str) -> audit::Event {
    audit::Event::Operator {
        action: action.into(),
        uid: Some(by.uid),
        detail: Some(audit::Text::new(target)).filter(|t| !t.is_empty()),
    }
}

fn unrecorded(error: audit::AuditUnavailable) -> Fault {
    Fault::new(Code::Unavailable, error.to_string())
        .hint("make room on the disk that holds the sandbox's state directory")
}

/// Runs work that ends the operator actor, once the answer has had time to go out: the actor's end would cut
/// it off.
fn after_the_answer(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        tokio::time::sleep(ANSWERED).await;
        work.await;
    });
}

/// Ends an agent's process in order, and has it started again, unless the whole sandbox is being ended.
async fn restart_agent(agent: &Agent, tree: &Supervisor, stopping: &CancellationToken) -> Result<(), Fault> {
    // Restarting the actor alone would leave the process running, and the actor would adopt it. An agent that
    // is over has no process to wait for.
    let is_over = agent.condition.borrow().over;
    if !is_over {
        let stop = agent.address.call(
            |reply| agent::actor::Msg::Stop { grace: STOP_GRACE, again: true, reply },
            STOP_GRACE + DEADLINE,
        );
        if let Err(why) = stop.await
            && agent.condition.borrow().pid.is_some()
        {
            // Started again its actor would adopt the very process that is to end.
            let detail = format!("agent '{}' has not ended, and was not started again: {why}", agent.name);
            return Err(Fault::new(Code::Conflict, detail));
        }
    }
    if stopping.is_cancelled() {
        return Err(Fault::new(Code::Conflict, "the sandbox is being stopped"));
    }
    restart_child(tree, &format!("agents/{}", agent.name)).await
}

async fn restart_child(tree: &Supervisor, actor: &str) -> Result<(), Fault> {
    let restarted = tree.restart_child(actor).await;
    restarted.map(drop).map_err(|e| Fault::new(Code::Conflict, e.to_string()))
}

impl Control for ControlApi {
    fn status(&self) -> Answer<'_, Status> {
        Box::pin(async { Ok(self.overview().await) })
    }

    fn tree(&self) -> Answer<'_, TreeNode> {
        Box::pin(async { Ok(self.snapshot().await?.into()) })
    }

    fn metrics(&self) -> Answer<'_, String> {
        Box::pin(async { Ok(self.stores.recorder.render()) })
    }

    fn events(&self) -> BoxStream<'static, Event> {
        feeds::events(&self.stores.audit.feed())
    }

    fn logs(&self, query: LogQuery) -> Answer<'_, BoxStream<'static, Bytes>> {
        Box::pin(async move {
            if let Some(agent) = &query.agent
                && self.agents.find(agent).is_none()
            {
                return Err(Fault::new(Code::NotFound, format!("no agent is called '{agent}'")));
            }
            Ok(feeds::logs(query))
        })
    }

    fn policy(&self) -> Answer<'_, PolicyView> {
        let generation = self.stores.policy.load();
        let view = PolicyView {
            generation: generation.number,
            sha256: hex::encode(generation.sha256),
            loaded_at: generation.loaded_at.to_string(),
            text: generation.text.to_string(),
        };
        Box::pin(async { Ok(view) })
    }

    fn set_policy(&self, by: Peer, text: String, restart_agents: bool) -> Answer<'_, PolicyChange> {
        Box::pin(self.change_policy(by, text, restart_agents))
    }

    fn identities(&self) -> Answer<'_, Vec<Identity>> {
        Box::pin(async { Ok(identities::list(&self.stores.pins)) })
    }

    fn accept_identity(&self, by: Peer, asked: AcceptIdentity) -> Answer<'_, Identity> {
        Box::pin(async move {
            self.log_takes_records().await?;
            let accepted = identities::accept(&self.stores.pins, &self.stores.audit.sink(), asked)?;
            self.done(by, "identity accept", accepted.path.clone());
            Ok(accepted)
        })
    }

    fn forget_identity(&self, by: Peer, asked: ForgetIdentity) -> Answer<'_, Identity> {
        Box::pin(async move {
            self.log_takes_records().await?;
            let forgotten = identities::forget(&self.stores.pins, &self.stores.audit.sink(), &asked)?;
            self.done(by, "identity forget", forgotten.path.clone());
            Ok(forgotten)
        })
    }

    fn approvals(&self) -> Answer<'_, Vec<Approval>> {
        let list = self.stores.approvals.as_ref().map(|desk| desk.list());
        Box::pin(async { Ok(list.unwrap_or_default()) })
    }

    fn answer_approval(&self, by: Peer, id: String, answer: ApprovalAnswer) -> Answer<'_, Approval> {
        Box::pin(async move {
            let Some(desk) = &self.stores.approvals else {
                return Err(Fault::new(
                    Code::Conflict,
                    "this sandbox asks nobody: what no entry names is refused",
                )
                .hint("`approvals: { unlisted: ask }` in its file"));
            };
            self.log_takes_records().await?;
            let policy = InForce { store: &self.stores.policy, reloader: &self.addresses.policy };
            desk.answer(policy, by, &id, answer).await
        })
    }

    fn restart(&self, by: Peer, actor: String) -> Answer<'_, Accepted> {
        Box::pin(self.restart_actor(by, actor))
    }

    fn crash(&self, by: Peer, actor: String) -> Answer<'_, Accepted> {
        Box::pin(self.crash_actor(by, actor))
    }

    fn stop(&self, by: Peer, stop: Stop) -> Answer<'_, Accepted> {
        Box::pin(self.begin_stop(by, stop))
    }

    fn exec(&self, by: Peer, request: ExecRequest) -> Answer<'_, ExecSession> {
        Box::pin(async move {
            self.log_takes_records().await?;
            let event = operator_did(by, "exec", &request.command.join(" "));
            self.stores.audit.sink().record(event).map_err(unrecorded)?;
            self.exec.start(request).await
        })
    }
}
