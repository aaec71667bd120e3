//! A step of the road: judging what follows a request's head.
//!
//! Where an endpoint judges bodies, the body is read here, whole and bounded, and *those bytes* are what goes
//! on; nothing of them is changed. A body that can't be judged is refused by the policy like any other (and
//! under `enforcement: audit` sent on as it stands). Requests of other endpoints pass without a look.
//! [`websocket`] judges messages after the handshake.
//!
//! A long GraphQL body is read once, in the parse pool, apart from the threads that all exchanges share; what
//! it asks for is kept for each time that it is judged. A long JSON-RPC body, which is bounded by its values,
//! is read where it is judged, while the thread's other tasks move to another thread.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, header};
use http_body::Body as _;
use hyper::body::Incoming;
use policy::content::{Operation, Reading, Unreadable};
use policy::parse_pool::{ParsePool, SHORT};
use policy::{Content, Generation, Protocol, RequestFacts};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::answer::Refusal;
use crate::conn::Conn;
use crate::intent::Exchange;
use crate::limits::JUDGED_BODY_DEADLINE;
use crate::room::Room;
use crate::verdict::Granted;

mod forwarded;
pub(crate) mod websocket;

pub(crate) use forwarded::{Forwarded, Ungathered};

/// A body that was read to be judged, and is judged again when the policy changes.
#[derive(Debug, Clone)]
pub struct JudgedBody {
    protocol: Protocol,
    bytes: Bytes,
    /// The result of reading it, if that took so much work that it is kept.
    read: Option<Arc<Read>>,
    /// Why it can't be judged, if the head or the length shows that already.
    fault: Option<Unreadable>,
    /// Its share of the memory that all bodies may take.
    _room: Arc<Option<Room>>,
}

impl JudgedBody {
    /// Calls `judge` with the content, which is read anew unless it was kept.
    pub(crate) fn with<T>(&self, judge: impl FnOnce(Content<'_>) -> T) -> T {
        match (&self.fault, &self.read) {
            (Some(fault), _) => judge(Content::Unreadable(fault)),
            (None, Some(read)) => read.with(judge),
            (None, None) => beside(self.bytes.len(), || {
                let reading = Reading::of(self.protocol, &self.bytes);
                judge(reading.content())
            }),
        }
    }
}

/// Does `work` on a body of so many bytes. If it is long, the thread's other tasks move to another thread.
fn beside<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let shared = || Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if bytes > SHORT && matches!(shared(), Ok(RuntimeFlavor::MultiThread)) {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

/// The content of a GraphQL body, without its bytes.
#[derive(Debug)]
enum Read {
    Operations {
        all: Vec<Operation<'static>>,
        /// Names of the persisted operations among them, with their index in `all`, where they have none.
        names: Vec<(usize, Box<str>)>,
    },
    Unreadable(Unreadable),
}

impl Read {
    /// Reads a body.
    fn graphql(body: &[u8]) -> Self {
        match Reading::of(Protocol::Graphql, body) {
            Reading::Graphql(operations) => {
                let mut names = Vec::new();
                let owned = |(at, operation)| match operation {
                    Operation::Written(selected) => Operation::Written(selected),
                    Operation::Persisted { id, name } => {
                        names.extend(name.map(|name| (at, name.into())));
                        Operation::Persisted { id, name: None }
                    }
                };
                Self::Operations { all: operations.into_iter().enumerate().map(owned).collect(), names }
            }
            Reading::Unreadable(why) => Self::Unreadable(why),
            Reading::Rpc(_) => Self::Unreadable(Unreadable::Shape("it is no GraphQL request object")),
        }
    }

    /// Calls `judge` with the content.
    fn with<T>(&self, judge: impl FnOnce(Content<'_>) -> T) -> T {
        match self {
            Self::Unreadable(why) => judge(Content::Unreadable(why)),
            Self::Operations { all, names } if names.is_empty() => judge(Content::Graphql(all)),
            Self::Operations { all, names } => {
                let mut all: Vec<Operation<'_>> = all.clone();
                for (at, known) in names {
                    if let Some(Operation::Persisted { name, .. }) = all.get_mut(*at) {
                        *name = Some(known);
                    }
                }
                judge(Content::Graphql(&all))
            }
        }
    }

    /// About how many bytes of memory it takes.
    fn holds(&self) -> usize {
        /// Bytes that a name takes besides its letters: the reference to it, and the allocator's share.
        const A_NAME: usize = 32;
        let Self::Operations { all, .. } = self else { return 0 };
        let fields = all.iter().filter_map(|operation| match operation {
            Operation::Written(selected) => selected.fields.as_deref(),
            Operation::Persisted { .. } => None,
        });
        fields.flatten().map(|name| name.len() + A_NAME).sum()
    }
}

/// Reads a body that is to be judged. Where the endpoint judges none, nothing is read.
///
/// # Errors
/// The body broke off or took too long, or too many bodies are held already.
pub(crate) async fn read(
    conn: &Conn,
    generation: &Generation,
    granted: &Granted,
    exchange: &mut Exchange,
    parts: &Parts,
    body: Incoming,
) -> Result<Forwarded, Refusal> {
    if !granted.grant().is_some_and(|grant| grant.reads_bodies) {
        return Ok(Forwarded::untouched(body));
    }
    let facts = RequestFacts {
        method: exchange.method.as_str(),
        path: &exchange.path,
        query: &exchange.query,
        websocket: exchange.websocket,
        content: Content::Unread,
    };
    let asked = generation.compiled.body_of(granted.destination(), granted.caller(), &facts);
    let Some((protocol, max)) = asked else { return Ok(Forwarded::untouched(body)) };
    let fault = match head_fault(protocol, exchange, &parts.headers) {
        // MCP's stream and the end of its session have no body.
        Head::NoBody if body.is_end_stream() => return Ok(Forwarded::untouched(body)),
        Head::NoBody => Some(Unreadable::Head("only POST has a body here")),
        Head::Odd(why) => Some(Unreadable::Head(why)),
        Head::Fine => None,
    };
    if let Some(fault) = fault {
        exchange.judged = Some(JudgedBody {
            protocol,
            bytes: Bytes::new(),
            read: None,
            fault: Some(fault),
            _room: Arc::default(),
        });
        return Ok(Forwarded::untouched(body));
    }
    let mut room = conn.room();
    let collecting = tokio::time::timeout(JUDGED_BODY_DEADLINE, collect(body, max, &mut room));
    let (bytes, fault, forwarded) = match collecting.await {
        Ok(collected) => collected.map_err(|why| conn.ungathered(why))?,
        Err(_) => return Err(Refusal::Malformed(crate::strict::Violation::Slow)),
    };
    let read = match fault {
        None if protocol == Protocol::Graphql && bytes.len() > SHORT => {
            let (party, body) = (granted.caller().party, bytes.clone());
            let read = ParsePool::common().read(party, body.len(), move || Read::graphql(&body)).await;
            let read = read.map_err(|broken| Refusal::Unavailable(broken.to_string()))?;
            room.pay_for(bytes.len() + read.holds())?;
            Some(Arc::new(read))
        }
        _ => None,
    };
    exchange.judged = Some(JudgedBody { protocol, bytes, read, fault, _room: Arc::new(Some(room)) });
    Ok(forwarded)
}

type Collected = (Bytes, Option<Unreadable>, Forwarded);

/// Reads up to `max` bytes. A longer body is read no further; what was read is sent before the rest.
async fn collect(body: Incoming, max: u32, room: &mut Room) -> Result<Collected, Ungathered> {
    let held = Forwarded::untouched(body).gathered(max, room).await?;
    if held.has_trailers() {
        // Trailers could say anything, and are not judged.
        return Err(Ungathered::Broken("a judged body has no trailers"));
    }
    match held.is_whole() {
        true => Ok((held.read().clone(), None, held)),
        false => Ok((Bytes::new(), Some(Unreadable::TooLong(max)), held)),
    }
}

/// What a request's head says of its body.
enum Head {
    Fine,
    NoBody,
    Odd(&'static str),
}

/// Parameters that GraphQL servers read from the URL, some of them before the body.
const GRAPHQL_PARAMETERS: [&str; 6] =
    ["query", "operationName", "variables", "extensions", "id", "documentId"];

fn head_fault(protocol: Protocol, exchange: &Exchange, headers: &HeaderMap) -> Head {
    if protocol == Protocol::Mcp && matches!(exchange.method, Method::GET | Method::DELETE) {
        return Head::NoBody;
    }
    if exchange.method != Method::POST {
        return Head::Odd("only POST can be judged on this endpoint");
    }
    if protocol == Protocol::Graphql && GRAPHQL_PARAMETERS.iter().any(|name| exchange.query.names(name)) {
        return Head::Odd("a GraphQL request stands in the body, not in the query as well");
    }
    let plain = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(plain) {
        return Head::Odd("a compressed body can't be judged");
    }
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    match (kinds.next().and_then(|kind| kind.to_str().ok()), kinds.next()) {
        (Some(kind), None) if is_json(kind) => Head::Fine,
        _ => Head::Odd("its Content-Type is not `application/json` (in UTF-8)"),
    }
}

/// `application/json`, with no parameter but `charset=utf-8`.
fn is_json(kind: &str) -> bool {
    let mut parts = kind.split(';').map(str::trim);
    let json = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    let utf8 = |part: &str| {
        part.split_once('=').is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("charset") && value.trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
    };
    json && parts.all(utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_in_utf8_is_json() {
        for (kind, json) in [
            ("application/json", true),
            ("Application/JSON; charset=UTF-8", true),
            ("application/json;charset=\"utf-8\"", true),
            ("application/json; charset=utf-16", false),
            ("application/json; charset=utf-8; x=y", false),
            ("application/graphql", false),
            ("text/plain", false),
            ("multipart/form-data; boundary=x", false),
            ("", false),
        ] {
            assert_eq!(is_json(kind), json, "{kind}");
        }
    }

    /// What is kept of a body is judged as the body is.
    #[test]
    fn what_was_read_in_the_pool_is_what_the_body_says() {
        let query = r#"{"query":"query A { a b } query B { c }","operationName":"B"}"#;
        let persisted = r#"{"id":"x","operationName":"P"},{"documentId":"y"}"#;
        for body in [
            query.to_owned(),
            format!("[{query},{persisted},{query}]"),
            format!("[{persisted}]"),
            r#"{"query":"{"}"#.to_owned(),
            "[]".to_owned(),
            "no".to_owned(),
        ] {
            let said = |content: Content<'_>| format!("{content:?}");
            let wanted = said(Reading::of(Protocol::Graphql, body.as_bytes()).content());
            let read = Read::graphql(body.as_bytes());
            assert_eq!(read.with(said), wanted);
            assert_eq!(read.holds() > 0, wanted.contains("fields: Some"), "{wanted}");
        }
    }

    /// On whatever runtime it is judged.
    #[test]
    fn a_long_body_is_read_where_it_is_judged() {
        let body = format!(r#"{{"jsonrpc":"2.0","method":"m","params":["{}"]}}"#, "x".repeat(SHORT));
        let judged = JudgedBody {
            protocol: Protocol::JsonRpc,
            bytes: body.into(),
            read: None,
            fault: None,
            _room: Arc::default(),
        };
        let calls = move || judged.with(|content| matches!(content, Content::Rpc([_])));
        assert!(calls());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(runtime.block_on(async { calls() }));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        assert!(runtime.block_on(async { tokio::spawn(async move { calls() }).await.unwrap() }));
    }
}
