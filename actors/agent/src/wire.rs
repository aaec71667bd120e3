//! The wire between cofferdam's processes: one message per packet over `SOCK_SEQPACKET` pairs.
//!
//! A packet is a two-byte version, then a postcard body of at most [`MAX_BODY`] bytes, then at most
//! [`MAX_FDS`] descriptors in `SCM_RIGHTS`. The kernel keeps packets whole, so there is no framing to get
//! wrong. A packet that is truncated, oversize, of another version or has bytes left over is an error, and
//! its descriptors are closed. This file must never block on a peer without a deadline the caller chose, nor
//! let a received descriptor survive an exec (`MSG_CMSG_CLOEXEC` always).

use crate::sys;
use serde::{Serialize, de::DeserializeOwned};
use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;

/// The protocol's version; a peer with another one is refused, never guessed at.
pub const VERSION: u16 = 1;
/// Bytes of one body: larger things (argv, environment, bundles) travel in a sealed memory file.
pub const MAX_BODY: usize = 64 * 1024;
/// Descriptors in one packet.
pub const MAX_FDS: usize = 16;
/// Version prefix and body.
const MAX_PACKET: usize = MAX_BODY + 2;

/// What can be wrong with a packet or the socket under it.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The other side has closed its end.
    #[error("the peer closed the channel")]
    Closed,
    /// Nothing to read, or no room to write, at this moment (only from the `try_` calls and on a deadline).
    #[error("the channel isn't ready")]
    NotReady,
    /// A body over [`MAX_BODY`], in either direction.
    #[error("a packet of {0} bytes is over the limit of {MAX_BODY}")]
    Oversize(usize),
    /// More descriptors than [`MAX_FDS`], or the kernel dropped some (too many open files here).
    #[error("a packet's descriptors were cut off")]
    Descriptors,
    /// The packet begins with another version.
    #[error("the peer speaks version {0} of the protocol, this is version {VERSION}")]
    Version(u16),
    /// The body isn't what postcard makes of the expected type.
    #[error("a packet could not be decoded: {0}")]
    Malformed(#[from] postcard::Error),
    /// The system call failed.
    #[error("channel: {0}")]
    Io(#[from] std::io::Error),
}

/// One received message with the descriptors that came along.
#[derive(Debug)]
pub struct Packet<T> {
    /// The message.
    pub body: T,
    /// Its descriptors in the sender's order, all close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Encodes one message to packet bytes.
///
/// # Errors
/// [`WireError::Oversize`] or [`WireError::Malformed`].
pub fn encode<T: Serialize>(body: &T) -> Result<Vec<u8>, WireError> {
    let bytes = postcard::to_extend(body, VERSION.to_le_bytes().to_vec())?;
    if bytes.len() > MAX_PACKET { Err(WireError::Oversize(bytes.len() - 2)) } else { Ok(bytes) }
}

/// Decodes packet bytes; the whole packet must be used up.
///
/// # Errors
/// [`WireError::Version`], [`WireError::Oversize`] or [`WireError::Malformed`].
pub fn decode<T: DeserializeOwned>(packet: &[u8]) -> Result<T, WireError> {
    let Some((prefix, body)) = packet.split_first_chunk::<2>() else {
        return Err(WireError::Malformed(postcard::Error::DeserializeUnexpectedEnd));
    };
    let version = u16::from_le_bytes(*prefix);
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    if body.len() > MAX_BODY {
        return Err(WireError::Oversize(body.len()));
    }
    match postcard::take_from_bytes::<T>(body)? {
        (value, []) => Ok(value),
        // Bytes left over mean that the two sides disagree on the type.
        _ => Err(WireError::Malformed(postcard::Error::DeserializeBadEncoding)),
    }
}

/// A connected pair of channel ends, close-on-exec, not yet given to anyone.
///
/// # Errors
/// The system call's.
pub fn pair() -> Result<(OwnedFd, OwnedFd), WireError> {
    Ok(sys::socket::seqpacket_pair()?)
}

/// The blocking end, for the single-threaded processes (heart, init).
///
/// All calls take `&self`: the kernel serialises packets.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    /// Takes one end of a [`pair`]. The descriptor is made non-blocking; waiting is done by `poll`.
    ///
    /// # Errors
    /// The system call's.
    pub fn new(socket: OwnedFd) -> Result<Self, WireError> {
        sys::fd::set_nonblocking(socket.as_fd())?;
        Ok(Self { socket })
    }

    /// Sends, waiting for room at most `deadline` (`None` = for as long as it takes).
    ///
    /// # Errors
    /// See [`WireError`]; [`WireError::NotReady`] after the deadline.
    pub fn send<T: Serialize>(
        &self,
        body: &T,
        fds: &[BorrowedFd<'_>],
        deadline: Option<Duration>,
    ) -> Result<(), WireError> {
        let bytes = encode(body)?;
        self.within(deadline, sys::fd::Ready::Writable, || send_packet(self.socket.as_fd(), &bytes, fds))
    }

    /// Tries until it is done, or the socket has not been ready for it within `deadline` in all.
    fn within<T>(
        &self,
        deadline: Option<Duration>,
        ready: sys::fd::Ready,
        attempt: impl Fn() -> Result<T, WireError>,
    ) -> Result<T, WireError> {
        let begun = Instant::now();
        loop {
            match attempt() {
                Err(WireError::NotReady) => {
                    let left = deadline.map(|deadline| deadline.saturating_sub(begun.elapsed()));
                    if !sys::fd::wait(self.socket.as_fd(), ready, left)? {
                        return Err(WireError::NotReady);
                    }
                }
                done => return done,
            }
        }
    }

    /// Sends already encoded bytes without waiting.
    ///
    /// # Errors
    /// [`WireError::NotReady`] when the peer's queue is full; else see [`WireError`].
    pub fn try_send_encoded(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        send_packet(self.socket.as_fd(), packet, fds)
    }

    /// Receives, waiting at most `deadline` (`None` = for as long as it takes).
    ///
    /// # Errors
    /// See [`WireError`]; [`WireError::NotReady`] after the deadline.
    pub fn recv<T: DeserializeOwned>(&self, deadline: Option<Duration>) -> Result<Packet<T>, WireError> {
        self.within(deadline, sys::fd::Ready::Readable, || self.try_recv())
    }

    /// Receives without waiting.
    ///
    /// # Errors
    /// [`WireError::NotReady`] when nothing is there; else see [`WireError`].
    pub fn try_recv<T: DeserializeOwned>(&self) -> Result<Packet<T>, WireError> {
        recv_packet(self.socket.as_fd())
    }
}

impl From<Wire> for OwnedFd {
    fn from(wire: Wire) -> Self {
        wire.socket
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The asynchronous end, for the supervisor.
#[derive(Debug)]
pub struct AsyncWire {
    socket: AsyncFd<OwnedFd>,
}

impl AsyncWire {
    /// Takes one end of a [`pair`]; call it inside a tokio runtime.
    ///
    /// # Errors
    /// The system call's.
    pub fn new(socket: OwnedFd) -> Result<Self, WireError> {
        sys::fd::set_nonblocking(socket.as_fd())?;
        Ok(Self { socket: sys::fd::watch(socket)? })
    }

    /// Sends one message. Cancel-safe: a packet goes whole or not at all.
    ///
    /// # Errors
    /// See [`WireError`].
    pub async fn send<T: Serialize>(&self, body: &T, fds: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        let bytes = encode(body)?;
        loop {
            let mut guard = self.socket.writable().await?;
            match send_packet(guard.get_inner().as_fd(), &bytes, fds) {
                Err(WireError::NotReady) => guard.clear_ready(),
                done => return done,
            }
        }
    }

    /// Receives one message. Cancel-safe.
    ///
    /// # Errors
    /// See [`WireError`].
    pub async fn recv<T: DeserializeOwned>(&self) -> Result<Packet<T>, WireError> {
        loop {
            let mut guard = self.socket.readable().await?;
            match recv_packet(guard.get_inner().as_fd()) {
                Err(WireError::NotReady) => guard.clear_ready(),
                done => return done,
            }
        }
    }
}

impl AsRawFd for AsyncWire {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

fn send_packet(socket: BorrowedFd<'_>, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), WireError> {
    if fds.len() > MAX_FDS {
        return Err(WireError::Descriptors);
    }
    match sys::socket::send(socket, packet, fds) {
        Ok(()) => Ok(()),
        Err(error) => Err(io_error(error)),
    }
}

fn recv_packet<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> Result<Packet<T>, WireError> {
    thread_local! {
        // One byte more than any valid packet, so that an oversize one shows as truncated, not as a shorter
        // one. Made once per thread.
        static BUFFER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(MAX_PACKET + 1));
    }
    BUFFER.with_borrow_mut(|buffer| recv_into(socket, buffer))
}

fn recv_into<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
) -> Result<Packet<T>, WireError> {
    let got = sys::socket::receive::<MAX_FDS>(socket, buffer).map_err(io_error)?;
    if got.descriptors_cut {
        return Err(WireError::Descriptors);
    }
    if got.truncated || got.length > MAX_PACKET {
        return Err(WireError::Oversize(got.length));
    }
    if got.length == 0 {
        return Err(WireError::Closed);
    }
    let body = decode(buffer)?;
    Ok(Packet { body, fds: got.fds })
}

fn io_error(error: std::io::Error) -> WireError {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => WireError::NotReady,
        Some(libc::EPIPE | libc::ECONNRESET) => WireError::Closed,
        _ => WireError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Sample {
        Text(String),
        Numbers { a: u64, b: Vec<u32> },
    }

    fn wires() -> (Wire, Wire) {
        let (a, b) = pair().unwrap();
        (Wire::new(a).unwrap(), Wire::new(b).unwrap())
    }

    #[test]
    fn a_message_and_its_descriptors_arrive_whole() {
        let (a, b) = wires();
        let file = std::fs::File::open("/dev/null").unwrap();
        a.send(&Sample::Text("hello".into()), &[file.as_fd(), file.as_fd()], None).unwrap();
        let packet = b.recv::<Sample>(None).unwrap();
        assert_eq!(packet.body, Sample::Text("hello".into()));
        assert_eq!(packet.fds.len(), 2);
        for fd in packet.fds {
            assert!(sys::fd::is_cloexec(fd.as_fd()).unwrap());
        }
    }

    #[test]
    fn a_closed_peer_is_told_from_an_empty_queue() {
        let (a, b) = wires();
        assert!(matches!(b.try_recv::<Sample>(), Err(WireError::NotReady)));
        assert!(matches!(b.recv::<Sample>(Some(Duration::ZERO)), Err(WireError::NotReady)));
        drop(a);
        assert!(matches!(b.try_recv::<Sample>(), Err(WireError::Closed)));
        assert!(matches!(b.send(&Sample::Text(String::new()), &[], None), Err(WireError::Closed)));
    }

    #[test]
    fn oversize_is_refused_on_both_sides() {
        let (a, b) = wires();
        assert!(matches!(
            a.send(&Sample::Text("x".repeat(MAX_BODY)), &[], None),
            Err(WireError::Oversize(_))
        ));
        a.try_send_encoded(&vec![1; MAX_PACKET + 4096], &[]).unwrap();
        assert!(matches!(b.try_recv::<Sample>(), Err(WireError::Oversize(_))));
    }

    #[test]
    fn more_descriptors_than_allowed_are_refused_and_closed() {
        let (a, b) = wires();
        let file = std::fs::File::open("/dev/null").unwrap();
        let many = vec![file.as_fd(); MAX_FDS + 3];
        assert!(matches!(a.send(&Sample::Text(String::new()), &many, None), Err(WireError::Descriptors)));
        // A sender without our check: the kernel cuts the list, we refuse the packet.
        sys::socket::send(a.as_fd(), &encode(&Sample::Text(String::new())).unwrap(), &many).unwrap();
        assert!(matches!(b.try_recv::<Sample>(), Err(WireError::Descriptors)));
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = encode(&Sample::Text("x".into())).unwrap();
        bytes[0] = 9;
        assert!(matches!(decode::<Sample>(&bytes), Err(WireError::Version(9))));
    }

    #[test]
    fn a_full_queue_ends_in_not_ready_at_the_deadline() {
        let (a, _b) = wires();
        let big = Sample::Text("x".repeat(60_000));
        let error = loop {
            if let Err(error) = a.send(&big, &[], Some(Duration::ZERO)) {
                break error;
            }
        };
        assert!(matches!(error, WireError::NotReady));
    }

    #[tokio::test]
    async fn the_async_end_talks_to_the_blocking_end() {
        let (a, b) = pair().unwrap();
        let (a, b) = (AsyncWire::new(a).unwrap(), Wire::new(b).unwrap());
        a.send(&Sample::Numbers { a: 1, b: vec![2] }, &[]).await.unwrap();
        assert_eq!(b.recv::<Sample>(None).unwrap().body, Sample::Numbers { a: 1, b: vec![2] });
        b.send(&Sample::Text("back".into()), &[], None).unwrap();
        assert_eq!(a.recv::<Sample>().await.unwrap().body, Sample::Text("back".into()));
        drop(b);
        assert!(matches!(a.recv::<Sample>().await, Err(WireError::Closed)));
    }

    proptest! {
        #[test]
        fn decode_never_panics_and_only_takes_what_encode_makes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(value) = decode::<Sample>(&bytes) {
                prop_assert!(encode(&value).is_ok());
            }
            let mut versioned = VERSION.to_le_bytes().to_vec();
            versioned.extend(&bytes);
            if let Ok(request) = decode::<crate::protocol::ToInit>(&versioned) {
                prop_assert!(encode(&request).is_ok());
            }
            let _ = decode::<crate::protocol::FromInit>(&versioned);
        }

        #[test]
        fn every_message_comes_back(text in ".{0,200}", a in any::<u64>(), b in proptest::collection::vec(any::<u32>(), 0..50)) {
            for sample in [Sample::Text(text), Sample::Numbers { a, b }] {
                let bytes = encode(&sample).unwrap();
                prop_assert_eq!(decode::<Sample>(&bytes).unwrap(), sample);
                for cut in 0..bytes.len() {
                    prop_assert!(decode::<Sample>(&bytes[..cut]).is_err());
                }
                let mut longer = bytes.clone();
                longer.push(0);
                prop_assert!(decode::<Sample>(&longer).is_err());
            }
        }
    }
}
