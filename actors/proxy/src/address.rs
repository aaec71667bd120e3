//! Step six and seven of the road: from what was granted to a judged address, and a connection to it.
//!
//! The guard resolves and judges ([`crate::guard`]); here its errors become answers. Nothing else in the crate turns
//! a destination into an address.

use policy::Destination;
use tokio::time::Instant;

use crate::answer::Refusal;
use crate::guard::{self, Connected, DialError, JudgedAddr, ResolveError, Resolver};
use crate::limits::{ADDRESSES_FRESH, DIAL_DEADLINE};
use crate::verdict::Granted;

/// Addresses that were judged a moment ago, with the moment.
#[derive(Debug, Clone)]
pub struct Judged {
    addresses: Vec<JudgedAddr>,
    at: Instant,
}

impl Judged {
    /// Resolves the granted destination once and judges every answer.
    ///
    /// # Errors
    /// The guard's denial; or that the name has no address, or nobody knows in time.
    pub async fn of(resolver: &Resolver, granted: &Granted) -> Result<Self, Refusal> {
        let Destination { host, port } = &granted.destination;
        let Some(grant) = &granted.grant else {
            return Err(Refusal::Unavailable("the gateway is not dialled".to_owned()));
        };
        match resolver.resolve(host, *port, &grant.addresses).await {
            Ok(addresses) => Ok(Self { addresses, at: Instant::now() }),
            Err(ResolveError::Denied(mut denial)) => {
                denial.policy.get_or_insert_with(|| grant.policy.clone());
                Err(Refusal::Denied(*denial))
            }
            Err(error @ ResolveError::Unresolved { .. }) => Err(Refusal::Unreachable(error.to_string())),
            Err(error @ ResolveError::TimedOut { .. }) => Err(Refusal::Timeout(error.to_string())),
        }
    }

    /// Whether they may still be dialled without asking again.
    pub fn is_fresh(&self) -> bool {
        self.at.elapsed() < ADDRESSES_FRESH
    }

    /// Connects to the first that answers.
    ///
    /// # Errors
    /// That none did.
    pub async fn dial(&self) -> Result<Connected, Refusal> {
        guard::dial(&self.addresses, DIAL_DEADLINE).await.map_err(|error| match error {
            DialError::TimedOut => Refusal::Timeout(error.to_string()),
            DialError::Unreachable { .. } | DialError::NoAddress => Refusal::Unreachable(error.to_string()),
        })
    }
}
