//! Why something ended, as data: how a child can fail, and the errors that this crate returns.
//!
//! Nothing here holds a live value of an actor. A failure is only text and numbers, so that keeping one (in
//! the tree, in a report) can never keep the failed actor's state alive.

use serde::{Deserialize, Serialize};

/// Longest text kept of a panic or an error, in bytes. Such texts can quote what a peer sent.
pub const MESSAGE_LIMIT: usize = 1024;

/// How a child failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Failure {
    /// A callback panicked or returned an error (ractor does not tell the two apart).
    #[error("{message}")]
    Failed {
        /// The panic's or error's text, cut at [`MESSAGE_LIMIT`], control characters escaped.
        message: String,
    },
    /// The actor got the kill signal.
    #[error("killed")]
    Killed,
    /// The actor's task was aborted from outside.
    #[error("its task was cancelled")]
    Cancelled,
    /// A permanent child ended by itself, in good order: for a permanent child that is a failure.
    #[error("ended by itself ({})", .reason.as_deref().unwrap_or("no reason given"))]
    Ended {
        /// The reason given to `stop`, if any.
        reason: Option<String>,
    },
    /// The child could not be constructed, or its `pre_start` failed.
    #[error("could not start: {message}")]
    Start {
        /// The panic's or error's text, cut at [`MESSAGE_LIMIT`], control characters escaped.
        message: String,
    },
    /// The child was not ready in time.
    #[error("was not ready within {deadline_ms} ms")]
    StartTimedOut {
        /// The child's start deadline in milliseconds.
        deadline_ms: u64,
    },
    /// The child dropped its readiness token without saying that it was ready.
    #[error("dropped its readiness token")]
    NotReady,
    /// A nested supervisor gave up because one of its children failed beyond its limit.
    #[error("`{child}` failed beyond its limit: {failure}")]
    Escalated {
        /// Name of the child below.
        child: String,
        /// What that child did.
        failure: Box<Failure>,
    },
}

impl Failure {
    /// A failure of a callback, its text made safe to keep and print.
    pub(crate) fn failed(message: impl std::fmt::Display) -> Self {
        Self::Failed { message: printable(&message.to_string()) }
    }

    /// A failure to start, its text made safe to keep and print.
    pub(crate) fn start(message: impl std::fmt::Display) -> Self {
        Self::Start { message: printable(&message.to_string()) }
    }

    /// Returns the text of a panic's payload.
    pub(crate) fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
        payload
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_else(|| "panicked with a value that is not text".to_owned())
    }
}

/// Cuts a text at [`MESSAGE_LIMIT`] and escapes control characters, which could move a terminal's cursor.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MESSAGE_LIMIT));
    for c in text.chars() {
        if out.len() >= MESSAGE_LIMIT {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// How one incarnation of a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It was asked to stop, or stopped itself, and did so in good order.
    Normal {
        /// The reason given to `stop`.
        reason: Option<String>,
    },
    /// It failed.
    Failed(Failure),
}

/// How a whole tree ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Somebody asked it to stop.
    Stopped,
    /// A child failed beyond its limit; everything else was stopped in reverse order first.
    Escalated {
        /// Name of the child of the root.
        child: String,
        /// What it did.
        failure: Failure,
    },
}

/// Why a tree did not start. Whatever had started was stopped again, in reverse order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The specification contradicts itself; nothing was started.
    #[error("the specification of `{at}` is not usable: {why}")]
    Invalid {
        /// Path of the faulty entry.
        at: String,
        /// What is wrong with it.
        why: String,
    },
    /// A child did not start.
    #[error("`{child}` did not start: {failure}")]
    Child {
        /// Name of the child.
        child: String,
        /// What it did.
        failure: Failure,
    },
    /// The tree was stopped, or failed, while it was starting.
    #[error("stopped while starting")]
    Stopped,
}

/// Why a command to a running tree was refused. A refused command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// No such child.
    #[error("there is no `{path}` in the tree")]
    Unknown {
        /// The path asked for.
        path: String,
    },
    /// The path leads through an actor, which has no children of its own.
    #[error("`{path}` is an actor, not a supervisor")]
    NotASupervisor {
        /// The path of the actor.
        path: String,
    },
    /// The supervisor already has a child of that name.
    #[error("there is a child named `{name}` already")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// The specification contradicts itself.
    #[error("the specification of `{at}` is not usable: {why}")]
    Invalid {
        /// Path of the faulty entry.
        at: String,
        /// What is wrong with it.
        why: String,
    },
    /// The child did not start. A child that was added is removed again; for one that was restarted its own
    /// policy decides.
    #[error("`{child}` did not start: {failure}")]
    Start {
        /// Name of the child.
        child: String,
        /// What it did.
        failure: Failure,
    },
    /// The child was removed, or its supervisor stopped, before the command was done.
    #[error("`{child}` was stopped before that was done")]
    Overtaken {
        /// Name of the child.
        child: String,
    },
    /// The supervisor on the path is not up (it is starting, in backoff, or stopping): try again later.
    #[error("the supervisor `{path}` is not up at the moment")]
    NotUp {
        /// Path of the supervisor; empty for the root.
        path: String,
    },
    /// The tree has ended.
    #[error("the tree has ended")]
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_bounded_and_cannot_move_a_cursor() {
        let Failure::Failed { message } = Failure::failed(format!("a\x1b[2Jb\n{}", "x".repeat(5000))) else {
            panic!("wrong kind")
        };
        assert!(message.len() <= MESSAGE_LIMIT + '…'.len_utf8());
        assert!(message.starts_with("a\\u{1b}[2Jb\\n"));
        assert!(!message.chars().any(char::is_control));
    }

    #[test]
    fn a_failure_reads_as_a_sentence_and_survives_json() {
        let failure =
            Failure::Escalated { child: "proxy".into(), failure: Box::new(Failure::Ended { reason: None }) };
        assert_eq!(failure.to_string(), "`proxy` failed beyond its limit: ended by itself (no reason given)");
        let json = serde_json::to_string(&failure).unwrap();
        assert_eq!(serde_json::from_str::<Failure>(&json).unwrap(), failure);
    }
}
