//! Descriptors that a process was born with.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use crate::sys;

/// Takes over a descriptor that our parent left open for us at a number agreed on, close-on-exec from now on.
///
/// Call it once a number, before anything else of the process opens descriptors: two owners of one number would close
/// it under each other.
///
/// # Errors
/// `EBADF` when nothing is open there; `EINVAL` for the standard streams, which belong to the runtime.
pub fn inherit(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let fd = sys::fd::adopt(number)?;
    sys::fd::set_cloexec(fd.as_fd(), true)?;
    Ok(fd)
}
