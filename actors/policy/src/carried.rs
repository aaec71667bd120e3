//! The IPv4 addresses that an IPv6 address carries: every way in which a translator, a relay or a tunnel on
//! the path may read one out of it. A policy can't name a host by such an address, and the SSRF guard judges
//! each carried address beside the address itself. No other module knows these embeddings.

use std::net::{Ipv4Addr, Ipv6Addr};

/// What an IPv6 address carries, where it embeds IPv4. `::` and `::1` don't: they are plain IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// The addresses that can be read out of it. What a network's own translator (RFC 8215) carries is not
    /// among them: only that network knows where in the address it stands.
    pub addresses: [Option<Ipv4Addr>; 2],
}

impl Carried {
    /// Returns `None` for an address that is IPv6 and nothing else.
    #[must_use]
    pub fn of(v6: Ipv6Addr) -> Option<Self> {
        let s = v6.segments();
        let low = Some(low_v4(v6));
        // RFC 5214 section 6.1: the interface identifier 00-00-5E-FE, with or without the universal bit.
        let isatap = (s[4] & !0x0200) == 0 && s[5] == 0x5efe;
        let addresses = match s {
            _ if v6.is_unspecified() || v6.is_loopback() => return None,
            // 6to4 (RFC 3056); an ISATAP identifier may lie below it.
            [0x2002, high, rest, ..] => [Some(join(high, rest)), low.filter(|_| isatap)],
            // Teredo (RFC 4380): the server in clear, the client's address with its bits flipped.
            [0x2001, 0, high, rest, ..] => [Some(join(high, rest)), Some(join(!s[6], !s[7]))],
            // A network's own translator (RFC 8215).
            [0x64, 0xff9b, 1, ..] => [None, low.filter(|_| isatap)],
            // Compatible and mapped (RFC 4291 section 2.5.5), translated (RFC 2765).
            [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => [low, None],
            _ if isatap || nat64(v6).is_some() => [low, None],
            _ => return None,
        };
        Some(Self { addresses })
    }
}

/// The IPv4 address that NAT64 would dial for this one, by the well-known prefix (RFC 6052).
#[must_use]
pub fn nat64(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    matches!(v6.segments(), [0x64, 0xff9b, 0, 0, 0, 0, ..]).then(|| low_v4(v6))
}

/// The low 32 bits.
fn low_v4(v6: Ipv6Addr) -> Ipv4Addr {
    let s = v6.segments();
    join(s[6], s[7])
}

fn join(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_known() {
        let of = |text: &str| Carried::of(text.parse().unwrap()).map(|carried| carried.addresses);
        let some = |text: &str| Some(text.parse::<Ipv4Addr>().unwrap());
        for (carrier, first, second) in [
            ("::7f00:1", some("127.0.0.1"), None),
            ("::2", some("0.0.0.2"), None),
            ("::ffff:10.0.0.1", some("10.0.0.1"), None),
            ("::ffff:0:10.0.0.1", some("10.0.0.1"), None),
            ("64:ff9b::10.0.0.1", some("10.0.0.1"), None),
            ("64:ff9b:1::10.0.0.1", None, None),
            ("64:ff9b:1::5efe:10.0.0.1", None, some("10.0.0.1")),
            ("2002:a00:1::1", some("10.0.0.1"), None),
            ("2002:808:808::5efe:10.0.0.1", some("8.8.8.8"), some("10.0.0.1")),
            ("2001:0:a00:1::f5ff:fffe", some("10.0.0.1"), some("10.0.0.1")),
            ("2001:db8::5efe:10.0.0.1", some("10.0.0.1"), None),
            ("2001:db8::200:5efe:10.0.0.1", some("10.0.0.1"), None),
        ] {
            assert_eq!(of(carrier), Some([first, second]), "{carrier}");
        }
        for plain in ["::", "::1", "2001:db8::1", "2001:1::1", "64:ff9b:2::1", "64:ff9c::1", "fe80::1"] {
            assert_eq!(of(plain), None, "{plain}");
        }
    }
}
