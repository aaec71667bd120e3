//! Commands to a running tree, and how they find their supervisor.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use crate::{ChildSpec, ControlError};

/// Commands that may be queued at one supervisor. At the root further callers wait; at others their commands
/// are refused as `NotUp`.
pub(crate) const COMMANDS_WAITING: usize = 64;

pub(crate) struct Command {
    /// The whole path, for error messages.
    pub(crate) path: String,
    /// The part of the path below the supervisor that holds the command.
    pub(crate) rest: VecDeque<String>,
    pub(crate) op: Op,
    pub(crate) reply: oneshot::Sender<Result<(), ControlError>>,
}

pub(crate) enum Op {
    /// Add a child to the supervisor at the path.
    Add(Box<ChildSpec>),
    /// Stop the child at the path and take it out of the table.
    Remove,
    /// Restart the child at the path.
    Restart,
}

impl Command {
    pub(crate) fn new(path: &str, op: Op) -> (Self, oneshot::Receiver<Result<(), ControlError>>) {
        let (reply, answer) = oneshot::channel();
        let rest = path.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        (Self { path: path.to_owned(), rest, op, reply }, answer)
    }
}
