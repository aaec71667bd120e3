//! The system calls that have no safe interface elsewhere, each wrapped once, small, and tested through its
//! caller.
//!
//! Nothing here decides anything: it turns integers into `io::Result` and raw descriptors into owned ones.

#![expect(
    unsafe_code,
    reason = "the kernel's calls; elsewhere a block is only where a fresh child closes what isn't its own"
)]

pub(crate) mod attempt;
pub(crate) mod beneath;
pub(crate) mod capabilities;
pub(crate) mod directory;
pub(crate) mod fd;
mod mathematics;
pub(crate) mod memfd;
pub(crate) mod mount;
pub(crate) mod notify;
pub(crate) mod pagemap;
pub(crate) mod prctl;
pub(crate) mod process;
pub(crate) mod procmap;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod terminal;
pub(crate) mod title;

use std::io;

/// Turns the result of a raw system call (-1 and errno) into a `Result`.
pub(crate) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same for libc functions that return an `int`.
pub(crate) fn check_int(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
