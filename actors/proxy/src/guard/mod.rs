//! The SSRF guard: from a destination the policy allowed to addresses that may be dialled, and to a
//! connection.
//!
//! ```text
//! policy::Destination ── Resolver ──> every address judged ──> [JudgedAddr] ── dial ──> Connected
//!        name, once        (Lookup)       ranges × rule × own addresses         peer compared
//! ```
//! A [`JudgedAddr`] can be made by this module alone, and [`dial()`] takes nothing else: nothing is dialled
//! that was not judged. One forbidden answer among several refuses the whole name, so that a resolver an
//! attacker feeds can't mix good addresses with bad ones. The module never reads policy files and never looks
//! at requests.

mod addresses;
mod dial;
mod judge;
mod ranges;
mod resolve;
mod system;
mod unnamed;

pub use addresses::{OWN_ADDRESSES_MAX_AGE, OwnAddresses};
pub use dial::{Connected, DialError, MAX_ATTEMPTS, Reached, STAGGER, dial};
pub(crate) use judge::NEVER_OPENED;
pub use judge::{JudgedAddr, Refusal, judge};
pub use ranges::{Class, Reason, classify};
pub(crate) use resolve::permitted_name;
pub use resolve::{
    HOST_NAME, INFERENCE_NAME, Lookup, LookupError, MAX_ANSWERS, RESOLVE_DEADLINE, ResolveError, Resolver,
};
pub use system::SystemLookup;
