//! Readiness: a token that a child consumes once it can do its work.

use tokio::sync::oneshot;

use crate::Failure;

/// The token by which a child reports that it is ready. Consumed by [`Ready::ready`]; dropping it fails the
/// start.
///
/// A child that is made with a token counts as starting until the token is consumed: its address stays
/// empty, the next child is not started, and its start deadline runs.
#[derive(Debug)]
#[must_use = "dropping the token fails the start"]
pub struct Ready(oneshot::Sender<Result<(), Failure>>);

impl Ready {
    pub(crate) fn new() -> (Self, oneshot::Receiver<Result<(), Failure>>) {
        let (tx, rx) = oneshot::channel();
        (Self(tx), rx)
    }

    /// Reports that the child is ready.
    pub fn ready(self) {
        // Fails if the start was given up meanwhile: the child is being stopped.
        let _ = self.0.send(Ok(()));
    }

    /// Reports that the child will not become ready, and why.
    pub fn refuse(self, why: impl std::fmt::Display) {
        let _ = self.0.send(Err(Failure::start(why)));
    }
}
