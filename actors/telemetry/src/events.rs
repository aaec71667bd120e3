//! The live feed of audit records for watchers (the control socket's event stream). A slow watcher misses the
//! oldest records and is told how many; it never slows the writer.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::audit::Record;

/// Records kept for a slow watcher.
pub const FEED_LENGTH: usize = 1024;

/// The feed of written records. Clones share one feed; it outlives every actor.
#[derive(Debug, Clone)]
pub struct Feed(broadcast::Sender<Arc<Record>>);

impl Default for Feed {
    fn default() -> Self {
        Self::new()
    }
}

impl Feed {
    /// Makes a feed without watchers.
    #[must_use]
    pub fn new() -> Self {
        Self(broadcast::Sender::new(FEED_LENGTH))
    }

    /// Subscribes to every record written from now on, redacted and durable. `RecvError::Lagged(n)` means
    /// that n were missed.
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
