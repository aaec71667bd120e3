//! Reads one endpoint: host, ports, protocol, and which of its fields can't stand together.

use std::net::IpAddr;

use ipnet::IpNet;

use super::body_rules::Speaks;
use super::{Fields, Reader};
use crate::carried::Carried;
use crate::fields::{self, PORTS};
use crate::model::{Access, Endpoint, HostPattern, PathPattern, Rewrites, is_inference_local};
use crate::yaml::{Node, Value};
use crate::{Host, HostError, Protocol};

/// Ports on which HTTP is expected.
const HTTP_PORTS: [u16; 4] = [80, 443, 8080, 8443];

/// Hosts of inference providers: traffic to them should go through `inference.local`, which holds the keys. A
/// provider that gives each customer a host has a wildcard.
const PROVIDER_HOSTS: [&str; 17] = [
    "api.openai.com",
    "api.anthropic.com",
    "integrate.api.nvidia.com",
    "inference-api.nvidia.com",
    "generativelanguage.googleapis.com",
    "openrouter.ai",
    "api.mistral.ai",
    "api.groq.com",
    "api.together.xyz",
    "api.deepseek.com",
    "api.x.ai",
    "api.cohere.com",
    "api.fireworks.ai",
    "api.cerebras.ai",
    "router.huggingface.co",
    "api.perplexity.ai",
    "*.openai.azure.com",
];

impl Reader<'_> {
    pub(super) fn endpoint(&mut self, node: &Node) -> Option<Endpoint> {
        let fields = self.object(node, &fields::ENDPOINT)?;
        let host = fields.get("host").map(|n| self.host(n));
        let ports = self.ports(&fields);
        let path = path_of(&fields).map(|n| self.endpoint_path(n));
        let protocol = self.protocol(fields.get("protocol"));
        let tls_skip = self.tls(fields.get("tls"));
        let audit = self.word(fields.get("enforcement"), &fields::ENDPOINT, "enforcement") == Some("audit");
        let access = self.access(fields.get("access"));
        let bodies = self.bodies(&fields, protocol.flatten());
        let speaks = Speaks { protocol: protocol.flatten(), known_mcp_methods: bodies.known_mcp_methods };
        let rules = self.allow_rules(fields.get("rules"), speaks);
        let deny_rules = self.deny_rules(fields.get("deny_rules"), speaks);
        // An empty list would mean that no address is allowed, not that any is.
        self.empty(
            fields.get("allowed_ips"),
            "allowed_ips",
            "take it out, or list the addresses that the host may have",
        );
        let allowed_ips = self.each(fields.get("allowed_ips"), Self::range);
        let public_only = self.boolean(fields.get("public_only")).unwrap_or(false);
        let rewrites = self.rewrites(&fields, protocol);
        let allow_encoded_slash = self.boolean(fields.get("allow_encoded_slash")).unwrap_or(false);

        // A part that can't be read leaves the endpoint out; its errors were reported already.
        let endpoint = Endpoint {
            host: host.map_or(Some(None), |h| h.map(Some))?,
            ports: ports?,
            path: path.map_or(Some(None), |p| p.map(Some))?,
            protocol: protocol?,
            tls_skip,
            audit,
            access,
            rules,
            deny_rules,
            allowed_ips,
            public_only,
            allow_encoded_slash,
            bodies,
            rewrites,
            origin: self.origin(node.span.clone()),
        };
        self.check_endpoint(node, &fields, &endpoint);
        Some(endpoint)
    }

    fn host(&mut self, node: &Node) -> Option<HostPattern> {
        let text = match node.value {
            // `host: 1.5` is a number to YAML; take its text, so that the error is about the host.
            Value::Float | Value::Integer(_) => self.source_of(node).to_owned(),
            _ => self.text(node)?,
        };
        let pattern = match HostPattern::parse(&text) {
            Ok(pattern) => pattern,
            Err(error) => {
                // Saying what the text is (a URL, a host with a port) helps more than the first rule of hosts
                // that it breaks.
                let (why, help) = if text.contains('/') {
                    ("it is more".into(), Some("write the host alone, without scheme, port or path"))
                } else if has_port(&text) {
                    ("it has a port".into(), Some("write the port under `port`"))
                } else {
                    (error.to_string(), text.contains('*').then_some(WILDCARDS))
                };
                self.error(node, format!("`{text}` can't be a host: {why}")).help = help.map(Into::into);
                return None;
            }
        };
        if let HostPattern::Exact(host) = &pattern {
            self.warn_of_host(node, host);
        }
        self.warn_of_provider(node, &pattern);
        Some(pattern)
    }

    fn warn_of_host(&mut self, node: &Node, host: &Host) {
        if is_inference_local(host) {
            self.warning(
                node,
                "`inference.local` is judged by the inference section; this endpoint changes nothing",
            );
            return;
        }
        let name = match host {
            Host::Name(name) => name.as_str(),
            Host::Addr(addr) if addr.is_loopback() || addr.is_unspecified() => "localhost",
            Host::Addr(addr) if is_of_the_link(*addr) => {
                self.warning(
                    node,
                    format!("`{host}` is never reached from the sandbox, whatever a policy says"),
                );
                return;
            }
            Host::Addr(_) => return,
        };
        if name == "localhost" || name == "host.openshell.internal" || name == "host.docker.internal" {
            self.warning(node, format!("`{host}` is never reached from the sandbox")).help =
                Some("this machine's own ports are reached as `host.cofferdam.internal`".into());
        }
    }

    fn warn_of_provider(&mut self, node: &Node, pattern: &HostPattern) {
        let Some(provider) = provider_of(pattern) else { return };
        let what = match pattern.to_string() == provider {
            true => format!("`{provider}` is an inference provider"),
            false => format!("`{pattern}` covers `{provider}`, an inference provider"),
        };
        self.warning(node, format!("{what}: the agent needs its own key for it")).help =
            Some("route it through `inference.local`, where the key stays outside the sandbox".into());
    }

    fn ports(&mut self, fields: &Fields<'_>) -> Option<Vec<u16>> {
        let (one, several) = (fields.get("port"), fields.get("ports"));
        let mut ports = match (one, several) {
            (None, None) => {
                let message = "`port` (or `ports`) is missing in this endpoint";
                self.say(crate::Diagnostic::error(fields.span.clone(), message));
                return None;
            }
            (Some(_), Some(node)) => {
                self.error(node, "`port` and `ports` are both there").help = Some("keep one of them".into());
                return None;
            }
            (Some(node), None) => vec![self.port(node)?],
            (None, Some(node)) => {
                let ports = self.each(Some(node), Self::port);
                if matches!(&node.value, Value::List(items) if items.is_empty()) {
                    self.error(node, "`ports` is empty");
                }
                ports
            }
        };
        ports.sort_unstable();
        ports.dedup();
        (!ports.is_empty()).then_some(ports)
    }

    fn port(&mut self, node: &Node) -> Option<u16> {
        let number = match &node.value {
            Value::Integer(number) => *number,
            // Quoted ports are common enough to be understood.
            Value::Text(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().unwrap_or(i128::MAX)
            }
            _ => {
                self.mistyped(node, "a port number");
                return None;
            }
        };
        let port = u16::try_from(number).ok().filter(|port| PORTS.contains(&u32::from(*port)));
        if port.is_none() {
            self.error(node, format!("a port is a number from {} to {}", PORTS.start(), PORTS.end()));
        }
        port
    }

    fn endpoint_path(&mut self, node: &Node) -> Option<PathPattern> {
        let text = self.text(node)?;
        match PathPattern::parse(&text) {
            Ok(path) => Some(path),
            Err(error) => {
                self.error(node, error.to_string());
                None
            }
        }
    }

    /// The outer option is `None` if the field can't be read, the inner one if there is no protocol.
    fn protocol(&mut self, node: Option<&Node>) -> Option<Option<Protocol>> {
        let Some(node) = node else { return Some(None) };
        match self.word(Some(node), &fields::ENDPOINT, "protocol")? {
            "rest" => Some(Some(Protocol::Rest)),
            "websocket" => Some(Some(Protocol::Websocket)),
            "graphql" => Some(Some(Protocol::Graphql)),
            "mcp" => Some(Some(Protocol::Mcp)),
            "json-rpc" => Some(Some(Protocol::JsonRpc)),
            _ => Some(None),
        }
    }

    fn tls(&mut self, node: Option<&Node>) -> bool {
        let Some(node) = node else { return false };
        match self.word(Some(node), &fields::ENDPOINT, "tls") {
            Some("skip") => {
                self.warning(node, "`tls: skip` relays what can't be read");
                true
            }
            Some(other) => {
                self.warning(node, format!("`tls: {other}` does nothing: TLS is recognised by itself"))
                    .help = Some("take it out".into());
                false
            }
            None => false,
        }
    }

    /// The outer option of `protocol` is `None` if that field couldn't be read.
    fn rewrites(&mut self, fields: &Fields<'_>, protocol: Option<Option<Protocol>>) -> Rewrites {
        let mut on = |name: &str, right: fn(Protocol) -> bool, help: &str| {
            let Some(node) = fields.get(name) else { return false };
            let on = self.boolean(Some(node)).unwrap_or(false);
            let fits = protocol.is_none_or(|protocol| protocol.is_some_and(right));
            if on && !fits {
                let message = format!("`{name}` has nothing to rewrite on this `protocol`");
                self.error(node, message).help = Some(help.into());
            }
            on
        };
        Rewrites {
            bodies: on(
                "request_body_credential_rewrite",
                |protocol| protocol != Protocol::Websocket,
                "it is for `protocol: rest`, `graphql`, `mcp` and `json-rpc`",
            ),
            messages: on(
                "websocket_credential_rewrite",
                |protocol| matches!(protocol, Protocol::Rest | Protocol::Websocket),
                "it is for `protocol: rest` and `websocket`",
            ),
        }
    }

    fn access(&mut self, node: Option<&Node>) -> Option<Access> {
        let node = node?;
        let access = match self.word(Some(node), &fields::ENDPOINT, "access")? {
            "read-only" => Access::ReadOnly,
            "read-write" => Access::ReadWrite,
            _ => Access::Full,
        };
        if access == Access::Full {
            self.warning(node, "`access: full` allows every method on every path");
        }
        Some(access)
    }

    fn range(&mut self, node: &Node) -> Option<IpNet> {
        let text = self.text(node)?;
        let net = match text.parse::<IpNet>() {
            Ok(net) => net,
            Err(_) => match text.parse::<IpAddr>() {
                Ok(addr) => IpNet::from(addr),
                Err(_) => {
                    self.error(node, format!("`{text}` is neither an address nor a CIDR range"));
                    return None;
                }
            },
        };
        if carries_v4(&net) {
            self.error(node, format!("`{text}` can't be in `allowed_ips`: {}", HostError::EmbeddedV4));
            return None;
        }
        if NEVER_ALLOWED.iter().any(|range| overlap(range, &net)) {
            self.error(node, format!("`{text}` overlaps loopback, link-local or unspecified addresses"))
                .help = Some(
                "no policy lifts these; this machine's own ports are reached as `host.cofferdam.internal`"
                    .into(),
            );
            return None;
        }
        Some(net.trunc())
    }

    /// Checks that the fields of one endpoint fit together.
    fn check_endpoint(&mut self, node: &Node, fields: &Fields<'_>, endpoint: &Endpoint) {
        let at = |name: &str| fields.get(name).unwrap_or(node);
        if endpoint.host.is_none() {
            if endpoint.allowed_ips.is_empty() {
                self.error(node, "an endpoint without `host` needs `allowed_ips`");
            } else {
                self.warning(
                    node,
                    "an endpoint without `host` has any name looked up outside before its addresses can be judged",
                )
                .help = Some(
                    "name the hosts where they are known: whoever serves a name's domain reads what programs put into it"
                        .into(),
                );
            }
            if endpoint.protocol.is_some() {
                self.error(at("protocol"), "an endpoint without `host` can't be inspected").help =
                    Some("name the host, or leave `protocol` out".into());
            }
        }
        if endpoint.public_only && !endpoint.allowed_ips.is_empty() {
            self.error(at("public_only"), "`public_only` and `allowed_ips` exclude each other").help =
                Some("`allowed_ips` says which addresses there may be, private ones included".into());
        }
        if endpoint.access.is_some() && fields.get("rules").is_some() {
            self.error(at("access"), "`access` and `rules` exclude each other").help =
                Some("keep one of them".into());
        }
        match endpoint.protocol {
            Some(protocol) => self.check_inspected(node, fields, endpoint, protocol),
            None => self.check_relayed(node, fields, endpoint),
        }
    }

    fn check_inspected(&mut self, node: &Node, fields: &Fields<'_>, endpoint: &Endpoint, protocol: Protocol) {
        if endpoint.tls_skip {
            self.error(
                fields.get("tls").unwrap_or(node),
                "`tls: skip` leaves nothing for `protocol` to read",
            )
            .help = Some("take one of them out".into());
        }
        let profile = endpoint.bodies.known_mcp_methods;
        if fields.get("access").is_none() && fields.get("rules").is_none() && !profile {
            let message = format!("`protocol: {}` needs `rules` or `access`", protocol.as_str());
            self.error(fields.get("protocol").unwrap_or(node), message).help =
                Some("without either, every request would be refused".into());
        }
        if protocol == Protocol::Websocket {
            self.check_messages(node, fields, endpoint);
        }
        if matches!(protocol, Protocol::Mcp | Protocol::JsonRpc) {
            if let Some(node) = fields.get("access") {
                self.error(
                    node,
                    format!("`access` can't say which calls of `{}` are meant", protocol.as_str()),
                )
                .help = Some(
                    "write `rules`; on `mcp`, `mcp.allow_all_known_mcp_methods: true` stands for all".into(),
                );
            }
            self.check_mcp(node, fields, endpoint);
        }
    }

    fn check_relayed(&mut self, node: &Node, fields: &Fields<'_>, endpoint: &Endpoint) {
        // An endpoint without a host can't have a `protocol`, so none is proposed.
        let add_protocol = match &endpoint.host {
            Some(_) => "add `protocol: rest`",
            None => "name the `host`: nothing is inspected without one",
        };
        if let Some(deny) = fields.get("deny_rules") {
            self.error(deny, "`deny_rules` need `protocol`: without it nothing is read").help =
                Some(add_protocol.into());
        }
        if let Some(path) = path_of(fields) {
            self.error(path, "`path` needs `protocol`: without it no path is seen").help =
                Some(add_protocol.into());
        }
        let tcp = fields.get("protocol").is_some();
        for name in ["rules", "access"] {
            if let Some(node) = fields.get(name).filter(|_| tcp) {
                self.error(
                    node,
                    format!("`{name}` has nothing to judge on `protocol: tcp`: bytes are relayed"),
                );
            } else if let Some(node) = fields.get(name) {
                self.warning(
                    node,
                    format!("`{name}` without `protocol` judges nothing: bytes are relayed"),
                )
                .help = Some(add_protocol.into());
            }
        }
        if endpoint.audit {
            let node = fields.get("enforcement").unwrap_or(node);
            self.warning(node, "`enforcement: audit` without `protocol` changes nothing");
        }
        let http = endpoint.ports.iter().any(|port| HTTP_PORTS.contains(port));
        let said =
            tcp || endpoint.tls_skip || fields.get("rules").is_some() || fields.get("access").is_some();
        if http && !said {
            self.warning(
                node,
                "this looks like an HTTP API, but has no `protocol`: nothing of it is inspected",
            )
            .help = Some(match endpoint.host {
                Some(_) => format!("{add_protocol} and `access: read-only` or rules"),
                None => add_protocol.into(),
            });
        }
    }
}

/// The `path` of an endpoint, if it doesn't serve all paths; OpenShell writes "all" as the empty text.
fn path_of<'n>(fields: &Fields<'n>) -> Option<&'n Node> {
    fields.get("path").filter(|node| !matches!(&node.value, Value::Text(text) if text.is_empty()))
}

/// Help on where wildcards may stand.
const WILDCARDS: &str = "in the first label: `*.x` is one label, `**.x` one or more, `a-*.x` a part of one";

/// The first inference provider whose hosts a pattern covers.
fn provider_of(pattern: &HostPattern) -> Option<String> {
    let bedrock = bedrock(pattern);
    let known = PROVIDER_HOSTS.into_iter().chain([bedrock.as_str()]);
    let covered = |host: &&str| HostPattern::parse(host).is_ok_and(|host| host.overlaps(pattern));
    known.into_iter().find(covered).map(Into::into)
}

/// The host of Amazon's provider in the region that a pattern names, or in some region if it names none.
fn bedrock(pattern: &HostPattern) -> String {
    let text = pattern.to_string();
    let front = text.strip_suffix(".amazonaws.com").unwrap_or_default();
    let region = front.rsplit('.').next().filter(|region| !region.is_empty() && !region.contains('*'));
    format!("bedrock-runtime.{}.amazonaws.com", region.unwrap_or("us-east-1"))
}

/// Whether a text is a host with a port behind it, and not an IPv6 address.
fn has_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        digits && (!host.contains(':') || host.ends_with(']'))
    })
}

/// Whether an address is link-local (as those of metadata services are), multicast or broadcast, and so no
/// destination of a connection.
fn is_of_the_link(addr: IpAddr) -> bool {
    match addr.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
    }
}

/// Whether a range lies within an IPv6 embedding of IPv4 addresses. A range with a prefix shorter than the
/// embeddings have holds other addresses as well.
fn carries_v4(net: &IpNet) -> bool {
    let IpNet::V6(net) = net else { return false };
    net.prefix_len() >= SPELT_PREFIX && Carried::of(net.addr()).is_some()
}

/// The length of the prefix in front of the 32 bits of an embedded IPv4 address.
const SPELT_PREFIX: u8 = 96;

/// Ranges that `allowed_ips` can't open: RFC 1122 loopback and unspecified, RFC 3927 and 4291 link-local.
/// Each has its address, its prefix length, and whether it is IPv4.
const NEVER_ALLOWED: [([u8; 16], u8, bool); 6] = [
    ([127, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8, true),
    ([169, 254, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 16, true),
    ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8, true),
    ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 128, false),
    ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 128, false),
    ([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 10, false),
];

/// Whether a range shares an address with one of the above.
fn overlap(never: &([u8; 16], u8, bool), net: &IpNet) -> bool {
    let (bytes, prefix, v4) = never;
    let [a, b, c, d, ..] = *bytes;
    let addr = if *v4 { IpAddr::from([a, b, c, d]) } else { IpAddr::from(*bytes) };
    IpNet::new(addr, *prefix).is_ok_and(|never| never.contains(net) || net.contains(&never))
}
