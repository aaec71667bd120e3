//! Connects to judged addresses: staggered tries, first one wins ("happy eyeballs", RFC 8305, the simple
//! half).
//!
//! Takes nothing but [`JudgedAddr`]s and compares the peer's address with the one dialled, so that what the
//! policy judged is what the bytes go to.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};

use super::judge::JudgedAddr;

/// Head start of one try before the next begins (RFC 8305 section 5 recommends 250 ms).
pub const STAGGER: Duration = Duration::from_millis(250);
/// Most addresses tried of one name: enough for any real service, and a bound on what one request can set
/// off.
pub const MAX_ATTEMPTS: usize = 8;

/// An open connection to what was judged.
#[derive(Debug)]
pub struct Connected {
    /// The stream, with `TCP_NODELAY` set: a proxy forwards as it reads, and must not wait for more.
    pub stream: TcpStream,
    /// The judged destination that it leads to.
    pub reached: Reached,
}

/// The part of a connection's other end that was judged, to be judged again when the policy changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// This address: dialled, or one of those that were judged before an upstream proxy was asked.
    Address(JudgedAddr),
    /// The name alone: an upstream proxy resolves it.
    Name,
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Every address refused or was unreachable; the error is the last one's.
    #[error("{addr} can't be reached: {source}")]
    Unreachable {
        /// The last address tried.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nothing answered in time.
    #[error("no address answered in time")]
    TimedOut,
    /// There was nothing to dial.
    #[error("there is no address to dial")]
    NoAddress,
}

/// Connects to the first address that answers, within `deadline` in all.
///
/// # Errors
/// [`DialError`], if none does.
pub async fn dial(addrs: &[JudgedAddr], deadline: Duration) -> Result<Connected, DialError> {
    let until = Instant::now() + deadline;
    match timeout_at(until, race(addrs)).await {
        Ok(result) => result,
        Err(_) => Err(DialError::TimedOut),
    }
}

async fn race(addrs: &[JudgedAddr]) -> Result<Connected, DialError> {
    let mut waiting = alternate(addrs).into_iter();
    let mut tries = FuturesUnordered::new();
    let mut last = DialError::NoAddress;
    loop {
        if let Some(addr) = waiting.next() {
            tries.push(async move { (addr, connect(addr.addr()).await) });
        } else if tries.is_empty() {
            return Err(last);
        }
        let stagger = sleep(STAGGER);
        tokio::pin!(stagger);
        let more = waiting.len() > 0;
        tokio::select! {
            Some((addr, result)) = tries.next() => match result {
                Ok(stream) => return Ok(Connected { stream, reached: Reached::Address(addr) }),
                Err(source) => last = DialError::Unreachable { addr: addr.addr(), source },
            },
            () = &mut stagger, if more => {}
        }
    }
}

/// The families in turn, IPv6 first, each in the resolver's order (RFC 8305 section 4).
fn alternate(addrs: &[JudgedAddr]) -> Vec<JudgedAddr> {
    let (mut v6, mut v4): (Vec<_>, Vec<_>) = addrs.iter().copied().partition(|a| a.addr().is_ipv6());
    v6.reverse();
    v4.reverse();
    let mut order = Vec::with_capacity(addrs.len().min(MAX_ATTEMPTS));
    while order.len() < MAX_ATTEMPTS && !(v6.is_empty() && v4.is_empty()) {
        order.extend(v6.pop());
        order.extend(v4.pop());
    }
    order.truncate(MAX_ATTEMPTS);
    order
}

async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let stream = socket.connect(addr).await?;
    let peer = stream.peer_addr()?;
    if (peer.ip(), peer.port()) != (addr.ip(), addr.port()) {
        return Err(io::Error::other(format!("asked for {addr}, connected to {peer}")));
    }
    // A connection to a local ephemeral port without a listener can connect to itself (simultaneous open).
    if stream.local_addr()? == peer {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::net::TcpListener;

    use super::*;

    fn judged(addr: SocketAddr) -> JudgedAddr {
        JudgedAddr::loopback_for_tests(addr.ip(), addr.port()).unwrap()
    }

    #[tokio::test]
    async fn connects_without_delay_and_tells_the_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = judged(listener.local_addr().unwrap());
        let connected = dial(&[addr], Duration::from_secs(60)).await.unwrap();
        assert_eq!(connected.reached, Reached::Address(addr));
        assert!(connected.stream.nodelay().unwrap());
        assert_eq!(connected.stream.peer_addr().unwrap(), addr.addr());
    }

    #[tokio::test]
    async fn a_refusing_address_gives_way_to_the_next() {
        // Bound and not listened on: it refuses, and is nobody else's meanwhile.
        let dead = TcpSocket::new_v4().unwrap();
        dead.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let dead_addr = judged(dead.local_addr().unwrap());
        let live = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live_addr = judged(live.local_addr().unwrap());
        // The least of many: a busy machine may take its time once, but who waits for the next turn does so
        // always.
        let mut least = Duration::MAX;
        for _ in 0..20 {
            let started = Instant::now();
            let connected = dial(&[dead_addr, live_addr], Duration::from_secs(60)).await.unwrap();
            assert_eq!(connected.reached, Reached::Address(live_addr));
            least = least.min(started.elapsed());
        }
        assert!(least < STAGGER, "a refusal starts the next try at once");
        let refused = dial(&[dead_addr], Duration::from_secs(60)).await;
        assert!(matches!(refused, Err(DialError::Unreachable { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn a_silent_address_times_out() {
        // A full accept queue drops SYNs: the try stays in the air until the deadline.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut fillers = Vec::new();
        let got = loop {
            match dial(&[judged(addr)], Duration::from_millis(100)).await {
                Ok(connected) => fillers.push(connected.stream),
                Err(error) => break error,
            }
            assert!(fillers.len() < 64, "the queue never fills");
        };
        assert!(matches!(got, DialError::TimedOut), "{got:?}");
    }

    #[tokio::test]
    async fn nothing_to_dial_is_an_error() {
        assert!(matches!(dial(&[], Duration::from_secs(1)).await, Err(DialError::NoAddress)));
    }

    #[test]
    fn families_alternate_and_are_bounded() {
        let v4 = |n: u8| judged(SocketAddr::new(IpAddr::from([127, 0, 0, n]), 1));
        let v6 = judged("[::1]:1".parse().unwrap());
        assert_eq!(alternate(&[v4(1), v4(2), v6]), [v6, v4(1), v4(2)]);
        let many: Vec<_> = (0..20).map(v4).collect();
        assert_eq!(alternate(&many).len(), MAX_ATTEMPTS);
    }
}
