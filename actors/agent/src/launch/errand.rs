//! Runs work in a child that then ends, so that all it learnt is gone except its answer.

use super::{Child, LaunchError, end, fork, system};
use crate::sys;
use crate::sys::prctl::{Prctl, prctl};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Bounds a child's answer, in bytes.
pub const MAX_ANSWER: u64 = 16 << 20;

/// Runs `work` in a forked copy of this process and returns its answer, of at most 16 MiB. What the child
/// learnt on the way is gone with it. A held signal that asks this process to end interrupts the wait.
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

/// As [`in_child`], for a caller that waits for the answer itself, and not for ever.
#[derive(Debug)]
pub struct Errand {
    /// The child that does the work. The caller must end it and wait for it.
    pub child: Child,
    /// The answer, up to the end of file; empty if the work failed.
    pub answer: OwnedFd,
}

impl Errand {
    /// Starts the child. It keeps the standard streams and no other descriptor that is open here: even if it
    /// hangs and can't be killed, nobody waits in vain for an end of file. `work` must own no descriptor.
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
        // No other process may look into the child, and it ends with its parent, which may be gone already.
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
