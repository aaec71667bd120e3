//! One endpoint in the form in which requests are matched against it.

use std::net::IpAddr;
use std::sync::Arc;

use super::Answers;
use crate::content::rpc::is_plain_tool;
use crate::content::{Message, Operation, Part, Selected, SocketMessage, Text};
use crate::model::{
    Access, Binary, Bodies, Endpoint, Entry, GraphqlRule, HostPattern, HttpRule, Method, Origin, PathPattern,
    Rewrites, RpcRule, Rule, WEBSOCKET_TEXT, Written,
};
use crate::{AddressRule, Caller, CanonicalPath, Host, PathOptions, Protocol, RequestFacts, Treatment};

/// An endpoint with the programs that may use it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) policy: Arc<str>,
    pub(crate) rule: Arc<str>,
    pub(crate) host: Option<HostPattern>,
    pub(crate) ports: Box<[u16]>,
    pub(crate) path: Option<PathPattern>,
    pub(crate) treatment: Treatment,
    pub(crate) audit: bool,
    pub(crate) allow: Box<[Clause]>,
    pub(crate) deny: Box<[Clause]>,
    pub(crate) addresses: AddressRule,
    pub(crate) path_options: PathOptions,
    pub(crate) bodies: Bodies,
    pub(crate) rewrites: Rewrites,
    pub(crate) programs: Arc<Programs>,
    pub(crate) origin: Origin,
    /// Whether an operator approved it beside the policy.
    pub(crate) approved: bool,
}

/// A rule or `access` preset, with its text for messages.
#[derive(Debug)]
pub(crate) struct Clause {
    pub(crate) text: Arc<str>,
    pub(crate) test: Test,
    /// Where the clause stands in the file; where its endpoint stands, if it has no line of its own.
    pub(crate) origin: Origin,
}

#[derive(Debug)]
pub(crate) enum Test {
    Access(Access),
    Rule(Rule),
    /// A GraphQL rule of a `websocket` endpoint: about the client's messages.
    Said(GraphqlRule),
}

impl Clause {
    /// Whether the clause, as an allow rule, allows one part of a request. A persisted query is known only as
    /// far as it is registered in `bodies`.
    pub(crate) fn allows(
        &self,
        facts: &RequestFacts<'_>,
        part: Part<'_>,
        bodies: &Bodies,
        said: &Answers,
    ) -> bool {
        let method = facts.method;
        match (&self.test, part) {
            (Test::Access(access), Part::Graphql(operation)) => {
                known(operation, bodies).is_some_and(|operation| access.covers_operation(operation.kind))
            }
            (Test::Access(access), Part::Head | Part::Text(_) | Part::Binary) => access.covers(method),
            (Test::Rule(Rule::Http(rule)), Part::Head) => !rule.reads_messages() && said.allows(rule, facts),
            (Test::Rule(Rule::Http(rule)), Part::Text(text)) => {
                said.allows(rule, facts) && rule.allows_text(&text)
            }
            (Test::Rule(Rule::Http(rule)), Part::Binary) => {
                !rule.reads_messages() && said.allows(rule, facts)
            }
            // GET opens MCP's stream of the server's messages, DELETE ends a session: neither holds a message
            // of the client's.
            (Test::Rule(Rule::Rpc(_)), Part::Head) => matches!(method, "GET" | "DELETE"),
            (Test::Rule(Rule::Rpc(rule)), Part::Rpc(message)) => {
                let odd_tool = |name: &str| bodies.strict_tool_names && !is_plain_tool(name);
                match message {
                    Message::Call { tool: Some(tool), .. } if odd_tool(tool) => false,
                    Message::Call { .. } => rule.allows(message),
                    Message::Answer => bodies.client_responses,
                }
            }
            (Test::Rule(Rule::Graphql(rule)), Part::Graphql(operation)) => {
                known(operation, bodies).is_some_and(|operation| rule.allows(operation))
            }
            (Test::Said(rule), Part::Text(Text { graphql: Some(Ok(message)), .. })) => match message {
                SocketMessage::Lifecycle => true,
                SocketMessage::Operation(operation) => {
                    known(operation, bodies).is_some_and(|operation| rule.allows(operation))
                }
            },
            _ => false,
        }
    }

    /// Whether the clause, as a deny rule, refuses one part of a request.
    pub(crate) fn denies(
        &self,
        facts: &RequestFacts<'_>,
        part: Part<'_>,
        bodies: &Bodies,
        said: &Answers,
    ) -> bool {
        match (&self.test, part) {
            (Test::Rule(Rule::Http(rule)), part) => {
                said.denies(rule, facts)
                    && match part {
                        Part::Text(text) => rule.denies_text(&text),
                        // A binary message can't be read, so it might say what the rule denies.
                        Part::Binary => true,
                        _ => !rule.reads_messages(),
                    }
            }
            (Test::Rule(Rule::Rpc(rule)), Part::Rpc(message)) => rule.denies(message),
            (Test::Rule(Rule::Graphql(rule)), Part::Graphql(operation)) => {
                known(operation, bodies).is_none_or(|operation| rule.denies(operation))
            }
            (Test::Said(rule), Part::Text(text)) => match text.graphql {
                Some(Ok(SocketMessage::Lifecycle)) => false,
                Some(Ok(SocketMessage::Operation(operation))) => {
                    known(operation, bodies).is_none_or(|operation| rule.denies(operation))
                }
                // The operation can't be read, so it might be one that the rule denies.
                Some(Err(_)) | None => true,
            },
            (Test::Said(_), Part::Binary) => true,
            _ => false,
        }
    }
}

/// The operation as far as it is known: from its document, or as registered under its hash or id.
pub(crate) fn known<'o>(operation: &'o Operation<'_>, bodies: &'o Bodies) -> Option<&'o Selected> {
    match operation {
        Operation::Written(selected) => Some(selected),
        Operation::Persisted { id, name } => {
            let selected = bodies.persisted.as_ref()?.get(id.as_str())?;
            let named = name.is_none() || selected.name.is_none() || selected.name.as_deref() == *name;
            named.then_some(selected)
        }
    }
}

impl Place {
    pub(crate) fn of(entry: &Entry, endpoint: &Endpoint, programs: Arc<Programs>) -> Self {
        let treatment = match endpoint.protocol {
            Some(protocol) => Treatment::Inspect { protocol },
            None => Treatment::Relay { tls_skip: endpoint.tls_skip },
        };
        let mut allow = Vec::new();
        if let Some(access) = endpoint.access {
            allow.push(Clause {
                text: format!("access: {}", access.as_str()).into(),
                test: Test::Access(access),
                origin: endpoint.origin.clone(),
            });
        }
        allow.extend(endpoint.rules.iter().map(|written| clause("allow", written, endpoint.protocol)));
        if endpoint.bodies.known_mcp_methods && endpoint.rules.is_empty() {
            let profile = Written { rule: Rule::Rpc(RpcRule::profile()), origin: endpoint.origin.clone() };
            allow.push(clause("allow", &profile, endpoint.protocol));
        }
        Self {
            policy: entry.name.clone(),
            rule: endpoint.describe().into(),
            host: endpoint.host.clone(),
            ports: endpoint.ports.as_slice().into(),
            path: endpoint.path.clone(),
            treatment,
            audit: endpoint.audit,
            allow: allow.into(),
            deny: endpoint.deny_rules.iter().map(|it| clause("deny", it, endpoint.protocol)).collect(),
            addresses: AddressRule {
                allowed_ips: endpoint.allowed_ips.as_slice().into(),
                exact_host: matches!(endpoint.host, Some(HostPattern::Exact(_))) && !endpoint.public_only,
            },
            path_options: PathOptions { allow_encoded_slash: endpoint.allow_encoded_slash },
            bodies: endpoint.bodies.clone(),
            rewrites: endpoint.rewrites,
            programs,
            origin: endpoint.origin.clone(),
            approved: entry.approved,
        }
    }

    /// What requests are read as; `None` where bytes are relayed.
    pub(crate) fn protocol(&self) -> Option<Protocol> {
        match self.treatment {
            Treatment::Inspect { protocol } => Some(protocol),
            Treatment::Relay { .. } => None,
        }
    }

    /// Whether the endpoint names a host. An endpoint without a `host` names every DNS name, and the
    /// addresses in its ranges.
    pub(crate) fn names(&self, host: &Host) -> bool {
        match (&self.host, host) {
            (Some(pattern), host) => pattern.matches(host),
            (None, Host::Name(_)) => true,
            (None, Host::Addr(addr)) => self.in_ranges(*addr),
        }
    }

    fn in_ranges(&self, addr: IpAddr) -> bool {
        self.addresses.allowed_ips.iter().any(|net| net.contains(&addr))
    }

    /// Whether the endpoint serves a path, so that its allow rules apply to it.
    pub(crate) fn serves(&self, path: &CanonicalPath) -> bool {
        self.takes_slashes_of(path) && self.path.as_ref().is_none_or(|own| own.matches(path))
    }

    /// Whether an encoded slash in a path is none that it doesn't take.
    pub(crate) fn takes_slashes_of(&self, path: &CanonicalPath) -> bool {
        self.path_options.allow_encoded_slash || !path.has_encoded_slash()
    }

    /// Whether the endpoint's deny rules apply to a path: whether its own `path` matches it in one of the
    /// readings that servers may have.
    pub(crate) fn concerns(&self, path: &CanonicalPath) -> bool {
        self.path.as_ref().is_none_or(|own| own.may_match(path))
    }
}

fn clause(word: &str, Written { rule, origin }: &Written, protocol: Option<Protocol>) -> Clause {
    let test = match (protocol, rule) {
        (Some(Protocol::Websocket), Rule::Graphql(rule)) => Test::Said(rule.clone()),
        (_, rule) => Test::Rule(rule.clone()),
    };
    Clause { text: format!("{word} {rule}").into(), test, origin: origin.clone() }
}

/// The programs of an entry.
#[derive(Debug)]
pub(crate) enum Programs {
    /// `binaries` is absent.
    Any,
    /// The listed programs; an empty list is none.
    Listed(Box<[Binary]>),
}

impl Programs {
    pub(crate) fn of(entry: &Entry) -> Self {
        match &entry.binaries {
            Some(list) => Self::Listed(list.as_slice().into()),
            None => Self::Any,
        }
    }

    /// Whether the entry names a program by its whole path, without a wildcard.
    pub(crate) fn name(&self, path: &str) -> bool {
        match self {
            Self::Any => false,
            Self::Listed(list) => {
                list.iter().any(|binary| binary.path.is_literal() && binary.path.matches(path))
            }
        }
    }

    /// Whether a caller may use the entry, by its own program or by one of its ancestors.
    pub(crate) fn cover(&self, caller: &Caller) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(list) => list.iter().any(|binary| binary.admits(caller)),
        }
    }

    /// Whether a caller would be covered if it had no code of unknown origin mapped.
    pub(crate) fn cover_but_for_foreign_code(&self, caller: &Caller) -> bool {
        match self {
            Self::Any => false,
            Self::Listed(list) => caller.foreign_code && list.iter().any(|binary| binary.names(caller)),
        }
    }

    /// Whether a caller would be covered if its content were the pinned one: the path matches, the SHA-256
    /// doesn't.
    pub(crate) fn cover_but_for_content(&self, caller: &Caller) -> bool {
        match self {
            Self::Any => false,
            Self::Listed(list) => list.iter().any(|b| {
                b.sha256.is_some() && b.path.matches(&caller.executable.path) && !b.is(&caller.executable)
            }),
        }
    }
}

/// The methods that a clause names, for messages.
pub(crate) fn methods(test: &Test) -> &str {
    match test {
        Test::Access(Access::ReadOnly) => "GET, HEAD and OPTIONS",
        Test::Access(Access::ReadWrite) => "GET, HEAD, OPTIONS, POST, PUT and PATCH",
        Test::Rule(Rule::Http(HttpRule { method: Method::Named(name), .. })) => name,
        // A rule about messages applies to nothing else.
        Test::Said(_) => WEBSOCKET_TEXT,
        Test::Rule(_) | Test::Access(Access::Full) => "every method",
    }
}
