//! The upstream connections of one connection of the agent.
//!
//! Owned by it and gone with it, and each by its caller, so that no request ever rides a connection that another identity opened; when the
//! agent's connection changes hands (another caller is judged on it), what is pooled is dropped first. A new policy may judge
//! addresses by another rule: what was dialled under the one before is dropped then, too.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use policy::{AddressRule, Caller, Destination};
use tokio::time::{Instant, timeout};

use crate::caller::Judged;
use crate::limits::{MAX_IDLE_UPSTREAM, UPSTREAM_IDLE};
use crate::upstream::{Sender, Wire};

/// What makes two requests fit one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// Who asks: an answer that is read to its end late goes back to nobody else's connections.
    pub(crate) caller: Arc<Caller>,
    pub(crate) destination: Destination,
    pub(crate) wire: Wire,
    /// What the address was judged by that is dialled for it.
    pub(crate) addresses: AddressRule,
}

impl Hash for Key {
    /// By what differs mostly.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.destination.hash(state);
        self.wire.hash(state);
    }
}

impl Key {
    /// Whether a connection for `other` leads where one for this would, to an address that was judged by another rule.
    fn is_judged_otherwise(&self, other: &Self) -> bool {
        self.destination == other.destination && self.addresses != other.addresses
    }
}

/// A connection whose answer was just read to its end is ready within microseconds; one that isn't by then is busy
/// with a request body that its upstream didn't want.
const READY_WITHIN: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(crate) struct Pool {
    state: Mutex<State>,
    /// Held while a first connection is opened, so that a burst of HTTP/2 streams waits for it and shares it.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Nothing is pooled any more.
    closed: bool,
    owner: Option<Judged>,
    idle: Vec<(Key, Sender, Instant)>,
    shared: HashMap<Key, Sender>,
    http1_only: HashSet<Key>,
}

impl Pool {
    /// The map is left whole by every critical section, so a poisoned lock still guards a good map.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops everything unless it was opened for `caller`.
    pub(crate) fn claim(&self, caller: &Judged) {
        let mut state = self.lock();
        if state.owner.as_ref().is_some_and(|owner| owner != caller) {
            *state = State { closed: state.closed, ..State::default() };
        }
        state.owner.get_or_insert_with(|| caller.clone());
    }

    /// Drops everything for good: the agent's connection is over. What is still being read keeps its own connection, and whatever
    /// keeps only this pool (a request body that its server doesn't take) ends.
    pub(crate) fn close(&self) {
        *self.lock() = State { closed: true, ..State::default() };
    }

    /// A connection that is open and takes a request now.
    pub(crate) async fn take(&self, key: &Key) -> Option<Sender> {
        if let Some(shared) = self.shared(key) {
            return Some(shared);
        }
        while let Some(mut idle) = self.idle(key) {
            if matches!(timeout(READY_WITHIN, idle.ready()).await, Ok(Ok(()))) {
                return Some(idle);
            }
        }
        None
    }

    /// The right to open the first connection for `key`; none if it is known that connections aren't shared.
    pub(crate) async fn opening(&self, key: &Key) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let shareable = matches!(key.wire, Wire::Tls | Wire::PlainHttp2);
        if !shareable || self.lock().http1_only.contains(key) {
            return None;
        }
        Some(self.opening.lock().await)
    }

    /// Notes a connection just opened, and shares it if it can be.
    pub(crate) fn opened(&self, key: &Key, sender: &Sender) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        match sender.another() {
            Some(another) => {
                state.shared.insert(key.clone(), another);
            }
            None => {
                state.http1_only.insert(key.clone());
            }
        }
    }

    /// Gives a connection back after its answer was read to the end.
    pub(crate) fn give_back(&self, key: Key, sender: Sender) {
        if sender.is_http2() || sender.is_closed() {
            return;
        }
        let mut state = self.lock();
        if state.closed {
            return;
        }
        // What nobody will ask for again.
        state.idle.retain(|(other, sender, since)| {
            !sender.is_closed() && since.elapsed() < UPSTREAM_IDLE && other.caller == key.caller
        });
        if state.idle.len() >= MAX_IDLE_UPSTREAM {
            state.idle.remove(0);
        }
        state.idle.push((key, sender, Instant::now()));
    }

    fn shared(&self, key: &Key) -> Option<Sender> {
        let mut state = self.lock();
        state.shared.retain(|other, _| !key.is_judged_otherwise(other));
        let sender = state.shared.get(key)?;
        if sender.is_closed() {
            state.shared.remove(key);
            return None;
        }
        sender.another()
    }

    fn idle(&self, key: &Key) -> Option<Sender> {
        let mut state = self.lock();
        state.idle.retain(|(other, sender, since)| {
            !sender.is_closed() && since.elapsed() < UPSTREAM_IDLE && !key.is_judged_otherwise(other)
        });
        let at = state.idle.iter().rposition(|(idle, ..)| idle == key)?;
        Some(state.idle.remove(at).1)
    }
}
