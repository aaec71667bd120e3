//! Asks how a cage came out, for a process that has no runtime and won't be the cage's supervisor.

use std::os::fd::OwnedFd;

use super::INIT_PATIENCE;
use crate::protocol::{Answer, FromInit, Refusal, Request, RequestId, ToInit};
use crate::wire::{Wire, WireError};

/// Why a cage can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Unproven {
    /// It could not be built, or the proof failed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its init says nothing.
    #[error("the new cage's init does not answer: {0}")]
    Silent(#[from] WireError),
    /// Init said something else (a fault in cofferdam).
    #[error("the new cage's init gave the wrong kind of answer")]
    Unexpected,
}

/// Waits until the cage behind this channel, a supervisor's end, is built and proven, and returns the
/// channel. Its next owner may ask again.
///
/// # Errors
/// See [`Unproven`].
pub fn proven(channel: OwnedFd) -> Result<OwnedFd, Unproven> {
    let wire = Wire::new(channel)?;
    wire.send(&ToInit { id: RequestId(0), request: Request::Report }, &[], Some(INIT_PATIENCE))?;
    match wire.recv::<FromInit>(Some(INIT_PATIENCE))?.body {
        FromInit::Reply { to: RequestId(0), result } => match result? {
            Answer::Report(_) => Ok(wire.into()),
            _ => Err(Unproven::Unexpected),
        },
        // No event can come: nothing runs in the cage that could end.
        _ => Err(Unproven::Unexpected),
    }
}
