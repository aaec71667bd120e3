//! A step of the road: the policy's decision, from one generation.
//!
//! [`Granted`] (this caller may reach this destination) and [`Permitted`] (and send this request) are made
//! here and nowhere else. Both keep what the decision was made from, so that it can be made again when the
//! policy changes.

use std::sync::Arc;

use policy::{Allowed, Caller, Denial, Destination, Generation, Grant, Layer, Treatment};

use crate::answer::Refusal;
use crate::caller::JudgedCaller;
use crate::intent::{Exchange, Intent, is_inference};

/// The ports that `inference.local` serves.
const INFERENCE_PORTS: [u16; 2] = [80, 443];

/// The port of HTTP in TLS (RFC 9110 section 4.2.2): plain HTTP is refused there.
pub(crate) const TLS_PORT: u16 = 443;

/// A destination that this caller may reach.
#[derive(Debug, Clone)]
pub struct Granted {
    destination: Destination,
    caller: Arc<Caller>,
    grant: Option<Grant>,
    generation: u64,
    unlisted: Option<Unlisted>,
}

/// Why something goes on although no entry names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlisted {
    /// A tunnel in which the operator is asked about each request. Nothing is resolved or dialled for it.
    Tunnel,
    /// One request, which the operator approved.
    Once,
}

/// A request that may be sent.
#[derive(Debug, Clone)]
pub struct Permitted {
    granted: Granted,
    exchange: Exchange,
    allowed: Option<Allowed>,
}

impl Granted {
    /// Asks the policy whether `caller` may reach the intent's destination.
    ///
    /// # Errors
    /// The policy's denial.
    pub fn judge(generation: &Generation, intent: &Intent, caller: &JudgedCaller) -> Result<Self, Denial> {
        let destination = intent.destination().clone();
        let grant = match is_inference(&destination) {
            true => inference(&destination)?,
            false => Some(generation.compiled.connect(&destination, caller)?),
        };
        let (caller, generation) = (caller.shared(), generation.number);
        Ok(Self { destination, caller, grant, generation, unlisted: None })
    }

    /// Grants what no entry names; called by [`crate::approval`] alone.
    pub(crate) fn asked_for(
        destination: Destination,
        caller: &JudgedCaller,
        grant: Grant,
        generation: u64,
        unlisted: Unlisted,
    ) -> Self {
        let (caller, grant) = (caller.shared(), Some(grant));
        Self { destination, caller, grant, generation, unlisted: Some(unlisted) }
    }

    /// Grants the gateway on its own listener: no policy entry is needed to speak to it.
    pub(crate) fn to_inference(destination: Destination, caller: &JudgedCaller, generation: u64) -> Self {
        Self { destination, caller: caller.shared(), grant: None, generation, unlisted: None }
    }

    /// The destination.
    #[must_use]
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The caller.
    #[must_use]
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// The entry that grants it, and how its bytes are treated; `None` for the gateway, which is no network
    /// destination.
    #[must_use]
    pub fn grant(&self) -> Option<&Grant> {
        self.grant.as_ref()
    }

    /// Number of the generation that decided.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Why it goes on, if no entry names it.
    #[must_use]
    pub fn unlisted(&self) -> Option<Unlisted> {
        self.unlisted
    }

    /// The policy entry, by its name.
    pub(crate) fn entry(&self) -> Option<&Arc<str>> {
        self.grant.as_ref().map(|grant| &grant.policy)
    }

    /// The policy entry's name, for records.
    pub fn policy(&self) -> Option<&str> {
        self.entry().map(|entry| &**entry)
    }
}

fn inference(destination: &Destination) -> Result<Option<Grant>, Denial> {
    match INFERENCE_PORTS.contains(&destination.port) {
        true => Ok(None),
        false => Err(Denial {
            layer: Layer::L4,
            detail: format!("nothing listens at {destination}"),
            policy: None,
            hint: Some("the gateway is at https://inference.local".to_owned()),
        }),
    }
}

impl Permitted {
    /// Asks the policy whether the request may be sent to what was granted.
    ///
    /// # Errors
    /// The policy's denial, or a bad request where the entry doesn't take the path's form.
    pub fn judge(generation: &Generation, granted: Granted, exchange: Exchange) -> Result<Self, Refusal> {
        let Some(grant) = &granted.grant else {
            return Ok(Self { granted, exchange, allowed: None });
        };
        if exchange.path.has_encoded_slash() && !grant.path_options.allow_encoded_slash {
            return Err(Refusal::BadRequest(
                "the path has an encoded slash (%2F), which this endpoint doesn't allow".to_owned(),
            ));
        }
        // In whatever form the request came: a client that mistakes the scheme would send in the clear what
        // nobody is meant to see.
        if granted.destination.port == TLS_PORT && !exchange.tls {
            return Err(Refusal::BadRequest("plain HTTP to port 443: use https".to_owned()));
        }
        match granted.unlisted {
            None => {}
            Some(Unlisted::Once) => return Ok(Self { granted, exchange, allowed: None }),
            Some(Unlisted::Tunnel) => {
                return Err(Refusal::Unavailable("a request came by a tunnel's word".to_owned()));
            }
        }
        let to = (&granted.destination, grant.treatment);
        let allowed = exchange.judge(&generation.compiled, to, &granted.caller)?;
        let inspected = matches!(grant.treatment, Treatment::Inspect { .. });
        let allowed = inspected.then_some(allowed);
        Ok(Self { granted, exchange, allowed })
    }

    /// A message on a WebSocket, which [`crate::protocol::websocket`] judged.
    pub(crate) fn message(granted: Granted, exchange: Exchange, allowed: Allowed) -> Self {
        Self { granted, exchange, allowed: Some(allowed) }
    }

    /// The destination's half of the decision.
    #[must_use]
    pub fn granted(&self) -> &Granted {
        &self.granted
    }

    /// The request in its canonical form, which is what is sent.
    #[must_use]
    pub fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// The rule, where requests are judged.
    #[must_use]
    pub fn allowed(&self) -> Option<&Allowed> {
        self.allowed.as_ref()
    }

    /// Refuses it after all, naming the entry that let it through.
    pub(crate) fn but(&self, denial: Denial) -> Refusal {
        Refusal::Denied(Denial { policy: self.entry().cloned(), ..denial })
    }

    /// The policy entry, by its name.
    pub(crate) fn entry(&self) -> Option<&Arc<str>> {
        self.allowed.as_ref().map(|allowed| &allowed.policy).or_else(|| self.granted.entry())
    }

    /// The policy entry's name, for records.
    pub fn policy(&self) -> Option<&str> {
        self.entry().map(|entry| &**entry)
    }
}
