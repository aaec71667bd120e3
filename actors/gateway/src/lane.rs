//! The connections to one provider that are kept for reuse, and its health.
//!
//! A request is sent again only when hyper hands it back unsent: one that may have reached the provider is
//! never repeated there. An HTTP/1.1 connection serves one request until its answer is read. An HTTP/2
//! connection belongs to one agent, since its streams share a flow-control window and a limit on their number
//! that the provider sets.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::Response;
use hyper::body::Incoming;
use policy::Party;
use telemetry::complaints::Complaints;
use tokio::{runtime::Handle, time::timeout};

use crate::{
    body::Held,
    config::Timeouts,
    health::Health,
    line::{Line, Sent},
    outgoing::Outgoing,
    rest::Rest,
    upstream::{Dial, Upstream},
};

/// Most idle HTTP/1.1 connections that are kept for one provider.
pub const MAX_IDLE: usize = 8;
/// Most HTTP/2 connections that are kept for one provider, one for each agent. Beyond that, the least
/// recently used one is no longer kept, and ends with its last answer.
pub const MAX_SHARED: usize = 16;
/// How long an idle HTTP/1.1 connection is kept: shorter than the 60–75 s after which common servers close
/// it.
pub const IDLE_LIFE: Duration = Duration::from_secs(45);
/// How long after the end of an answer the provider may take to read the rest of the request: one that takes
/// longer doesn't want it.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsent {
    /// Nothing was sent: another target may be tried.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// Nothing was sent: another target may be tried.
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    /// The request was sent, and perhaps answered in part.
    #[error("no answer within {0:?}")]
    FirstByteTimeout(Duration),
    /// The request was sent, and the connection broke or didn't speak HTTP.
    #[error("the connection failed: {0}")]
    Broken(String),
    /// The request can't be written; a fault of ours.
    #[error("the request can't be written")]
    Unwritable,
}

impl Unsent {
    pub fn may_try_another(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout(_))
    }
}

/// Connections that are kept for further requests.
#[derive(Default)]
struct Kept {
    /// Idle HTTP/1.1 connections, each with the time since which it is idle.
    idle: Vec<(Instant, Line)>,
    /// HTTP/2 connections, each with its agent. The most recently used one stands last.
    shared: Vec<(Party, Line)>,
}

impl Kept {
    fn shared(&mut self, party: Party) -> Option<Line> {
        self.shared.retain(|(_, line)| line.is_alive());
        let at = self.shared.iter().position(|(whose, _)| *whose == party)?;
        let found = self.shared.remove(at);
        let another = found.1.another();
        self.shared.push(found);
        another
    }

    fn idle(&mut self) -> Option<Line> {
        while let Some((since, line)) = self.idle.pop() {
            if since.elapsed() < IDLE_LIFE && line.is_alive() {
                return Some(line);
            }
        }
        None
    }

    /// Keeps an HTTP/2 connection for its agent's next requests.
    fn share(&mut self, party: Party, line: &Line) {
        if self.shared(party).is_none()
            && let Some(another) = line.another()
        {
            if self.shared.len() >= MAX_SHARED {
                self.shared.remove(0);
            }
            self.shared.push((party, another));
        }
    }

    fn give_up(&mut self, line: &Line) {
        self.shared.retain(|(_, kept)| !kept.is(line));
    }
}

/// The kept connections, shared by [`Lane`] and its leases. The lock is held for a push or a pop, never
/// across an await; the value is consistent even if the lock is poisoned.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<Kept>>);

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connections to one provider; see the module.
#[derive(Default)]
pub(crate) struct Lane {
    kept: Shelf,
    pub health: Health,
    /// Avoids the provider for a while after it couldn't be connected to.
    pub rest: Rest,
    /// Limits how often its failures are logged.
    pub complaints: Complaints,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

impl Lane {
    /// Sends a request for `party`, over a kept connection if one is alive. The [`Lease`] must be dropped
    /// together with the answer's body.
    pub async fn send(
        &self,
        party: Party,
        dial: &dyn Dial,
        upstream: &Upstream,
        outgoing: &Outgoing,
        timeouts: &Timeouts,
    ) -> Result<(Response<Incoming>, Lease), Unsent> {
        let answer = self.send_any(party, dial, upstream, outgoing, timeouts).await;
        match &answer {
            Ok((response, _)) if response.status().is_server_error() => self.health.failed(),
            Ok(_) => self.health.answered(),
            Err(_) => self.health.failed(),
        }
        answer
    }

    async fn send_any(
        &self,
        party: Party,
        dial: &dyn Dial,
        upstream: &Upstream,
        outgoing: &Outgoing,
        timeouts: &Timeouts,
    ) -> Result<(Response<Incoming>, Lease), Unsent> {
        while let Some(mut line) = self.take(party) {
            match line.try_send(outgoing, timeouts.first_byte).await? {
                Sent::Answer(response) => return Ok((response, self.lease(party, line, outgoing))),
                // A kept connection had died unnoticed; try the next.
                Sent::HandedBack(_) => self.kept.lock().give_up(&line),
            }
        }
        let mut line = timeout(timeouts.connect, Line::open(dial, upstream))
            .await
            .map_err(|_| Unsent::ConnectTimeout(timeouts.connect))?
            .map_err(Unsent::Connect)?;
        match line.try_send(outgoing, timeouts.first_byte).await? {
            Sent::Answer(response) => Ok((response, self.lease(party, line, outgoing))),
            Sent::HandedBack(fault) => Err(Unsent::Connect(io::Error::other(fault))),
        }
    }

    fn take(&self, party: Party) -> Option<Line> {
        let mut kept = self.kept.lock();
        kept.shared(party).or_else(|| kept.idle())
    }

    fn lease(&self, party: Party, line: Line, outgoing: &Outgoing) -> Lease {
        if line.is_shared() {
            self.kept.lock().share(party, &line);
        }
        Lease { line: Some(line), body: outgoing.held.clone(), kept: self.kept.clone() }
    }

    /// Closes kept connections that are too old or dead, and returns how many are left. The actor calls it
    /// periodically; [`Lane::send`] doesn't depend on it.
    pub fn sweep(&self) -> usize {
        let mut kept = self.kept.lock();
        kept.shared.retain(|(_, line)| line.is_alive());
        kept.idle.retain(|(since, line)| since.elapsed() < IDLE_LIFE && line.is_alive());
        kept.idle.len() + kept.shared.len()
    }
}

/// A connection while an answer comes on it. When dropped, the connection is kept for the next request, or
/// closed if the provider hasn't read the whole of this one: nobody waits for that any more.
pub(crate) struct Lease {
    line: Option<Line>,
    /// Tells whether the request's body is still held.
    body: Held,
    kept: Shelf,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut line) = self.line.take() else { return };
        if line.is_shared() {
            if self.body.is_held() {
                // The connection isn't kept, but its other streams go on.
                self.kept.lock().give_up(&line);
            }
        } else if let Ok(runtime) = Handle::try_current() {
            let kept = self.kept.clone();
            runtime.spawn(async move {
                if let Ok(Ok(())) = timeout(READY_WITHIN, line.ready()).await {
                    let mut kept = kept.lock();
                    if kept.idle.len() < MAX_IDLE {
                        kept.idle.push((Instant::now(), line));
                    }
                }
            });
        }
    }
}
