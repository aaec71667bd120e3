//! A child under an agent's whole confinement that has yet to be told its program. Every process that init
//! starts begins as one.
//!
//! ```text
//!   init                                   child
//!   clone ──────────────────────────────▶  session, descriptors, confinement
//!         ◀──── 'l', its filter's listener
//!         ◀──── 'w', what its work came to    (only the first has any: it proves the cage)
//!   'x', birthmark, program, streams ───▶  birthmark worn, streams in place, chdir, exec
//!         ◀──── the end: it has executed
//!         ◀──── 'n', errno: the kernel would not execute it │ and it
//!         ◀──── 'e', errno and step: it did not get so far  │ is gone
//! ```
//! The first stands by from the proof until somebody wants a process, while nothing else runs in the sandbox
//! that could touch it; each later one is told its program at once. Both end up under the very same controls:
//! `tests/cage/later.rs` compares them.

use super::birthmark::Birthmark;
use super::confine::{Confinement, StepError};
use super::spawn::Program;
use crate::isolation::terminal;
use crate::own;
use crate::plan::Control;
use crate::sys;
use crate::sys::fd::Stream;
use crate::sys::process::Cloned;
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Bytes of a message at most; the proof's is some ten thousand long.
const MAX_MESSAGE: usize = 64 << 10;
const LISTENER: u8 = b'l';
const WORK: u8 = b'w';
const EXECUTE: u8 = b'x';
const NOT_EXECUTED: u8 = b'n';
const FAILED: u8 = b'e';

/// Work that a child does before it is told its program. Its argument: the descriptors, by number, that the
/// child keeps until then.
pub(crate) type Work<'a> = &'a dyn Fn(&[i32]) -> Vec<u8>;

/// A message from a child.
pub(crate) enum Said {
    /// Its filter's listener.
    Listener(OwnedFd),
    /// The result of its work.
    Work(Vec<u8>),
    /// Why it could not get to its program. It is gone.
    Failed(Failed),
    /// Why the kernel would not execute its program. It is gone.
    NotExecuted(i32),
    /// It has executed its program, or died.
    End,
}

/// Why a child comes to its end.
enum Stuck {
    /// At a step before the last.
    Step(StepError),
    /// At the program's execution.
    Exec(io::Error),
}

impl From<StepError> for Stuck {
    fn from(failed: StepError) -> Self {
        Self::Step(failed)
    }
}

/// A step that failed in the child.
pub(crate) struct Failed {
    pub(crate) step: String,
    /// 0 if it was no system call.
    pub(crate) errno: i32,
}

/// A child that stands by. It is killed and reaped when dropped.
pub(crate) struct Standby {
    pid: i32,
    pidfd: OwnedFd,
    line: OwnedFd,
    /// Whether the child is ours to kill and reap: it is not reaped yet, and nobody else will do it.
    ours: bool,
}

/// What a child is told: its agent's birthmark, if processes can be marked; its program; and its streams,
/// three or a terminal in place of all.
pub(crate) struct Part<'a> {
    pub(crate) birthmark: Option<Birthmark>,
    pub(crate) program: BorrowedFd<'a>,
    pub(crate) streams: Vec<BorrowedFd<'a>>,
}

impl Standby {
    /// Forks one. Called by init only.
    ///
    /// # Errors
    /// The kernel's; what fails in the child is [`Said::Failed`].
    pub(crate) fn start(confinement: &Confinement, work: Option<Work<'_>>) -> io::Result<Self> {
        let (ours, theirs) = sys::socket::seqpacket_pair()?;
        match sys::process::clone(0)? {
            Cloned::Child => {
                drop(ours);
                let stuck = match live(confinement, theirs.as_fd(), work) {
                    Err(stuck) => stuck,
                    Ok(never) => match never {},
                };
                report(theirs.as_fd(), &stuck);
                sys::process::exit_now(125)
            }
            Cloned::Parent { pid, pidfd } => Ok(Self { pid, pidfd, line: ours, ours: true }),
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether the child still waits: it says nothing while it does.
    pub(crate) fn is_there(&self) -> bool {
        sys::fd::wait(self.line.as_fd(), sys::fd::Ready::Readable, Some(Duration::ZERO))
            .is_ok_and(|said| !said)
    }

    /// Returns what to poll for before [`Standby::hear`].
    pub(crate) fn poll(&self) -> libc::pollfd {
        libc::pollfd { fd: self.line.as_raw_fd(), events: libc::POLLIN, revents: 0 }
    }

    /// Waits for the child's next message, but not beyond `until`.
    ///
    /// # Errors
    /// The kernel's; `EBADMSG` for an unknown message, and `ETIMEDOUT` for silence.
    pub(crate) fn hear(&self, until: Instant) -> io::Result<Said> {
        let left = until.saturating_duration_since(Instant::now());
        if !sys::fd::wait(self.line.as_fd(), sys::fd::Ready::Readable, Some(left))? {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
        self.next()
    }

    /// Returns the child's next message, if there is one already.
    ///
    /// # Errors
    /// As [`Standby::hear`].
    pub(crate) fn hear_now(&self) -> io::Result<Option<Said>> {
        let said = sys::fd::wait(self.line.as_fd(), sys::fd::Ready::Readable, Some(Duration::ZERO))?;
        said.then(|| self.next()).transpose()
    }

    fn next(&self) -> io::Result<Said> {
        let mut message = Vec::with_capacity(MAX_MESSAGE);
        let mut receive = || sys::socket::receive::<1>(self.line.as_fd(), &mut message);
        let received = match receive() {
            // The child ended without reading all that it was sent, which the kernel reports once, and first.
            // What the child said before is still there.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => receive()?,
            received => received?,
        };
        let unknown = || io::Error::from_raw_os_error(libc::EBADMSG);
        let Some((kind, rest)) = message.split_first() else { return Ok(Said::End) };
        match (*kind, received.fds.into_iter().next(), received.truncated) {
            (LISTENER, Some(listener), false) => Ok(Said::Listener(listener)),
            (WORK, None, false) => Ok(Said::Work(rest.to_vec())),
            (FAILED, None, false) => {
                let (errno, step) = rest.split_first_chunk::<4>().ok_or_else(unknown)?;
                let step = String::from_utf8_lossy(step).into_owned();
                Ok(Said::Failed(Failed { step, errno: i32::from_le_bytes(*errno) }))
            }
            (NOT_EXECUTED, None, false) => {
                Ok(Said::NotExecuted(i32::from_le_bytes(rest.try_into().map_err(|_| unknown())?)))
            }
            _ => Err(unknown()),
        }
    }

    /// Tells the child to execute a program; [`Said::End`] tells that it did. Returns whether it could be
    /// told: a child that is gone has said why.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn tell(&self, part: &Part<'_>) -> io::Result<bool> {
        let fds: Vec<_> = std::iter::once(part.program).chain(part.streams.iter().copied()).collect();
        let mut message = vec![EXECUTE];
        message.extend(part.birthmark.into_iter().flat_map(Birthmark::to_bytes));
        match sys::socket::send(self.line.as_fd(), &message, &fds) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            sent => sent.map(|()| true),
        }
    }

    /// Returns the pid of a child that executes its program, and leaves reaping it to the caller.
    pub(crate) fn into_pid(mut self) -> i32 {
        self.ours = false;
        self.pid
    }

    /// Kills the child without waiting for its death, and leaves reaping it to the caller.
    pub(crate) fn give_up(mut self) {
        if std::mem::take(&mut self.ours) {
            let _ = sys::signals::send(self.pidfd.as_fd(), libc::SIGKILL);
        }
    }

    /// Notes that the child was reaped elsewhere.
    pub(crate) fn note_reaped(&mut self) {
        self.ours = false;
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        if self.ours {
            let _ = sys::signals::send(self.pidfd.as_fd(), libc::SIGKILL);
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(self.pid), None);
        }
    }
}

/// Sends init, over `line`, the listener of a confined child's filter.
pub(super) fn hand_listener(line: BorrowedFd<'_>, listener: BorrowedFd<'_>) -> io::Result<()> {
    sys::socket::send(line, &[LISTENER], &[listener])
}

fn report(line: BorrowedFd<'_>, stuck: &Stuck) {
    let (kind, errno, step) = match stuck {
        Stuck::Exec(error) => (NOT_EXECUTED, error.raw_os_error().unwrap_or(libc::EINVAL), String::new()),
        Stuck::Step((step, error)) => match error.raw_os_error() {
            Some(errno) => (FAILED, errno, (*step).to_owned()),
            None => (FAILED, 0, format!("{step}: {error}")),
        },
    };
    let message = [&[kind], &errno.to_le_bytes()[..], step.as_bytes()].concat();
    let _ = sys::socket::send(line, &message, &[]);
}

/// The child's whole life before exec; returns only on failure.
fn live(
    confinement: &Confinement,
    line: BorrowedFd<'_>,
    work: Option<Work<'_>>,
) -> Result<Infallible, Stuck> {
    let kept: Vec<i32> = confinement.descriptors().into_iter().chain([line.as_raw_fd()]).collect();
    enter_session(confinement, &kept)?;
    confinement.apply(line)?;
    if let Some(work) = work {
        let message = [&[WORK], &work(&kept)[..]].concat();
        sys::socket::send(line, &message, &[]).map_err(|e| ("telling of the work", e))?;
        // Not before the work: what the proof tries must fail by the agent's own controls.
        own::settle_as_inits_child().map_err(|e| ("init's own filter", e))?;
    }
    let program = take_part(line)?;
    std::env::set_current_dir(program.cwd()).map_err(|e| ("entering its working directory", e))?;
    Err(Stuck::Exec(program.execute()))
}

/// Enters a session of its own, resets signals, points the streams to `/dev/null`, and closes everything else
/// but `keep`.
#[expect(unsafe_code, reason = "a fresh child closes what isn't its own")]
fn enter_session(confinement: &Confinement, keep: &[i32]) -> Result<(), StepError> {
    let at = |step: &'static str| move |error: io::Error| (step, error);
    if !confinement.skips(Control::Session) {
        nix::unistd::setsid().map_err(|e| ("setsid", e.into()))?;
    }
    sys::signals::reset().map_err(at("signals"))?;
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(at("opening /dev/null"))?;
    for stream in Stream::ALL {
        sys::fd::become_stream(null.as_fd(), stream).map_err(at("streams"))?;
    }
    drop(null);
    if !confinement.skips(Control::Descriptors) {
        // SAFETY: what the child owns is kept; all else belongs to copies of init's values, in frames to
        // which it never returns.
        unsafe { sys::fd::close_all_but(keep) }.map_err(at("descriptors"))?;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    Ok(())
}

/// Waits for the program, puts on its agent's birthmark, and puts its streams in place.
fn take_part(line: BorrowedFd<'_>) -> Result<Program, StepError> {
    let at = |step: &'static str| move |error: io::Error| (step, error);
    sys::fd::wait(line, sys::fd::Ready::Readable, None).map_err(at("waiting for a program"))?;
    let mut message = Vec::with_capacity(17);
    let received = sys::socket::receive::<4>(line, &mut message).map_err(at("waiting for a program"))?;
    let mut fds = received.fds.into_iter();
    let Some(program) = fds.next() else { return Err(("init", io::Error::other("it is gone"))) };
    if received.descriptors_cut || !matches!(fds.len(), 1 | 3) {
        return Err(("streams", io::Error::from_raw_os_error(libc::EMFILE)));
    }
    if let (17, Some((_, mark))) = (received.length, message.split_last_chunk()) {
        Birthmark::from_bytes(mark).wear().map_err(at("birthmark"))?;
    }
    let program = Program::read(program.as_fd())
        .map_err(|why| ("the program", io::Error::new(io::ErrorKind::InvalidData, why)))?;
    let streams: Vec<OwnedFd> = fds.collect();
    let terminal = streams.len() == 1;
    for (at_last, stream) in Stream::ALL.into_iter().zip(streams.iter().cycle()) {
        sys::fd::become_stream(stream.as_fd(), at_last).map_err(at("streams"))?;
    }
    if terminal {
        terminal::control(io::stdin().as_fd()).map_err(at("terminal"))?;
    }
    Ok(program)
}
