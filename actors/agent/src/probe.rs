//! The proof: before the agent's first instruction a child runs in its place, under exactly its confinement, tries what
//! must fail and what must work, and reports each answer.
//!
//! The checks are a list of names and closures; each stands for one control and says what answer is right. No sleeps,
//! no files left behind, nothing outside touched: what is tried would be harmless if it worked. It runs in about a
//! millisecond. Calls that end the process (other architectures, x32) aren't tried but judged by the loaded program.
//!
//! Every control has at least one check that notices when it is left out; `tests/cage/proof.rs` leaves out each.

mod calls;
mod files;
mod identity;
mod mounts;
mod network;

use crate::init::{Confinement, Connects, Early, enter_session, receive_listener};
use crate::isolation::namespaces::Namespaces;
use crate::plan::{CagePlan, Control};
use crate::protocol::Check;
use crate::sys;
use crate::sys::process::Cloned;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A probe that takes longer hangs, and the cage isn't proven.
const DEADLINE: Duration = Duration::from_secs(5);

/// What answer is right.
#[derive(Clone, Copy)]
enum Expect {
    /// Any error.
    Fails,
    /// This very error, where another one would mean that something else said no.
    FailsWith(i32),
    /// No error.
    Works,
}

/// Collects answers.
struct Probe {
    checks: Vec<Check>,
    /// The inode of a socket that it connected, for init to say whether it was told.
    connected: u64,
}

/// What a probe sends.
type Answers = Result<(Vec<Check>, u64), String>;

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

/// What the probe has to know to tell right from wrong.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    pub(crate) plan: &'a CagePlan,
    pub(crate) confinement: &'a Confinement,
    /// Where something of the host is bound.
    pub(crate) shown: &'a [PathBuf],
    /// What of it, of the workspace and of `/etc` is writable.
    pub(crate) writable: &'a [PathBuf],
    /// The heart's.
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

/// A name that only the probe looks for; nobody who is in a domain of ours reaches it.
const ABSTRACT_WITNESS: &str = "cofferdam-landlock-witness";

/// A probe at work; killed and reaped when dropped.
pub(crate) struct Running {
    pid: i32,
    /// What it says.
    answers: OwnedFd,
    /// Where it hands its filter's listener over.
    hand: OwnedFd,
    /// The abstract socket that it must not reach; gone with the probe, so that agents find nothing there.
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
    let (read, write) = sys::fd::pipe()?;
    let (ours, theirs) = sys::socket::seqpacket_pair()?;
    match sys::process::clone(0)? {
        Cloned::Child => {
            drop((read, ours));
            let answer = probe(scene, write.as_raw_fd(), theirs);
            let bytes = postcard::to_allocvec(&answer).unwrap_or_default();
            let _ = sys::fd::write_all(write.as_fd(), &bytes);
            sys::process::exit_now(0)
        }
        Cloned::Parent { pid, .. } => Ok(Running { pid, answers: read, hand: ours, _witness: witness }),
    }
}

impl Running {
    /// Waits for its answers; the supervisor is served meanwhile.
    ///
    /// # Errors
    /// See [`Fault`].
    pub(crate) fn finish(
        self,
        asks: bool,
        connects: &mut Connects,
        early: Early<'_, '_>,
    ) -> Result<Vec<Check>, Fault> {
        let (mut checks, inode) = collect([&self.answers, &self.hand], asks, connects, early)?;
        checks.push(told_of_connects(connects.process(inode) == Some(self.pid)));
        Ok(checks)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = sys::signals::kill(self.pid, false, libc::SIGKILL);
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(self.pid), None);
    }
}

/// The one check whose answer init itself has.
fn told_of_connects(told: bool) -> Check {
    Check {
        name: "init is told who connects".to_owned(),
        control: Control::ConnectNotify,
        must_fail: false,
        errno: if told { 0 } else { libc::ENOENT },
        right: told,
    }
}

/// The probe's answers; its connects and the supervisor are served meanwhile.
fn collect(
    [pipe, from_probe]: [&OwnedFd; 2],
    asks: bool,
    connects: &mut Connects,
    mut early: Early<'_, '_>,
) -> Result<(Vec<Check>, u64), Fault> {
    let mut bytes = Vec::new();
    let mut chunk = [0_u8; 4096];
    let deadline = Instant::now() + DEADLINE;
    let mut listening = !asks;
    loop {
        let poll = |fd: &OwnedFd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut list = vec![poll(pipe), early.poll()];
        list.extend(connects.polls());
        if !listening {
            list.push(poll(from_probe));
        }
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        if sys::fd::poll_all(&mut list, i32::try_from(left).unwrap_or(i32::MAX))? == 0 {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT).into());
        }
        let (ours, calls) = list.split_at(2);
        connects.serve(calls);
        let [answer, asked] = [ours[0].revents, ours[1].revents];
        if asked != 0 {
            early.serve();
        }
        if !listening && calls.last().is_some_and(|hand| hand.revents != 0) {
            listening = true;
            // A probe that could not load its filter says so in its answer.
            if let Ok(listener) = receive_listener(from_probe.as_fd()) {
                connects.listen(listener);
            }
        }
        if answer == 0 {
            continue;
        }
        match sys::fd::read(pipe.as_fd(), &mut chunk)? {
            0 => break,
            length => bytes.extend(chunk.get(..length).unwrap_or_default()),
        }
    }
    postcard::from_bytes::<Answers>(&bytes)
        .map_err(|_| Fault::System(io::Error::other("the probe died over its work")))?
        .map_err(Fault::Unconfined)
}

fn probe(scene: &Scene<'_>, report: i32, to_init: OwnedFd) -> Answers {
    let failed = |(step, error): (&str, io::Error)| format!("{step}: {error}");
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|error| failed(("opening /dev/null", error)))?;
    let keep: Vec<i32> = scene.confinement.descriptors().into_iter().chain([report]).collect();
    let until_confined: Vec<i32> = keep.iter().copied().chain([to_init.as_raw_fd()]).collect();
    enter_session(scene.confinement, &until_confined, |_| null.as_fd()).map_err(failed)?;
    // Its number is closed already.
    std::mem::forget(null);
    scene.confinement.apply(to_init.as_fd()).map_err(failed)?;
    drop(to_init);
    let mut probe = Probe { checks: Vec::with_capacity(128), connected: 0 };
    identity::check(&mut probe, scene, &keep);
    files::check(&mut probe, scene);
    mounts::check(&mut probe, scene);
    calls::check(&mut probe, scene);
    network::check(&mut probe, scene);
    Ok((probe.checks, probe.connected))
}
