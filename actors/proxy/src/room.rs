//! How much memory all bodies (or long heads) together may hold while they are read to be judged or
//! rewritten, and the part of one of them.
//!
//! A part grows as bytes come, never by what a head announces: a client that announces much and sends nothing
//! keeps nobody out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use policy::{Party, Share, Shares, Spent};

use crate::answer::Refusal;

/// The part of one body or head; given back when dropped.
#[derive(Debug)]
pub(crate) struct Room {
    part: Option<Share>,
    of: What,
}

/// What is being read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    /// Long heads.
    Heads,
    /// Bodies and messages.
    Bodies,
}

impl Room {
    /// Makes a part of no bytes yet.
    pub(crate) fn new(all: &Shares, party: Party, of: What) -> Self {
        // Taking nothing always succeeds.
        Self { part: all.take(party, 0).ok(), of }
    }

    /// Makes the part cover a body or head that has `bytes` bytes by now.
    ///
    /// # Errors
    /// There is no room for them, or not for this party; what was taken before stays.
    pub(crate) fn pay_for(&mut self, bytes: usize) -> Result<(), Refusal> {
        let of = self.of;
        let Some(share) = &mut self.part else { return Err(full(of, Spent::All)) };
        share.take(bytes.saturating_sub(share.held())).map_err(|spent| full(of, spent))
    }

    /// Charges the part to `party`, both what was taken and what will be.
    ///
    /// # Errors
    /// The party has its share already; the part stays as it was.
    pub(crate) fn belongs_to(&mut self, party: Party) -> Result<(), Refusal> {
        let of = self.of;
        self.part.as_mut().map_or(Ok(()), |share| share.belongs_to(party).map_err(|spent| full(of, spent)))
    }

    /// Whether the part covers any bytes.
    pub(crate) fn is_paid(&self) -> bool {
        self.part.as_ref().is_some_and(|share| share.held() > 0)
    }

    /// Gives back all bytes of the part.
    pub(crate) fn give_back(&mut self) {
        if let Some(share) = &mut self.part {
            share.give_back();
        }
    }
}

/// The room of a connection's long heads, shared by the reader, which takes from it, and the task that learns
/// which agent the connection belongs to.
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

fn full(of: What, spent: Spent) -> Refusal {
    let what = match of {
        What::Heads => "long request heads",
        What::Bodies => "bodies",
    };
    let whose = if spent == Spent::Share { " of this agent" } else { "" };
    Refusal::Unavailable(format!("too many {what}{whose} are being read at the same time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_paid_for_as_they_come_and_given_back() {
        let all = Shares::new(10);
        let mut first = Room::new(&all, Party::UNKNOWN, What::Bodies);
        let mut second = Room::new(&all, Party::UNKNOWN, What::Bodies);
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
    fn one_agents_heads_leave_room_for_anothers() {
        let all = Shares::new(90);
        let mut greedy = Room::new(&all, Party(1), What::Heads);
        assert!(greedy.pay_for(60).is_ok());
        let refused = greedy.pay_for(61).unwrap_err();
        assert_eq!(
            refused.detail(),
            "too many long request heads of this agent are being read at the same time"
        );
        assert!(Room::new(&all, Party(2), What::Heads).pay_for(20).is_ok());
    }
}
