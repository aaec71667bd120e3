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
use tokio::time::{Instant, sleep};

use crate::limits::{MAX_SHELVED, SHELF_IDLE};
use crate::pool::{self, Key};
use crate::upstream::Sender;

/// See the module. Clones share it.
#[derive(Clone, Default)]
pub struct Shelf(Arc<Mutex<Vec<Kept>>>);

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
    /// closed. Must be called in a tokio runtime.
    pub(crate) fn put(&self, kept: Vec<Kept>) {
        if kept.is_empty() {
            return;
        }
        let mut shelf = lock(&self.0);
        let was_empty = shelf.is_empty();
        shelf.extend(kept);
        shelf.retain(Kept::is_good);
        let beyond = shelf.len().saturating_sub(MAX_SHELVED);
        shelf.drain(..beyond);
        if was_empty && !shelf.is_empty() {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
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
        lock(&self.0).len()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn latest(&self, key: &Key) -> Option<Sender> {
        let mut shelf = lock(&self.0);
        let at = shelf.iter().rposition(|kept| kept.key == *key && kept.is_good())?;
        Some(shelf.remove(at).sender)
    }
}

/// Every critical section leaves the list whole, so a poisoned lock still guards a good one.
fn lock(shelf: &Mutex<Vec<Kept>>) -> MutexGuard<'_, Vec<Kept>> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes what nobody has taken, until the shelf is empty.
async fn sweep(shelf: Weak<Mutex<Vec<Kept>>>) {
    loop {
        sleep(SHELF_IDLE).await;
        let Some(shelf) = shelf.upgrade() else { return };
        let mut shelf = lock(&shelf);
        shelf.retain(Kept::is_good);
        if shelf.is_empty() {
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
