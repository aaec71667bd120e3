//! Rules of `graphql`, `mcp` and `json-rpc`, and the options of these protocols.

use std::collections::BTreeMap;

use super::{Fields, Reader};
use crate::content::rpc::TOOLS_CALL;
use crate::content::{DEFAULT_BODY_BYTES, Json, MAX_BODY_BYTES, OperationKind, Selected};
use crate::fields::{self, Object};
use crate::model::{
    Bodies, Endpoint, GraphqlRule, JsonMatcher, Pointer, RpcMethod, RpcRule, Rule, ValueMatcher,
    WEBSOCKET_TEXT, Written,
};
use crate::yaml::{Node, Value};
use crate::{Glob, Protocol};

/// The settings of an endpoint that decide how its rules are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speaks {
    pub(super) protocol: Option<Protocol>,
    /// `mcp.allow_all_known_mcp_methods`
    pub(super) known_mcp_methods: bool,
}

impl Reader<'_> {
    pub(super) fn graphql_rule(&mut self, node: &Node) -> Option<GraphqlRule> {
        let object = &fields::GRAPHQL_RULE;
        let fields = self.object(node, object)?;
        let kind = self.word(Some(fields.get("operation_type")?), object, "operation_type")?;
        let name = fields.get("operation_name").map(|node| self.value_pattern(node));
        let patterns = fields.get("fields").map(|node| self.field_patterns(node));
        Some(GraphqlRule {
            kind: OperationKind::of(kind),
            name: name.map_or(Some(None), |name| name.map(Some))?,
            fields: patterns.unwrap_or(Some(Vec::new()))?,
        })
    }

    fn field_patterns(&mut self, node: &Node) -> Option<Vec<Glob>> {
        self.empty(Some(node), "fields", "take it out: absent is any field");
        let patterns = self.each(Some(node), Self::value_pattern);
        let whole = matches!(&node.value, Value::List(items) if items.len() == patterns.len());
        whole.then_some(patterns)
    }

    pub(super) fn rpc_rule(&mut self, node: &Node, speaks: Speaks, deny: bool) -> Option<RpcRule> {
        let fields = self.object(node, &fields::RPC_RULE)?;
        let method = fields.get("method").map(|node| self.value_pattern(node));
        let mut tool = self.patterns(fields.get("tool"))?;
        let mut params = self.json_matchers(fields.get("params"))?;
        let arguments = self.json_matchers(fields.get("arguments"))?;
        let mcp = speaks.protocol == Some(Protocol::Mcp);
        if mcp && let Some(at) = params.iter().position(|m| matches!(m.at.as_str(), "name" | "/name")) {
            if !tool.is_empty() {
                self.error(node, "`tool` and `params.name` are the same: keep one of them");
                return None;
            }
            tool = params
                .remove(at)
                .any
                .into_iter()
                .filter_map(|value| match value {
                    ValueMatcher::Text(glob) => Some(glob),
                    _ => None,
                })
                .collect();
            if tool.is_empty() {
                self.error(node, "`params.name` must be text");
                return None;
            }
        }
        let of_tool = !tool.is_empty() || !arguments.is_empty();
        let method = match method {
            Some(method) => RpcMethod::Named(method?),
            None if !speaks.known_mcp_methods => {
                self.error(node, "`method` is missing in this rule").help = Some(
                    "name it, `*` for any; on `mcp` endpoints, or set `mcp.allow_all_known_mcp_methods`"
                        .into(),
                );
                return None;
            }
            // In a deny rule without a method, a tool stands for its calls.
            None if deny && of_tool => RpcMethod::Named(Glob::path(TOOLS_CALL).ok()?),
            None => RpcMethod::Known,
        };
        let calls = match &method {
            RpcMethod::Named(glob) => glob.as_str() == TOOLS_CALL,
            RpcMethod::Known => true,
        };
        if of_tool && !(mcp && calls) {
            self.error(node, "`tool` and `arguments` need `method: tools/call` on an `mcp` endpoint").help =
                Some("on `json-rpc` endpoints `params` judges what is sent".into());
            return None;
        }
        Some(RpcRule { method, tool, params, arguments })
    }

    /// Reads matchers, each with its place. `None` if one can't be read.
    pub(super) fn json_matchers(&mut self, node: Option<&Node>) -> Option<Vec<JsonMatcher>> {
        let Some(node) = node else { return Some(Vec::new()) };
        let Value::Map(pairs) = &node.value else {
            self.mistyped(node, "a map of members or JSON pointers");
            return None;
        };
        let mut out: Vec<JsonMatcher> = Vec::new();
        for (key, value) in pairs {
            let name = self.key(key)?;
            let Some(at) = Pointer::parse(&name) else {
                self.error(key, format!("`{name}` is no JSON pointer (RFC 6901), or too deep"));
                return None;
            };
            if out.iter().any(|matcher| matcher.at == at) {
                self.error(key, format!("`{name}` is there twice"));
                return None;
            }
            out.push(JsonMatcher { at, any: self.values(value)? });
        }
        Some(out)
    }

    fn values(&mut self, node: &Node) -> Option<Vec<ValueMatcher>> {
        let Value::Map(_) = &node.value else { return Some(vec![self.value_matcher(node)?]) };
        let fields = self.object(node, &fields::VALUE_MATCHER)?;
        let node = fields.get("any")?;
        self.empty(Some(node), "any", "list what may stand there");
        let values = self.each(Some(node), Self::value_matcher);
        let whole =
            matches!(&node.value, Value::List(items) if items.len() == values.len() && !items.is_empty());
        whole.then_some(values)
    }

    fn value_matcher(&mut self, node: &Node) -> Option<ValueMatcher> {
        match &node.value {
            Value::Bool(value) => Some(ValueMatcher::Bool(*value)),
            Value::Integer(_) | Value::Float => {
                let text = self.source_of(node);
                if let Ok(Json::Number(_)) = Json::parse(text.as_bytes()) {
                    return Some(ValueMatcher::Number(text.into()));
                }
                self.error(node, format!("`{text}` is no number as JSON writes them"));
                None
            }
            _ => self.value_pattern(node).map(ValueMatcher::Text),
        }
    }

    // Options.

    pub(super) fn bodies(&mut self, fields: &Fields<'_>, protocol: Option<Protocol>) -> Bodies {
        let mut out = Bodies::default();
        const GRAPHQL: &[Protocol] = &[Protocol::Graphql, Protocol::Websocket];
        for (name, wanted) in [
            ("mcp", &[Protocol::Mcp][..]),
            ("json_rpc", &[Protocol::JsonRpc]),
            ("graphql_max_body_bytes", &[Protocol::Graphql]),
            ("persisted_queries", GRAPHQL),
            ("graphql_persisted_queries", GRAPHQL),
        ] {
            if let Some(node) = fields.get(name)
                && protocol.is_none_or(|protocol| !wanted.contains(&protocol))
            {
                let wanted: Vec<&str> = wanted.iter().map(|protocol| protocol.as_str()).collect();
                self.error(node, format!("`{name}` is for `protocol: {}`", wanted.join("` or `")));
            }
        }
        if let Some(options) = fields.get("mcp").and_then(|node| self.object(node, &fields::MCP)) {
            out.max_bytes = self.body_bytes(options.get("max_body_bytes"));
            out.strict_tool_names = self.boolean(options.get("strict_tool_names")).unwrap_or(true);
            out.known_mcp_methods = self.boolean(options.get("allow_all_known_mcp_methods")).unwrap_or(false);
            out.client_responses = self.boolean(options.get("allow_client_responses")).unwrap_or(true);
        }
        if let Some(options) = fields.get("json_rpc").and_then(|node| self.object(node, &fields::JSON_RPC)) {
            out.max_bytes = self.body_bytes(options.get("max_body_bytes"));
        }
        if let Some(node) = fields.get("graphql_max_body_bytes") {
            out.max_bytes = self.body_bytes(Some(node));
        }
        let registered = fields.get("graphql_persisted_queries");
        match self.word(fields.get("persisted_queries"), &fields::ENDPOINT, "persisted_queries") {
            Some("allow_registered") => out.persisted = Some(self.persisted(registered)),
            _ => {
                if let Some(node) = registered {
                    self.error(
                        node,
                        "`graphql_persisted_queries` needs `persisted_queries: allow_registered`",
                    );
                }
            }
        }
        out
    }

    fn body_bytes(&mut self, node: Option<&Node>) -> u32 {
        let Some(node) = node else { return DEFAULT_BODY_BYTES };
        let number = match &node.value {
            Value::Integer(number) => u32::try_from(*number).ok(),
            _ => None,
        };
        match number.filter(|number| (1..=MAX_BODY_BYTES).contains(number)) {
            Some(number) => number,
            None => {
                self.error(node, format!("a body's bound is a number of bytes from 1 to {MAX_BODY_BYTES}"));
                DEFAULT_BODY_BYTES
            }
        }
    }

    fn persisted(&mut self, node: Option<&Node>) -> BTreeMap<Box<str>, Selected> {
        let mut out = BTreeMap::new();
        let Some(node) = node else { return out };
        let Value::Map(pairs) = &node.value else {
            self.mistyped(node, "a map from hash or id to operation");
            return out;
        };
        let object: &'static Object = &fields::PERSISTED;
        for (key, value) in pairs {
            let (Some(id), Some(fields)) = (self.key(key), self.object(value, object)) else { continue };
            let kind = self.word(fields.get("operation_type"), object, "operation_type");
            let name = fields.get("operation_name").and_then(|node| self.text(node));
            let roots = fields.get("fields").map(|node| self.each(Some(node), Self::text));
            let roots = roots.map(|roots| roots.into_iter().map(Into::into).collect());
            let Some(kind) = kind.and_then(OperationKind::of) else { continue };
            if out
                .insert(id.as_str().into(), Selected { kind, name: name.map(Into::into), fields: roots })
                .is_some()
            {
                self.error(key, format!("`{id}` is there twice"));
            }
        }
        out
    }

    /// Checks that rules about a WebSocket's messages fit together: a rule that allows messages whatever they
    /// say would make the others moot.
    pub(super) fn check_messages(&mut self, node: &Node, fields: &Fields<'_>, endpoint: &Endpoint) {
        let operations = |it: &Written| matches!(&it.rule, Rule::Graphql(_));
        let raw = |it: &Written| matches!(&it.rule, Rule::Http(rule) if rule.method.covers(WEBSOCKET_TEXT));
        if endpoint.rules.iter().any(operations) && endpoint.rules.iter().any(raw) {
            let message =
                "`rules` allow messages by `WEBSOCKET_TEXT` beside those that name GraphQL operations";
            self.error(fields.get("rules").unwrap_or(node), message).help =
                Some("keep one kind; the handshake is `method: GET`".into());
        }
        let shakes_hands = |it: &Written| matches!(&it.rule, Rule::Http(rule) if rule.method.covers("GET"));
        if endpoint.rules.iter().any(operations) && !endpoint.rules.iter().any(shakes_hands) {
            self.warning(fields.get("rules").unwrap_or(node), "no rule here allows the handshake").help =
                Some("add one with `method: GET` and the path, unless another entry has it".into());
        }
        if fields.get("persisted_queries").is_some()
            && !endpoint.rules.iter().chain(&endpoint.deny_rules).any(operations)
        {
            let message = "`persisted_queries` has nothing to say where no rule names GraphQL operations";
            self.error(fields.get("persisted_queries").unwrap_or(node), message);
        }
    }

    /// Checks that MCP rules fit together: a broad rule would make the rules for single tools moot.
    pub(super) fn check_mcp(&mut self, node: &Node, fields: &Fields<'_>, endpoint: &Endpoint) {
        let single = |it: &Written| matches!(&it.rule, Rule::Rpc(rule) if !rule.tool.is_empty());
        let broad = |it: &Written| {
            matches!(&it.rule, Rule::Rpc(rule) if rule.tool.is_empty() && rule.arguments.is_empty()
                && rule.params.is_empty() && rule.method.covers(TOOLS_CALL))
        };
        if !endpoint.rules.iter().any(single) {
            return;
        }
        for (name, rules) in [("rules", &endpoint.rules), ("deny_rules", &endpoint.deny_rules)] {
            if rules.iter().any(broad) {
                let message =
                    format!("`{name}` has a rule for every tool beside rules that allow single tools");
                self.error(fields.get(name).unwrap_or(node), message).help =
                    Some("give it a `tool`, or take the others out".into());
            }
        }
    }
}
