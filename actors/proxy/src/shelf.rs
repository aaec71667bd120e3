//! Upstream connections that outlive the agent's connection for a moment.
//!
//! Programs that open a connection for each request (shells that call curl(1), package managers) then pay one
//! handshake with a server, not one each. What [`Key`] says holds here too: a connection is taken by the
//! caller that opened it alone, for the same destination, and under the same rule for addresses.
//!
//! None stays longer than [`SHELF_IDLE`]: servers close idle connections after seconds, and a request that
//! meets the close is lost. One on which a user was authenticated (NTLM, Negotiate) never comes here: see
//! [`binds_its_connection`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use http::{HeaderMap, header};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use crate::limits::{MAX_SHELVED, SHELF_IDLE};
use crate::pool::{self, Key};
use crate::upstream::Sender;

/// See the module. Clones share it.
#[derive(Clone, Default)]
pub struct Shelf(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    kept: Vec<Kept>,
    /// Whether a task is there that closes what nobody takes.
    is_swept: bool,
}

/// A connection that is used by nobody.
pub(crate) struct Kept {
    pub(crate) key: Key,
    pub(crate) sender: Sender,
    /// The end of its last answer.
    pub(crate) since: Instant,
}

impl Kept {
    fn is_good(&self) -> bool {
        !self.sender.is_closed() && self.since.elapsed() < SHELF_IDLE
    }
}

impl Shelf {
    /// Takes connections that their pool has no use for any more. Beyond [`MAX_SHELVED`] the oldest are
    /// closed.
    pub(crate) fn put(&self, kept: Vec<Kept>) {
        // Without a runtime this is the process's end, and nobody comes any more.
        let (false, Ok(runtime)) = (kept.is_empty(), Handle::try_current()) else { return };
        let mut state = lock(&self.0);
        state.kept.extend(kept);
        state.kept.retain(Kept::is_good);
        let beyond = state.kept.len().saturating_sub(MAX_SHELVED);
        state.kept.drain(..beyond);
        if !std::mem::replace(&mut state.is_swept, true) {
            runtime.spawn(sweep(Arc::downgrade(&self.0)));
        }
    }

    /// Returns a connection that takes a request now, if there is one; the latest, since it has waited least.
    pub(crate) async fn take(&self, key: &Key) -> Option<Sender> {
        while let Some(mut sender) = self.latest(key) {
            if pool::is_ready(&mut sender).await {
                return Some(sender);
            }
        }
        None
    }

    /// How many connections wait here.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        lock(&self.0).kept.len()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn latest(&self, key: &Key) -> Option<Sender> {
        let kept = &mut lock(&self.0).kept;
        let at = kept.iter().rposition(|kept| kept.key == *key && kept.is_good())?;
        Some(kept.remove(at).sender)
    }
}

/// Every critical section leaves the list whole, so a poisoned lock still guards a good one.
fn lock(shelf: &Mutex<State>) -> MutexGuard<'_, State> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes what nobody has taken, until the shelf is empty.
async fn sweep(shelf: Weak<Mutex<State>>) {
    loop {
        sleep(SHELF_IDLE).await;
        let Some(shelf) = shelf.upgrade() else { return };
        let mut state = lock(&shelf);
        state.kept.retain(Kept::is_good);
        if state.kept.is_empty() {
            state.is_swept = false;
            return;
        }
    }
}

/// Whether a request authenticates not itself but the connection that it comes by (RFC 4559 section 6, for
/// `Negotiate`; `NTLM` likewise): whoever uses that connection later is taken for this user.
pub(crate) fn binds_its_connection(headers: &HeaderMap) -> bool {
    const SCHEMES: [&[u8]; 2] = [b"negotiate", b"ntlm"];
    headers.get_all(header::AUTHORIZATION).iter().any(|value| {
        let value = value.as_bytes().trim_ascii_start();
        SCHEMES
            .iter()
            .any(|scheme| value.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme)))
    })
}
