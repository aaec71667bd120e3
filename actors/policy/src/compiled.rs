//! The compiled policy: immutable tables that decide without a lock, an interpreter or an allocation.
//!
//! Endpoints are found by host (exact, by the suffix behind a first-label wildcard, by every suffix for
//! `**.x`, or without a host), then judged by port, program, path and rules. The allow rules of several
//! entries form a union; a deny rule in any of them wins. Only a denial allocates: its texts. Share a
//! [`Compiled`] by cloning it (an `Arc`).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::check;
use crate::diagnostics::{Diagnostic, Diagnostics};
use crate::model::{HostPattern, Policy};
use crate::{Caller, DomainName, Host};

mod answers;
mod denial;
mod judge;
mod place;

pub(crate) use answers::Answers;
pub use denial::Difference;
pub(crate) use denial::Near;
pub(crate) use place::{Place, Programs};

/// A policy, compiled for deciding.
#[derive(Clone)]
pub struct Compiled {
    tables: Arc<Tables>,
}

/// Endpoints and the ways to find them by host. Indexes are into `places`.
struct Tables {
    places: Box<[Place]>,
    exact: HashMap<Host, Vec<usize>>,
    label: HashMap<DomainKey, Vec<usize>>,
    deep: HashMap<DomainKey, Vec<usize>>,
    hostless: Vec<usize>,
}

/// A domain suffix as a map key that can be looked up by `&str`.
type DomainKey = Box<str>;

impl Compiled {
    /// Compiles a policy.
    ///
    /// # Errors
    /// The entries that contradict each other, each with its place in the file.
    pub fn new(policy: &Policy) -> Result<Self, Diagnostics> {
        let mut errors = Diagnostics::new("policy", "");
        for contradiction in check::contradictions(policy.network()) {
            let item = Diagnostic::error(0..0, contradiction.to_string()).help(check::CONTRADICTION_HELP);
            errors.push(Diagnostic { span: None, ..item });
        }
        if errors.has_errors() {
            return Err(errors);
        }
        Ok(Self { tables: Arc::new(tables(policy)) })
    }

    /// Whether some entry names this program by its whole path, without a wildcard.
    #[must_use]
    pub fn names_program(&self, path: &str) -> bool {
        self.tables.places.iter().any(|place| place.programs.name(path))
    }

    /// Every TCP port that some endpoint names, sorted, once each.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        let mut out: Vec<u16> = self.places().iter().flat_map(|p| p.ports.iter().copied()).collect();
        out.sort_unstable();
        out.dedup();
        out
    }

    /// Whether any endpoint names `host`, on any port and for any program. Only such names may be resolved by
    /// the name server.
    #[must_use]
    pub fn names(&self, host: &Host) -> bool {
        self.naming(host).next().is_some()
    }

    /// Every endpoint, in the order of the file.
    pub(crate) fn places(&self) -> &[Place] {
        &self.tables.places
    }

    /// The endpoints that name `host`: first those that name it exactly, then those that match by label
    /// wildcard, by suffix, and last those without a host.
    pub(crate) fn naming<'a>(&'a self, host: &'a Host) -> impl Iterator<Item = &'a Place> {
        let tables = &*self.tables;
        let name = host.name().map(DomainName::as_str);
        let exact = tables.exact.get(host).into_iter().flatten();
        let label = name.and_then(behind).and_then(|s| tables.label.get(s)).into_iter().flatten();
        let deep = std::iter::successors(name.and_then(behind), |s| behind(s));
        let deep = deep.filter_map(|suffix| tables.deep.get(suffix)).flatten();
        let indexes = exact.chain(label).chain(deep).chain(&tables.hostless);
        indexes.filter_map(|index| tables.places.get(*index)).filter(move |place| place.names(host))
    }

    /// The endpoints that let `caller` connect to `host` on `port`. Endpoints without a host are included
    /// only where no other endpoint lets it.
    pub(crate) fn granting<'a>(
        &'a self,
        host: &'a Host,
        port: u16,
        caller: &'a Caller,
    ) -> impl Iterator<Item = &'a Place> {
        let mut named = false;
        self.naming(host)
            .filter(move |place| place.ports.contains(&port) && place.programs.cover(caller))
            .take_while(move |place| {
                let go_on = place.host.is_some() || !named;
                named |= place.host.is_some();
                go_on
            })
    }
}

/// The name without its first label.
fn behind(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, suffix)| suffix)
}

fn tables(policy: &Policy) -> Tables {
    let mut out = Tables {
        places: Box::default(),
        exact: HashMap::new(),
        label: HashMap::new(),
        deep: HashMap::new(),
        hostless: Vec::new(),
    };
    let mut places = Vec::new();
    for entry in policy.network() {
        let programs = Arc::new(Programs::of(entry));
        for endpoint in &entry.endpoints {
            let index = places.len();
            match &endpoint.host {
                Some(HostPattern::Exact(host)) => out.exact.entry(host.clone()).or_default().push(index),
                Some(HostPattern::Label { suffix, .. }) => {
                    out.label.entry(suffix.as_str().into()).or_default().push(index);
                }
                Some(HostPattern::Deep { suffix }) => {
                    out.deep.entry(suffix.as_str().into()).or_default().push(index);
                }
                None => out.hostless.push(index),
            }
            places.push(Place::of(entry, endpoint, programs.clone()));
        }
    }
    out.places = places.into();
    out
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Compiled({} endpoints)", self.places().len())
    }
}

#[cfg(test)]
pub(crate) mod tests;
