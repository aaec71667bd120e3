//! What all bodies together may hold while they are read to be judged or rewritten, and one body's share of it.
//!
//! A share is paid for as its bytes come, never for what a head promises: who promises much and sends nothing keeps nobody out.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::answer::Refusal;

/// One body's share; given back when dropped.
#[derive(Debug)]
pub(crate) struct Room {
    all: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// A share of nothing yet.
    pub(crate) fn new(all: Arc<Semaphore>) -> Self {
        Self { all, held: None }
    }

    /// Pays for a body that has so many bytes now.
    ///
    /// # Errors
    /// There is no room for them; what was paid for before stays.
    pub(crate) fn pay_for(&mut self, bytes: usize) -> Result<(), Refusal> {
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let full = || Refusal::Unavailable("too many bodies are being read at the same time".to_owned());
        let more = u32::try_from(bytes.saturating_sub(held)).map_err(|_| full())?;
        let more = Arc::clone(&self.all).try_acquire_many_owned(more).map_err(|_| full())?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }

    /// Whether anything was paid for.
    pub(crate) fn is_paid(&self) -> bool {
        self.held.is_some()
    }

    /// Gives back what was paid for.
    pub(crate) fn give_back(&mut self) {
        self.held = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_paid_for_as_they_come_and_given_back() {
        let all = Arc::new(Semaphore::new(10));
        let mut first = Room::new(Arc::clone(&all));
        let mut second = Room::new(Arc::clone(&all));
        assert!(first.pay_for(4).is_ok() && first.pay_for(3).is_ok() && first.pay_for(6).is_ok());
        assert!(second.pay_for(5).is_err());
        assert!(second.pay_for(4).is_ok());
        assert_eq!(all.available_permits(), 0);
        drop(first);
        assert!(second.pay_for(10).is_ok());
        drop(second);
        assert_eq!(all.available_permits(), 10);
    }
}
