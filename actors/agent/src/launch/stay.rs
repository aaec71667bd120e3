//! A child that stays behind with the privileges that this process has now, for what this process can't do
//! once it is confined.

use super::{Child, LaunchError, require_single_thread, system};
use crate::own;
use crate::sys;
use crate::sys::fd::Stream;
use crate::sys::prctl::{Prctl, prctl};
use crate::sys::process::Cloned;
use crate::wire::{self, Wire, WireError};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Forks a child that does `work` with its end of a new channel, and ends with the code that it gives. It
/// keeps the standard error and these descriptors, and nothing else that is open here. It has a session of
/// its own and ignores every signal that asks it to end, which is for its parent to judge: `work` must end
/// when the channel is closed.
///
/// Values of the caller that `work` borrows are copies in the child, none of which is ever dropped there.
///
/// # Errors
/// See [`LaunchError`].
pub fn stay_behind(
    name: &CStr,
    title: &str,
    keep: &[BorrowedFd<'_>],
    work: impl FnOnce(Wire) -> u8,
) -> Result<(Child, Wire), LaunchError> {
    require_single_thread()?;
    let channel = |e: WireError| system("a channel to a child")(io::Error::other(e));
    let (ours, theirs) = wire::pair().map_err(channel)?;
    let ours = Wire::new(ours).map_err(channel)?;
    match sys::process::clone(0).map_err(system("fork"))? {
        Cloned::Child => {
            // A panic must not unwind into our caller's frames, which are copies here.
            let life = std::panic::AssertUnwindSafe(|| {
                shut_off(name, title, keep, &theirs).map_err(drop)?;
                Wire::new(theirs).map(work).map_err(drop)
            });
            let code = match std::panic::catch_unwind(life) {
                Ok(Ok(code)) => code,
                Ok(Err(())) | Err(_) => 125,
            };
            sys::process::exit_now(code.into())
        }
        Cloned::Parent { pid, pidfd } => Ok((Child { pid, pidfd, cgroup: None }, ours)),
    }
}

#[expect(unsafe_code, reason = "a fresh child closes what isn't its own")]
fn shut_off(name: &CStr, title: &str, keep: &[BorrowedFd<'_>], channel: &OwnedFd) -> io::Result<()> {
    sys::signals::be_deaf()?;
    prctl(Prctl::SetDumpable(false))?;
    own::no_core_files()?;
    nix::unistd::setsid()?;
    own::retitle(name, title)?;
    let kept: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).chain([channel.as_raw_fd()]).collect();
    // SAFETY: what else is open belongs to copies of our parent's values, in frames to which the child never
    // returns.
    unsafe { sys::fd::close_all_but(&kept) }?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    sys::fd::become_stream(null.as_fd(), Stream::Input)?;
    sys::fd::become_stream(null.as_fd(), Stream::Output)
}
