//! The foreground sink: cofferdam's own stdout or stderr, whatever that is. A pipe or terminal is opened
//! anew, so that it can be written without blocking and without changing the flags of a description that the
//! operator's shell shares; anything else is written by a blocking thread. A write under way survives the
//! task that began it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::ready::register;

/// Bytes handed to a blocking thread at once.
const BLOCKING_MAX: usize = 64 * 1024;

/// A foreground descriptor, made writable from a task.
#[derive(Debug)]
pub(crate) enum Foreground {
    /// Written when the kernel says that it is ready.
    Polled(AsyncFd<OwnedFd>),
    /// Written by a blocking thread.
    Blocking {
        /// The descriptor.
        fd: Arc<OwnedFd>,
        /// A write not yet known to be done.
        under_way: Option<JoinHandle<Result<usize, Errno>>>,
    },
}

impl Foreground {
    /// Needs a tokio runtime.
    pub(crate) fn open(fd: OwnedFd) -> Self {
        let polled = reopen(&fd).and_then(|fresh| register(fresh, Interest::WRITABLE).ok());
        match polled {
            Some(fresh) => Self::Polled(fresh),
            None => Self::Blocking { fd: Arc::new(fd), under_way: None },
        }
    }

    /// Writes some of the bytes. Cancel safe as long as the next call comes with the same bytes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Polled(fd) => loop {
                let mut ready = fd.writable().await?;
                match ready.try_io(|fd| nix::unistd::write(fd.get_ref(), bytes).map_err(io::Error::from)) {
                    Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(done) => return done,
                    Err(_would_block) => {}
                }
            },
            Self::Blocking { fd, under_way } => {
                let writing = under_way.get_or_insert_with(|| {
                    let fd = Arc::clone(fd);
                    let part = bytes.get(..bytes.len().min(BLOCKING_MAX)).unwrap_or_default().to_vec();
                    tokio::task::spawn_blocking(move || write_some(&fd, &part))
                });
                let done = writing.await;
                *under_way = None;
                match done {
                    Ok(done) => done.map_err(io::Error::from),
                    Err(ended) => Err(io::Error::other(ended)),
                }
            }
        }
    }
}

fn write_some(fd: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    loop {
        match nix::unistd::write(fd, bytes) {
            Err(Errno::EINTR) => {}
            // Somebody else made the shared description non-blocking: wait here, in this thread.
            Err(Errno::EAGAIN) => wait_writable(fd)?,
            done => return done,
        }
    }
}

fn wait_writable(fd: &OwnedFd) -> Result<(), Errno> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut polled, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A description of our own for a pipe or terminal. Regular files are never opened anew: position and append
/// mode belong to the description.
fn reopen(fd: &OwnedFd) -> Option<OwnedFd> {
    let kind = SFlag::from_bits_truncate(fstat(fd).ok()?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFIFO && kind != SFlag::S_IFCHR {
        return None;
    }
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    open(path.as_str(), flags, Mode::empty()).ok()
}
