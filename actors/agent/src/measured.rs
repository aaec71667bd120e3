//! Lets the benchmarks search for a socket's holders outside of init. Nothing else uses this.

use crate::init::{Asleep, Birthmarks, Lens, Waits, Wanted, holders};

/// The state of such searches, which init makes one after the other.
#[derive(Debug)]
pub struct Looks(Asleep, Waits, Birthmarks);

impl Default for Looks {
    fn default() -> Self {
        Self(Asleep::new(false), Waits::of_this_process(), Birthmarks::new())
    }
}

impl Looks {
    /// Returns how many processes that this one sees hold the socket `inode`; `at` is a process and
    /// descriptor that has it. Opens their programs and looks through their memory maps.
    ///
    /// # Panics
    /// When that can't be told.
    #[must_use]
    #[allow(clippy::expect_used, reason = "a bench fails by panic")]
    pub fn holders_of(&mut self, inode: u64, at: (i32, i32)) -> usize {
        let Self(asleep, waits, birthmarks) = self;
        let lens = Lens { mappings: true, writable: &[], threads: false, starting: &[], waits, birthmarks };
        let found = holders(&[Wanted { inode, likely: Some(at), agent: None }], lens, asleep).0.pop();
        found.and_then(|looked| looked.result.ok()).expect("the holders of a socket").holders.len()
    }
}
