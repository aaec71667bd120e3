//! Who holds a socket, and who connected it: the basis on which the proxy identifies programs.

use serde::{Deserialize, Serialize};

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The process itself.
    pub process: Identity,
    /// Whether it has code that is neither its program's nor the system's (something was preloaded or
    /// injected): an executable mapping, other than the program itself, that is deleted, a memory file, on a
    /// writable mount or of no file; or a page of a file's code that was written over. False when not asked
    /// for.
    pub foreign_code: bool,
    /// Its ancestors, parent first, up to init, which is left out.
    pub ancestors: Vec<Identity>,
}

/// Who made a connection, as noted at its connect(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Connector {
    /// Connects are not noted here: the control is missing ([`crate::control::Control::ConnectNotify`], best
    /// effort only).
    Unwatched,
    /// No note: the connection was made in a way that init doesn't see, or by two processes, or over a minute
    /// ago.
    Unknown,
    /// This process, which isn't among the holders, or has executed a program since.
    Another {
        /// Its pid inside.
        pid: i32,
    },
    /// This one of the holders, still in the same execution of its program.
    Holds {
        /// Its pid inside.
        pid: i32,
        /// Number of the agent that it belongs to, the same for all its processes. An agent of which none is
        /// left gets another one. 0: unknown.
        origin: u64,
    },
}

/// Who a process is: read twice by init, with the same result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its pid inside.
    pub pid: i32,
    /// Clock ticks after boot (with the pid: never the same twice).
    pub start_time: u64,
    /// The target of the link `/proc/PID/exe`, as seen inside. Untrusted when `deleted` or `memory`.
    pub exe_path: String,
    /// Which of the reply's descriptors is the opened executable.
    pub exe: u8,
    /// The file has no name any more.
    pub deleted: bool,
    /// It is a memory file.
    pub memory: bool,
}

/// Holders in one answer.
pub const MAX_HOLDERS: usize = 16;
/// Ancestors looked at; a longer chain is refused.
pub const MAX_ANCESTORS: usize = 24;
