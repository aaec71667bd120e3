//! The trait to which the gateway reports what happens, so that its other code needs to know nothing of
//! telemetry.

use std::{sync::Arc, time::Duration};

use http::Method;
use policy::Caller;
use smol_str::SmolStr;

use crate::{budgets::Standing, refusal::Refusal, usage::Tokens};

/// One request, as far as it got. The provider's name and the route's alias come from the operator's file and
/// may be metrics labels; what the agent wrote (`path`, `asked`) must never be.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The id of the request.
    pub request_id: Arc<str>,
    /// The calling program.
    pub caller: Caller,
    /// Method.
    pub method: Method,
    /// Path, without its query.
    pub path: SmolStr,
    /// The model that was asked for, once the body is read.
    pub asked: Option<SmolStr>,
    /// Whether a stream was asked for.
    pub streamed: bool,
    /// The route's alias, once one is found.
    pub route: Option<SmolStr>,
    /// The provider's name, once one is chosen.
    pub provider: Option<SmolStr>,
    /// The model's name at the provider.
    pub upstream_model: Option<SmolStr>,
}

/// The end of an attempt that a provider answered.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// The provider's status.
    pub code: u16,
    /// The usage, as reported by the provider.
    pub tokens: Tokens,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// The time from the request's arrival to the answer's end.
    pub took: Duration,
    /// Whether the answer came through to its end.
    pub complete: bool,
    /// Whether another target was asked, since this provider answered that it didn't serve.
    pub passed_over: bool,
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
    fn admit(&self, exchange: &Exchange) -> Result<(), Unrecorded>;
    /// A request was refused here, or an attempt got no answer.
    fn refused(&self, exchange: &Exchange, refusal: &Refusal);
    /// The head of a provider's answer came.
    fn first_byte(&self, exchange: &Exchange, after: Duration);
    /// The caller has guessed at keys so often that its answers are delayed from now on.
    fn guessed(&self, exchange: &Exchange);
    /// How the budgets stand, after each change.
    fn budgets(&self, standing: &[Standing]);
    /// An attempt that a provider answered ended.
    fn finished(&self, exchange: &Exchange, outcome: &Outcome);
}
