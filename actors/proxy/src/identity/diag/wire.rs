//! The bytes of a `sock_diag` query and its answer (sock_diag(7), `linux/inet_diag.h`), in the machine's byte
//! order where the kernel says so and in the network's for addresses and ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::errno::Errno;

use super::Tuple;

/// Room for one answer: the fixed part has 88 bytes, its attributes some more.
pub(super) const MAX_REPLY_BYTES: usize = 4096;

/// `struct nlmsghdr`: u32 length, u16 type, u16 flags, u32 sequence, u32 port.
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`: u8 family, u8 protocol, u8 extensions, u8 padding, u32 states, then the socket
/// id.
const REQUEST: usize = HEADER + 8 + SOCKET_ID;
/// `struct inet_diag_sockid`: be16 ports, be32\[4\] addresses (twice each), u32 interface, u32\[2\] cookie.
const SOCKET_ID: usize = 48;
/// `struct inet_diag_msg`: u8 family, u8 state, u8 timer, u8 retransmissions, the socket id, then u32 expiry,
/// receive queue, send queue, user, inode.
const INODE_AT: usize = HEADER + 4 + SOCKET_ID + 16;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const ALL_STATES: u32 = u32::MAX;
const NO_COOKIE: u64 = u64::MAX;
/// `TCP_LISTEN` of `net/tcp_states.h`: the kernel falls back to a listener on the port when there is no
/// connection.
const LISTEN: u8 = 10;

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The socket of the tuple, with a holder.
    Socket(u64),
    /// There is no such socket, or none that a process could hold.
    Nothing,
    /// The kernel's refusal.
    Error(Errno),
    /// An answer to an earlier query, whose caller gave up.
    OtherQuestion,
    /// None of these.
    Malformed,
}

/// The query for exactly this tuple.
pub(super) fn request(tuple: Tuple, sequence: u32) -> [u8; REQUEST] {
    let family = if tuple.source.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut bytes = Vec::with_capacity(REQUEST);
    #[expect(clippy::cast_possible_truncation, reason = "72")]
    bytes.extend((REQUEST as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, IPPROTO_TCP, 0, 0]);
    bytes.extend(ALL_STATES.to_ne_bytes());
    bytes.extend(tuple.source.port().to_be_bytes());
    bytes.extend(tuple.destination.port().to_be_bytes());
    bytes.extend(address(tuple.source.ip()));
    bytes.extend(address(tuple.destination.ip()));
    bytes.extend([0; 4]);
    bytes.extend(NO_COOKIE.to_ne_bytes());
    let mut request = [0; REQUEST];
    for (to, from) in request.iter_mut().zip(bytes) {
        *to = from;
    }
    request
}

/// An address in its 16 bytes: IPv4 in the first four.
fn address(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
    }
}

/// Reads one datagram, which must answer this very question.
pub(super) fn reply(bytes: &[u8], tuple: Tuple, sequence: u32) -> Reply {
    parse(bytes, tuple, sequence).unwrap_or(Reply::Malformed)
}

fn parse(bytes: &[u8], tuple: Tuple, sequence: u32) -> Option<Reply> {
    let length = usize::try_from(u32::from_ne_bytes(at(bytes, 0)?)).ok()?;
    // A message that is shorter than its header says was truncated.
    let bytes = bytes.get(..length)?;
    if u32::from_ne_bytes(at(bytes, 8)?) != sequence {
        return Some(Reply::OtherQuestion);
    }
    match u16::from_ne_bytes(at(bytes, 4)?) {
        NLMSG_ERROR => {
            let code = i32::from_ne_bytes(at(bytes, HEADER)?);
            Some(match Errno::from_raw(code.checked_neg()?) {
                Errno::ENOENT => Reply::Nothing,
                errno => Reply::Error(errno),
            })
        }
        SOCK_DIAG_BY_FAMILY => socket(bytes, tuple),
        _ => None,
    }
}

fn socket(bytes: &[u8], tuple: Tuple) -> Option<Reply> {
    let [family, state] = at(bytes, HEADER)?;
    let id = HEADER + 4;
    let end = |port: usize, addr: usize| -> Option<SocketAddr> {
        let octets: [u8; 16] = at(bytes, addr)?;
        let ip = match family {
            AF_INET => IpAddr::V4(Ipv4Addr::from(at::<4>(&octets, 0)?)),
            AF_INET6 => IpAddr::V6(Ipv6Addr::from(octets)).to_canonical(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(at(bytes, port)?)))
    };
    let found = Tuple { source: end(id, id + 4)?, destination: end(id + 2, id + 20)? };
    let inode = u64::from(u32::from_ne_bytes(at(bytes, INODE_AT)?));
    // Inode 0: an orphan or TIME_WAIT, held by no process.
    if state == LISTEN || inode == 0 || found != tuple {
        return Some(Reply::Nothing);
    }
    Some(Reply::Socket(inode))
}

/// The `N` bytes at an offset, if they are there.
fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tuple() -> Tuple {
        Tuple::new("127.0.0.1:40000".parse().unwrap(), "127.0.0.1:3128".parse().unwrap()).unwrap()
    }

    /// What the kernel would answer for the tuple.
    fn answer(tuple: Tuple, sequence: u32, state: u8, inode: u32) -> Vec<u8> {
        let mut bytes = vec![0; HEADER + 4 + SOCKET_ID + 20];
        bytes[..4].copy_from_slice(&88u32.to_ne_bytes());
        bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        bytes[16] = if tuple.source.is_ipv4() { AF_INET } else { AF_INET6 };
        bytes[17] = state;
        let asked = request(tuple, sequence);
        bytes[20..68].copy_from_slice(&asked[24..]);
        bytes[INODE_AT..INODE_AT + 4].copy_from_slice(&inode.to_ne_bytes());
        bytes
    }

    #[test]
    fn the_layout_is_the_kernels() {
        let bytes = request(tuple(), 7);
        assert_eq!(bytes.len(), 72);
        assert_eq!(bytes[16..20], [AF_INET, IPPROTO_TCP, 0, 0]);
        assert_eq!(bytes[24..28], [0x9c, 0x40, 0x0c, 0x38], "ports in network order");
        assert_eq!(bytes[28..32], [127, 0, 0, 1]);
        assert_eq!(bytes[44..48], [127, 0, 0, 1]);
        assert_eq!(bytes[64..], [0xff; 8]);
        assert_eq!(INODE_AT, 84);
    }

    #[test]
    fn only_the_tuples_own_live_socket_counts() {
        let t = tuple();
        assert_eq!(reply(&answer(t, 7, 1, 99), t, 7), Reply::Socket(99));
        assert_eq!(reply(&answer(t, 7, 8, 99), t, 7), Reply::Socket(99), "CLOSE_WAIT is still held");
        assert_eq!(reply(&answer(t, 7, LISTEN, 99), t, 7), Reply::Nothing);
        assert_eq!(reply(&answer(t, 7, 6, 0), t, 7), Reply::Nothing, "TIME_WAIT");
        assert_eq!(reply(&answer(t, 6, 1, 99), t, 7), Reply::OtherQuestion);
        let other = Tuple { source: "127.0.0.2:40000".parse().unwrap(), ..t };
        assert_eq!(reply(&answer(other, 7, 1, 99), t, 7), Reply::Nothing);
        let mut cut = answer(t, 7, 1, 99);
        cut.pop();
        assert_eq!(reply(&cut, t, 7), Reply::Malformed);
    }

    #[test]
    fn errors_are_told_apart() {
        let error = |code: i32| {
            let mut bytes = vec![0; 36];
            bytes[..4].copy_from_slice(&36u32.to_ne_bytes());
            bytes[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
            bytes[8..12].copy_from_slice(&7u32.to_ne_bytes());
            bytes[16..20].copy_from_slice(&code.to_ne_bytes());
            reply(&bytes, tuple(), 7)
        };
        assert_eq!(error(-2), Reply::Nothing);
        assert_eq!(error(-1), Reply::Error(Errno::EPERM));
        assert_eq!(error(i32::MIN), Reply::Malformed);
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..200), sequence: u32) {
            let _ = reply(&bytes, tuple(), sequence);
        }

        #[test]
        fn a_changed_answer_is_never_another_socket(at in 0usize..84, bit in 0u8..8) {
            let t = tuple();
            let mut bytes = answer(t, 7, 1, 99);
            bytes[at] ^= 1 << bit;
            let got = reply(&bytes, t, 7);
            prop_assert!(got == Reply::Socket(99) || !matches!(got, Reply::Socket(_)), "{got:?}");
        }
    }
}
