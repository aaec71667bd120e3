//! The host's own addresses, so that the agent can't reach the host's services by the address of its network
//! card.
//!
//! Addresses on loopback interfaces are left out: 127.0.0.0/8 and ::1 are refused by the table anyhow, and
//! what an operator puts on `lo` besides (anycast service addresses, a test bed's upstreams) is a deliberate
//! destination.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// How old the list may be before it is read anew: addresses change when a laptop roams or a VPN comes up,
/// and reading them costs some tens of microseconds.
pub const OWN_ADDRESSES_MAX_AGE: Duration = Duration::from_secs(10);

/// The host's own addresses. Clones share one list.
#[derive(Debug, Clone)]
pub struct OwnAddresses(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    set: ArcSwap<HashSet<IpAddr>>,
    /// Where the addresses come from; a fixed list is never read anew.
    from_system: bool,
    epoch: Instant,
    /// Milliseconds after `epoch` of the last reading.
    read_at: AtomicU64,
}

impl OwnAddresses {
    /// Reads the addresses of the host's interfaces, and reads them anew as they age.
    ///
    /// # Errors
    /// When the interfaces can't be listed (`getifaddrs(3)`): without the list the guard would let through
    /// what it must refuse.
    pub fn system() -> io::Result<Self> {
        let set = read()?;
        Ok(Self::from(set, true))
    }

    /// A list that never changes.
    #[must_use]
    pub fn fixed(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self::from(addresses.into_iter().map(|a| a.to_canonical()).collect(), false)
    }

    fn from(set: HashSet<IpAddr>, from_system: bool) -> Self {
        Self(Arc::new(Inner {
            set: ArcSwap::from_pointee(set),
            from_system,
            epoch: Instant::now(),
            read_at: AtomicU64::new(0),
        }))
    }

    /// Whether this is one of the host's own addresses.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.0.set.load().contains(&addr.to_canonical())
    }

    /// Reads the addresses anew, now.
    ///
    /// # Errors
    /// When the interfaces can't be listed; the list stays as it was.
    pub fn refresh(&self) -> io::Result<()> {
        if self.0.from_system {
            self.0.set.store(Arc::new(read()?));
        }
        Ok(())
    }

    /// Reads the addresses anew if they are older than [`OWN_ADDRESSES_MAX_AGE`]; the old list stays in force
    /// if that fails.
    pub fn refresh_if_old(&self) {
        let now = u64::try_from(self.0.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        let read_at = self.0.read_at.load(Ordering::Relaxed);
        if u128::from(now.saturating_sub(read_at)) < OWN_ADDRESSES_MAX_AGE.as_millis() {
            return;
        }
        // One task reads; the others go on with the list as it is.
        if self.0.read_at.compare_exchange(read_at, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        if let Err(error) = self.refresh() {
            tracing::warn!(%error, "the host's own addresses can't be read; the last list stays in force");
        }
    }
}

fn read() -> io::Result<HashSet<IpAddr>> {
    Ok(getifaddrs()?
        .filter(|interface| !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_the_loopback_interface_is_not_counted() {
        let own = OwnAddresses::system().unwrap();
        assert!(!own.contains("127.0.0.1".parse().unwrap()));
        assert!(!own.contains("::1".parse().unwrap()));
        own.refresh().unwrap();
    }

    #[test]
    fn a_mapped_address_is_the_same_address() {
        let own = OwnAddresses::fixed(["198.51.100.7".parse().unwrap()]);
        assert!(own.contains("::ffff:198.51.100.7".parse().unwrap()));
        assert!(!own.contains("198.51.100.8".parse().unwrap()));
        own.refresh().unwrap();
        assert!(own.contains("198.51.100.7".parse().unwrap()), "a fixed list stays");
    }

    #[test]
    fn every_address_of_a_network_card_is_counted() {
        let own = OwnAddresses::system().unwrap();
        for interface in getifaddrs().unwrap() {
            if interface.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
                continue;
            }
            let v4 = interface.address.and_then(|a| a.as_sockaddr_in().map(|a| a.ip()));
            if let Some(v4) = v4 {
                assert!(own.contains(IpAddr::V4(v4)), "{v4}");
            }
        }
    }
}
