//! What is read of a request beyond its head: the vocabulary of body-judging protocols.
//!
//! Bytes become a [`Reading`] here ([`Reading::of`]), strictly or not at all, and the matcher judges what was
//! read. Whoever sends must send exactly the bytes that were read. Nothing here does I/O or keeps anything.

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
/// The most that a policy may ask to be held of one body, bytes: ten times the largest tool call that one
/// sees.
pub const MAX_BODY_BYTES: u32 = 8 * 1024 * 1024;

/// Why what was sent can't be judged, and so isn't sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "why", content = "what")]
pub enum Unreadable {
    /// Over the endpoint's bound, in bytes.
    #[error("it is longer than {0} bytes")]
    TooLong(u32),
    /// Not UTF-8.
    #[error("it is not valid UTF-8")]
    Utf8,
    /// Not JSON, from this byte on.
    #[error("it is not valid JSON (at byte {0})")]
    Syntax(usize),
    /// Over [`json::MAX_JSON_DEPTH`].
    #[error("it is nested deeper than {} levels", json::MAX_JSON_DEPTH)]
    Deep,
    /// Over [`json::MAX_JSON_VALUES`].
    #[error("it holds more than {} values", json::MAX_JSON_VALUES)]
    Large,
    /// Parsers disagree on which of the two counts.
    #[error("a key stands twice in one object, or in two spellings")]
    Twice,
    /// Parsers disagree on where such a key ends.
    #[error("a key holds a control character")]
    Key,
    /// Parsers disagree on numbers that no double holds.
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
    /// The head says that the body is something else than the protocol has.
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
    /// Something that can't be judged.
    Unreadable(&'a Unreadable),
}

/// A text message on a WebSocket.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    /// The whole message.
    pub text: &'a str,
    /// The message as JSON, if it is that.
    pub json: Option<&'a Json<'a>>,
    /// The message as GraphQL over WebSocket, or why it is none; absent where no rule asks.
    pub graphql: Option<Result<&'a SocketMessage<'a>, &'a Unreadable>>,
}

/// What rules ask of a WebSocket's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asks {
    /// What one says as JSON.
    pub json: bool,
    /// Which GraphQL operation one asks for.
    pub graphql: bool,
}

/// A text message on a WebSocket, read as far as rules ask.
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

/// A body, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading<'a> {
    /// As JSON-RPC.
    Rpc(Vec<Message<'a>>),
    /// As GraphQL.
    Graphql(Vec<Operation<'a>>),
    /// Not at all.
    Unreadable(Unreadable),
}

impl<'a> Reading<'a> {
    /// Reads a body as `protocol` has it.
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

/// One thing that is judged by itself: a request's head, or one member of what was read behind it.
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

/// Reads one member, or each of a batch.
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
