//! The builder as the heart sees it: a process, and the line to it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent::launch::cgroup::Cgroup;
use agent::launch::{self, Child, LaunchError};
use agent::protocol::{FromBuilder, ToBuilder};
use agent::wire::{Packet, Wire, WireError};

use super::{Commission, Work, live};
use crate::plan::Plan;
use crate::waits::WISH_PATIENCE;

/// The builder, as the heart sees it.
pub struct Builder {
    /// The process.
    pub child: Child,
    /// The line to it.
    pub wire: Wire,
}

impl Builder {
    /// Forks it from the heart, whose last act before it is shut in this is. `held` is the lock on the
    /// sandbox's name, which it holds as long as it lives, and the state directory, which it works in.
    /// `limits` are the sandbox's.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn begin(
        commission: Commission,
        plan: &Plan,
        held: &[BorrowedFd<'_>],
        limits: Option<&Cgroup>,
    ) -> Result<Self, LaunchError> {
        let Commission { site, listener } = commission;
        let keep = [held, &[listener.as_fd()]].concat();
        let work = |heart: Wire| match live(&Work { site: &site, plan, limits, heart: &heart }, &listener) {
            Ok(()) => 0,
            Err(_) => 1,
        };
        let (child, wire) = launch::stay_behind(c"cofferdam: bld", "cofferdam: builder", &keep, work)?;
        Ok(Self { child, wire })
    }

    /// The next thing that it has to say.
    ///
    /// # Errors
    /// [`WireError::NotReady`] where there is none; [`WireError::Closed`] when it is gone.
    pub fn hear(&self) -> Result<Word, WireError> {
        let Packet { body, fds } = self.wire.try_recv::<FromBuilder>()?;
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or(WireError::Descriptors);
        Ok(match body {
            FromBuilder::Begun { pid } => Word::Begun(Child { pid, pidfd: next()?, cgroup: None }),
            FromBuilder::Built { uid } => Word::Built { channel: next()?, plan: next()?, uid },
            FromBuilder::Failed => Word::Failed,
        })
    }

    /// Tells it what became of what it built.
    pub fn tell(&self, word: &ToBuilder) {
        // One that is gone has nobody to tell.
        let _ = self.wire.send(word, &[], Some(WISH_PATIENCE));
    }
}

/// What a builder says, with the descriptors that belong to it.
pub enum Word {
    /// The init of another cage.
    Begun(Child),
    /// Its cage stands ready.
    Built {
        /// The supervisor's end of the channel to its init.
        channel: OwnedFd,
        /// The sealed plan.
        plan: OwnedFd,
        /// Who wants it.
        uid: u32,
    },
    /// It came to nothing.
    Failed,
}
