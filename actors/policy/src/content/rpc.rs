//! JSON-RPC 2.0 (<https://www.jsonrpc.org/specification>) and MCP's use of it: calls, notifications, answers,
//! batches.

use std::borrow::Cow;

use super::json::{Json, folds_to};
use super::{Unreadable, each};

/// Longest method or tool name, in bytes; MCP's own advice for tools is 128.
pub const MAX_NAME_BYTES: usize = 256;
/// The MCP method whose `params.name` is a tool.
pub(crate) const TOOLS_CALL: &str = "tools/call";

/// The methods and notifications that MCP defines for a client to send (2024-11-05 to 2025-11-25).
const MCP_METHODS: [&str; 24] = [
    "initialize",
    "ping",
    "tools/list",
    TOOLS_CALL,
    "resources/list",
    "resources/read",
    "resources/templates/list",
    "resources/subscribe",
    "resources/unsubscribe",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    "tasks/get",
    "tasks/result",
    "tasks/list",
    "tasks/cancel",
    "notifications/initialized",
    "notifications/cancelled",
    "notifications/progress",
    "notifications/roots/list_changed",
    "notifications/tasks/status",
    "notifications/message",
    "notifications/elicitation/complete",
];

/// Whether MCP defines a method.
pub(crate) fn is_mcp_method(method: &str) -> bool {
    MCP_METHODS.contains(&method)
}

/// Whether a tool's name is one that MCP recommends: `[A-Za-z0-9_.-]`, at most 128.
pub(crate) fn is_plain_tool(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// One message from the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// A request or a notification.
    Call {
        /// `method`.
        method: Cow<'a, str>,
        /// `params.name`, where the method is MCP's `tools/call`.
        tool: Option<Cow<'a, str>>,
        /// `params`.
        params: Option<Json<'a>>,
    },
    /// The client's answer to a request of the server's.
    Answer,
}

/// Reads a body: one message or a batch. `mcp` says whether `tools/call` names a tool.
pub(crate) fn read(body: &[u8], mcp: bool) -> Result<Vec<Message<'_>>, Unreadable> {
    each(Json::parse(body)?, |value| message(value, mcp))
}

fn shape<T>(why: &'static str) -> Result<T, Unreadable> {
    Err(Unreadable::Shape(why))
}

fn message(value: Json<'_>, mcp: bool) -> Result<Message<'_>, Unreadable> {
    let Json::Map(members) = value else { return shape("it is no JSON-RPC object") };
    let (mut version, mut id, mut method, mut params, mut answer) = (None, None, None, None, None);
    for (key, value) in members {
        let place = match &*key {
            "jsonrpc" => &mut version,
            "id" => &mut id,
            "method" => &mut method,
            "params" => &mut params,
            // `result` or `error`, but not both.
            "result" | "error" if answer.is_none() => &mut answer,
            _ => return shape("a JSON-RPC object has members that JSON-RPC 2.0 doesn't know"),
        };
        *place = Some(value);
    }
    if version.as_ref().and_then(Json::text) != Some("2.0") {
        return shape("it is not JSON-RPC 2.0 (`jsonrpc` must be \"2.0\")");
    }
    match &id {
        None | Some(Json::Text(_)) => {}
        Some(Json::Number(number)) if number.bytes().all(|b| b == b'-' || b.is_ascii_digit()) => {}
        Some(_) => return shape("a JSON-RPC `id` is a string or a whole number"),
    }
    if answer.is_some() {
        return match (id, method, params) {
            (Some(_), None, None) => Ok(Message::Answer),
            _ => shape("a JSON-RPC answer has an `id` and nothing of a call"),
        };
    }
    let Some(Json::Text(method)) = method else { return shape("a JSON-RPC call has no `method`") };
    if !is_name(&method) {
        return shape("the JSON-RPC method is empty, too long or holds control characters");
    }
    if !matches!(params, None | Some(Json::Map(_) | Json::List(_))) {
        return shape("JSON-RPC `params` are an object or a list");
    }
    let tool = if mcp && method == TOOLS_CALL { Some(tool(params.as_ref())?) } else { None };
    Ok(Message::Call { method, tool: tool.map(|name| Cow::Owned(name.to_owned())), params })
}

/// The name of the tool that a `tools/call` calls.
fn tool<'p>(params: Option<&'p Json<'_>>) -> Result<&'p str, Unreadable> {
    let Some(params @ Json::Map(_)) = params else { return shape("`tools/call` needs `params`") };
    if !matches!(params.member("arguments")?, None | Some(Json::Map(_))) {
        return shape("the `arguments` of `tools/call` are an object");
    }
    match params.member("name")?.and_then(Json::text) {
        Some(name) if is_name(name) => Ok(name),
        _ => shape("`tools/call` needs the tool's `name`"),
    }
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

impl Message<'_> {
    /// The `arguments` of a tool call.
    pub(crate) fn arguments(&self) -> Option<&Json<'_>> {
        match self {
            Self::Call { params: Some(Json::Map(members)), .. } => {
                members.iter().find(|(key, _)| folds_to(key, "arguments")).map(|(_, value)| value)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, Unreadable> {
        Ok(read(text.as_bytes(), true)?
            .iter()
            .map(|message| match message {
                Message::Call { method, tool: Some(tool), .. } => format!("{method} {tool}"),
                Message::Call { method, .. } => method.to_string(),
                Message::Answer => "(answer)".into(),
            })
            .collect())
    }

    #[test]
    fn calls_notifications_answers_and_batches() {
        for (text, wanted) in [
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#, "tools/list"),
            (
                r#"{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"search","arguments":{}}}"#,
                "tools/call search",
            ),
            (r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, "notifications/initialized"),
            (r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, "(answer)"),
            (r#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":""}}"#, "(answer)"),
            (r#"[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","method":"b","params":[1]}]"#, "a,b"),
            (
                r#"{"jsonrpc":"2.0","id":1,"meth\u006fd":"tools\/call","params":{"n\u0061me":"se\u0061rch"}}"#,
                "tools/call search",
            ),
        ] {
            assert_eq!(names(text).unwrap().join(","), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for text in [
            "1",
            "\"x\"",
            "null",
            "[]",
            "[[]]",
            "[1]",
            "{}",
            r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#,
            r#"{"id":1,"method":"a"}"#,
            r#"{"jsonrpc":2.0,"id":1,"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":1.5,"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":[1],"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":["a"]}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":""}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a\n"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a","params":"x"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a","Method":"b"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a","result":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{}}"#,
            r#"{"jsonrpc":"2.0","result":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":1}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":[]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{},"ARGUMENTS":{}}}"#,
        ] {
            assert!(names(text).is_err(), "{text} {:?}", names(text));
        }
        let many =
            format!("[{}]", vec![r#"{"jsonrpc":"2.0","method":"a"}"#; super::super::MAX_BATCH + 1].join(","));
        assert_eq!(names(&many), Err(Unreadable::Batch));
    }
}
