//! The two decisions: may this program connect there, may this request be sent.

use super::place::Clause;
use super::{Compiled, Place};
use crate::{Allowed, Caller, Denial, Destination, Grant, PathOptions, Protocol, RequestFacts};

impl Compiled {
    /// Whether `caller` may connect to `to`, and how the connection is then treated.
    ///
    /// Of several endpoints that let it, an inspected one decides over one that relays, and among these the one that names
    /// the host most exactly, then the first in the file.
    ///
    /// # Errors
    /// A [`Denial`] that names the nearest entry and what differs.
    pub fn connect(&self, to: &Destination, caller: &Caller) -> Result<Grant, Denial> {
        let mut chosen: Option<&Place> = None;
        let mut allow_encoded_slash = false;
        for place in self.granting(&to.host, to.port, caller) {
            allow_encoded_slash |= place.path_options.allow_encoded_slash;
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
            path_options: PathOptions { allow_encoded_slash },
        })
    }

    /// Whether a request on a granted connection may be sent.
    ///
    /// Every endpoint that grants the connection and serves the path has its say: a deny rule of any of them refuses, an
    /// allow rule of any of them lets through, else it is refused. With `enforcement: audit` it is let through and
    /// [`Allowed::audit_only`] says what it would have been refused for. Where no endpoint inspects, everything is let through.
    ///
    /// # Errors
    /// A [`Denial`] that names the rule that refused it, or the nearest one and what differs.
    pub fn request(
        &self,
        to: &Destination,
        caller: &Caller,
        facts: &RequestFacts<'_>,
    ) -> Result<Allowed, Denial> {
        let mut votes = Votes::default();
        for place in self.granting(&to.host, to.port, caller) {
            votes.granted.get_or_insert(place);
            if let Some(protocol) = place.protocol() {
                votes.inspected = true;
                if place.serves(facts.path) {
                    votes.hear(place, protocol, facts);
                }
            }
        }
        self.count(&votes, to, caller, facts)
    }

    fn count(
        &self,
        votes: &Votes<'_>,
        to: &Destination,
        caller: &Caller,
        facts: &RequestFacts<'_>,
    ) -> Result<Allowed, Denial> {
        let Some(granted) = votes.granted else { return Err(self.connection_denial(to, caller)) };
        if !votes.inspected {
            return Ok(allowed(granted, granted.rule.clone(), None));
        }
        if let Some((place, clause)) = votes.refused {
            return Err(Self::rule_denial(place, clause, to, facts));
        }
        let recorded = votes.would_refuse.map(|(place, clause)| Self::rule_denial(place, clause, to, facts));
        if let Some((place, clause)) = votes.let_through {
            return Ok(allowed(place, clause.text.clone(), recorded));
        }
        let denial = recorded.unwrap_or_else(|| self.request_denial(to, caller, facts));
        match votes.silent {
            Some(place) if votes.all_audit => Ok(allowed(place, place.rule.clone(), Some(denial))),
            _ => Err(denial),
        }
    }
}

fn allowed(place: &Place, rule: std::sync::Arc<str>, audit_only: Option<Denial>) -> Allowed {
    Allowed { policy: place.policy.clone(), rule, audit_only: audit_only.map(Box::new) }
}

/// What the endpoints of one connection say about one request.
struct Votes<'p> {
    /// The first that grants the connection.
    granted: Option<&'p Place>,
    /// Some endpoint reads requests: then those that relay have no say.
    inspected: bool,
    /// A deny rule that is enforced.
    refused: Option<(&'p Place, &'p Clause)>,
    /// A deny rule that is only recorded.
    would_refuse: Option<(&'p Place, &'p Clause)>,
    /// An allow rule.
    let_through: Option<(&'p Place, &'p Clause)>,
    /// An endpoint for this kind of request that doesn't allow it.
    silent: Option<&'p Place>,
    /// Every endpoint that doesn't allow it only records.
    all_audit: bool,
}

impl Default for Votes<'_> {
    fn default() -> Self {
        Self {
            granted: None,
            inspected: false,
            refused: None,
            would_refuse: None,
            let_through: None,
            silent: None,
            all_audit: true,
        }
    }
}

impl<'p> Votes<'p> {
    fn hear(&mut self, place: &'p Place, protocol: Protocol, facts: &RequestFacts<'_>) {
        let RequestFacts { method, path, query, .. } = *facts;
        if let Some(clause) = place.deny.iter().find(|c| c.denies(method, path, query)) {
            let slot = if place.audit { &mut self.would_refuse } else { &mut self.refused };
            slot.get_or_insert((place, clause));
        }
        // A handshake is judged by `websocket` endpoints, every other request by `rest` ones; deny rules by both.
        if (protocol == Protocol::Websocket) != facts.websocket {
            return;
        }
        match place.allow.iter().find(|c| c.allows(method, path, query)) {
            Some(clause) => {
                self.let_through.get_or_insert((place, clause));
            }
            None => {
                self.silent.get_or_insert(place);
                self.all_audit &= place.audit;
            }
        }
    }
}
