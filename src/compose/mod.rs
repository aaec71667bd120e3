//! The supervisor process: takes what the heart kept, makes what outlives the actors, builds the tree, and waits for
//! the end.
//!
//! ```text
//! handover → stores → the cage is built and proven → sockets, bundle → the tree, agents last → Ready
//!          → wait: the agents are over │ told to stop │ the tree escalates │ the heart is gone
//!          → agents stopped, output out, records written → Finish
//! ```
//! Its working directory is the sandbox's state directory. It has no privilege, and it parses everything hostile.

mod adapters;
mod agents;
mod capture;
mod control;
mod ending;
mod exec;
mod forwards;
mod handover;
mod log;
mod records;
mod stdin;
mod stores;
mod terminal;
mod tree;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use agent::InitClient;
use agent::client::ClientError;
use agent::own::Role;
use agent::protocol::CageReport;
use supervision::Supervisor;
use telemetry::audit::SandboxChange;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OnceCell, broadcast, mpsc};
use tokio::task::JoinHandle;

use crate::cli::out::{REFUSED, say};
use crate::plan::{Mode, Plan, explicit_listeners, inference_listeners, slot};
use crate::sealed;
use crate::steps::Steps;
use agents::{Agents, Surroundings};
use control::Desk;
use ending::{End, wait_for_end};
use handover::{Handover, HeartLine};
use stores::{Refused, Stores};

/// Threads of the runtime: the data path is light, and a sandbox must not take a whole machine.
const THREADS_MAX: usize = 4;

/// Runs the supervisor; descriptor 3 is the line to the heart.
pub fn main() -> u8 {
    let _ = nix::sys::prctl::set_name(c"cofferdam: sup");
    // Before the first thread and the first byte from outside.
    if let Err(error) = agent::own::settle(Role::Supervisor) {
        say(&error.to_string());
        return REFUSED;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let result = runtime.map_err(Refused::from).and_then(|runtime| {
        // On a worker: what it starts is then mostly run by the same thread, where this one would wake another each time.
        let supervising = runtime.spawn(supervise());
        let result = runtime.block_on(supervising).unwrap_or_else(|panicked| Err(panicked.into()));
        // A thread that blocks in reading standard input must not hold up the end.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => 0,
        Err(error) => {
            say(&format!("the supervisor failed: {error}"));
            REFUSED
        }
    }
}

async fn supervise() -> Result<(), Refused> {
    // Sent by the kernel when the heart dies. It is taken here, and the end of the line says the rest: somebody must still
    // remove what lies in the state directory.
    let _taken = signal(SignalKind::terminate())?;
    let opened = HeartLine::open(agent::inherit(3)?).await;
    let (mut heart, mut handover) = opened.inspect_err(|_| ending::clean_up())?;
    let plan: Arc<Plan> =
        Arc::new(sealed::read_json(handover.find(slot::PLAN).ok_or("the heart handed over no plan")?)?);
    heart.steps = Steps::of_process(plan.steps.is_some(), "supervisor");
    heart.steps.done("supervisor: handover and plan taken");
    let built = build(&heart, &mut handover, Arc::clone(&plan)).await;
    let (desk, end) = match built {
        Ok(desk) => {
            if heart.ready().await.is_err() {
                // It died while we built: nobody else is left to remove what lies there.
                ending::clean_up();
                return Ok(());
            }
            announce(&desk.0);
            let end = wait_for_end(&desk.0, &heart, desk.1).await;
            heart.steps.done("supervisor: the agents are over");
            (desk.0, end)
        }
        Err(error) => {
            if heart.finish(REFUSED, Some(error.to_string())).await.is_err() {
                ending::clean_up();
                return Err(error);
            }
            return wait_for_heart(&heart).await;
        }
    };
    match end {
        // The heart starts another supervisor; the agents go on.
        End::Escalated(why) => Err(why.into()),
        End::HeartGone => {
            ending::clean_up();
            Ok(())
        }
        End::Over { code, message } => {
            let closed = ending::close(&desk, &heart, code, message).await;
            closed.inspect_err(|_| ending::clean_up())?;
            wait_for_heart(&heart).await
        }
    }
}

/// A service says once what it is and where it answers.
fn announce(desk: &Desk) {
    let plan = &desk.plan;
    if plan.mode != Mode::Service || plan.quiet || desk.restarts > 0 {
        return;
    }
    let agents: Vec<&str> = desk.agents.iter().map(|agent| &*agent.name).collect();
    say(&format!("'{}' is running: {}", plan.name, agents.join(", ")));
    for forward in &plan.forwards {
        say(&format!("{} leads to port {} inside", forward.listen, forward.to));
    }
}

/// The heart closes its line when it has read the last message.
async fn wait_for_heart(heart: &HeartLine) -> Result<(), Refused> {
    while heart.hear().await.is_ok() {}
    Ok(())
}

async fn build(
    heart: &HeartLine,
    handover: &mut Handover,
    plan: Arc<Plan>,
) -> Result<(Arc<Desk>, mpsc::Receiver<Duration>), Refused> {
    let channel = handover.take(slot::INIT).ok_or("the heart handed over no channel to init")?;
    let init = InitClient::new(channel)?;
    // Init answers when the cage is built and proven; everything that doesn't wait for it is made meanwhile.
    let asked = Asked::of(&init);
    let ready = stores::Ready::make(&plan, handover, heart).await?;
    log::install(&plan, &ready.redactor);
    log::panics_are_told();
    let bundle = stores::bundle(&plan, &ready.authority)?;
    let put = tokio::spawn({
        let init = init.clone();
        async move { init.put_ca_bundle(bundle.as_bytes()).await }
    });
    heart.steps.done("supervisor: policy, redactor, audit log, authority ready; waits for init");
    let Answered { cage, diag, listeners } = asked.answered().await?;
    cage.steps.iter().for_each(|(what, at)| heart.steps.add(what, *at));
    let stores = Arc::new(ready.open(&init, diag)?);
    note_start(&plan, &stores, handover, &cage);
    keep_policy(&stores, heart);
    heart.steps.done("supervisor: init answered");

    let stdin = match plan.mode {
        Mode::Foreground { .. } => Some(stdin::Stdin::new(handover, heart.clone())),
        Mode::Service => None,
    };
    let around = Surroundings {
        plan: &plan,
        init: &init,
        heart,
        streams: &stores.streams,
        sink: stores.audit.sink(),
        stdin,
    };
    let (mut agents, mut specs) = (Vec::new(), Vec::new());
    for planned in &plan.agents {
        let (agent, spec) = around.agent(planned, handover)?;
        agents.push(agent);
        specs.push(spec);
    }
    let sockets = sockets(&plan, handover, listeners, &init, &stores, &cage).await?;
    let (ending, told_to_end) = mpsc::channel(1);
    let desk = Arc::new(Desk {
        plan: Arc::clone(&plan),
        stores: Arc::clone(&stores),
        addresses: tree::Addresses::new(),
        agents: Agents::new(agents),
        cage,
        exec: exec::Exec { init: init.clone(), redactor: stores.redactor.clone() },
        tree: OnceCell::new(),
        ending,
        stopping: AtomicBool::new(false),
        started_at: ending::started_at(handover, heart).await,
        restarts: handover.restarts,
    });
    let loader = policy::Loader::new(
        stores.policy.clone(),
        plan.policy.watch.clone(),
        stores.presets.clone(),
        &plan.policy.text,
        records::policy_loaded(stores.policy.clone(), stores.audit.sink()),
    );
    let spec = tree::spec(&stores, sockets, &desk.addresses, loader, desk.clone(), &init, specs);
    // Before the tree starts, so that the first starts are heard too.
    let (reports, heard) = broadcast::channel(supervision::REPORTS_KEPT);
    tokio::spawn(records::reports(heard, stores.audit.sink()));
    // No agent before its roots are there.
    put.await??;
    let tree = Supervisor::start(spec.report_to(reports)).await?;
    let _ = desk.tree.set(tree);
    heart.steps.done("supervisor: tree up, agents started");
    Ok((desk, told_to_end))
}

fn note_start(plan: &Plan, stores: &Stores, handover: &Handover, cage: &CageReport) {
    use telemetry::metrics;
    let rooted = matches!(plan.cage.ids, agent::plan::Ids::Rooted { .. });
    metrics::build_info(env!("CARGO_PKG_VERSION"), if rooted { "rooted" } else { "rootless" });
    metrics::supervisor_restarts(handover.restarts.into());
    metrics::policy_generation(stores.policy.load().number);
    let sink = stores.audit.sink();
    for check in &cage.proof {
        metrics::control_missing(check.control.as_str(), false);
    }
    for missing in &cage.missing {
        metrics::control_missing(missing.control.as_str(), true);
        records::record(
            &sink,
            telemetry::audit::Event::ControlMissing {
                control: missing.control.to_string(),
                detail: missing.why.clone(),
            },
        );
        say(&format!("{} is not enforced: {}", missing.control, missing.why));
    }
    if handover.restarts == 0 {
        records::sandbox(&sink, SandboxChange::Started, &plan.name, Some(plan.policy.name.clone()));
    } else {
        records::record(
            &sink,
            telemetry::audit::Event::Actor {
                name: "supervisor".into(),
                change: telemetry::audit::ActorChange::SupervisorRestarted,
                failure: handover.last_death.map(|status| status.to_string()),
                restarts: handover.restarts.into(),
            },
        );
    }
}

/// Has the heart keep each policy that is put in force, so that a successor begins with it.
fn keep_policy(stores: &Arc<Stores>, heart: &HeartLine) {
    let (stores, heart) = (Arc::clone(stores), heart.clone());
    let mut generations = stores.policy.subscribe();
    tokio::spawn(async move {
        while generations.changed().await.is_ok() {
            let now = stores.policy.load();
            let kept = stores::KeptPolicy { number: now.number, text: now.text.to_string() };
            if let Ok(fd) = sealed::seal_json("cofferdam-policy", &kept) {
                let _ = heart.keep(slot::POLICY, fd.as_fd()).await;
            }
        }
    });
}

/// What init was asked at once, so that its answers come in one go.
struct Asked {
    report: JoinHandle<Result<CageReport, ClientError>>,
    diag: JoinHandle<Result<OwnedFd, ClientError>>,
    listeners: JoinHandle<Result<Vec<proxy::Listener>, Refused>>,
}

struct Answered {
    cage: CageReport,
    diag: OwnedFd,
    listeners: Vec<proxy::Listener>,
}

impl Asked {
    fn of(init: &InitClient) -> Self {
        let (reporting, diagnosing, listening) = (init.clone(), init.clone(), init.clone());
        Self {
            report: tokio::spawn(async move { reporting.report().await }),
            diag: tokio::spawn(async move { diagnosing.diag().await }),
            listeners: tokio::spawn(async move { listeners(&listening).await }),
        }
    }

    /// A cage that could not be built or proven is the first thing told.
    async fn answered(self) -> Result<Answered, Refused> {
        let cage = self.report.await??;
        Ok(Answered { cage, diag: self.diag.await??, listeners: self.listeners.await?? })
    }
}

/// The proxy's listeners inside. Init keeps them: a new supervisor gets the very same sockets, with whoever waits in
/// their queues.
async fn listeners(init: &InitClient) -> Result<Vec<proxy::Listener>, Refused> {
    let explicit = explicit_listeners().map(|address| (proxy::Kind::Explicit, address));
    let inference =
        inference_listeners().map(|address| (proxy::Kind::Inference { tls: address.port() == 443 }, address));
    let asked = explicit.into_iter().chain(inference).map(|(kind, address)| async move {
        match init.listen_tcp(address).await {
            Ok(fd) => Ok(Some(proxy::Listener { kind, socket: Arc::new(stores::tcp_listener(fd)?) })),
            // A kernel without IPv6.
            Err(error) if address.is_ipv6() => {
                tracing::warn!(%error, "the proxy does not listen on {address}");
                Ok(None)
            }
            Err(error) => Err(Refused::from(error)),
        }
    });
    Ok(futures_util::future::try_join_all(asked).await?.into_iter().flatten().collect())
}

async fn sockets(
    plan: &Plan,
    handover: &mut Handover,
    listeners: Vec<proxy::Listener>,
    init: &InitClient,
    stores: &Stores,
    cage: &CageReport,
) -> Result<tree::Sockets, Refused> {
    let control = handover.take(slot::CONTROL).ok_or("the heart handed over no control socket")?;
    let metrics = handover.take(slot::METRICS).map(stores::tcp_listener).transpose()?;
    let mut forwards = Vec::new();
    for (n, forward) in plan.forwards.iter().enumerate() {
        if let Some(fd) = handover.take(&format!("{}{n}", slot::FORWARD)) {
            let listener = Arc::new(stores::tcp_listener(fd)?);
            forwards.push(forwards::Forwarded { listener, to: forward.to });
        }
    }
    Ok(tree::Sockets {
        control: Arc::new(control.into()),
        metrics: metrics.map(Arc::new),
        proxy: listeners,
        captured: capture::follow(init, &stores.policy, cage).await,
        names: capture::names(init, stores).await?,
        forwards,
    })
}
