//! Processes of the sandbox as `/proc` shows them to init (proc_pid_stat(5)).

use crate::sys::{self, directory};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Bytes of a `stat` file: fifty numbers and a name.
const MAX_STAT: usize = 2048;
/// Bytes of an executable's path.
const MAX_PATH: usize = 4096;

/// The fields of `/proc/PID/stat` that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    state: u8,
    pub(crate) parent: i32,
    /// The kernel's `PF_` flags.
    flags: u64,
    /// Number of its threads, including the first.
    pub(crate) threads: u32,
    /// Clock ticks after boot.
    pub(crate) start_time: u64,
}

impl Stat {
    pub(crate) fn read(pid: i32) -> io::Result<Self> {
        Self::of(&File::open(format!("/proc/{pid}/stat"))?)
    }

    fn of(file: &File) -> io::Result<Self> {
        let mut text = [0; MAX_STAT];
        // A read from the beginning makes the kernel write the whole text anew.
        let length = file.read_at(&mut text, 0)?;
        Self::parse(text.get(..length).unwrap_or_default())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable stat"))
    }

    /// The command's name may hold anything, so fields are counted from the last parenthesis.
    fn parse(text: &[u8]) -> Option<Self> {
        let after = text.iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(text.get(after + 1..)?).ok()?.split_ascii_whitespace();
        // Each is counted from the field after the one before.
        Some(Self {
            state: *fields.next()?.as_bytes().first()?,
            parent: fields.next()?.parse().ok()?,
            flags: fields.nth(4)?.parse().ok()?,
            threads: fields.nth(10)?.parse().ok()?,
            start_time: fields.nth(1)?.parse().ok()?,
        })
    }

    /// Whether it has released all that it had: dead, and unreaped.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }

    /// Whether it will never run anything again: dead with all its threads, and unreaped.
    pub(crate) fn is_dead(&self) -> bool {
        // If only the first thread has ended, the process looks as if it were over.
        self.is_over() && self.threads <= 1
    }

    /// Whether it runs no instruction of its program any more: it is exiting, or a zombie. The kernel lets
    /// nobody look into such a process, whatever their rights.
    pub(crate) fn is_ending(&self) -> bool {
        /// linux/sched.h
        const PF_EXITING: u64 = 0x4;
        self.is_over() || self.flags & PF_EXITING != 0
    }
}

/// Returns what was read of a process; `None` if the process is gone.
///
/// # Errors
/// Any other error: the process may still be there.
pub(crate) fn gone<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an error says that a process is gone.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// Returns the process that a thread belongs to. Asks the kernel whether the thread belongs to the process of
/// its own number, then whether to `likely`, and only then reads proc_pid_status(5), which costs some fifty
/// times as much as a question.
pub(crate) fn process_of(thread: i32, likely: Option<i32>) -> io::Result<i32> {
    let candidates = [Some(thread), likely].into_iter().flatten();
    if let Some(process) = candidates.into_iter().find(|process| sys::process::is_thread_of(thread, *process))
    {
        return Ok(process);
    }
    number_in_status(thread, b"Tgid:")
}

fn number_in_status(thread: i32, name: &[u8]) -> io::Result<i32> {
    let status = std::fs::read(format!("/proc/{thread}/status"))?;
    // The command's name, on the first line, is escaped: a line that begins like this is the kernel's own.
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name));
    line.and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable status"))
}

/// Returns how many descriptors a thread's table has room for, which is beyond the last one in use
/// (proc_pid_status(5)); 0 once the thread is ending.
pub(crate) fn table_size(thread: i32) -> io::Result<i32> {
    number_in_status(thread, b"FDSize:")
}

/// A process, held by its directory in `/proc`, which stays that process's own. Once it has ended, nothing
/// more is read of it, and no process that got its pid is signalled in its place.
#[derive(Debug)]
pub(crate) struct Opened {
    directory: OwnedFd,
    stat: File,
}

impl Opened {
    pub(crate) fn open(proc: BorrowedFd<'_>, pid: i32) -> io::Result<Self> {
        // Not by `O_PATH`: the kernel sends no signal by such a descriptor.
        let directory = directory::open(proc, &pid.to_string(), libc::O_RDONLY | libc::O_DIRECTORY)?;
        let stat = directory::open(directory.as_fd(), "stat", libc::O_RDONLY)?.into();
        Ok(Self { directory, stat })
    }

    /// Reads its `stat` as of now.
    pub(crate) fn stat(&self) -> io::Result<Stat> {
        Stat::of(&self.stat)
    }

    /// Returns the path of its program, as the link says.
    pub(crate) fn executable_path(&self) -> io::Result<Vec<u8>> {
        let mut text = [0; MAX_PATH];
        directory::read_link(self.directory.as_fd(), "exe", &mut text).map(<[u8]>::to_vec)
    }

    /// Signals it (pidfd_send_signal(2), which takes this directory for a pidfd).
    pub(crate) fn signal(&self, signo: i32) -> io::Result<()> {
        sys::signals::send(self.directory.as_fd(), signo)
    }

    /// Opens its program.
    pub(crate) fn open_executable(&self) -> io::Result<File> {
        self.read("exe")
    }

    /// Device and inode of the program that runs now.
    pub(crate) fn executable(&self) -> io::Result<(u64, u64)> {
        let found = nix::sys::stat::fstatat(&self.directory, "exe", nix::fcntl::AtFlags::empty())?;
        Ok((found.st_dev, found.st_ino))
    }

    /// Opens the environment that it was executed with, unless it has overwritten that.
    pub(crate) fn open_environment(&self) -> io::Result<File> {
        self.read("environ")
    }

    /// Opens its resource limits, which everybody may read.
    pub(crate) fn open_limits(&self) -> io::Result<File> {
        self.read("limits")
    }

    pub(crate) fn open_maps(&self) -> io::Result<File> {
        self.read("maps")
    }

    /// Opens the page map, which tells what backs each page.
    pub(crate) fn open_page_map(&self) -> io::Result<File> {
        self.read("pagemap")
    }

    /// Opens the maps with a report on the pages of each (proc_pid_smaps(5)).
    pub(crate) fn open_page_report(&self) -> io::Result<File> {
        self.read("smaps")
    }

    fn read(&self, name: &str) -> io::Result<File> {
        directory::open(self.directory.as_fd(), name, libc::O_RDONLY).map(Into::into)
    }
}

/// Every process of the pid namespace whose `/proc` this is, at most `limit`; `None` when there are more.
pub(crate) fn pids(proc: BorrowedFd<'_>, entries: &mut [u8], limit: usize) -> io::Result<Option<Vec<i32>>> {
    let mut pids = Vec::new();
    directory::numbers(proc, entries, |pid| {
        pids.push(pid);
        if pids.len() > limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok((pids.len() <= limit).then_some(pids))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_moves_no_field() {
        let fields = "S 7 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        for name in ["sh", ") R 99 9 (", "a b\nc", "))))"] {
            let stat = Stat::parse(format!("12 ({name}) {fields}").as_bytes()).unwrap();
            assert_eq!(stat, Stat { state: b'S', parent: 7, flags: 4_194_560, threads: 1, start_time: 4242 });
        }
        assert!(Stat::parse(b"12 (sh").is_none());
        assert!(Stat::parse(b"").is_none());
    }

    #[test]
    fn a_thread_is_its_processs() {
        let process = std::process::id() as i32;
        let other = std::thread::spawn(move || {
            let own = nix::unistd::gettid().as_raw();
            assert_ne!(own, process);
            assert!(!sys::process::is_thread_of(own, own));
            assert!(sys::process::is_thread_of(own, process));
            // Whatever `likely` is, the kernel has the say.
            for likely in [None, Some(process), Some(own), Some(1), Some(0), Some(-1), Some(i32::MAX)] {
                assert_eq!(process_of(own, likely).unwrap(), process, "{likely:?}");
            }
        });
        other.join().unwrap();
        assert!(sys::process::is_thread_of(process, process));
        assert_eq!(process_of(process, None).unwrap(), process);
        assert_eq!(process_of(process, Some(1)).unwrap(), process);
        for likely in [None, Some(process), Some(-1), Some(0)] {
            assert!(process_of(-1, likely).is_err() && process_of(0, likely).is_err());
        }
    }

    #[test]
    fn our_own_is_readable() {
        let own = Stat::read(std::process::id() as i32).unwrap();
        assert_eq!(own.parent, std::os::unix::process::parent_id() as i32);
        assert!(!own.is_ending());
    }
}
