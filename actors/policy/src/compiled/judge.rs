//! The two decisions: may this program connect there, may this request (and each part of it) be sent.

use std::sync::Arc;

use super::place::{Clause, Test};
use super::{Answers, Compiled, Near, Place};
use crate::content::{Asks, Content, Part, Unreadable};
use crate::model::{Origin, Rewrites, Rule};
use crate::{
    Allowed, Caller, CanonicalPath, Denial, Destination, Grant, PathOptions, Protocol, RequestFacts,
};

impl Compiled {
    /// Whether `caller` may connect to `to`, and how the connection is then treated.
    ///
    /// If several endpoints allow the connection, an inspected one takes precedence over one that relays;
    /// among equals the one that names the host most exactly, then the first in the file.
    ///
    /// # Errors
    /// A [`Denial`] that names the nearest entry and what differs.
    pub fn connect(&self, to: &Destination, caller: &Caller) -> Result<Grant, Denial> {
        let mut chosen: Option<&Place> = None;
        let mut allow_encoded_slash = false;
        let mut reads_bodies = false;
        for place in self.granting(&to.host, to.port, caller) {
            allow_encoded_slash |= place.path_options.allow_encoded_slash;
            reads_bodies |= place.protocol().is_some_and(Protocol::reads_bodies);
            let better = match chosen {
                None => true,
                Some(old) => old.protocol().is_none() && place.protocol().is_some(),
            };
            if better {
                chosen = Some(place);
            }
        }
        let Some(place) = chosen else { return Err(self.connection_denial(to, caller)) };
        Ok(Grant {
            policy: place.policy.clone(),
            rule: place.rule.clone(),
            treatment: place.treatment,
            addresses: place.addresses.clone(),
            unnamed: place.host.is_none(),
            path_options: PathOptions { allow_encoded_slash },
            reads_bodies,
        })
    }

    /// Whether `caller` may connect to `to` through approvals of an operator alone, and through no entry of
    /// the policy. A request that the approvals' rules don't cover was then not refused by anybody.
    #[must_use]
    pub fn grants_by_approval_alone(&self, to: &Destination, caller: &Caller) -> bool {
        let mut granting = self.granting(&to.host, to.port, caller).peekable();
        granting.peek().is_some() && granting.all(|place| place.approved)
    }

    /// What the body of a request is to be read as, and how long it may be, in bytes. Must be asked where
    /// [`Grant::reads_bodies`] is set.
    ///
    /// `None` where no endpoint that is concerned with the path judges bodies, or where they disagree (the
    /// request is then refused).
    #[must_use]
    pub fn body_of(
        &self,
        to: &Destination,
        caller: &Caller,
        facts: &RequestFacts<'_>,
    ) -> Option<(Protocol, u32)> {
        let places = self.granting(&to.host, to.port, caller).filter(|place| place.concerns(facts.path));
        let mut found: Option<(Protocol, u32)> = None;
        for place in places.filter(|_| !facts.websocket) {
            let Some(protocol) = place.protocol().filter(|protocol| protocol.reads_bodies()) else {
                continue;
            };
            let max = place.bodies.max_bytes;
            found = match found {
                None => Some((protocol, max)),
                Some((other, least)) if other == protocol => Some((other, least.min(max))),
                Some(_) => return None,
            };
        }
        found
    }

    /// Where, other than in its head, a request's placeholders of credentials are replaced: wherever an
    /// endpoint says so that grants the connection and serves the path.
    #[must_use]
    pub fn rewrites(&self, to: &Destination, caller: &Caller, path: &CanonicalPath) -> Rewrites {
        let serving = self.granting(&to.host, to.port, caller).filter(|place| place.serves(path));
        serving.fold(Rewrites::default(), |all, place| Rewrites {
            bodies: all.bodies || place.rewrites.bodies,
            messages: all.messages || place.rewrites.messages,
        })
    }

    /// What the rules need to know of a WebSocket's messages.
    #[must_use]
    pub fn asks_of_messages(&self, to: &Destination, caller: &Caller, path: &CanonicalPath) -> Asks {
        let mut asks = Asks::default();
        for place in self.granting(&to.host, to.port, caller).filter(|place| place.concerns(path)) {
            for clause in place.allow.iter().chain(&place.deny) {
                match &clause.test {
                    Test::Rule(Rule::Http(rule)) => asks.json |= !rule.json.is_empty(),
                    Test::Said(_) => asks.graphql = true,
                    _ => {}
                }
            }
        }
        asks
    }

    /// Whether a request on a granted connection may be sent.
    ///
    /// Every endpoint that grants the connection and serves the path has a say: a deny rule of any of them
    /// refuses the request, else an allow rule of any of them allows it, else it is refused. An endpoint that
    /// doesn't allow encoded slashes still refuses: its deny rules are matched against the path as servers
    /// see it that read `%2F` as a slash. Where an endpoint judges bodies, only endpoints that read the body
    /// as the same protocol may allow the request. Every member of a batch is judged, and one refused member
    /// refuses the whole batch. With `enforcement: audit` the request is let through, and
    /// [`Allowed::audit_only`] says what it would have been refused for. Where no endpoint inspects,
    /// everything is let through.
    ///
    /// # Errors
    /// A [`Denial`] that names the rule that refused it, or the nearest one and what differs.
    pub fn request(
        &self,
        to: &Destination,
        caller: &Caller,
        facts: &RequestFacts<'_>,
    ) -> Result<Allowed, Denial> {
        self.judged(to, caller, facts, &Answers::for_parts(facts.content))
    }

    /// The same, with what was `said` of its path and query before.
    pub(crate) fn judged(
        &self,
        to: &Destination,
        caller: &Caller,
        facts: &RequestFacts<'_>,
        said: &Answers,
    ) -> Result<Allowed, Denial> {
        let one = |part: Part<'_>| self.part(to, caller, facts, part, said);
        match facts.content {
            Content::Unread => one(Part::Head),
            Content::Rpc(messages) => all(messages.iter().map(Part::Rpc), one),
            Content::Graphql(operations) => all(operations.iter().map(Part::Graphql), one),
            Content::Text(text) => one(Part::Text(text)),
            Content::Binary => one(Part::Binary),
            Content::Unreadable(why) => one(Part::Unreadable(why)),
        }
    }

    /// The endpoint and rule nearest to allowing the first part that is refused, or would be but for
    /// `enforcement: audit`.
    pub(crate) fn nearest_part<'p>(
        &'p self,
        to: &'p Destination,
        caller: &'p Caller,
        facts: &RequestFacts<'_>,
    ) -> Option<Near<'p>> {
        self.nearest_request(to, caller, facts, self.refused_part(to, caller, facts)?)
    }

    /// The deny rule that refuses the first part that is refused, or would be but for `enforcement: audit`.
    /// `None` where the part is refused because no rule allows it.
    pub(crate) fn refusing<'p>(
        &'p self,
        to: &'p Destination,
        caller: &'p Caller,
        facts: &RequestFacts<'_>,
    ) -> Option<&'p Clause> {
        let part = self.refused_part(to, caller, facts)?;
        let votes = self.votes(to, caller, facts, part, &Answers::unkept());
        votes.refused.or(votes.would_refuse).map(|(_, clause)| clause)
    }

    /// Where in the file the rule, or endpoint, stands that let a request through.
    pub(crate) fn origin_of<'p>(
        &'p self,
        to: &'p Destination,
        caller: &'p Caller,
        rule: &Arc<str>,
    ) -> Option<&'p Origin> {
        // Compares pointers, not texts: two rules may have the same text.
        self.granting(&to.host, to.port, caller).find_map(|place| {
            let clause = || place.allow.iter().find(|clause| Arc::ptr_eq(&clause.text, rule));
            match Arc::ptr_eq(&place.rule, rule) {
                true => Some(&place.origin),
                false => clause().map(|clause| &clause.origin),
            }
        })
    }

    /// The first part that is refused; if none is, the first that would be but for `enforcement: audit`.
    fn refused_part<'f>(
        &self,
        to: &Destination,
        caller: &Caller,
        facts: &RequestFacts<'f>,
    ) -> Option<Part<'f>> {
        let said = Answers::for_parts(facts.content);
        let judged = |part: &Part<'_>| self.part(to, caller, facts, *part, &said);
        let refused = |part: &Part<'_>| judged(part).is_err();
        let recorded = |part: &Part<'_>| judged(part).is_ok_and(|allowed| allowed.audit_only.is_some());
        match facts.content {
            Content::Rpc(messages) => {
                let parts = || messages.iter().map(Part::Rpc);
                parts().find(refused).or_else(|| parts().find(recorded))
            }
            Content::Graphql(operations) => {
                let parts = || operations.iter().map(Part::Graphql);
                parts().find(refused).or_else(|| parts().find(recorded))
            }
            Content::Unread => Some(Part::Head),
            Content::Text(text) => Some(Part::Text(text)),
            Content::Binary => Some(Part::Binary),
            Content::Unreadable(why) => Some(Part::Unreadable(why)),
        }
    }

    fn part(
        &self,
        to: &Destination,
        caller: &Caller,
        facts: &RequestFacts<'_>,
        part: Part<'_>,
        said: &Answers,
    ) -> Result<Allowed, Denial> {
        self.count(&self.votes(to, caller, facts, part, said), to, caller, facts, part)
    }

    fn votes<'p>(
        &'p self,
        to: &'p Destination,
        caller: &'p Caller,
        facts: &RequestFacts<'_>,
        part: Part<'_>,
        said: &Answers,
    ) -> Votes<'p> {
        let mut votes = Votes::default();
        for place in self.granting(&to.host, to.port, caller) {
            votes.granted.get_or_insert(place);
            if let Some(protocol) = place.protocol() {
                votes.inspected = true;
                if place.path.as_ref().is_none_or(|own| said.may_match(own, facts)) {
                    votes.hear(place, protocol, (facts, part), said);
                }
            }
        }
        votes
    }

    fn count(
        &self,
        votes: &Votes<'_>,
        to: &Destination,
        caller: &Caller,
        facts: &RequestFacts<'_>,
        part: Part<'_>,
    ) -> Result<Allowed, Denial> {
        let Some(granted) = votes.granted else { return Err(self.connection_denial(to, caller)) };
        if !votes.inspected {
            return Ok(allowed(granted, granted.rule.clone(), None));
        }
        if let Some((place, clause)) = votes.refused {
            return Err(Self::rule_denial(place, clause, to, facts, part));
        }
        let recorded =
            votes.would_refuse.map(|(place, clause)| Self::rule_denial(place, clause, to, facts, part));
        // Where an endpoint judges bodies, the endpoints that don't read them can't allow the request.
        let slot = if votes.bodies.is_some() { &votes.body } else { &votes.plain };
        if let Some((place, clause)) = slot.let_through.filter(|_| !votes.disagree) {
            return Ok(allowed(place, clause.text.clone(), recorded));
        }
        let denial = recorded.unwrap_or_else(|| self.request_denial(to, caller, facts, part));
        match slot.silent {
            Some(place) if !slot.enforced && !votes.disagree => {
                Ok(allowed(place, place.rule.clone(), Some(denial)))
            }
            _ => Err(denial),
        }
    }
}

/// Judges every member of a batch; all must be allowed. The result is that of the first member which is
/// allowed only because of `enforcement: audit`, if there is one.
fn all<'a>(
    parts: impl Iterator<Item = Part<'a>>,
    judge: impl Fn(Part<'_>) -> Result<Allowed, Denial>,
) -> Result<Allowed, Denial> {
    let mut first: Option<Allowed> = None;
    for part in parts {
        let allowed = judge(part)?;
        match &mut first {
            Some(first) if first.audit_only.is_none() && allowed.audit_only.is_some() => *first = allowed,
            Some(_) => {}
            None => first = Some(allowed),
        }
    }
    match first {
        Some(allowed) => Ok(allowed),
        None => judge(Part::Unreadable(&Unreadable::Batch)),
    }
}

fn allowed(place: &Place, rule: Arc<str>, audit_only: Option<Denial>) -> Allowed {
    Allowed { policy: place.policy.clone(), rule, audit_only: audit_only.map(Box::new) }
}

/// What the endpoints of one connection say about one request.
#[derive(Default)]
struct Votes<'p> {
    /// The first endpoint that grants the connection.
    granted: Option<&'p Place>,
    /// Whether some endpoint reads requests; endpoints that relay then have no say.
    inspected: bool,
    /// The protocol that an endpoint reads bodies as, if any does.
    bodies: Option<Protocol>,
    /// Whether two endpoints read bodies as different protocols.
    disagree: bool,
    /// The first matching deny rule that is enforced.
    refused: Option<(&'p Place, &'p Clause)>,
    /// The first matching deny rule that is only recorded (`enforcement: audit`).
    would_refuse: Option<(&'p Place, &'p Clause)>,
    /// The votes of endpoints that read heads, or messages on a WebSocket.
    plain: Slot<'p>,
    /// The votes of endpoints that read bodies.
    body: Slot<'p>,
}

/// The votes of endpoints of one kind.
#[derive(Default)]
struct Slot<'p> {
    /// The first matching allow rule.
    let_through: Option<(&'p Place, &'p Clause)>,
    /// The first endpoint for this kind of request that doesn't allow it.
    silent: Option<&'p Place>,
    /// Whether an endpoint that doesn't allow the request enforces, rather than only records.
    enforced: bool,
}

impl<'p> Votes<'p> {
    fn hear(
        &mut self,
        place: &'p Place,
        protocol: Protocol,
        (facts, part): (&RequestFacts<'_>, Part<'_>),
        said: &Answers,
    ) {
        if let Some(clause) = place.deny.iter().find(|c| c.denies(facts, part, &place.bodies, said)) {
            let slot = if place.audit { &mut self.would_refuse } else { &mut self.refused };
            slot.get_or_insert((place, clause));
        }
        // A handshake is judged by `websocket` endpoints, every other request by the others; deny rules by
        // all.
        if (protocol == Protocol::Websocket) != facts.websocket {
            return;
        }
        if protocol.reads_bodies() {
            self.disagree |= self.bodies.is_some_and(|other| other != protocol);
            self.bodies = Some(protocol);
        }
        let own_path = place.path.as_ref().is_none_or(|own| said.matches(own, facts));
        if !own_path || !place.takes_slashes_of(facts.path) {
            return;
        }
        let slot = if protocol.reads_bodies() { &mut self.body } else { &mut self.plain };
        let allows =
            |clause: &&Clause| reads(protocol, part) && clause.allows(facts, part, &place.bodies, said);
        match place.allow.iter().find(allows) {
            Some(clause) => {
                slot.let_through.get_or_insert((place, clause));
            }
            None => {
                slot.silent.get_or_insert(place);
                slot.enforced |= !place.audit;
            }
        }
    }
}

/// Whether an endpoint's protocol has this kind of part.
fn reads(protocol: Protocol, part: Part<'_>) -> bool {
    match part {
        Part::Head => matches!(protocol, Protocol::Rest | Protocol::Websocket | Protocol::Mcp),
        Part::Rpc(crate::content::Message::Answer) => protocol == Protocol::Mcp,
        Part::Rpc(_) => matches!(protocol, Protocol::Mcp | Protocol::JsonRpc),
        Part::Graphql(_) => protocol == Protocol::Graphql,
        Part::Text(_) | Part::Binary => protocol == Protocol::Websocket,
        Part::Unreadable(_) => false,
    }
}
