//! Disk that is taken before records need it: what lies beyond the log's end, allocated and not yet written
//! (fallocate(2) with `FALLOC_FL_KEEP_SIZE`).
//!
//! Whoever fills the disk, another sandbox's agent say, leaves the log what it has. A filesystem that can't
//! do this leaves it nothing, as before; that is never an error.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc::off_t;

/// Bytes beyond the log's end that are taken at a time: some thirty thousand records. Half of it is there
/// always.
pub(super) const AHEAD: u64 = 16 << 20;

/// What one file has taken.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Up to this offset disk is taken.
    until: u64,
    /// The disk had no more, and that was said.
    told: bool,
}

/// What came of taking more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// There is enough, or as much as this filesystem gives anybody.
    Enough,
    /// The disk is full.
    Full,
}

impl Ahead {
    /// Gives back what lies beyond `length`, and takes no more. That it can't harms nobody.
    pub(super) fn give_back(&mut self, file: &File, length: u64) {
        // Or what one that was killed had taken.
        if (1..u64::MAX).contains(&self.until) || has_more(file, length) {
            let _ = file.set_len(length);
        }
        self.until = u64::MAX;
    }

    /// The file was shortened, which gives back all that lay beyond its end.
    pub(super) fn given_back(&mut self) {
        if self.until != u64::MAX {
            self.until = 0;
        }
    }

    /// Sees to it that disk is taken beyond `length`, the end of `file`.
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
            // Not to be had here, ever.
            Err(_) => self.until = u64::MAX,
        }
        Taken::Enough
    }
}

/// Whether a file has much more disk than so many bytes need.
fn has_more(file: &File, length: u64) -> bool {
    file.metadata().is_ok_and(|found| found.blocks().saturating_mul(512) > length.saturating_add(AHEAD / 4))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop")]
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
        // What a failed write leaves is cut off, and this with it.
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
        // Nor does what one that was killed had taken stay.
        let _ = Ahead::default().keep(&file, 0);
        assert!(taken() >= AHEAD);
        Ahead::default().give_back(&file, 0);
        assert_eq!(taken(), 0);
    }
}
