//! The proof: before the agent's first instruction, the process that will become the agent, already under its
//! whole confinement, tries what must fail and what must work, and reports each answer. (Where an answer is
//! wrong and best effort goes on all the same, this process ends, and another child becomes the agent: an
//! attempt that must fail and doesn't may change the process that made it.)
//!
//! The checks are a list of names and closures; each belongs to one control and says which answer is right.
//! No check sleeps, leaves files behind or touches anything outside: each attempt would be harmless if it
//! worked. The proof runs in about a millisecond. Calls that would end the process (other architectures, x32)
//! aren't tried; instead the loaded filter program is evaluated.
//!
//! Every control has at least one check that notices when the control is left out; `tests/cage/proof.rs`
//! leaves out each in turn.

mod calls;
mod files;
mod identity;
mod mounts;
mod network;

use crate::init::{Confinement, Connects, Early, FailedStep, Said, Standby};
use crate::isolation::namespaces::Namespaces;
use crate::plan::{CagePlan, Control};
use crate::protocol::Check;
use crate::sys;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A probe that takes longer counts as hanging, and the cage as not proven: the time that its waits for the
/// network may take, and what all else needs at most.
pub(crate) const DEADLINE: Duration = network::LONGEST.saturating_add(Duration::from_secs(5));

/// Which answer is right.
#[derive(Clone, Copy)]
enum Expect {
    /// Any error.
    Fails,
    /// This very error, where another error would mean that a different control refused.
    FailsWith(i32),
    /// No error.
    Works,
}

/// Collects the answers.
struct Probe {
    checks: Vec<Check>,
    /// The inode of a socket that the probe connected, for init to say whether it was told of that.
    connected: u64,
}

/// What a probe sends: its answers, and [`Probe::connected`].
type Answers = (Vec<Check>, u64);

impl Probe {
    fn try_it<T>(
        &mut self,
        name: &str,
        control: Control,
        expect: Expect,
        attempt: impl FnOnce() -> io::Result<T>,
    ) {
        let errno = match attempt() {
            Ok(_) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        };
        let right = match expect {
            Expect::Fails => errno != 0,
            Expect::FailsWith(wanted) => errno == wanted,
            Expect::Works => errno == 0,
        };
        let must_fail = !matches!(expect, Expect::Works);
        self.checks.push(Check { name: name.to_owned(), control, must_fail, errno, right });
    }

    fn holds(&mut self, name: &str, control: Control, fact: impl FnOnce() -> io::Result<bool>) {
        self.try_it(name, control, Expect::Works, || match fact() {
            Ok(true) => Ok(()),
            Ok(false) => Err(io::Error::from_raw_os_error(libc::EPERM)),
            Err(error) => Err(error),
        });
    }
}

/// One wrong answer as a sentence.
#[must_use]
pub fn sentence(check: &Check) -> String {
    let errno = nix::errno::Errno::from_raw(check.errno);
    match (check.must_fail, check.errno) {
        (true, 0) => format!("{}: `{}` works, and must not", check.control, check.name),
        (true, _) => format!("{}: `{}` is refused for the wrong reason ({errno})", check.control, check.name),
        (false, _) => format!("{}: `{}` must work, and fails ({errno})", check.control, check.name),
    }
}

/// What the probe has to know to judge the answers.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    pub(crate) plan: &'a CagePlan,
    pub(crate) confinement: &'a Confinement,
    /// Where paths of the host are bind-mounted.
    pub(crate) shown: &'a [PathBuf],
    /// What is writable of these, of the workspace and of `/etc`.
    pub(crate) writable: &'a [PathBuf],
    /// The heart's namespaces.
    pub(crate) outside: &'a Namespaces,
}

/// Why there is no proof.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The probe could not be confined as an agent must be: which step, and why.
    Unconfined(String),
    /// It could not be run, or died.
    System(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Name of an abstract socket that only the probe looks for; no process in one of our Landlock domains can
/// reach it.
const ABSTRACT_WITNESS: &str = "cofferdam-landlock-witness";

/// A probe at work; killed and reaped when dropped.
pub(crate) struct Running {
    child: Standby,
    /// The abstract socket that the probe must not reach. Closed with the proof, so that agents find nothing
    /// there.
    _witness: UnixListener,
}

/// Forks the probe. Called by init only.
///
/// # Errors
/// The kernel's.
pub(crate) fn start(scene: &Scene<'_>) -> io::Result<Running> {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(ABSTRACT_WITNESS)?;
    let witness = UnixListener::bind_addr(&address)?;
    let work = |kept: &[i32]| postcard::to_allocvec(&probe(scene, kept)).unwrap_or_default();
    Ok(Running { child: Standby::start(scene.confinement, Some(&work))?, _witness: witness })
}

impl Running {
    /// Waits for the probe's answers, and serves its connects and the supervisor meanwhile.
    ///
    /// # Errors
    /// See [`Fault`].
    pub(crate) fn finish(
        self,
        connects: &mut Connects,
        mut early: Early<'_, '_>,
    ) -> Result<(Vec<Check>, Standby), Fault> {
        let deadline = Instant::now() + DEADLINE;
        let work = loop {
            let mut list = vec![self.child.poll(), early.poll()];
            list.extend(connects.polls());
            let left = deadline.saturating_duration_since(Instant::now()).as_millis();
            if sys::fd::poll_all(&mut list, i32::try_from(left).unwrap_or(i32::MAX))? == 0 {
                return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT).into());
            }
            let Some((ours, calls)) = list.split_first_chunk() else { continue };
            connects.serve(calls);
            let [said, asked] = ours.map(|fd| fd.revents);
            if asked != 0 {
                early.serve();
            }
            if said == 0 {
                continue;
            }
            match self.child.hear(deadline)? {
                Said::Listener(listener) => connects.listen(listener, None),
                Said::Work(work) => break work,
                Said::Failed(failed) => return Err(Fault::Unconfined(sentence_of(&failed))),
                // The probe was told no program yet, so it can't have executed one.
                Said::End | Said::NotExecuted(_) => {
                    return Err(io::Error::other("the probe died over its work").into());
                }
            }
        };
        let (mut checks, inode) = postcard::from_bytes::<Answers>(&work)
            .map_err(|_| io::Error::other("the probe's answers can't be read"))?;
        checks.push(told_of_connects(connects.process(inode) == Some(self.child.pid())));
        Ok((checks, self.child))
    }
}

fn sentence_of(FailedStep { step, errno }: &FailedStep) -> String {
    match errno {
        0 => step.clone(),
        errno => format!("{step}: {}", io::Error::from_raw_os_error(*errno)),
    }
}

/// Returns the one check whose answer init itself knows.
fn told_of_connects(told: bool) -> Check {
    Check {
        name: "init is told who connects".to_owned(),
        control: Control::ConnectNotify,
        must_fail: false,
        errno: if told { 0 } else { libc::ENOENT },
        right: told,
    }
}

fn probe(scene: &Scene<'_>, kept: &[i32]) -> Answers {
    let mut probe = Probe { checks: Vec::with_capacity(128), connected: 0 };
    identity::check(&mut probe, scene, kept);
    files::check(&mut probe, scene);
    mounts::check(&mut probe, scene);
    calls::check(&mut probe, scene);
    network::check(&mut probe, scene);
    (probe.checks, probe.connected)
}
