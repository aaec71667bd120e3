//! Step five and a half of the road: what is judged behind a request's head.
//!
//! Where an endpoint judges bodies, the body is read here, whole and bounded, and *those bytes* are what goes on; nothing of
//! them is changed. A body that can't be judged is refused by the policy like any other (and under `enforcement: audit` sent
//! on as it stands). Requests of other endpoints pass without a look. [`websocket`] judges messages after the handshake.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, Method, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use policy::content::{Reading, Unreadable};
use policy::{Content, Generation, Protocol, RequestFacts};
use tokio::sync::OwnedSemaphorePermit;

use crate::answer::Refusal;
use crate::body::BoxError;
use crate::conn::Conn;
use crate::intent::Exchange;
use crate::limits::JUDGED_BODY_DEADLINE;
use crate::verdict::Granted;

pub(crate) mod websocket;

/// A body that was read to be judged, and is judged again when the policy changes.
#[derive(Debug, Clone)]
pub struct Judged {
    protocol: Protocol,
    bytes: Bytes,
    /// Why it can't be judged, where the head or the length says so already.
    fault: Option<Unreadable>,
    /// Its share of what all bodies may hold.
    _room: Arc<Option<OwnedSemaphorePermit>>,
}

impl Judged {
    /// Reads it (again) and hands over what was read.
    pub(crate) fn with<T>(&self, judge: impl FnOnce(Content<'_>) -> T) -> T {
        match &self.fault {
            Some(fault) => judge(Content::Unreadable(fault)),
            None => judge(Reading::of(self.protocol, &self.bytes).content()),
        }
    }
}

/// What is sent on: what was read of a body, and what wasn't.
pub(crate) struct Forwarded {
    read: Option<Bytes>,
    rest: Option<Incoming>,
}

impl Forwarded {
    /// A body that nobody read.
    pub(crate) fn untouched(body: Incoming) -> Self {
        Self { read: None, rest: Some(body) }
    }
}

impl HttpBody for Forwarded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(read) = self.read.take() {
            return Poll::Ready(Some(Ok(Frame::data(read))));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx).map_err(Into::into),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_none() && self.rest.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.as_ref().map_or(0, |read| read.len() as u64);
        let rest = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }
}

/// Reads what is to be judged of a body. Where the endpoint judges none, nothing is done and nothing is kept.
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
    if !granted.grant.as_ref().is_some_and(|grant| grant.reads_bodies) {
        return Ok(Forwarded::untouched(body));
    }
    let facts = RequestFacts {
        method: exchange.method.as_str(),
        path: &exchange.path,
        query: &exchange.query,
        websocket: exchange.websocket,
        content: Content::Unread,
    };
    let asked = generation.compiled.body_of(&granted.destination, &granted.caller, &facts);
    let Some((protocol, max)) = asked else { return Ok(Forwarded::untouched(body)) };
    let fault = match head_fault(protocol, exchange, &parts.headers) {
        // MCP's stream and the end of its session have no body.
        Head::NoBody if body.is_end_stream() => return Ok(Forwarded::untouched(body)),
        Head::NoBody => Some(Unreadable::Head("only POST has a body here")),
        Head::Odd(why) => Some(Unreadable::Head(why)),
        Head::Fine => None,
    };
    if let Some(fault) = fault {
        exchange.judged =
            Some(Judged { protocol, bytes: Bytes::new(), fault: Some(fault), _room: Arc::default() });
        return Ok(Forwarded::untouched(body));
    }
    let mut room = conn.deps.tracker.room(max).ok_or_else(|| {
        Refusal::Unavailable("too many bodies are being judged at the same time".to_owned())
    })?;
    let (bytes, fault, forwarded) = match tokio::time::timeout(JUDGED_BODY_DEADLINE, collect(body, max)).await
    {
        Ok(collected) => collected.map_err(|broken| match conn.violation() {
            Some(violation) => Refusal::Malformed(violation),
            None => Refusal::BadRequest(broken.to_owned()),
        })?,
        Err(_) => return Err(Refusal::Malformed(crate::strict::Violation::Slow)),
    };
    // What isn't needed is given back at once: an answer may stream for hours.
    let unused = usize::try_from(max).unwrap_or(usize::MAX).saturating_sub(bytes.len());
    drop(room.split(unused));
    exchange.judged = Some(Judged { protocol, bytes, fault, _room: Arc::new(Some(room)) });
    Ok(forwarded)
}

type Collected = (Bytes, Option<Unreadable>, Forwarded);

/// Reads up to `max` bytes. What is longer is read no further, and stands in front of the rest.
async fn collect(mut body: Incoming, max: u32) -> Result<Collected, &'static str> {
    let limit = usize::try_from(max).unwrap_or(usize::MAX);
    let mut held = BytesMut::new();
    loop {
        let Some(frame) = body.frame().await else {
            let bytes = held.freeze();
            let read = (!bytes.is_empty()).then(|| bytes.clone());
            return Ok((bytes, None, Forwarded { read, rest: None }));
        };
        let fault = match frame.map_err(|_| "the body broke off")?.into_data() {
            Ok(data) => {
                held.extend_from_slice(&data);
                (held.len() > limit).then_some(Unreadable::TooLong(max))
            }
            // They could say anything, and nobody judges them.
            Err(_) => return Err("a judged body has no trailers"),
        };
        if fault.is_some() {
            let bytes = held.freeze();
            return Ok((Bytes::new(), fault, Forwarded { read: Some(bytes), rest: Some(body) }));
        }
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
}
