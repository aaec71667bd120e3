//! Processes that were told their program and have not executed it yet.
//!
//! ```text
//! told ─▶ silent ─┬─ its filter's listener ─▶ silent …
//!                 ├─ its end: it has executed      ─▶ the table
//!                 └─ why it could not, or the deadline ─▶ a refusal
//! ```
//! To open a program may last as long as somebody else likes: a network filesystem, an automounter. While
//! init waited, nobody's connect would be let go on; so it never waits for them: what they say is heard by
//! the loop, between everything else.
//!
//! Until the end of its line one of them is our own code with nothing but its streams open, and no process of
//! an agent's. Must never be waited for, not even when it was killed: a process that waits for a server can't
//! die before that answers.

use super::handouts::system;
use super::standby::{Failed, Said, Standby};
use crate::protocol::{Refusal, RequestId};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long a child may take to execute its program once it was told.
pub(crate) const STARTED_WITHIN: Duration = Duration::from_secs(10);

/// A child on its way to its program.
pub(super) struct Starting {
    pub(super) child: Standby,
    /// Whether it has heard of its program.
    pub(super) told: bool,
    /// Whether its connects are listened to, where they must be.
    pub(super) watched: bool,
    pub(super) start_time: u64,
    /// The terminal's master, for the table, and the same for whoever asked.
    pub(super) masters: Option<[OwnedFd; 2]>,
}

/// One that somebody waits for.
pub(super) struct Awaited {
    pub(super) id: RequestId,
    pub(super) agent: String,
    starting: Starting,
    until: Instant,
}

/// What is new of one.
pub(super) enum News {
    /// Its filter's listener, to be served before it can connect.
    Listener(OwnedFd),
    /// It has executed its program.
    Executed,
    /// It never will.
    Refused(Refusal),
}

impl Awaited {
    pub(super) fn new(id: RequestId, agent: String, starting: Starting) -> Self {
        Self { id, agent, starting, until: Instant::now() + STARTED_WITHIN }
    }

    pub(super) fn pid(&self) -> i32 {
        self.starting.child.pid()
    }

    /// What to poll for [`Awaited::hear`].
    pub(super) fn poll(&self) -> libc::pollfd {
        self.starting.child.poll()
    }

    /// The next thing that it has said; none while it is silent and has time left. Never waits.
    pub(super) fn hear(&mut self) -> Option<News> {
        loop {
            return match self.starting.child.hear_now() {
                Ok(None) if Instant::now() < self.until => None,
                Ok(None) => Some(News::Refused(before_exec("waiting for it to begin", libc::ETIMEDOUT))),
                Ok(Some(Said::Listener(listener))) => {
                    self.starting.watched = true;
                    Some(News::Listener(listener))
                }
                Ok(Some(Said::Work(_))) => continue,
                Ok(Some(Said::Failed(Failed { step, errno }))) => {
                    Some(News::Refused(before_exec(&step, if errno == 0 { libc::EPERM } else { errno })))
                }
                Ok(Some(Said::NotExecuted(errno))) => Some(News::Refused(Refusal::Exec { errno })),
                Ok(Some(Said::End)) => Some(self.ended()),
                Err(error) => Some(News::Refused(system("waiting for a child")(error))),
            };
        }
    }

    fn ended(&self) -> News {
        let broken = |what: &'static str, errno| system(what)(io::Error::from_raw_os_error(errno));
        if !self.starting.told {
            return News::Refused(broken("giving a child its program", libc::EPIPE));
        }
        if !self.starting.watched {
            // Nobody would ever answer its connects.
            return News::Refused(broken("taking a child's seccomp listener", libc::EPROTO));
        }
        News::Executed
    }

    /// Somebody has reaped it.
    pub(super) fn note_reaped(&mut self) {
        self.starting.child.note_reaped();
    }

    /// Kills it and goes on; whoever reaps children takes it some day.
    pub(super) fn give_up(self) {
        self.starting.child.give_up();
    }

    /// The caller's to reap: who asked, for which agent, and what goes into the table.
    pub(super) fn into_process(self) -> (RequestId, String, Process) {
        let Starting { child, start_time, masters, .. } = self.starting;
        (self.id, self.agent, Process { pid: child.into_pid(), start_time, masters })
    }
}

/// A process that executes its program.
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) start_time: u64,
    pub(super) masters: Option<[OwnedFd; 2]>,
}

fn before_exec(step: &str, errno: i32) -> Refusal {
    Refusal::BeforeExec { step: step.to_owned(), errno }
}
