//! The plan: everything that was decided before the first process of a sandbox was made.
//!
//! The command makes and checks it once. The heart, which the command becomes, has it in memory; each
//! supervisor reads it from a sealed memory file. It is never changed. It holds no secret: those are in a
//! sealed file of their own that only the supervisor opens.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use policy::{Destination, Diagnostics, Preset};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::config::upstream::UpstreamProxy;
use crate::config::{Forward, Health, Restart};
use crate::console::LogFormat;

/// Names of the descriptors that the heart keeps: some from the start, others sent by the supervisor at run
/// time.
pub mod slot {
    /// The sealed plan.
    pub const PLAN: &str = "plan";
    /// The sealed [`super::Secrets`].
    pub const SECRETS: &str = "secrets";
    /// The sandbox's state directory, opened.
    pub const STATE: &str = "state";
    /// The lock on the sandbox's name.
    pub const LOCK: &str = "lock";
    /// The listening control socket.
    pub const CONTROL: &str = "control";
    /// The listening metrics socket, where one is wanted.
    pub const METRICS: &str = "metrics";
    /// When the sandbox started, sealed.
    pub const STARTED: &str = "started";
    /// The supervisor's end of the channel to init.
    pub const INIT: &str = "init";
    /// The sealed certificate authority, once made.
    pub const AUTHORITY: &str = "authority";
    /// The sealed list of programs and their content at first use.
    pub const PINS: &str = "pins";
    /// The sealed counts of agents' guesses at credentials.
    pub const GUESSES: &str = "guesses";
    /// The file that maps names to addresses inside. It is written as names are looked up.
    pub const NAMES: &str = "names";
    /// The sealed text of the policy in force, once it differs from the plan's.
    pub const POLICY: &str = "policy";
    /// The last generation's number, and what the policy's file last held: the part of the policy's state
    /// that outlives a cage.
    pub const GENERATION: &str = "generation";
    /// The sealed list of agents that were over when another cage was built, and how they ended.
    pub const ENDED: &str = "ended";
    /// The sealed list of the processes that were stopped for another cage, by their numbers in the cage that
    /// was to be left.
    pub const STOPPED: &str = "stopped";
    /// The sealed list of events that are being recorded, with their record ids. It is released once they are
    /// on disk.
    pub const NEWS: &str = "news";
    /// Listening forwards: `forward:0`, `forward:1`…, in the plan's order.
    pub const FORWARD: &str = "forward:";
    /// The read ends of agents' output: `out:AGENT:STREAM:PID-START`. For a terminal also its master and the
    /// journal's write end, each with a suffix.
    pub const OUTPUT: &str = "out:";
}

/// A whole plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The sandbox's name.
    pub name: String,
    /// The state directory's path, for messages only: it is reached by descriptor.
    pub state: PathBuf,
    /// Foreground or service: what the heart's standard streams are for.
    pub mode: Mode,
    /// The cage.
    pub cage: agent::plan::CagePlan,
    /// The policy to begin with.
    pub policy: PolicySource,
    /// What the policy's file held when the sandbox started.
    pub policy_seen: policy::Seen,
    /// How many cages of this sandbox were built before this plan's.
    pub cages_before: u32,
    /// The agents to start with.
    pub agents: Vec<AgentPlan>,
    /// Providers and routes of `inference.local`.
    pub inference: Option<gateway::config::Inference>,
    /// The credentials that placeholders stand for, by reference, and where each may go.
    pub credentials: proxy::credentials::Section,
    /// How long a request that no policy entry names waits for the operator's answer. `None`: it is refused
    /// at once.
    pub approvals: Option<Duration>,
    /// Ports of this machine that lead inside.
    pub forwards: Vec<Forward>,
    /// Additional root certificates for upstream servers, PEM.
    pub upstream_ca: Option<String>,
    /// Certificates for upstream servers that demand one.
    pub client_certs: Vec<PlannedCert>,
    /// The proxy through which everything goes.
    pub upstream_proxy: Option<UpstreamProxy>,
    /// The operator's `SSL_CERT_FILE`, if set.
    pub system_roots: Option<PathBuf>,
    /// The socket on which systemd wants to be told that we are ready (sd_notify(3)), if any.
    pub notify_socket: Option<String>,
    /// Whether `crash` is allowed.
    pub fault_injection: bool,
    /// Whether to print nothing but errors.
    pub quiet: bool,
    /// The format of our own messages.
    pub log_format: LogFormat,
    /// Whether the times of its steps are wanted.
    pub timings: bool,
}

/// A client certificate that is presented to one upstream server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlannedCert {
    /// The server that it is presented to.
    pub to: Destination,
    /// PEM, the certificate first.
    pub chain: String,
    /// The reference of its key.
    pub key: String,
}

/// What the heart's standard streams are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// `run`: they are the one agent's.
    Foreground {
        /// The agent has a terminal of its own, and the operator's is in raw mode meanwhile.
        tty: bool,
    },
    /// `up`: messages only.
    Service,
}

/// Where the policy comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PolicySource {
    /// What messages call it: a path, or `profile locked-down`.
    pub name: String,
    /// Its text, presets not included.
    pub text: String,
    /// The file to watch, if it is one.
    pub watch: Option<PathBuf>,
    /// Presets to add, at every load.
    pub presets: Vec<PresetSource>,
}

/// A preset, read once and for all: the supervisor may not be able to read its file, and presets aren't
/// watched.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PresetSource {
    /// What messages call it: a built-in one's name, or a file's path.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Its path, if it is a file that another start would read again.
    pub file: Option<PathBuf>,
}

impl PresetSource {
    /// Parses the preset into entries, with warnings about what is risky in them.
    ///
    /// # Errors
    /// Everything that is wrong with its text.
    pub fn preset(&self) -> Result<(Preset, Diagnostics), Diagnostics> {
        policy::parse_preset(&self.name, &self.text)
    }
}

/// One agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentPlan {
    /// Its name: `agents/NAME` in the tree.
    pub name: String,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// Its whole environment, `NAME=value`.
    pub env: Vec<Vec<u8>>,
    /// When it is started again.
    pub restart: Restart,
    /// The health check: whether it still answers, and what follows when it doesn't.
    pub health: Option<Health>,
    /// Where its program is on this machine, for the message that it wasn't found inside.
    pub outside: Option<PathBuf>,
}

/// Credentials, by reference as the configuration writes them (`env:NAME`, `file:PATH`), on their way from
/// the command to the supervisor. Wiped on drop; shows its references only.
#[derive(Default, Serialize, Deserialize)]
pub struct Secrets(BTreeMap<String, Vec<u8>>);

impl Secrets {
    /// Adds the key behind a reference.
    pub fn add(&mut self, reference: String, key: &redactor::Secret) {
        self.0.insert(reference, key.expose().to_vec());
    }

    /// Every reference and its key.
    pub fn pairs(&self) -> impl Iterator<Item = (String, redactor::Secret)> {
        self.0.iter().map(|(reference, key)| (reference.clone(), redactor::Secret::new(key.as_slice())))
    }
}

/// Returns the name that stands for a reference's key where it was masked: the last part of the reference,
/// since a path is the operator's own.
#[must_use]
pub fn mark_of(reference: &str) -> &str {
    reference.rsplit([':', '/']).next().unwrap_or(reference)
}

impl Drop for Secrets {
    fn drop(&mut self) {
        self.0.values_mut().for_each(Zeroize::zeroize);
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// How many forwards there may be: each is a slot of the heart's, which keeps [`agent::protocol::MAX_SLOTS`]
/// in all.
pub const FORWARDS_MAX: usize = 128;

/// How long an ordered stop waits between SIGTERM and SIGKILL by default.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

/// Where the proxy listens inside.
pub fn explicit_listeners() -> [SocketAddr; 2] {
    [SocketAddr::from(([127, 0, 0, 1], 3128)), SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 3128))]
}

/// Where `inference.local` answers for programs that know no proxy.
pub fn inference_listeners() -> [SocketAddr; 2] {
    let ip = agent::plan::INFERENCE_ADDRESS;
    [SocketAddr::from((ip, 443)), SocketAddr::from((ip, 80))]
}
