//! What is known of a sandbox, as plain data: each is one answer of its control socket, in words for people.

use crate::text::Text;

/// How something is to be looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Refused, failed.
    Bad,
    /// To be looked at.
    Warn,
    /// Nothing to be said of it.
    #[default]
    Plain,
}

/// A sandbox that can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name, to be given back.
    pub name: String,
    /// What else is known: state, agents, uptime, policy.
    pub about: Vec<Text>,
}

/// The sandbox's condition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// Its state in a word.
    pub state: Text,
    /// Of that state.
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
    /// Of that state.
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
    /// Of that state.
    pub tone: Tone,
    /// How long it has been up.
    pub up: Text,
    /// How often it was restarted.
    pub restarts: Text,
    /// Why it last failed; empty if it never did.
    pub failure: Text,
}

/// Where a question stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// So many requests are held for the answer.
    Held,
    /// Nobody waits any more; it can still be answered.
    Waiting,
    /// It may go, so far.
    Approved(Answer),
    /// It may not.
    Denied,
}

impl Standing {
    /// Whether the operator's word is still wanted.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Held | Self::Waiting)
    }

    /// Those that somebody waits for first, those that are answered last.
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
    /// Its id, to be given back.
    pub id: String,
    /// Where it stands.
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
            // That nobody waits any more changes nothing.
            let standing = if standing.is_open() { Standing::Held } else { standing };
            (id, standing, host, port, method, path, program, sha256, generation)
        };
        of(self) == of(there)
    }
}

/// What an operator says of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// One request may go.
    Once,
    /// It may go until the sandbox ends.
    Run,
    /// It may go in later runs, too.
    Good,
    /// It may not go.
    Deny,
    /// What was answered is taken back.
    Revoke,
}

/// Something that happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Happening {
    /// The time of day.
    pub at: Text,
    /// How it is to be looked at.
    pub tone: Tone,
    /// What it is, in a word: `denied`, `actor`.
    pub word: Text,
    /// The rest, on one line.
    pub what: Text,
    /// All that is on record of it, by name.
    pub record: Vec<(Text, Text)>,
}

/// A figure, by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figure {
    /// What is counted.
    pub name: Text,
    /// How many.
    pub value: Text,
    /// How it is to be looked at.
    pub tone: Tone,
}
