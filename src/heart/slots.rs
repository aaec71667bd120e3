//! Descriptors kept by name, so that a new supervisor gets what the last one had.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent::protocol::{MAX_SLOTS, Slot};

/// The kept descriptors.
#[derive(Debug)]
pub struct Slots(BTreeMap<Slot, OwnedFd>);

impl Slots {
    /// None yet.
    pub fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Keeps a descriptor; one of the same name is closed. False (and the descriptor closed) when all places are taken.
    pub fn keep(&mut self, slot: Slot, fd: OwnedFd) -> bool {
        if self.0.len() >= MAX_SLOTS && !self.0.contains_key(&slot) {
            return false;
        }
        self.0.insert(slot, fd);
        true
    }

    /// Closes the descriptor of this name.
    pub fn release(&mut self, slot: &Slot) {
        self.0.remove(slot);
    }

    /// The descriptor of this name.
    pub fn find(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.0.get(&Slot::new(name)).map(AsFd::as_fd)
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&Slot, BorrowedFd<'_>)> {
        self.0.iter().map(|(slot, fd)| (slot, fd.as_fd()))
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
}
