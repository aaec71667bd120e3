//! Allocates disk space before records need it: beyond the log's end, not yet written (fallocate(2) with
//! `FALLOC_FL_KEEP_SIZE`).
//!
//! If the disk is filled, by another sandbox's agent say, the log keeps what it has. A filesystem that can't
//! do this gives the log nothing in advance; that is never an error.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc::off_t;

/// Bytes allocated beyond the log's end: room for some thirty thousand records. More is allocated once less
/// than half of it is left.
pub(super) const AHEAD: u64 = 16 << 20;

/// What is allocated for one file.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Disk is allocated up to this offset; `u64::MAX` if no more is to be allocated.
    until: u64,
    /// Whether it was logged that the disk is full.
    told: bool,
}

/// The result of allocating more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// There is enough, or this filesystem can't allocate in advance.
    Enough,
    /// The disk is full.
    Full,
}

impl Ahead {
    /// Gives back what lies beyond `length`, and allocates no more. A failure does no harm.
    pub(super) fn give_back(&mut self, file: &File, length: u64) {
        // Also what a killed process had allocated.
        if (1..u64::MAX).contains(&self.until) || has_more(file, length) {
            let _ = file.set_len(length);
        }
        self.until = u64::MAX;
    }

    /// To be called when the file was shortened, which gave back everything beyond its end.
    pub(super) fn given_back(&mut self) {
        if self.until != u64::MAX {
            self.until = 0;
        }
    }

    /// Makes sure that disk is allocated beyond `length`, the end of `file`.
    pub(super) fn keep(&mut self, file: &File, length: u64) -> Taken {
        if self.until.saturating_sub(length) >= AHEAD / 2 {
            return Taken::Enough;
        }
        let (from, until) = (self.until.max(length), length.saturating_add(AHEAD));
        let (Ok(offset), Ok(bytes)) = (off_t::try_from(from), off_t::try_from(until - from)) else {
            return Taken::Enough;
        };
        match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, bytes) {
            Ok(()) => *self = Self { until, told: false },
            Err(Errno::ENOSPC | Errno::EDQUOT) => {
                if !std::mem::replace(&mut self.told, true) {
                    let left = self.until.saturating_sub(length);
                    tracing::warn!(
                        left,
                        "the disk of the audit log is full: so many bytes of records fit, then all egress is refused; make room"
                    );
                }
                return Taken::Full;
            }
            // This filesystem can't do it.
            Err(_) => self.until = u64::MAX,
        }
        Taken::Enough
    }
}

/// Whether a file takes much more disk than `length` bytes need.
fn has_more(file: &File, length: u64) -> bool {
    file.metadata().is_ok_and(|found| found.blocks().saturating_mul(512) > length.saturating_add(AHEAD / 4))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn disk_is_taken_beyond_the_end_and_the_length_stays() {
        let file = tempfile::tempfile().unwrap();
        let mut ahead = Ahead::default();
        assert_eq!(ahead.keep(&file, 0), Taken::Enough);
        let taken = || file.metadata().unwrap().blocks() * 512;
        if ahead.until == u64::MAX {
            eprintln!("SKIPPED: this filesystem takes no disk ahead");
            return;
        }
        assert_eq!((file.metadata().unwrap().len(), taken() >= AHEAD), (0, true));
        // What a failed write leaves is cut off, and the allocation with it.
        file.set_len(0).unwrap();
        ahead.given_back();
        assert_eq!((ahead.keep(&file, 0), taken() >= AHEAD), (Taken::Enough, true));
        let _ = ahead.keep(&file, AHEAD / 4);
        assert_eq!(ahead.until, AHEAD, "while half is left nothing is asked for");
        let _ = ahead.keep(&file, AHEAD / 2 + 1);
        assert!(taken() > AHEAD + AHEAD / 2 && file.metadata().unwrap().len() == 0);
        ahead.give_back(&file, 0);
        assert_eq!((taken(), ahead.keep(&file, 0)), (0, Taken::Enough));
        assert_eq!(taken(), 0, "nothing is taken again");
        // What a killed process had allocated doesn't stay either.
        let _ = Ahead::default().keep(&file, 0);
        assert!(taken() >= AHEAD);
        Ahead::default().give_back(&file, 0);
        assert_eq!(taken(), 0);
    }
}
