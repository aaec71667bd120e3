//! A witness at the gate: sees what the kernel refuses there, for the record.
//!
//! Where nobody listens, the kernel of the gate's namespace answers a SYN by a RST with sequence number 0
//! (RFC 9293, 3.10.7.1), and a datagram by ICMP's "port unreachable" (RFC 792, RFC 4443). A packet socket
//! (packet(7)) at the gate's end of the link gets a copy of these, and of nothing else: connections that the
//! gate takes cost nothing here. It decides nothing and sends nothing. When its queue is full a refusal goes
//! unseen, and is a refusal all the same.

use crate::sys;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Bytes of a packet that are kept: two IPv6 headers with ICMP's between them, and the ports.
const KEPT: u32 = 128;

/// linux/filter.h: the packet's type, as packet(7) has it, stands at this "offset".
const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
/// Packets that this side sent; those that arrive were written by agents.
const OUTGOING: u32 = libc::PACKET_OUTGOING as u32;

const fn step(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Goes on at the next instruction if equal, else skips `otherwise` of them.
const fn unless_equal(k: u32, otherwise: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf: otherwise, k }
}

const fn unless_set(k: u32, otherwise: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16, jt: 0, jf: otherwise, k }
}

const BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
/// The same, behind IPv4's header, whose length [`IPV4_LENGTH`] takes.
const BYTE_BEHIND: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_IND;
const HALF_BEHIND: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const WORD_BEHIND: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_IND;
const IPV4_LENGTH: libc::sock_filter = step(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0);
const KEEP: libc::sock_filter = step(libc::BPF_RET | libc::BPF_K, KEPT);
const LEAVE: libc::sock_filter = step(libc::BPF_RET | libc::BPF_K, 0);
const RST: u32 = 0x04;

/// The filter program, which runs over a packet without its link header. A load beyond the packet's end drops
/// the packet.
const REFUSALS: &[libc::sock_filter] = &[
    step(WORD, PACKET_TYPE),
    unless_equal(OUTGOING, 28),
    step(BYTE, 0),
    step(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 4),
    unless_equal(4, 13),
    // IPv4, TCP: RST, sequence number 0.
    step(BYTE, 9),
    unless_equal(6, 6),
    IPV4_LENGTH,
    step(BYTE_BEHIND, 13),
    unless_set(RST, 20),
    step(WORD_BEHIND, 4),
    unless_equal(0, 18),
    KEEP,
    // ICMP: destination unreachable, port.
    unless_equal(1, 16),
    IPV4_LENGTH,
    step(HALF_BEHIND, 0),
    unless_equal(0x0303, 13),
    KEEP,
    // IPv6, without extension headers, which the kernel doesn't put here.
    unless_equal(6, 11),
    step(BYTE, 6),
    unless_equal(6, 5),
    step(BYTE, 53),
    unless_set(RST, 7),
    step(WORD, 44),
    unless_equal(0, 5),
    KEEP,
    // ICMPv6: destination unreachable, port.
    unless_equal(58, 3),
    step(HALF, 40),
    unless_equal(0x0104, 1),
    KEEP,
    LEAVE,
];

/// A witness on the interface with this index, non-blocking.
///
/// # Errors
/// The kernel's: for want of CAP_NET_RAW in the user namespace that owns this one, or of packet sockets.
pub(super) fn open(interface: u32) -> io::Result<OwnedFd> {
    // Without a protocol, so that it receives nothing before it is bound, which is after the filter is
    // attached.
    let socket = sys::socket::open(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0)?;
    sys::socket::attach_filter(socket.as_fd(), REFUSALS)?;
    sys::socket::bind_to_interface(socket.as_fd(), interface)?;
    Ok(socket)
}

/// Throws away what was seen so far.
pub(super) fn forget(socket: &OwnedFd) {
    // Bounded, though nothing is sent while this runs.
    for _ in 0..4096 {
        if sys::fd::read(socket.as_fd(), &mut [0; 1]).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program says of an outgoing packet; enough of a machine for its instructions.
    fn keeps(packet: &[u8], kind: u32) -> bool {
        let load = |at: u32, bytes: u32| -> Option<u32> {
            if at == PACKET_TYPE {
                return Some(kind);
            }
            let part = packet.get(at as usize..(at + bytes) as usize)?;
            Some(part.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
        };
        let (mut a, mut x, mut at) = (0_u32, 0_u32, 0_usize);
        loop {
            let step = REFUSALS[at];
            at += 1;
            let loaded = match u32::from(step.code) {
                BYTE => load(step.k, 1),
                HALF => load(step.k, 2),
                WORD => load(step.k, 4),
                BYTE_BEHIND => load(x + step.k, 1),
                HALF_BEHIND => load(x + step.k, 2),
                WORD_BEHIND => load(x + step.k, 4),
                _ => Some(a),
            };
            let Some(loaded) = loaded else { return false };
            a = loaded;
            let skip = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
            match step.code {
                code if code == KEEP.code => return step.k > 0,
                code if code == IPV4_LENGTH.code => x = u32::from(packet[0] & 0xf) * 4,
                code if u32::from(code) == libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K => a >>= step.k,
                code if code == unless_equal(0, 0).code => at += skip(a == step.k),
                code if code == unless_set(0, 0).code => at += skip(a & step.k != 0),
                _ => {}
            }
        }
    }

    fn ipv4(protocol: u8, options: usize, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20 + options];
        packet[0] = 0x40 | (5 + options / 4) as u8;
        packet[9] = protocol;
        packet.extend_from_slice(payload);
        packet
    }

    fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = next;
        packet.extend_from_slice(payload);
        packet
    }

    fn tcp(sequence: u32, flags: u8) -> Vec<u8> {
        let mut segment = vec![0; 20];
        segment[4..8].copy_from_slice(&sequence.to_be_bytes());
        segment[13] = flags;
        segment
    }

    #[test]
    fn refusals_are_kept_and_nothing_else() {
        let (refusal, reset, answer) = (tcp(0, 0x14), tcp(7, 0x14), tcp(0, 0x12));
        for packet in [
            ipv4(6, 0, &refusal),
            ipv4(6, 8, &refusal),
            ipv6(6, &refusal),
            ipv4(1, 0, &[3, 3, 0, 0]),
            ipv4(1, 4, &[3, 3, 0, 0]),
            ipv6(58, &[1, 4, 0, 0]),
        ] {
            assert!(keeps(&packet, OUTGOING), "{packet:?}");
            assert!(!keeps(&packet, 0), "what an agent sends says nothing: {packet:?}");
            assert!(!keeps(&packet[..20], OUTGOING), "cut: {packet:?}");
        }
        for packet in [
            ipv4(6, 0, &reset),
            ipv4(6, 0, &answer),
            ipv6(6, &reset),
            ipv6(6, &answer),
            ipv4(17, 0, &refusal),
            ipv4(1, 0, &[3, 1, 0, 0]),
            ipv6(58, &[1, 3, 0, 0]),
            ipv6(58, &[135, 0, 0, 0]),
            vec![0x50; 60],
            vec![],
        ] {
            assert!(!keeps(&packet, OUTGOING), "{packet:?}");
        }
    }
}
