//! What is known of a sandbox, as plain data: each type holds an answer of its control socket, in words for
//! people.

use crate::text::Text;

/// Whether something is good or bad; decides how it is coloured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Refused, failed.
    Bad,
    /// Needs attention.
    Warn,
    /// Neither good nor bad.
    #[default]
    Plain,
}

/// A sandbox that can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name, which is given back when it is chosen.
    pub name: String,
    /// What else is known: state, agents, uptime, policy.
    pub about: Vec<Text>,
}

/// The sandbox's condition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// Its state in a word.
    pub state: Text,
    /// The tone of that state.
    pub tone: Tone,
    /// How long it has been up.
    pub up: Text,
    /// The policy's generation.
    pub generation: u64,
    /// Controls that are missing.
    pub missing: Vec<Text>,
    /// Its agents.
    pub agents: Vec<Agent>,
}

/// An agent process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Agent {
    /// Its name.
    pub name: Text,
    /// Its state in a word.
    pub state: Text,
    /// The tone of that state.
    pub tone: Tone,
    /// How long the present process has run.
    pub up: Text,
    /// How often it was started again.
    pub restarts: u64,
    /// What else is known: process id, health, how it last ended.
    pub about: Text,
}

/// A node of the actor tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// Its name, with the lines that lead to it.
    pub name: Text,
    /// Its state in a word.
    pub state: Text,
    /// The tone of that state.
    pub tone: Tone,
    /// How long it has been up.
    pub up: Text,
    /// How often it was restarted.
    pub restarts: Text,
    /// Why it last failed; empty if it never did.
    pub failure: Text,
}

/// The state of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Requests are held for the answer.
    Held,
    /// No request waits any more; the question can still be answered.
    Waiting,
    /// Approved, to this extent.
    Approved(Answer),
    /// Denied.
    Denied,
}

impl Standing {
    /// Whether the operator's answer is still wanted.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Held | Self::Waiting)
    }

    /// Returns the rank in the list: questions with held requests first, answered ones last.
    pub(crate) fn rank(self) -> u8 {
        match self {
            Self::Held => 0,
            Self::Waiting => 1,
            Self::Approved(_) | Self::Denied => 2,
        }
    }
}

/// A request that no policy entry names, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its id, which is given back with an answer.
    pub id: String,
    /// Its state.
    pub standing: Standing,
    /// How many requests are held for it.
    pub held: u64,
    /// How often it was asked.
    pub asked: u64,
    /// The host.
    pub host: Text,
    /// The port.
    pub port: u16,
    /// The method.
    pub method: Text,
    /// The path, without a query.
    pub path: Text,
    /// The program.
    pub program: Text,
    /// What the program contains.
    pub sha256: Text,
    /// The policy's generation under which it was last asked.
    pub generation: u64,
}

impl Question {
    /// Whether both are the same question, however many requests wait for it by now: then an answer to one is
    /// an answer to the other.
    #[must_use]
    pub fn is_still(&self, there: &Self) -> bool {
        let of = |q: &Self| {
            let Self {
                id,
                standing,
                held: _,
                asked: _,
                host,
                port,
                method,
                path,
                program,
                sha256,
                generation,
            } = q.clone();
            // Whether a request still waits makes no difference.
            let standing = if standing.is_open() { Standing::Held } else { standing };
            (id, standing, host, port, method, path, program, sha256, generation)
        };
        of(self) == of(there)
    }
}

/// An operator's answer to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// Approve one request.
    Once,
    /// Approve until the sandbox ends.
    Run,
    /// Approve for good, in later runs too.
    Good,
    /// Deny.
    Deny,
    /// Revoke what was answered.
    Revoke,
}

/// Something that happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Happening {
    /// The time of day.
    pub at: Text,
    /// Its tone.
    pub tone: Tone,
    /// What it is, in a word: `denied`, `actor`.
    pub word: Text,
    /// The rest, on one line.
    pub what: Text,
    /// All fields of its record, by name.
    pub record: Vec<(Text, Text)>,
}

/// A figure, by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figure {
    /// What is counted.
    pub name: Text,
    /// How many.
    pub value: Text,
    /// Its tone.
    pub tone: Tone,
}
