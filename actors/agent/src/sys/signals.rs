//! Signals: their dispositions, blocking and sending them. Only ever called by single-threaded processes or
//! fresh children.

use super::{check, check_int};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Signals that ask a process to end, and by default end it.
const ENDING: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// Resets every signal to its default and blocks none, as a freshly executed program expects. Includes those
/// that libc reserves for itself, which posix_spawn(3) leaves ignored; so only for a process that makes no
/// thread from now on.
pub(crate) fn reset() -> io::Result<()> {
    /// The kernel's `struct sigaction` on every architecture, all zero: SIG_DFL, no flags, an empty mask.
    const DEFAULT: [u64; 4] = [0; 4];
    for signo in (1..=64).filter(|signo| ![libc::SIGKILL, libc::SIGSTOP].contains(signo)) {
        let before = std::ptr::null_mut::<u64>();
        // SAFETY: SIG_DFL runs no code of ours; the kernel reads no more than four words, with a mask of
        // eight bytes.
        check(unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signo, DEFAULT.as_ptr(), before, size_of::<u64>())
        })?;
    }
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Resets one signal to its default.
pub(crate) fn to_default(signo: libc::c_int) {
    // SAFETY: SIG_DFL runs no code of ours.
    unsafe { libc::signal(signo, libc::SIG_DFL) };
}

/// Whether a signal is ignored, which may be inherited from the program that executed us (nohup(1)).
pub(crate) fn is_ignored(signo: libc::c_int) -> bool {
    // SAFETY: an all-zero sigaction is one; the call only writes it, and nothing is changed.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signo, std::ptr::null(), &raw mut now) == 0 && now.sa_sigaction == libc::SIG_IGN
    }
}

/// Those of `among` that ask this process to end, and wait for it to look at them.
pub(crate) fn pending(among: &SigSet) -> io::Result<Vec<Signal>> {
    // SAFETY: an all-zero set is one, and the call only writes it.
    let waiting = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        check_int(libc::sigpending(&raw mut set))?;
        SigSet::from_sigset_t_unchecked(set)
    };
    Ok(ENDING.into_iter().filter(|signal| among.contains(*signal) && waiting.contains(*signal)).collect())
}

/// Makes this process ignore every signal that asks it to end, and unblocks all.
pub(crate) fn be_deaf() -> io::Result<()> {
    ENDING.into_iter().for_each(|signal| ignore(signal as libc::c_int));
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Makes a write to a closed pipe an error instead of a signal.
pub(crate) fn ignore_broken_pipes() {
    ignore(libc::SIGPIPE);
}

/// Makes a write beyond the limit on a file's size (RLIMIT_FSIZE) an error instead of a signal: it is a full
/// disk like any other.
pub(crate) fn ignore_full_files() {
    ignore(libc::SIGXFSZ);
}

fn ignore(signo: libc::c_int) {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { libc::signal(signo, libc::SIG_IGN) };
}

/// Blocks these signals and returns a descriptor that becomes readable when one is pending.
pub(crate) fn fd(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised before it is read; signalfd makes a descriptor that is ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signo in signals {
            libc::sigaddset(&raw mut set, *signo);
        }
        check_int(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        let fd = check_int(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Signals the process group that a process leads.
pub(crate) fn kill_group(pid: i32, signo: i32) -> io::Result<()> {
    if pid <= 1 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: integers only; pid is above 1, so neither "everyone" nor our own group.
    check_int(unsafe { libc::kill(-pid, signo) }).map(drop)
}

/// Kills every other process of the pid namespace that this one is the first of, in one step that no fork
/// escapes.
///
/// # Errors
/// `EPERM` if this isn't pid 1, since it would hit the host's processes; the kernel's, except `ESRCH`: there
/// was no other process.
pub(crate) fn kill_all() -> io::Result<()> {
    if std::process::id() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    match nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), nix::sys::signal::Signal::SIGKILL) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Signals the very process of this descriptor (pidfd_send_signal(2)), even if its pid has been reused.
pub(crate) fn send(pidfd: BorrowedFd<'_>, signo: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks for what kill(2) would fill in; the rest are integers.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signo, none, 0) }).map(drop)
}

/// The blocked signals that ask this process to end, which so have no effect until they are looked for.
pub(crate) struct Requests(SignalFd);

impl Requests {
    /// Watches those of [`ENDING`] that are blocked now; one that isn't blocked ends the process by itself.
    pub(crate) fn of_blocked() -> io::Result<Self> {
        let blocked = SigSet::thread_get_mask()?;
        let set: SigSet = ENDING.into_iter().filter(|signal| blocked.contains(*signal)).collect();
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?))
    }

    /// Waits until `other` is readable, at most for `timeout`. False if that passed.
    ///
    /// # Errors
    /// [`io::ErrorKind::Interrupted`] if such a signal is pending. It stays pending.
    pub(crate) fn or(&self, other: Option<BorrowedFd<'_>>, timeout: PollTimeout) -> io::Result<bool> {
        let own = PollFd::new(self.0.as_fd(), PollFlags::POLLIN);
        let mut fds: Vec<PollFd<'_>> =
            [own].into_iter().chain(other.map(|fd| PollFd::new(fd, PollFlags::POLLIN))).collect();
        match poll(&mut fds, timeout) {
            Ok(_) if fds.first().is_some_and(|own| own.any() == Some(true)) => {
                Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted by a signal"))
            }
            // A process that was stopped and continued waits again.
            Err(nix::errno::Errno::EINTR) => self.or(other, timeout),
            done => Ok(done? > 0),
        }
    }
}

/// Reads what a child writes until it closes its end, at most `most` bytes. A pending request to end
/// interrupts the wait.
///
/// # Errors
/// [`io::ErrorKind::Interrupted`], see [`Requests::or`]; those of reading.
pub(crate) fn hear(pipe: OwnedFd, most: u64) -> io::Result<Vec<u8>> {
    let requests = Requests::of_blocked()?;
    let (mut said, mut pipe) = (Vec::new(), File::from(pipe).take(most));
    let mut part = [0_u8; 4096];
    loop {
        requests.or(Some(pipe.get_ref().as_fd()), PollTimeout::NONE)?;
        match pipe.read(&mut part)? {
            0 => return Ok(said),
            length => said.extend_from_slice(part.get(..length).unwrap_or_default()),
        }
    }
}
