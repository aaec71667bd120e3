//! Pid 1 of the sandbox: a fork of the heart, single-threaded, that never executes another program itself.
//!
//! ```text
//! begin ─▶ tied to the heart's life, ids set, namespaces, gate ─▶ plan taken ─▶ cage built ─▶ proven ─▶ serve ─▶ the channel's end,
//!              │ fails: exit                                                      └── fails ──┴─▶ serve refusals      or SIGKILL
//! ```
//! A failure in the network or its gate doesn't end init: it is kept until the cage is built, and reported as
//! the cage's fault. Sockets and run files are handed out while the proof still runs ([`handouts`]); all
//! other requests wait for its end.
//!
//! It holds no secrets, reads no file that an agent could have written except in `/proc`, and takes requests
//! from one channel only. When it ends, the kernel ends every process of the sandbox.

mod allowance;
mod asleep;
mod birthmark;
mod births;
mod changed_code;
mod channel;
mod confine;
mod connects;
mod flood;
mod foreign_code;
mod handouts;
mod holders;
mod identified;
mod image;
mod looks;
mod mapping;
mod patience;
mod process;
mod schedstat;
mod searches;
mod serve;
mod spawn;
mod standby;
mod starting;
mod strays;
mod table;
mod tables;
mod tally;
mod threads;
mod unlisted;

pub(crate) use asleep::Asleep;
pub(crate) use birthmark::Birthmarks;
pub(crate) use confine::Confinement;
pub(crate) use connects::Connects;
pub(crate) use handouts::Early;
pub(crate) use holders::{Lens, Wanted, holders};
pub(crate) use patience::Waits;
pub(crate) use standby::{Failed as FailedStep, Said, Standby};
pub(crate) use starting::STARTED_WITHIN;

use crate::credential_files::Keeper;
use crate::isolation::gate::{Gate, NoGate};
use crate::isolation::landlock::{self, LandlockError, Rules};
use crate::isolation::namespaces::Namespaces;
use crate::isolation::priority;
use crate::isolation::root::{Collection, Failed};
use crate::isolation::seccomp::{self, Filter};
use crate::isolation::{network, other_root, paths, sabotage};
use crate::launch::{self, Foundation, Furniture, Handed};
use crate::own;
use crate::plan::{CagePlan, Control, Enforcement, Ids};
use crate::probe::{Fault, Scene};
use crate::protocol::{CageFailure, CageReport, Missing};
use crate::sys;
use crate::sys::fd::Stream;
use crate::sys::prctl::{Prctl, prctl};
use crate::wire::Wire;
use channel::Channel;
use handouts::Handouts;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

/// Init's entry point, called by [`crate::launch::NewInit::begin`] in the child. `sync` is init's end of the
/// handshake.
pub(crate) fn begin(foundation: &Foundation, sync: OwnedFd) -> ! {
    let life = std::panic::AssertUnwindSafe(|| live(foundation, sync));
    // A panic must not unwind into the heart's frames below us.
    let code = match std::panic::catch_unwind(life) {
        Ok(Ok(())) => 0,
        Ok(Err(())) | Err(_) => 125,
    };
    sys::process::exit_now(code)
}

fn live(foundation: &Foundation, sync: OwnedFd) -> Result<(), ()> {
    let started = Instant::now();
    if let Err(error) = tie_to_heart(foundation, &sync) {
        let _ = sys::socket::send(sync.as_fd(), format!("init: {error}").as_bytes(), &[]);
        return Err(());
    }
    // Read before the heart hears of us and raises our priority.
    let usual = priority::Usual::now();
    if let Err(error) = sys::process::unshare(launch::AT_ONCE) {
        let errno = error.raw_os_error().unwrap_or_default().to_le_bytes();
        let _ = sys::socket::send(sync.as_fd(), &[&[launch::NO_NAMESPACES], &errno[..]].concat(), &[]);
        return Err(());
    }
    sys::socket::send(sync.as_fd(), &[launch::READY], &[]).map_err(drop)?;
    let mut steps = vec![("init: in namespaces of its own".to_owned(), sys::process::monotonic())];
    let network = Network::make(foundation);
    steps.push(("init: gate made".to_owned(), sys::process::monotonic()));
    let (furniture, channel, handed) = take_furniture(sync).map_err(drop)?;
    steps.push(("init: plan taken".to_owned(), sys::process::monotonic()));
    let wire = Wire::new(channel).map_err(drop)?;
    let mut channel = Channel::new(&wire);
    let Furniture { plan, outside, no_cgroup, mounts: _ } = furniture;
    let ground = Ground { network, handed, no_cgroup, outside, usual, started, steps };
    match build(&plan, ground, &mut channel) {
        Ok(cage) => serve::serve(channel, cage),
        Err(failure) => serve::refuse(channel, &failure),
    }
}

/// Does everything that must be done before the process that made us may let go of us: we must not outlive
/// the heart, whose child we are even where the builder made us, and must keep nothing that was theirs.
#[expect(unsafe_code, reason = "a fresh child closes what isn't its own")]
fn tie_to_heart(foundation: &Foundation, sync: &OwnedFd) -> io::Result<()> {
    sys::process::die_with_parent(libc::SIGKILL)?;
    let mut go = [0_u8; 1];
    if sys::fd::read(sync.as_fd(), &mut go)? != 1 {
        return Err(io::Error::other("the heart is gone"));
    }
    // Agents can read the command line of process 1, and the environment was the operator's.
    own::retitle(c"cofferdam: init", "cofferdam: init")?;
    sys::signals::reset()?;
    // Init must not share a session with a terminal's other programs, nor get the terminal's signals.
    nix::unistd::setsid()?;
    // Drops whatever personality the operator's shell runs under: see `image`.
    nix::sys::personality::set(nix::sys::personality::Persona::empty())?;
    // A peer that went away is an error value here, never a signal.
    sys::signals::ignore_broken_pipes();
    if let Ids::Rooted { .. } = foundation.ids {
        sys::process::clear_groups()?;
        sys::process::set_gids(Some(0), Some(0), Some(0))?;
        sys::process::set_uids(Some(0), Some(0), Some(0))?;
    }
    // Set again, since the change of ids has cleared it. If the heart died meanwhile, the answer sent to it
    // next fails.
    sys::process::die_with_parent(libc::SIGKILL)?;
    prctl(Prctl::SetDumpable(foundation.sabotaged(Control::Dumpable)))?;
    // SAFETY: what else is open belongs to copies of the heart's values, in frames to which `begin` never
    // returns.
    unsafe { sys::fd::close_all_but(&[sync.as_raw_fd()]) }?;
    // Standard error stays, for the last words of a panic; children get streams of their own.
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    sys::fd::become_stream(null.as_fd(), Stream::Input)?;
    sys::fd::become_stream(null.as_fd(), Stream::Output)
}

/// Waits for the plan and what comes with it.
fn take_furniture(sync: OwnedFd) -> io::Result<(Furniture, OwnedFd, Handed)> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    sys::fd::wait(sync.as_fd(), sys::fd::Ready::Readable, None)?;
    let received =
        sys::socket::receive::<{ launch::FURNITURE_DESCRIPTORS }>(sync.as_fd(), &mut Vec::with_capacity(1))?;
    if received.length != 1 || received.descriptors_cut {
        return Err(broken());
    }
    let mut fds = received.fds.into_iter();
    let sealed = fds.next().ok_or_else(broken)?;
    let bytes = sys::memfd::read_sealed(sealed.as_fd(), launch::MAX_FURNITURE)?;
    let furniture: Furniture = postcard::from_bytes(&bytes).map_err(io::Error::other)?;
    let channel = fds.next().ok_or_else(broken)?;
    let mut next = |there: bool| there.then(|| fds.next().ok_or_else(broken)).transpose();
    let [workspace, tree, overlay] = furniture.mounts;
    let handed = Handed {
        workspace: next(workspace)?,
        root: other_root::Mounts { tree: next(tree)?, overlay: next(overlay)? },
    };
    Ok((furniture, channel, handed))
}

/// The part of the network that is made before the plan arrives: the loopback is up, and the gate made.
struct Network {
    gate: Option<Gate>,
    no_capture: Option<String>,
}

impl Network {
    fn make(foundation: &Foundation) -> Result<Self, CageFailure> {
        if foundation.sabotaged(Control::Network) {
            return Ok(Self { gate: None, no_capture: Some("the namespace is the host's".to_owned()) });
        }
        network::loopback_up().map_err(at_step("switching the loopback on"))?;
        match Gate::make(foundation.witness) {
            Ok(gate) => Ok(Self { gate: Some(gate), no_capture: None }),
            Err(error @ NoGate::Half(_)) => {
                Err(at_step("making the gate")(io::Error::other(error.to_string())))
            }
            // No control depends on the gate: a connection that isn't captured has no way out at all.
            Err(error) => Ok(Self { gate: None, no_capture: Some(error.to_string()) }),
        }
    }
}

/// Everything that a cage is built from besides its plan.
struct Ground {
    network: Result<Network, CageFailure>,
    /// Mounts that root opened.
    handed: Handed,
    /// Why limits that were asked for aren't there (best effort).
    no_cgroup: Option<String>,
    /// The heart's namespaces.
    outside: Namespaces,
    /// The priority of every process but init.
    usual: priority::Usual,
    started: Instant,
    steps: Vec<(String, u64)>,
}

/// A first policy's ports that can be captured: no known policy names more.
const MAX_CAPTURED: usize = 1024;

/// A built cage.
pub(crate) struct Cage {
    pub(crate) confinement: Confinement,
    pub(crate) report: CageReport,
    pub(crate) handouts: Handouts,
    /// Where connections to the world arrive, and the listeners there by port.
    pub(crate) gate: Option<Gate>,
    pub(crate) captured: BTreeMap<u16, OwnedFd>,
    /// Where the agent can write, for judging executable mappings.
    pub(crate) writable: Vec<PathBuf>,
    /// Which process made which connection.
    pub(crate) connects: Connects,
    /// The process that proved the cage, and becomes the first agent.
    pub(crate) standby: Option<Standby>,
}

fn build(plan: &CagePlan, ground: Ground, channel: &mut Channel<'_>) -> Result<Cage, CageFailure> {
    plan.check().map_err(CageFailure::Plan)?;
    let Ground { network, handed, no_cgroup, outside, usual, started, mut steps } = ground;
    let Network { mut gate, no_capture } = network?;
    if let Some(gate) = &mut gate {
        // With fewer sockets some ports are not captured, which is logged then; no control depends on them.
        let _ = gate.close(plan.captured_ports.min(MAX_CAPTURED));
    }
    let no_witness = gate.as_ref().and_then(Gate::no_witness);
    let mut done = |what: &str| steps.push((format!("init: {what}"), sys::process::monotonic()));
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    if !plan.sabotaged(Control::Namespaces) {
        sys::process::unshare(libc::CLONE_NEWCGROUP).map_err(at_step("making a cgroup namespace"))?;
    }
    nix::unistd::sethostname(&plan.name).map_err(|e| at_step("setting the host name")(e.into()))?;
    let mut missing = Missed { strict: plan.enforcement == Enforcement::Strict, list: Vec::new() };
    if let Some(why) = no_cgroup {
        missing.note(Control::Cgroup, why)?;
    }
    let mut listeners = BTreeMap::new();
    for address in &plan.listeners {
        match network::listen_tcp(*address) {
            Ok(socket) => drop(listeners.insert(*address, socket)),
            // A kernel without IPv6 has no such address for the agent either.
            Err(error) if address.is_ipv6() && is_without_ipv6(&error) => {}
            Err(source) => {
                return Err(failed(Failed {
                    step: format!("listening on {address} inside"),
                    source,
                    mend: None,
                }));
            }
        }
    }
    let collected = Collection::collect(plan, handed).map_err(failed)?;
    done("mounts collected");
    let built = collected.build(plan).map_err(failed)?;
    done("root changed and built");
    let rules = make_rules(plan, &mut missing)?;
    let filter = make_filter(plan, &mut missing)?;
    done("Landlock rules and seccomp filter made");
    let landlock_abi = if rules.is_some() { landlock::abi_version() } else { 0 };
    let mut cage = Cage {
        confinement: Confinement::new(plan, rules, filter, usual),
        report: CageReport { landlock_abi, no_capture, no_witness, ..CageReport::default() },
        handouts: Handouts::new(built.run, listeners),
        gate,
        captured: BTreeMap::new(),
        writable: paths::writable_names(plan),
        connects: Connects::default(),
        standby: None,
    };
    // Nothing runs yet. A credential file that can't be secured now is tried again on the beat.
    let _ = Keeper::open(crate::plan::WORKSPACE.as_ref()).map(|mut keeper| keeper.beat());
    cage.report.build_micros = micros(started);
    let scene = Scene {
        plan,
        confinement: &cage.confinement,
        shown: &built.shown,
        writable: &built.writable,
        outside: &outside,
    };
    let early = Early::new(channel, &mut cage.handouts);
    cage.standby = prove(&scene, &mut cage.connects, early, &mut cage.report, &mut missing)?;
    steps.push(("init: cage proven".to_owned(), sys::process::monotonic()));
    cage.gate.iter().for_each(Gate::forget_refusals);
    cage.report.steps = steps;
    cage.report.missing = missing.list;
    // Comes last: what the proof tries must fail by the agent's own controls, not by ours, nor by any that
    // the probe would inherit from us.
    own::settle(own::Role::Init)
        .map_err(|fault| failed(Failed { step: fault.step.into(), source: fault.source, mend: None }))?;
    Ok(cage)
}

/// Runs the probe under the cage's confinement and judges its answers. Returns the probe's process, to become
/// an agent, only if all are right: an attempt that must fail and didn't may have changed the process.
fn prove(
    scene: &Scene<'_>,
    connects: &mut Connects,
    early: Early<'_, '_>,
    report: &mut CageReport,
    missing: &mut Missed,
) -> Result<Option<Standby>, CageFailure> {
    let started = Instant::now();
    let running = crate::probe::start(scene)
        .map_err(|source| failed(Failed { step: "starting the probe".into(), source, mend: None }))?;
    let (checks, probe) = running.finish(connects, early).map_err(|fault| match fault {
        // No child could be confined, so none may run, whatever the enforcement.
        Fault::Unconfined(why) => CageFailure::Unproven(vec![why]),
        Fault::System(source) => failed(Failed { step: "running the probe".into(), source, mend: None }),
    })?;
    let wrong: Vec<_> = checks.iter().filter(|check| !check.right).collect();
    if !wrong.is_empty() && missing.strict {
        return Err(CageFailure::Unproven(wrong.iter().map(|check| crate::probe::sentence(check)).collect()));
    }
    let standby = wrong.is_empty().then_some(probe);
    for check in wrong {
        missing.note(check.control, crate::probe::sentence(check))?;
    }
    report.proof = checks;
    report.proof_micros = micros(started);
    Ok(standby)
}

fn make_rules(plan: &CagePlan, missing: &mut Missed) -> Result<Option<Rules>, CageFailure> {
    // Checked separately: the paths that the policy names must exist even where there is no Landlock to
    // report them missing.
    if let Some(path) = landlock::missing_path(plan) {
        return Err(CageFailure::MissingPath(path.display().to_string()));
    }
    if plan.sabotaged(Control::Landlock) {
        return Ok(None);
    }
    match Rules::make(plan) {
        Ok(rules) => Ok(Some(rules)),
        Err(LandlockError::Missing(path)) => Err(CageFailure::MissingPath(path.display().to_string())),
        // An error under best effort too: else an agent could have the next cage built without Landlock.
        Err(error @ LandlockError::Redirected(_)) => {
            Err(at_step("making Landlock's rules")(io::Error::other(error.to_string())))
        }
        Err(error) => missing.note(Control::Landlock, error.to_string()).map(|()| None),
    }
}

fn can_ask(plan: &CagePlan, missing: &mut Missed) -> Result<bool, CageFailure> {
    if plan.sabotaged(Control::ConnectNotify) {
        return Ok(false);
    }
    let can = seccomp::can_ask();
    if !can {
        let why = "this kernel's seccomp can't ask at connect(2), which Linux 5.5 can";
        missing.note(Control::ConnectNotify, why.into())?;
    }
    Ok(can)
}

fn make_filter(plan: &CagePlan, missing: &mut Missed) -> Result<Option<Filter>, CageFailure> {
    if plan.sabotaged(Control::Seccomp) {
        return Ok(None);
    }
    if !sys::process::seccomp_available() {
        let why = "this kernel has no system call filters (CONFIG_SECCOMP_FILTER)";
        return missing.note(Control::Seccomp, why.to_owned()).map(|()| None);
    }
    match Filter::compile(can_ask(plan, missing)?) {
        Ok(mut filter) => {
            sabotage::weaken(&mut filter, plan);
            Ok(Some(filter))
        }
        Err(error) => missing.note(Control::Seccomp, error.to_string()).map(|()| None),
    }
}

/// Controls that this kernel lacks: an error under strict, a list under best effort.
struct Missed {
    strict: bool,
    list: Vec<Missing>,
}

impl Missed {
    /// Records a missing control, one entry each: a further fault of the same control is appended to its
    /// reason.
    fn note(&mut self, control: Control, why: String) -> Result<(), CageFailure> {
        if self.strict {
            return Err(CageFailure::Missing { control, why });
        }
        match self.list.iter_mut().find(|missing| missing.control == control) {
            Some(missing) => {
                missing.why.push_str("; ");
                missing.why.push_str(&why);
            }
            None => self.list.push(Missing { control, why }),
        }
        Ok(())
    }
}

fn failed(fault: Failed) -> CageFailure {
    let mend = fault.mend.map(str::to_owned);
    match fault.source.raw_os_error() {
        Some(errno) => CageFailure::Step { step: fault.step, errno, mend },
        None => CageFailure::Step { step: format!("{}: {}", fault.step, fault.source), errno: 0, mend },
    }
}

fn at_step(name: &'static str) -> impl FnOnce(io::Error) -> CageFailure {
    move |error| failed(Failed { step: name.to_owned(), source: error, mend: None })
}

fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
