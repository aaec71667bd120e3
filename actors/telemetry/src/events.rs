//! The live feed of audit records, for whoever watches (the control socket's event stream). A slow watcher
//! loses the oldest and is told how many; it never slows the writer.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::audit::Record;

/// Records kept for a slow watcher.
pub const FEED_LENGTH: usize = 1024;

/// Where the records come out. Clones share one feed; it lives above every actor.
#[derive(Debug, Clone)]
pub struct Feed(broadcast::Sender<Arc<Record>>);

impl Default for Feed {
    fn default() -> Self {
        Self::new()
    }
}

impl Feed {
    /// A feed that nobody watches yet.
    #[must_use]
    pub fn new() -> Self {
        Self(broadcast::Sender::new(FEED_LENGTH))
    }

    /// Every record written from now on, redacted and durable. `RecvError::Lagged(n)` says that n were
    /// missed.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Record>> {
        self.0.subscribe()
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.0.receiver_count() > 0
    }

    pub(crate) fn publish(&self, record: Record) {
        // Fails only when nobody watches.
        let _ = self.0.send(Arc::new(record));
    }
}
