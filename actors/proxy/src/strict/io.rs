//! The adapter between a byte stream and hyper's HTTP/1 server.
//!
//! `StrictIo` reads from the stream into its own bounded buffer, judges each head whole before a byte of it
//! is passed on, follows the body's framing, and so always knows where the next head begins. On a violation
//! it presents end-of-file (hyper finishes what is in flight) and keeps the reason for the connection's task,
//! which writes the answer itself. After CONNECT or an upgrade it passes nothing more: what follows belongs
//! to the code that takes the stream back. It must never pass a byte that was not judged, nor let a peer wait
//! for ever.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::Framing;
use super::named::Named;
use super::{Violation, head};
use crate::interim::Interim;
use crate::limits::{
    BODY_IDLE, FREE_HEAD_BYTES, HEAD_DEADLINE, IO_BUFFER_BYTES, KEEP_ALIVE_IDLE, MAX_HEAD_BYTES, WRITE_STALL,
};
use crate::room::Heads;
use crate::timer::Timer;

/// The violation that ended a connection, readable by its requests too: a body that broke off for it is the
/// agent's fault, not the upstream's.
pub type Fault = Arc<OnceLock<Violation>>;

/// See the module.
#[derive(Debug)]
pub struct StrictIo<T> {
    stream: T,
    state: State,
    /// Bytes read and not yet passed on.
    buffer: BytesMut,
    /// How many bytes at the front of `buffer` are judged and may be passed on.
    judged: usize,
    /// What a long head takes of the memory that all heads may take.
    room: Heads,
    /// How far the search for the end of the head has come.
    searched: usize,
    fault: Fault,
    /// A violation that no request will answer for, since its head never became one.
    unanswered: Option<Violation>,
    /// What that head asks for.
    named: Option<Box<Named>>,
    /// Heads that became requests.
    heads: u64,
    /// Interim answers, which go to the peer between the library's.
    interim: Interim,
    /// The interim answers of which a part may be written already.
    leaving: BytesMut,
    read_timer: Timer,
    write_timer: Timer,
}

#[derive(Debug)]
enum State {
    /// Waiting for the first byte of a head.
    Idle,
    /// Some bytes of a head are there.
    Head {
        /// Its first line is whole and judged.
        has_line: bool,
    },
    /// A body is passing.
    Body(Framing),
    /// What follows is no HTTP, or not yet known to be: nothing passes.
    Held,
    /// A body that breaks the framing: reading fails once what was judged before has passed.
    Broken(Violation),
    /// A violation, a time-out or the peer's end: nothing passes any more.
    Ended,
}

/// What is left when HTTP is done on the stream.
#[derive(Debug)]
pub struct Remains<T> {
    /// The stream.
    pub stream: T,
    /// Bytes that were read from it and not passed on.
    pub surplus: BytesMut,
}

impl<T> StrictIo<T> {
    /// Wraps `stream`; `surplus` is what was already read from it. Heads longer than [`FREE_HEAD_BYTES`] are
    /// paid for from `room`.
    pub(crate) fn new(stream: T, surplus: BytesMut, room: Heads) -> Self {
        Self {
            stream,
            state: State::Idle,
            buffer: surplus,
            judged: 0,
            room,
            searched: 0,
            fault: Fault::default(),
            unanswered: None,
            named: None,
            heads: 0,
            interim: Interim::default(),
            leaving: BytesMut::new(),
            read_timer: Timer::default(),
            write_timer: Timer::default(),
        }
    }

    /// Where the reason for an early end will be found.
    pub fn fault(&self) -> Fault {
        Arc::clone(&self.fault)
    }

    /// Where to put interim answers that are to be written between the library's.
    pub(crate) fn interim(&self) -> Interim {
        self.interim.clone()
    }

    /// Whether a violation was found while a head was read, so that no request will answer for it.
    pub fn unanswered(&self) -> Option<Violation> {
        self.unanswered
    }

    /// What the refused head asks for, if no request will answer for it.
    pub fn take_named(&mut self) -> Option<Named> {
        self.named.take().map(|named| *named)
    }

    /// How many heads became requests.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Takes the stream back.
    pub fn into_remains(self) -> Remains<T> {
        Remains { stream: self.stream, surplus: self.buffer }
    }

    /// Ends reading for a violation. Heads judged before it still pass; nothing behind them does.
    fn end(&mut self, violation: Violation) {
        if matches!(self.state, State::Idle | State::Head { .. }) {
            self.unanswered = Some(violation);
        }
        let _first_one_stays = self.fault.set(violation);
        self.state = State::Ended;
        self.buffer.truncate(self.judged);
        self.read_timer.clear();
    }

    /// Judges what is buffered, as far as it goes. Nothing is judged twice.
    fn judge_buffered(&mut self) {
        loop {
            let fresh = self.buffer.get(self.judged..).unwrap_or_default();
            if fresh.is_empty() {
                return;
            }
            match &mut self.state {
                State::Idle => {
                    self.state = State::Head { has_line: false };
                    self.searched = 0;
                    self.read_timer.set(HEAD_DEADLINE);
                }
                State::Head { has_line } => match head::find_end(fresh, self.searched) {
                    None if fresh.len() >= MAX_HEAD_BYTES => {
                        self.end(Violation::TooLarge);
                        return;
                    }
                    None => {
                        let judged =
                            if *has_line { Ok(true) } else { head::judge_beginning(fresh, self.searched) };
                        match judged {
                            Ok(whole) => (*has_line, self.searched) = (whole, fresh.len()),
                            Err(violation) => self.refuse(violation),
                        }
                        return;
                    }
                    Some(end) if end > MAX_HEAD_BYTES => {
                        self.end(Violation::TooLarge);
                        return;
                    }
                    Some(end) => match head::judge(fresh.get(..end).unwrap_or_default()) {
                        Ok(head) => {
                            self.judged += end;
                            self.enter(head);
                        }
                        Err(violation) => {
                            self.refuse(violation);
                            return;
                        }
                    },
                },
                State::Body(framing) => match framing.advance(fresh) {
                    Ok(taken) => {
                        self.judged += taken;
                        if framing.is_empty() {
                            self.idle();
                        }
                    }
                    Err(violation) => {
                        self.end(violation);
                        self.state = State::Broken(violation);
                        return;
                    }
                },
                State::Held | State::Broken(_) | State::Ended => return,
            }
        }
    }

    /// Ends reading for what is wrong with the head at the front.
    fn refuse(&mut self, violation: Violation) {
        self.named = self.buffer.get(self.judged..).and_then(Named::of).map(Box::new);
        self.end(violation);
    }

    fn enter(&mut self, head: head::Head) {
        self.heads += 1;
        if head.tunnel {
            self.state = State::Held;
            self.read_timer.clear();
        } else if head.framing.is_empty() {
            self.idle();
        } else {
            self.state = State::Body(head.framing);
            // The reader of the body may take its time; the timer runs only while we wait for the agent.
            self.read_timer.clear();
        }
    }

    fn idle(&mut self) {
        self.state = State::Idle;
        // The timer for the next head starts when the library asks for it: a long answer is no idleness.
        self.read_timer.clear();
    }

    fn pass(&mut self, out: &mut ReadBuf<'_>) -> bool {
        let passing = self.judged.min(out.remaining());
        if passing == 0 {
            return false;
        }
        out.put_slice(self.buffer.get(..passing).unwrap_or_default());
        self.buffer.advance(passing);
        self.judged -= passing;
        if self.buffer.is_empty() {
            let mut room = self.room.lock();
            if room.is_paid() {
                // A connection that goes on keeps no memory of a long head.
                self.buffer = BytesMut::new();
                room.give_back();
            }
        }
        true
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for StrictIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.pass(out) {
                return Poll::Ready(Ok(()));
            }
            match this.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Broken(violation) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
                }
                State::Held => return Poll::Pending,
                State::Body(_) => {
                    this.judge_buffered();
                    // A body without surplus in the way goes straight into the caller's buffer.
                    if this.buffer.is_empty() {
                        return this.poll_body(cx, out);
                    }
                    continue;
                }
                State::Idle | State::Head { .. } => this.judge_buffered(),
            }
            if this.judged > 0 || !matches!(this.state, State::Idle | State::Head { .. }) {
                continue;
            }
            match this.poll_fill(cx) {
                Poll::Ready(read) => {
                    if read? == 0 {
                        this.state = State::Ended;
                    }
                }
                // The timer is checked only when there is nothing to read, so that bytes that waited for us
                // are never late.
                Poll::Pending => {
                    this.read_timer.arm(KEEP_ALIVE_IDLE);
                    ready!(this.read_timer.poll_elapsed(cx));
                    match this.state {
                        State::Head { .. } => this.end(Violation::Slow),
                        _ => this.state = State::Ended,
                    }
                }
            }
        }
    }
}

impl<T: AsyncRead + Unpin> StrictIo<T> {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut chunk = [0_u8; 8 * 1024];
        let mut read = ReadBuf::new(&mut chunk);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        let (held, fresh) = (self.buffer.len(), read.filled().len());
        if held + fresh > FREE_HEAD_BYTES && self.room.lock().pay_for(held + fresh).is_err() {
            self.end(Violation::Crowded);
            return Poll::Ready(Ok(fresh));
        }
        self.buffer.extend_from_slice(read.filled());
        Poll::Ready(Ok(fresh))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, out) else {
            self.read_timer.arm(BODY_IDLE);
            if self.read_timer.poll_elapsed(cx).is_ready() {
                self.end(Violation::Slow);
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            return Poll::Pending;
        };
        read?;
        let fresh = out.filled().get(before..).unwrap_or_default();
        let State::Body(framing) = &mut self.state else { return Poll::Ready(Ok(())) };
        if fresh.is_empty() {
            self.state = State::Ended;
            return Poll::Ready(Ok(()));
        }
        self.read_timer.clear();
        match framing.advance(fresh) {
            Ok(taken) => {
                let surplus = fresh.get(taken..).unwrap_or_default();
                let held = surplus.len();
                self.buffer.extend_from_slice(surplus);
                out.set_filled(before + taken);
                if framing.is_empty() {
                    self.idle();
                }
                if held > FREE_HEAD_BYTES && self.room.lock().pay_for(held).is_err() {
                    // The body is whole, and passes; what is behind it is no request yet.
                    self.end(Violation::Crowded);
                }
                Poll::Ready(Ok(()))
            }
            Err(violation) => {
                out.set_filled(before);
                self.end(violation);
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)))
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> StrictIo<T> {
    /// Writes the interim answers that have been begun to their end, so that nothing comes between their
    /// bytes.
    fn poll_leaving(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.leaving.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.leaving))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.leaving.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn watch<R>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if poll.is_ready() {
            self.write_timer.clear();
            return poll;
        }
        self.write_timer.arm(WRITE_STALL);
        match self.write_timer.poll_elapsed(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for StrictIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = match self.poll_leaving(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.stream).poll_write(cx, bytes),
            other => other.map_ok(|()| 0),
        };
        self.watch(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = match self.poll_leaving(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.stream).poll_write_vectored(cx, slices),
            other => other.map_ok(|()| 0),
        };
        self.watch(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Begins to write queued interim answers: the library calls this whenever it has looked for work, and
    /// only once all of its own output is written. That is between two answers, or while it waits for one.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.leaving.is_empty()
            && let Some(interim) = self.interim.take()
        {
            self.leaving = interim;
        }
        let poll = match self.poll_leaving(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.stream).poll_flush(cx),
            other => other,
        };
        self.watch(cx, poll)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Only flushed: the connection's task may have a last answer to write, or a tunnel to begin.
        self.poll_flush(cx)
    }
}

// A connection's read buffer is at least as large as the longest head.
const _: () = assert!(IO_BUFFER_BYTES >= MAX_HEAD_BYTES);

#[cfg(test)]
mod tests;
