//! Whatever our parsers of JSON, JSON-RPC and MCP accept, serde_json accepts too, and reads the same.

use serde_json::Value;

use crate::content::json::Json;
use crate::content::rpc::{self, Message, TOOLS_CALL};

/// The property.
pub fn holds(bytes: &[u8]) {
    let Ok(ours) = Json::parse(bytes) else { return };
    let theirs: Value = serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {ours:?}"));
    assert!(same(&ours, &theirs), "{ours:?} {theirs:?}");
    for mcp in [false, true] {
        let Ok(messages) = rpc::read(bytes, mcp) else { continue };
        let members = theirs.as_array().map_or(std::slice::from_ref(&theirs), Vec::as_slice);
        assert_eq!(messages.len(), members.len());
        for (message, member) in messages.iter().zip(members) {
            message_holds(message, member, mcp);
        }
    }
}

fn message_holds(ours: &Message<'_>, theirs: &Value, mcp: bool) {
    assert_eq!(theirs["jsonrpc"], "2.0");
    let Message::Call { method, tool, params } = ours else {
        assert!(theirs.get("method").is_none() && theirs.get("id").is_some(), "{theirs}");
        return;
    };
    assert_eq!(theirs["method"], method.as_ref());
    assert!(theirs.get("result").is_none() && theirs.get("error").is_none(), "{theirs}");
    assert!(params.as_ref().map_or(theirs.get("params").is_none(), |params| same(params, &theirs["params"])));
    assert_eq!(tool.is_some(), mcp && method == TOOLS_CALL);
    if let Some(tool) = tool {
        let params = &theirs["params"];
        assert_eq!(params["name"], tool.as_ref());
        let arguments = ours.arguments();
        assert!(arguments.map_or(params.get("arguments").is_none(), |own| same(own, &params["arguments"])));
    }
}

/// Whether our reading and serde_json's are equal.
pub(crate) fn same(ours: &Json<'_>, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Json::Null, Value::Null) => true,
        (Json::Bool(a), Value::Bool(b)) => a == b,
        (Json::Number(a), Value::Number(b)) => {
            a.parse().is_ok_and(|a| b.as_f64().is_some_and(|b| close(a, b)))
        }
        (Json::Text(a), Value::String(b)) => a == b,
        (Json::List(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Json::Map(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(&**key).is_some_and(|v| same(value, v)))
        }
        _ => false,
    }
}

/// Compares with a tolerance: serde_json rounds the last bits of a fraction in its own way.
fn close(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= a.abs() * 4.0 * f64::EPSILON
}
