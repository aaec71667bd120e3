//! The supervisor process: takes over what the heart kept, makes what outlives the actors, builds the actor
//! tree, and waits for the end.
//!
//! ```text
//! handover → stores → sockets of the cage → the tree ─┬─ the cage is proven → the agents → Ready
//!          → wait: the agents are over │ told to stop │ the tree escalates │ the heart is gone
//!          → agents stopped, output out, records written → Finish
//! ```
//! Its working directory is the sandbox's state directory. It has no privilege, and it parses everything
//! hostile.

pub mod adapters;
mod agents;
mod another_cage;
mod approvals;
mod asked;
mod behind;
mod capture;
mod control;
mod counts;
mod ending;
mod exec;
mod feeds;
mod forwards;
mod handover;
mod health;
mod identities;
mod interrupts;
mod log;
mod lost;
mod news;
pub mod outward;
mod questions;
mod records;
mod refusals;
mod roots;
mod stdin;
mod stores;
mod terminal;
mod tree;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent::InitClient;
use agent::own::Role;
use agent::plan::Ids;
use agent::protocol::Beginning;
use agent::wire::WireError;
use supervision::{ChildSpec, Supervisor};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OnceCell, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::console::{self, fault, say, speak};
use crate::failure::REFUSED;
use crate::plan::{Mode, Plan, slot};
use crate::sealed;
use crate::steps::Steps;
use agents::{Agent, Agents, Surroundings};
use asked::Asked;
use behind::BehindTheProof;
use control::ControlApi;
use ending::{End, wait_for_end};
use handover::{Handover, HeartLine};
use stores::{Refused, Stores};

/// How many threads the runtime has at most: the data path is light, and a sandbox must not take a whole
/// machine.
const THREADS_MAX: usize = 4;

/// How long the first records may take to reach the disk. Beyond that a warning says so, and the next
/// supervisor looks for them.
const RECORDED_WITHIN: Duration = Duration::from_secs(60);

/// How long the last messages may take to be written.
const LAST_SAID: Duration = Duration::from_millis(500);

/// Runs the supervisor and returns its exit code. Descriptor 3 is the channel to the heart.
pub fn main() -> u8 {
    let _ = nix::sys::prctl::set_name(c"cofferdam: sup");
    console::queue();
    let code = supervised();
    console::flush(LAST_SAID);
    code
}

fn supervised() -> u8 {
    // Before the first thread and the first byte from outside.
    if let Err(error) = agent::own::settle(Role::Supervisor) {
        fault(&error.to_string());
        return REFUSED;
    }
    agent::own::share_heaps();
    let threads = processors().min(THREADS_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let result = runtime.map_err(Refused::from).and_then(|runtime| {
        // Runs on a worker: the tasks that it starts then mostly run on the same thread, whereas this thread
        // would have to wake another one for each.
        let supervising = runtime.spawn(supervise());
        let result = runtime.block_on(supervising).unwrap_or_else(|panicked| Err(panicked.into()));
        // A thread that blocks in reading standard input must not hold up the end.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => 0,
        Err(error) => {
            fault(&format!("the supervisor failed: {error}"));
            REFUSED
        }
    }
}

/// How many processors this process may run on. `available_parallelism` would also read a dozen files of
/// control groups, and a few idle threads don't exceed their quota.
fn processors() -> usize {
    use nix::sched::{CpuSet, sched_getaffinity};
    let own = sched_getaffinity(nix::unistd::Pid::from_raw(0));
    let count = |set: CpuSet| (0..CpuSet::count()).filter(|n| set.is_set(*n).unwrap_or(false)).count();
    own.map_or(1, count).max(1)
}

async fn supervise() -> Result<(), Refused> {
    agent::own::grow_heap();
    // The kernel sends SIGTERM when the heart dies. It is caught here, and the closed channel tells the
    // death: this process must still remove the sockets in the state directory.
    let _taken = signal(SignalKind::terminate())?;
    let opened = HeartLine::open(agent::inherit(3)?).await;
    // Clean up only if the heart is gone: otherwise another supervisor needs the sockets.
    let (mut heart, mut handover) = opened.inspect_err(|error| {
        if matches!(error, WireError::Closed) {
            ending::clean_up();
        }
    })?;
    let plan: Arc<Plan> =
        Arc::new(sealed::read_json(handover.find(slot::PLAN).ok_or("the heart handed over no plan")?)?);
    speak(plan.log_format);
    heart.steps = Steps::of_process(plan.timings, "supervisor");
    heart.steps.done("supervisor: handover and plan taken");
    let alive = supervision::essential(heart.clone().stay_alive());
    let built = build(&heart, &mut handover, Arc::clone(&plan)).await;
    alive.abort();
    let (desk, end) = match built {
        Ok(desk) => {
            if heart.ready().await.is_err() {
                // The heart died while we built: no other process is left to remove the sockets.
                ending::clean_up();
                return Ok(());
            }
            announce(&desk.0);
            let end = wait_for_end(&desk.0, &heart, desk.1).await;
            heart.steps.done("supervisor: the agents are over");
            (desk.0, end)
        }
        // Agents run: the heart tries again, and what is in the way may be gone by then.
        Err(error) if handover.beginning != Beginning::Sandbox => {
            return Err(ending::given_up(&heart, error).await);
        }
        Err(error) => {
            let code = error.downcast_ref::<agents::NotStarted>().map_or(REFUSED, |refused| refused.code);
            return Ok(ending::finish(&heart, code, None, Some(error.to_string())).await?);
        }
    };
    match end {
        // The heart starts another supervisor; the agents go on.
        End::Escalated(why) => Err(ending::given_up(&heart, why.into()).await),
        End::HeartGone => {
            ending::cut_off(&desk).await;
            Ok(())
        }
        End::Over { code, message } => Ok(ending::close(&desk, &heart, code, message).await?),
    }
}

/// Announces a service once: its agents, and the ports that lead inside.
fn announce(desk: &ControlApi) {
    let plan = &desk.plan;
    if plan.mode != Mode::Service || plan.quiet || desk.beginning == Beginning::Succession {
        return;
    }
    let agents: Vec<&str> = desk.agents.iter().map(|agent| &*agent.name).collect();
    let how = match desk.beginning {
        Beginning::Cage => "goes on in another cage",
        Beginning::SameCage => "goes on in its cage",
        _ => "is running",
    };
    say(&format!("'{}' {how}: {}", plan.name, agents.join(", ")));
    for forward in &plan.forwards {
        say(&format!("{} leads to port {} inside", forward.listen, forward.to));
    }
}

async fn build(
    heart: &HeartLine,
    handover: &mut Handover,
    plan: Arc<Plan>,
) -> Result<(Arc<ControlApi>, mpsc::Receiver<Duration>), Refused> {
    let channel = handover.take(slot::INIT).ok_or("the heart handed over no channel to init")?;
    let init = InitClient::new(channel)?;
    // Everything that doesn't wait for the proof is made while it runs.
    let asked = Asked::of(&init);
    let ready = stores::Ready::make(&plan, handover, heart).await?;
    log::install(&plan, &ready.redactor);
    log::panics_are_told();
    let Asked { report, sockets, root_files } = asked;
    let put = roots::put(&plan, &ready.authority, root_files);
    heart.steps.done("supervisor: policy, redactor, audit log, authority ready");
    let asked::Sockets { diag, listeners, names } = sockets.await??;
    let stores = Arc::new(ready.open(&init, diag)?);
    note_start(&plan, &stores, handover);
    news::tell_all(&plan, &stores, heart, handover).await?;

    let gave_up = another_cage::remember(handover, &init, heart).await?;
    let (agents, specs) = agents((&plan, gave_up), &init, heart, &stores, handover)?;
    let (captured, capturing) = watch::channel(proxy::Captured::default());
    let (followed, ports_followed) = watch::channel(capture::Followed::default());
    let sockets = tree::Sockets {
        control: Arc::new(
            handover.take(slot::CONTROL).ok_or("the heart handed over no control socket")?.into(),
        ),
        metrics: handover.take(slot::METRICS).map(stores::tcp_listener).transpose()?.map(Arc::new),
        proxy: listeners,
        captured: capturing,
        names: (capture::resolver(&stores), names),
        forwards: forwards::handed_over(&plan.forwards, handover)?,
    };
    let loader = loader(&plan, &stores);
    let policy_kept = keep_policy(&loader, heart, plan.cages_before);
    let (ending, told_to_end) = mpsc::channel(1);
    let desk = Arc::new(ControlApi {
        plan: Arc::clone(&plan),
        stores: Arc::clone(&stores),
        addresses: tree::Addresses::new(),
        agents: Agents::new(&plan, agents),
        cage: OnceCell::new(),
        init: init.clone(),
        exec: exec::Exec::new(
            handover.predecessors,
            init.clone(),
            stores.redactor.clone(),
            plan.credentials.environment().collect(),
        ),
        tree: OnceCell::new(),
        heart: heart.clone(),
        ending,
        policy_kept,
        ports_followed,
        stopping: CancellationToken::new(),
        over: Default::default(),
        started_at: ending::started_at(handover, heart).await,
        restarts: handover.restarts,
        beginning: handover.beginning,
    });
    let spec = tree::spec(&stores, sockets, &desk.addresses, loader, desk.clone(), owner(&plan), &init);
    // Before the tree starts, so that the first starts are heard too.
    let (reports, heard) = broadcast::channel(supervision::REPORTS_KEPT);
    let reporting = supervision::essential(records::reports(heard, stores.audit.sink(), desk.agents.clone()));
    let tree = Supervisor::start(spec.report_to(reports)).await?;
    heart.steps.done("supervisor: tree up; waits for the proof");

    let behind = BehindTheProof { report, roots: put, captured, followed, specs };
    if let Err(why) = behind.begin(&desk, &tree).await {
        if desk.beginning == Beginning::Sandbox {
            // It ends before it began. Afterwards the tree is gone, and with it whoever writes records. What
            // the tree reports of that end says nothing that the last record doesn't.
            reporting.abort();
            // It may be recording at this moment, on another thread.
            while !reporting.is_finished() {
                tokio::task::yield_now().await;
            }
            ending::last_records(&desk, Some(why.to_string())).await;
        }
        return Err(why);
    }
    another_cage::keep_who_is_over(&desk, heart);
    if matches!(desk.beginning, Beginning::Succession | Beginning::SameCage) {
        let names = desk.agents.iter().map(|agent| Arc::clone(&agent.name)).collect();
        tokio::spawn(desk.exec.clone().clear_away(names));
    }
    let _ = desk.tree.set(tree);
    heart.steps.done("supervisor: agents started");
    Ok((desk, told_to_end))
}

/// What the reloader works on: the store, the watched file and what was last seen of it, presets and
/// approvals.
fn loader(plan: &Plan, stores: &Stores) -> policy::Loader {
    let told = records::policy_loaded(stores.policy.clone(), stores.audit.sink());
    let approved = stores.approvals.as_ref().map(approvals::ApprovalDesk::entries).unwrap_or_default();
    let watched = plan.policy.watch.clone();
    policy::Loader::new(stores.policy.clone(), watched, stores.presets.clone(), stores.policy_seen, told)
        .with_approved(approved)
}

/// The user to whom the control socket answers, beside root.
fn owner(plan: &Plan) -> operator::Owner {
    match plan.cage.ids {
        Ids::Rooted { .. } => operator::Owner::root(),
        Ids::Rootless { .. } => operator::Owner::this_process(),
    }
}

/// Returns the agents and the specs of their actors. Resumes the output that a predecessor left in pipes.
fn agents(
    (plan, gave_up): (&Plan, Vec<String>),
    init: &InitClient,
    heart: &HeartLine,
    stores: &Stores,
    handover: &mut Handover,
) -> Result<(Vec<Agent>, Vec<ChildSpec>), Refused> {
    let stdin = match plan.mode {
        Mode::Foreground { .. } => Some(stdin::Stdin::new(handover, heart.clone())),
        Mode::Service => None,
    };
    let sink = stores.audit.sink();
    let around = Surroundings { plan, init, heart, streams: &stores.streams, sink, stdin, gave_up };
    let both: std::io::Result<Vec<_>> =
        plan.agents.iter().map(|planned| around.agent(planned, handover)).collect();
    Ok(both?.into_iter().unzip())
}

fn note_start(plan: &Plan, stores: &Stores, handover: &Handover) {
    use telemetry::metrics;
    let rooted = matches!(plan.cage.ids, agent::plan::Ids::Rooted { .. });
    metrics::build_info(env!("CARGO_PKG_VERSION"), if rooted { "rooted" } else { "rootless" });
    metrics::supervisor_restarts(handover.restarts.into());
    metrics::approvals_pending(0);
    metrics::policy_generation(stores.policy.load().number);
    if handover.beginning == Beginning::Sandbox {
        records::record(&stores.audit.sink(), records::started(plan));
    }
}

/// Has the heart keep each policy that is put in force, and what its file held, so that a successor begins
/// with both. The receiver holds the number of the last generation that the heart has.
fn keep_policy(loader: &policy::Loader, heart: &HeartLine, cage: u32) -> watch::Receiver<u64> {
    let (store, heart) = (loader.store().clone(), heart.clone());
    let (kept_number, kept_numbers) = watch::channel(store.load().number);
    let (mut generations, mut seen) = (store.subscribe(), loader.seen());
    supervision::essential(async move {
        loop {
            let changed = tokio::select! {
                changed = generations.changed() => changed,
                changed = seen.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            seen.borrow_and_update();
            // `seen` is read before the store: a file is put in force first and marked as seen second, and
            // reading a file once more changes nothing.
            let newest = || (*seen.borrow(), store.load());
            let counted = || {
                let (seen, now) = newest();
                stores::Counted { number: now.number, seen, cage }
            };
            heart.keep_value(slot::GENERATION, counted).await;
            let sent = AtomicU64::new(0);
            let kept = || {
                let (seen, now) = newest();
                sent.store(now.number, Ordering::Relaxed);
                stores::KeptPolicy { number: now.number, text: now.source.text.to_string(), seen }
            };
            heart.keep_value(slot::POLICY, kept).await;
            // Once sent to the heart, it is safe even if this process dies now.
            kept_number.send_replace(sent.into_inner());
        }
    });
    kept_numbers
}
