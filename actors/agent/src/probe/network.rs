//! No way out, and a loopback that works.

use super::{Expect, Probe, Scene};
use crate::plan::Control;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

pub(super) fn check(probe: &mut Probe, scene: &Scene<'_>) {
    use Control::Network;
    // TEST-NET-1 and the documentation prefix: nobody is there, and a way out would give a time-out, not an error.
    for (name, address) in [
        ("connect to an IPv4 address", SocketAddr::from(([192, 0, 2, 1], 80))),
        ("connect to an IPv6 address", SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 80))),
        ("connect to the metadata service", SocketAddr::from(([169, 254, 169, 254], 80))),
    ] {
        probe.try_it(name, Network, Expect::Fails, || {
            TcpStream::connect_timeout(&address, Duration::from_millis(50))
        });
    }
    probe.try_it("send a datagram outside", Network, Expect::Fails, || {
        UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", "192.0.2.1:53")
    });
    probe.holds("the loopback is the only interface", Network, || {
        Ok(crate::isolation::network::interfaces()?.iter().all(|name| name == "lo" || is_inert(name)))
    });
    if scene.plan.tcp.is_some() {
        // What may be connected to is said port by port then.
        return;
    }
    probe.try_it("use the loopback", Network, Expect::Works, || {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        TcpStream::connect_timeout(&listener.local_addr()?, Duration::from_secs(1))
    });
}

/// Tunnel devices that some kernels put, down and without address, into every new namespace.
fn is_inert(name: &str) -> bool {
    ["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"]
        .contains(&name)
}
