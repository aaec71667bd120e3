//! What all bodies (or long heads) together may hold while they are read to be judged or rewritten, and one's part of it.
//!
//! A part is paid for as its bytes come, never for what a head promises: who promises much and sends nothing keeps nobody out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use policy::{Party, Share, Shares, Spent};

use crate::answer::Refusal;

/// One body's part; given back when dropped.
#[derive(Debug)]
pub(crate) struct Room(Option<Share>);

impl Room {
    /// A part of nothing yet.
    pub(crate) fn new(all: &Shares, party: Party) -> Self {
        // Nothing can always be had.
        Self(all.take(party, 0).ok())
    }

    /// Pays for a body that has so many bytes now.
    ///
    /// # Errors
    /// There is no room for them, or not for this party; what was paid for before stays.
    pub(crate) fn pay_for(&mut self, bytes: usize) -> Result<(), Refusal> {
        let Some(share) = &mut self.0 else { return Err(full(Spent::All)) };
        share.take(bytes.saturating_sub(share.held())).map_err(full)
    }

    /// Whose it turned out to be, what was paid for and what will be.
    ///
    /// # Errors
    /// That party has its share already; what was paid for stays as it was.
    pub(crate) fn belongs_to(&mut self, party: Party) -> Result<(), Refusal> {
        self.0.as_mut().map_or(Ok(()), |share| share.belongs_to(party).map_err(full))
    }

    /// Whether anything was paid for.
    pub(crate) fn is_paid(&self) -> bool {
        self.0.as_ref().is_some_and(|share| share.held() > 0)
    }

    /// Gives back what was paid for.
    pub(crate) fn give_back(&mut self) {
        if let Some(share) = &mut self.0 {
            share.give_back();
        }
    }
}

/// The room of a connection's long heads: its reader pays from it, and whoever learns whose the connection is says so.
#[derive(Debug, Clone)]
pub(crate) struct Heads(Arc<Mutex<Room>>);

impl Heads {
    pub(crate) fn new(room: Room) -> Self {
        Self(Arc::new(Mutex::new(room)))
    }

    /// The room, for one call. Each leaves it whole, so a poisoned lock still guards a good one.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Room> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn full(spent: Spent) -> Refusal {
    let whose = if spent == Spent::Share { " of this agent" } else { "" };
    Refusal::Unavailable(format!("too many long heads or bodies{whose} are being read at the same time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_paid_for_as_they_come_and_given_back() {
        let all = Shares::new(10);
        let mut first = Room::new(&all, Party::UNKNOWN);
        let mut second = Room::new(&all, Party::UNKNOWN);
        assert!(first.pay_for(4).is_ok() && first.pay_for(3).is_ok() && first.pay_for(6).is_ok());
        assert!(second.pay_for(5).is_err());
        assert!(second.pay_for(4).is_ok());
        assert_eq!(all.free(), 0);
        drop(first);
        assert!(second.pay_for(10).is_ok());
        drop(second);
        assert_eq!(all.free(), 10);
    }

    #[test]
    fn one_agents_bodies_leave_room_for_anothers() {
        let all = Shares::new(90);
        let mut greedy = Room::new(&all, Party(1));
        assert!(greedy.pay_for(60).is_ok());
        let refused = greedy.pay_for(61).unwrap_err();
        assert!(refused.detail().contains("of this agent"), "{}", refused.detail());
        assert!(Room::new(&all, Party(2)).pay_for(20).is_ok());
    }
}
