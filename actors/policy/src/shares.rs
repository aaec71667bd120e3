//! Divides what all agents of a sandbox share, such as connection slots and bytes, so that no agent takes all
//! of it.
//!
//! A party always gets a first piece while one is free. Beyond that it may take more as long as it then holds
//! no more than a fixed multiple (mostly [`TO_WHAT_IS_LEFT`]) of what it leaves free. So a single party gets
//! most of everything, the next one most of the rest, and parties that all take what they can end up with
//! equal shares. This module knows nothing of sandboxes, and never waits: there is room, or there isn't.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A party may hold this many times what it leaves free: two thirds of everything, if it is alone.
pub const TO_WHAT_IS_LEFT: usize = 2;

/// The party that a program belongs to for the sake of shares: an agent, or a program that an operator
/// started besides, with all descendants. A process can neither choose its party nor leave it. No rule of a
/// policy refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Party(pub u64);

impl Party {
    /// Stands for all programs whose party isn't known (yet). They aren't one party, so their share isn't
    /// bounded.
    pub const UNKNOWN: Self = Self(0);
}

/// A resource that consists of a number of pieces. Clones share it.
#[derive(Debug, Clone)]
pub struct Shares(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    total: usize,
    to_what_is_left: usize,
    // The lock is held for a look-up and an addition only, like a semaphore's own.
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// The pieces that each party holds, for parties that hold any.
    by: HashMap<Party, usize>,
}

/// Why no more pieces can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Spent {
    /// All parties together hold everything.
    #[error("all of it is in use")]
    All,
    /// This party holds its share; what is left is for the others.
    #[error("one agent may not use more of it")]
    Share,
}

impl Shares {
    /// `total` pieces, all of them free.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self::leaving(total, TO_WHAT_IS_LEFT)
    }

    /// `total` pieces, of which a party may hold `to_what_is_left` times (at least once) what it leaves. For
    /// a large total the multiple may be high: even the small part left over is enough for the others.
    #[must_use]
    pub fn leaving(total: usize, to_what_is_left: usize) -> Self {
        Self(Arc::new(Inner { total, to_what_is_left: to_what_is_left.max(1), taken: Mutex::default() }))
    }

    /// Takes a number of pieces (0 for a share that grows later).
    ///
    /// # Errors
    /// There aren't that many left, or not for this party. Nothing is taken then.
    pub fn take(&self, party: Party, pieces: usize) -> Result<Share, Spent> {
        let mut share = Share { of: self.clone(), party, held: 0 };
        share.take(pieces)?;
        Ok(share)
    }

    /// The number of free pieces.
    #[must_use]
    pub fn free(&self) -> usize {
        self.0.total.saturating_sub(self.lock().all)
    }

    /// The number of pieces that are held.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.lock().all
    }

    /// The counts are left whole by every critical section, so a poisoned lock still guards good ones.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Checks whether a party may take this many more of the free pieces.
    fn may_take(&self, taken: &Taken, party: Party, pieces: usize) -> Result<(), Spent> {
        if pieces == 0 {
            // Taking nothing is always allowed, even for a party that holds more than it may by now.
            return Ok(());
        }
        let free = self.total.saturating_sub(taken.all);
        let left = free.checked_sub(pieces).ok_or(Spent::All)?;
        let held = taken.by.get(&party).copied().unwrap_or_default();
        let first = held == 0 && pieces <= 1;
        let within = held.saturating_add(pieces) <= left.saturating_mul(self.to_what_is_left);
        if party == Party::UNKNOWN || first || within { Ok(()) } else { Err(Spent::Share) }
    }
}

impl Taken {
    fn add(&mut self, party: Party, pieces: usize) {
        if pieces > 0 {
            self.all = self.all.saturating_add(pieces);
            let held = self.by.entry(party).or_default();
            *held = held.saturating_add(pieces);
        }
    }

    fn remove(&mut self, party: Party, pieces: usize) {
        self.all = self.all.saturating_sub(pieces);
        if let Some(held) = self.by.get_mut(&party) {
            *held = held.saturating_sub(pieces);
            if *held == 0 {
                self.by.remove(&party);
            }
        }
    }
}

/// Pieces that a party holds; given back when dropped.
#[derive(Debug)]
pub struct Share {
    of: Shares,
    party: Party,
    held: usize,
}

impl Share {
    /// Takes this many more pieces.
    ///
    /// # Errors
    /// As [`Shares::take`]; what was taken before stays.
    pub fn take(&mut self, pieces: usize) -> Result<(), Spent> {
        let mut taken = self.of.lock();
        self.of.0.may_take(&taken, self.party, pieces)?;
        taken.add(self.party, pieces);
        self.held = self.held.saturating_add(pieces);
        Ok(())
    }

    /// Gives back what is held; more may be taken afterwards.
    pub fn give_back(&mut self) {
        self.of.lock().remove(self.party, self.held);
        self.held = 0;
    }

    /// The number of pieces in the share.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves a share of [`Party::UNKNOWN`] to the party that it turned out to belong to. A share that has a
    /// known party keeps it: nothing is checked again.
    ///
    /// # Errors
    /// That party has its share already. The share stays with the unknown party, and the caller should give
    /// it back.
    pub fn belongs_to(&mut self, party: Party) -> Result<(), Spent> {
        if self.party != Party::UNKNOWN {
            return Ok(());
        }
        let mut taken = self.of.lock();
        taken.remove(self.party, self.held);
        let may = self.of.0.may_take(&taken, party, self.held);
        if may.is_ok() {
            self.party = party;
        }
        taken.add(self.party, self.held);
        may
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.lock().remove(self.party, self.held);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: Party = Party(1);
    const OTHER: Party = Party(2);

    #[test]
    fn the_documentation_has_a_row() {
        let row = format!("| `TO_WHAT_IS_LEFT` | {TO_WHAT_IS_LEFT} |");
        assert!(include_str!("../../../docs/limits.md").contains(&row), "docs/limits.md lacks {row}");
    }

    /// Takes single pieces until there are no more, and keeps them.
    fn all_for(shares: &Shares, party: Party) -> (Vec<Share>, Spent) {
        let mut taken = Vec::new();
        loop {
            match shares.take(party, 1) {
                Ok(share) => taken.push(share),
                Err(spent) => return (taken, spent),
            }
        }
    }

    #[test]
    fn one_has_most_and_each_other_most_of_what_is_left() {
        let shares = Shares::new(128);
        let mut held = Vec::new();
        let counts: Vec<usize> = (1..=6)
            .map(|party| {
                let (taken, spent) = all_for(&shares, Party(party));
                let count = taken.len();
                held.push(taken);
                assert_eq!(
                    spent,
                    if shares.free() == 0 { Spent::All } else { Spent::Share },
                    "party {party}"
                );
                count
            })
            .collect();
        assert_eq!(counts, [85, 28, 10, 3, 1, 1], "the last piece goes to who has none");
        assert_eq!(shares.take(Party(7), 1).unwrap_err(), Spent::All);
        held.clear();
        assert_eq!((shares.free(), shares.taken()), (128, 0));
        assert!(shares.lock().by.is_empty(), "who holds nothing is forgotten");
    }

    #[test]
    fn where_there_is_much_one_may_have_nearly_all() {
        let shares = Shares::leaving(9488, 19);
        let (one, _) = all_for(&shares, ONE);
        let (other, _) = all_for(&shares, OTHER);
        assert_eq!((one.len(), other.len(), shares.free()), (9013, 451, 24));
        assert_eq!(all_for(&Shares::leaving(9, 0), ONE).0.len(), 4, "never less than half");
    }

    #[test]
    fn who_waits_gets_what_the_greedy_one_gives_back() {
        let shares = Shares::new(120);
        let (mut greedy, _) = all_for(&shares, ONE);
        let (mut others, _) = all_for(&shares, OTHER);
        for _ in 0..greedy.len() {
            greedy.pop();
            greedy.extend(shares.take(ONE, 1));
            others.extend(shares.take(OTHER, 1));
        }
        assert!(greedy.len().abs_diff(others.len()) <= 1, "{} {}", greedy.len(), others.len());
        assert!(shares.free() >= 24, "and a third finds some");
    }

    #[test]
    fn nobody_known_is_no_party_and_becomes_one() {
        let shares = Shares::new(9);
        let (mut unknown, spent) = all_for(&shares, Party::UNKNOWN);
        assert_eq!((unknown.len(), spent), (9, Spent::All));
        // The party gets its first piece, and no more while nothing is left for others.
        assert_eq!(unknown[0].belongs_to(ONE), Ok(()));
        assert_eq!(unknown[1].belongs_to(ONE), Err(Spent::Share));
        assert_eq!(unknown[1].belongs_to(OTHER), Ok(()), "it was nobody's still");
        assert_eq!(unknown[1].belongs_to(ONE), Ok(()), "and is somebody's now");
        assert_eq!(unknown[1].party, OTHER);
        unknown.truncate(6);
        assert_eq!(unknown[2].belongs_to(ONE), Ok(()));
        assert_eq!(shares.free(), 3);
        drop(unknown);
        assert_eq!((shares.free(), shares.lock().by.len()), (9, 0));
    }

    #[test]
    fn more_than_there_is_is_nobodys() {
        let shares = Shares::new(10);
        assert_eq!(shares.take(ONE, 11).unwrap_err(), Spent::All);
        assert_eq!(shares.take(ONE, usize::MAX).unwrap_err(), Spent::All);
        assert_eq!(shares.take(ONE, 7).unwrap_err(), Spent::Share);
        let mut share = shares.take(ONE, 6).unwrap();
        assert_eq!(share.take(1).unwrap_err(), Spent::Share);
        assert_eq!((share.held(), shares.free()), (6, 4));
    }

    #[test]
    fn nothing_can_be_had_by_whoever_has_too_much_by_now() {
        let shares = Shares::new(9);
        let (mut greedy, _) = all_for(&shares, ONE);
        let _others = all_for(&shares, Party::UNKNOWN);
        assert_eq!((greedy.len(), shares.free()), (6, 0));
        assert_eq!(greedy[0].take(0), Ok(()), "it takes no more");
        let mut later = shares.take(ONE, 0).expect("a share that grows later");
        assert_eq!(later.take(1), Err(Spent::All));
        drop(greedy);
        assert_eq!(later.take(1), Ok(()));
        let mut unknown = shares.take(Party::UNKNOWN, 0).unwrap();
        let _all = all_for(&shares, Party::UNKNOWN);
        assert_eq!(unknown.belongs_to(ONE), Ok(()), "of nothing");
    }

    proptest! {
        /// Whatever is taken and given back, the counts agree with what is held, and a party that holds
        /// nothing gets a piece as long as no more than three parties are greedy.
        #[test]
        fn counts_agree(steps in proptest::collection::vec((1u64..4, 0usize..40, any::<bool>()), 0..200)) {
            let shares = Shares::new(256);
            let mut held: Vec<Share> = Vec::new();
            for (party, pieces, back) in steps {
                if back && !held.is_empty() {
                    held.swap_remove(pieces % held.len());
                } else {
                    held.extend(shares.take(Party(party), pieces));
                }
                prop_assert_eq!(held.iter().map(Share::held).sum::<usize>(), shares.taken());
                prop_assert!(shares.take(Party(9), 2).is_ok());
            }
            drop(held);
            prop_assert_eq!(shares.free(), 256);
        }
    }
}
