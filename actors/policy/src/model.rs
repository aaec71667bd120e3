//! The policy as checked values: [`crate::parse`] makes them, and [`crate::Compiled`] is made from them.
//!
//! Every value here is valid by construction; none of the types decides anything. The sections are those of
//! the file: filesystem, landlock and process are static (they bind a process for its life), the network is
//! dynamic.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use crate::content::{DEFAULT_BODY_BYTES, Selected};
use crate::{Caller, Executable, Glob, Host, Protocol};

mod argument;
mod body_rule;
mod host_pattern;
mod rule;

pub use argument::{JsonMatcher, Pointer, ValueMatcher};
pub use body_rule::{GraphqlRule, RpcMethod, RpcRule};
pub use host_pattern::{HostPattern, HostPatternError};
pub(crate) use rule::is_method;
pub use rule::{Access, HttpRule, Method, PathPattern, PathPatternError, QueryMatcher, Rule, WEBSOCKET_TEXT};

/// A whole policy, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub(crate) filesystem: Filesystem,
    pub(crate) landlock: Landlock,
    pub(crate) process: Process,
    pub(crate) network: Vec<Entry>,
}

impl Policy {
    /// The filesystem section: which files may be read and written.
    #[must_use]
    pub fn filesystem(&self) -> &Filesystem {
        &self.filesystem
    }

    /// What to do on a kernel that lacks (parts of) Landlock.
    #[must_use]
    pub fn landlock(&self) -> Landlock {
        self.landlock
    }

    /// The user and group that the agent runs as.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The network entries, in the order of the file.
    #[must_use]
    pub fn network(&self) -> &[Entry] {
        &self.network
    }

    /// Names of the static sections in which `self` and `other` differ; these take effect only on a restart
    /// of the agents.
    #[must_use]
    pub fn static_changes(&self, other: &Self) -> Vec<&'static str> {
        let mut out = Vec::new();
        if self.filesystem != other.filesystem {
            out.push("filesystem_policy");
        }
        if self.landlock != other.landlock {
            out.push("landlock");
        }
        // The process section is left out: whatever it says, the agent runs as the one user and group that
        // there are.
        out
    }
}

/// The filesystem section.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filesystem {
    /// Whether the working directory (`/sandbox`) is read-write without being listed.
    pub include_workdir: bool,
    /// Paths that may be read and executed.
    pub read_only: Vec<PathRule>,
    /// Paths that may be read, executed and written.
    pub read_write: Vec<PathRule>,
}

/// One path of the filesystem section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRule {
    /// Absolute, without `.` or `..`.
    pub path: PathBuf,
    /// Whether the path may be missing. If not, a missing path stops the start.
    pub optional: bool,
    /// Where it stands.
    pub origin: Origin,
}

/// What to do on a kernel whose Landlock lacks something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Landlock {
    /// Refuse to start (our default; OpenShell's default is [`Landlock::BestEffort`]).
    #[default]
    HardRequirement,
    /// Go on with what the kernel has; every listed path may be missing.
    BestEffort,
}

impl Landlock {
    /// The name in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HardRequirement => "hard_requirement",
            Self::BestEffort => "best_effort",
        }
    }
}

/// The process section: names inside the sandbox, where there is only the user `sandbox` (1000).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// As written: `sandbox`, `1000`, or another number but 0 (accepted with a warning).
    pub run_as_user: Option<String>,
    /// As written: `sandbox`, `1000`, or another number but 0 (accepted with a warning).
    pub run_as_group: Option<String>,
}

/// One entry of `network_policies`: these programs may reach these endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key in the map.
    pub key: Arc<str>,
    /// The name in logs, metrics and denials; the key if the file has none.
    pub name: Arc<str>,
    /// Where the programs may go.
    pub endpoints: Vec<Endpoint>,
    /// The programs that may; `None` (not in the file) is any program.
    pub binaries: Option<Vec<Binary>>,
    /// Whether the entry is an operator's approval, and not in a file.
    pub approved: bool,
}

/// One endpoint of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The hosts; `None` is any name whose every address lies in `allowed_ips`, and any address in them.
    pub host: Option<HostPattern>,
    /// The TCP ports; never empty, sorted, without duplicates.
    pub ports: Vec<u16>,
    /// Which paths this endpoint serves; `None` is all.
    pub path: Option<PathPattern>,
    /// What requests are read as; `None` relays the bytes unread (L4).
    pub protocol: Option<Protocol>,
    /// `tls: skip`.
    pub tls_skip: bool,
    /// Whether refused requests are sent all the same, and only recorded.
    pub audit: bool,
    /// `access`, if the file has it instead of rules.
    pub access: Option<Access>,
    /// `rules`.
    pub rules: Vec<Written>,
    /// `deny_rules`.
    pub deny_rules: Vec<Written>,
    /// Ranges in which the host's addresses must lie.
    pub allowed_ips: Vec<IpNet>,
    /// Whether private addresses stay refused though the host is named exactly.
    pub public_only: bool,
    /// Whether `%2F` may stand in a path.
    pub allow_encoded_slash: bool,
    /// How bodies are judged, where the protocol judges bodies.
    pub bodies: Bodies,
    /// Where placeholders of credentials are replaced, other than in heads.
    pub rewrites: Rewrites,
    /// Where it stands.
    pub origin: Origin,
}

/// A rule with its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// What it says.
    pub rule: Rule,
    /// Where it stands.
    pub origin: Origin,
}

/// Where placeholders of credentials are replaced, other than in heads. Elsewhere they are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rewrites {
    /// `request_body_credential_rewrite`.
    pub bodies: bool,
    /// `websocket_credential_rewrite`.
    pub messages: bool,
}

/// How an endpoint judges bodies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bodies {
    /// The longest body, in bytes.
    pub max_bytes: u32,
    /// `mcp.strict_tool_names`: tools are `[A-Za-z0-9_.-]{1,128}`.
    pub strict_tool_names: bool,
    /// `mcp.allow_all_known_mcp_methods`.
    pub known_mcp_methods: bool,
    /// `mcp.allow_client_responses`: answers to the server's own requests pass.
    pub client_responses: bool,
    /// The registered operations by hash or id under `persisted_queries: allow_registered`; `None` is `deny`.
    pub persisted: Option<BTreeMap<Box<str>, Selected>>,
}

impl Default for Bodies {
    fn default() -> Self {
        Self {
            max_bytes: DEFAULT_BODY_BYTES,
            strict_tool_names: true,
            known_mcp_methods: false,
            client_responses: true,
            persisted: None,
        }
    }
}

impl Endpoint {
    /// Host, ports and path in a few words.
    #[must_use]
    pub fn describe(&self) -> String {
        let host = match &self.host {
            Some(host) => host.to_string(),
            None => String::from("(any host in allowed_ips)"),
        };
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        let path = match &self.path {
            Some(path) => format!(" path {path}"),
            None => String::new(),
        };
        format!("{host}:{}{path}", ports.join(","))
    }
}

/// A program that may use an entry's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// The path inside the sandbox, after symbolic links: exact, or with wildcards.
    pub path: Glob,
    /// SHA-256 of the content it must have.
    pub sha256: Option<[u8; 32]>,
    /// Whether programs that it started, directly or not, may use the endpoints too.
    pub ancestors: bool,
    /// Whether it may have code mapped that its hash doesn't cover, as Python has with packages that the
    /// agent installed.
    pub allow_foreign_code: bool,
}

impl Binary {
    /// Whether a program is this one: by path, and by content where that is pinned.
    #[must_use]
    pub fn is(&self, program: &Executable) -> bool {
        self.path.matches(&program.path) && self.sha256.is_none_or(|wanted| wanted == program.sha256)
    }

    /// Whether a caller is this program or, where ancestors count, was started by it. Ignores what code is
    /// mapped in the caller.
    #[must_use]
    pub fn names(&self, caller: &Caller) -> bool {
        self.is(&caller.executable)
            || (self.ancestors && caller.ancestors.iter().any(|ancestor| self.is(ancestor)))
    }

    /// Whether a caller may use what this program may use.
    #[must_use]
    pub fn admits(&self, caller: &Caller) -> bool {
        (!caller.foreign_code || self.allow_foreign_code) && self.names(caller)
    }
}

/// Where something stands in a file. Two origins always compare equal, so that values compare by what they
/// say, not by where they stand.
#[derive(Debug, Clone, Eq)]
pub struct Origin {
    /// The file's name.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// The range of bytes in the text.
    pub span: Range<usize>,
}

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Origin {
    /// The origin as shown to agents, without the file's directories: an agent is told where a rule stands,
    /// not where the operator keeps the file.
    pub(crate) fn for_agents(&self) -> String {
        let file = self.file.rsplit('/').next().unwrap_or_default();
        format!("{file}:{}:{}", self.line, self.column)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Whether a host is `inference.local`, which the gateway answers itself.
pub(crate) fn is_inference_local(host: &Host) -> bool {
    host.name().is_some_and(|n| n.as_str() == "inference.local")
}
