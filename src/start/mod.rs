//! Turns what was typed or written in a file into a running heart: everything that can be refused is refused
//! here.
//!
//! ```text
//! Wanted → name claimed → ids chosen ─→ init begun, in namespaces of its own ───────────┐
//!            policy checked → credentials resolved → workspace found → sockets bound ──┴→ this process becomes the heart
//! ```
//! Init waits for its plan, so nothing is started in the sandbox before every check has passed. What was made
//! on the way (a claim, a socket, init) is gone when the process ends.

pub mod apart;
pub mod cage;
pub mod door;
pub mod environment;
pub mod outside;
pub mod rlimits;
pub mod secrets;
pub mod sockets;
pub mod way_out;
pub mod workspace;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent::isolation::shown;
use agent::launch::{Foundation, NewInit, Parent};
use agent::plan::{CagePlan, Control};
use agent::protocol::Slot;
use policy::Policy;
use proxy::credentials::Section;

use crate::builder::Commission;
use crate::config::upstream::{ClientCert, UpstreamProxy};
use crate::config::{self, Forward};
use crate::console::LogFormat;
use crate::console::warn;
use crate::failure::{Failure, Outcome};
use crate::given::{self, lasting};
use crate::heart::{self, Prepared};
use crate::ids;
use crate::kept;
use crate::plan::{AgentPlan, FORWARDS_MAX, Mode, Plan, PlannedCert, PolicySource, slot};
use crate::sealed;
use crate::site;
use crate::site::apart::Apart;
use crate::site::other_root::Chosen;
use crate::site::overlay::Changes;
use crate::site::{Site, places, policies, reach};
use crate::state::{BUILD_SOCKET, Claim, Name, Root, files};
use crate::steps::Steps;

/// Everything that describes a sandbox, whether typed or read from a file.
pub struct Wanted {
    /// Its name.
    pub name: NameChoice,
    /// Its policy.
    pub policy: PolicySource,
    /// The configuration file that this was read from, if any.
    pub config: Option<PathBuf>,
    /// Another root than the host's: a directory, or a pinned image.
    pub root: Option<PathBuf>,
    /// The directory shown at /sandbox. `None`: the sandbox's own, below its state directory.
    pub workspace: Option<PathBuf>,
    /// The agents.
    pub agents: Vec<AgentPlan>,
    /// Ports that lead inside.
    pub forwards: Vec<Forward>,
    /// Providers and routes.
    pub inference: Option<gateway::config::Inference>,
    /// Credentials that the agents use by placeholders and never see.
    pub credentials: Section,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Whether a missing control refuses the start (strict) or only warns (best effort).
    pub enforcement: config::Enforcement,
    /// Bounds on the agents.
    pub limits: config::Limits,
    /// How long a request that no policy entry names waits for the operator's answer. `None`: the operator
    /// isn't asked.
    pub approvals: Option<Duration>,
    /// A PEM file with additional root certificates for upstream servers.
    pub upstream_ca: Option<PathBuf>,
    /// The operator's `SSL_CERT_FILE`, if set: see [`system_roots`].
    pub system_roots: Option<PathBuf>,
    /// Certificates for upstream servers that demand one.
    pub client_certs: Vec<ClientCert>,
    /// The operator's proxy, which connections to upstream servers go through.
    pub upstream_proxy: Option<UpstreamProxy>,
    /// Foreground or service: what the standard streams are for.
    pub mode: Mode,
    /// Whether `crash` is allowed.
    pub fault_injection: bool,
    /// Whether to print nothing but errors.
    pub quiet: bool,
    /// The format of our own messages.
    pub log_format: LogFormat,
    /// The clock that times the steps of a start.
    pub steps: Steps,
}

/// Returns the operator's own roots for upstream servers (`SSL_CERT_FILE`) as an absolute path: the processes
/// that read them have other working directories.
///
/// # Errors
/// There is no working directory.
pub fn system_roots() -> Result<Option<PathBuf>, Failure> {
    std::env::var_os("SSL_CERT_FILE")
        .filter(|path| !path.is_empty())
        .map(|path| lasting(path.as_ref()))
        .transpose()
}

/// How a sandbox gets its name.
pub enum NameChoice {
    /// This one, or an error.
    Exactly(Name),
    /// This one, or the first of `-2`, `-3`… that is free.
    Numbered(Name),
}

/// Starts the sandbox: this process becomes its heart. Returns the sandbox's exit code.
pub fn start(root: &Root, wanted: Wanted) -> Outcome {
    // Read before signals are held: this read may take long.
    let upstream_ca = wanted.upstream_ca.as_deref().map(read_pem).transpose()?;
    // Held before there is anything to remove: a signal waits for the heart, or until what was made is
    // removed.
    let signals = heart::hold_signals()?;
    let refused = |why| Failure::refused(format!("can't start the sandbox: {why}"));
    match prepare(root, wanted, upstream_ca)
        .and_then(|prepared| heart::begin(prepared, &signals).map_err(refused))
    {
        Ok(heart) => Ok(heart.live()),
        Err(failure) => {
            // A signal that arrived meanwhile ends this process here: it interrupted the start, which is no
            // failure worth a line.
            signals.heed()?;
            Err(failure)
        }
    }
}

fn prepare(root: &Root, mut wanted: Wanted, upstream_ca: Option<String>) -> Result<Prepared, Failure> {
    door::check(root, &wanted)?;
    wanted.steps.done("command: arguments and files read");
    if wanted.forwards.len() > FORWARDS_MAX {
        return Err(Failure::refused(format!(
            "{} forwards: at most {FORWARDS_MAX} are possible",
            wanted.forwards.len()
        )));
    }
    if let Some(address) = config::twice(&wanted.forwards) {
        return Err(Failure::refused(format!(
            "two forwards listen on {address} (--forward, `forwards`): give one of them another port"
        )));
    }
    // Every process below inherits this: a core file would hold what memory holds.
    agent::own::no_core_files()?;
    agent::own::want_descriptors(proxy::limits::descriptors_wanted())?;
    rlimits::check()?;
    let mut claim = match &wanted.name {
        NameChoice::Exactly(name) => root.claim(name, another_name(wanted.mode))?,
        NameChoice::Numbered(base) => root.claim_numbered(base)?,
    };
    // Removes what a start or a builder left that was killed while it wrote these files.
    [files::IDS, files::PLACES].into_iter().for_each(|file| kept::clear_away_in(&claim.dir, file));
    let ids = ids::choose(&claim)?;
    // Only a service has a witness: a command that runs for seconds shouldn't wait for one.
    let foundation = Foundation { ids, witness: wanted.mode == Mode::Service, sabotage: left_out()? };
    let init =
        NewInit::begin(foundation.clone(), Parent::Caller).map_err(|e| Failure::refused(e.to_string()))?;
    wanted.steps.done("command: name and ids; init begun");
    let policy = policies::check(&wanted.policy, wanted.quiet)?;
    wanted.steps.done("command: policy checked");
    outside::look(&mut wanted);
    let (secrets, client_certs) = secrets::seal(&wanted)?;
    warn_of_credentials(&wanted, policy.policy())?;
    let (cage, apart, news) = cage(root, &mut wanted, &claim, foundation, policy.policy())?;

    let mut slots = sockets::bind(&wanted, &mut claim, ids)?;
    let builder = match wanted.mode {
        Mode::Service => Some(commission(root, &wanted, &mut claim, apart)?),
        Mode::Foreground { .. } => None,
    };
    let steps = wanted.steps.clone();
    let plan = plan(wanted, &claim, cage, upstream_ca, client_certs);
    slots.keep(Slot::new(slot::SECRETS), secrets);
    slots.keep(Slot::new(slot::PLAN), sealed::seal_json("cofferdam-plan", &plan)?);
    // Written only once nothing can be refused any more: what a refused start left would be in the way of the
    // next one.
    news.keep()?;
    let (lock, made) = claim.hand_over();
    slots.keep(Slot::new(slot::LOCK), lock.into());
    steps.done("command: workspace, sockets; becomes the heart");
    Ok(Prepared { plan, slots, builder, init, made, steps })
}

fn warn_of_credentials(wanted: &Wanted, policy: &Policy) -> Result<(), Failure> {
    if wanted.quiet {
        return Ok(());
    }
    wanted.inference.iter().flat_map(|section| section.warnings()).for_each(|text| warn(&text));
    let warnings = wanted.credentials.warnings(policy);
    warnings.map_err(|faults| Failure::refused(faults.to_string()))?.iter().for_each(|text| warn(text));
    Ok(())
}

/// Returns the sandbox's first cage, the files that its agents must not touch in any cage, and where they can
/// write from now on.
fn cage(
    root: &Root,
    wanted: &mut Wanted,
    claim: &Claim,
    foundation: Foundation,
    policy: &Policy,
) -> Result<(CagePlan, Apart, places::News), Failure> {
    let (ids, hidden) = (foundation.ids, root.every_place());
    let paths = policies::paths(policy);
    let before = places::before(&claim.dir)?;
    let workspace = workspace::locate(wanted.workspace.as_deref(), claim, ids, &paths, (&hidden, &before))?;
    door::is_text("--workspace, `workspace`", &workspace)?;
    let changes = Some(Changes { dir: &claim.dir, handle: &claim.handle, ids });
    let (state, quiet) = (root.dir(), wanted.quiet);
    let chosen = Chosen { state, changes, ids, hidden: &hidden, before: &before, quiet };
    let mut cage = cage::of_wanted(wanted, claim.name.as_str(), foundation, workspace, hidden.clone());
    cage.written_before.clone_from(&before);
    site::shape(&mut cage, policy, wanted.root.as_deref(), &chosen)?;
    cage.root.iter().try_for_each(|other| door::is_text("--root, `root`", &other.path))?;
    ids::own(claim, ids)?;
    let shown = shown::places(&cage);
    let apart = apart::keep_out(wanted, &shown)?;
    site::check(&cage)?;
    if !wanted.quiet {
        reach::answered(&shown).iter().chain(&reach::unprotected(&cage)).for_each(|text| warn(text));
    }
    let news = places::gather(&claim.dir, &mut cage)?;
    Ok((cage, apart, news))
}

fn plan(
    wanted: Wanted,
    claim: &Claim,
    cage: CagePlan,
    upstream_ca: Option<String>,
    client_certs: Vec<PlannedCert>,
) -> Plan {
    Plan {
        name: claim.name.to_string(),
        state: claim.dir.clone(),
        mode: wanted.mode,
        cage,
        policy_seen: policy::Seen::of(&wanted.policy.text),
        policy: wanted.policy,
        cages_before: 0,
        agents: wanted.agents,
        inference: wanted.inference,
        credentials: wanted.credentials,
        approvals: wanted.approvals,
        forwards: wanted.forwards,
        upstream_ca,
        client_certs,
        upstream_proxy: wanted.upstream_proxy,
        system_roots: wanted.system_roots,
        notify_socket: std::env::var("NOTIFY_SOCKET").ok(),
        fault_injection: wanted.fault_injection,
        quiet: wanted.quiet,
        log_format: wanted.log_format,
        timings: wanted.steps.are_wanted(),
    }
}

/// Returns where the operator sets another name.
fn another_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Service => "`name:` in its file",
        Mode::Foreground { .. } => "--name",
    }
}

/// Returns the controls that a test wants left out (names separated by commas), to check that the proof
/// notices. A release build never looks: nothing that weakens a cage may be there for anyone to set.
fn left_out() -> Result<Vec<Control>, Failure> {
    const SABOTAGE: &str = "COFFERDAM_SABOTAGE";
    if !cfg!(debug_assertions) {
        return Ok(Vec::new());
    }
    let names = std::env::var(SABOTAGE).unwrap_or_default();
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.parse().map_err(|why| Failure::refused(format!("{SABOTAGE}: {why}"))))
        .collect()
}

/// Reads the PEM file of `upstream_ca`.
///
/// # Errors
/// The file can't be read, or holds no certificate.
pub fn read_pem(path: &Path) -> Result<String, Failure> {
    let text = given::read_certificates(path, "upstream_ca")?;
    if text.contains("-----BEGIN CERTIFICATE-----") {
        return Ok(text);
    }
    Err(Failure::refused(format!("upstream_ca {}: holds no certificate in PEM form", path.display())))
}

/// Returns what a builder needs to build another cage later. Its socket stays our own user's: root's, when
/// started as root.
fn commission(root: &Root, wanted: &Wanted, claim: &mut Claim, apart: Apart) -> Result<Commission, Failure> {
    let site = Site {
        state: root.dir().to_owned(),
        dir: claim.dir.clone(),
        root: wanted.root.as_deref().map(lasting).transpose()?,
        apart,
        quiet: wanted.quiet,
    };
    Ok(Commission { site, listener: sockets::unix(claim, BUILD_SOCKET)? })
}
