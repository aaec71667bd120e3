//! Init's end of the channel to the supervisor: requests in, replies out, both bounded.
//!
//! It never blocks on the supervisor: what can't be sent waits in a bounded queue, and while that is full no
//! further request is read. A reply that the kernel refuses to send for want of memory is tried again, and
//! doesn't hold up the others. Requests that must wait for the proof are put aside and come first afterwards.
//! It must never answer anything itself: that is for [`super::handouts`] before the proof, and for
//! [`super::serve`] after it.

use super::handouts::system;
use crate::protocol::{Answer, Event, FromInit, Refusal, Request, RequestId, ToInit};
use crate::wire::{Packet, Wire, WireError, encode};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Replies that may wait to be sent, and requests that may be put aside.
const MAX_WAITING: usize = 64;
/// Interval of further attempts after the kernel refused to send, in milliseconds: poll(2) doesn't tell when
/// one would succeed.
const RETRY_MILLISECONDS: i32 = 50;
/// How long a reply is retried before a refusal is sent in its place: the kernel may be refusing its
/// descriptors.
const SENDING: Duration = Duration::from_secs(2);

/// An answer with its descriptors, or why there is none.
pub(super) type Reply = Result<(Answer, Vec<OwnedFd>), Refusal>;

/// The channel is gone.
pub(super) struct Ended;

/// The result of an attempt to send a packet while the supervisor is connected.
#[derive(Debug)]
pub(super) enum Sent {
    /// The packet is on its way.
    Gone,
    /// The supervisor has not read what was sent before: poll(2) tells when there is room.
    NoRoom,
    /// The kernel refused this time: another attempt a little later may succeed.
    Later(io::Error),
    /// No attempt will ever succeed with this very packet.
    Never,
}

/// A reply that is not sent yet.
struct Waiting {
    to: RequestId,
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    /// When sending it first failed.
    tried: Option<Instant>,
}

/// Requests and replies that wait, and the wire; see the module.
pub(crate) struct Channel<'a> {
    wire: &'a Wire,
    waiting: VecDeque<Waiting>,
    aside: VecDeque<Packet<ToInit>>,
    /// An attempt ended with [`Sent::Later`]: the next one is timed by the clock, not by poll(2).
    hindered: bool,
}

impl<'a> Channel<'a> {
    pub(super) fn new(wire: &'a Wire) -> Self {
        Self { wire, waiting: VecDeque::new(), aside: VecDeque::new(), hindered: false }
    }

    /// Returns what to poll for. `speaks` says that there is more to send than the replies waiting here.
    pub(super) fn poll(&self, speaks: bool) -> libc::pollfd {
        let mut events = 0;
        if self.has_room() {
            events |= libc::POLLIN;
        }
        // While the kernel refuses to send, poll(2) still reports room: polling for it would spin.
        if !self.hindered && (speaks || !self.waiting.is_empty()) {
            events |= libc::POLLOUT;
        }
        libc::pollfd { fd: self.wire.as_fd().as_raw_fd(), events, revents: 0 }
    }

    /// Returns how long the loop may sleep that would otherwise sleep for `milliseconds`; -1 = until
    /// something happens.
    pub(super) fn sleep(&self, milliseconds: i32) -> i32 {
        match self.hindered {
            true if milliseconds < 0 => RETRY_MILLISECONDS,
            true => milliseconds.min(RETRY_MILLISECONDS),
            false => milliseconds,
        }
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING && self.aside.len() < MAX_WAITING
    }

    /// Returns the next request, if there is one and the queue has room for its reply.
    pub(super) fn receive(&mut self) -> Result<Option<Packet<ToInit>>, Ended> {
        while self.has_room() {
            match self.wire.try_recv::<ToInit>() {
                Ok(packet) => return Ok(Some(packet)),
                Err(WireError::NotReady) => break,
                Err(WireError::Closed | WireError::Io(_)) => return Err(Ended),
                // The supervisor is our own program: an unreadable packet is a fault there, and is dropped
                // without a reply.
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
        match encode(&FromInit::Reply { to, result }) {
            Ok(bytes) => self.waiting.push_back(Waiting { to, bytes, fds, tried: None }),
            Err(_) => self.refuse(to, Refusal::TooMany("bytes in an answer".into())),
        }
    }

    /// Queues a refusal in place of a reply that can't be sent. These refusals are short, so encoding them
    /// never fails.
    fn refuse(&mut self, to: RequestId, refusal: Refusal) {
        if let Ok(bytes) = encode(&FromInit::Reply { to, result: Err(refusal) }) {
            self.waiting.push_back(Waiting { to, bytes, fds: Vec::new(), tried: None });
        }
    }

    /// Sends the replies that can be sent now, and returns whether that was all of them.
    pub(super) fn flush(&mut self) -> Result<bool, Ended> {
        self.hindered = false;
        // Each is tried once: a reply that is put off, or replaced by a refusal, goes behind the others.
        for _ in 0..self.waiting.len() {
            let Some(reply) = self.waiting.pop_front() else { break };
            match self.send(&reply.bytes, &reply.fds)? {
                Sent::Gone => {}
                Sent::NoRoom => {
                    self.waiting.push_front(reply);
                    return Ok(false);
                }
                Sent::Later(error) => self.put_off(reply, error),
                Sent::Never if reply.fds.is_empty() => {
                    self.refuse(reply.to, Refusal::TooMany("bytes in an answer".into()));
                }
                Sent::Never => self.refuse(reply.to, Refusal::TooMany("descriptors in an answer".into())),
            }
        }
        Ok(self.waiting.is_empty())
    }

    /// Keeps a reply for the next attempt, or a refusal in its place once its time is up.
    fn put_off(&mut self, mut reply: Waiting, error: io::Error) {
        let tried = *reply.tried.get_or_insert_with(Instant::now);
        match tried.elapsed() < SENDING {
            true => self.waiting.push_back(reply),
            false => self.refuse(reply.to, system("sending an answer")(error)),
        }
    }

    /// Sends an event, if that can be done now. Must be called only while no reply waits, so that a process's
    /// start is told before its end.
    pub(super) fn tell(&mut self, event: Event) -> Result<Sent, Ended> {
        match encode(&FromInit::Event(event)) {
            Ok(bytes) => self.send(&bytes, &[]),
            Err(_) => Ok(Sent::Never),
        }
    }

    fn send(&mut self, bytes: &[u8], fds: &[OwnedFd]) -> Result<Sent, Ended> {
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        match self.wire.try_send_encoded(bytes, &borrowed) {
            Ok(()) => Ok(Sent::Gone),
            Err(WireError::Closed) => Err(Ended),
            Err(WireError::NotReady) => Ok(Sent::NoRoom),
            // Larger than the socket's whole buffer.
            Err(WireError::Io(error)) if error.raw_os_error() == Some(libc::EMSGSIZE) => Ok(Sent::Never),
            Err(WireError::Io(error)) => {
                self.hindered = true;
                Ok(Sent::Later(error))
            }
            Err(_) => Ok(Sent::Never),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{ExitStatus, ProcessId};
    use std::os::unix::net::UnixDatagram;

    /// Both ends of a channel, not connected yet: the kernel refuses to send until [`UnixDatagram::connect`].
    struct Ends {
        init: Wire,
        connects: UnixDatagram,
        supervisor: Wire,
        address: std::path::PathBuf,
        _directory: tempfile::TempDir,
    }

    impl Ends {
        fn make() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let address = directory.path().join("supervisor");
            let supervisor = Wire::new(UnixDatagram::bind(&address).unwrap().into()).unwrap();
            let connects = UnixDatagram::unbound().unwrap();
            let init = Wire::new(connects.try_clone().unwrap().into()).unwrap();
            Self { init, connects, supervisor, address, _directory: directory }
        }

        fn connect(&self) {
            self.connects.connect(&self.address).unwrap();
        }

        fn heard(&self) -> (FromInit, usize) {
            let packet = self.supervisor.try_recv::<FromInit>().unwrap();
            (packet.body, packet.fds.len())
        }
    }

    fn done() -> Reply {
        Ok((Answer::Done, Vec::new()))
    }

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn what_the_kernel_would_not_send_is_kept_and_tried_again_soon_without_spinning() {
        let ends = Ends::make();
        let mut channel = Channel::new(&ends.init);
        channel.reply(RequestId(1), Ok((Answer::Descriptor, vec![null()])));
        channel.reply(RequestId(2), done());
        assert_eq!(channel.sleep(-1), -1);
        assert!(matches!(channel.flush(), Ok(false)));
        assert_eq!(channel.poll(true).events & libc::POLLOUT, 0, "poll(2) would find room at once");
        assert_eq!((channel.sleep(-1), channel.sleep(1000), channel.sleep(0)), (50, 50, 0));
        ends.connect();
        assert!(matches!(channel.flush(), Ok(true)));
        assert_eq!(ends.heard(), (FromInit::Reply { to: RequestId(1), result: Ok(Answer::Descriptor) }, 1));
        assert_eq!(ends.heard(), (FromInit::Reply { to: RequestId(2), result: Ok(Answer::Done) }, 0));
        assert_eq!(channel.sleep(-1), -1);
    }

    #[test]
    fn an_event_that_the_kernel_would_not_send_is_no_event_told() {
        let ends = Ends::make();
        let mut channel = Channel::new(&ends.init);
        let event = Event::Exited { process: ProcessId(1), agent: "a".into(), status: ExitStatus::Code(0) };
        assert!(matches!(channel.tell(event.clone()), Ok(Sent::Later(_))));
        assert_eq!(channel.poll(true).events & libc::POLLOUT, 0);
        ends.connect();
        assert!(matches!(channel.flush(), Ok(true)));
        assert_ne!(channel.poll(true).events & libc::POLLOUT, 0);
        assert!(matches!(channel.tell(event.clone()), Ok(Sent::Gone)));
        assert_eq!(ends.heard().0, FromInit::Event(event));
    }

    #[test]
    fn a_reply_that_never_goes_is_refused_in_the_end() {
        let ends = Ends::make();
        let mut channel = Channel::new(&ends.init);
        channel.reply(RequestId(1), Ok((Answer::Descriptor, vec![null()])));
        assert!(matches!(channel.flush(), Ok(false)));
        channel.waiting[0].tried = Instant::now().checked_sub(SENDING);
        assert!(matches!(channel.flush(), Ok(false)));
        ends.connect();
        assert!(matches!(channel.flush(), Ok(true)));
        let (said, descriptors) = ends.heard();
        let FromInit::Reply { to: RequestId(1), result: Err(Refusal::System { errno, .. }) } = said else {
            panic!("{said:?}")
        };
        assert_eq!((errno, descriptors), (libc::ENOTCONN, 0));
    }

    #[test]
    fn a_reply_that_can_never_be_sent_is_refused_at_once() {
        let ends = Ends::make();
        ends.connect();
        let mut channel = Channel::new(&ends.init);
        let many = (0..=crate::wire::MAX_FDS).map(|_| null()).collect();
        channel.reply(RequestId(1), Ok((Answer::Descriptor, many)));
        channel.reply(RequestId(2), done());
        assert!(matches!(channel.flush(), Ok(false)));
        assert_eq!(ends.heard().0, FromInit::Reply { to: RequestId(2), result: Ok(Answer::Done) });
        assert_ne!(channel.poll(false).events & libc::POLLOUT, 0);
        assert!(matches!(channel.flush(), Ok(true)));
        let refused = Refusal::TooMany("descriptors in an answer".into());
        assert_eq!(ends.heard().0, FromInit::Reply { to: RequestId(1), result: Err(refused) });
    }
}
