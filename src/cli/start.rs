//! From what was typed or written in a file to a running heart: everything that can be refused is refused here.
//!
//! ```text
//! Wanted → name claimed → ids chosen ─→ init begun, in namespaces of its own ───────────┐
//!            policy checked → credentials resolved → workspace found → sockets bound ──┴→ this process becomes the heart
//! ```
//! Init waits for its plan: nothing is started in the sandbox before all of it holds; what was made on the way (a claim, a
//! socket, init) goes with the process.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use agent::isolation::capabilities::REQUIRE_CAP_DROP;
use agent::launch::{Foundation, NewInit, Parent};
use agent::plan::{CagePlan, Control, Ids, Limits};
use agent::protocol::Slot;
use proxy::credentials::Section;

use crate::builder::Commission;
use crate::cli::args::LogFormat;
use crate::cli::out::{Failure, Outcome, say};
use crate::cli::reach::{self, Apart};
use crate::cli::site::{Site, lasting};
use crate::cli::{given, ids, other_root, policies, secrets, workspace};
use crate::config::upstream::{ClientCert, UpstreamProxy};
use crate::config::{self, Forward};
use crate::heart::{self, Prepared, Slots};
use crate::plan::{
    AgentPlan, FORWARDS_MAX, Mode, Plan, PolicySource, explicit_listeners, inference_listeners, slot,
};
use crate::sealed;
use crate::state::{BUILD_SOCKET, CONTROL_SOCKET, Claim, Name, Root, socket_path};
use crate::steps::Steps;

/// Everything that describes a sandbox, whether typed or read from a file.
pub struct Wanted {
    /// Its name.
    pub name: NameChoice,
    /// Its policy.
    pub policy: PolicySource,
    /// The configuration file that this is from, if it is.
    pub config: Option<PathBuf>,
    /// Another root than the host's: a directory, or a pinned image.
    pub root: Option<PathBuf>,
    /// The directory shown at /sandbox; none: its own, under the state directory.
    pub workspace: Option<PathBuf>,
    /// The agents.
    pub agents: Vec<AgentPlan>,
    /// Ports that lead inside.
    pub forwards: Vec<Forward>,
    /// Providers and routes.
    pub inference: Option<gateway::config::Inference>,
    /// Keys that the agent names and never has.
    pub credentials: Section,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Strict or best effort.
    pub enforcement: config::Enforcement,
    /// Bounds on the agents.
    pub limits: config::Limits,
    /// More roots for upstream servers, a PEM file.
    pub upstream_ca: Option<PathBuf>,
    /// The operator's `SSL_CERT_FILE`, if set: see [`system_roots`].
    pub system_roots: Option<PathBuf>,
    /// Certificates for upstream servers that demand one.
    pub client_certs: Vec<ClientCert>,
    /// The proxy through which everything goes.
    pub upstream_proxy: Option<UpstreamProxy>,
    /// What the standard streams are for.
    pub mode: Mode,
    /// Whether `crash` is allowed.
    pub fault_injection: bool,
    /// Say nothing but errors.
    pub quiet: bool,
    /// Form of our own messages.
    pub log_format: LogFormat,
    /// The step clock.
    pub steps: Steps,
}

/// The operator's own roots for upstream servers (`SSL_CERT_FILE`), wherever a process that reads them works.
///
/// # Errors
/// Without a working directory.
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

/// Starts the sandbox: this process becomes its heart, and gives its exit code.
pub fn start(root: &Root, wanted: Wanted) -> Outcome {
    // Whose reading may last, before a signal has to wait.
    let upstream_ca = wanted.upstream_ca.as_deref().map(read_pem).transpose()?;
    // Before there is anything to remove: a signal waits for the heart, or until what was made is gone again.
    let signals = heart::hold_signals()?;
    let refused = |why| Failure::refused(format!("can't start the sandbox: {why}"));
    match prepare(root, wanted, upstream_ca)
        .and_then(|prepared| heart::begin(prepared, &signals).map_err(refused))
    {
        Ok(heart) => Ok(heart.live()),
        Err(failure) => {
            // Whoever was asked to end meanwhile ends of that, here.
            signals.release()?;
            Err(failure)
        }
    }
}

fn prepare(root: &Root, mut wanted: Wanted, upstream_ca: Option<String>) -> Result<Prepared, Failure> {
    wanted.steps.done("command: arguments and files read");
    if wanted.forwards.len() > FORWARDS_MAX {
        return Err(Failure::refused(format!(
            "{} forwards: at most {FORWARDS_MAX} are possible",
            wanted.forwards.len()
        )));
    }
    // Inherited by everything below: a core file would hold what memory holds.
    agent::own::no_core_files()?;
    agent::own::want_descriptors(proxy::limits::descriptors_wanted())?;
    let mut claim = match &wanted.name {
        NameChoice::Exactly(name) => root.claim(name, another_name(wanted.mode))?,
        NameChoice::Numbered(base) => root.claim_numbered(base)?,
    };
    let ids = ids::choose(&claim)?;
    // Who starts and ends in seconds doesn't wait for a witness.
    let foundation = Foundation { ids, witness: wanted.mode == Mode::Service, sabotage: left_out()? };
    let init =
        NewInit::begin(foundation.clone(), Parent::Caller).map_err(|e| Failure::refused(e.to_string()))?;
    wanted.steps.done("command: name and ids; init begun");
    let policy = policies::check(&wanted.policy, wanted.quiet)?;
    wanted.steps.done("command: policy checked");
    let (secrets, client_certs) = secrets::seal(&wanted)?;
    if !wanted.quiet {
        let warnings = wanted.credentials.warnings(policy.policy());
        warnings.map_err(|faults| Failure::refused(faults.to_string()))?.iter().for_each(|text| say(text));
    }
    let mut paths = policies::paths(policy.policy());
    let hidden = root.every_place();
    let workspace = workspace::locate(wanted.workspace.as_deref(), &claim, ids, &paths, &hidden)?;
    let shown =
        other_root::Chosen { state: root.dir(), dir: &claim.dir, ids, hidden: &hidden, quiet: wanted.quiet };
    let other_root = wanted.root.as_deref().map(|named| shown.locate(named, &mut paths)).transpose()?;
    ids::own(&claim, ids)?;

    let mut cage = CagePlan::new(claim.name.as_str(), ids, workspace);
    cage.root = other_root;
    cage.paths = paths;
    let apart = reach::keep_out(&mut wanted, &cage)?;
    cage.hidden = hidden;
    cage.enforcement = match wanted.enforcement {
        config::Enforcement::Strict => agent::plan::Enforcement::Strict,
        config::Enforcement::BestEffort => agent::plan::Enforcement::BestEffort,
    };
    cage.limits = limits(&wanted.limits);
    cage.require_cap_drop = std::env::var_os(REQUIRE_CAP_DROP).is_some_and(|value| value == "1");
    (cage.witness, cage.sabotage) = (foundation.witness, foundation.sabotage);
    cage.listeners = [explicit_listeners(), inference_listeners()].concat();
    cage.check().map_err(|e| Failure::refused(e.to_string()))?;

    let mut slots = Slots::new();
    // There is room: the number of forwards is bounded.
    let mut keep = |name: &str, fd: OwnedFd| slots.keep(Slot::new(name), fd);
    keep(slot::SECRETS, secrets);
    keep(slot::STATE, claim.handle.as_fd().try_clone_to_owned()?);
    if let Some(address) = wanted.metrics {
        keep(slot::METRICS, listen(address, "metrics", "name another with --metrics ADDR, or `off`")?);
    }
    for (n, forward) in wanted.forwards.iter().enumerate() {
        let fd = listen(forward.listen, "forward", "choose another port")?;
        keep(&format!("{}{n}", slot::FORWARD), fd);
    }
    keep(slot::CONTROL, control(&mut claim, ids)?);
    let builder = match wanted.mode {
        Mode::Service => Some(commission(root, &wanted, &mut claim, apart)?),
        Mode::Foreground { .. } => None,
    };
    let policy_seen = policy::Seen::of(&wanted.policy.text);
    let plan = Plan {
        name: claim.name.to_string(),
        state: claim.dir.clone(),
        mode: wanted.mode,
        cage,
        policy: wanted.policy,
        policy_seen,
        cages_before: 0,
        agents: wanted.agents,
        inference: wanted.inference,
        credentials: wanted.credentials,
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
    };
    keep(slot::PLAN, sealed::seal_json("cofferdam-plan", &plan)?);
    let (lock, made) = claim.hand_over();
    keep(slot::LOCK, lock.into());
    wanted.steps.done("command: workspace, sockets; becomes the heart");
    Ok(Prepared { plan, slots, builder, init, made, steps: wanted.steps })
}

/// Where an operator says another name.
fn another_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Service => "`name:` in its file",
        Mode::Foreground { .. } => "--name",
    }
}

/// Controls that a test wants left out, by name and comma, to see that the proof notices. A release build never looks:
/// what can weaken a cage must not be there for anyone to set.
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

fn read_pem(path: &Path) -> Result<String, Failure> {
    let text = given::read_certificates(path, "upstream_ca")?;
    if text.contains("-----BEGIN CERTIFICATE-----") {
        return Ok(text);
    }
    Err(Failure::refused(format!("upstream_ca {}: holds no certificate in PEM form", path.display())))
}

fn limits(wanted: &config::Limits) -> Limits {
    /// The most processors a limit can name; far above any machine's.
    const CPU_MAX: f64 = 4096.0;
    Limits {
        memory: wanted.memory.map(|bytes| bytes.as_u64()),
        pids: wanted.pids.map(u64::from),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to 0..=4096 before"
        )]
        cpu_millis: wanted.cpu.map(|cpus| (cpus.clamp(0.0, CPU_MAX) * 1000.0) as u32),
        disk_read: wanted.disk_read.map(|bytes| bytes.as_u64()),
        disk_write: wanted.disk_write.map(|bytes| bytes.as_u64()),
        ..Limits::default()
    }
}

fn control(claim: &mut Claim, ids: Ids) -> Result<OwnedFd, Failure> {
    let listener = socket(claim, CONTROL_SOCKET)?;
    if let Ids::Rooted { gateway, .. } = ids {
        ids::give(&socket_path(&claim.handle, CONTROL_SOCKET), gateway).map_err(|e| told_of(claim, &e))?;
    }
    Ok(listener.into())
}

/// What another cage is built from one day. Its socket stays our own user's: root's, when started as root.
fn commission(root: &Root, wanted: &Wanted, claim: &mut Claim, apart: Apart) -> Result<Commission, Failure> {
    let site = Site {
        state: root.dir().to_owned(),
        dir: claim.dir.clone(),
        root: wanted.root.as_deref().map(lasting).transpose()?,
        apart,
        quiet: wanted.quiet,
    };
    Ok(Commission { site, listener: socket(claim, BUILD_SOCKET)? })
}

fn socket(claim: &mut Claim, name: &'static str) -> Result<UnixListener, Failure> {
    claim.listen(name).map_err(|e| told_of(claim, &e))
}

fn told_of(claim: &Claim, error: &std::io::Error) -> Failure {
    Failure::refused(format!("sockets in {}: {error}", claim.dir.display()))
}

fn listen(address: SocketAddr, what: &str, mend: &str) -> Result<OwnedFd, Failure> {
    let listener = TcpListener::bind(address)
        .map_err(|e| Failure::refused(format!("can't listen on {address} for {what}: {e}; {mend}")))?;
    if !address.ip().is_loopback() {
        say(&format!("{what} on {address} is open to the network"));
    }
    Ok(listener.into())
}
