//! The one place where a descriptor is handed to the runtime's poller.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor that the result owns.
#[expect(
    deprecated,
    reason = "its successor is unsafe for the sake of types that may close their descriptor early; `OwnedFd` can't"
)]
pub(crate) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}
