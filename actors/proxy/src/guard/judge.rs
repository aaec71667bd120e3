//! The verdict on one address: range table × the policy's address rule × the host's own addresses.
//!
//! Pure: no I/O, no clock. [`JudgedAddr`] is made here and nowhere else.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use policy::AddressRule;

use super::addresses::OwnAddresses;
use super::ranges::{Class, Reason, class_of, spellings};

/// An address that may be dialled. Only this module makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JudgedAddr(SocketAddr);

impl JudgedAddr {
    /// The address and port.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.0
    }

    /// The host's own loopback, for the one name that leads there. The caller must have checked the name.
    pub(super) fn host_loopback(port: u16) -> [Self; 2] {
        [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].map(|ip| Self(SocketAddr::new(ip, port)))
    }

    /// A loopback address that a test's resolver answered.
    #[cfg(test)]
    pub(super) fn loopback_for_tests(addr: IpAddr, port: u16) -> Option<Self> {
        addr.is_loopback().then(|| Self(SocketAddr::new(addr, port)))
    }
}

impl fmt::Display for JudgedAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why an address may not be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The range is refused whatever the policy says.
    #[error("{address} is {reason}, which no rule can allow")]
    Never {
        /// The refused address, as it would have been dialled.
        address: IpAddr,
        /// What the table says of it.
        reason: Reason,
    },
    /// The range needs the policy's explicit permission.
    #[error("{address} is {reason}")]
    Local {
        /// The refused address.
        address: IpAddr,
        /// What the table says of it.
        reason: Reason,
    },
    /// The entry lists the addresses it allows, and this is none of them.
    #[error("{address} lies outside the entry's `allowed_ips`")]
    OutsideAllowed {
        /// The refused address.
        address: IpAddr,
    },
    /// An address of the host that cofferdam runs on.
    #[error("{address} is an address of the host itself")]
    Own {
        /// The refused address.
        address: IpAddr,
    },
}

/// The hint for requests that no rule can allow.
pub(crate) const NEVER_OPENED: &str = "no policy and no operator opens this; a service of the host is reached as \
                                       `host.cofferdam.internal`, where the policy allows that";

impl Refusal {
    /// What the operator can change, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Never { .. } => Some(NEVER_OPENED),
            Self::Local { .. } => Some(
                "list the address in the entry's `allowed_ips`, or name the host exactly, without wildcard",
            ),
            Self::OutsideAllowed { .. } => Some("add the address to the entry's `allowed_ips`"),
            Self::Own { .. } => {
                Some("to reach a service of the host, allow `host.cofferdam.internal` with its port")
            }
        }
    }
}

/// Judges one address that a name resolved to, or that the destination names itself.
///
/// # Errors
/// The [`Refusal`] that names the address and the reason.
pub fn judge(addr: IpAddr, port: u16, rule: &AddressRule, own: &OwnAddresses) -> Result<JudgedAddr, Refusal> {
    let address = addr.to_canonical();
    let mut local = None;
    for spelling in spellings(addr) {
        match class_of(spelling) {
            Class::Never(reason) => return Err(Refusal::Never { address, reason }),
            Class::Local(reason) if !lifts(rule, spelling) => local = local.or(Some(reason)),
            Class::Local(_) | Class::Public => {}
        }
        if own.contains(spelling) {
            return Err(Refusal::Own { address });
        }
    }
    if !rule.allowed_ips.is_empty() && !listed(rule, address) {
        return Err(match local {
            Some(reason) => Refusal::Local { address, reason },
            None => Refusal::OutsideAllowed { address },
        });
    }
    match local {
        Some(reason) => Err(Refusal::Local { address, reason }),
        None => Ok(JudgedAddr(SocketAddr::new(address, port))),
    }
}

/// Whether the rule allows this one address of a local range. A list of addresses is exhaustive: beside it
/// the exact host says nothing.
fn lifts(rule: &AddressRule, addr: IpAddr) -> bool {
    if rule.allowed_ips.is_empty() { rule.exact_host } else { contains(rule, addr) }
}

/// Whether the list holds the address, or the IPv4 address that NAT64 would dial for it.
fn listed(rule: &AddressRule, addr: IpAddr) -> bool {
    let target = match addr {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => policy::carried::nat64(v6),
    };
    contains(rule, addr) || target.is_some_and(|v4| contains(rule, v4.into()))
}

fn contains(rule: &AddressRule, addr: IpAddr) -> bool {
    rule.allowed_ips.iter().any(|net| net.contains(&addr))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(allowed: &[&str], exact_host: bool) -> AddressRule {
        AddressRule { allowed_ips: allowed.iter().map(|n| n.parse().unwrap()).collect(), exact_host }
    }

    fn try_judge(addr: &str, rule: &AddressRule) -> Result<JudgedAddr, Refusal> {
        judge(addr.parse().unwrap(), 443, rule, &OwnAddresses::fixed(["93.184.216.99".parse().unwrap()]))
    }

    #[test]
    fn public_addresses_pass_and_mapped_ones_are_dialled_as_ipv4() {
        let wildcard = rule(&[], false);
        assert_eq!(try_judge("93.184.216.34", &wildcard).unwrap().to_string(), "93.184.216.34:443");
        assert_eq!(try_judge("::ffff:93.184.216.34", &wildcard).unwrap().to_string(), "93.184.216.34:443");
        assert_eq!(try_judge("2606:4700::1", &wildcard).unwrap().to_string(), "[2606:4700::1]:443");
    }

    #[test]
    fn private_addresses_need_the_policys_word() {
        assert!(matches!(try_judge("10.0.5.1", &rule(&[], false)), Err(Refusal::Local { .. })));
        assert!(try_judge("10.0.5.1", &rule(&[], true)).is_ok());
        assert!(try_judge("10.0.5.1", &rule(&["10.0.5.0/24"], false)).is_ok());
        assert!(try_judge("fd12::1", &rule(&["fd12::/16"], false)).is_ok());
        assert!(try_judge("64:ff9b::10.0.5.1", &rule(&["10.0.5.0/24"], false)).is_ok());
        // A list is exhaustive, for private and public addresses, exact host or not.
        assert!(matches!(try_judge("10.0.6.1", &rule(&["10.0.5.0/24"], true)), Err(Refusal::Local { .. })));
        let refused = try_judge("93.184.216.34", &rule(&["10.0.5.0/24"], true));
        assert!(matches!(refused, Err(Refusal::OutsideAllowed { .. })));
    }

    #[test]
    fn nothing_lifts_the_nevers() {
        let all = rule(&["0.0.0.0/0", "::/0"], true);
        for text in [
            "127.0.0.1",
            "::1",
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "fe80::1",
            "64:ff9b::127.0.0.1",
            "2002:7f00:1::",
        ] {
            let never = try_judge(text, &all).unwrap_err();
            assert!(matches!(never, Refusal::Never { .. }), "{text}");
            assert!(never.hint().is_some_and(|hint| hint.contains("no operator")), "{text}");
        }
    }

    #[test]
    fn the_hosts_own_addresses_are_refused_in_every_spelling() {
        let all = rule(&["0.0.0.0/0", "::/0"], true);
        for text in ["93.184.216.99", "::ffff:93.184.216.99", "64:ff9b::93.184.216.99", "2002:5db8:d863::1"] {
            assert!(matches!(try_judge(text, &all), Err(Refusal::Own { .. })), "{text}");
        }
    }

    /// An IPv4 address that no rule allows.
    fn forbidden_v4() -> impl Strategy<Value = Ipv4Addr> {
        let host = any::<u32>();
        let net = prop::sample::select(vec![
            ([127u8, 0, 0, 0], 8u32),
            ([0, 0, 0, 0], 8),
            ([169, 254, 0, 0], 16),
            ([224, 0, 0, 0], 4),
            ([168, 63, 129, 16], 32),
            ([100, 100, 100, 200], 32),
            ([192, 0, 0, 192], 32),
            ([255, 255, 255, 255], 32),
        ]);
        (net, host).prop_map(|((net, prefix), host)| {
            let mask = u32::MAX.checked_shr(prefix).unwrap_or(0);
            Ipv4Addr::from_bits(u32::from_be_bytes(net) | (host & mask))
        })
    }

    proptest! {
        #[test]
        fn any_spelling_of_a_forbidden_ipv4_address_is_refused(v4 in forbidden_v4(), noise: [u16; 8], way in 0..10usize) {
            let o = v4.octets();
            let (hi, lo) = (u16::from_be_bytes([o[0], o[1]]), u16::from_be_bytes([o[2], o[3]]));
            let n = noise;
            let prefix = 0x2000 | (n[0] & 0x1fff);
            let v6 = match way {
                0 => Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, hi, lo),
                1 => Ipv6Addr::new(0, 0, 0, 0, 0, 0, hi, lo),
                2 => Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, hi, lo),
                3 => Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, hi, lo),
                4 => Ipv6Addr::new(0x64, 0xff9b, 1, n[3], n[4], n[5], hi, lo),
                5 => Ipv6Addr::new(0x2002, hi, lo, n[3], n[4], n[5], n[6], n[7]),
                6 => Ipv6Addr::new(0x2001, 0, hi, lo, n[4], n[5], n[6], n[7]),
                7 => Ipv6Addr::new(0x2001, 0, n[2], n[3], n[4], n[5], !hi, !lo),
                8 => Ipv6Addr::new(prefix, n[1], n[2], n[3], 0, 0x5efe, hi, lo),
                _ => Ipv6Addr::new(prefix, n[1], n[2], n[3], 0x200, 0x5efe, hi, lo),
            };
            let all = rule(&["0.0.0.0/0", "::/0"], true);
            let own = OwnAddresses::fixed([]);
            prop_assert!(judge(v4.into(), 1, &all, &own).is_err());
            prop_assert!(judge(v6.into(), 1, &all, &own).is_err(), "{v6} carries {v4}");
        }

        #[test]
        fn only_global_unicast_nat64_and_unique_local_pass(bits: u128) {
            let all = rule(&["0.0.0.0/0", "::/0"], true);
            let v6 = Ipv6Addr::from_bits(bits);
            if judge(v6.into(), 1, &all, &OwnAddresses::fixed([])).is_ok() {
                let s = v6.segments();
                prop_assert!(s[0] & 0xe000 == 0x2000 || s[0] & 0xfe00 == 0xfc00 || s[0] == 0x64
                    || v6.to_ipv4_mapped().is_some());
            }
        }

        #[test]
        fn what_passes_without_the_policys_word_is_public(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            if judge(v4.into(), 1, &rule(&[], false), &OwnAddresses::fixed([])).is_ok() {
                prop_assert!(!(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast()
                    || v4.is_broadcast() || v4.is_documentation() || v4.is_unspecified()));
            }
        }
    }
}
