//! Work that a child of ours does and is gone, with all that it learnt: what it answers is all that comes
//! back.

use super::{Child, LaunchError, end, fork, system};
use crate::sys;
use crate::sys::prctl::{Prctl, prctl};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Bytes of a child's answer at most.
pub const MAX_ANSWER: u64 = 16 << 20;

/// Has a child of ours, a copy, do something, and gives what it answers, of at most 16 MiB. What the child
/// learnt on the way is gone with it. Signals that are held are not kept waiting for it.
///
/// # Errors
/// See [`LaunchError`]; an answer of no byte is [`LaunchError::Died`].
pub fn in_child(work: impl FnOnce() -> Vec<u8>) -> Result<Vec<u8>, LaunchError> {
    let Errand { child, answer } = begin(|_| Ok(()), work)?;
    let heard = sys::signals::hear(answer, MAX_ANSWER);
    end(&child);
    let answer = heard.map_err(system("waiting for a child"))?;
    if answer.is_empty() { Err(LaunchError::Died("its work".into())) } else { Ok(answer) }
}

/// The same for a caller who waits by itself, and not for ever.
#[derive(Debug)]
pub struct Errand {
    /// Whoever does it. It is the caller's to end and to wait for.
    pub child: Child,
    /// What it answers, until its end; no byte where it could not do it.
    pub answer: OwnedFd,
}

impl Errand {
    /// Begins one. The child keeps the standard streams, and nothing else that is open here: held up where
    /// nobody can end it, it holds up nobody who waits for the end of something. `work` must own no
    /// descriptor.
    ///
    /// # Errors
    /// See [`LaunchError`].
    #[expect(unsafe_code, reason = "a fresh child closes what isn't its own")]
    pub fn begin(work: impl FnOnce() -> Vec<u8>) -> Result<Self, LaunchError> {
        // SAFETY: what else is open belongs to copies of our parent's values, in frames to which the child
        // never returns.
        begin(|answer| unsafe { sys::fd::close_all_but(&[answer.as_raw_fd()]) }, work)
    }
}

fn begin(
    prepare: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    work: impl FnOnce() -> Vec<u8>,
) -> Result<Errand, LaunchError> {
    let (child, answer) = fork(|write, parent| {
        // Nobody looks into it, and it ends with us, who may be gone already.
        let unfit = sys::process::die_with_parent(libc::SIGKILL).is_err()
            || prctl(Prctl::SetDumpable(false)).is_err()
            || std::os::unix::process::parent_id() != parent
            || prepare(write.as_fd()).is_err();
        if unfit {
            return 125;
        }
        // A panic must not unwind into our caller's frames, which are copies here.
        if let Ok(answer) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
            let _ = sys::fd::write_all(write.as_fd(), &answer);
        }
        0
    })?;
    Ok(Errand { child, answer })
}
