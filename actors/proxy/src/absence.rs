//! Clients that are gone while a request of theirs waits for its server, or a tunnel on which they have said
//! all.
//!
//! HTTP/1's library reads nothing while it answers, and a client that has closed its end looks from here like
//! one that only sends no more, as it does in a tunnel: a FIN, until something is written to it. The kernel
//! knows the difference ([`Identify::is_open`]), so it is asked about the client's end now and then. Costs a
//! connection nothing between two requests, and a request that is answered soon a reading of the clock. Must
//! never take a client for gone where that can't be told.
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
