//! Starting an agent process: fork, streams, confinement, exec, each failure reported with its step.

use super::confine::{Confinement, StepError, receive_listener};
use crate::isolation::terminal::{self, Terminal};
use crate::plan::{AGENT_ID, Control};
use crate::protocol::{MAX_SPAWN_SPEC, Refusal, SpawnSpec, Stdio};
use crate::sys;
use crate::sys::process::Cloned;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A started process.
pub(crate) struct Started {
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
    pub(crate) master: Option<OwnedFd>,
    /// Where its connects are asked about.
    pub(crate) listener: Option<OwnedFd>,
}

/// A checked [`SpawnSpec`].
struct Program {
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: std::path::PathBuf,
}

/// The child's streams.
enum Streams {
    Given([OwnedFd; 3]),
    Terminal(Terminal),
}

impl Streams {
    fn of(&self, number: usize) -> BorrowedFd<'_> {
        match (self, number) {
            (Self::Given([stdin, _, _]), 0) => stdin.as_fd(),
            (Self::Given([_, stdout, _]), 1) => stdout.as_fd(),
            (Self::Given([_, _, stderr]), _) => stderr.as_fd(),
            (Self::Terminal(terminal), _) => terminal.agent.as_fd(),
        }
    }
}

/// Starts a process under the confinement and waits until it has executed its program or failed to.
pub(crate) fn spawn(confinement: &Confinement, stdio: Stdio, fds: Vec<OwnedFd>) -> Result<Started, Refusal> {
    let mut fds = fds.into_iter();
    let spec = fds.next().ok_or_else(|| Refusal::Invalid("a spawn without its program".into()))?;
    let program = read_program(spec.as_fd())?;
    let streams = match stdio {
        Stdio::Given => match (fds.next(), fds.next(), fds.next()) {
            (Some(stdin), Some(stdout), Some(stderr)) => {
                give_to_agent(&stdout);
                give_to_agent(&stderr);
                Streams::Given([stdin, stdout, stderr])
            }
            _ => return Err(Refusal::Invalid("a spawn without its three streams".into())),
        },
        Stdio::Pty { rows, columns } => {
            Streams::Terminal(terminal::make(rows, columns).map_err(system("making a terminal"))?)
        }
    };
    let (read, write) = sys::fd::pipe().map_err(system("pipe"))?;
    let (ours, theirs) = sys::socket::seqpacket_pair().map_err(system("socketpair"))?;
    match sys::process::clone(0).map_err(system("fork"))? {
        Cloned::Child => {
            drop((read, ours));
            let (step, error) = run(confinement, &program, &streams, write.as_fd(), theirs.as_fd());
            report(write.as_fd(), step, &error);
            sys::process::exit_now(125)
        }
        Cloned::Parent { pid, .. } => {
            drop((write, theirs));
            await_exec(read.as_fd(), pid)?;
            let listener = match confinement.asks().then(|| receive_listener(ours.as_fd())).transpose() {
                Ok(listener) => listener,
                Err(error) => {
                    // Nobody would ever answer it.
                    let _ = sys::signals::kill(pid, false, libc::SIGKILL);
                    return Err(system("taking a child's seccomp listener")(error));
                }
            };
            let master = match streams {
                Streams::Terminal(terminal) => Some(terminal.master),
                Streams::Given(_) => None,
            };
            // Gone already, perhaps: then it is a zombie until we reap it, and its start time still reads.
            let start_time = super::process::Stat::read(pid).map(|stat| stat.start_time).unwrap_or(0);
            Ok(Started { pid, start_time, master, listener })
        }
    }
}

/// Makes a pipe the agent's, so that it can open `/dev/stdout` again; anything else is left as it is. Only pipes that
/// the gateway made let us.
fn give_to_agent(stream: &OwnedFd) {
    let pipe =
        nix::sys::stat::fstat(stream).is_ok_and(|status| status.st_mode & libc::S_IFMT == libc::S_IFIFO);
    if pipe {
        let id = Some(AGENT_ID);
        let _ = nix::unistd::fchown(stream, id.map(Into::into), id.map(Into::into));
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> Refusal {
    move |error| Refusal::System { what: what.into(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

fn read_program(spec: BorrowedFd<'_>) -> Result<Program, Refusal> {
    let invalid = |what: &str| Refusal::Invalid(what.to_owned());
    let bytes = sys::memfd::read_sealed(spec, MAX_SPAWN_SPEC).map_err(|e| Refusal::Invalid(e.to_string()))?;
    let spec: SpawnSpec = postcard::from_bytes(&bytes).map_err(|e| Refusal::Invalid(e.to_string()))?;
    let strings = |list: Vec<Vec<u8>>| -> Result<Vec<CString>, Refusal> {
        list.into_iter().map(|s| CString::new(s).map_err(|_| invalid("a NUL byte in an argument"))).collect()
    };
    let argv = strings(spec.argv)?;
    if argv.first().is_none_or(|program| program.is_empty()) {
        return Err(invalid("no program to run"));
    }
    Ok(Program { argv, env: strings(spec.env)?, cwd: Path::new(OsStr::from_bytes(&spec.cwd)).to_owned() })
}

/// The child's whole life before exec; returns only on failure.
fn run(
    confinement: &Confinement,
    program: &Program,
    streams: &Streams,
    report: BorrowedFd<'_>,
    to_init: BorrowedFd<'_>,
) -> StepError {
    match prepare(confinement, streams, report, to_init) {
        Err(failed) => failed,
        Ok(()) => match std::env::set_current_dir(&program.cwd) {
            Err(error) => ("chdir", error),
            Ok(()) => ("exec", execute(program)),
        },
    }
}

/// Own session, streams in place, everything else closed, then the confinement. Shared with the probe.
fn prepare(
    confinement: &Confinement,
    streams: &Streams,
    report: BorrowedFd<'_>,
    to_init: BorrowedFd<'_>,
) -> Result<(), StepError> {
    let mut keep = vec![report.as_raw_fd(), to_init.as_raw_fd()];
    keep.extend(confinement.descriptors());
    enter_session(confinement, &keep, |number| streams.of(number))?;
    if let Streams::Terminal(_) = streams {
        // By number: the original is closed by now.
        terminal::control(std::io::stdin().as_fd()).map_err(|e| ("terminal", e))?;
    }
    confinement.apply(to_init)
}

/// The part that the probe shares: session, signals, descriptors, umask.
pub(crate) fn enter_session<'fd>(
    confinement: &Confinement,
    keep: &[i32],
    stream: impl Fn(usize) -> BorrowedFd<'fd>,
) -> Result<(), StepError> {
    let at = |step: &'static str| move |error: io::Error| (step, error);
    if !confinement.skips(Control::Session) {
        nix::unistd::setsid().map_err(|e| ("setsid", e.into()))?;
    }
    sys::signals::reset().map_err(at("signals"))?;
    // Lifted first: a given stream may itself sit at 0, 1 or 2.
    let lifted: Vec<OwnedFd> = (0..3)
        .map(|number| sys::fd::duplicate_above(stream(number), 3))
        .collect::<io::Result<_>>()
        .map_err(at("streams"))?;
    for (number, fd) in (0..).zip(&lifted) {
        sys::fd::place_at(fd.as_fd(), number).map_err(at("streams"))?;
    }
    if !confinement.skips(Control::Descriptors) {
        sys::fd::close_from(3, keep).map_err(at("descriptors"))?;
    }
    // Their numbers are closed already.
    std::mem::forget(lifted);
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    Ok(())
}

/// execve(2), through `PATH` for a bare name, as execvp(3) looks it up.
fn execute(program: &Program) -> io::Error {
    let Some(name) = program.argv.first() else { return io::ErrorKind::InvalidInput.into() };
    if name.as_bytes().contains(&b'/') {
        return sys::process::exec(name, &program.argv, &program.env);
    }
    let path = program.env.iter().find_map(|v| v.as_bytes().strip_prefix(b"PATH=")).unwrap_or_default();
    let mut denied = None;
    for directory in path.split(|byte| *byte == b':').filter(|d| !d.is_empty()) {
        let Ok(full) = CString::new([directory, b"/", name.as_bytes()].concat()) else { continue };
        let error = sys::process::exec(&full, &program.argv, &program.env);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => denied = Some(error),
            _ => return error,
        }
    }
    denied.unwrap_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}

/// errno, then the step's name, for [`await_exec`]. Descriptors are still open to it after seccomp: write is allowed.
fn report(pipe: BorrowedFd<'_>, step: &str, error: &io::Error) {
    let (errno, step) = match error.raw_os_error() {
        Some(errno) => (errno, step.to_owned()),
        None => (libc::EPERM, format!("{step}: {error}")),
    };
    let mut message = errno.to_le_bytes().to_vec();
    message.extend(step.as_bytes());
    let _ = sys::fd::write_all(pipe, &message);
}

/// The end of file means that exec succeeded, since it closed the pipe.
fn await_exec(pipe: BorrowedFd<'_>, pid: i32) -> Result<(), Refusal> {
    let mut message = [0_u8; 512];
    let length = sys::fd::read(pipe, &mut message).map_err(system("waiting for a child"))?;
    let Some((errno, step)) = message.get(..length).and_then(<[u8]>::split_first_chunk::<4>) else {
        return Ok(());
    };
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
    Err(Refusal::Exec {
        stage: String::from_utf8_lossy(step).into_owned(),
        errno: i32::from_le_bytes(*errno),
    })
}
