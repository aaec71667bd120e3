//! Starting an agent process: what is to run, with which streams, and the child that runs it
//! ([`super::standby`]).

use super::birthmark::Birthmark;
use super::confine::Confinement;
use super::handouts::system;
use super::standby::{Part, Standby};
use super::starting::Starting;
use crate::isolation::terminal::{self, Terminal};
use crate::plan::AGENT_ID;
use crate::protocol::{MAX_SPAWN_SPEC, Refusal, SpawnSpec, Stdio};
use crate::sys;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The child's streams.
enum Streams {
    Given([OwnedFd; 3]),
    Terminal(Terminal),
}

impl Streams {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Given(three) => three.iter().map(AsFd::as_fd).collect(),
            Self::Terminal(terminal) => vec![terminal.agent.as_fd()],
        }
    }
}

/// Makes a confined child execute a program, without waiting until it does. The child is `standby`, if one
/// stands by, else a fresh one; `birthmark` marks it as its agent's.
pub(super) fn begin(
    confinement: &Confinement,
    standby: &mut Option<Standby>,
    birthmark: Option<Birthmark>,
    (stdio, fds): (Stdio, Vec<OwnedFd>),
) -> Result<Starting, Refusal> {
    let mut fds = fds.into_iter();
    let program = fds.next().ok_or_else(|| Refusal::Invalid("a spawn without its program".into()))?;
    // The child reads the program again, for itself. One that can't be read is reported here, before there is
    // a child.
    Program::read(program.as_fd()).map_err(Refusal::Invalid)?;
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
    // The listener of a child that stood by is served already.
    let (child, listens) = match standby.take() {
        Some(ready) if ready.is_there() => (ready, true),
        _ => (Standby::start(confinement, None).map_err(system("fork"))?, false),
    };
    // exec doesn't change the start time.
    let start_time = super::process::Stat::read(child.pid()).map(|stat| stat.start_time).unwrap_or(0);
    let part = Part { birthmark, program: program.as_fd(), streams: streams.descriptors() };
    let told = child.tell(&part).map_err(system("giving a child its program"))?;
    let masters = match streams {
        Streams::Terminal(Terminal { master, .. }) => {
            let copy = master.try_clone().map_err(system("dup"))?;
            Some([master, copy])
        }
        Streams::Given(_) => None,
    };
    Ok(Starting { child, told, watched: listens || !confinement.asks(), start_time, masters })
}

/// Makes the agent the owner of a pipe, so that it can open `/dev/stdout` again; anything else is left as it
/// is. This works only on pipes that the gateway made.
fn give_to_agent(stream: &OwnedFd) {
    let pipe =
        nix::sys::stat::fstat(stream).is_ok_and(|status| status.st_mode & libc::S_IFMT == libc::S_IFIFO);
    if pipe {
        let id = Some(AGENT_ID);
        let _ = nix::unistd::fchown(stream, id.map(Into::into), id.map(Into::into));
    }
}

/// A checked [`SpawnSpec`].
pub(super) struct Program {
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: PathBuf,
}

impl Program {
    /// Reads and checks the sealed file that the supervisor has written; the error says what is wrong with
    /// it.
    pub(super) fn read(spec: BorrowedFd<'_>) -> Result<Self, String> {
        let bytes = sys::memfd::read_sealed(spec, MAX_SPAWN_SPEC).map_err(|e| e.to_string())?;
        let spec: SpawnSpec = postcard::from_bytes(&bytes).map_err(|e| e.to_string())?;
        let strings = |list: Vec<Vec<u8>>| -> Result<Vec<CString>, String> {
            list.into_iter()
                .map(|s| CString::new(s).map_err(|_| "a NUL byte in an argument".to_owned()))
                .collect()
        };
        let argv = strings(spec.argv)?;
        if argv.first().is_none_or(|program| program.is_empty()) {
            return Err("no program to run".to_owned());
        }
        Ok(Self { argv, env: strings(spec.env)?, cwd: Path::new(OsStr::from_bytes(&spec.cwd)).to_owned() })
    }

    /// Returns the directory that it is to run in.
    pub(super) fn cwd(&self) -> &Path {
        &self.cwd
    }

    /// execve(2), through `PATH` for a bare name, as execvp(3) looks it up. Returns only on failure.
    pub(super) fn execute(&self) -> io::Error {
        let Some(name) = self.argv.first() else { return io::ErrorKind::InvalidInput.into() };
        if name.as_bytes().contains(&b'/') {
            return sys::process::exec(name, &self.argv, &self.env);
        }
        let path = self.env.iter().find_map(|v| v.as_bytes().strip_prefix(b"PATH=")).unwrap_or_default();
        let mut denied = None;
        for directory in path.split(|byte| *byte == b':').filter(|d| !d.is_empty()) {
            let Ok(full) = CString::new([directory, b"/", name.as_bytes()].concat()) else { continue };
            let error = sys::process::exec(&full, &self.argv, &self.env);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::EACCES) => denied = Some(error),
                _ => return error,
            }
        }
        denied.unwrap_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
    }
}
