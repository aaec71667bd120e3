//! A wish: the request that an operator's command sends the builder, and the answers to it. A wish must be
//! read whole by a deadline, however slowly its parts come. It is dropped if the command is gone before the
//! move can no longer be called off.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use agent::wire::Wire;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};

use crate::site::policies::FILE_MAX;
use crate::waits::WISH_PATIENCE;

/// Bytes of a wish at most: JSON needs up to six bytes for each byte of a policy, and the rest is short.
const WISH_MAX: u64 = 6 * FILE_MAX + (64 << 10);

/// Asks for a cage for this policy.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// What messages call the policy.
    pub name: String,
    /// Its text.
    pub policy: String,
}

/// An answer to the command, one per line. The last one is never [`Answer::Building`].
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Another cage is needed, and is being built.
    Building,
    /// The agents run in the other cage.
    Stands {
        /// The policy's warnings.
        warnings: Vec<String>,
    },
    /// The policy says the same about the cage as the one that it was built for: the supervisor can put it in
    /// force.
    Same,
    /// The agents didn't move.
    Refused {
        /// Why, and where the agents are.
        why: String,
    },
}

/// What ended a wait.
pub enum Happened {
    /// The descriptor is readable.
    Came,
    /// The time was up.
    TimeIsUp,
    /// The heart is gone: nothing is left to build for.
    HeartGone,
}

/// Waits until `fd` is readable, until `by`, or until the heart is gone.
///
/// # Errors
/// Errors of poll(2).
pub fn wait_for(fd: BorrowedFd<'_>, heart: &Wire, by: Option<Instant>) -> io::Result<Happened> {
    loop {
        let patience = by.map_or(PollTimeout::NONE, |by| {
            PollTimeout::try_from(by.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = [heart.as_fd(), fd].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, patience) {
            Ok(0) => return Ok(Happened::TimeIsUp),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        // The heart sends only answers, which are received elsewhere: here, readable means that it has closed
        // the channel.
        let [heart, _] = fds.map(|fd| fd.any().unwrap_or(false));
        return Ok(if heart { Happened::HeartGone } else { Happened::Came });
    }
}

/// Returns the uid of the process at the other end, which must be root or our own user.
///
/// # Errors
/// The process belongs to another user.
pub fn operator_at(stream: &UnixStream) -> io::Result<u32> {
    let uid = getsockopt(stream, PeerCredentials)?.uid();
    match uid == 0 || uid == nix::unistd::geteuid().as_raw() {
        true => Ok(uid),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// The connection of a command that has a wish.
pub struct Asker {
    stream: UnixStream,
    /// The operator's uid, as the kernel reports it.
    pub uid: u32,
}

impl Asker {
    /// Admits a connection of the operator's.
    ///
    /// # Errors
    /// The peer is another user.
    pub fn admit(stream: UnixStream) -> io::Result<Self> {
        let uid = operator_at(&stream)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, uid })
    }

    /// Reads the wish.
    ///
    /// # Errors
    /// What was sent isn't a whole wish, or isn't one at all.
    pub fn wish(&mut self, heart: &Wire) -> io::Result<Wish> {
        let by = Instant::now() + WISH_PATIENCE;
        let mut bytes = Vec::new();
        loop {
            match wait_for(self.stream.as_fd(), heart, Some(by))? {
                Happened::Came => {}
                Happened::TimeIsUp => return Err(io::ErrorKind::TimedOut.into()),
                Happened::HeartGone => return Err(io::ErrorKind::BrokenPipe.into()),
            }
            let mut part = [0; 16 << 10];
            match self.stream.read(&mut part) {
                Ok(0) => return unpacked(&bytes),
                Ok(n) => bytes.extend_from_slice(part.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if bytes.len() as u64 > WISH_MAX {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        }
    }

    /// Whether the command is gone: an interrupted command takes its wish along.
    pub fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        let asked = poll(&mut fds, PollTimeout::ZERO);
        // No event is requested: poll(2) then reports only POLLHUP or POLLERR.
        asked.is_err() || fds.iter().any(|fd| fd.any().unwrap_or(true))
    }

    /// Sends an answer. An error is ignored: the command may have gone away.
    pub fn tell(&mut self, answer: &Answer) {
        let mut tell = || -> io::Result<()> {
            self.stream.set_nonblocking(false)?;
            self.stream.set_write_timeout(Some(WISH_PATIENCE))?;
            let mut line = serde_json::to_vec(answer)?;
            line.push(b'\n');
            self.stream.write_all(&line)
        };
        let _lost = tell();
    }
}

/// Serialises a wish, with its length first: a truncated wish could pass for a different one.
///
/// # Errors
/// It can't be serialised.
pub fn packed(wish: &Wish) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(wish)?;
    Ok([&(text.len() as u64).to_le_bytes(), text.as_slice()].concat())
}

fn unpacked(bytes: &[u8]) -> io::Result<Wish> {
    let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (length, text) = bytes.split_first_chunk().ok_or_else(cut)?;
    if u64::from_le_bytes(*length) != text.len() as u64 {
        return Err(cut());
    }
    Ok(serde_json::from_slice(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;

    fn pair() -> (UnixStream, Asker, [Wire; 2]) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let (heart, builder) = agent::wire::pair().unwrap();
        (theirs, Asker::admit(ours).unwrap(), [heart, builder].map(|end| Wire::new(end).unwrap()))
    }

    fn wish() -> Wish {
        Wish { name: "a.yaml".into(), policy: "version: 1\n".into() }
    }

    #[test]
    fn a_wish_is_whole_or_none() {
        let whole = packed(&wish()).unwrap();
        for n in 0..=whole.len() {
            let (mut theirs, mut asker, [_heart, builder]) = pair();
            theirs.write_all(&whole[..n]).unwrap();
            theirs.shutdown(Shutdown::Write).unwrap();
            let heard = asker.wish(&builder);
            assert_eq!(heard.is_ok(), n == whole.len(), "{n}");
            assert!(!asker.is_gone(), "it still waits for an answer");
        }
        let longer = [whole.as_slice(), b" "].concat();
        assert!(unpacked(&longer).is_err());
        let binary = [2_u64.to_le_bytes().as_slice(), b"\xff\xfe"].concat();
        assert!(unpacked(&binary).is_err());
    }

    #[test]
    fn one_that_drips_is_not_waited_for_longer_than_the_heart_lives() {
        let (mut theirs, mut asker, [heart, builder]) = pair();
        theirs.write_all(b"x").unwrap();
        drop(heart);
        assert_eq!(asker.wish(&builder).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn who_hangs_up_is_seen() {
        let (theirs, asker, _wires) = pair();
        assert!(!asker.is_gone());
        drop(theirs);
        assert!(asker.is_gone());
    }
}
