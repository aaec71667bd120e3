//! A bound for a mailbox. ractor's mailboxes are unbounded, so the senders must be bounded: each takes a
//! ticket and puts it into the message. The ticket is returned when the message is dropped, whether it was
//! handled or lost with its actor.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Limits how many messages of a kind may be on their way to an actor. Cheap to clone; outlives the actor.
#[derive(Clone, Debug)]
pub struct Bound {
    taken: Arc<AtomicUsize>,
    limit: usize,
}

/// The right to have one message on its way. Keep it in the message.
#[derive(Debug)]
#[must_use = "a ticket that is not kept in the message bounds nothing"]
pub struct Ticket(Arc<AtomicUsize>);

impl Bound {
    /// At most `limit` messages at a time.
    pub fn new(limit: usize) -> Self {
        Self { taken: Arc::default(), limit }
    }

    /// A ticket, if there is one left. Never waits.
    pub fn ticket(&self) -> Option<Ticket> {
        let more = |taken| (taken < self.limit).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Ticket(self.taken.clone()))
    }

    /// Messages on their way now, the one being handled included.
    pub fn depth(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_comes_back_when_it_is_dropped() {
        let bound = Bound::new(2);
        let (one, two) = (bound.ticket(), bound.ticket());
        assert!(one.is_some() && two.is_some() && bound.ticket().is_none());
        drop(one);
        assert_eq!(bound.depth(), 1);
        assert!(bound.ticket().is_some());
    }
}
