//! Rules about the content of bodies: JSON-RPC calls, MCP tools and their arguments, GraphQL operations.

use std::fmt;

use super::argument::JsonMatcher;
use crate::Glob;
use crate::content::rpc::{TOOLS_CALL, is_mcp_method};
use crate::content::{Message, OperationKind, Selected};

/// Which methods a JSON-RPC rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RpcMethod {
    /// The methods that MCP defines: the rule has no `method`, and `mcp.allow_all_known_mcp_methods` is on.
    Known,
    /// The methods that match.
    Named(Glob),
}

impl RpcMethod {
    /// Whether the rule is about `method`.
    #[must_use]
    pub fn covers(&self, method: &str) -> bool {
        match self {
            Self::Known => is_mcp_method(method),
            Self::Named(glob) => glob.as_str() == "*" || glob.matches(method),
        }
    }
}

/// A rule of an `mcp` or `json-rpc` endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcRule {
    /// Which methods.
    pub method: RpcMethod,
    /// Which tools, for `tools/call`; empty is any.
    pub tool: Vec<Glob>,
    /// What must stand in `params`.
    pub params: Vec<JsonMatcher>,
    /// What must stand in the tool's `arguments`.
    pub arguments: Vec<JsonMatcher>,
}

impl RpcRule {
    /// A rule for every method that MCP defines.
    #[must_use]
    pub fn profile() -> Self {
        Self { method: RpcMethod::Known, tool: Vec::new(), params: Vec::new(), arguments: Vec::new() }
    }

    /// Whether the rule, as an allow rule, covers a call. Answers aren't subject to rules.
    #[must_use]
    pub fn allows(&self, message: &Message<'_>) -> bool {
        let Message::Call { method, params, .. } = message else { return false };
        if !self.method.covers(method) {
            return false;
        }
        // `tool` narrows `tools/call` only; the other known methods stay allowed.
        if self.method == RpcMethod::Known && method != TOOLS_CALL {
            return true;
        }
        let all = |matchers: &[JsonMatcher], value: Option<&_>| {
            matchers.is_empty() || value.is_some_and(|value| matchers.iter().all(|m| m.allows(value)))
        };
        self.tool_matches(message)
            && all(&self.params, params.as_ref())
            && all(&self.arguments, message.arguments())
    }

    /// Whether the rule, as a deny rule, hits a call.
    #[must_use]
    pub fn denies(&self, message: &Message<'_>) -> bool {
        let Message::Call { method, params, .. } = message else { return false };
        let any = |matchers: &[JsonMatcher], value: Option<&_>| {
            matchers.is_empty() || value.is_some_and(|value| matchers.iter().all(|m| m.denies(value)))
        };
        self.method.covers(method)
            && self.tool_matches(message)
            && any(&self.params, params.as_ref())
            && any(&self.arguments, message.arguments())
    }

    /// Whether the call is of one of the rule's tools.
    #[must_use]
    pub fn tool_matches(&self, message: &Message<'_>) -> bool {
        match message {
            Message::Call { tool: Some(tool), .. } => {
                self.tool.is_empty() || self.tool.iter().any(|glob| glob.matches(tool))
            }
            _ => self.tool.is_empty(),
        }
    }
}

impl fmt::Display for RpcRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.method {
            RpcMethod::Known => f.write_str("every MCP method")?,
            RpcMethod::Named(glob) => write!(f, "{glob}")?,
        }
        if !self.tool.is_empty() {
            let tools: Vec<&str> = self.tool.iter().map(Glob::as_str).collect();
            write!(f, " {}", tools.join("|"))?;
        }
        if !self.params.is_empty() {
            write!(f, " params {}", list(&self.params))?;
        }
        if !self.arguments.is_empty() {
            write!(f, " with {}", list(&self.arguments))?;
        }
        Ok(())
    }
}

/// Matchers in words.
pub(crate) fn list(matchers: &[JsonMatcher]) -> String {
    matchers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A rule of a `graphql` endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphqlRule {
    /// Which kind; none is any.
    pub kind: Option<OperationKind>,
    /// Which names; none is any, also no name.
    pub name: Option<Glob>,
    /// Which root fields; empty is any.
    pub fields: Vec<Glob>,
}

impl GraphqlRule {
    /// Whether the rule, as an allow rule, covers an operation: every root field must match.
    #[must_use]
    pub fn allows(&self, operation: &Selected) -> bool {
        self.head_matches(operation)
            && (self.fields.is_empty()
                || operation
                    .fields
                    .as_ref()
                    .is_some_and(|fields| fields.iter().all(|field| self.field_matches(field))))
    }

    /// Whether the rule, as a deny rule, hits an operation: one matching root field is enough, and unknown
    /// fields count as matching.
    #[must_use]
    pub fn denies(&self, operation: &Selected) -> bool {
        self.head_matches(operation)
            && (self.fields.is_empty()
                || operation
                    .fields
                    .as_ref()
                    .is_none_or(|fields| fields.iter().any(|field| self.field_matches(field))))
    }

    /// Whether the operation's kind and name match.
    #[must_use]
    pub fn head_matches(&self, operation: &Selected) -> bool {
        self.kind.is_none_or(|kind| kind == operation.kind)
            && self
                .name
                .as_ref()
                .is_none_or(|glob| operation.name.as_ref().is_some_and(|name| glob.matches(name)))
    }

    /// Whether one of the rule's fields matches `field`.
    #[must_use]
    pub fn field_matches(&self, field: &str) -> bool {
        self.fields.iter().any(|glob| glob.matches(field))
    }
}

impl fmt::Display for GraphqlRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.map_or("*", OperationKind::as_str))?;
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        if !self.fields.is_empty() {
            let fields: Vec<&str> = self.fields.iter().map(Glob::as_str).collect();
            write!(f, " {{ {} }}", fields.join(" "))?;
        }
        Ok(())
    }
}
