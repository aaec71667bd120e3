//! A WebSocket's messages (RFC 6455): each one of the client's is judged before a byte of it goes on.
//!
//! Frames are read strictly: masked, no reserved bits (no extension was agreed, the handshake's offer is taken off), known
//! opcodes, control frames whole and short, fragments in order. A message is held until it is whole and judged, up to
//! [`MAX_MESSAGE_BYTES`]; then its frames go on as they came, or with values in the place of placeholders. What the server
//! says passes unread, but for the search for credentials ([`answers`]). What the client says where only the handshake was to be judged passes
//! unread as well. A refused message, or a policy that no longer allows the connection, ends it with 1008 on both sides,
//! between two frames.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use policy::content::{Json, Text};
use policy::{Content, Denial, RequestFacts, WEBSOCKET_TEXT};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::answer::{Known, Refusal};
use crate::conn::Deps;
use crate::credentials::{self, Guard};
use crate::intent::Exchange;
use crate::limits::{MAX_LINGER_BYTES, MAX_MESSAGE_BYTES, MAX_MESSAGE_FRAMES, TUNNEL_IDLE, WRITE_STALL};
use crate::outcome;
use crate::relay::{End, Relayed, quiet};
use crate::verdict::{Granted, Permitted};

/// Longest payload of a control frame (RFC 6455 section 5.5).
const MAX_CONTROL_BYTES: u64 = 125;
/// A protocol error (section 7.4.1).
const PROTOCOL_ERROR: u16 = 1002;
/// A message that violates a policy.
const POLICY_VIOLATION: u16 = 1008;
/// A message that is too big.
const TOO_BIG: u16 = 1009;
/// A frame's longest header: two bytes, eight of length, four of mask.
const MAX_HEADER_BYTES: usize = 14;
/// What a server is told.
const TO_UPSTREAM: &[u8] = b"the client's side ends this";
/// How long a side may take to be told that it is over.
const PATIENCE: Duration = Duration::from_secs(2);
/// Read at a time, bytes.
const READ_BYTES: usize = 16 * 1024;

mod answers;

use answers::Answers;

/// What messages are judged by.
#[derive(Clone)]
pub(crate) struct Judge {
    pub(crate) granted: Granted,
    pub(crate) exchange: Exchange,
}

/// What a connection's two directions share.
#[derive(Clone, Copy)]
pub(crate) struct Talk<'a> {
    pub(crate) deps: &'a Deps,
    pub(crate) known: &'a Known,
    pub(crate) judge: &'a Judge,
    /// What keeps credentials out of what the server says.
    pub(crate) guard: Option<&'a Guard>,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    last: bool,
    opcode: u8,
    mask: [u8; 4],
    payload: u64,
    /// Bytes of the header itself.
    length: usize,
}

/// Why a connection ends.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A side is gone.
    Gone,
    /// Nothing moved for too long.
    Idle,
    /// The decision that it rested on fell.
    Told,
    /// The client's frames are wrong.
    Broken(u16, &'static str),
    /// A message is refused.
    Refused(Refusal),
}

/// Reads a frame's header from the front of `bytes`; `None` if more is needed.
fn header(bytes: &[u8]) -> Result<Option<Header>, Stop> {
    let wrong = |why| Err(Stop::Broken(PROTOCOL_ERROR, why));
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 {
        return wrong("a reserved bit is set, and no extension was agreed");
    }
    if second & 0x80 == 0 {
        return wrong("a client's frame is not masked");
    }
    let (payload, rest) = match second & 0x7f {
        126 => {
            let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
            let length = u64::from(u16::from_be_bytes(*length));
            if length < 126 {
                return wrong("a length is not in its shortest form");
            }
            (length, rest)
        }
        127 => {
            let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
            let length = u64::from_be_bytes(*length);
            if length <= u64::from(u16::MAX) || length >> 63 != 0 {
                return wrong("a length is not in its shortest form");
            }
            (length, rest)
        }
        length => (u64::from(length), rest),
    };
    let Some((mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
    match opcode {
        0..=2 => {}
        8..=10 if !last => return wrong("a control frame is in fragments"),
        8..=10 if payload > MAX_CONTROL_BYTES => return wrong("a control frame is too long"),
        8..=10 => {}
        _ => return wrong("a frame has an unknown opcode"),
    }
    Ok(Some(Header { last, opcode, mask: *mask, payload, length: bytes.len() - rest.len() }))
}

/// The client's frames, as far as they aren't judged yet.
#[derive(Default)]
pub(crate) struct Inbox {
    /// Frames as they came.
    pub(crate) raw: Vec<u8>,
    /// Where in `raw` the next frame begins that wasn't looked at.
    at: usize,
    /// The message so far, unmasked.
    pub(crate) message: Vec<u8>,
    /// The opcode of the message that is under way.
    kind: Option<u8>,
    frames: usize,
}

/// What may go on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// A text message is whole: judge it, then the first bytes of `raw`.
    Text,
    /// The same of a binary one.
    Binary,
    /// A control frame; between fragments it goes on before them.
    Control(Vec<u8>),
}

impl Inbox {
    /// Looks at the next frame; none while it isn't whole.
    pub(crate) fn next(&mut self) -> Result<Option<Ready>, Stop> {
        loop {
            let unseen = self.raw.get(self.at..).unwrap_or_default();
            let Some(header) = header(unseen)? else { return Ok(None) };
            let too_big = Err(Stop::Broken(TOO_BIG, "a message is longer than is judged"));
            let Ok(payload) = usize::try_from(header.payload) else { return too_big };
            if self.message.len().saturating_add(payload) > MAX_MESSAGE_BYTES {
                return too_big;
            }
            let end = header.length + payload;
            let Some(bytes) = unseen.get(header.length..end) else { return Ok(None) };
            if header.opcode >= 8 {
                let frame: Vec<u8> = self.raw.drain(self.at..self.at + end).collect();
                return Ok(Some(Ready::Control(frame)));
            }
            let wrong = |why| Err(Stop::Broken(PROTOCOL_ERROR, why));
            match (self.kind, header.opcode) {
                (None, 0) => return wrong("a fragment continues nothing"),
                (Some(_), 1 | 2) => return wrong("a message begins within another"),
                (None, kind) => self.kind = Some(kind),
                (Some(_), _) => {}
            }
            self.frames += 1;
            if self.frames > MAX_MESSAGE_FRAMES {
                return Err(Stop::Broken(TOO_BIG, "a message is in too many fragments"));
            }
            self.message.extend(bytes.iter().zip(header.mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
            self.at += end;
            if header.last {
                return Ok(Some(if self.kind == Some(1) { Ready::Text } else { Ready::Binary }));
            }
        }
    }

    /// One frame with another content in the place of the message's, under the mask of its first frame.
    fn frame(&self, content: &[u8]) -> Vec<u8> {
        let mask = header(&self.raw).ok().flatten().map_or([0; 4], |header| header.mask);
        let mut out = vec![0x81];
        match content.len() {
            length @ 0..126 => out.push(0x80 | u8::try_from(length).unwrap_or_default()),
            length => match u16::try_from(length) {
                Ok(length) => {
                    out.push(0x80 | 126);
                    out.extend(length.to_be_bytes());
                }
                Err(_) => {
                    out.push(0x80 | 127);
                    out.extend((length as u64).to_be_bytes());
                }
            },
        }
        out.extend(mask);
        out.extend(content.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }

    /// The frames of the message that was judged, as they came.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.message.clear();
        self.kind = None;
        self.frames = 0;
        let rest = self.raw.split_off(self.at);
        self.at = 0;
        std::mem::replace(&mut self.raw, rest)
    }
}

impl Talk<'_> {
    /// Judges one whole message by the policy now in force. Gives what is sent in its place, if that is something else.
    fn message(&self, inbox: &Inbox, text: bool) -> Result<Option<Vec<u8>>, Stop> {
        let started = Instant::now();
        let Self { deps, known, judge, .. } = *self;
        let generation = deps.policy.load();
        let (to, caller) = (&judge.granted.destination, &*judge.granted.caller);
        let path = &judge.exchange.path;
        let message = match text {
            true => std::str::from_utf8(&inbox.message)
                .map(Some)
                .map_err(|_| Stop::Broken(1007, "a text message is not UTF-8"))?,
            false => None,
        };
        let json = match message.filter(|_| generation.compiled.reads_json_messages(to, caller, path)) {
            Some(message) => Json::parse(message.as_bytes()).ok(),
            None => None,
        };
        let content = match message {
            Some(text) => Content::Text(Text { text, json: json.as_ref() }),
            None => Content::Binary,
        };
        let facts = RequestFacts {
            method: WEBSOCKET_TEXT,
            path,
            query: &judge.exchange.query,
            websocket: true,
            content,
        };
        let known = Known { method: Some(WEBSOCKET_TEXT.to_owned()), ..known.clone() };
        let refuse =
            |refusal| Stop::Refused(outcome::refused(&*deps.journal, &known, refusal, started.elapsed()));
        let allowed = generation
            .compiled
            .request(to, caller, &facts)
            .map_err(|denial| refuse(Refusal::Denied(denial)))?;
        // Each message that passes isn't worth a record; one that should not have is.
        let policy = allowed.policy.clone();
        if allowed.audit_only.is_some() {
            let permitted = Permitted::message(judge.granted.clone(), judge.exchange.clone(), allowed);
            outcome::request_allowed(&*deps.journal, &known, &permitted, started.elapsed())
                .map_err(Stop::Refused)?;
        }
        let rewrites = || generation.compiled.rewrites(to, caller, path).messages;
        let request = credentials::Request { to, path, caller, tls: judge.exchange.tls };
        credentials::in_message(&deps.credentials, request, &inbox.message, message.filter(|_| rewrites()))
            .map(|filled| filled.map(|filled| inbox.frame(&filled)))
            .map_err(|denial| refuse(Refusal::Denied(Denial { policy: Some(policy), ..denial })))
    }
}

/// Passes messages between agent and upstream until a side is done, one is refused, or `stop`.
pub(crate) async fn relay<A, B>(
    talk: Option<&Talk<'_>>,
    (agent, upstream): (A, B),
    stop: impl Future<Output = ()>,
) -> (Relayed, Option<String>)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut agent_in, mut agent_out) = tokio::io::split(agent);
    let (mut upstream_in, mut upstream_out) = tokio::io::split(upstream);
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
    let ending = CancellationToken::new();
    let (stopped, to_agent, to_upstream) = {
        let mut upward = pin!(async {
            let sides = (&mut agent_in, &mut upstream_out);
            match talk {
                Some(talk) => upward(talk, sides, &up, &ending).await,
                None if unread(None, sides, &up, &ending).await => Stop::Told,
                None => Stop::Gone,
            }
        });
        let guard = talk.and_then(|talk| talk.guard);
        let mut downward = pin!(unread(guard, (&mut upstream_in, &mut agent_out), &down, &ending));
        let stopped = tokio::select! {
            stopped = &mut upward => stopped,
            _ = &mut downward => Stop::Gone,
            () = stop => Stop::Told,
            () = quiet(&up, &down, TUNNEL_IDLE) => Stop::Idle,
        };
        // Each side is told between two frames of the other's, or not at all.
        ending.cancel();
        let downward = async { timeout(PATIENCE, downward).await.unwrap_or(false) };
        let upward = async { matches!(timeout(PATIENCE, upward).await, Ok(Stop::Told)) };
        let (to_agent, to_upstream) = match stopped {
            Stop::Gone | Stop::Idle => (false, false),
            Stop::Told => tokio::join!(downward, upward),
            // Between two messages of the agent's.
            Stop::Broken(..) | Stop::Refused(_) => (downward.await, true),
        };
        (stopped, to_agent, to_upstream)
    };
    let (end, code, fault) = match stopped {
        Stop::Gone => (End::Done, None, None),
        Stop::Idle => (End::Idle, None, None),
        Stop::Told => {
            (End::Stopped, Some(POLICY_VIOLATION), Some("the policy no longer allows this".to_owned()))
        }
        Stop::Broken(code, why) => (End::Done, Some(code), Some(why.to_owned())),
        Stop::Refused(refusal) => (End::Done, Some(POLICY_VIOLATION), Some(refusal.detail())),
    };
    if let (Some(code), Some(why)) = (code, &fault) {
        close(to_agent.then_some(&mut agent_out), to_upstream.then_some(&mut upstream_out), code, why).await;
    }
    let goodbye = async {
        let _gone = (agent_out.shutdown().await, upstream_out.shutdown().await);
        if code.is_some() {
            // With unread bytes in a queue the kernel would reset, and the reason be lost.
            let _gone = tokio::join!(drain(&mut agent_in), drain(&mut upstream_in));
        }
    };
    let _at_most = timeout(PATIENCE, goodbye).await;
    let fault = if end == End::Stopped { None } else { fault };
    (Relayed { up: up.load(Ordering::Relaxed), down: down.load(Ordering::Relaxed), end }, fault)
}

/// Reads what still comes, to the end or to a bound.
async fn drain(from: &mut (impl AsyncRead + Unpin)) {
    let mut rest = from.take(MAX_LINGER_BYTES as u64);
    let _gone = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
}

/// What the agent says, judged.
async fn upward(
    talk: &Talk<'_>,
    (from, to): (&mut (impl AsyncRead + Unpin), &mut (impl AsyncWrite + Unpin)),
    moved: &AtomicU64,
    ending: &CancellationToken,
) -> Stop {
    let mut inbox = Inbox::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = tokio::select! {
            biased;
            () = ending.cancelled() => return Stop::Told,
            read = from.read(&mut buffer) => read,
        };
        let Ok(read @ 1..) = read else { return Stop::Gone };
        inbox.raw.extend_from_slice(buffer.get(..read).unwrap_or_default());
        match pass(talk, &mut inbox, to).await {
            Ok(sent) => moved.fetch_add(sent, Ordering::Relaxed),
            Err(stop) => return stop,
        };
    }
}

/// What a side says, as it comes, but for credentials. Gives whether it ended between two frames.
async fn unread(
    guard: Option<&Guard>,
    (mut from, to): (impl AsyncRead + Unpin, &mut (impl AsyncWrite + Unpin)),
    moved: &AtomicU64,
    ending: &CancellationToken,
) -> bool {
    let mut answers = Answers::new(guard);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = tokio::select! {
            biased;
            () = ending.cancelled(), if answers.between() => return true,
            read = from.read(&mut buffer) => read,
        };
        let Ok(read @ 1..) = read else { return false };
        let bytes = buffer.get(..read).unwrap_or_default();
        let Ok(passing) = answers.pass(bytes) else { return false };
        let last = ending.is_cancelled().then_some(passing.first_end).flatten();
        let bytes = last.map_or(passing.bytes, |end| passing.bytes.get(..end).unwrap_or_default());
        if write(to, bytes).await.is_err() {
            return false;
        }
        moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if last.is_some() {
            return true;
        }
    }
}

/// Judges and sends on what is whole.
async fn pass(
    talk: &Talk<'_>,
    inbox: &mut Inbox,
    upstream: &mut (impl AsyncWrite + Unpin),
) -> Result<u64, Stop> {
    let mut sent = 0;
    while let Some(ready) = inbox.next()? {
        let frames = match ready {
            Ready::Control(frame) => frame,
            Ready::Text | Ready::Binary => {
                let filled = talk.message(inbox, ready == Ready::Text)?;
                let frames = inbox.take();
                filled.unwrap_or(frames)
            }
        };
        write(upstream, &frames).await.map_err(|()| Stop::Gone)?;
        sent += frames.len() as u64;
    }
    // What waits is at most one message with its headers.
    if inbox.raw.len() > MAX_MESSAGE_BYTES + (MAX_MESSAGE_FRAMES + 1) * MAX_HEADER_BYTES + READ_BYTES {
        return Err(Stop::Broken(TOO_BIG, "a message is longer than is judged"));
    }
    Ok(sent)
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), ()> {
    let writing = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    match timeout(WRITE_STALL, writing).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(()),
    }
}

/// Ends both sides with a close frame: unmasked to the agent, masked to the upstream.
async fn close(
    agent: Option<&mut (impl AsyncWrite + Unpin)>,
    upstream: Option<&mut (impl AsyncWrite + Unpin)>,
    code: u16,
    why: &str,
) {
    /// What is left of a control frame behind the code.
    const MAX_REASON_BYTES: usize = 123;
    let mut end = why.len().min(MAX_REASON_BYTES);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    let reason = why.get(..end).unwrap_or_default().as_bytes();
    // A mask of zeros changes nothing and is a mask.
    let frame = |masked: u8, mask: &[u8], reason: &[u8]| {
        let length = u8::try_from(reason.len() + 2).unwrap_or(MAX_CONTROL_BYTES as u8);
        [&[0x88, masked | length][..], mask, &code.to_be_bytes(), reason].concat()
    };
    let say = async {
        if let Some(agent) = agent {
            let _gone = write(agent, &frame(0, &[], reason)).await;
        }
        if let Some(upstream) = upstream {
            // The server learns that it is over, and nothing of the policy.
            let _gone = write(upstream, &frame(0x80, &[0; 4], TO_UPSTREAM)).await;
        }
    };
    let _at_most = timeout(PATIENCE, say).await;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut out = vec![first];
        match payload.len() {
            length @ 0..126 => out.push(0x80 | length as u8),
            length @ 126..65536 => {
                out.push(0x80 | 126);
                out.extend((length as u16).to_be_bytes());
            }
            length => {
                out.push(0x80 | 127);
                out.extend((length as u64).to_be_bytes());
            }
        }
        out.extend(mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
        out
    }

    #[test]
    fn fragments_are_put_together_and_sent_as_they_came() {
        let bytes =
            [frame(0x01, b"hel"), frame(0x89, b"ping"), frame(0x80, b"lo"), frame(0x81, b"x")].concat();
        // In pieces of every size, the same comes out.
        for piece in 1..bytes.len() {
            let mut inbox = Inbox::default();
            let mut out = Vec::new();
            for part in bytes.chunks(piece) {
                inbox.raw.extend_from_slice(part);
                while let Some(ready) = inbox.next().unwrap() {
                    match ready {
                        Ready::Control(frame) => out.push(("control".to_owned(), frame)),
                        Ready::Text => {
                            out.push((String::from_utf8(inbox.message.clone()).unwrap(), inbox.take()));
                        }
                        Ready::Binary => panic!(),
                    }
                }
            }
            let words: Vec<&str> = out.iter().map(|(word, _)| word.as_str()).collect();
            assert_eq!(words, ["control", "hello", "x"], "{piece}");
            assert_eq!(out[0].1, frame(0x89, b"ping"));
            assert_eq!(out[1].1, [frame(0x01, b"hel"), frame(0x80, b"lo")].concat());
            assert_eq!(out[2].1, frame(0x81, b"x"));
        }
    }

    #[test]
    fn frames_that_no_client_sends_end_the_connection() {
        let long = [0x81, 0x80 | 126, 0, 5, 0, 0, 0, 0, 1, 2, 3, 4, 5];
        let longer = [0x81, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0];
        let huge = [0x81, 0x80 | 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        let cases: Vec<Vec<u8>> = vec![
            vec![0x81, 0x01, b'x'],
            frame(0xc1, b"x"),
            frame(0xa1, b"x"),
            frame(0x91, b"x"),
            frame(0x83, b"x"),
            frame(0x8b, b"x"),
            frame(0x09, b"x"),
            frame(0x89, &[0; 126]),
            frame(0x80, b"x"),
            [frame(0x01, b"a"), frame(0x81, b"b")].concat(),
            long.to_vec(),
            longer.to_vec(),
            huge.to_vec(),
            frame(0x81, b"x").repeat(1).into_iter().chain(frame(0x00, b"x")).collect(),
        ];
        for bytes in cases {
            let mut inbox = Inbox { raw: bytes.clone(), ..Inbox::default() };
            let mut ended = false;
            for _ in 0..3 {
                match inbox.next() {
                    Ok(Some(Ready::Control(_)) | None) => {}
                    Ok(Some(_)) => drop(inbox.take()),
                    Err(_) => ended = true,
                }
            }
            assert!(ended, "{bytes:?}");
        }
        let raw = [frame(0x01, b""), frame(0x00, b"").repeat(MAX_MESSAGE_FRAMES)].concat();
        let mut inbox = Inbox { raw, ..Inbox::default() };
        assert!(inbox.next().is_err());
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut inbox = Inbox { raw: bytes, ..Inbox::default() };
            for _ in 0..8 {
                match inbox.next() {
                    Ok(Some(Ready::Text | Ready::Binary)) => drop(inbox.take()),
                    Ok(Some(Ready::Control(_))) => {}
                    _ => break,
                }
            }
        }
    }
}
