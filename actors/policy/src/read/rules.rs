//! `rules` and `deny_rules`.

use super::{Fields, Reader};
use crate::fields;
use crate::model::{Access, Endpoint, Method, PathPattern, QueryMatcher, Rule};
use crate::yaml::{Node, Value};
use crate::{Glob, Protocol};

/// The client's messages on a `websocket` endpoint, in the place of a method.
const WEBSOCKET_TEXT: &str = "WEBSOCKET_TEXT";
/// Longest method accepted; registered ones have at most 17 letters.
const MAX_METHOD_BYTES: usize = 32;

impl Reader<'_> {
    pub(super) fn allow_rules(&mut self, node: Option<&Node>, protocol: Option<Protocol>) -> Vec<Rule> {
        self.empty(node, "rules", "take it out, or write `access`");
        self.each(node, |reader, item| {
            let fields = reader.object(item, &fields::ALLOW)?;
            reader.rule(fields.get("allow")?, protocol)
        })
    }

    pub(super) fn deny_rules(&mut self, node: Option<&Node>, protocol: Option<Protocol>) -> Vec<Rule> {
        self.empty(node, "deny_rules", "take it out");
        self.each(node, |reader, item| {
            let rule = reader.rule(item, protocol)?;
            if crosses_elsewhere(rule.path.as_str()) {
                reader
                    .warning(item, format!("`{}` denies within one segment for each `*`", rule.path))
                    .help = Some("OpenShell lets `*` cross `/`; write `**` where that was meant".into());
            }
            Some(rule)
        })
    }

    fn empty(&mut self, node: Option<&Node>, name: &str, help: &str) {
        if let Some(node) = node
            && matches!(&node.value, Value::List(items) if items.is_empty())
        {
            self.error(node, format!("`{name}` is empty")).help = Some(help.into());
        }
    }

    fn rule(&mut self, node: &Node, protocol: Option<Protocol>) -> Option<Rule> {
        let fields = self.object(node, &fields::RULE)?;
        let method = fields.get("method").map(|n| self.method(n, protocol));
        let path = fields.get("path").map(|n| self.rule_path(n));
        let query = self.query(fields.get("query"));
        Some(Rule { method: method??, path: path??, query })
    }

    fn method(&mut self, node: &Node, protocol: Option<Protocol>) -> Option<Method> {
        let text = self.text(node)?;
        if text == "*" {
            return Some(Method::Any);
        }
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&b);
        if text.is_empty() || text.len() > MAX_METHOD_BYTES || !text.bytes().all(token) {
            self.error(node, format!("`{text}` is not an HTTP method")).help =
                Some("it is a token such as `GET`, or `*` for any".into());
            return None;
        }
        if text.bytes().any(|b| b.is_ascii_lowercase()) {
            self.error(node, format!("methods are case-sensitive: `{text}` never matches")).help =
                Some(format!("write `{}`", text.to_ascii_uppercase()));
            return None;
        }
        if protocol == Some(Protocol::Websocket) && !matches!(text.as_str(), "GET" | WEBSOCKET_TEXT) {
            self.error(node, format!("a `websocket` endpoint has no method `{text}`")).help =
                Some("`GET` is the handshake, `WEBSOCKET_TEXT` the client's messages, `*` both".into());
            return None;
        }
        if protocol == Some(Protocol::Rest) && text == WEBSOCKET_TEXT {
            self.error(node, "`WEBSOCKET_TEXT` is for `protocol: websocket`");
            return None;
        }
        Some(Method::Named(text.into()))
    }

    fn rule_path(&mut self, node: &Node) -> Option<PathPattern> {
        let text = self.text(node)?;
        match PathPattern::parse(&text) {
            Ok(path) => {
                if text.contains('?') && text.contains('=') {
                    self.warning(
                        node,
                        "`?` is a wildcard for one character; a query is never part of the path",
                    )
                    .help = Some("write the query under `query`".into());
                }
                Some(path)
            }
            Err(error) => {
                self.error(node, error.to_string());
                None
            }
        }
    }

    fn query(&mut self, node: Option<&Node>) -> Vec<QueryMatcher> {
        let Some(node) = node else { return Vec::new() };
        let Value::Map(pairs) = &node.value else {
            self.mistyped(node, "a map of parameters");
            return Vec::new();
        };
        let mut out: Vec<QueryMatcher> = Vec::new();
        for (key, value) in pairs {
            let Some(name) = self.key(key) else { continue };
            if out.iter().any(|m| *m.name == *name) {
                self.error(key, format!("`{name}` is there twice"));
                continue;
            }
            let any = match &value.value {
                Value::Map(_) => match self.object(value, &fields::MATCHER) {
                    Some(fields) => self.alternatives(&fields),
                    None => continue,
                },
                _ => self.value_pattern(value).into_iter().collect(),
            };
            if !any.is_empty() {
                out.push(QueryMatcher { name: name.into(), any });
            }
        }
        out
    }

    fn alternatives(&mut self, fields: &Fields<'_>) -> Vec<Glob> {
        let node = fields.get("any");
        self.empty(node, "any", "list the patterns");
        self.each(node, Self::value_pattern)
    }

    fn value_pattern(&mut self, node: &Node) -> Option<Glob> {
        let text = self.loose_text(node)?;
        match Glob::path(&text) {
            Ok(glob) => Some(glob),
            Err(error) => {
                self.error(node, error.to_string());
                None
            }
        }
    }

    /// A `websocket` endpoint whose rules would hold back messages: those aren't read yet, so it would let through what
    /// it says it refuses.
    pub(super) fn check_messages(&mut self, node: &Node, fields: &Fields<'_>, endpoint: &Endpoint) {
        const HELP: &str = "until messages are judged, allow `WEBSOCKET_TEXT` wherever `GET` is allowed, or `access: read-write`";
        if endpoint.access == Some(Access::ReadOnly) {
            let node = fields.get("access").unwrap_or(node);
            self.error(
                node,
                "`access: read-only` would hold back WebSocket messages, which isn't supported yet",
            )
            .help = Some(HELP.into());
        }
        let messages = |rule: &&Rule| rule.method.covers(WEBSOCKET_TEXT);
        let open = endpoint.rules.iter().filter(|rule| rule.method.covers("GET")).all(|handshake| {
            endpoint.rules.iter().filter(messages).any(|m| m.query.is_empty() && same_or_all(m, handshake))
        });
        if !open {
            let node = fields.get("rules").unwrap_or(node);
            self.error(node, "these rules would hold back WebSocket messages, which isn't supported yet")
                .help = Some(HELP.into());
        }
        let names_messages = |rule: &Rule| matches!(&rule.method, Method::Named(m) if &**m == WEBSOCKET_TEXT);
        if endpoint.deny_rules.iter().any(names_messages) {
            let node = fields.get("deny_rules").unwrap_or(node);
            self.error(node, "denying `WEBSOCKET_TEXT` isn't supported yet").help =
                Some("deny the handshake (`GET`) on that path instead".into());
        }
    }
}

/// Whether a rule for messages covers all that a rule for the handshake covers.
fn same_or_all(messages: &Rule, handshake: &Rule) -> bool {
    messages.path.is_everything() || messages.path == handshake.path
}

/// Whether a pattern holds a lone `*`, which elsewhere crosses segments.
fn crosses_elsewhere(pattern: &str) -> bool {
    pattern.replace("**", "").contains('*')
}
