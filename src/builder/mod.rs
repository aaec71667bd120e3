//! The builder: a fourth process that a service has. Once heart and init have given up their privileges they
//! can't build another cage, and must not be able to. So a child of the heart keeps the privileges, and
//! sleeps until the operator wants another cage.
//!
//! ```text
//! policy set --restart-agents ──policy's text──▶ builder   its peer is the operator, says the kernel
//!                                                  │ has a child check it as a start does, makes an init (a child of the heart's), and the cage
//!                                                  ▼ proven, or told why not: the cage in use has noticed nothing
//!                                                heart     agents stopped, the old init ended, the next supervisor started in it
//! ```
//! It listens in the state directory on a socket that only the operator may connect to
//! ([`state::BUILD_SOCKET`]). Nothing of the sandbox talks to it: the supervisor, which parses hostile input,
//! can't reach the socket when started as root, and has no say in what a cage allows. It keeps the privileges
//! that cofferdam was started with, holds no credential, and reads no input but the policy's text.

mod ask;
mod line;
mod look;
mod wish;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use agent::launch::cgroup::Cgroup;
use agent::launch::{self, Foundation, NewInit, Parent};
use agent::protocol::{FromBuilder, ToBuilder};
use agent::wire::{self, Wire, WireError};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::failure::Failure;
use crate::plan::Plan;
use crate::sealed;
use crate::site::{Site, places};
use crate::state;
use crate::waits::WISH_PATIENCE;
use wish::{Answer, Asker, Happened, wait_for};

pub use ask::{Came, another_cage};
pub use line::{Builder, Word};
pub use wish::Wish;

/// What a builder is made with.
#[derive(Debug)]
pub struct Commission {
    /// Where cages are built.
    pub site: Site,
    /// The builder's socket.
    pub listener: UnixListener,
}

/// What the builder works with.
struct Work<'a> {
    site: &'a Site,
    plan: &'a Plan,
    limits: Option<&'a Cgroup>,
    heart: &'a Wire,
}

/// A cage that was built and proven: the channel to its init, and its sealed plan.
struct Built {
    channel: OwnedFd,
    plan: OwnedFd,
}

/// Serves wishes until the heart is gone. Then removes the sandbox's sockets, also the supervisor's, which
/// may have been killed together with the heart. The sandbox's name is ours as long as we hold its lock, so
/// no other sandbox's sockets are there.
fn live(work: &Work<'_>, listener: &UnixListener) -> io::Result<()> {
    let mut plan = work.plan.clone();
    loop {
        match wait_for(listener.as_fd(), work.heart, None)? {
            Happened::Came => {}
            Happened::TimeIsUp => continue,
            Happened::HeartGone => {
                state::remove_sockets();
                return Ok(());
            }
        }
        reap();
        if let Ok((peer, _)) = listener.accept() {
            // A peer that isn't the operator is dropped without an answer.
            let _ = Asker::admit(peer).map(|asker| serve(work, &mut plan, asker));
        }
    }
}

/// Reaps children that could not be ended when they should have been.
fn reap() {
    let any_ended = || waitpid(None, Some(WaitPidFlag::WNOHANG));
    while any_ended().is_ok_and(|status| status != WaitStatus::StillAlive) {}
}

/// Reads one wish, and answers it once it was carried out or has failed.
fn serve(work: &Work<'_>, plan: &mut Plan, mut asker: Asker) {
    let answer = match asker.wish(work.heart) {
        Ok(wish) => turn(work, plan, wish, &mut asker),
        Err(error) => {
            Err(stays(Failure::refused(format!("what was asked for is not a whole policy: {error}"))))
        }
    };
    asker.tell(&answer.unwrap_or_else(|Failure { message, .. }| Answer::Refused { why: message }));
}

/// Adds to a refusal that the agents keep running: none was stopped.
fn stays(Failure { message, code }: Failure) -> Failure {
    Failure { message: format!("{message}\nthe agents keep running under the policy in force"), code }
}

/// Builds the cage of a policy, if that needs another one, and has the heart use it.
fn turn(work: &Work<'_>, plan: &mut Plan, wish: Wish, asker: &mut Asker) -> Result<Answer, Failure> {
    let Some((mut next, warnings)) = look::another(work, plan, wish).map_err(stays)? else {
        return Ok(Answer::Same);
    };
    asker.tell(&Answer::Building);
    let lost = |e: WireError| Failure::refused(format!("the heart does not answer: {e}"));
    let built = build(work, &mut next, asker).map_err(stays).inspect_err(|_| {
        // The heart reaps the init that was begun.
        let _ = work.heart.send(&FromBuilder::Failed, &[], Some(WISH_PATIENCE));
    })?;
    let fds = [built.channel.as_fd(), built.plan.as_fd()];
    work.heart.send(&FromBuilder::Built { uid: asker.uid }, &fds, Some(WISH_PATIENCE)).map_err(lost)?;
    drop(built);
    match work.heart.recv::<ToBuilder>(None).map_err(lost)?.body {
        ToBuilder::Stands => {
            *plan = next;
            Ok(Answer::Stands { warnings })
        }
        ToBuilder::Dropped { why } => Err(Failure::refused(why)),
    }
}

fn build(work: &Work<'_>, next: &mut Plan, asker: &Asker) -> Result<Built, Failure> {
    let told = |e: &dyn std::fmt::Display| Failure::refused(e.to_string());
    let init = NewInit::begin(Foundation::of(&next.cage), Parent::Callers).map_err(|e| told(&e))?;
    if let (Some(pid), Some(pidfd)) = (init.pid(), init.pidfd()) {
        let begun = work.heart.send(&FromBuilder::Begun { pid }, &[pidfd], Some(WISH_PATIENCE));
        begun.map_err(|e| told(&e))?;
    }
    let (channel, inits) = wire::pair().map_err(|e| told(&e))?;
    let child = init.furnish_beside(&next.cage, inits, work.limits).map_err(|e| told(&e))?;
    let finish = || {
        let channel = launch::proven(channel).map_err(|e| told(&e))?;
        places::remember(&work.site.dir, &mut next.cage)?;
        let plan = sealed::seal_json("cofferdam-plan", next)?;
        match asker.is_gone() {
            true => Err(Failure::refused("whoever asked for it is gone")),
            false => Ok(Built { channel, plan }),
        }
    };
    finish().inspect_err(|_| child.kill())
}
