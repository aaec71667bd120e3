//! What outlives every actor: made once per supervisor process, given to each incarnation of each actor.
//!
//! The parts are made in the order in which they are needed: policy and redactor first, since everything
//! written is redacted; then the audit log; then what talks to the world. Nothing here restarts: whatever can
//! fail at run time is part of an actor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use agent::InitClient;
use gateway::Gateway;
use policy::{Candidate, Preset};
use proxy::credentials::Credentials;
use proxy::guard::{OwnAddresses, Resolver, SystemLookup};
use proxy::identity::{Pinned, Pins};
use proxy::route::Routes;
use proxy::tls::Authority;
use proxy::trusted::Trusted;
use redactor::{Guesses, Redactor, SharedRedactor, Streams, guesses};
use telemetry::audit::AuditLog;
use telemetry::metrics::Recorder;

use super::adapters::{Inference, InitProcesses, Providers};
use super::approvals;
use super::counts;
use super::handover::{Handover, HeartLine};
use super::outward;
use super::refusals::Refusals;
use crate::console::warn;
use crate::plan::{Mode, Plan, PresetSource, Secrets, slot};
use crate::sealed;

/// Keeping the pins may use a fraction of one thread: after each write it rests this many times as long as
/// the write took.
const PINS_REST: u32 = 4;

/// Everything that outlives the actors.
pub struct Stores {
    /// The policy in force.
    pub policy: policy::Store,
    /// What the policy's file last held for our predecessor, or at the start.
    pub policy_seen: policy::Seen,
    /// The presets that every policy text of this sandbox is composed with.
    pub presets: Vec<Preset>,
    /// The redactor in force.
    pub redactor: SharedRedactor,
    /// The agents' output streams.
    pub streams: Streams,
    /// The audit log.
    pub audit: AuditLog,
    /// The metrics.
    pub recorder: Recorder,
    /// The gateway.
    pub gateway: Gateway,
    /// What each program contained at its first use.
    pub pins: Pins,
    /// A short list of what was refused.
    pub refusals: Arc<Refusals>,
    /// The questions that wait for the operator, if the configuration says `unlisted: ask`.
    pub approvals: Option<approvals::ApprovalDesk>,
    /// What the proxy needs.
    pub proxy: Arc<proxy::Deps>,
}

/// Why the stores could not be made: one line, with the remedy if there is one.
pub type Refused = Box<dyn std::error::Error + Send + Sync>;

/// The part of the stores that needs nothing of init, and is made while init builds the cage.
pub struct Ready {
    policy: policy::Store,
    policy_seen: policy::Seen,
    presets: Vec<Preset>,
    /// The redactor in force.
    pub redactor: SharedRedactor,
    audit: AuditLog,
    recorder: Recorder,
    gateway: Gateway,
    /// The sandbox's certificate authority.
    pub authority: Arc<Authority>,
    pins: Pins,
    resolver: Resolver,
    routes: Routes,
    upstream: proxy::Upstream,
    names: Arc<proxy::names::Book>,
    credentials: Arc<Credentials>,
    guesses: Guesses,
    approvals: Option<approvals::ApprovalDesk>,
}

impl Ready {
    /// Makes this part of the stores.
    pub async fn make(plan: &Plan, handover: &mut Handover, heart: &HeartLine) -> Result<Self, Refused> {
        let presets = presets(&plan.policy.presets)?;
        let asked =
            plan.approvals.map(|hold| approvals::book(&plan.name, hold, handover.beginning)).transpose()?;
        let approved = asked.as_ref().map(approvals::entries).unwrap_or_default();
        let (policy, policy_seen) = policy_store(plan, handover, &presets, &approved)?;
        let secrets: Secrets = match handover.take(slot::SECRETS) {
            Some(fd) => sealed::read_json(fd)?,
            None => Secrets::default(),
        };
        let keys: Vec<(String, redactor::Secret)> = secrets.pairs().collect();
        let named =
            keys.iter().map(|(reference, key)| (crate::plan::mark_of(reference).to_owned(), key.clone()));
        let known = named.chain(outward::password(plan.into(), &keys));
        let redactor =
            SharedRedactor::watched(Redactor::new(known)?, Arc::<super::records::Redactions>::default());
        let credentials = Arc::new(credentials(plan, &keys)?);
        let recorder = Recorder::install()?;
        let audit = AuditLog::open(Path::new("."), redactor.clone(), telemetry::audit::Options::default())
            .map_err(|error| error.seen_from(&plan.state))?;
        let approvals = asked.map(|book| approvals::ApprovalDesk::open(book, audit.sink(), tells(plan)));
        let authority = Arc::new(authority(handover, heart).await?);
        let lookup = Arc::new(SystemLookup::new()?);
        let resolver = Resolver::new(Arc::<SystemLookup>::clone(&lookup), OwnAddresses::system()?);
        let by_reference = outward::Keys::new(&keys);
        let upstream = outward::upstream(plan.into(), &by_reference)?;
        let routes = outward::routes(plan.into(), &by_reference, Arc::<SystemLookup>::clone(&lookup))?;
        let trusted = Trusted::new(lookup, upstream.clone(), routes.clone());
        let guesses = guesses(plan, handover, heart)?;
        let gateway = gateway(plan, keys, &redactor, &audit, Providers(trusted), guesses.clone())?;
        let pins = pins(handover, heart)?;
        let names = Arc::new(super::capture::book(handover, heart).await?);
        Ok(Self {
            policy,
            policy_seen,
            presets,
            redactor,
            audit,
            recorder,
            gateway,
            authority,
            pins,
            resolver,
            routes,
            upstream,
            names,
            credentials,
            guesses,
            approvals,
        })
    }

    /// Completes the stores once init answers. `diag` is init's `sock_diag` socket, which shows the sandbox's
    /// connections.
    pub fn open(self, init: &InitClient, diag: OwnedFd) -> Result<Stores, Refused> {
        let Self {
            policy,
            policy_seen,
            presets,
            redactor,
            audit,
            recorder,
            gateway,
            authority,
            pins,
            resolver,
            routes,
            upstream,
            names,
            credentials,
            guesses,
            approvals,
        } = self;
        let identifier = proxy::identity::Identifier::new(
            Arc::new(InitProcesses(init.clone())),
            proxy::identity::Diag::new(diag)?,
        )
        .with_pins(pins.clone())
        .with_named({
            let policy = policy.clone();
            move |path| policy.load().compiled.names_program(path)
        });
        let refusals = Arc::new(Refusals::new(audit.sink(), redactor.clone()));
        let proxy = Arc::new(proxy::Deps {
            policy: policy.clone(),
            identify: Arc::new(proxy::Identities::new(
                identifier,
                super::records::binary_changed(audit.sink()),
            )),
            names,
            resolver: resolver.clone(),
            routes,
            authority: Arc::clone(&authority),
            upstream,
            shelf: proxy::shelf::Shelf::default(),
            journal: Arc::<Refusals>::clone(&refusals),
            tracker: proxy::Tracker::new(policy.clone(), resolver, connections()?),
            local: Arc::new(Inference(gateway.clone())),
            credentials,
            guesses,
            approvals: proxy::approval::Approvals::new(
                approvals.clone().map(|desk| Arc::new(desk) as Arc<dyn proxy::approval::Operator>),
            ),
        });
        Ok(Stores {
            policy,
            policy_seen,
            presets,
            redactor,
            streams: Streams::new(),
            audit,
            recorder,
            gateway,
            pins,
            refusals,
            approvals,
            proxy,
        })
    }
}

/// Whether questions are printed as they come: not into a terminal that the agent uses.
fn tells(plan: &Plan) -> bool {
    !plan.quiet && plan.mode != Mode::Foreground { tty: true }
}

/// How many connections there may be, from this process's limit of open descriptors (getrlimit(2)).
fn connections() -> Result<usize, Refused> {
    use nix::sys::resource::{Resource, getrlimit};
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(proxy::limits::connections_within(soft))
}

fn presets(sources: &[PresetSource]) -> Result<Vec<Preset>, Refused> {
    let read = |source: &PresetSource| Ok(source.preset().map_err(|errors| errors.to_string())?.0);
    sources.iter().map(read).collect()
}

/// The policy in force as the heart keeps it, so that the next supervisor begins with it.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct KeptPolicy {
    /// Its generation's number.
    pub number: u64,
    /// Its text, before presets.
    pub text: String,
    /// What the file last held, which may be another text: a policy can be set by hand, and a file refused.
    pub seen: policy::Seen,
}

/// The part of [`KeptPolicy`] that outlives a cage. It says nothing about what is allowed.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Counted {
    /// The last generation's number.
    pub number: u64,
    /// What the file last held.
    pub seen: policy::Seen,
    /// Of which cage's time it is, by [`Plan::cages_before`].
    pub cage: u32,
}

fn policy_store(
    plan: &Plan,
    handover: &mut Handover,
    presets: &[Preset],
    approved: &[policy::Approved],
) -> Result<(policy::Store, policy::Seen), Refused> {
    let kept: Option<KeptPolicy> = handover.take(slot::POLICY).map(sealed::read_json).transpose()?;
    let (text, turns) = (plan.policy.text.as_str(), u64::from(plan.cages_before));
    let (number, text, seen) = match &kept {
        Some(kept) => (kept.number, kept.text.as_str(), kept.seen),
        None => match handover.take(slot::GENERATION).map(sealed::read_json::<Counted>).transpose()? {
            // Each cage since then has begun with the next generation.
            Some(last) => {
                (last.number.saturating_add(turns.saturating_sub(last.cage.into())), text, last.seen)
            }
            None => (1 + turns, text, plan.policy_seen),
        },
    };
    let composed = Candidate::with_approved(&plan.policy.name, text, presets, approved);
    let (candidate, left_out) = composed.map_err(|errors| errors.to_string())?;
    for id in left_out {
        tracing::warn!("what was approved as {}-{id} contradicts the policy, and is not in force", plan.name);
    }
    Ok((policy::Store::starting_at(candidate, number), seen))
}

/// Returns the programs' content at first use, and has the heart keep it: a supervisor's death must not make
/// a second use count as the first.
fn pins(handover: &mut Handover, heart: &HeartLine) -> Result<Pins, Refused> {
    let kept: Vec<Pinned> = handover.take(slot::PINS).map(sealed::read_json).transpose()?.unwrap_or_default();
    let pins = Pins::restored(kept);
    let (watched, heart) = (pins.clone(), heart.clone());
    supervision::essential(async move {
        let mut changes = watched.changes();
        while changes.changed().await.is_ok() {
            let began = Instant::now();
            heart.keep_value(slot::PINS, || watched.kept()).await;
            // Each write is of all pins: agents that use new programs all the time must not occupy a
            // processor with it.
            tokio::time::sleep(began.elapsed() * PINS_REST).await;
        }
    });
    Ok(pins)
}

/// The count of agents' guesses, as the heart keeps it.
#[derive(serde::Serialize, serde::Deserialize)]
struct Guessed {
    kept: guesses::Kept,
    /// Of which cage's time it is, by [`Plan::cages_before`].
    cage: u32,
}

/// Returns the count of guesses, and has the heart keep it: a supervisor's death must not give an agent new
/// guesses.
fn guesses(plan: &Plan, handover: &mut Handover, heart: &HeartLine) -> Result<Guesses, Refused> {
    let cage = plan.cages_before;
    let kept = match handover.take(slot::GUESSES).map(sealed::read_json::<Guessed>).transpose()? {
        Some(guessed) if guessed.cage == cage => guessed.kept,
        // Counts per agent don't carry over: another init numbers the agents differently.
        Some(guessed) => guessed.kept.of_nobody(),
        None => guesses::Kept::default(),
    };
    let guesses = Guesses::restored(&kept);
    let (watched, heart) = (guesses.clone(), heart.clone());
    supervision::essential(async move {
        let mut changes = watched.changes();
        while changes.changed().await.is_ok() {
            heart.keep_value(slot::GUESSES, || Guessed { kept: watched.kept(), cage }).await;
        }
    });
    Ok(guesses)
}

/// Returns the authority that the heart keeps. Without one, makes a new one and has the heart keep it.
async fn authority(handover: &mut Handover, heart: &HeartLine) -> Result<Authority, Refused> {
    if let Some(fd) = handover.take(slot::AUTHORITY) {
        return Ok(Authority::from_sealed_bytes(&sealed::read(fd.as_fd())?)?);
    }
    let authority = Authority::generate()?;
    let fd = sealed::seal("cofferdam-authority", &authority.to_sealed_bytes())?;
    heart.keep(slot::AUTHORITY, fd.as_fd()).await?;
    Ok(authority)
}

fn credentials(plan: &Plan, keys: &[(String, redactor::Secret)]) -> Result<Credentials, Refused> {
    let key = |wanted: &redactor::Reference| {
        let wanted = wanted.to_string();
        keys.iter().find(|(reference, _)| *reference == wanted).map(|(_, key)| key.clone())
    };
    Ok(Credentials::new(&plan.credentials, key)?)
}

fn gateway(
    plan: &Plan,
    keys: Vec<(String, redactor::Secret)>,
    redactor: &SharedRedactor,
    audit: &AuditLog,
    providers: Providers,
    guesses: Guesses,
) -> Result<Gateway, Refused> {
    let scrubber = redactor.clone();
    let gateway = Gateway::new(gateway::Deps {
        dial: Arc::new(providers),
        ledger: Arc::new(gateway::record::Telemetry::new(audit.sink())),
        scrub: Arc::new(move |text| scrubber.redact(text).into_inner()),
        credentials: gateway::Credentials::new(keys),
        guesses,
        shelf: Some(Arc::new(counts::StateDirectory)),
    });
    counts::clear_away();
    if let Some(inference) = &plan.inference {
        gateway.publish(inference).map_err(|faults| faults.to_string())?;
    }
    if let (_, Some(fault)) = gateway.budgets() {
        let file = plan.state.join(gateway::budgets::FILE);
        warn(&format!(
            "no model request is sent, since what was used of the budgets can't be read from {}: {fault}; put it back, \
             or remove it to count anew from nothing",
            file.display()
        ));
    }
    Ok(gateway)
}

/// Turns a listening socket's descriptor into a non-blocking listener for the runtime.
pub fn tcp_listener(fd: OwnedFd) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::from(fd);
    listener.set_nonblocking(true)?;
    Ok(listener)
}
