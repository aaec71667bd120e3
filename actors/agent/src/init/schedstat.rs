//! What the scheduler counts of a process's first thread (Linux, Documentation/scheduler/sched-stats.rst).

use crate::sys::directory;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The open file that holds the counts. It stays that of the process that was opened, whoever gets its pid.
#[derive(Debug)]
pub(super) struct Schedstat(File);

/// What was counted so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// For how long it was on a processor.
    ran: Duration,
    /// For how long it waited for a processor.
    pub(super) waited: Duration,
    /// How many times it was given a processor.
    pub(super) turns: u64,
}

impl Schedstat {
    pub(super) fn of_this_process() -> io::Result<Self> {
        File::open("/proc/self/schedstat").map(Self)
    }

    pub(super) fn open(proc: BorrowedFd<'_>, pid: i32) -> io::Result<Self> {
        directory::open(proc, &format!("{pid}/schedstat"), libc::O_RDONLY).map(|file| Self(file.into()))
    }

    #[cfg(test)]
    pub(super) fn told_by(file: File) -> Self {
        Self(file)
    }

    pub(super) fn read(&self) -> io::Result<Counts> {
        // Three numbers of at most twenty digits.
        let mut text = [0; 64];
        let length = self.0.read_at(&mut text, 0)?;
        Counts::parse(text.get(..length).unwrap_or_default()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl Counts {
    /// Nanoseconds on a processor, nanoseconds on a run queue, turns.
    fn parse(text: &[u8]) -> Option<Self> {
        let mut numbers = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
        let (ran, waited) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        let [ran, waited] = [ran, waited].map(Duration::from_nanos);
        Some(Self { ran, waited, turns: numbers.next()?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_the_first_number_the_wait_the_second_and_turns_are_the_third() {
        let [ran, waited] = [123, 4567].map(Duration::from_nanos);
        let counts = Counts { ran, waited, turns: 8 };
        assert_eq!(Counts::parse(b"123 4567 8\n"), Some(counts));
        for strange in [
            &b""[..],
            b"1",
            b"1 2",
            b"x 1 2",
            b"1 x 2",
            b"1 -2 3",
            b"1 2 x",
            b"1 2 -3",
            b"\xff 1",
            b"\xff 1 1",
        ] {
            assert_eq!(Counts::parse(strange), None);
        }
    }
}
