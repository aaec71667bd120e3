//! Steps six and seven of the road: resolves a granted destination to judged addresses, and connects to one.
//!
//! The guard resolves and judges ([`crate::guard`]), and [`crate::route`] says whether an upstream proxy lies
//! on the way; here their errors become answers. Nothing else in the crate turns a destination into an
//! address.

use policy::{AddressRule, Denial, Destination, Grant, Host, Layer, Party};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::answer::Refusal;
use crate::conn::Deps;
use crate::guard::{self, Connected, DialError, JudgedAddr, Reached, ResolveError};
use crate::limits::{ADDRESSES_FRESH, DIAL_DEADLINE, UNNAMED_LOOKUPS_PER_MINUTE};
use crate::route::{self, Route};
use crate::tracker::{Tracker, UpstreamSlot};
use crate::verdict::Granted;

/// The route to a granted destination and its judged addresses, with the time of the judgement.
#[derive(Debug, Clone)]
pub struct JudgedAddresses {
    destination: Destination,
    route: Route,
    /// Empty only where an upstream proxy resolves the name.
    addresses: Vec<JudgedAddr>,
    /// The rule that the addresses were judged by.
    rule: AddressRule,
    at: Instant,
}

/// A connection to an upstream. It counts against the sandbox's limit for as long as `way` lives.
#[derive(Debug)]
pub struct Dialled {
    /// See [`Connected::stream`].
    pub stream: TcpStream,
    /// What was judged of the other end: see [`Reached`].
    pub reached: Reached,
    /// The connection's place among those to upstreams.
    pub way: UpstreamSlot,
}

impl JudgedAddresses {
    /// Resolves the granted destination once and judges every answer.
    ///
    /// # Errors
    /// The guard's denial; that the name has no address or was not resolved in time; or that too many names
    /// were looked up in this minute that no endpoint names.
    pub async fn of(deps: &Deps, granted: &Granted) -> Result<Self, Refusal> {
        let destination = granted.destination().clone();
        let Some(grant) = granted.grant() else {
            return Err(Refusal::Unavailable("the gateway is not dialled".to_owned()));
        };
        let route = deps.routes.to(&destination.host);
        if let (false, Host::Name(name)) = (route.resolves_here(), &destination.host) {
            guard::permitted_name(name).map_err(|error| refused(error, grant))?;
            route::judge_unresolved(name, &grant.addresses)
                .map_err(|denial| refused(ResolveError::Denied(Box::new(denial)), grant))?;
            let rule = grant.addresses.clone();
            return Ok(Self { destination, route, addresses: Vec::new(), rule, at: Instant::now() });
        }
        may_be_looked_up(deps, granted, grant)?;
        let resolved = deps.resolver.resolve(&destination.host, destination.port, &grant.addresses).await;
        let addresses = resolved.map_err(|error| refused(error, grant))?;
        let route = route.given(addresses.iter().map(|judged| judged.addr().ip()));
        Ok(Self { destination, route, addresses, rule: grant.addresses.clone(), at: Instant::now() })
    }

    /// Whether the addresses may still be dialled without resolving again: they are fresh, and were judged by
    /// this same `rule`.
    pub fn are_good_under(&self, rule: &AddressRule) -> bool {
        self.rule == *rule && self.at.elapsed() < ADDRESSES_FRESH
    }

    /// Connects to the first address that answers, or through the upstream proxy on the route. The connection
    /// counts against the share of `party`.
    ///
    /// # Errors
    /// No address answered, the upstream proxy opened no tunnel, or too many connections are open.
    pub async fn dial(&self, tracker: &Tracker, party: Party) -> Result<Dialled, Refusal> {
        let way = tracker.way(party)?;
        let Connected { stream, reached } = match &self.route {
            Route::Straight => {
                guard::dial(&self.addresses, DIAL_DEADLINE).await.map_err(|error| match error {
                    DialError::TimedOut => Refusal::Timeout(error.to_string()),
                    DialError::Unreachable { .. } | DialError::NoAddress => {
                        Refusal::Unreachable(error.to_string())
                    }
                })?
            }
            Route::Through(proxy) => route::through(proxy, &self.destination, &self.addresses).await?,
        };
        Ok(Dialled { stream, reached, way })
    }
}

/// Refuses a lookup if too many names that no endpoint names were looked up in this minute. A lookup reveals
/// the name to the servers of its domain, so the number of names that a caller can make up is bounded.
fn may_be_looked_up(deps: &Deps, granted: &Granted, grant: &Grant) -> Result<(), Refusal> {
    match &granted.destination().host {
        Host::Name(name) if grant.unnamed => {
            if deps.resolver.may_look_up_unnamed(granted.caller().party, name) {
                return Ok(());
            }
            Err(Refusal::Denied(Denial {
                layer: Layer::L4,
                detail: format!(
                    "`{name}` is not looked up: only an endpoint without `host` lets it pass, and {UNNAMED_LOOKUPS_PER_MINUTE} such names have \
                     been looked up this minute"
                ),
                policy: Some(grant.policy.clone()),
                hint: Some("name the host in an endpoint, or wait a minute".to_owned()),
            }))
        }
        _ => Ok(()),
    }
}

fn refused(error: ResolveError, grant: &Grant) -> Refusal {
    match error {
        ResolveError::Denied(mut denial) => {
            denial.policy.get_or_insert_with(|| grant.policy.clone());
            Refusal::Denied(*denial)
        }
        ResolveError::Unresolved { .. } => Refusal::Unreachable(error.to_string()),
        ResolveError::TimedOut { .. } => Refusal::Timeout(error.to_string()),
    }
}
