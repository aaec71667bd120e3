//! Why a caller is not identified, and the denial that this becomes.

use policy::{Denial, Layer};

use crate::caller::Unjudged;

use super::diag::DiagError;
use super::digest::HashError;
use super::identify::{IDENTIFY_DEADLINE, MAX_HOLDERS, ROUNDS};
use super::pins::{Changed, MAX_PINS};
use super::processes::HoldersError;

/// Why the process behind a connection is not identified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unidentified {
    /// The kernel could not be asked for the socket.
    #[error("the connection's socket can't be looked up: {0}")]
    Diag(#[from] DiagError),
    /// The processes that hold the socket could not be determined.
    #[error("{0}")]
    Holders(#[from] HoldersError),
    /// The kernel knows no such socket in the sandbox: closed already.
    #[error("the connection's socket is gone")]
    NoSocket,
    /// No process holds the socket: its holder exited, or passed it on within a message not yet received.
    #[error("no process holds the connection's socket")]
    NoHolder,
    /// More than [`MAX_HOLDERS`].
    #[error("more than {MAX_HOLDERS} processes hold the connection's socket")]
    TooManyHolders,
    /// Two programs share the socket.
    #[error("`{first}` and `{other}` share the connection's socket, or were started by different programs")]
    DifferentHolders {
        /// Path of the oldest holder's executable.
        first: String,
        /// Path of the one that differs.
        other: String,
    },
    /// The connection was made by another process, or by a program that has executed this one since.
    #[error("`{path}` did not make the connection that it holds")]
    NotItsMaker {
        /// Path of the oldest holder's executable.
        path: String,
    },
    /// No connect(2) of the socket was seen, or two processes have connected it.
    #[error("nobody saw `{path}` make the connection that it holds")]
    UnknownMaker {
        /// Path of the oldest holder's executable.
        path: String,
    },
    /// The executable has no trustworthy path.
    #[error("the executable `{path}` was deleted or replaced while it runs, or never was a file")]
    Deleted {
        /// What the link read.
        path: String,
    },
    /// The file could not be hashed.
    #[error("`{path}` can't be hashed: {why}")]
    Hash {
        /// Path of the executable.
        path: String,
        /// Why not.
        why: HashError,
    },
    /// The content differs from that of the first use. Worth an event of its own: an upgrade, or an attack.
    #[error(
        "`{}` is not the file it was when first used (was sha256 {}, is {})",
        .changed.path, hex::encode(.changed.first), hex::encode(.changed.now)
    )]
    Changed {
        /// The file, and what it was and is.
        changed: Box<Changed>,
        /// Path of the oldest holder's executable: the file, or what it started.
        path: String,
    },
    /// [`MAX_PINS`] executables are remembered already.
    #[error("more than {MAX_PINS} different executables have asked for the network")]
    PinsFull,
    /// The holders changed each time they were looked at.
    #[error(
        "the processes that hold the connection's socket changed {ROUNDS} times while they were looked at"
    )]
    Unsettled,
    /// [`IDENTIFY_DEADLINE`] passed.
    #[error("the caller was not identified within {} s", IDENTIFY_DEADLINE.as_secs())]
    TimedOut,
}

impl Unidentified {
    /// What the operator or the agent can do.
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Changed { changed, .. } => {
                return Some(format!(
                    "if the program was upgraded on purpose, the operator accepts it: `cofferdam identity accept NAME {}`",
                    changed.path
                ));
            }
            Self::PinsFull => "the operator makes room: `cofferdam identity forget NAME PATH`",
            Self::Deleted { .. } => "restart the program, so that it runs the file that is at its path",
            Self::NotItsMaker { .. } => "a connection may not be lent; open it in the program that uses it",
            Self::DifferentHolders { .. } => {
                "a connection may not be shared between programs; open one in the program that uses it"
            }
            Self::UnknownMaker { .. }
            | Self::Diag(_)
            | Self::Holders(_)
            | Self::Unsettled
            | Self::TimedOut => "try again",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl From<Unidentified> for Unjudged {
    fn from(why: Unidentified) -> Self {
        use Unidentified as U;
        match &why {
            U::NotItsMaker { path } | U::Changed { path, .. } => {
                Self::Named { program: path.as_str().into(), denial: why.into() }
            }
            // The link of a deleted file gives no path that could be reported as the program's.
            U::DifferentHolders { .. } | U::Deleted { .. } => Self::Another(why.into()),
            U::Diag(_)
            | U::Holders(_)
            | U::NoSocket
            | U::NoHolder
            | U::TooManyHolders
            | U::UnknownMaker { .. }
            | U::Hash { .. }
            | U::PinsFull
            | U::Unsettled
            | U::TimedOut => Self::Untold(why.into()),
        }
    }
}

impl From<Unidentified> for Denial {
    fn from(why: Unidentified) -> Self {
        Self { layer: Layer::Identity, hint: why.hint(), detail: why.to_string(), policy: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_that_is_not_what_it_was_is_told_by_its_path() {
        let changed = Box::new(Changed { path: "/bin/sh".into(), first: [1; 32], now: [2; 32] });
        let path = "/usr/bin/curl".to_owned();
        let unjudged = Unjudged::from(Unidentified::Changed { changed, path: path.clone() });
        assert_eq!(unjudged.program().map(|path| &**path), Some("/usr/bin/curl"));
        let lent = Unjudged::from(Unidentified::NotItsMaker { path });
        assert!(lent.program().is_some());
        let deleted = Unjudged::from(Unidentified::Deleted { path: "/memfd:x (deleted)".to_owned() });
        assert_eq!(deleted.program(), None);
    }
}
