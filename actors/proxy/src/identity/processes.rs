//! The question "which processes hold this socket?", answered by a component that sees the sandbox's `/proc`.
//!
//! A trait at this crate's edge: the binary wires it to the sandbox's init, tests answer from tables.

use std::os::fd::OwnedFd;

use futures_util::future::BoxFuture;
use policy::Party;

/// Answers who holds a socket.
pub trait Processes: Send + Sync {
    /// Every process with an open descriptor of the socket with this inode, at this moment.
    ///
    /// Anything that can't be read must be an error or be reported as such in the [`Holder`], never be left
    /// out: a holder that is not reported is not judged.
    fn holders(&self, socket_inode: u64) -> BoxFuture<'_, Result<Vec<Holder>, HoldersError>>;

    /// As [`Self::holders`], and whether one of them made the connection. For the first look at a connection,
    /// soon after it was made.
    fn holders_and_maker(
        &self,
        socket_inode: u64,
    ) -> BoxFuture<'_, Result<(Vec<Holder>, Maker), HoldersError>>;
}

/// Which process made a connection, as it was noted at its connect(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// One of the holders, which has executed no other program since; with the party that it belongs to.
    Holds(Party),
    /// None of the holders, or one that has executed a program since.
    Another,
    /// Its maker was not observed.
    Unknown,
    /// Makers are not recorded in this sandbox, which the operator has chosen to accept.
    Unwatched,
}

/// A process that holds the socket.
#[derive(Debug)]
pub struct Holder {
    /// Process id inside the sandbox.
    pub pid: i32,
    /// Start time in clock ticks since boot (field 22 of `/proc/PID/stat`, proc_pid_stat(5)): with the pid it
    /// tells one process from a later one that got the same pid.
    pub start_time: u64,
    /// What it runs.
    pub exe: ExecutableFile,
    /// Whether an executable mapping other than `exe` lies on a writable mount, is deleted or is a memfd:
    /// code that the executable's hash doesn't cover (`LD_PRELOAD` and its like).
    pub foreign_code: bool,
    /// The executables of its parent, grandparent and so on, nearest first, ending below the sandbox's init.
    /// Always complete: if some can't be read, that is an error.
    pub ancestors: Vec<ExecutableFile>,
}

/// An executable, opened through `/proc/PID/exe`.
#[derive(Debug)]
pub struct ExecutableFile {
    /// Its path inside the sandbox, as the link reads.
    pub path: String,
    /// The very file that runs, opened for reading through the link (never by path).
    pub file: OwnedFd,
    /// Whether the path no longer leads to this file: deleted, replaced by another inode, or a memfd, which
    /// never had a path.
    pub deleted: bool,
}

/// Why the holders can't be determined. Every kind leads to a denial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HoldersError {
    /// The component that answers is restarting or gone.
    #[error("the sandbox's process table can't be asked: {0}")]
    Unavailable(String),
    /// A process could not be read.
    #[error("a process that may hold the socket can't be read: {0}")]
    Unreadable(String),
    /// More holders than can be reported.
    #[error("too many processes hold the socket")]
    TooMany,
}
