//! From a connection's tuple to the inode of the client's socket: one exact `sock_diag(7)` query.
//!
//! The netlink socket was made inside the sandbox's network namespace and queries that one, whichever process
//! holds the socket. Callers take turns at it, and each sends its query itself: the kernel answers within the
//! send call, sooner than another task would wake. The exact query costs microseconds, where reading
//! `/proc/net/tcp` walks the kernel's whole hash table.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{MsgFlags, NetlinkAddr, recvfrom, sendto};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;
use tokio::time::timeout;

use wire::Reply;

mod wire;

/// How long one query may take, waiting included. The kernel answers within the send call; this bounds a
/// socket gone wrong.
pub const DIAG_DEADLINE: Duration = Duration::from_secs(1);

/// Why a socket could not be looked up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiagError {
    /// The two ends are of different address families: no connection has such a tuple.
    #[error("the two ends are of different address families")]
    MixedFamilies,
    /// No answer within [`DIAG_DEADLINE`].
    #[error("the kernel did not answer in time")]
    TimedOut,
    /// The runtime that watches the socket is gone.
    #[error("the look-up service stopped")]
    Stopped,
    /// The kernel answered with an error.
    #[error("the kernel refused the query: {0}")]
    Kernel(Errno),
    /// The answer was not to the question.
    #[error("the kernel's answer can't be read")]
    Malformed,
}

/// Looks sockets up in one network namespace. Clones share the netlink socket.
#[derive(Debug, Clone)]
pub struct Diag {
    turn: Arc<Mutex<Asking>>,
}

/// The socket, for one caller at a time.
#[derive(Debug)]
struct Asking {
    socket: AsyncFd<OwnedFd>,
    /// Sequence number of the last query.
    sequence: u32,
}

/// A TCP connection as the client's socket has it: its own end first. Both ends are of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tuple {
    source: SocketAddr,
    destination: SocketAddr,
}

impl Tuple {
    /// IPv4-mapped addresses are IPv4: the kernel keeps such connections in its IPv4 table, whichever family
    /// the sockets were made with.
    fn new(source: SocketAddr, destination: SocketAddr) -> Result<Self, DiagError> {
        let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        let tuple = Self { source: canonical(source), destination: canonical(destination) };
        match (tuple.source.ip(), tuple.destination.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => Ok(tuple),
            _ => Err(DiagError::MixedFamilies),
        }
    }
}

impl Diag {
    /// Takes over a `NETLINK_SOCK_DIAG` socket. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the descriptor can't be made non-blocking or watched.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL)?);
        fcntl(&socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        #[expect(deprecated, reason = "sound for an OwnedFd, and its successor needs unsafe code")]
        let socket = AsyncFd::with_interest(socket, Interest::READABLE)?;
        // The next supervisor of connections gets a duplicate of this descriptor, and a caller may give up in
        // the middle of a query, so late answers may be queued in it: begin at a random sequence number,
        // which they are unlikely to have.
        #[expect(clippy::cast_possible_truncation, reason = "any 32 bits will do")]
        let sequence = RandomState::new().hash_one(0u8) as u32;
        Ok(Self { turn: Arc::new(Mutex::new(Asking { socket, sequence })) })
    }

    /// The inode of the socket whose own end is `client` and whose other end is `local`, if there is one.
    /// Never that of a listener, nor of a connection that no process holds.
    ///
    /// # Errors
    /// [`DiagError`], if the kernel could not be asked.
    pub async fn inode(&self, client: SocketAddr, local: SocketAddr) -> Result<Option<u64>, DiagError> {
        let tuple = Tuple::new(client, local)?;
        timeout(DIAG_DEADLINE, async {
            let mut asking = self.turn.lock().await;
            asking.sequence = asking.sequence.wrapping_add(1);
            ask(&asking.socket, tuple, asking.sequence).await
        })
        .await
        .unwrap_or(Err(DiagError::TimedOut))
    }
}

async fn ask(socket: &AsyncFd<OwnedFd>, tuple: Tuple, sequence: u32) -> Result<Option<u64>, DiagError> {
    let request = wire::request(tuple, sequence);
    let fd = socket.get_ref().as_raw_fd();
    sendto(fd, &request, &NetlinkAddr::new(0, 0), MsgFlags::MSG_DONTWAIT).map_err(DiagError::Kernel)?;
    let mut buffer = [0u8; wire::MAX_REPLY_BYTES];
    loop {
        match recvfrom::<NetlinkAddr>(fd, &mut buffer) {
            // Only the kernel's own messages count: another process could send to our port.
            Ok((n, Some(from))) if from.pid() == 0 => {
                match wire::reply(buffer.get(..n).unwrap_or_default(), tuple, sequence) {
                    Reply::Socket(inode) => return Ok(Some(inode)),
                    Reply::Nothing => return Ok(None),
                    Reply::Error(errno) => return Err(DiagError::Kernel(errno)),
                    Reply::Malformed => return Err(DiagError::Malformed),
                    Reply::OtherQuestion => {}
                }
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut ready = socket.readable().await.map_err(|_| DiagError::Stopped)?;
                ready.clear_ready();
                // An answer may have come between the read and the clearing: the next iteration reads again,
                // and waits only if the socket is empty.
            }
            Err(errno) => return Err(DiagError::Kernel(errno)),
        }
    }
}

/// Asks in the network namespace of the tests themselves.
#[cfg(test)]
pub(crate) fn diag_for_tests() -> Diag {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    let kind = (AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC);
    Diag::new(socket(kind.0, kind.1, kind.2, SockProtocol::NetlinkSockDiag).unwrap()).unwrap()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use nix::sys::stat::fstat;

    use super::*;

    fn inode(socket: impl AsFd) -> u64 {
        fstat(socket).unwrap().st_ino
    }

    #[tokio::test]
    async fn finds_the_clients_socket_and_not_the_servers() {
        let diag = diag_for_tests();
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(bind) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let local = server.local_addr().unwrap();
            let found = diag.inode(peer, local).await.unwrap();
            assert_eq!(found, Some(inode(&client)), "{bind}");
            // The inode is the one that /proc shows.
            let link = std::fs::read_link(format!("/proc/self/fd/{}", client.as_raw_fd())).unwrap();
            assert_eq!(link.to_str().unwrap(), format!("socket:[{}]", found.unwrap()));
            // Turned round it is the server's own socket.
            assert_eq!(diag.inode(local, peer).await.unwrap(), Some(inode(&server)), "{bind}");
        }
    }

    #[tokio::test]
    async fn a_mapped_tuple_finds_the_ipv4_connection() {
        let diag = diag_for_tests();
        let Ok(listener) = TcpListener::bind("[::]:0") else { return };
        let port = listener.local_addr().unwrap().port();
        // A client of either family, seen by the dual-stack listener as ::ffff:127.0.0.1.
        for target in [format!("127.0.0.1:{port}"), format!("[::ffff:127.0.0.1]:{port}")] {
            let client = TcpStream::connect(&target).unwrap();
            let (server, peer) = listener.accept().unwrap();
            assert!(peer.is_ipv6());
            let found = diag.inode(peer, server.local_addr().unwrap()).await.unwrap();
            assert_eq!(found, Some(inode(&client)), "{target}");
        }
    }

    #[tokio::test]
    async fn a_listener_on_the_clients_port_is_not_the_client() {
        let diag = diag_for_tests();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let somewhere = TcpListener::bind("127.0.0.1:0").unwrap();
        let found = diag.inode(listener.local_addr().unwrap(), somewhere.local_addr().unwrap()).await;
        assert_eq!(found, Ok(None));
    }

    #[tokio::test]
    async fn a_closed_connection_has_no_socket() {
        let diag = diag_for_tests();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, peer) = listener.accept().unwrap();
        drop(client);
        assert_eq!(diag.inode(peer, server.local_addr().unwrap()).await, Ok(None));
    }

    #[tokio::test]
    async fn mixed_families_are_no_tuple() {
        let got = diag_for_tests().inode("127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()).await;
        assert_eq!(got, Err(DiagError::MixedFamilies));
    }

    #[tokio::test]
    async fn many_at_once_each_get_their_own_answer() {
        let diag = diag_for_tests();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut tasks = Vec::new();
        let mut open = Vec::new();
        for _ in 0..64 {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let (diag, local, want) = (diag.clone(), server.local_addr().unwrap(), inode(&client));
            tasks.push(tokio::spawn(async move { (diag.inode(peer, local).await, want) }));
            open.push((client, server));
        }
        for task in tasks {
            let (got, want) = task.await.unwrap();
            assert_eq!(got, Ok(Some(want)));
        }
    }

    #[tokio::test]
    async fn a_socket_that_is_no_netlink_socket_is_an_error_not_a_hang() {
        let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let diag = Diag::new(fd).unwrap();
        let got = diag.inode("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()).await;
        assert!(matches!(got, Err(DiagError::Kernel(_))), "{got:?}");
    }
}
