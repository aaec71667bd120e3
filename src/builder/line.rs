//! The builder as the heart sees it: a process, and the channel to it.

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
    /// The channel to it.
    pub wire: Wire,
}

impl Builder {
    /// Forks the builder from the heart, as the heart's last act before it gives up its privileges. `held` is
    /// the lock on the sandbox's name, which the builder holds as long as it lives, and the state directory,
    /// which it works in. `limits` are the sandbox's.
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

    /// Reads the builder's next message, without waiting.
    ///
    /// # Errors
    /// [`WireError::NotReady`] if there is none; [`WireError::Closed`] if the builder is gone.
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

    /// Tells the builder what became of the cage that it built.
    pub fn tell(&self, word: &ToBuilder) {
        // An error is ignored: a builder that is gone needs no answer.
        let _ = self.wire.send(word, &[], Some(WISH_PATIENCE));
    }
}

/// A message of the builder, with its descriptors.
pub enum Word {
    /// The init of another cage was started.
    Begun(Child),
    /// The cage is ready.
    Built {
        /// The supervisor's end of the channel to its init.
        channel: OwnedFd,
        /// The sealed plan.
        plan: OwnedFd,
        /// The uid of the operator who wants it.
        uid: u32,
    },
    /// The cage could not be built.
    Failed,
}
