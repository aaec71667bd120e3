//! Descriptors kept by name, so that a new supervisor gets what the last one had.
//!
//! How many output pipes there are is in the hands of the agents, which restart and pass descriptors on. So
//! output pipes never take the places of the slots that decisions depend on: the policy in force, what
//! programs contained at first use, how many guesses were made.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent::protocol::{MAX_SLOT_NAME, MAX_SLOTS, Slot};

use crate::plan::{FORWARDS_MAX, slot};

/// Places that output pipes never take: those of the forwards, and of every slot with a fixed name.
const NOT_FOR_OUTPUT: usize = FORWARDS_MAX + 64;
/// How many output pipes are kept at most.
const MAX_OUTPUT: usize = MAX_SLOTS - NOT_FOR_OUTPUT;

/// The kept descriptors.
#[derive(Debug)]
pub struct Slots {
    kept: BTreeMap<Slot, OwnedFd>,
    /// The slots that belong to the heart: no supervisor can replace or release them.
    own: BTreeSet<Slot>,
}

impl Slots {
    /// Returns an empty set of slots.
    pub fn new() -> Self {
        Self { kept: BTreeMap::new(), own: BTreeSet::new() }
    }

    /// Keeps a descriptor. One that was kept under the same name is closed. Returns false, and closes the
    /// descriptor, if every place that it may have is taken.
    pub fn keep(&mut self, slot: Slot, fd: OwnedFd) -> bool {
        if !self.kept.contains_key(&slot) && !self.has_place(&slot) {
            return false;
        }
        self.kept.insert(slot, fd);
        true
    }

    fn has_place(&self, slot: &Slot) -> bool {
        let is_output = |slot: &Slot| slot.0.starts_with(slot::OUTPUT);
        self.kept.len() < MAX_SLOTS
            && (!is_output(slot) || self.kept.keys().filter(|kept| is_output(kept)).count() < MAX_OUTPUT)
    }

    /// Closes the descriptor of this name.
    pub fn release(&mut self, slot: &Slot) {
        self.kept.remove(slot);
    }

    /// Marks everything kept so far as the heart's own.
    pub fn own_these(&mut self) {
        self.own = self.kept.keys().cloned().collect();
    }

    /// As [`Slots::keep`], for a supervisor. Returns false also for a slot of the heart's own, and for a name
    /// that is too long.
    pub fn keep_for_supervisor(&mut self, slot: Slot, fd: OwnedFd) -> bool {
        slot.0.len() <= MAX_SLOT_NAME && !self.own.contains(&slot) && self.keep(slot, fd)
    }

    /// As [`Slots::release`], for a supervisor. Ignores a slot of the heart's own.
    pub fn release_for_supervisor(&mut self, slot: &Slot) {
        if !self.own.contains(slot) {
            self.release(slot);
        }
    }

    /// The descriptor of this name.
    pub fn find(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.kept.get(&Slot::new(name)).map(AsFd::as_fd)
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&Slot, BorrowedFd<'_>)> {
        self.kept.iter().map(|(slot, fd)| (slot, fd.as_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any_fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn the_number_of_kept_descriptors_is_bounded_but_a_name_can_be_replaced() {
        let mut slots = Slots::new();
        for n in 0..MAX_SLOTS {
            assert!(slots.keep(Slot::new(format!("s{n}")), any_fd()));
        }
        assert!(!slots.keep(Slot::new("one more"), any_fd()));
        assert!(slots.keep(Slot::new("s0"), any_fd()));
        slots.release(&Slot::new("s1"));
        assert!(slots.keep(Slot::new("one more"), any_fd()));
        assert_eq!(slots.iter().count(), MAX_SLOTS);
    }

    #[test]
    fn output_never_has_the_places_of_what_decides() {
        let mut slots = Slots::new();
        assert!(slots.keep(Slot::new(slot::PLAN), any_fd()));
        slots.own_these();
        let output = |n: usize| Slot::new(format!("{}a:stdout:{n}", slot::OUTPUT));
        let kept = (0..MAX_SLOTS).filter(|n| slots.keep_for_supervisor(output(*n), any_fd())).count();
        assert_eq!(kept, MAX_OUTPUT);
        for name in [
            slot::POLICY,
            slot::GENERATION,
            slot::PINS,
            slot::GUESSES,
            slot::NEWS,
            slot::STOPPED,
            slot::ENDED,
        ] {
            assert!(slots.keep_for_supervisor(Slot::new(name), any_fd()), "{name}");
        }
        assert!(slots.keep_for_supervisor(output(0), any_fd()), "one of the same name");
        slots.release_for_supervisor(&output(0));
        assert!(slots.keep_for_supervisor(output(MAX_SLOTS), any_fd()));
    }

    #[test]
    fn what_is_the_hearts_is_no_supervisors() {
        let mut slots = Slots::new();
        let (own, theirs) = (Slot::new("plan"), Slot::new("policy"));
        assert!(slots.keep(own.clone(), any_fd()));
        slots.own_these();
        assert!(!slots.keep_for_supervisor(own.clone(), any_fd()));
        slots.release_for_supervisor(&own);
        assert!(slots.find("plan").is_some());
        assert!(slots.keep_for_supervisor(theirs.clone(), any_fd()));
        slots.release_for_supervisor(&theirs);
        assert!(slots.find("policy").is_none());
        let named = |length| Slot::new("n".repeat(length));
        assert!(!slots.keep_for_supervisor(named(MAX_SLOT_NAME + 1), any_fd()));
        assert!(slots.keep_for_supervisor(named(MAX_SLOT_NAME), any_fd()));
        assert!(slots.keep(own, any_fd()), "the heart itself may");
    }
}
