//! What the rest of cofferdam holds of the audit log: a bounded queue's sending end. Recording never blocks
//! and never waits for the disk; when it fails, the caller must refuse what it was about to allow.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc::error::TrySendError;

use super::event::Event;
use super::log::{Health, Shared};
use super::record::{Draft, RecordId};

/// Places in the queue that are left to requests which are under way when others begin to wait.
const HEADROOM: usize = 512;
/// How long a request waits for the disk before it is refused.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why something could not be recorded. Whoever gets this refuses (fail closed).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuditUnavailable {
    /// The queue is full: records come faster than the disk takes them, or the writer is down for too long.
    #[error("the audit queue is full; nothing new is allowed until it drains")]
    Full,
    /// The disk refuses records.
    #[error("the audit log cannot be written ({0}); nothing new is allowed until it can")]
    Disk(String),
    /// The sandbox is being taken down.
    #[error("the audit log is closed")]
    Closed,
}

/// Records events. Clones share one log.
#[derive(Debug, Clone)]
pub struct Sink(pub(crate) Arc<Shared>);

impl Sink {
    /// Queues a record and names it. Does not wait; the record is durable a few milliseconds later.
    ///
    /// # Errors
    /// When it can't be queued or the disk is failing: then the caller refuses what it was about to allow.
    pub fn record(&self, event: Event) -> Result<RecordId, AuditUnavailable> {
        let recorded = self.queue(event);
        if recorded.is_err() {
            crate::metrics::audit_refused();
        }
        recorded
    }

    /// Queues a record of what has happened already, so that nothing can be refused for it: also while the
    /// disk refuses records, for when it takes them again.
    ///
    /// # Errors
    /// When as many wait as there are places, or the log is closed: then it is on no record.
    pub fn note(&self, event: Event) -> Result<RecordId, AuditUnavailable> {
        self.place(Draft::new(event))
    }

    /// As [`Self::note`], by a name that was chosen before: whoever looks for it finds whether it is on
    /// record ([`super::on_record`]).
    ///
    /// # Errors
    /// As [`Self::note`].
    pub fn note_as(&self, id: RecordId, event: Event) -> Result<RecordId, AuditUnavailable> {
        self.place(Draft::named(id, event))
    }

    /// Whether the records of some more requests would be taken now, or refused at once because the disk
    /// fails.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.0.queue.capacity() >= self.headroom() || *self.0.health.borrow() != Health::Good
    }

    /// Waits until there is room, at most for [`PATIENCE`].
    pub async fn room(&self) {
        let room = self.0.queue.reserve_many(self.headroom());
        let _after_it_recording_fails = tokio::time::timeout(PATIENCE, room).await;
    }

    fn headroom(&self) -> usize {
        HEADROOM.min(self.0.queue.max_capacity() / 4)
    }

    fn queue(&self, event: Event) -> Result<RecordId, AuditUnavailable> {
        if let Health::Failing(why) = &*self.0.health.borrow() {
            return Err(AuditUnavailable::Disk(why.clone()));
        }
        self.place(Draft::new(event))
    }

    fn place(&self, draft: Draft) -> Result<RecordId, AuditUnavailable> {
        let id = draft.id;
        match self.0.queue.try_send(draft) {
            Ok(()) => {
                self.0.queued.fetch_add(1, Ordering::SeqCst);
                Ok(id)
            }
            Err(TrySendError::Full(_)) => Err(AuditUnavailable::Full),
            Err(TrySendError::Closed(_)) => Err(AuditUnavailable::Closed),
        }
    }

    /// Whether a record would be taken now: what a health check reports.
    ///
    /// # Errors
    /// As [`Self::record`] would give.
    pub fn check(&self) -> Result<(), AuditUnavailable> {
        if let Health::Failing(why) = &*self.0.health.borrow() {
            return Err(AuditUnavailable::Disk(why.clone()));
        }
        if self.0.queue.capacity() == 0 { Err(AuditUnavailable::Full) } else { Ok(()) }
    }
}
