//! Contradictions between entries: two that serve one place to one program, and disagree.

use std::fmt;

use crate::model::{Binary, Endpoint, Entry};

/// The help text for a contradiction.
pub(crate) const CONTRADICTION_HELP: &str =
    "make them agree, give them different `path`s, or let different programs use them";

/// Two endpoints that serve one host, port and path to one program in different ways.
#[derive(Debug)]
pub(crate) struct Contradiction<'e> {
    pub(crate) first_entry: &'e Entry,
    pub(crate) first: &'e Endpoint,
    pub(crate) second_entry: &'e Entry,
    pub(crate) second: &'e Endpoint,
    field: &'static str,
    values: (&'static str, &'static str),
}

impl fmt::Display for Contradiction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` ({}) and `{}` ({}) serve {} with different `{}`: {} and {}",
            self.first_entry.key,
            self.first.origin,
            self.second_entry.key,
            self.second.origin,
            self.second.describe(),
            self.field,
            self.values.0,
            self.values.1
        )
    }
}

/// Every contradiction among some entries.
pub(crate) fn contradictions(network: &[Entry]) -> Vec<Contradiction<'_>> {
    let all: Vec<(&Entry, &Endpoint)> =
        network.iter().flat_map(|entry| entry.endpoints.iter().map(move |e| (entry, e))).collect();
    let mut out = Vec::new();
    for (index, (second_entry, second)) in all.iter().enumerate() {
        for (first_entry, first) in all.iter().take(index) {
            let Some((field, values)) = differ(first, second) else { continue };
            if serve_one_place(first, second)
                && (std::ptr::eq(*first_entry, *second_entry) || share(first_entry, second_entry))
            {
                out.push(Contradiction { first_entry, first, second_entry, second, field, values });
            }
        }
    }
    out
}

/// The first thing in which two endpoints would treat one connection or request differently.
fn differ(a: &Endpoint, b: &Endpoint) -> Option<(&'static str, (&'static str, &'static str))> {
    let protocol = |e: &Endpoint| e.protocol.map_or("none (L4)", crate::Protocol::as_str);
    let tls = |e: &Endpoint| if e.tls_skip { "skip" } else { "auto" };
    let enforcement = |e: &Endpoint| if e.audit { "audit" } else { "enforce" };
    if a.protocol != b.protocol {
        // Inspected endpoints can be told apart by their `path`; an endpoint whose traffic is never read
        // can't.
        let parted = a.protocol.is_some() && b.protocol.is_some() && a.path != b.path;
        return (!parted).then(|| ("protocol", (protocol(a), protocol(b))));
    }
    if a.tls_skip != b.tls_skip {
        return Some(("tls", (tls(a), tls(b))));
    }
    let inspected = a.protocol.is_some() && a.path == b.path;
    (inspected && a.audit != b.audit).then(|| ("enforcement", (enforcement(a), enforcement(b))))
}

fn serve_one_place(a: &Endpoint, b: &Endpoint) -> bool {
    let hosts = match (&a.host, &b.host) {
        (Some(a), Some(b)) => a.overlaps(b),
        // An endpoint without a host counts only where no endpoint that names one does.
        (None, None) => true,
        _ => false,
    };
    hosts && a.ports.iter().any(|port| b.ports.contains(port))
}

/// Whether some program may use both entries by its own path. (By a program's ancestors almost any two
/// entries could be shared; where that happens, the stricter treatment wins.)
fn share(a: &Entry, b: &Entry) -> bool {
    match (&a.binaries, &b.binaries) {
        (Some(a), Some(b)) => a.iter().any(|x| b.iter().any(|y| binaries_overlap(x, y))),
        (Some(list), None) | (None, Some(list)) => !list.is_empty(),
        (None, None) => true,
    }
}

fn binaries_overlap(a: &Binary, b: &Binary) -> bool {
    if let (Some(a), Some(b)) = (a.sha256, b.sha256)
        && a != b
    {
        return false;
    }
    match (a.path.is_literal(), b.path.is_literal()) {
        (true, _) => b.path.matches(a.path.as_str()),
        (_, true) => a.path.matches(b.path.as_str()),
        (false, false) => a.path.may_overlap(&b.path),
    }
}
