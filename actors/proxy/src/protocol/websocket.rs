//! A WebSocket's messages (RFC 6455): each one of the client's is judged before a byte of it goes on.
//!
//! Frames are read strictly ([`frames`]); no extension is agreed, since the handshake's offer is removed. A
//! message is held until it is whole and judged, up to [`MAX_MESSAGE_BYTES`]; then its frames go on as they
//! came, or with values in the place of placeholders. What the server says passes unread, but for the search
//! for credentials ([`answers`]). What the client says where only the handshake was to be judged passes
//! unread as well. A refused message, or a policy that no longer allows the connection, ends it with 1008 on
//! both sides, between two frames.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use policy::content::SaidText;
use policy::{Content, Denial, RequestFacts, WEBSOCKET_TEXT};
use smol_str::SmolStr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::answer::{Known, Refusal};
use crate::caller::Claim;
use crate::conn::Deps;
use crate::credentials::{self, Guard};
use crate::intent::Exchange;
use crate::limits::{
    JUDGED_BODY_DEADLINE, MAX_LINGER_BYTES, MAX_MESSAGE_BYTES, MAX_MESSAGE_FRAMES, TUNNEL_IDLE, WRITE_STALL,
};
use crate::outcome;
use crate::relay::{self, End, Meter, Relayed, quiet};
use crate::room::Room;
use crate::verdict::{Granted, Permitted};

/// A message that violates a policy.
const POLICY_VIOLATION: u16 = 1008;
/// No room for a message now (the registry of RFC 6455 section 11.7).
const TRY_LATER: u16 = 1013;
/// A frame's longest header: two bytes, eight of length, four of mask.
const MAX_HEADER_BYTES: usize = 14;
/// The reason in the close frame that a server gets.
const TO_UPSTREAM: &[u8] = b"the client's side ends this";
/// How long it may take to tell a side that the connection ends.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes read at a time.
const READ_BYTES: usize = 16 * 1024;

mod answers;
pub(crate) mod frames;

use answers::Answers;
use frames::{Inbox, MAX_CONTROL_BYTES, Ready, TOO_BIG, Wrong};

/// The handshake's request and its grant, by which messages are judged.
#[derive(Clone)]
pub(crate) struct Judge {
    pub(crate) granted: Granted,
    pub(crate) exchange: Exchange,
    /// Whether the handshake passed only because the policy doesn't enforce: then no message carries a key,
    /// whatever the rules say of the message.
    pub(crate) is_only_recorded: bool,
}

/// What a connection's two directions share.
#[derive(Clone, Copy)]
pub(crate) struct Talk<'a> {
    pub(crate) deps: &'a Deps,
    /// Identifies the caller, anew for each message.
    pub(crate) claim: &'a Arc<Claim>,
    pub(crate) known: &'a Known,
    pub(crate) judge: &'a Judge,
    /// What keeps credentials out of what the server says.
    pub(crate) guard: Option<&'a Guard>,
}

/// Why a connection ends.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A side is gone.
    Gone,
    /// A direction ended between two frames, as requested.
    Ending,
    /// Nothing moved for too long.
    Idle,
    /// The connection may not go on.
    Told(relay::Stop),
    /// The client's frames are wrong.
    Broken(u16, &'static str),
    /// A message is refused.
    Refused(Refusal),
}

impl From<Wrong> for Stop {
    fn from(Wrong(code, why): Wrong) -> Self {
        Self::Broken(code, why)
    }
}

impl Talk<'_> {
    /// Judges one whole message by the program that holds the connection now, and by the policy now in force.
    /// Returns the frame to send in its place, if placeholders were replaced.
    async fn message(&self, inbox: &Inbox, text: bool) -> Result<Option<Vec<u8>>, Stop> {
        let started = Instant::now();
        let Self { deps, judge, .. } = *self;
        let mut known = Known { method: Some(SmolStr::new_static(WEBSOCKET_TEXT)), ..self.known.clone() };
        let refuse = |known: &Known, refusal| {
            Stop::Refused(outcome::refused(&*deps.journal, known, refusal, started.elapsed()))
        };
        let caller = self.claim.judged().await.map_err(|unjudged| refuse(&known, unjudged.into()))?;
        known.caller = Some(caller.shared());
        let generation = deps.policy.load();
        let (to, caller) = (judge.granted.destination(), &*caller);
        let path = &judge.exchange.path;
        let message = match text {
            true => std::str::from_utf8(&inbox.message)
                .map(Some)
                .map_err(|_| Stop::Broken(1007, "a text message is not UTF-8"))?,
            false => None,
        };
        let asks = generation.compiled.asks_of_messages(to, caller, path);
        let said = message.map(|text| super::beside(text.len(), || SaidText::read(text, asks)));
        let content = said.as_ref().map_or(Content::Binary, SaidText::content);
        let facts = RequestFacts {
            method: WEBSOCKET_TEXT,
            path,
            query: &judge.exchange.query,
            websocket: true,
            content,
        };
        let allowed = generation
            .compiled
            .request(to, caller, &facts)
            .map_err(|denial| refuse(&known, Refusal::Denied(denial)))?;
        let policy = allowed.policy.clone();
        let rewrites = || generation.compiled.rewrites(to, caller, path).messages;
        let request = credentials::Request {
            to,
            path,
            seconds: &judge.exchange.seconds,
            caller,
            tls: judge.exchange.tls,
            is_only_recorded: judge.is_only_recorded || allowed.audit_only.is_some(),
        };
        let filled = credentials::in_message(
            &deps.credentials,
            request,
            &inbox.message,
            message.filter(|_| rewrites()),
        )
        .map_err(|denial| refuse(&known, Refusal::Denied(Denial { policy: Some(policy), ..denial })))?;
        let frames = filled.map(|(filled, carried)| {
            known.credentials = carried;
            inbox.frame(&filled)
        });
        // Messages that pass are not recorded, except those that only pass because the policy doesn't
        // enforce, and those that carry a credential.
        if allowed.audit_only.is_some() || !known.credentials.is_empty() {
            let permitted = Permitted::message(judge.granted.clone(), judge.exchange.clone(), allowed);
            outcome::request_allowed(&*deps.journal, &known, &permitted, started.elapsed())
                .map_err(Stop::Refused)?;
        }
        Ok(frames)
    }
}

/// Passes messages between agent and upstream until a side is done, one is refused, or `stop`.
pub(crate) async fn relay<A, B>(
    talk: Option<&Talk<'_>>,
    (agent, upstream): (A, B),
    meter: &Meter,
    stop: impl Future<Output = relay::Stop>,
) -> (Relayed, Option<String>)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut agent_in, mut agent_out) = tokio::io::split(agent);
    let (mut upstream_in, mut upstream_out) = tokio::io::split(upstream);
    let Meter { up, down, .. } = meter;
    let ending = CancellationToken::new();
    let (stopped, to_agent, to_upstream) = {
        let mut upward = pin!(async {
            let sides = (&mut agent_in, &mut upstream_out);
            match talk {
                Some(talk) => upward(talk, sides, up, &ending).await,
                None if unread(None, sides, up, (&ending, Begun::Dropped)).await => Stop::Ending,
                None => Stop::Gone,
            }
        });
        let guard = talk.and_then(|talk| talk.guard);
        let sides = (&mut upstream_in, &mut agent_out);
        let mut downward = pin!(unread(guard, sides, down, (&ending, Begun::Finished)));
        let stopped = tokio::select! {
            stopped = meter.unless_held(&mut upward) => stopped,
            _ = meter.unless_held(&mut downward) => Stop::Gone,
            why = stop => Stop::Told(why),
            () = quiet(meter, TUNNEL_IDLE) => Stop::Idle,
        };
        // Each side is told between two frames of the other's, or not at all.
        ending.cancel();
        let downward = async { timeout(PATIENCE, downward).await.unwrap_or(false) };
        let upward = async { matches!(timeout(PATIENCE, upward).await, Ok(Stop::Ending)) };
        let (to_agent, to_upstream) = match stopped {
            Stop::Gone | Stop::Idle | Stop::Ending => (false, false),
            Stop::Told(_) => tokio::join!(downward, upward),
            // The agent's direction ended between two messages.
            Stop::Broken(..) | Stop::Refused(_) => (downward.await, true),
        };
        (stopped, to_agent, to_upstream)
    };
    let (end, code, fault) = match stopped {
        Stop::Gone | Stop::Ending => (End::Done, None, None),
        Stop::Idle => (End::Idle, None, None),
        Stop::Told(why) => (End::Stopped(why), Some(POLICY_VIOLATION), Some(why.to_string())),
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
    let fault = if matches!(end, End::Stopped(_)) { None } else { fault };
    (meter.ended(end), fault)
}

/// Reads what still comes, to the end or to a bound.
async fn drain(from: &mut (impl AsyncRead + Unpin)) {
    let mut rest = from.take(MAX_LINGER_BYTES as u64);
    let _gone = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
}

/// Passes the agent's messages on, each of them judged.
async fn upward(
    talk: &Talk<'_>,
    (from, to): (&mut (impl AsyncRead + Unpin), &mut (impl AsyncWrite + Unpin)),
    moved: &AtomicU64,
    ending: &CancellationToken,
) -> Stop {
    let mut inbox = Inbox::default();
    let mut room: Option<(Room, tokio::time::Instant)> = None;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let slow = async {
            match &room {
                Some((_, by)) => tokio::time::sleep_until(*by).await,
                None => std::future::pending().await,
            }
        };
        let read = tokio::select! {
            biased;
            () = ending.cancelled() => return Stop::Ending,
            read = from.read(&mut buffer) => read,
            () = slow => return Stop::Broken(TRY_LATER, "a long message came too slowly"),
        };
        let Ok(read @ 1..) = read else { return Stop::Gone };
        inbox.raw.extend_from_slice(buffer.get(..read).unwrap_or_default());
        // What one read brings is the connection's own; a longer message takes its share of the memory that
        // all bodies may take, and may take as long to arrive as a body.
        if inbox.holds() > READ_BYTES {
            let begin = || {
                (
                    talk.deps.tracker.room(talk.claim.party()),
                    tokio::time::Instant::now() + JUDGED_BODY_DEADLINE,
                )
            };
            if room.get_or_insert_with(begin).0.pay_for(2 * inbox.holds()).is_err() {
                return Stop::Broken(TRY_LATER, "too many messages are being read at the same time");
            }
        }
        match pass(talk, &mut inbox, to).await {
            Ok(sent) => moved.fetch_add(sent, Ordering::Relaxed),
            Err(stop) => return stop,
        };
        if inbox.holds() <= READ_BYTES {
            room = None;
        }
    }
}

/// What happens to a frame that has only begun when the connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    /// Its rest is passed on, within [`PATIENCE`], so that the agent can be told the reason after it.
    Finished,
    /// Not another byte of it passes: it may be as long as its sender likes, and the sender may send no more.
    Dropped,
}

/// Passes on what a side sends, unread except for the search for credentials. Returns whether it ended
/// between two frames.
async fn unread(
    guard: Option<&Guard>,
    (mut from, to): (impl AsyncRead + Unpin, &mut (impl AsyncWrite + Unpin)),
    moved: &AtomicU64,
    (ending, begun): (&CancellationToken, Begun),
) -> bool {
    let mut answers = Answers::new(guard);
    let mut buffer = vec![0; READ_BYTES];
    let mut searched = 0;
    loop {
        let read = tokio::select! {
            biased;
            () = ending.cancelled(), if answers.between() || begun == Begun::Dropped => return answers.between(),
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
        searched += if guard.is_some() { read } else { 0 };
        if searched >= READ_BYTES {
            // A search is work, and a server that never pauses would have a thread to itself.
            searched = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Judges and sends on the messages that are whole.
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
                let filled = talk.message(inbox, ready == Ready::Text).await?;
                // A read may hold thousands of messages, and each is judged: others have their turn between.
                tokio::task::yield_now().await;
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
    /// Bytes of a control frame that are left for the reason after the code.
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
