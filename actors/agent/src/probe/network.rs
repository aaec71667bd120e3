//! Checks that there is no way out, and that the loopback works.

use super::{Expect, Probe, Scene};
use crate::isolation::gate::LINK;
use crate::plan::Control;
use crate::sys::attempt::Attempt;
use crate::sys::prctl::{Prctl, prctl};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// How long nothing may come of what is sent out, in all. Behind the gate the kernel refuses it at once; but
/// a flooded machine may lose a packet, in a queue that all namespaces share
/// (`net.core.netdev_max_backlog`), and a lost SYN is sent again after one, three and seven seconds (tcp(7)).
const SILENCE: Duration = Duration::from_secs(8);
/// How long it may be that for each, once the time of all is over, and between two datagrams.
const SILENCE_OF_ONE: Duration = Duration::from_secs(1);
/// How long all of it may take: three connections and the datagrams of which nothing comes, and a loopback
/// that loses packets.
pub(super) const LONGEST: Duration =
    SILENCE.saturating_add(SILENCE_OF_ONE.saturating_mul(3)).saturating_add(SILENCE);

pub(super) fn check(probe: &mut Probe, scene: &Scene<'_>) {
    use Control::Network;
    let until = Instant::now() + SILENCE;
    // TEST-NET-1 and the documentation prefix: no host has these addresses. With a way out, connecting would
    // time out, instead of being refused at once.
    for (name, address) in [
        ("connect to an IPv4 address", SocketAddr::from(([192, 0, 2, 1], 80))),
        ("connect to an IPv6 address", SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 80))),
        ("connect to the metadata service", SocketAddr::from(([169, 254, 169, 254], 80))),
    ] {
        probe.try_it(name, Network, Expect::Fails, || {
            connect_outside(address, until.saturating_duration_since(Instant::now()).max(SILENCE_OF_ONE))
        });
    }
    probe.try_it("send a datagram outside", Network, Expect::Fails, || {
        send_outside(SocketAddr::from(([192, 0, 2, 1], 53)), until)
    });
    probe.holds("no interface but the loopback and the gate", Network, || {
        let ours = |name: &String| name == "lo" || name == LINK || is_inert(name);
        Ok(crate::isolation::network::interfaces()?.iter().all(ours))
    });
    // The other way to connect, which init would not be told of.
    if scene.confinement.filter.is_some() || scene.plan.sabotaged(Control::Seccomp) {
        probe.try_it("connect by sending", Control::Seccomp, Expect::FailsWith(libc::EOPNOTSUPP), || {
            Attempt::CONNECT_BY_SENDING.make()
        });
    }
    probe.connected = connect_for_init().unwrap_or(0);
    probe.try_it("use the loopback", Network, Expect::Works, || {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        TcpStream::connect_timeout(&listener.local_addr()?, SILENCE)
    });
}

/// Connects to an address. Behind the gate the kernel refuses it at once; no answer within `silence` means
/// that the connection went somewhere, and nobody answered.
fn connect_outside(address: SocketAddr, silence: Duration) -> io::Result<()> {
    match TcpStream::connect_timeout(&address, silence) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(()),
        refused => refused.map(drop),
    }
}

/// Sends datagrams to an address, until there is an answer or `until` has come. Behind the gate the kernel
/// refuses each at once; silence means that they went somewhere.
fn send_outside(address: SocketAddr, until: Instant) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(SILENCE_OF_ONE))?;
    loop {
        socket.send(b"x")?;
        match socket.recv(&mut [0; 1]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            answer => return answer.map(drop),
        }
        if Instant::now() >= until {
            return Ok(());
        }
    }
}

/// Connects a socket, for init to say whether it was told, and returns its inode. It is a datagram socket,
/// which no rule on TCP ports forbids.
fn connect_for_init() -> io::Result<u64> {
    let before = prctl(Prctl::Dumpable)?;
    // As an executed program is: without root, init can't read a process that isn't dumpable.
    prctl(Prctl::SetDumpable(true))?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // Whatever the result, init was asked before.
    let _ = socket.connect("127.0.0.1:9");
    prctl(Prctl::SetDumpable(before == 1))?;
    Ok(nix::sys::stat::fstat(&socket)?.st_ino)
}

/// Tunnel devices that some kernels put, down and without address, into every new namespace.
fn is_inert(name: &str) -> bool {
    ["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"]
        .contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: io::ErrorKind = io::ErrorKind::ConnectionRefused;

    #[test]
    fn a_connection_that_nobody_answers_went_somewhere() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        // Room for one connection. When it is taken, further packets are swallowed.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let moment = Duration::from_millis(300);
        let taken: Vec<TcpStream> =
            std::iter::from_fn(|| TcpStream::connect_timeout(&address, moment).ok()).take(16).collect();
        assert!(taken.len() < 16, "a queue of one is full");
        assert!(connect_outside(address, moment).is_ok());
        drop((taken, listener));
        assert_eq!(connect_outside(address, SILENCE).unwrap_err().kind(), REFUSED);
    }

    #[test]
    fn datagrams_that_nobody_refuses_went_somewhere() {
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = silent.local_addr().unwrap();
        assert!(send_outside(address, Instant::now()).is_ok());
        drop(silent);
        assert_eq!(send_outside(address, Instant::now() + SILENCE).unwrap_err().kind(), REFUSED);
    }

    #[test]
    fn the_probe_outlasts_its_waits() {
        assert!(super::super::DEADLINE > LONGEST && super::super::DEADLINE < crate::launch::INIT_PATIENCE);
    }
}
