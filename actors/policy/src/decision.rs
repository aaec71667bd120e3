//! The input and output of a decision: destination, caller, request; grant, permission, denial.
//!
//! Plain values only. Nothing here decides anything.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::content::Content;
use crate::{CanonicalPath, Host, Party, PathOptions, Query};

/// Where a connection wants to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Destination {
    /// The host as the client named it, canonical.
    pub host: Host,
    /// The TCP port.
    pub port: u16,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// One program file, as the proxy identified it: path and content, never a command line.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Executable {
    /// Absolute path inside the sandbox.
    pub path: Arc<str>,
    /// SHA-256 of the file's content, hashed through an open descriptor.
    pub sha256: [u8; 32],
}

/// The caller of a connection: the program that holds the socket and the programs that started it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The program itself.
    pub executable: Executable,
    /// Its parent, grandparent and so on, nearest first.
    pub ancestors: Arc<[Executable]>,
    /// Whether code of unknown origin is mapped in it: from a writable mount, a deleted file or a memory
    /// file. The executable's hash says nothing of such code (`LD_PRELOAD` and its like).
    pub foreign_code: bool,
    /// The party that the program belongs to.
    pub party: Party,
}

/// The facts of a request that the rules of an inspected endpoint judge.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// The method token as sent; case matters (RFC 9110 section 9.1).
    pub method: &'a str,
    /// The path that is judged; the caller must send exactly this.
    pub path: &'a CanonicalPath,
    /// The query that is judged; the caller must send exactly this.
    pub query: &'a Query,
    /// Whether this is a WebSocket handshake (RFC 6455): only a rule of a `websocket` endpoint, or a `rest`
    /// rule for `GET` that covers the path, lets it through.
    pub websocket: bool,
    /// What was read behind the head: a body where [`Grant::reads_bodies`] is set, or a message on a
    /// WebSocket.
    pub content: Content<'a>,
}

/// A connection may be made.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Name of the policy entry that made the decision.
    pub policy: Arc<str>,
    /// The endpoint of that entry, as the file has it.
    pub rule: Arc<str>,
    /// What happens to the bytes.
    pub treatment: Treatment,
    /// Which addresses the name may have.
    pub addresses: AddressRule,
    /// Whether the endpoint names no host. Any name passes whose addresses `addresses` allows, which is known
    /// only once the name is resolved.
    pub unnamed: bool,
    /// How the paths of requests on this connection are to be canonicalised.
    pub path_options: PathOptions,
    /// Whether some endpoint judges bodies. If so, [`crate::Compiled::body_of`] must be called for each
    /// request.
    pub reads_bodies: bool,
}

/// What happens to a granted connection's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Treatment {
    /// Bytes are relayed unread once the destination (and SNI, where there is one) has been judged.
    Relay {
        /// `tls: skip`: TLS is relayed too, even where we could terminate it.
        tls_skip: bool,
    },
    /// Requests are read and judged one by one; TLS is terminated.
    Inspect {
        /// What the requests are read as.
        protocol: Protocol,
    },
}

/// Protocols whose requests can be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// HTTP: method, path, query.
    Rest,
    /// WebSocket: the handshake is judged as a `GET`, and every message that the client sends.
    Websocket,
    /// GraphQL over HTTP: operations and their root fields.
    Graphql,
    /// MCP's Streamable HTTP: methods, tools, arguments.
    Mcp,
    /// JSON-RPC over HTTP: methods and parameters.
    JsonRpc,
}

impl Protocol {
    /// The name in the policy file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Websocket => "websocket",
            Self::Graphql => "graphql",
            Self::Mcp => "mcp",
            Self::JsonRpc => "json-rpc",
        }
    }

    /// Whether a request's body is read and judged.
    #[must_use]
    pub fn reads_bodies(self) -> bool {
        matches!(self, Self::Graphql | Self::Mcp | Self::JsonRpc)
    }
}

/// What the SSRF guard must know of the entry that granted a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AddressRule {
    /// Ranges that lift the refusal of private addresses; if not empty, every address must lie in one of
    /// them.
    pub allowed_ips: Arc<[IpNet]>,
    /// The policy names this very host (not by wildcard), which also lifts the refusal of private addresses.
    pub exact_host: bool,
}

/// A request may be sent.
#[derive(Debug, Clone)]
pub struct Allowed {
    /// Name of the policy entry that made the decision.
    pub policy: Arc<str>,
    /// The rule that let it through, in words.
    pub rule: Arc<str>,
    /// `enforcement: audit`: what a request would have been denied for. It is sent all the same, and
    /// recorded.
    pub audit_only: Option<Box<Denial>>,
}

/// A connection or request is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Denial {
    /// Which layer refused.
    pub layer: Layer,
    /// What was refused and why, in one sentence.
    pub detail: String,
    /// The entry that refused it, or the one that comes nearest to allowing it.
    pub policy: Option<Arc<str>>,
    /// What would have to differ.
    pub hint: Option<String>,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.layer, self.detail)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

/// The layers that can refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Destination and binary.
    L4,
    /// Method, path, query, and the content of bodies and messages.
    L7,
    /// The caller couldn't be identified, or its program or content is not the one expected.
    Identity,
    /// The address may not be dialled.
    Ssrf,
    /// The inference gateway.
    Inference,
    /// A budget or rate is used up.
    Budget,
}

impl Layer {
    /// Every layer, for label sets.
    pub const ALL: [Self; 6] =
        [Self::L4, Self::L7, Self::Identity, Self::Ssrf, Self::Inference, Self::Budget];

    /// The name in denials, metrics and the audit log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::L4 => "l4",
            Self::L7 => "l7",
            Self::Identity => "identity",
            Self::Ssrf => "ssrf",
            Self::Inference => "inference",
            Self::Budget => "budget",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
