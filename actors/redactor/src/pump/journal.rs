//! The journal: an agent's output pipe, looked into with tee(2) and consumed only on order. For a terminal
//! agent the pseudo-terminal's master is spliced into such a pipe first, inside the kernel, so that its bytes
//! too are in a pipe that outlives this process. Never takes a byte out of the pipe before `consume`.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice, tee};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::ready::register;

/// The scratch pipe's size, and so the largest window looked at.
pub(crate) const WINDOW_MAX: usize = 64 * 1024;
/// Bytes that are requested for a terminal's journal: the pieces in it don't merge, and each takes a page.
const PTY_JOURNAL: usize = 1024 * 1024;

/// Where a stream comes from.
#[derive(Debug)]
pub enum Source {
    /// The read end of a pipe whose write end only the agent's processes hold.
    Pipe(OwnedFd),
    /// A pseudo-terminal, and a pipe as its journal.
    Pty {
        /// The master, or a duplicate of it.
        master: OwnedFd,
        /// The journal's read end.
        journal: OwnedFd,
        /// The journal's write end.
        feed: OwnedFd,
    },
}

/// A terminal that feeds the journal.
#[derive(Debug)]
struct Terminal {
    master: AsyncFd<OwnedFd>,
    feed: OwnedFd,
    ended: bool,
    /// The journal has no room for what the terminal has.
    stuck: bool,
}

/// What the journal holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Nothing will be added.
    pub(crate) ended: bool,
    /// Nothing can be added before something is consumed.
    pub(crate) full: bool,
}

/// An open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    pipe: AsyncFd<OwnedFd>,
    terminal: Option<Terminal>,
    scratch_out: io::PipeReader,
    scratch_in: io::PipeWriter,
    trash: Vec<u8>,
}

impl Journal {
    /// Needs a tokio runtime.
    pub(crate) fn open(source: Source) -> io::Result<Self> {
        let (pipe, terminal) = match source {
            Source::Pipe(pipe) => (pipe, None),
            Source::Pty { master, journal, feed } => {
                // A smaller journal works too, only sooner masks an undecided tail.
                let _ = fcntl(&feed, FcntlArg::F_SETPIPE_SZ(i32::try_from(PTY_JOURNAL).unwrap_or(i32::MAX)));
                nonblocking(&master)?;
                let master = register(master, Interest::READABLE)?;
                (journal, Some(Terminal { master, feed, ended: false, stuck: false }))
            }
        };
        nonblocking(&pipe)?;
        let (scratch_out, scratch_in) = io::pipe()?;
        nonblocking(&scratch_out)?;
        // The default size is this already, unless the user has very many pipes: then windows are smaller.
        let _ = fcntl(&scratch_in, FcntlArg::F_SETPIPE_SZ(i32::try_from(WINDOW_MAX).unwrap_or(i32::MAX)));
        let pipe = register(pipe, Interest::READABLE)?;
        Ok(Self { pipe, terminal, scratch_out, scratch_in, trash: Vec::new() })
    }

    /// Copies what is there into `window`, from the first byte not consumed on, without taking it out of the
    /// pipe.
    pub(crate) fn look(&mut self, window: &mut Vec<u8>) -> io::Result<Look> {
        window.clear();
        if let Some(terminal) = &mut self.terminal {
            terminal.feed()?;
        }
        // Asked before looking: what is there after a hang-up is all there ever will be.
        let ended = match &self.terminal {
            Some(terminal) => terminal.ended,
            None => hung_up(self.pipe.get_ref())?,
        };
        match tee(self.pipe.get_ref(), &self.scratch_in, WINDOW_MAX, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(copied) => self.drain_scratch(copied, window)?,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = ended && !self.more_than(window.len())?;
        Ok(Look { ended, full: self.full(window.len()) })
    }

    fn drain_scratch(&mut self, copied: usize, window: &mut Vec<u8>) -> io::Result<()> {
        window.resize(copied, 0);
        self.scratch_out.read_exact(window)
    }

    /// Whether the pipe holds more than could be looked at.
    fn more_than(&self, seen: usize) -> io::Result<bool> {
        Ok(seen >= WINDOW_MAX.min(self.capacity()) || (seen == 0 && has_input(self.pipe.get_ref())?))
    }

    fn capacity(&self) -> usize {
        fcntl(self.pipe.get_ref(), FcntlArg::F_GETPIPE_SZ)
            .ok()
            .and_then(|size| usize::try_from(size).ok())
            .unwrap_or(0)
    }

    /// Whether the journal counts as full. Pieces that don't merge fill a pipe when half of its bytes are
    /// used; to wait for more could then take for ever.
    fn full(&self, seen: usize) -> bool {
        let stuck = self.terminal.as_ref().is_some_and(|terminal| terminal.stuck);
        stuck || seen >= self.capacity().min(WINDOW_MAX) / 2
    }

    /// Takes the first `count` bytes out of the pipe: their fate is settled.
    pub(crate) fn consume(&mut self, count: usize) -> io::Result<()> {
        self.trash.resize(WINDOW_MAX, 0);
        let mut left = count;
        while left > 0 {
            let part = self.trash.get_mut(..left.min(WINDOW_MAX)).unwrap_or_default();
            match nix::unistd::read(self.pipe.get_ref(), part) {
                // Only we read, so what was looked at is there.
                Ok(0) | Err(Errno::EAGAIN) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(taken) => left -= taken.min(left),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits until there may be more to look at. Cancel safe.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        let Some(terminal) = self.terminal.as_ref().filter(|terminal| !terminal.ended) else {
            self.pipe.readable().await?.clear_ready();
            return Ok(());
        };
        tokio::select! {
            ready = self.pipe.readable() => ready?.clear_ready(),
            ready = terminal.master.readable() => ready?.clear_ready(),
        }
        Ok(())
    }
}

impl Terminal {
    /// Moves what the terminal has into the journal, as far as there is room.
    fn feed(&mut self) -> io::Result<()> {
        self.stuck = false;
        while !self.ended {
            let moved = splice(
                self.master.get_ref(),
                None,
                &self.feed,
                None,
                WINDOW_MAX,
                SpliceFFlags::SPLICE_F_NONBLOCK,
            );
            match moved {
                // The last process closed its side.
                Ok(0) | Err(Errno::EIO) => self.ended = true,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.stuck = has_input(self.master.get_ref())?;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

fn events(fd: &impl AsFd) -> io::Result<PollFlags> {
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    match poll(&mut polled, PollTimeout::ZERO) {
        Ok(_) | Err(Errno::EINTR) => {
            Ok(polled.first().and_then(PollFd::revents).unwrap_or(PollFlags::empty()))
        }
        Err(error) => Err(error.into()),
    }
}

fn hung_up(fd: &impl AsFd) -> io::Result<bool> {
    Ok(events(fd)?.contains(PollFlags::POLLHUP))
}

fn has_input(fd: &impl AsFd) -> io::Result<bool> {
    Ok(events(fd)?.contains(PollFlags::POLLIN))
}
