//! Records connections to outside ports that are not captured: the kernel refuses them.
//!
//! ```text
//! a refusal leaves the gate ─ RST: its source is what was asked for
//!                           └ ICMP: the packet in it went to what was asked for
//! ```
//! Init's packet socket (`agent::isolation::witness`) gives the kernel's own packets, from their network
//! header on. They don't tell which program asked, and its socket is gone by then. Nothing here decides
//! anything: what isn't seen is refused all the same.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use telemetry::audit::Verdict;
use telemetry::metrics;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::outcome::Journal;
use crate::repeats::Repeats;

/// Maximal number of bytes that the socket gives of a packet.
const MAX_PACKET: usize = 128;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const IPV6_HEADER: usize = 40;
/// Length in bytes of the ICMP header; the packet that it is about follows.
const ICMP_HEADER: usize = 8;

/// Puts refusals on record. Lives above the proxy actor, so that repeats are folded across restarts of it.
pub struct Witness {
    socket: OwnedFd,
    policy: policy::Store,
    journal: Arc<dyn Journal>,
    refused: Repeats,
}

impl Witness {
    /// Makes a witness that reads init's socket.
    pub fn new(socket: OwnedFd, policy: policy::Store, journal: Arc<dyn Journal>) -> Self {
        Self { socket, policy, journal, refused: Repeats::new() }
    }

    /// Records what is refused, for ever.
    ///
    /// # Errors
    /// The socket can't be read any more.
    pub(crate) async fn watch(&self) -> io::Result<()> {
        let socket = register(self.socket.try_clone()?)?;
        let mut packet = [0; MAX_PACKET];
        loop {
            let mut ready = socket.readable().await?;
            match ready.try_io(|socket| Ok(nix::unistd::read(socket.get_ref(), &mut packet)?)) {
                Ok(Ok(length)) => self.saw(packet.get(..length).unwrap_or_default()),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_not_ready) => {}
            }
        }
    }

    fn saw(&self, packet: &[u8]) {
        let Some(Refused { protocol, destination }) = Refused::read(packet) else { return };
        metrics::decision("l4", Verdict::Denied, "");
        if let Some(more) = self.refused.due(&format!("{protocol} {destination}")) {
            let detail = match protocol {
                Protocol::Tcp => format!("no entry of the policy names port {}{more}", destination.port()),
                Protocol::Udp => format!("datagrams lead nowhere{more}"),
            };
            self.journal.port_refused(&destination, &detail, self.policy.load().number);
        }
    }
}

#[expect(deprecated, reason = "its successor is unsafe to call, and an `OwnedFd` keeps what it asks for")]
fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

/// The protocol of an agent's packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refused {
    protocol: Protocol,
    destination: SocketAddr,
}

impl Refused {
    /// Reads a refusal from a packet of the kernel's.
    fn read(packet: &[u8]) -> Option<Self> {
        let outer = Ip::read(packet)?;
        match outer.protocol {
            TCP => Some(Self {
                protocol: Protocol::Tcp,
                destination: SocketAddr::new(outer.from, port(outer.payload, 0)?),
            }),
            ICMP | ICMPV6 => {
                let inner = Ip::read(outer.payload.get(ICMP_HEADER..)?)?;
                let protocol = match inner.protocol {
                    TCP => Protocol::Tcp,
                    UDP => Protocol::Udp,
                    _ => return None,
                };
                Some(Self { protocol, destination: SocketAddr::new(inner.to, port(inner.payload, 2)?) })
            }
            _ => None,
        }
    }
}

/// The fields of an IP packet that matter here (RFC 791, RFC 8200).
struct Ip<'a> {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    payload: &'a [u8],
}

impl<'a> Ip<'a> {
    fn read(packet: &'a [u8]) -> Option<Self> {
        let first = *packet.first()?;
        match first >> 4 {
            4 => {
                let address =
                    |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
                let length = usize::from(first & 0xf) * 4;
                Some(Self {
                    from: address(12)?.into(),
                    to: address(16)?.into(),
                    protocol: *packet.get(9)?,
                    payload: packet.get(length.max(20)..)?,
                })
            }
            6 => {
                let address =
                    |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
                Some(Self {
                    from: address(8)?.into(),
                    to: address(24)?.into(),
                    protocol: *packet.get(6)?,
                    payload: packet.get(IPV6_HEADER..)?,
                })
            }
            _ => None,
        }
    }
}

fn port(payload: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(payload.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet[9] = protocol;
        packet[12..16].copy_from_slice(&from);
        packet[16..20].copy_from_slice(&to);
        packet.extend_from_slice(payload);
        packet
    }

    fn ipv6(next: u8, from: Ipv6Addr, to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; IPV6_HEADER];
        packet[0] = 0x60;
        packet[6] = next;
        packet[8..24].copy_from_slice(&from.octets());
        packet[24..40].copy_from_slice(&to.octets());
        packet.extend_from_slice(payload);
        packet
    }

    const AGENT: [u8; 4] = [100, 127, 255, 2];
    const WORLD: [u8; 4] = [93, 184, 215, 14];

    #[test]
    fn what_was_asked_for_is_read() {
        let (agent, world) = ("fd63::2".parse().unwrap(), "2001:db8::7".parse().unwrap());
        let ports = |from: u16, to: u16| [from.to_be_bytes(), to.to_be_bytes()].concat();
        let icmp = |inner: &[u8]| [&[3, 3, 0, 0, 0, 0, 0, 0], inner].concat();
        for (packet, protocol, destination) in [
            (ipv4(TCP, WORLD, AGENT, &ports(22, 40_000)), Protocol::Tcp, "93.184.215.14:22"),
            (ipv6(TCP, world, agent, &ports(22, 40_000)), Protocol::Tcp, "[2001:db8::7]:22"),
            (
                ipv4(ICMP, WORLD, AGENT, &icmp(&ipv4(UDP, AGENT, WORLD, &ports(40_000, 53)))),
                Protocol::Udp,
                "93.184.215.14:53",
            ),
            (
                ipv6(ICMPV6, world, agent, &icmp(&ipv6(UDP, agent, world, &ports(40_000, 443)))),
                Protocol::Udp,
                "[2001:db8::7]:443",
            ),
        ] {
            let destination = destination.parse().unwrap();
            assert_eq!(Refused::read(&packet), Some(Refused { protocol, destination }));
            // Cut anywhere it is something else, or nothing; never a panic.
            for length in 0..packet.len() {
                let _ = Refused::read(&packet[..length]);
            }
        }
        assert_eq!(Refused::read(&ipv4(2, WORLD, AGENT, &[0; 40])), None);
        assert_eq!(Refused::read(&icmp(&[])), None);
    }
}
