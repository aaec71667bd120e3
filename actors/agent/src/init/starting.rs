//! Processes that were told their program and have not executed it yet.
//!
//! ```text
//! told ─▶ silent ─┬─ its filter's listener ─▶ silent …
//!                 ├─ its end: it has executed      ─▶ the table
//!                 └─ why it could not, or the deadline ─▶ a refusal
//! ```
//! Opening a program may last as long as a network filesystem or an automounter likes. While init waited, no
//! connect of any process would be let go on. So init never waits for these children: the loop hears what
//! they say, between everything else.
//!
//! Until its line ends, such a child is our own code with nothing but its streams open, and no process of an
//! agent's. Must never be waited for, not even when it was killed: a process that waits for a server can't
//! die before the server answers.

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
    /// Whether it was told its program.
    pub(super) told: bool,
    /// Whether its filter's listener is served, or none is needed.
    pub(super) watched: bool,
    pub(super) start_time: u64,
    /// The terminal's master, for the table, and a copy for the asker.
    pub(super) masters: Option<[OwnedFd; 2]>,
}

/// A child on its way, and the request that waits for it.
pub(super) struct Awaited {
    pub(super) id: RequestId,
    pub(super) agent: String,
    starting: Starting,
    until: Instant,
}

/// What has happened to such a child.
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

    /// Returns what to poll for before [`Awaited::hear`].
    pub(super) fn poll(&self) -> libc::pollfd {
        self.starting.child.poll()
    }

    /// Returns the child's next news; `None` while it is silent and has time left. Never waits.
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

    /// Notes that the child was reaped.
    pub(super) fn note_reaped(&mut self) {
        self.starting.child.note_reaped();
    }

    /// Kills the child without waiting; it is reaped like any other once it dies.
    pub(super) fn give_up(self) {
        self.starting.child.give_up();
    }

    /// Returns the request, its agent, and what goes into the table; leaves reaping the process to the
    /// caller.
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
