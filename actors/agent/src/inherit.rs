//! Descriptors that a process inherits from its parent.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use crate::sys;

/// Takes over a descriptor that our parent left open for us at an agreed number, and makes it close-on-exec.
/// It can't be mistaken for one that this process has opened itself, and can't be taken twice.
///
/// # Errors
/// `EBADF` when nothing is open there; `EBUSY` for what was taken over before or opened here; `EINVAL` for
/// the standard streams, which belong to the runtime.
pub fn inherit(number: RawFd) -> io::Result<OwnedFd> {
    if number < sys::fd::AFTER_STREAMS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    sys::fd::adopt(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, AsRawFd, IntoRawFd};

    fn refused(number: RawFd) -> Option<i32> {
        inherit(number).err().and_then(|error| error.raw_os_error())
    }

    #[test]
    fn what_was_opened_here_has_its_owner() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(refused(file.as_raw_fd()), Some(libc::EBUSY));
        assert_eq!(refused(1), Some(libc::EINVAL));
        assert_eq!(refused(RawFd::MAX), Some(libc::EBADF));
    }

    #[test]
    fn what_was_inherited_is_handed_out_once() {
        let file = std::fs::File::open("/dev/null").unwrap();
        // As an exec would leave it: open, without an owner.
        sys::fd::set_cloexec(file.as_fd(), false).unwrap();
        let number = file.into_raw_fd();
        let taken = inherit(number).unwrap();
        assert!(sys::fd::is_cloexec(taken.as_fd()).unwrap());
        assert_eq!(refused(number), Some(libc::EBUSY));
    }
}
