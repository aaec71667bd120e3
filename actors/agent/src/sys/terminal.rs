//! Pseudo-terminals: ioctl_tty(2).

use super::check_int;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Opens a new pair: the master, and the other end through the master (`TIOCGPTPEER`: no path is looked up).
pub(crate) fn open(ptmx: &CStr) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: a C string and integers; the descriptor is ours.
    let master = unsafe { OwnedFd::from_raw_fd(check_int(libc::open(ptmx.as_ptr(), flags))?) };
    let unlock: libc::c_int = 0;
    // SAFETY: the request reads one int.
    check_int(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) })?;
    // SAFETY: the request takes open flags by value and gives a new descriptor.
    let other = unsafe {
        OwnedFd::from_raw_fd(check_int(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags))?)
    };
    Ok((master, other))
}

pub(crate) fn set_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request reads one winsize.
    check_int(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

pub(crate) fn make_controlling(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an integer argument.
    check_int(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Tries to type a character into a terminal (`TIOCSTI`), as the probe does.
pub(crate) fn type_into(terminal: BorrowedFd<'_>) -> io::Result<()> {
    let character: u8 = b' ';
    // SAFETY: the request reads one byte.
    check_int(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSTI, &raw const character) }).map(drop)
}
