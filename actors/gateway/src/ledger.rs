//! What the gateway has to tell, and to whom: one trait, so that the mechanism knows no telemetry.

use std::time::Duration;

use policy::Caller;

use crate::{refusal::Refusal, usage::Tokens};

/// Label values of one exchange. The provider's name and the route's alias come from the operator's file; nothing
/// that the agent wrote is among them.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// The id of the request.
    pub request_id: &'a str,
    /// Who asked.
    pub caller: &'a Caller,
    /// Method.
    pub method: &'a str,
    /// Path.
    pub path: &'a str,
    /// The provider's name, once one is chosen.
    pub provider: Option<&'a str>,
    /// The route's alias, once one is found.
    pub route: Option<&'a str>,
}

/// The end of an exchange that reached a provider.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'a> {
    /// The id of the request.
    pub request_id: &'a str,
    /// The provider's name.
    pub provider: &'a str,
    /// The route's alias.
    pub route: &'a str,
    /// The provider's status.
    pub code: u16,
    /// As reported by the provider.
    pub tokens: Tokens,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// From the request's arrival to the answer's end.
    pub took: Duration,
    /// Whether the answer came through to its end.
    pub complete: bool,
}

/// The record can't be kept, so the request must not go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit log can't take a record")]
pub struct Unrecorded;

/// Keeps the record. Never blocks.
pub trait Ledger: Send + Sync + 'static {
    /// A request is about to be sent to a provider.
    ///
    /// # Errors
    /// When it can't be recorded; then it isn't sent.
    fn admit(&self, exchange: &Exchange<'_>) -> Result<(), Unrecorded>;
    /// A request was refused here.
    fn refused(&self, exchange: &Exchange<'_>, refusal: &Refusal);
    /// The head of a provider's answer came.
    fn first_byte(&self, exchange: &Exchange<'_>, after: Duration);
    /// An exchange with a provider ended.
    fn finished(&self, outcome: &Outcome<'_>);
}
