//! What the benchmarks reach: the look for a socket's holders, outside of init. Nothing else uses this.

use crate::init::{Asleep, Birthmarks, Lens, Waits, Wanted, holders};

/// Looks for holders, as init makes them one after the other.
#[derive(Debug)]
pub struct Looks(Asleep, Waits, Birthmarks);

impl Default for Looks {
    fn default() -> Self {
        Self(Asleep::new(false), Waits::of_this_process(), Birthmarks::new())
    }
}

impl Looks {
    /// How many processes that this one sees hold the socket `inode`, which process and descriptor `at` has;
    /// their programs opened and their memory maps looked through.
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
