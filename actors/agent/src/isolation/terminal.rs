//! A terminal of the sandbox's own: a pseudo-terminal of its devpts, so that nothing typed or injected there
//! can reach the operator's (pty(7), ioctl_tty(2)).

use crate::plan::AGENT_ID;
use crate::sys;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Both ends.
#[derive(Debug)]
pub struct Terminal {
    /// For the outside.
    pub master: OwnedFd,
    /// For the agent, which owns it.
    pub agent: OwnedFd,
}

/// Makes one inside the finished root.
///
/// # Errors
/// The kernel's.
pub fn make(rows: u16, columns: u16) -> io::Result<Terminal> {
    let (master, agent) = sys::terminal::open(c"/dev/pts/ptmx")?;
    sys::terminal::set_size(master.as_fd(), rows, columns)?;
    // Made by init, whose user differs from the agent's when rooted.
    let id = Some(AGENT_ID);
    nix::unistd::fchown(&agent, id.map(Into::into), id.map(Into::into))?;
    Ok(Terminal { master, agent })
}

/// Makes a terminal the controlling one of this session, which must have none.
///
/// # Errors
/// The kernel's.
pub fn control(terminal: BorrowedFd<'_>) -> io::Result<()> {
    sys::terminal::make_controlling(terminal)
}
