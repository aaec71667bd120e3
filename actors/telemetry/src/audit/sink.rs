//! The handle by which the rest of cofferdam records: the sending end of the audit log's bounded queue.
//! Recording never blocks, and waits for the disk only in [`Sink::flush`]. If it fails, the caller must
//! refuse what it was about to allow.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::mpsc::error::TrySendError;

use super::event::Event;
use super::log::{Health, Shared};
use super::record::{Draft, RecordId};
use crate::complaints::Complaints;

/// Places in the queue kept for requests that are under way: with fewer free, new requests wait.
const HEADROOM: usize = 512;
/// How long a request waits for the disk before it is refused.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why something could not be recorded. The caller must then refuse (fail closed).
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

impl AuditUnavailable {
    /// Logs that `lost` is not on record, where nothing could be refused any more: the first time, and then
    /// once a minute with the count, since agents can bring it about as often as they like. `of_its_kind`
    /// must be no other kind's: what agents cause must not hide what they don't.
    pub fn complain(&self, lost: &str, of_its_kind: &Complaints) {
        if let Some(untold) = of_its_kind.told(Instant::now()) {
            tracing::warn!(error = %self, untold, "{lost} is not on record");
        }
    }
}

/// Records events. Clones share one log.
#[derive(Debug, Clone)]
pub struct Sink(pub(crate) Arc<Shared>);

impl Sink {
    /// Queues a record and returns its id. Does not wait; the record is durable a few milliseconds later.
    ///
    /// # Errors
    /// If it can't be queued or the disk is failing: the caller must then refuse what it was about to allow.
    pub fn record(&self, event: Event) -> Result<RecordId, AuditUnavailable> {
        let recorded = self.queue(event);
        if recorded.is_err() {
            crate::metrics::audit_refused();
        }
        recorded
    }

    /// Queues a record of something that has already happened and can't be refused any more. Also while the
    /// disk refuses records: it is written when the disk takes them again.
    ///
    /// # Errors
    /// If the queue is full or the log is closed: the event is then not recorded.
    pub fn note(&self, event: Event) -> Result<RecordId, AuditUnavailable> {
        self.place(Draft::new(event))
    }

    /// As [`Self::note`], with an id chosen by the caller, who can later find out whether it is on record
    /// ([`super::on_record`]).
    ///
    /// # Errors
    /// As [`Self::note`].
    pub fn note_as(&self, id: RecordId, event: Event) -> Result<RecordId, AuditUnavailable> {
        self.place(Draft::named(id, event))
    }

    /// Whether a new request need not wait: there is room for its records, or they would be refused at once
    /// because the disk fails.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.0.queue.capacity() >= self.headroom() || *self.0.health.borrow() != Health::Good
    }

    /// Waits until there is room, at most for [`PATIENCE`]. Takes no place meanwhile: those that are kept
    /// free are for others.
    pub async fn room(&self) {
        let room = async {
            loop {
                // Before the look: whatever is taken after it wakes this one.
                let taken = self.0.taken.notified();
                if self.has_room() {
                    return;
                }
                taken.await;
            }
        };
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

    /// Waits until everything queued so far is durable. `false` when the deadline passed first.
    pub async fn flush(&self, deadline: Duration) -> bool {
        let wanted = self.0.queued.load(Ordering::SeqCst);
        let mut committed = self.0.committed.subscribe();
        let done = committed.wait_for(|count| *count >= wanted);
        matches!(tokio::time::timeout(deadline, done).await, Ok(Ok(_)))
    }

    /// Whether a record would be taken now, for a health check.
    ///
    /// # Errors
    /// Those that [`Self::record`] would return.
    pub fn check(&self) -> Result<(), AuditUnavailable> {
        if let Health::Failing(why) = &*self.0.health.borrow() {
            return Err(AuditUnavailable::Disk(why.clone()));
        }
        if self.0.queue.capacity() == 0 { Err(AuditUnavailable::Full) } else { Ok(()) }
    }
}
