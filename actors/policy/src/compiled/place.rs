//! One endpoint, ready to be compared with.

use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Access, Binary, Endpoint, Entry, HostPattern, Method, Origin, PathPattern, Rule};
use crate::{AddressRule, Caller, CanonicalPath, Executable, Host, PathOptions, Protocol, Query, Treatment};

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
    pub(crate) programs: Arc<Programs>,
    pub(crate) origin: Origin,
}

/// A rule or preset with its words.
#[derive(Debug)]
pub(crate) struct Clause {
    pub(crate) text: Arc<str>,
    pub(crate) test: Test,
}

#[derive(Debug)]
pub(crate) enum Test {
    Access(Access),
    Rule(Rule),
}

impl Clause {
    pub(crate) fn allows(&self, method: &str, path: &CanonicalPath, query: &Query) -> bool {
        match &self.test {
            Test::Access(access) => access.covers(method),
            Test::Rule(rule) => rule.allows(method, path, query),
        }
    }

    pub(crate) fn denies(&self, method: &str, path: &CanonicalPath, query: &Query) -> bool {
        match &self.test {
            Test::Access(_) => false,
            Test::Rule(rule) => rule.denies(method, path, query),
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
            });
        }
        allow.extend(endpoint.rules.iter().map(|rule| clause("allow", rule)));
        Self {
            policy: entry.name.clone(),
            rule: endpoint.describe().into(),
            host: endpoint.host.clone(),
            ports: endpoint.ports.as_slice().into(),
            path: endpoint.path.clone(),
            treatment,
            audit: endpoint.audit,
            allow: allow.into(),
            deny: endpoint.deny_rules.iter().map(|rule| clause("deny", rule)).collect(),
            addresses: AddressRule {
                allowed_ips: endpoint.allowed_ips.as_slice().into(),
                exact_host: matches!(endpoint.host, Some(HostPattern::Exact(_))),
            },
            path_options: PathOptions { allow_encoded_slash: endpoint.allow_encoded_slash },
            programs,
            origin: endpoint.origin.clone(),
        }
    }

    /// What requests are read as; `None` where bytes are relayed.
    pub(crate) fn protocol(&self) -> Option<Protocol> {
        match self.treatment {
            Treatment::Inspect { protocol } => Some(protocol),
            Treatment::Relay { .. } => None,
        }
    }

    /// Whether it names a host. One without a host names every name, and the addresses in its ranges.
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

    /// Whether it serves a path at all.
    pub(crate) fn serves(&self, path: &CanonicalPath) -> bool {
        (self.path_options.allow_encoded_slash || !path.has_encoded_slash())
            && self.path.as_ref().is_none_or(|own| own.matches(path))
    }
}

fn clause(word: &str, rule: &Rule) -> Clause {
    Clause { text: format!("{word} {rule}").into(), test: Test::Rule(rule.clone()) }
}

/// The programs of an entry.
#[derive(Debug)]
pub(crate) enum Programs {
    /// `binaries` is absent.
    Any,
    /// These.
    Listed(Box<[Binary]>),
}

impl Programs {
    pub(crate) fn of(entry: &Entry) -> Self {
        match &entry.binaries {
            Some(list) => Self::Listed(list.as_slice().into()),
            None => Self::Any,
        }
    }

    /// Whether a caller may use the entry: by its own program, or by one that started it.
    pub(crate) fn cover(&self, caller: &Caller) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(list) => list.iter().any(|binary| {
                let own_code = !caller.foreign_code || binary.allow_foreign_code;
                own_code && names(binary, caller)
            }),
        }
    }

    /// Whether a caller would be covered but for the code of unknown origin in it.
    pub(crate) fn cover_but_for_foreign_code(&self, caller: &Caller) -> bool {
        match self {
            Self::Any => false,
            Self::Listed(list) => caller.foreign_code && list.iter().any(|binary| names(binary, caller)),
        }
    }

    /// Whether a caller would be covered but for its content: the path is right, the SHA-256 is another.
    pub(crate) fn cover_but_for_content(&self, caller: &Caller) -> bool {
        match self {
            Self::Any => false,
            Self::Listed(list) => list.iter().any(|b| {
                b.sha256.is_some() && b.path.matches(&caller.executable.path) && !is(b, &caller.executable)
            }),
        }
    }
}

/// Whether an entry names a caller, by its own program or by one that started it.
fn names(binary: &Binary, caller: &Caller) -> bool {
    is(binary, &caller.executable)
        || (binary.ancestors && caller.ancestors.iter().any(|ancestor| is(binary, ancestor)))
}

/// Whether a program is one that the policy names.
fn is(binary: &Binary, program: &Executable) -> bool {
    binary.path.matches(&program.path) && binary.sha256.is_none_or(|wanted| wanted == program.sha256)
}

/// The methods that a clause names, for messages.
pub(crate) fn methods(test: &Test) -> &str {
    match test {
        Test::Access(Access::ReadOnly) => "GET, HEAD and OPTIONS",
        Test::Access(Access::ReadWrite) => "GET, HEAD, OPTIONS, POST, PUT and PATCH",
        Test::Access(Access::Full) => "every method",
        Test::Rule(Rule { method: Method::Named(name), .. }) => name,
        Test::Rule(Rule { method: Method::Any, .. }) => "every method",
    }
}
