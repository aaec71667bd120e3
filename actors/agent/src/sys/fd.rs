//! Descriptors: flags, waiting, numbering and closing.

use super::{check, check_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What to wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ready {
    Readable,
    Writable,
}

fn fcntl(fd: RawFd, command: libc::c_int, argument: libc::c_int) -> io::Result<libc::c_int> {
    // SAFETY: fcntl with an integer argument touches no memory of ours.
    check_int(unsafe { libc::fcntl(fd, command, argument) })
}

pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = fcntl(fd.as_raw_fd(), libc::F_GETFL, 0)?;
    fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK).map(drop)
}

#[cfg(test)]
pub(crate) fn is_cloexec(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(fcntl(fd.as_raw_fd(), libc::F_GETFD, 0)? & libc::FD_CLOEXEC != 0)
}

pub(crate) fn set_cloexec(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    fcntl(fd.as_raw_fd(), libc::F_SETFD, if on { libc::FD_CLOEXEC } else { 0 }).map(drop)
}

/// Duplicates to a number of at least `lowest`, close-on-exec.
pub(crate) fn duplicate_above(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    let new = fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// A standard stream. No value owns one: its number is never closed, and whatever is open there is what all
/// code reads from or writes to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    Input,
    Output,
    Error,
}

impl Stream {
    pub(crate) const ALL: [Self; 3] = [Self::Input, Self::Output, Self::Error];

    fn number(self) -> RawFd {
        match self {
            Self::Input => libc::STDIN_FILENO,
            Self::Output => libc::STDOUT_FILENO,
            Self::Error => libc::STDERR_FILENO,
        }
    }
}

/// The first number behind the standard streams.
pub(crate) const AFTER_STREAMS: RawFd = 3;

/// Makes a standard stream a duplicate of `fd`, open across exec; whatever was there is closed.
pub(crate) fn become_stream(fd: BorrowedFd<'_>, stream: Stream) -> io::Result<()> {
    // SAFETY: the numbers of the standard streams have no owner.
    unsafe { place_at(fd, stream.number()) }
}

/// Makes number `to` a duplicate of `fd`, open across exec; whatever was at `to` is closed.
///
/// # Safety
/// A value that owns `to` must neither be used nor dropped afterwards.
unsafe fn place_at(fd: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == to {
        return set_cloexec(fd, false);
    }
    // SAFETY: dup2 touches no memory; the caller answers for whoever owns the number.
    check_int(unsafe { libc::dup2(fd.as_raw_fd(), to) }).map(drop)
}

/// Puts `keep[i]` at `3 + i`, open across exec, and closes everything else but the standard streams and
/// `spare`. For a process that is about to exec.
///
/// # Safety
/// A value that owns a descriptor other than the standard streams and `spare`, `keep` included, must neither
/// be used nor dropped afterwards.
pub(crate) unsafe fn hand_on(keep: &[BorrowedFd<'_>], spare: &[RawFd]) -> io::Result<()> {
    let first_free = AFTER_STREAMS + keep.len() as RawFd;
    // First duplicated out of the way, so that none is overwritten before it is placed.
    let lifted: Vec<OwnedFd> =
        keep.iter().map(|fd| duplicate_above(*fd, first_free + 1)).collect::<io::Result<_>>()?;
    for (number, fd) in (AFTER_STREAMS..).zip(lifted) {
        // SAFETY: the number is another's only by an owner for whom the caller answers.
        unsafe { place_at(fd.as_fd(), number) }?;
    }
    // SAFETY: as before; of what was made here nothing is owned any more.
    unsafe { close_from(first_free, spare) }
}

/// Takes ownership of a descriptor that this process was started with. One that it has opened itself, or
/// adopted already, is close-on-exec and has an owner; one that came through the exec can't be close-on-exec.
///
/// # Errors
/// `EBADF` if it isn't open; `EBUSY` if it is no such descriptor.
pub(crate) fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    // Check and mark must not be interleaved with another thread's.
    static ADOPTING: Mutex<()> = Mutex::new(());
    let _turn = ADOPTING.lock().unwrap_or_else(PoisonError::into_inner);
    if fcntl(number, libc::F_GETFD, 0)? & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC)?;
    // SAFETY: it is open, and was not close-on-exec until now, so nobody has opened it here, nor adopted it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor but the standard streams and these.
///
/// # Safety
/// A value that owns one of the others must neither be used nor dropped afterwards.
pub(crate) unsafe fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    // SAFETY: the caller's word.
    unsafe { close_from(AFTER_STREAMS, keep) }
}

/// Closes every descriptor from `first` on, except those in `keep` (close_range(2)).
///
/// # Safety
/// As [`close_all_but`].
unsafe fn close_from(first: RawFd, keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|fd| *fd >= first).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut low = first;
    for fd in keep {
        if fd > low {
            // SAFETY: the caller's word.
            unsafe { close_range(low as u32, (fd - 1) as u32) }?;
        }
        low = fd + 1;
    }
    // SAFETY: the caller's word.
    unsafe { close_range(low as u32, u32::MAX) }
}

/// # Safety
/// As [`close_all_but`].
unsafe fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: touches no memory; the caller answers for whoever owns the numbers.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) }).map(drop)
}

/// Waits until `fd` is ready, has an error or is hung up; false when the deadline passed.
pub(crate) fn wait(fd: BorrowedFd<'_>, ready: Ready, deadline: Option<Duration>) -> io::Result<bool> {
    let events = match ready {
        Ready::Readable => libc::POLLIN,
        Ready::Writable => libc::POLLOUT,
    };
    let end = deadline.and_then(|after| Instant::now().checked_add(after));
    let mut poll = [libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }];
    loop {
        let milliseconds = match end {
            None => -1,
            Some(end) => {
                let left = end.saturating_duration_since(Instant::now());
                i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
            }
        };
        match poll_all(&mut poll, milliseconds) {
            Ok(count) => return Ok(count > 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// poll(2) over a list; milliseconds, -1 = no limit.
pub(crate) fn poll_all(list: &mut [libc::pollfd], milliseconds: i32) -> io::Result<usize> {
    // SAFETY: the pointer and count describe the caller's slice.
    let count =
        check_int(unsafe { libc::poll(list.as_mut_ptr(), list.len() as libc::nfds_t, milliseconds) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Reads once; `Ok(0)` at the end.
pub(crate) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the pointer and length describe the caller's slice.
        let n = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        match usize::try_from(n) {
            Ok(n) => return Ok(n),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Writes everything.
pub(crate) fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the pointer and length describe the caller's slice.
        let n = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(n) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// A close-on-exec pipe: read end, write end.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: pipe2 fills the two integers.
    check_int(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: both were just made for us.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Watches a descriptor in tokio's reactor; call it inside a runtime.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, stays the same file, and is closed by nobody but the `AsyncFd` that owns
    // it.
    Ok(unsafe { tokio::io::unix::AsyncFd::register(fd) }?)
}
