//! The messages between cofferdam's processes, and nothing else.
//!
//! ```text
//! supervisor ──ToInit──▶ init      requests with an id; one FromInit::Reply each
//! supervisor ◀─FromInit─ init      replies, and events (an agent process ended)
//! heart ──ToSupervisor──▶ supervisor    descriptors kept for it, signals to pass on
//! heart ◀──ToHeart── supervisor         descriptors to keep, readiness, the end
//! heart ◀─FromBuilder─ builder          another cage, or what is left of one (`building`)
//! heart ──ToBuilder──▶ builder          what became of it
//! ```
//! The channel to init outlives supervisors: a new one ignores replies to ids it never used, and asks
//! [`Request::List`] for what runs. Every type here is bounded by [`crate::wire::MAX_BODY`]; what can be
//! larger (argv, environment, a bundle) comes as a sealed memory file among the packet's descriptors.

mod beginning;
mod building;
mod cage;
mod heart;
mod holders;

pub use beginning::{Beginning, DEATHS_MAX, Death, Moved, News};
pub use building::{FromBuilder, ToBuilder};
pub use cage::{CageFailure, CageReport, Check, Missing};
pub use heart::{MAX_SLOT_NAME, MAX_SLOTS, Slot, ToHeart, ToSupervisor};
pub use holders::{Connector, Holder, Identity, MAX_ANCESTORS, MAX_HOLDERS};

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Tells replies apart. Chosen by the asker; a new supervisor starts at a random place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// An agent process, as init numbers them: never used twice in the life of a sandbox, unlike a pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId(pub u64);

impl std::fmt::Display for ProcessId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A packet to init.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToInit {
    /// Comes back in the reply.
    pub id: RequestId,
    /// What is asked.
    pub request: Request,
}

/// A request to init.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Asks how the cage came out. → [`Answer::Report`], or [`Refusal::Cage`] when it could not be built.
    Report,
    /// Starts an agent process. Descriptor 0: sealed memory file of a [`SpawnSpec`]; then, for
    /// [`Stdio::Given`], the child's 0, 1 and 2. → [`Answer::Spawned`], with the pty's master for
    /// [`Stdio::Pty`].
    Spawn {
        /// The agent's name; each may have one running process.
        agent: String,
        /// Its standard streams.
        stdio: Stdio,
    },
    /// Sends a signal to a whole process group. → [`Answer::Done`] (also when its leader has just exited).
    Signal {
        /// The process that leads the group.
        process: ProcessId,
        /// The signal's number.
        signo: i32,
    },
    /// Every process of the table. → [`Answer::Processes`].
    List,
    /// Drops an exited process from the table. → [`Answer::Done`].
    Forget {
        /// The process.
        process: ProcessId,
    },
    /// Notes that the end of an exited process was reported; its row stays, for the next supervisor. →
    /// [`Answer::Done`].
    NoteEnd {
        /// The process.
        process: ProcessId,
    },
    /// Adds a row for an agent that ran, and ended, in the cage before this one; its end counts as reported.
    /// Does nothing where this init knows the agent already. → [`Answer::Done`].
    Remember {
        /// The agent's name.
        agent: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// A TCP listener inside the sandbox; the same address again gives the same listener. →
    /// [`Answer::Descriptor`].
    ListenTcp {
        /// The address to listen at.
        address: SocketAddr,
    },
    /// A listener for connections to any address of the world at this port; the same port again gives the
    /// same listener. → [`Answer::Descriptor`].
    Capture {
        /// The port.
        port: u16,
    },
    /// Stops all such listeners but these, whoever holds a descriptor of one: connections to other ports are
    /// refused again. → [`Answer::Done`].
    CaptureOnly {
        /// The ports whose listeners stay.
        ports: Vec<u16>,
    },
    /// A packet socket that receives what the kernel refuses behind the gate: RSTs to SYNs, and ICMP's "port
    /// unreachable", each from its network header on. The same socket every time. → [`Answer::Descriptor`].
    Refusals,
    /// A bound UDP socket inside the sandbox (for DNS); the same address again gives the same socket.
    /// → [`Answer::Descriptor`].
    BindUdp {
        /// The address to bind.
        address: SocketAddr,
    },
    /// A `NETLINK_SOCK_DIAG` socket of the sandbox's network namespace. → [`Answer::Descriptor`].
    Diag,
    /// Connects to a TCP port of the loopback inside (forwards, health checks). → [`Answer::Descriptor`], of
    /// a non-blocking socket that may still be connecting.
    ConnectTcp {
        /// The address; must be a loopback address.
        address: SocketAddr,
    },
    /// Every process that holds a socket. → [`Answer::Holders`], whose executables are the reply's
    /// descriptors.
    Holders {
        /// The socket's inode.
        inode: u64,
        /// Look through their memory maps too (costs tens of microseconds more).
        mappings: bool,
        /// Say who made the connection too. For the first look at a connection, within a minute of its
        /// connect(2).
        connector: bool,
    },
    /// Opens a file of the run directory for writing in place; makes it if it isn't there. →
    /// [`Answer::Descriptor`].
    RunFile {
        /// A plain name.
        name: String,
    },
    /// Kills what an ended agent left behind: processes that no longer descend from a running one of the
    /// table and were born as this agent's, or, where init's own limits leave no room for that mark, whose
    /// environment holds its [`crate::environment::AGENT_VARIABLE`]. → [`Answer::Done`] when none is left;
    /// else, until another search has found none, each start of this agent is refused, too:
    /// [`Refusal::Survivors`].
    KillStrays {
        /// The agent's name.
        agent: String,
    },
}

/// The standard streams of a new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// Three descriptors come with the request.
    Given,
    /// A terminal made inside the sandbox; its master comes with the answer.
    Pty {
        /// Lines.
        rows: u16,
        /// Columns.
        columns: u16,
    },
}

/// What to run. At times too large for a packet, so it is sent in a memory file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnSpec {
    /// The program and its arguments; the program is looked up in `PATH` unless it holds a slash.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value`, the whole environment.
    pub env: Vec<Vec<u8>>,
    /// Working directory inside.
    pub cwd: Vec<u8>,
}

/// Most bytes of an encoded [`SpawnSpec`]: as many as Linux itself accepts for arguments and environment by
/// default.
pub const MAX_SPAWN_SPEC: u64 = 2 << 20;
/// Processes in the table, running or exited and not yet forgotten.
pub const MAX_PROCESSES: usize = 128;
/// Bytes of an agent's name.
pub const MAX_AGENT_NAME: usize = 64;

/// A packet from init.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromInit {
    /// The answer to a request.
    Reply {
        /// The request's id.
        to: RequestId,
        /// What came of it.
        result: Result<Answer, Refusal>,
    },
    /// Something happened.
    Event(Event),
}

/// A fulfilled request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// The request was carried out; there is nothing else to say.
    Done,
    /// See [`Request::Report`].
    Report(CageReport),
    /// A process runs.
    Spawned(ProcessRecord),
    /// See [`Request::List`].
    Processes(Vec<ProcessRecord>),
    /// The reply's descriptor 0 is what was asked for.
    Descriptor,
    /// See [`Request::Holders`].
    Holders {
        /// Every process that holds it.
        holders: Vec<Holder>,
        /// Who made the connection, if that was asked.
        connector: Option<Connector>,
    },
}

/// Why init did not do it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The cage could not be built, so nothing ever runs in it.
    #[error("{0}")]
    Cage(CageFailure),
    /// The kernel refused to execute the program: the reason lies in the program.
    #[error("can't run the program: exec: {}", errno_text(*errno))]
    Exec {
        /// The kernel's reason.
        errno: i32,
    },
    /// A step on the way to its execution failed.
    #[error("can't run the program: {step}: {}", errno_text(*errno))]
    BeforeExec {
        /// The step in words: `chdir`, `landlock`, …
        step: String,
        /// The kernel's reason.
        errno: i32,
    },
    /// This agent already runs.
    #[error("agent already runs as process {0}")]
    AlreadyRunning(ProcessId),
    /// No such process in the table.
    #[error("no process {0}")]
    UnknownProcess(ProcessId),
    /// It still runs.
    #[error("process {0} still runs")]
    StillRunning(ProcessId),
    /// The table, or a bound of a look-up, is full.
    #[error("too many {0}")]
    TooMany(String),
    /// All processes together have more descriptors open than one look goes through.
    #[error("more than {descriptors} descriptors are open in the sandbox, too many to look through")]
    Flooded {
        /// The limit that was exceeded.
        descriptors: usize,
    },
    /// Looks at this agent's programs have taken so long that others would have to wait for another.
    #[error("identifying this agent's programs has taken too much time recently")]
    Indebted,
    /// A process that had to be looked at could not be read.
    #[error("process {pid} can't be identified: {why}")]
    Unreadable {
        /// Its pid inside.
        pid: i32,
        /// What failed.
        why: String,
    },
    /// There are processes of an earlier start, or there may be: a search is under way, or has left some
    /// behind.
    #[error("processes that an earlier start left behind could not all be ended")]
    Survivors,
    /// The request makes no sense (a fault of the asker).
    #[error("bad request: {0}")]
    Invalid(String),
    /// A system call failed.
    #[error("{what}: {}", errno_text(*errno))]
    System {
        /// What was tried.
        what: String,
        /// The kernel's reason.
        errno: i32,
    },
}

impl Refusal {
    /// The exit code a shell would give: 127 not found, 126 not executable, 125 anything else.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exec { errno } => match *errno {
                libc::ENOENT | libc::ENOTDIR => 127,
                libc::EACCES
                | libc::ENOEXEC
                | libc::EPERM
                | libc::EISDIR
                | libc::ELOOP
                | libc::ENAMETOOLONG => 126,
                _ => 125,
            },
            _ => 125,
        }
    }
}

/// A row of init's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// The process's number in init's table.
    pub process: ProcessId,
    /// The agent's name.
    pub agent: String,
    /// Its pid inside the sandbox.
    pub pid: i32,
    /// Clock ticks after boot at which it started (proc_pid_stat(5), field 22).
    pub start_time: u64,
    /// Whether it has a terminal.
    pub pty: bool,
    /// Running, or how it ended.
    pub state: ProcessState,
    /// Whether its end was reported: a supervisor that finds this set doesn't report it again.
    pub noted: bool,
}

/// Running, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcessState {
    /// It runs.
    Running,
    /// It ended. Its row stays until its agent is started again, or the row is not needed any more.
    Exited(ExitStatus),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl ExitStatus {
    /// The code a shell gives: 128+n for signal n.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signo) => 128_i32.saturating_add(signo),
        }
    }

    /// Code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl From<std::process::ExitStatus> for ExitStatus {
    fn from(status: std::process::ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        // A child that has ended has either a code or a signal.
        status.code().map_or_else(|| Self::Signal(status.signal().unwrap_or_default()), Self::Code)
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signo) => write!(f, "signal {signo}"),
        }
    }
}

/// Something that happened inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A process ended. Sent to the present supervisor; a later one sees it in [`Request::List`].
    Exited {
        /// The process.
        process: ProcessId,
        /// The agent's name.
        agent: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// Init has ended a process of an agent that had so many descriptors open that no connection could be
    /// attributed any more: other agents' connections would have been refused for it.
    Flooded {
        /// Its agent; empty where the process has hidden that, or the agent is no longer remembered.
        agent: String,
        /// Its pid inside.
        pid: i32,
        /// How many it had open.
        descriptors: usize,
    },
}

/// Returns the kernel's reason as the end of a sentence.
fn because(errno: i32) -> String {
    if errno == 0 { String::new() } else { format!(": {}", errno_text(errno)) }
}

/// `strerror` without its locale.
fn errno_text(errno: i32) -> String {
    nix::errno::Errno::from_raw(errno).desc().to_owned()
}
