//! GraphQL over WebSocket: what a message of the client's asks for.
//!
//! Two protocols are in use, which differ in two message types: `graphql-transport-ws`
//! (<https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md>: `subscribe`, `complete`) and the older
//! `graphql-ws` of subscriptions-transport-ws (`start`, `stop`). Which of them a connection speaks needn't be
//! known: no message means one thing in the one and something else in the other.

use super::graphql::{self, Operation};
use super::json::Json;
use super::{Unreadable, shape};

/// A message of the client's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketMessage<'a> {
    /// Begins, keeps alive or ends the connection or one of its operations, and asks for no data.
    Lifecycle,
    /// Asks for an operation.
    Operation(Operation<'a>),
}

/// Reads a text message.
pub(crate) fn read(text: &str) -> Result<SocketMessage<'_>, Unreadable> {
    let Json::Map(members) = Json::parse(text.as_bytes())? else {
        return shape("it is no message of GraphQL over WebSocket");
    };
    let (mut kind, mut id, mut payload) = (None, false, None);
    for (key, value) in members {
        match (&*key, value) {
            ("type", Json::Text(text)) => kind = Some(text),
            ("id", Json::Text(_)) => id = true,
            ("payload", value) => payload = Some(value),
            ("type" | "id", _) => {
                return shape("`type` or `id` of a message of GraphQL over WebSocket is no text");
            }
            _ => return shape("it has members that GraphQL over WebSocket doesn't know"),
        }
    }
    match (kind.as_deref(), payload) {
        (Some("subscribe" | "start"), Some(payload)) if id => {
            graphql::request(payload).map(SocketMessage::Operation)
        }
        (Some("subscribe" | "start"), _) => {
            shape("a message that asks for an operation needs `id` and `payload`")
        }
        (Some("connection_init" | "connection_terminate" | "ping" | "pong"), _) if !id => {
            Ok(SocketMessage::Lifecycle)
        }
        (Some("complete" | "stop"), None) if id => Ok(SocketMessage::Lifecycle),
        _ => shape(
            "its `type` is none that a client of GraphQL over WebSocket sends, or its members don't go with it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::OperationKind;

    #[test]
    fn an_operation_is_read_in_both_protocols() {
        for kind in ["subscribe", "start"] {
            let text = format!(
                r#"{{"id":"1","type":"{kind}","payload":{{"query":"subscription M {{ messageAdded }}"}}}}"#
            );
            let Ok(SocketMessage::Operation(Operation::Written(read))) = read(&text) else {
                panic!("{kind}")
            };
            assert_eq!((read.kind, read.name.as_deref()), (OperationKind::Subscription, Some("M")));
        }
        let persisted = r#"{"type":"subscribe","id":"1","payload":{"documentId":"h1"}}"#;
        assert!(matches!(read(persisted), Ok(SocketMessage::Operation(Operation::Persisted { .. }))));
    }

    #[test]
    fn what_keeps_a_connection_asks_for_nothing() {
        for text in [
            r#"{"type":"connection_init"}"#,
            r#"{"type":"connection_init","payload":{"token":"x"}}"#,
            r#"{"type":"ping"}"#,
            r#"{"type":"pong","payload":{}}"#,
            r#"{"id":"1","type":"complete"}"#,
            r#"{"id":"1","type":"stop"}"#,
            r#"{"type":"connection_terminate"}"#,
        ] {
            assert_eq!(read(text), Ok(SocketMessage::Lifecycle), "{text}");
        }
    }

    #[test]
    fn what_a_server_could_read_otherwise_is_not_read() {
        let long = format!(r#"{{"type":"{}"}}"#, "x".repeat(300));
        for text in [
            "",
            "ping",
            "[]",
            r#"[{"type":"ping"}]"#,
            r#"{"type":"Subscribe","id":"1","payload":{"query":"{ a }"}}"#,
            r#"{"type":"subscribe","payload":{"query":"{ a }"}}"#,
            r#"{"type":"subscribe","id":"1"}"#,
            r#"{"type":"subscribe","id":1,"payload":{"query":"{ a }"}}"#,
            r#"{"type":"subscribe","id":"1","query":"{ a }"}"#,
            r#"{"type":"subscribe","id":"1","payload":"{ a }"}"#,
            r#"{"type":"subscribe","id":"1","payload":[{"query":"{ a }"}]}"#,
            r#"{"type":"subscribe","id":"1","payload":{"query":"{ a }"},"payload":{"query":"mutation { b }"}}"#,
            r#"{"type":"ping","Type":"subscribe","id":"1","payload":{"query":"{ a }"}}"#,
            r#"{"type":"complete","id":"1","payload":{"query":"{ a }"}}"#,
            r#"{"type":"ping","id":"1","payload":{"query":"{ a }"}}"#,
            r#"{"type":"next","id":"1","payload":{}}"#,
            r#"{"type":["subscribe"],"id":"1","payload":{"query":"{ a }"}}"#,
            r#"{"id":"1","payload":{"query":"{ a }"}}"#,
            &long,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
