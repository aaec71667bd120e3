//! What is recorded. Plain data: every text field may hold hostile bytes and is redacted, bounded and escaped
//! on its way into the log, never before.

use serde::{Deserialize, Serialize};

use super::approval::Approval;

/// A text in a record: short ones are stored inline, and one that many records have is shared among them.
pub type Text = smol_str::SmolStr;

/// Returns a SHA-256 as records show it, in hex, without an allocation for each digit.
#[must_use]
pub fn in_hex(digest: &[u8; 32]) -> Text {
    let mut digits = [0; 64];
    // Can't fail: the buffer has the right length.
    let _ = hex::encode_to_slice(digest, &mut digits);
    std::str::from_utf8(&digits).unwrap_or_default().into()
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A decision about a connection or request, or its outcome.
    Egress(Box<Egress>),
    /// A model request through the gateway.
    Inference(Box<Inference>),
    /// A policy was loaded or refused.
    Policy {
        /// The generation in force afterwards.
        generation: u64,
        /// The result.
        result: PolicyResult,
        /// SHA-256 of the policy text, in hex.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sha256: Option<Text>,
        /// Why it was refused, or what changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<Text>,
    },
    /// One of cofferdam's own parts failed or came back.
    Actor {
        /// Its path in the tree.
        name: Text,
        /// What happened.
        change: ActorChange,
        /// How it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Text>,
        /// Restarts so far.
        restarts: u64,
    },
    /// Something happened to an agent process.
    Agent {
        /// The agent's name.
        name: Text,
        /// What happened.
        change: AgentChange,
        /// Process id inside the sandbox.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
        /// Exit code, 128 + n for signal n.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<i32>,
        /// More, such as the command.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<Text>,
    },
    /// A control that the kernel does not enforce here, under `enforcement: best-effort`.
    ControlMissing {
        /// The control.
        control: Text,
        /// What it would need.
        detail: Text,
    },
    /// An operator gave a command.
    Operator {
        /// The command, such as `stop` or `policy set`.
        action: Text,
        /// The peer's user id on the control socket.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        /// The command's arguments, or other details.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<Text>,
    },
    /// A binary's identity was pinned, changed, accepted or forgotten.
    Identity {
        /// Its path.
        path: Text,
        /// What happened.
        change: IdentityChange,
        /// SHA-256 before, in hex.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        was: Option<Text>,
        /// SHA-256 now, in hex.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        is: Option<Text>,
    },
    /// A request waits for the operator's answer, or the answer came.
    Approval(Box<Approval>),
    /// The sandbox started or stopped.
    Sandbox {
        /// What happened.
        change: SandboxChange,
        /// The sandbox's name.
        name: Text,
        /// cofferdam's version.
        version: Text,
        /// More: mode, profile, reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<Text>,
    },
    /// The log about itself: what was repaired, pruned or found wrong.
    Log(Note),
}

impl Event {
    /// Whether another record usually follows at once: after an agent's end comes the sandbox's end or the
    /// agent's next start.
    pub(crate) fn is_followed(&self) -> bool {
        matches!(self, Self::Agent { change: AgentChange::Exited | AgentChange::Stopped, .. })
    }

    /// Calls `visit` with every text of the event, which it may change. Every field of every kind is named
    /// here, so that a field added later doesn't compile until it is handled.
    pub(crate) fn each_text(&mut self, visit: &mut dyn FnMut(&mut Text)) {
        match self {
            Self::Egress(egress) => egress.each_text(visit),
            Self::Inference(inference) => inference.each_text(visit),
            Self::Policy { generation: _, result: _, sha256, detail } => {
                [sha256, detail].into_iter().flatten().for_each(visit);
            }
            Self::Actor { name, change: _, failure, restarts: _ } => {
                [name].into_iter().chain(failure).for_each(visit);
            }
            Self::Agent { name, change: _, pid: _, code: _, detail } => {
                [name].into_iter().chain(detail).for_each(visit);
            }
            Self::ControlMissing { control, detail } => [control, detail].into_iter().for_each(visit),
            Self::Operator { action, uid: _, detail } => [action].into_iter().chain(detail).for_each(visit),
            Self::Identity { path, change: _, was, is } => {
                [path].into_iter().chain(was).chain(is).for_each(visit);
            }
            Self::Approval(approval) => approval.each_text(visit),
            Self::Sandbox { change: _, name, version, detail } => {
                [name, version].into_iter().chain(detail).for_each(visit);
            }
            Self::Log(note) => note.each_text(visit),
        }
    }
}

/// A decision about outgoing traffic, or its outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Egress {
    /// Whether this is the decision or the outcome.
    pub phase: Phase,
    /// The verdict.
    pub verdict: Verdict,
    /// The layer that decided: `l4`, `l7`, `identity`, `ssrf`, `inference`, `budget`, `dns`.
    pub layer: Text,
    /// The canonical host.
    pub host: Text,
    /// The port.
    pub port: u16,
    /// The HTTP method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Text>,
    /// The canonical path, without its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Text>,
    /// The caller's executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary: Option<Text>,
    /// Its SHA-256, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Text>,
    /// The policy entry that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Text>,
    /// The rule in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Text>,
    /// Names of the credentials that were put in the place of their placeholders.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Text>,
    /// The policy generation that decided.
    pub generation: u64,
    /// The id that the caller saw, too.
    pub request_id: Text,
    /// Why, for a denial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Text>,
    /// The HTTP status sent to the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Bytes from the sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_up: Option<u64>,
    /// Bytes into the sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_down: Option<u64>,
    /// From decision to end, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

impl Egress {
    fn each_text(&mut self, visit: &mut dyn FnMut(&mut Text)) {
        let Self {
            phase: _,
            verdict: _,
            layer,
            host,
            port: _,
            method,
            path,
            binary,
            sha256,
            policy,
            rule,
            credentials,
            generation: _,
            request_id,
            detail,
            status: _,
            bytes_up: _,
            bytes_down: _,
            duration_ms: _,
        } = self;
        let optional = [method, path, binary, sha256, policy, rule, detail].into_iter().flatten();
        [layer, host, request_id].into_iter().chain(optional).chain(credentials).for_each(visit);
    }
}

/// A model request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inference {
    /// The verdict.
    pub verdict: Verdict,
    /// The provider, as named in the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<Text>,
    /// The model asked for.
    pub model: Text,
    /// The model sent upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_model: Option<Text>,
    /// The caller's executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary: Option<Text>,
    /// Its SHA-256, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Text>,
    /// The id that the caller saw, too.
    pub request_id: Text,
    /// The status sent to the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Tokens of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Tokens of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Whether it was streamed.
    pub streamed: bool,
    /// In milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Why, for a refusal or failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Text>,
    /// The layer that refused: `inference`, or `budget`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<Text>,
}

impl Inference {
    fn each_text(&mut self, visit: &mut dyn FnMut(&mut Text)) {
        let Self {
            verdict: _,
            provider,
            model,
            upstream_model,
            binary,
            sha256,
            request_id,
            code: _,
            input_tokens: _,
            output_tokens: _,
            streamed: _,
            duration_ms: _,
            detail,
            layer,
        } = self;
        let optional = [provider, upstream_model, binary, sha256, detail, layer].into_iter().flatten();
        [model, request_id].into_iter().chain(optional).for_each(visit);
    }
}

/// Decision or outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Recorded before anything is dialled.
    #[default]
    Decided,
    /// Recorded when the connection or request ended.
    Finished,
}

/// A verdict. The default is the safe one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Let through.
    Allowed,
    /// Refused.
    #[default]
    Denied,
    /// Let through although a rule refuses it, because the endpoint says `enforcement: audit`.
    Audited,
    /// Accepted inside the sandbox, with nothing resolved or dialled, so that the operator can be asked about
    /// each request in it.
    Asked,
}

impl Verdict {
    /// The name in the log and in metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Audited => "audited",
            Self::Asked => "asked",
        }
    }
}

/// The result of loading a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyResult {
    /// In force.
    Loaded,
    /// Refused; the last good one stays in force.
    Rejected,
    /// The same as before.
    Unchanged,
}

impl PolicyResult {
    /// The name in the log and in metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Rejected => "rejected",
            Self::Unchanged => "unchanged",
        }
    }
}

/// What happened to a part of cofferdam.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorChange {
    /// It failed.
    Failed,
    /// It is back.
    Restarted,
    /// It failed more often than its intensity allows.
    GaveUp,
    /// The supervisor process was started anew.
    SupervisorRestarted,
}

/// What happened to an agent process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentChange {
    /// It runs.
    Started,
    /// It no longer answers its health check, and is ended for that.
    Silent,
    /// One of its processes had so many descriptors open that other agents were kept from the network, and
    /// was ended.
    Curbed,
    /// It ended by itself.
    Exited,
    /// It was stopped.
    Stopped,
    /// It is started again.
    Restarting,
    /// A new supervisor found it running.
    Adopted,
    /// It could not be started.
    Failed,
}

/// What happened to a binary's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityChange {
    /// First use: this hash is the valid one from now on.
    Pinned,
    /// The hash differs from the one at first use: denied.
    Changed,
    /// An operator accepted the new hash.
    Accepted,
    /// An operator had the hash forgotten: the next use counts as the first.
    Forgotten,
}

/// What happened to the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxChange {
    /// It runs.
    Started,
    /// It ended.
    Stopped,
}

/// What the log says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "note", rename_all = "snake_case")]
pub enum Note {
    /// A crash left an unfinished line at the end, which was cut off.
    Truncated {
        /// The line's length in bytes.
        bytes: u64,
        /// SHA-256 of the bytes cut off, in hex.
        sha256: Text,
    },
    /// The end of the log is not what its head file says was written: records are missing or were changed.
    Damaged {
        /// What the head file says.
        expected_seq: u64,
        /// The last good record found.
        found_seq: u64,
    },
    /// Old files were deleted to stay within the limit.
    Pruned {
        /// Number of the last record that was deleted.
        through_seq: u64,
        /// Its hash, in hex: the next record still names it. Empty if that can't be read.
        hash: Text,
        /// Whether the next record couldn't be read, so that the number is only taken from its file's name.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unread: bool,
    },
}

impl Note {
    fn each_text(&mut self, visit: &mut dyn FnMut(&mut Text)) {
        match self {
            Self::Truncated { bytes: _, sha256 } => visit(sha256),
            Self::Damaged { expected_seq: _, found_seq: _ } => {}
            Self::Pruned { through_seq: _, hash, unread: _ } => visit(hash),
        }
    }
}

/// One of each kind that has texts, with `text` in every one of them.
#[cfg(test)]
pub(super) fn samples(text: &str) -> Vec<Event> {
    let (own, some) = (|| Text::new(text), || Some(Text::new(text)));
    vec![
        Event::Egress(Box::new(Egress {
            layer: own(),
            host: own(),
            method: some(),
            path: some(),
            binary: some(),
            sha256: some(),
            policy: some(),
            rule: some(),
            credentials: vec![own(), own()],
            request_id: own(),
            detail: some(),
            ..Egress::default()
        })),
        Event::Inference(Box::new(Inference {
            provider: some(),
            model: own(),
            upstream_model: some(),
            binary: some(),
            sha256: some(),
            request_id: own(),
            detail: some(),
            ..Inference::default()
        })),
        Event::Policy { generation: 1, result: PolicyResult::Loaded, sha256: some(), detail: some() },
        Event::Actor { name: own(), change: ActorChange::Failed, failure: some(), restarts: 1 },
        Event::Agent { name: own(), change: AgentChange::Started, pid: None, code: None, detail: some() },
        Event::ControlMissing { control: own(), detail: own() },
        Event::Operator { action: own(), uid: None, detail: some() },
        Event::Identity { path: own(), change: IdentityChange::Pinned, was: some(), is: some() },
        Event::Approval(Box::new(Approval::sample(text))),
        Event::Sandbox { change: SandboxChange::Started, name: own(), version: own(), detail: some() },
        Event::Log(Note::Truncated { bytes: 1, sha256: own() }),
        Event::Log(Note::Pruned { through_seq: 1, hash: own(), unread: true }),
    ]
}
