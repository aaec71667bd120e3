//! Init's end of the channel to the supervisor: requests in, replies out, neither without bound.
//!
//! It never blocks on the supervisor: what can't be sent waits in a bounded queue, and while that is full no further
//! request is read. Requests that must wait for the proof are put aside and come first afterwards. It must never
//! answer anything itself: that is for [`super::handouts`] before the proof, and for [`super::serve`] after it.

use crate::protocol::{Answer, FromInit, Refusal, Request, RequestId, ToInit};
use crate::wire::{Packet, Wire, WireError, encode};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Replies that may wait to be sent, and requests that may be put aside.
const MAX_WAITING: usize = 64;

/// An answer with its descriptors, or why there is none.
pub(super) type Reply = Result<(Answer, Vec<OwnedFd>), Refusal>;

/// The channel is gone.
pub(super) struct Ended;

/// See the module.
pub(crate) struct Channel<'a> {
    wire: &'a Wire,
    waiting: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    aside: VecDeque<Packet<ToInit>>,
}

impl<'a> Channel<'a> {
    pub(super) fn new(wire: &'a Wire) -> Self {
        Self { wire, waiting: VecDeque::new(), aside: VecDeque::new() }
    }

    /// What to poll for; `speaks` when there is more to send than what waits here.
    pub(super) fn poll(&self, speaks: bool) -> libc::pollfd {
        let mut events = 0;
        if self.has_room() {
            events |= libc::POLLIN;
        }
        if speaks || !self.waiting.is_empty() {
            events |= libc::POLLOUT;
        }
        libc::pollfd { fd: self.wire.as_fd().as_raw_fd(), events, revents: 0 }
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING && self.aside.len() < MAX_WAITING
    }

    /// The next request, if one is there and its reply has room.
    pub(super) fn receive(&mut self) -> Result<Option<Packet<ToInit>>, Ended> {
        while self.has_room() {
            match self.wire.try_recv::<ToInit>() {
                Ok(packet) => return Ok(Some(packet)),
                Err(WireError::NotReady) => break,
                Err(WireError::Closed | WireError::Io(_)) => return Err(Ended),
                // The supervisor is ours: an unreadable packet is a fault there, answered to nobody.
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Keeps a request for later.
    pub(super) fn put_aside(&mut self, id: RequestId, request: Request, fds: Vec<OwnedFd>) {
        self.aside.push_back(Packet { body: ToInit { id, request }, fds });
    }

    /// The first request that was put aside.
    pub(super) fn take_aside(&mut self) -> Option<Packet<ToInit>> {
        self.aside.pop_front()
    }

    /// Queues a reply.
    pub(super) fn reply(&mut self, to: RequestId, reply: Reply) {
        let (result, fds) = match reply {
            Ok((answer, fds)) => (Ok(answer), fds),
            Err(refusal) => (Err(refusal), Vec::new()),
        };
        let bytes = encode(&FromInit::Reply { to, result }).or_else(|_| {
            let refusal = Refusal::TooMany("bytes in an answer".into());
            encode(&FromInit::Reply { to, result: Err(refusal) })
        });
        if let Ok(bytes) = bytes {
            self.waiting.push_back((bytes, fds));
        }
    }

    /// Sends the replies that can be sent now; whether that was all of them.
    pub(super) fn flush(&mut self) -> Result<bool, Ended> {
        while let Some((bytes, fds)) = self.waiting.front() {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match self.wire.try_send_encoded(bytes, &borrowed) {
                Err(WireError::NotReady) => return Ok(false),
                Err(WireError::Closed) => return Err(Ended),
                // Anything else is of this one packet (a descriptor limit): its asker waits in vain, others go on.
                Ok(()) | Err(_) => drop(self.waiting.pop_front()),
            }
        }
        Ok(true)
    }

    /// The wire, for events.
    pub(super) fn wire(&self) -> &Wire {
        self.wire
    }
}
