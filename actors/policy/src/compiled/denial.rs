//! Why something is refused, and what comes nearest to allowing it. Only here does deciding allocate.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::place::{Clause, Test, methods};
use super::{Compiled, Place, Programs};
use crate::{Caller, Denial, Destination, Layer, Protocol, RequestFacts};

/// Most programs or ports that a message lists.
const MAX_LISTED: usize = 4;

/// One thing in which a request differs from what would be allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "what", content = "allowed")]
pub enum Difference {
    /// Another host is named.
    Host(String),
    /// Other ports are named.
    Port(Vec<u16>),
    /// Other programs are named.
    Binary(Vec<String>),
    /// The program's path is named, with another SHA-256.
    Content(String),
    /// The program is named, and has code mapped that its hash says nothing of.
    ForeignCode(String),
    /// The endpoint serves other paths.
    ServedPath(String),
    /// `%2F` isn't allowed in paths.
    EncodedSlash,
    /// The endpoint is for WebSocket handshakes.
    OnlyWebsocket,
    /// The endpoint isn't for WebSocket handshakes.
    NoWebsocket,
    /// The rule is for other methods.
    Method(String),
    /// The rule is for other paths.
    Path(String),
    /// The rule is for another query.
    Query(String),
    /// A deny rule hits it.
    Denied(String),
}

impl Difference {
    /// How far from allowing: what an operator would more readily change weighs less.
    fn weight(&self) -> u32 {
        match self {
            Self::Host(_) => 100,
            Self::Binary(_) => 40,
            Self::Content(_) => 30,
            Self::ForeignCode(_) => 20,
            Self::Port(_) => 25,
            Self::Path(_) | Self::ServedPath(_) => 10,
            Self::OnlyWebsocket | Self::NoWebsocket => 8,
            Self::Method(_) => 6,
            Self::Denied(_) => 5,
            Self::EncodedSlash => 4,
            Self::Query(_) => 3,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "it is for the host {host}"),
            Self::Port(ports) => write!(f, "it is for port {}", list(ports.iter())),
            Self::Binary(programs) if programs.is_empty() => f.write_str("it names no program"),
            Self::Binary(programs) => write!(f, "it is for {}", list(programs.iter())),
            Self::Content(path) => write!(f, "it wants another SHA-256 of {path}"),
            Self::ForeignCode(path) => {
                write!(f, "it has no allow_foreign_code, and {path} has code of unknown origin mapped")
            }
            Self::ServedPath(path) => write!(f, "it serves {path}"),
            Self::EncodedSlash => f.write_str("it has no allow_encoded_slash"),
            Self::OnlyWebsocket => f.write_str("it is for WebSocket handshakes (protocol: websocket)"),
            Self::NoWebsocket => f.write_str("it is not for WebSocket handshakes (protocol: rest)"),
            Self::Method(methods) => write!(f, "it allows {methods}"),
            Self::Path(path) => write!(f, "it allows the path {path}"),
            Self::Query(query) => write!(f, "it allows the query {query}"),
            Self::Denied(rule) => write!(f, "its rule `{rule}` refuses this"),
        }
    }
}

fn list<T: fmt::Display>(items: impl ExactSizeIterator<Item = T>) -> String {
    let more = items.len().saturating_sub(MAX_LISTED);
    let mut out = items.take(MAX_LISTED).map(|i| i.to_string()).collect::<Vec<_>>().join(", ");
    if more > 0 {
        out.push_str(&format!(" and {more} more"));
    }
    out
}

/// An endpoint (and perhaps one of its rules) that comes near, and in what it differs.
#[derive(Debug, Clone)]
pub(crate) struct Near<'p> {
    pub(crate) place: &'p Place,
    pub(crate) clause: Option<Arc<str>>,
    pub(crate) differs: Vec<Difference>,
}

impl Near<'_> {
    pub(crate) fn weight(&self) -> u32 {
        self.differs.iter().map(Difference::weight).sum()
    }

    /// In words, for a hint.
    pub(crate) fn words(&self) -> String {
        let what = match &self.clause {
            Some(clause) => format!("{} {}: {clause}", self.place.policy, self.place.rule),
            None => format!("{} {}", self.place.policy, self.place.rule),
        };
        let differs: Vec<String> = self.differs.iter().map(Difference::to_string).collect();
        format!("nearest: {what}; but {}", differs.join(", and "))
    }
}

impl Compiled {
    /// Why no endpoint grants a connection.
    pub(super) fn connection_denial(&self, to: &Destination, caller: &Caller) -> Denial {
        let named = self.naming(&to.host).filter(|place| place.host.is_some());
        let near = named.map(|place| Self::near_connection(place, to, caller)).min_by_key(Near::weight);
        let Some(near) = near else {
            let hint = "add an endpoint for it to `network_policies`, or a preset that has one";
            let detail = format!("no policy entry names {}", to.host);
            return Denial { layer: Layer::L4, detail, policy: None, hint: Some(hint.into()) };
        };
        let program = &caller.executable.path;
        let (layer, detail) = match near.differs.first() {
            Some(Difference::Content(_)) => {
                (Layer::Identity, format!("{program} is not the program that the policy pins by SHA-256"))
            }
            Some(Difference::ForeignCode(_)) => (
                Layer::Identity,
                format!(
                    "{program} has code mapped from a writable or deleted file, which its hash says nothing of"
                ),
            ),
            Some(Difference::Binary(_)) => (Layer::L4, format!("{program} may not connect to {to}")),
            _ => (Layer::L4, format!("no policy entry allows {to}")),
        };
        Denial { layer, detail, policy: Some(near.place.policy.clone()), hint: Some(near.words()) }
    }

    /// In what a connection differs from those that an endpoint grants; the host is left out.
    pub(crate) fn near_connection<'p>(place: &'p Place, to: &Destination, caller: &Caller) -> Near<'p> {
        let mut differs = Vec::new();
        if let Programs::Listed(list) = &*place.programs
            && !place.programs.cover(caller)
        {
            differs.push(if place.programs.cover_but_for_content(caller) {
                Difference::Content(caller.executable.path.to_string())
            } else if place.programs.cover_but_for_foreign_code(caller) {
                Difference::ForeignCode(caller.executable.path.to_string())
            } else {
                Difference::Binary(list.iter().map(|b| b.path.as_str().to_owned()).collect())
            });
        }
        if !place.ports.contains(&to.port) {
            differs.push(Difference::Port(place.ports.to_vec()));
        }
        Near { place, clause: None, differs }
    }

    /// A deny rule refused a request.
    pub(super) fn rule_denial(
        place: &Place,
        clause: &Clause,
        to: &Destination,
        facts: &RequestFacts<'_>,
    ) -> Denial {
        Denial {
            layer: Layer::L7,
            detail: format!("{} {}{} is refused by `{}`", facts.method, to.host, facts.path, clause.text),
            policy: Some(place.policy.clone()),
            hint: Some(format!("the rule is at {}", place.origin)),
        }
    }

    /// No rule lets a request through.
    pub(super) fn request_denial(
        &self,
        to: &Destination,
        caller: &Caller,
        facts: &RequestFacts<'_>,
    ) -> Denial {
        let granting = self.granting(&to.host, to.port, caller).filter(|place| place.protocol().is_some());
        let near = granting.map(|place| Self::near_request(place, facts)).min_by_key(Near::weight);
        let what = if facts.websocket { "the WebSocket handshake " } else { "" };
        Denial {
            layer: Layer::L7,
            detail: format!("no rule allows {what}{} {}{}", facts.method, to.host, facts.path),
            policy: near.as_ref().map(|near| near.place.policy.clone()),
            hint: near.map(|near| near.words()),
        }
    }

    /// In what a request differs from those that an endpoint's nearest rule allows.
    pub(crate) fn near_request<'p>(place: &'p Place, facts: &RequestFacts<'_>) -> Near<'p> {
        let mut own = Vec::new();
        if facts.path.has_encoded_slash() && !place.path_options.allow_encoded_slash {
            own.push(Difference::EncodedSlash);
        }
        if let Some(path) = place.path.as_ref().filter(|path| !path.matches(facts.path)) {
            own.push(Difference::ServedPath(path.to_string()));
        }
        match place.protocol() {
            Some(Protocol::Websocket) if !facts.websocket => own.push(Difference::OnlyWebsocket),
            Some(Protocol::Rest) if facts.websocket => own.push(Difference::NoWebsocket),
            _ => {}
        }
        if let Some(clause) = place.deny.iter().find(|c| c.denies(facts.method, facts.path, facts.query)) {
            own.push(Difference::Denied(clause.text.to_string()));
        }
        let rules = place.allow.iter().map(|clause| (clause, rule_differences(clause, facts)));
        let weight = |d: &Vec<Difference>| d.iter().map(Difference::weight).sum::<u32>();
        let nearest = rules.min_by_key(|(_, differs)| weight(differs));
        let clause = nearest.as_ref().map(|(clause, _)| clause.text.clone());
        own.extend(nearest.into_iter().flat_map(|(_, differs)| differs));
        Near { place, clause, differs: own }
    }
}

/// In what a request differs from those that one rule allows.
fn rule_differences(clause: &Clause, facts: &RequestFacts<'_>) -> Vec<Difference> {
    let mut out = Vec::new();
    match &clause.test {
        Test::Access(access) => {
            if !access.covers(facts.method) {
                out.push(Difference::Method(methods(&clause.test).to_owned()));
            }
        }
        Test::Rule(rule) => {
            if !rule.method.covers(facts.method) {
                out.push(Difference::Method(methods(&clause.test).to_owned()));
            }
            if !rule.path.matches(facts.path) {
                out.push(Difference::Path(rule.path.to_string()));
            }
            let bare = crate::Rule { query: Vec::new(), method: crate::Method::Any, path: rule.path.clone() };
            let whole = crate::Rule { query: rule.query.clone(), ..bare.clone() };
            let passes = |r: &crate::Rule| r.allows(facts.method, facts.path, facts.query);
            if passes(&bare) && !passes(&whole) {
                let text = whole.to_string();
                out.push(Difference::Query(text.split_once('?').map_or(text.clone(), |(_, q)| q.to_owned())));
            }
        }
    }
    out
}
