//! What is read of a request beyond its head: the types shared by the protocols whose bodies are judged.
//!
//! Bytes are parsed strictly into a [`Reading`] here ([`Reading::of`]) or are [`Reading::Unreadable`], and
//! the matcher judges that. The caller must send exactly the bytes that were read. Nothing here does I/O or
//! keeps state.

use serde::Serialize;

use crate::Protocol;

pub mod graphql;
pub mod json;
pub mod rpc;
pub mod socket;

pub use graphql::{Operation, OperationKind, Selected};
pub use json::Json;
pub use rpc::Message;
pub use socket::SocketMessage;

/// Most members of a batch, each of which is judged by itself.
pub const MAX_BATCH: usize = 100;
/// Bytes of a body that are held and judged where the policy says nothing: OpenShell's default.
pub const DEFAULT_BODY_BYTES: u32 = 64 * 1024;
/// The largest bound that a policy may set for one body, in bytes: ten times the largest tool call seen in
/// practice.
pub const MAX_BODY_BYTES: u32 = 8 * 1024 * 1024;

/// Why a body or message can't be judged, and so isn't sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "why", content = "what")]
pub enum Unreadable {
    /// Over the endpoint's bound, in bytes.
    #[error("it is longer than {0} bytes")]
    TooLong(u32),
    /// Not UTF-8.
    #[error("it is not valid UTF-8")]
    Utf8,
    /// Not JSON; the fault is at this byte.
    #[error("it is not valid JSON (at byte {0})")]
    Syntax(usize),
    /// Nested deeper than [`json::MAX_JSON_DEPTH`].
    #[error("it is nested deeper than {} levels", json::MAX_JSON_DEPTH)]
    Deep,
    /// More values than [`json::MAX_JSON_VALUES`].
    #[error("it holds more than {} values", json::MAX_JSON_VALUES)]
    Large,
    /// A key stands twice; parsers disagree on which of the two counts.
    #[error("a key stands twice in one object, or in two spellings")]
    Twice,
    /// A key holds a control character; parsers disagree on where such a key ends.
    #[error("a key holds a control character")]
    Key,
    /// A number is out of range; parsers disagree on numbers that no double holds.
    #[error("it holds a number that is out of range")]
    Number,
    /// Empty, or over [`MAX_BATCH`].
    #[error("a batch has from 1 to {MAX_BATCH} members")]
    Batch,
    /// JSON, but no message of the protocol.
    #[error("{0}")]
    Shape(&'static str),
    /// Not GraphQL.
    #[error("its GraphQL document can't be read: {0}")]
    Document(&'static str),
    /// The head declares a body that isn't of the protocol's kind.
    #[error("{0}")]
    Head(&'static str),
}

/// What was read of a request beyond its head.
#[derive(Debug, Clone, Copy, Default)]
pub enum Content<'a> {
    /// Nothing.
    #[default]
    Unread,
    /// JSON-RPC messages, one or a batch.
    Rpc(&'a [Message<'a>]),
    /// GraphQL operations, one or a batch.
    Graphql(&'a [Operation<'a>]),
    /// A text message on a WebSocket.
    Text(Text<'a>),
    /// A binary message on a WebSocket.
    Binary,
    /// A body or message that can't be judged.
    Unreadable(&'a Unreadable),
}

/// A text message on a WebSocket.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    /// The whole message.
    pub text: &'a str,
    /// The message as JSON, if it is valid JSON.
    pub json: Option<&'a Json<'a>>,
    /// The message as GraphQL over WebSocket, or why it can't be read so; `None` where no rule asks.
    pub graphql: Option<Result<&'a SocketMessage<'a>, &'a Unreadable>>,
}

/// Which readings of a WebSocket's messages the rules need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asks {
    /// Whether a message must be read as JSON.
    pub json: bool,
    /// Whether a message must be read as GraphQL over WebSocket.
    pub graphql: bool,
}

/// A text message on a WebSocket, read as far as the rules need.
#[derive(Debug)]
pub struct SaidText<'a> {
    text: &'a str,
    json: Option<Json<'a>>,
    graphql: Option<Result<SocketMessage<'a>, Unreadable>>,
}

impl<'a> SaidText<'a> {
    /// Reads it.
    #[must_use]
    pub fn read(text: &'a str, asks: Asks) -> Self {
        Self {
            text,
            json: asks.json.then(|| Json::parse(text.as_bytes()).ok()).flatten(),
            graphql: asks.graphql.then(|| socket::read(text)),
        }
    }

    /// To be judged.
    #[must_use]
    pub fn content(&self) -> Content<'_> {
        let graphql = self.graphql.as_ref().map(Result::as_ref);
        Content::Text(Text { text: self.text, json: self.json.as_ref(), graphql })
    }
}

/// A parsed body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading<'a> {
    /// As JSON-RPC.
    Rpc(Vec<Message<'a>>),
    /// As GraphQL.
    Graphql(Vec<Operation<'a>>),
    /// Not readable, and why.
    Unreadable(Unreadable),
}

impl<'a> Reading<'a> {
    /// Parses a body as `protocol` defines it.
    #[must_use]
    pub fn of(protocol: Protocol, body: &'a [u8]) -> Self {
        let read = match protocol {
            Protocol::Mcp | Protocol::JsonRpc => rpc::read(body, protocol == Protocol::Mcp).map(Self::Rpc),
            Protocol::Graphql => graphql::read(body).map(Self::Graphql),
            Protocol::Rest | Protocol::Websocket => {
                Err(Unreadable::Head("bodies are not read on this endpoint"))
            }
        };
        read.unwrap_or_else(Self::Unreadable)
    }

    /// To be judged.
    #[must_use]
    pub fn content(&self) -> Content<'_> {
        match self {
            Self::Rpc(messages) => Content::Rpc(messages),
            Self::Graphql(operations) => Content::Graphql(operations),
            Self::Unreadable(why) => Content::Unreadable(why),
        }
    }
}

/// What is judged by itself: a request's head, or one member of the body or message that was read behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part<'a> {
    Head,
    Rpc(&'a Message<'a>),
    Graphql(&'a Operation<'a>),
    Text(Text<'a>),
    Binary,
    Unreadable(&'a Unreadable),
}

fn shape<T>(why: &'static str) -> Result<T, Unreadable> {
    Err(Unreadable::Shape(why))
}

/// Reads a single member, or each member of a batch.
fn each<'a, T>(
    value: Json<'a>,
    mut read: impl FnMut(Json<'a>) -> Result<T, Unreadable>,
) -> Result<Vec<T>, Unreadable> {
    match value {
        Json::List(members) if members.is_empty() || members.len() > MAX_BATCH => Err(Unreadable::Batch),
        Json::List(members) => members.into_iter().map(read).collect(),
        one => Ok(vec![read(one)?]),
    }
}
