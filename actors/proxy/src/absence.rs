//! Finds out that a client is gone while its request waits for an answer, or after it has half-closed its end
//! of a tunnel.
//!
//! A client that has closed its socket looks from here like one that has only half-closed it: both have sent
//! a FIN, and no more shows until something is written. (hyper's HTTP/1 doesn't even read that while it
//! answers.) The kernel knows the difference ([`Identify::is_open`]), so it is asked about the client's end
//! now and then. An idle connection costs nothing, and a request that is answered soon costs one clock read.
//! Must never take a client for gone where that can't be told.
//!
//! [`Identify::is_open`]: crate::Identify::is_open

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;

use crate::caller::Claim;
use crate::limits::HOLDER_LOOK;
use crate::timer::Timer;

/// See the module.
pub(crate) struct Absence {
    claim: Arc<Claim>,
    next: Timer,
    look: Option<BoxFuture<'static, bool>>,
}

impl Absence {
    pub(crate) fn of(claim: &Arc<Claim>) -> Self {
        Self { claim: Arc::clone(claim), next: Timer::default(), look: None }
    }

    /// Ready when the client is found gone; looks only while something `waits`.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>, waits: bool) -> Poll<()> {
        if !waits {
            self.next.clear();
            self.look = None;
            return Poll::Pending;
        }
        loop {
            if let Some(look) = &mut self.look {
                let is_open = ready!(look.as_mut().poll(cx));
                self.look = None;
                if !is_open {
                    return Poll::Ready(());
                }
            }
            self.next.arm(HOLDER_LOOK);
            ready!(self.next.poll_elapsed(cx));
            self.next.clear();
            let claim = Arc::clone(&self.claim);
            self.look = Some(Box::pin(async move { claim.is_open().await }));
        }
    }
}
