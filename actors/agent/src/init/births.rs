//! Tells whether a process was born meanwhile, by the last pid that the kernel gave in this namespace
//! (proc_loadavg(5)).
//!
//! Listing all processes costs a third of a look at a hundred sleeping ones; this costs a twentieth. Must
//! never say that no process was born when one was: where the kernel doesn't tell, nothing is known. Threads
//! get their ids from the same sequence, so a new thread counts as well. A process stays invisible for some
//! microseconds after it was given its pid, so the last pids that weren't seen are looked for again.

use crate::sys::directory;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// Bytes of the file: three averages, two counts, one number.
const MAX: usize = 128;
/// Pids that may be given and not yet visible at one moment: one for each processor that forks just then.
const ON_THE_WAY: u64 = 32;

/// The open `/proc/loadavg`; `None` where it can't be opened.
#[derive(Debug)]
pub(super) struct Births(Option<File>);

impl Births {
    pub(super) fn told_in(proc: &File) -> Self {
        Self(directory::open(proc.as_fd(), "loadavg", libc::O_RDONLY).ok().map(File::from))
    }

    /// Returns the pid that was given last: as long as it stays the same, no process is born.
    pub(super) fn last(&self) -> Option<u64> {
        let mut text = [0; MAX];
        let length = self.0.as_ref()?.read_at(&mut text, 0).ok()?;
        last_number(text.get(..length)?)
    }
}

/// Whether a process or thread exists whose id is one of the last up to `last`, and isn't in the sorted list
/// `seen`.
pub(super) fn came_late(last: u64, seen: &[i32]) -> bool {
    let mut numbers =
        (last.saturating_sub(ON_THE_WAY)..=last).filter_map(|number| i32::try_from(number).ok());
    numbers.any(|number| {
        let is_there = || kill(Pid::from_raw(number), None) != Err(Errno::ESRCH);
        number > 1 && seen.binary_search(&number).is_err() && is_there()
    })
}

/// Returns the last of five words: `0.20 0.18 0.12 1/80 11206`.
fn last_number(text: &[u8]) -> Option<u64> {
    let mut words = std::str::from_utf8(text).ok()?.strip_suffix('\n')?.split(' ');
    let last = words.nth(4)?.parse().ok()?;
    words.next().is_none().then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_born_is_told() {
        let births = Births::told_in(&File::open("/proc").unwrap());
        let Some(before) = births.last() else { return eprintln!("SKIPPED: this kernel doesn't tell") };
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        assert_ne!(births.last(), Some(before));
        // Not yet reaped.
        let number = child.id() as i32;
        assert!(came_late(number as u64, &[]) && came_late(number as u64 + ON_THE_WAY, &[]));
        child.wait().unwrap();
    }

    #[test]
    fn what_is_not_told_is_not_known() {
        assert_eq!(last_number(b"0.20 0.18 0.12 1/80 11206\n"), Some(11206));
        for strange in [
            &b""[..],
            b"\n",
            b"0.2 0.1 0.1 1/80\n",
            b"0.2 0.1 0.1 1/80 x\n",
            b"0.2 0.1 0.1 1/80 12",
            b"1 2 3 4 5 6\n",
        ] {
            assert_eq!(last_number(strange), None);
        }
        assert_eq!(Births(None).last(), None);
    }
}
