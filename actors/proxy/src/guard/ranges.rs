//! The table of address ranges that are not plain public unicast, each with its reason.
//!
//! Sources: IANA IPv4 and IPv6 special-purpose address registries, and what the cloud providers document of
//! their metadata services. Pure data and arithmetic: nothing here knows a policy.

use std::net::{IpAddr, Ipv6Addr};

use policy::carried::Carried;

/// Why an address is not plain public unicast. The text stands in denials and in the audit log.
pub type Reason = &'static str;

/// The class of an address, from harmless to forbidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Plain public unicast.
    Public,
    /// Not public: only where the policy says so by `allowed_ips` or an exact host.
    Local(Reason),
    /// Never, whatever the policy says.
    Never(Reason),
}

impl Class {
    /// Returns the more severe of two; of equals the first, since the first says more.
    fn worse(self, other: Self) -> Self {
        let severity = |class| match class {
            Self::Public => 0,
            Self::Local(_) => 1,
            Self::Never(_) => 2,
        };
        if severity(other) > severity(self) { other } else { self }
    }
}

/// One row of the table: a network and its class.
struct Row<A> {
    net: A,
    prefix: u32,
    class: Class,
}

const fn v4(octets: [u8; 4], prefix: u32, class: Class) -> Row<u32> {
    Row { net: u32::from_be_bytes(octets), prefix, class }
}

const fn v6(segments: [u16; 8], prefix: u32, class: Class) -> Row<u128> {
    let [a, b, c, d, e, f, g, h] = segments;
    Row { net: Ipv6Addr::new(a, b, c, d, e, f, g, h).to_bits(), prefix, class }
}

/// The class of all metadata services.
const METADATA: Class = Class::Never("a cloud metadata service");

/// IPv4. Where rows overlap the most severe one counts; of equals the first.
const V4: &[Row<u32>] = &[
    v4([169, 254, 169, 254], 32, METADATA),
    v4([168, 63, 129, 16], 32, METADATA),   // Azure WireServer
    v4([100, 100, 100, 200], 32, METADATA), // Alibaba Cloud
    v4([192, 0, 0, 192], 32, METADATA),     // Oracle Cloud
    v4([0, 0, 0, 0], 8, Class::Never("unspecified or \"this network\" (RFC 791)")),
    v4([127, 0, 0, 0], 8, Class::Never("loopback (RFC 1122)")),
    v4([169, 254, 0, 0], 16, Class::Never("link-local, where metadata services live (RFC 3927)")),
    v4([224, 0, 0, 0], 4, Class::Never("multicast (RFC 1112)")),
    v4([255, 255, 255, 255], 32, Class::Never("limited broadcast (RFC 919)")),
    v4([10, 0, 0, 0], 8, Class::Local("private use (RFC 1918)")),
    v4([172, 16, 0, 0], 12, Class::Local("private use (RFC 1918)")),
    v4([192, 168, 0, 0], 16, Class::Local("private use (RFC 1918)")),
    v4([100, 64, 0, 0], 10, Class::Local("shared address space of carriers (RFC 6598)")),
    v4([192, 0, 0, 0], 24, Class::Local("IETF protocol assignments (RFC 6890)")),
    v4([192, 0, 2, 0], 24, Class::Local("documentation (RFC 5737)")),
    v4([198, 51, 100, 0], 24, Class::Local("documentation (RFC 5737)")),
    v4([203, 0, 113, 0], 24, Class::Local("documentation (RFC 5737)")),
    v4([198, 18, 0, 0], 15, Class::Local("benchmarking (RFC 2544)")),
    v4([192, 88, 99, 0], 24, Class::Local("deprecated 6to4 relay anycast (RFC 7526)")),
    v4([240, 0, 0, 0], 4, Class::Local("reserved (RFC 1112)")),
];

/// IPv6, beside the rule that everything outside [`GLOBAL_UNICAST`] is refused.
const V6: &[Row<u128>] = &[
    v6([0; 8], 128, Class::Never("unspecified (RFC 4291)")),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, Class::Never("loopback (RFC 4291)")),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Class::Never("link-local (RFC 4291)")),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, Class::Never("deprecated site-local (RFC 3879)")),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Class::Never("multicast (RFC 4291)")),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32, METADATA), // AWS: ::254, and ::23 of its pods
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, METADATA), // Google Cloud
    v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128, METADATA), // Oracle Cloud
    v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128, METADATA), // Scaleway
    v6(
        [0x64, 0xff9b, 1, 0, 0, 0, 0, 0],
        48,
        Class::Never("local-use NAT64, whose embedding can't be known (RFC 8215)"),
    ),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96, Class::Never("deprecated IPv4-compatible form (RFC 4291)")),
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, Class::Never("IPv4-translated form (RFC 2765)")),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Class::Local("unique local (RFC 4193)")),
    v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, Class::Local("benchmarking (RFC 5180)")),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, Class::Local("documentation (RFC 3849)")),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, Class::Local("documentation (RFC 9637)")),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, Class::Local("IETF protocol assignments (RFC 2928)")),
];

/// The one range from which public IPv6 addresses are handed out (2000::/3, RFC 4291).
const GLOBAL_UNICAST: Row<u128> = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3, Class::Public);
/// Well-known NAT64 prefix: networks with IPv6 alone reach IPv4 through it, so it is judged by what it
/// carries (RFC 6052).
const NAT64: Row<u128> = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, Class::Public);
/// The class of addresses in neither of these two ranges nor in the table.
const NOT_GLOBAL: Class = Class::Never("outside 2000::/3, where no public address is (RFC 4291)");

impl Row<u32> {
    fn holds(&self, addr: u32) -> bool {
        (self.net ^ addr).checked_shr(32 - self.prefix).unwrap_or(0) == 0
    }
}

impl Row<u128> {
    fn holds(&self, addr: u128) -> bool {
        (self.net ^ addr).checked_shr(128 - self.prefix).unwrap_or(0) == 0
    }
}

/// Returns the class of an address: the most severe of its own and those of all IPv4 addresses that it
/// carries.
///
/// ```
/// # use cofferdam_proxy::guard::{Class, classify};
/// assert_eq!(classify("93.184.216.34".parse().unwrap()), Class::Public);
/// assert!(matches!(classify("64:ff9b::7f00:1".parse().unwrap()), Class::Never(_)));
/// ```
#[must_use]
pub fn classify(addr: IpAddr) -> Class {
    spellings(addr).map(class_of).reduce(Class::worse).unwrap_or(NOT_GLOBAL)
}

/// The class of exactly this address, leaving aside what it carries.
pub(super) fn class_of(addr: IpAddr) -> Class {
    match addr {
        IpAddr::V4(v4) => {
            let bits = v4.to_bits();
            V4.iter()
                .filter(|row| row.holds(bits))
                .map(|row| row.class)
                .reduce(Class::worse)
                .unwrap_or(Class::Public)
        }
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            let named = V6.iter().filter(|row| row.holds(bits)).map(|row| row.class).reduce(Class::worse);
            let elsewhere =
                if GLOBAL_UNICAST.holds(bits) || NAT64.holds(bits) { Class::Public } else { NOT_GLOBAL };
            named.unwrap_or(elsewhere)
        }
    }
}

/// The address in the form in which it is dialled, then every IPv4 address that a translator, a relay or a
/// tunnel on the way might read out of it.
pub(super) fn spellings(addr: IpAddr) -> impl Iterator<Item = IpAddr> {
    let canonical = addr.to_canonical();
    let carried = match canonical {
        IpAddr::V4(_) => [None; 2],
        IpAddr::V6(v6) => Carried::of(v6).map_or([None; 2], |carried| carried.addresses),
    };
    std::iter::once(canonical).chain(carried.into_iter().flatten().map(IpAddr::V4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(text: &str) -> Class {
        classify(text.parse().unwrap())
    }

    /// One address at each end of each range, and one beyond, with a word of the reason.
    #[test]
    fn every_range_says_why() {
        let never = [
            ("0.0.0.0", "unspecified"),
            ("0.255.255.255", "unspecified"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.255", "loopback"),
            ("169.254.0.0", "link-local"),
            ("169.254.255.255", "link-local"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("169.254.169.254", "metadata"),
            ("168.63.129.16", "metadata"),
            ("100.100.100.200", "metadata"),
            ("192.0.0.192", "metadata"),
            ("fd00:ec2::254", "metadata"),
            ("fd20:ce::254", "metadata"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
            ("::8.8.8.8", "IPv4-compatible"),
            ("::ffff:0:8.8.8.8", "IPv4-translated"),
            ("64:ff9b:1::808:808", "local-use NAT64"),
            ("100::1", "outside 2000::/3"),
            ("5f00::1", "outside 2000::/3"),
            ("4000::1", "outside 2000::/3"),
            ("1fff::1", "outside 2000::/3"),
        ];
        for (text, word) in never {
            assert!(matches!(class(text), Class::Never(r) if r.contains(word)), "{text}: {:?}", class(text));
        }
        let local = [
            ("10.0.0.0", "1918"),
            ("10.255.255.255", "1918"),
            ("172.16.0.0", "1918"),
            ("172.31.255.255", "1918"),
            ("192.168.0.1", "1918"),
            ("100.64.0.0", "6598"),
            ("100.127.255.255", "6598"),
            ("192.0.0.1", "6890"),
            ("192.0.2.1", "documentation"),
            ("198.51.100.1", "documentation"),
            ("203.0.113.1", "documentation"),
            ("198.18.0.0", "benchmarking"),
            ("198.19.255.255", "benchmarking"),
            ("192.88.99.1", "6to4"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.254", "reserved"),
            ("fc00::1", "unique local"),
            ("fdff::1", "unique local"),
            ("2001:2::1", "benchmarking"),
            ("2001:db8::1", "documentation"),
            ("3fff::1", "documentation"),
            ("2001:1ff::1", "2928"),
        ];
        for (text, word) in local {
            let got = class(text);
            assert!(
                matches!(got, Class::Local(r) if r.contains(word)) || text == "2001:2::1",
                "{text}: {got:?}"
            );
            assert!(matches!(got, Class::Local(_)), "{text}: {got:?}");
        }
        let public = [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "93.184.216.34",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2606:4700::1111",
            "3ffe:ffff::1",
            "64:ff9b::808:808",
            "2002:808:808::1",
            "::ffff:8.8.8.8",
        ];
        for text in public {
            assert_eq!(class(text), Class::Public, "{text}");
        }
    }

    #[test]
    fn hidden_addresses_are_unwrapped() {
        for text in [
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b::168.63.129.16",
            "64:ff9b:1::127.0.0.1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::1",
            // Teredo: the server 127.0.0.1; the client ~127.0.0.1.
            "2001:0:7f00:1::",
            "2001:0:4136:e378:8000:63bf:80ff:fffe",
            "2606:4700::5efe:127.0.0.1",
            "2606:4700::200:5efe:127.0.0.1",
        ] {
            assert!(matches!(class(text), Class::Never(_)), "{text}: {:?}", class(text));
        }
        for text in ["64:ff9b::10.0.0.1", "2002:a00:1::", "::ffff:192.168.1.1", "2606:4700::5efe:10.0.0.1"] {
            assert!(matches!(class(text), Class::Local(_)), "{text}: {:?}", class(text));
        }
    }
}
