//! `rules` and `deny_rules`.

use super::body_rules::Speaks;
use super::{Fields, Reader};
use crate::diagnostics::Diagnostic;
use crate::fields;
use crate::model::{
    HttpRule, Method, Origin, PathPattern, QueryMatcher, Rule, WEBSOCKET_TEXT, Written, is_method,
};
use crate::yaml::{Node, Value};
use crate::{CanonicalPath, Glob, PathOptions, Protocol};

impl Reader<'_> {
    pub(super) fn allow_rules(&mut self, node: Option<&Node>, speaks: Speaks) -> Vec<Written> {
        self.empty(node, "rules", "take it out, or write `access`");
        self.each(node, |reader, item| {
            let fields = reader.object(item, &fields::ALLOW)?;
            let rule = reader.rule(fields.get("allow")?, speaks, false)?;
            Some(Written { rule, origin: reader.origin(item.span.clone()) })
        })
    }

    pub(super) fn deny_rules(&mut self, node: Option<&Node>, speaks: Speaks) -> Vec<Written> {
        self.empty(node, "deny_rules", "take it out");
        let rules = self.each(node, |reader, item| {
            let rule = reader.rule(item, speaks, true)?;
            if let Rule::Http(HttpRule { path, .. }) = &rule
                && crosses_elsewhere(path.as_str())
            {
                reader.warning(item, format!("`{path}` denies within one segment for each `*`")).help =
                    Some("OpenShell lets `*` cross `/`; write `**` where that was meant".into());
            }
            Some(Written { rule, origin: reader.origin(item.span.clone()) })
        });
        // One warning for the whole list: it would be the same for each rule.
        if let Some((path, origin)) = without_extensions(&rules) {
            let message = format!("`{path}` denies itself, and not `{path}.json` or `{path}.xml`");
            let help = format!("some servers (Rails) take these for the same: deny `{path}.**` as well");
            self.say(Diagnostic::warning(origin.span.clone(), message)).help = Some(help);
        }
        rules
    }

    pub(super) fn empty(&mut self, node: Option<&Node>, name: &str, help: &str) {
        if let Some(node) = node
            && matches!(&node.value, Value::List(items) if items.is_empty())
        {
            self.error(node, format!("`{name}` is empty")).help = Some(help.into());
        }
    }

    fn rule(&mut self, node: &Node, speaks: Speaks, deny: bool) -> Option<Rule> {
        match speaks.protocol {
            Some(Protocol::Graphql) => self.graphql_rule(node).map(Rule::Graphql),
            Some(Protocol::Mcp | Protocol::JsonRpc) => self.rpc_rule(node, speaks, deny).map(Rule::Rpc),
            // A rule about messages of GraphQL over WebSocket.
            Some(Protocol::Websocket) if names_operations(node) => self.graphql_rule(node).map(Rule::Graphql),
            _ => self.http_rule(node, speaks.protocol).map(Rule::Http),
        }
    }

    fn http_rule(&mut self, node: &Node, protocol: Option<Protocol>) -> Option<HttpRule> {
        let fields = self.object(node, &fields::RULE)?;
        let method = fields.get("method").map(|n| self.method(n, protocol));
        let path = fields.get("path").map(|n| self.rule_path(n));
        let query = self.query(fields.get("query"));
        let text = self.patterns(fields.get("text"));
        let json = self.json_matchers(fields.get("json"));
        let (method, path) = (method??, path??);
        for name in ["text", "json"] {
            if let Some(node) = fields.get(name)
                && !matches!(&method, Method::Named(method) if &**method == WEBSOCKET_TEXT)
            {
                self.error(
                    node,
                    format!("`{name}` is for `method: WEBSOCKET_TEXT` of a `websocket` endpoint"),
                );
            }
        }
        Some(HttpRule { method, path, query, text: text?, json: json? })
    }

    fn method(&mut self, node: &Node, protocol: Option<Protocol>) -> Option<Method> {
        let text = self.text(node)?;
        if text == "*" {
            return Some(Method::Any);
        }
        if text.contains('*') || !is_method(&text) {
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
            if let Some(any) = self.patterns(Some(value)) {
                out.push(QueryMatcher { name: name.into(), any });
            }
        }
        out
    }

    /// Reads a pattern, or `{ any: [patterns] }`. `None` if the node can't be read: an unreadable matcher
    /// must never be taken for no matcher.
    pub(super) fn patterns(&mut self, node: Option<&Node>) -> Option<Vec<Glob>> {
        let Some(node) = node else { return Some(Vec::new()) };
        let any = match &node.value {
            Value::Map(_) => {
                let fields = self.object(node, &fields::MATCHER)?;
                self.alternatives(&fields)
            }
            _ => self.value_pattern(node).into_iter().collect(),
        };
        (!any.is_empty()).then_some(any)
    }

    fn alternatives(&mut self, fields: &Fields<'_>) -> Vec<Glob> {
        let node = fields.get("any");
        self.empty(node, "any", "list the patterns");
        self.each(node, Self::value_pattern)
    }

    pub(super) fn value_pattern(&mut self, node: &Node) -> Option<Glob> {
        let text = self.loose_text(node)?;
        match Glob::path(&text) {
            Ok(glob) => Some(glob),
            Err(error) => {
                self.error(node, error.to_string());
                None
            }
        }
    }
}

/// Whether a rule is about GraphQL operations.
fn names_operations(node: &Node) -> bool {
    let Value::Map(pairs) = &node.value else { return false };
    let is = |key: &Node| matches!(&key.value, Value::Text(key) if fields::GRAPHQL_RULE.field(key).is_some());
    pairs.iter().any(|(key, _)| is(key))
}

/// The first deny rule that ends in a name, such as `/users`, while no rule of the list denies that name with
/// an extension, such as `/users.json`.
fn without_extensions(rules: &[Written]) -> Option<(&PathPattern, &Origin)> {
    let all = || {
        rules.iter().filter_map(|written| match &written.rule {
            Rule::Http(rule) => Some((rule, &written.origin)),
            _ => None,
        })
    };
    let (rule, origin) = all().filter(|(rule, _)| ends_in_a_name(rule.path.as_str())).find(|(rule, _)| {
        // The rule's pattern serves as a path: wildcards match themselves, too.
        let extended =
            CanonicalPath::parse(&format!("{}.x", rule.path), PathOptions { allow_encoded_slash: true });
        let denies = |other: &HttpRule, path: &CanonicalPath| {
            (other.method == Method::Any || other.method == rule.method) && other.path.matches(path)
        };
        extended.is_ok_and(|path| !all().any(|(other, _)| denies(other, &path)))
    })?;
    Some((&rule.path, origin))
}

/// Whether a pattern's last segment is one name without an extension.
fn ends_in_a_name(pattern: &str) -> bool {
    let last = pattern.rsplit('/').next().unwrap_or_default();
    !last.is_empty() && !last.contains(['.', '*', '?', '['])
}

/// Whether a pattern holds a lone `*`, which in other pattern languages crosses segments.
fn crosses_elsewhere(pattern: &str) -> bool {
    pattern.replace("**", "").contains('*')
}
