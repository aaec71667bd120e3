//! Limits lookups of names that no entry names: an endpoint without `host` lets any name pass whose addresses
//! are in its ranges, and those are only known once a server outside was asked.
//!
//! The agent chooses the name, and the server of its domain reads it: that is a way to send data out. So each
//! party may look up [`UNNAMED_LOOKUPS_PER_MINUTE`] different names a minute; the same name again within that
//! minute is free. Knows no policy and looks nothing up.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use policy::{DomainName, Party};
use tokio::time::Instant;

use crate::limits::UNNAMED_LOOKUPS_PER_MINUTE;

const MINUTE: Duration = Duration::from_secs(60);

/// The names that were looked up in the current minute, by party.
#[derive(Debug)]
pub(super) struct Unnamed(Mutex<Minute>);

#[derive(Debug)]
struct Minute {
    since: Instant,
    asked: HashMap<Party, HashSet<DomainName>>,
}

impl Unnamed {
    /// No name yet.
    pub(super) fn new() -> Self {
        Self(Mutex::new(Minute { since: Instant::now(), asked: HashMap::new() }))
    }

    /// Whether this name may be looked up for `party` now.
    pub(super) fn takes(&self, party: Party, name: &DomainName) -> bool {
        let mut minute = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if minute.since.elapsed() >= MINUTE {
            *minute = Minute { since: Instant::now(), asked: HashMap::new() };
        }
        let asked = minute.asked.entry(party).or_default();
        if asked.contains(name) {
            return true;
        }
        let room = asked.len() < UNNAMED_LOOKUPS_PER_MINUTE;
        if room {
            asked.insert(name.clone());
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_party_has_so_many_names_a_minute_and_takes_none_of_anothers() {
        let unnamed = Unnamed::new();
        let takes = |party: u64, n: usize| {
            unnamed.takes(Party(party), &DomainName::parse(&format!("secret-{n}.evil.test")).unwrap())
        };
        assert_eq!((0..1000).filter(|n| takes(1, *n)).count(), UNNAMED_LOOKUPS_PER_MINUTE);
        assert!(takes(1, 0), "it is known outside already");
        assert!(takes(2, 1000) && takes(0, 1000));
        tokio::time::advance(MINUTE - Duration::from_millis(1)).await;
        assert!(!takes(1, 1000));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!((1000..2000).filter(|n| takes(1, *n)).count(), UNNAMED_LOOKUPS_PER_MINUTE);
    }
}
