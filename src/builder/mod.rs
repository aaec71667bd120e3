//! The builder: what a service needs a fourth process for. Heart and init could build no other cage once they are shut in, and must
//! not be able to; so a child of the heart's stays as it was before that, and sleeps until the operator wants one.
//!
//! ```text
//! policy set --restart-agents ──policy's text──▶ builder   its peer is the operator, says the kernel
//!                                                  │ checks it as a start does, makes an init (a child of the heart's), and the cage
//!                                                  ▼ proven, or told why not: the cage in use has noticed nothing
//!                                                heart     agents stopped, the old init ended, the next supervisor started in it
//! ```
//! It listens in the state directory on a socket that only the operator may connect to ([`BUILD_SOCKET`]). Nothing of the sandbox speaks
//! to it: the supervisor, which parses what is hostile, can't reach the socket when started as root, and has no say in what a cage allows.
//! It keeps the privileges that cofferdam was started with, holds no credential, and is told nothing but that one text.

mod ask;
mod line;

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use agent::launch::cgroup::Cgroup;
use agent::launch::{self, Foundation, NewInit, Parent};
use agent::protocol::{FromBuilder, ToBuilder};
use agent::wire::{self, Wire, WireError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};

use crate::cli::out::Failure;
use crate::cli::policies::{self, FILE_MAX};
use crate::cli::site::Site;
use crate::plan::Plan;
use crate::sealed;
use crate::state::BUILD_SOCKET;

pub use ask::another_cage;
pub use line::{Builder, Word};

/// An operator's command has its text ready, and reads the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of a wish.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// The agents run in another cage.
    Stands,
    /// They run where they ran.
    Refused { why: String },
}

/// What a builder is made with.
#[derive(Debug)]
pub struct Commission {
    /// Where cages are built.
    pub site: Site,
    /// Its socket.
    pub listener: UnixListener,
}

/// What it works with.
struct Work<'a> {
    site: &'a Site,
    plan: &'a Plan,
    limits: Option<&'a Cgroup>,
    heart: &'a Wire,
}

/// A cage that was built.
struct Built {
    channel: OwnedFd,
    plan: OwnedFd,
}

/// Waits for wishes until the heart is gone, which removes what nobody else may.
fn live(work: &Work<'_>, listener: &UnixListener) -> io::Result<()> {
    let signals = SignalFd::with_flags(&SigSet::thread_get_mask()?, SfdFlags::SFD_CLOEXEC)?;
    let mut plan = work.plan.clone();
    loop {
        let mut fds = [signals.as_fd(), work.heart.as_fd(), listener.as_fd()]
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [signalled, heart, wish] = fds.map(|fd| fd.any().unwrap_or(false));
        if heart || (signalled && told_to_end(&signals)?) {
            // The working directory is the state directory.
            let _gone = fs::remove_file(BUILD_SOCKET);
            return Ok(());
        }
        if wish && let Ok((peer, _)) = listener.accept() {
            // Whoever went away meanwhile, or isn't the operator, is nobody's loss.
            let _ = serve(work, &mut plan, peer);
        }
    }
}

/// By the kernel, when the heart died; others of the heart's signals are none of ours.
fn told_to_end(signals: &SignalFd) -> io::Result<bool> {
    let info = signals.read_signal()?;
    Ok(info.is_some_and(|info| info.ssi_signo == nix::libc::SIGTERM as u32))
}

/// Whose process is at the other end: root's or our own user's, or nobody's who counts.
fn operator_at(stream: &UnixStream) -> io::Result<u32> {
    let uid = getsockopt(stream, PeerCredentials)?.uid();
    match uid == 0 || uid == nix::unistd::geteuid().as_raw() {
        true => Ok(uid),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// Reads one wish, and answers it once it has come true or to nothing.
fn serve(work: &Work<'_>, plan: &mut Plan, mut peer: UnixStream) -> io::Result<()> {
    let uid = operator_at(&peer)?;
    peer.set_read_timeout(Some(PATIENCE))?;
    peer.set_write_timeout(Some(PATIENCE))?;
    let mut length = [0; 8];
    peer.read_exact(&mut length)?;
    let mut text = String::new();
    (&mut peer).take(FILE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 != u64::from_le_bytes(length) {
        // Whoever asked was interrupted in the middle, and half a policy is another one.
        return Ok(());
    }
    let answer = match turn(work, plan, text, uid) {
        Ok(()) => Answer::Stands,
        Err(Failure { message, .. }) => Answer::Refused { why: message },
    };
    peer.write_all(&serde_json::to_vec(&answer)?)?;
    peer.shutdown(Shutdown::Both)
}

/// Builds the cage of a policy and has the heart use it.
fn turn(work: &Work<'_>, plan: &mut Plan, text: String, uid: u32) -> Result<(), Failure> {
    if text.len() as u64 > FILE_MAX {
        return Err(Failure::refused(format!("the policy is larger than {FILE_MAX} bytes")));
    }
    let mut next = plan.clone();
    next.policy.text = text;
    next.cages_before += 1;
    // Without colours: who reads it has another terminal than we.
    let candidate = policies::load(&next.policy).map_err(|errors| Failure::refused(errors.render(false)))?;
    next.cage = work.site.cage(&plan.cage, candidate.policy())?;
    let lost = |e: WireError| Failure::refused(format!("the heart does not answer: {e}"));
    let built = build(work, &next).inspect_err(|_| {
        // What was begun is the heart's to wait for.
        let _ = work.heart.send(&FromBuilder::Failed, &[], Some(PATIENCE));
    })?;
    let fds = [built.channel.as_fd(), built.plan.as_fd()];
    work.heart.send(&FromBuilder::Built { uid }, &fds, Some(PATIENCE)).map_err(lost)?;
    drop(built);
    match work.heart.recv::<ToBuilder>(None).map_err(lost)?.body {
        ToBuilder::Stands => {
            *plan = next;
            Ok(())
        }
        ToBuilder::Dropped { why } => Err(Failure::refused(why)),
    }
}

fn build(work: &Work<'_>, next: &Plan) -> Result<Built, Failure> {
    let told = |e: &dyn std::fmt::Display| Failure::refused(e.to_string());
    let init = NewInit::begin(Foundation::of(&next.cage), Parent::Callers).map_err(|e| told(&e))?;
    if let (Some(pid), Some(pidfd)) = (init.pid(), init.pidfd()) {
        let begun = work.heart.send(&FromBuilder::Begun { pid }, &[pidfd], Some(PATIENCE));
        begun.map_err(|e| told(&e))?;
    }
    let (channel, inits) = wire::pair().map_err(|e| told(&e))?;
    let child = init.furnish_beside(&next.cage, inits, work.limits).map_err(|e| told(&e))?;
    let channel = launch::proven(channel).map_err(|e| told(&e)).inspect_err(|_| child.kill())?;
    let plan = sealed::seal_json("cofferdam-plan", next).inspect_err(|_| child.kill())?;
    Ok(Built { channel, plan })
}
