//! Big bodies that cost nothing to make or check: a fixed pattern repeated, whose period divides no buffer
//! size, so a lost, doubled or swapped piece shows.

use std::sync::LazyLock;

use bytes::Bytes;

/// A prime just above 1 MiB.
pub const PERIOD: usize = 1_048_583;
/// One piece of a generated body.
const PIECE: usize = 64 * 1024;

/// The pattern twice over, so that any piece is one slice of it.
static PATTERN: LazyLock<Bytes> = LazyLock::new(|| {
    let mut state = 0x2545_f491_u32;
    let mut once = Vec::with_capacity(PERIOD * 2);
    for _ in 0..PERIOD {
        // xorshift32: ordinary-looking bytes without a crate.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        once.push((state >> 24) as u8);
    }
    once.extend_from_within(..);
    Bytes::from(once)
});

/// The next piece of a body of `length` bytes, at `offset`; empty at its end.
pub fn piece(offset: u64, length: u64) -> Bytes {
    let left = length.saturating_sub(offset).min(PIECE as u64) as usize;
    let start = (offset % PERIOD as u64) as usize;
    PATTERN.slice(start..start + left)
}

/// Checks a body that comes in pieces against the pattern.
#[derive(Debug, Default)]
pub struct Check {
    /// Bytes so far.
    pub length: u64,
    /// The offset of the first wrong byte's piece.
    pub wrong_at: Option<u64>,
}

impl Check {
    /// Takes the next piece.
    pub fn take(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let expected = piece(self.length, u64::MAX);
            let (now, rest) = data.split_at(data.len().min(expected.len()));
            if self.wrong_at.is_none() && expected.get(..now.len()) != Some(now) {
                self.wrong_at = Some(self.length);
            }
            self.length += now.len() as u64;
            data = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_pattern_and_a_swap_shows() {
        let length = 3 * PERIOD as u64 + 17;
        let mut check = Check::default();
        let mut offset = 0;
        loop {
            let p = piece(offset, length);
            if p.is_empty() {
                break;
            }
            offset += p.len() as u64;
            check.take(&p);
        }
        assert_eq!((check.length, check.wrong_at), (length, None));
        let mut check = Check::default();
        check.take(&piece(PIECE as u64, length));
        assert_eq!(check.wrong_at, Some(0));
    }
}
