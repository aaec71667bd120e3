//! Who lives where in the world: the table, its `/etc/hosts`, and a DNS server that answers from it.
//!
//! The public-looking addresses are ordinary unicast, since a guard against server-side request forgery
//! rightly refuses the documentation ranges. The hostile names point at what such a guard must refuse; each
//! is alive, so that a refusal proves something.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use tokio::net::UdpSocket;

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2606, 0x2800, 0x220, 0, 0, 0, 0, last))
}

/// The ranges that the world owns, as network and prefix length.
pub const RANGES: &[(IpAddr, u8)] = &[
    (v4(93, 184, 215, 0), 24),
    (v4(10, 0, 0, 0), 24),
    (v4(169, 254, 169, 0), 24),
    (v4(100, 100, 100, 0), 24),
    (IpAddr::V6(Ipv6Addr::new(0x2606, 0x2800, 0x220, 0, 0, 0, 0, 0)), 48),
];

/// Every name and its addresses.
pub const HOSTS: &[(&str, &[IpAddr])] = &[
    // An API and a file server that tests allow.
    ("api.bed.test", &[v4(93, 184, 215, 14), v6(0x14)]),
    ("files.bed.test", &[v4(93, 184, 215, 15)]),
    // Reached over IPv6 alone.
    ("six.bed.test", &[v6(0x16)]),
    // Offers HTTP/1.1 alone, and HTTP/2 alone.
    ("h1.bed.test", &[v4(93, 184, 215, 17)]),
    ("h2.bed.test", &[v4(93, 184, 215, 18)]),
    // What no policy allows.
    ("evil.bed.test", &[v4(93, 184, 215, 66)]),
    // A certificate from an authority that nobody trusts.
    ("untrusted.bed.test", &[v4(93, 184, 215, 67)]),
    // Certificates with a fault each: expired, for another name, signed by itself.
    ("expired.bed.test", &[v4(93, 184, 215, 70)]),
    ("othername.bed.test", &[v4(93, 184, 215, 71)]),
    ("selfsigned.bed.test", &[v4(93, 184, 215, 72)]),
    // Demands a client certificate, and merely asks for one.
    ("mtls.bed.test", &[v4(93, 184, 215, 73)]),
    ("asks.bed.test", &[v4(93, 184, 215, 74)]),
    // The corporate proxy.
    ("proxy.bed.test", &[PROXY]),
    // Package sources.
    ("git.bed.test", &[v4(93, 184, 215, 20)]),
    ("pypi.bed.test", &[v4(93, 184, 215, 21)]),
    ("npm.bed.test", &[v4(93, 184, 215, 22)]),
    ("crates.bed.test", &[v4(93, 184, 215, 23)]),
    ("deb.bed.test", &[v4(93, 184, 215, 24)]),
    // The model provider.
    ("llm.bed.test", &[v4(93, 184, 215, 30)]),
    // A gRPC service, a chat by WebSocket, and two that speak no HTTP.
    ("grpc.bed.test", &[v4(93, 184, 215, 31)]),
    ("chat.bed.test", &[v4(93, 184, 215, 32)]),
    ("redis.bed.test", &[v4(93, 184, 215, 33)]),
    ("ssh.bed.test", &[v4(93, 184, 215, 34)]),
    // Names that lead where nothing may go.
    ("loopback.bed.test", &[v4(127, 0, 0, 1)]),
    ("private.bed.test", &[v4(10, 0, 0, 7)]),
    ("metadata.bed.test", &[v4(169, 254, 169, 254)]),
    ("alibaba-metadata.bed.test", &[v4(100, 100, 100, 200)]),
    ("mixed.bed.test", &[v4(93, 184, 215, 68), v4(127, 0, 0, 1)]),
    ("mapped.bed.test", &[IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x7f00, 1))]),
    // An address where nothing listens on any port that tests use.
    ("closed.bed.test", &[v4(93, 184, 215, 99)]),
];

/// Where the corporate proxy lives, and what its connections come from.
pub const PROXY: IpAddr = v4(93, 184, 215, 40);
/// What the corporate proxy alone can resolve.
pub const BEYOND: &[(&str, IpAddr)] = &[("beyond.bed.test", v4(93, 184, 215, 41))];

/// The text of the world's `/etc/hosts`.
pub fn hosts_file() -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
    for (name, addresses) in HOSTS {
        for address in *addresses {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{address} {name}");
        }
    }
    text
}

/// The text of the world's `/etc/resolv.conf`.
pub const RESOLV_CONF: &str = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";

/// The addresses of a name, if it has any.
pub fn lookup(name: &str) -> Option<&'static [IpAddr]> {
    let name = name.trim_end_matches('.');
    HOSTS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, addresses)| *addresses)
}

/// Answers questions for ever. Each question's name goes to `asked`, so that a test can say which names left
/// a sandbox.
pub async fn serve_dns(socket: UdpSocket, asked: impl Fn(&str)) -> Result<()> {
    let mut packet = [0u8; 1500];
    loop {
        let (n, from) = socket.recv_from(&mut packet).await?;
        let Some((name, reply)) = packet.get(..n).and_then(answer) else { continue };
        asked(&name);
        socket.send_to(&reply, from).await?;
    }
}

/// The answer to one question (RFC 1035): the addresses of the type asked for, no data, or NXDOMAIN.
fn answer(query: &[u8]) -> Option<(String, Vec<u8>)> {
    let mut name = String::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = query.get(at..at + length)?;
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(std::str::from_utf8(label).ok()?);
        at += length;
    }
    let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    let question = query.get(12..at + 4)?;

    let addresses = lookup(&name);
    let records: Vec<Vec<u8>> = addresses
        .unwrap_or_default()
        .iter()
        .filter_map(|address| match (kind, address) {
            (1, IpAddr::V4(v4)) => Some(v4.octets().to_vec()),
            (28, IpAddr::V6(v6)) => Some(v6.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut reply = query.get(..2)?.to_vec();
    // An authoritative answer with recursion available; code 3 is NXDOMAIN.
    reply.extend([0x85, if addresses.is_some() { 0x80 } else { 0x83 }]);
    reply.extend([0, 1, 0, u8::try_from(records.len()).ok()?, 0, 0, 0, 0]);
    reply.extend(question);
    for record in records {
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 5, 0]);
        reply.push(u8::try_from(record.len()).ok()?);
        reply.extend(record);
    }
    Some((name, reply))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(name: &str, kind: u16) -> Vec<u8> {
        let mut q = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            q.push(label.len() as u8);
            q.extend(label.as_bytes());
        }
        q.push(0);
        q.extend(kind.to_be_bytes());
        q.extend([0, 1]);
        q
    }

    #[test]
    fn known_names_have_addresses_and_others_do_not_exist() {
        let (name, reply) = answer(&question("API.bed.test", 1)).unwrap();
        assert_eq!(name, "API.bed.test");
        assert_eq!(&reply[reply.len() - 4..], &[93, 184, 215, 14]);
        let (_, reply) = answer(&question("six.bed.test", 1)).unwrap();
        assert_eq!((reply[3] & 0xf, reply[7]), (0, 0), "no data is not NXDOMAIN");
        let (_, reply) = answer(&question("nobody.bed.test", 1)).unwrap();
        assert_eq!(reply[3] & 0xf, 3);
        assert!(answer(&[0; 11]).is_none());
    }

    #[test]
    fn hosts_lists_every_name() {
        let text = hosts_file();
        assert!(HOSTS.iter().all(|(name, _)| text.contains(name)));
    }
}
