//! The request's body: reads it within bounds, checks it, and replaces its model name without touching
//! another byte.
//!
//! The body is never re-serialised: numbers keep their spelling, keys their order, and what the provider
//! reads is what was judged. A body in which `model` appears twice is refused, since readers disagree on
//! which one counts.

use std::{
    ops::Range,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body::Body as HttpBody;
use http_body_util::BodyExt as _;
use policy::parse_pool::{Broken, ParsePool};
use policy::{Party, Share, Shares, Spent};

use crate::{
    budgets::Estimate,
    config::MAX_MODEL_NAME,
    fields::{Fields, Lack, Seen, place},
    options::Telling,
    outgoing::Parts,
    output::Output,
    shape::Endpoint,
};

/// Largest request body, in bytes. Providers themselves stop at 32 MiB (images as base64).
pub const MAX_BODY: usize = 32 * 1024 * 1024;
/// Most bytes of request bodies held at the same time; each agent may have a share of them
/// ([`policy::Shares`]). Keeps many agents with large bodies from exhausting the supervisor's memory.
pub const MAX_BODIES_TOTAL: usize = 192 * 1024 * 1024;
/// How long the agent may take over its body, first byte to last.
pub const BODY_DEADLINE: Duration = Duration::from_secs(60);

/// The least that is taken of a share for a body, in bytes.
const LEAST: usize = 4096;

/// The memory that all request bodies share, in bytes.
#[must_use]
pub fn room() -> Shares {
    Shares::new(MAX_BODIES_TOTAL)
}

/// Why a body could not be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// Longer than [`MAX_BODY`].
    #[error("the body is longer than {MAX_BODY} bytes")]
    TooLarge,
    /// [`MAX_BODIES_TOTAL`] is in use, or this agent's share of it.
    #[error("too many large requests{} at one time; try again", if *.0 == Spent::Share { " of this agent" } else { "" })]
    NoRoom(Spent),
    /// Slower than [`BODY_DEADLINE`].
    #[error("the body was not complete within {} s", BODY_DEADLINE.as_secs())]
    Slow,
    /// The agent's connection broke.
    #[error("the body ended early")]
    Broken,
    /// The parser panicked, or the runtime is shutting down.
    #[error("the body could not be read")]
    Unread,
    /// Not a JSON object.
    #[error("the body is not a JSON object in UTF-8 ({0})")]
    NotJson(String),
    /// No usable `model`.
    #[error(
        "`model` must be a string of 1 to {MAX_MODEL_NAME} bytes, with no space around it and no control characters"
    )]
    Model,
    /// Not what its endpoint takes.
    #[error(transparent)]
    Lacks(#[from] Lack),
}

impl From<Broken> for BadBody {
    fn from(_: Broken) -> Self {
        Self::Unread
    }
}

/// A checked body, with the place of its model name.
#[derive(Debug)]
pub struct Asked {
    /// [`Paid`].
    bytes: Bytes,
    /// Where the JSON string of `model` stands, quotes included.
    span: Range<usize>,
    model: String,
    /// Whether the answer was asked for as a stream.
    pub stream: bool,
    seen: Seen,
    output: Output,
    telling: Telling,
    background: bool,
    held: Held,
}

/// A body's bytes with the share taken for them. The share is given back when nothing holds any of the bytes,
/// not even a connection from which the provider doesn't read.
struct Paid {
    bytes: Bytes,
    _share: Arc<Share>,
}

/// Tells whether bytes of a body are still held anywhere, without holding any itself.
#[derive(Debug, Clone)]
pub(crate) struct Held(Weak<Share>);

impl Held {
    /// For a body of our own, which takes no share.
    pub fn of_nobody() -> Self {
        Self(Weak::new())
    }

    pub fn is_held(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl AsRef<[u8]> for Paid {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Asked {
    /// Reads and checks a body. Takes the bytes that it needs of its party's `share`, and parses a long body
    /// in the parse pool.
    ///
    /// # Errors
    /// Every way in which it can be unfit; no part of the body is in the error.
    pub(crate) async fn read<B>(
        body: B,
        share: Share,
        (pool, party): (&ParsePool, Party),
    ) -> Result<Self, BadBody>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let until = Instant::now() + BODY_DEADLINE;
        let (bytes, share) = tokio::time::timeout_at(until.into(), collect(body, share))
            .await
            .map_err(|_| BadBody::Slow)??;
        pool.read(party, bytes.len(), move || Self::parse(bytes, share)).await?
    }

    fn parse(bytes: Bytes, share: Share) -> Result<Self, BadBody> {
        // serde_json doesn't check the encoding of strings that it skips, so the whole text is checked first.
        let text = std::str::from_utf8(&bytes).map_err(|_| BadBody::NotJson("not UTF-8".into()))?;
        if !text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{') {
            return Err(BadBody::NotJson("no object".into()));
        }
        let fields: Fields<'_> = serde_json::from_str(text).map_err(|e| BadBody::NotJson(describe(&e)))?;
        let raw = fields.model.get();
        let model: String = serde_json::from_str(raw).map_err(|_| BadBody::Model)?;
        // A space around it would make it another name here, and for a provider that trims it the same.
        let is_odd = model.starts_with(is_blank) || model.ends_with(is_blank);
        if model.is_empty() || model.len() > MAX_MODEL_NAME || is_odd || model.chars().any(char::is_control) {
            return Err(BadBody::Model);
        }
        let span = place(text, raw).ok_or(BadBody::Model)?;
        let telling = fields.telling(text, span.end);
        let Fields { stream, background, seen, output, .. } = fields;
        let share = Arc::new(share);
        let held = Held(Arc::downgrade(&share));
        Ok(Self {
            bytes: Bytes::from_owner(Paid { bytes, _share: share }),
            span,
            model,
            stream,
            seen,
            output,
            telling,
            background,
            held,
        })
    }

    /// The name that the agent used.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Checks that the body has what `endpoint` needs.
    ///
    /// # Errors
    /// [`BadBody::Lacks`].
    pub fn fits(&self, endpoint: Endpoint) -> Result<(), BadBody> {
        Ok(self.seen.fits(endpoint)?)
    }

    /// Whether the body refers to state that only one provider has: an earlier response, a conversation, a
    /// stored prompt.
    pub(crate) fn leans_on_provider(&self, endpoint: Endpoint) -> bool {
        self.seen.leans_on_provider(endpoint)
    }

    /// The most that the request may use.
    pub(crate) fn estimate(&self, endpoint: Endpoint) -> Estimate {
        Estimate::of(endpoint, self.bytes.len(), self.leans_on_provider(endpoint), self.output)
    }

    /// A handle that tells whether the body's bytes are still held.
    pub(crate) fn held(&self) -> Held {
        self.held.clone()
    }

    /// Whether the answer will report its usage, and how to ask for it.
    pub(crate) fn telling(&self) -> &Telling {
        &self.telling
    }

    /// Whether the answer is made in the background, to be fetched later.
    pub(crate) fn is_in_background(&self, endpoint: Endpoint) -> bool {
        endpoint == Endpoint::Responses && self.background
    }

    /// The body with `name` in place of the model's name and, if `ask_usage` is set and the agent doesn't ask
    /// itself, with the member that asks for the usage. Every other byte is as it came.
    pub fn with_model(&self, name: &str, ask_usage: bool) -> Parts {
        let named =
            (name != self.model).then(|| (self.span.clone(), serde_json::Value::from(name).to_string()));
        let asking = self.telling.question().filter(|_| ask_usage).map(|(at, text)| (at, text.to_owned()));
        let mut written: Vec<_> = named.into_iter().chain(asking).collect();
        written.sort_by_key(|(at, _)| at.start);
        let (mut parts, mut from) = (Vec::with_capacity(5), 0);
        for (at, text) in written {
            parts.extend([self.bytes.slice(from..at.start), Bytes::from(text)]);
            from = at.end;
        }
        parts.push(self.bytes.slice(from..));
        Parts::new(parts)
    }
}

/// White space to somebody who trims, or nothing to see.
fn is_blank(c: char) -> bool {
    let unseen =
        matches!(c, '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}');
    c.is_whitespace() || unseen
}

/// The place of a syntax fault, without a word of the body.
fn describe(fault: &serde_json::Error) -> String {
    match fault.classify() {
        serde_json::error::Category::Data => {
            "`model` is missing, `stream` is no boolean, or one of them stands twice or in another spelling"
                .into()
        }
        _ => format!("line {} column {}", fault.line(), fault.column()),
    }
}

async fn collect<B>(mut body: B, mut share: Share) -> Result<(Bytes, Share), BadBody>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(BadBody::TooLarge);
    }
    let mut out = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| BadBody::Broken)?;
        let Ok(data) = frame.into_data() else { continue };
        let len = out.len() + data.len();
        if len > MAX_BODY {
            return Err(BadBody::TooLarge);
        }
        let paid = share.held();
        if len > paid {
            // The share is taken before the bytes are kept, in steps that double as the buffer does.
            let want = len.max(paid * 2).clamp(LEAST, MAX_BODY);
            share.take(want.saturating_sub(paid)).map_err(BadBody::NoRoom)?;
        }
        out.put(data);
    }
    Ok((out.freeze(), share))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use http_body_util::Full;
    use proptest::prelude::*;

    fn of(room: &Shares) -> Share {
        room.take(Party(1), 0).unwrap()
    }

    async fn read(body: impl HttpBody<Data = Bytes> + Unpin, share: Share) -> Result<Asked, BadBody> {
        Asked::read(body, share, (&ParsePool::default(), Party(1))).await
    }

    fn parse(text: &str) -> Result<Asked, BadBody> {
        Asked::parse(Bytes::copy_from_slice(text.as_bytes()), of(&room()))
    }

    /// The text that goes to the provider; its length is checked against the size hint.
    fn sent(asked: &Asked, name: &str) -> String {
        text_of(asked.with_model(name, false))
    }

    fn text_of(parts: Parts) -> String {
        let said = parts.size_hint().exact();
        let bytes = parts.collect().now_or_never().unwrap().unwrap().to_bytes();
        assert_eq!(said, Some(bytes.len() as u64));
        String::from_utf8(bytes.into()).unwrap()
    }

    #[test]
    fn only_the_name_changes() {
        let text = "{ \"temperature\": 1.0e0, \"messages\" : [{\"model\":\"inner\"}],\n\t\"model\" :\"gpt\\u002d4\" , \"n\":1 }";
        let asked = parse(text).unwrap();
        assert_eq!(asked.model(), "gpt-4");
        assert!(!asked.stream);
        assert_eq!(
            sent(&asked, "meta/\"x"),
            "{ \"temperature\": 1.0e0, \"messages\" : [{\"model\":\"inner\"}],\n\t\"model\" :\"meta/\\\"x\" , \"n\":1 }"
        );
        assert_eq!(sent(&asked, "gpt-4"), text);
    }

    #[test]
    fn a_stream_is_asked_what_it_used_unless_the_agent_has_said_what_it_wants() {
        for (text, wanted) in [
            (
                r#"{"stream":true, "model" : "a" ,"n":1}"#,
                r#"{"stream":true, "model" : "bc","stream_options":{"include_usage":true} ,"n":1}"#,
            ),
            (
                r#"{"stream_options" : null, "model":"a","stream":true}"#,
                r#"{"stream_options" : {"include_usage":true}, "model":"bc","stream":true}"#,
            ),
        ] {
            let asked = parse(text).unwrap();
            assert!(matches!(asked.telling(), Telling::Open(_)));
            assert_eq!(text_of(asked.with_model("bc", true)), wanted);
            assert_eq!(text_of(asked.with_model("a", true)), wanted.replace("bc", "a"));
            assert_eq!(sent(&asked, "a"), text);
        }
        for text in [
            r#"{"model":"a"}"#,
            r#"{"model":"a","stream":false}"#,
            r#"{"model":"a","stream":true,"stream_options":{"include_usage":true}}"#,
            r#"{"model":"a","stream":true,"Stream_Options":null}"#,
        ] {
            let asked = parse(text).unwrap();
            assert!(matches!(asked.telling(), Telling::Asked | Telling::Unclear), "{text}");
            assert_eq!(text_of(asked.with_model("a", true)), text);
        }
    }

    #[test]
    fn unfit_bodies() {
        for text in [
            "",
            "[]",
            "[\"gpt\"]",
            "\"gpt\"",
            "{}",
            "{\"model\":",
            "{\"model\":\"a\"} x",
            "{\"model\":\"a\",\"model\":\"b\"}",
            "{\"model\":\"a\",\"mod\\u0065l\":\"b\"}",
            "{\"model\":\"a\",\"Model\":\"b\"}",
            "{\"MODEL\":\"b\",\"model\":\"a\"}",
            "{\"Model\":\"b\"}",
            "{\"model\":\"a\",\"model\\u0000\":\"b\"}",
            "{\"model\":\"a\",\"stream\":true,\"\\u017fTREAM\":false}",
            "{\"model\":\"a\",\"stream\":\"yes\"}",
            "{\"model\":\"a\",\"x\":\"\\ud8\"}",
        ] {
            assert!(matches!(parse(text), Err(BadBody::NotJson(_))), "{text}");
        }
        for text in ["{\"model\":7}", "{\"model\":\"\"}", "{\"model\":null}", "{\"model\":\"a\\nb\"}"] {
            assert_eq!(parse(text).map(|_| ()), Err(BadBody::Model), "{text}");
        }
        for blank in
            [" ", "\u{a0}", "\u{3000}", "\u{feff}", "\u{200b}", "\u{2060}", "\u{85}", "\\t", "\\u0020"]
        {
            for name in [format!("{blank}a"), format!("a{blank}"), blank.to_owned()] {
                let text = format!("{{\"model\":\"{name}\"}}");
                assert_eq!(parse(&text).map(|_| ()), Err(BadBody::Model), "{text}");
            }
        }
        assert_eq!(parse("{\"model\":\"llama3:8b q\"}").unwrap().model(), "llama3:8b q");
        let bytes = Bytes::from_static(b"{\"model\":\"a\",\"x\":\"\xff\"}");
        assert!(matches!(Asked::parse(bytes, of(&room())), Err(BadBody::NotJson(_))));
        let deep = format!("{{\"model\":\"a\",\"x\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        let _ = parse(&deep);
    }

    #[tokio::test]
    async fn an_oversized_body_is_refused() {
        let room = room();
        let body = Full::new(Bytes::from(vec![b' '; MAX_BODY + 1]));
        assert_eq!(read(body, of(&room)).await.map(|_| ()), Err(BadBody::TooLarge));
        assert_eq!(room.free(), MAX_BODIES_TOTAL);
    }

    fn long(bytes: usize) -> Full<Bytes> {
        Full::new(Bytes::from(format!("{{\"model\":\"a\",\"x\":\"{}\"}}", "y".repeat(bytes))))
    }

    #[tokio::test]
    async fn the_room_is_bounded_and_given_back() {
        let room = Shares::new(3 * LEAST);
        let first = read(long(LEAST), of(&room)).await.unwrap();
        let refused = read(long(LEAST), of(&room)).await.map(|_| ());
        assert_eq!(refused, Err(BadBody::NoRoom(Spent::Share)));
        let refused = read(long(3 * LEAST), room.take(Party(2), 0).unwrap()).await.map(|_| ());
        assert_eq!(refused, Err(BadBody::NoRoom(Spent::All)));
        // A connection may hold the bytes longer than the request.
        let sent = first.with_model("b", true);
        drop(first);
        assert!(read(long(LEAST), of(&room)).await.is_err());
        drop(sent);
        assert!(read(long(1), of(&room)).await.is_ok());
        assert_eq!(room.free(), 3 * LEAST);
    }

    #[tokio::test]
    async fn one_agents_long_bodies_leave_room_for_anothers() {
        let room = room();
        let mut held = Vec::new();
        let full = loop {
            match read(long(MAX_BODY - 64), of(&room)).await {
                Ok(asked) => held.push(asked),
                Err(full) => break full,
            }
        };
        assert_eq!((held.len(), &full), (4, &BadBody::NoRoom(Spent::Share)));
        assert!(full.to_string().contains("of this agent"), "{full}");
        assert!(read(long(MAX_BODY - 64), room.take(Party(2), 0).unwrap()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let (_sender, body) = http_body_util::channel::Channel::<Bytes, std::io::Error>::new(1);
        assert_eq!(read(body, of(&room())).await.map(|_| ()), Err(BadBody::Slow));
    }

    proptest! {
        #[test]
        fn the_rest_is_untouched(before in "[a-z]{0,12}", value in "[ -~]{0,20}", name in "[!-~]{1,20}", new in "[!-~]{1,20}") {
            let value = serde_json::Value::from(value).to_string();
            let quoted = serde_json::Value::from(name.clone()).to_string();
            prop_assume!(before != "model" && before != "stream");
            let text = format!("{{\"{before}\":{value},\"model\":{quoted}, \"z\":{value}}}");
            let asked = parse(&text).unwrap();
            prop_assert_eq!(asked.model(), name);
            let wanted = format!("{{\"{before}\":{value},\"model\":{}, \"z\":{value}}}", serde_json::Value::from(new.clone()));
            prop_assert_eq!(sent(&asked, &new), wanted);
        }
    }
}
