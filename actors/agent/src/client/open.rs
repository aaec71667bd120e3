//! The table of questions to init whose answers are awaited.
//!
//! The lock is never held for longer than one look-up, nor while waiting. Must never forget a question while
//! its asker waits, nor keep one whose asker went away.

use super::ClientError;
use crate::protocol::{Answer, RequestId};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// The result of a question.
pub(super) type Answered = Result<(Answer, Vec<OwnedFd>), ClientError>;

/// The askers that wait, by their question's id.
type Waiting = HashMap<RequestId, oneshot::Sender<Answered>>;

/// The open questions; `None` when the channel has ended.
#[derive(Debug, Clone)]
pub(super) struct Open(Arc<Mutex<Option<Waiting>>>);

impl Open {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Some(HashMap::new()))))
    }

    /// Every critical section leaves the map consistent, so a poisoned lock still guards a good map.
    fn lock(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a question, which leaves the table at the latest when the returned [`Entered`] is dropped;
    /// `None` when the channel has ended.
    pub(super) fn enter(&self, id: RequestId) -> Option<(Entered<'_>, oneshot::Receiver<Answered>)> {
        let (answer, reply) = oneshot::channel();
        self.lock().as_mut()?.insert(id, answer);
        Some((Entered { open: self, id }, reply))
    }

    pub(super) fn take(&self, id: RequestId) -> Option<oneshot::Sender<Answered>> {
        self.lock().as_mut()?.remove(&id)
    }

    /// Ends every open question, and refuses further ones.
    fn end(&self) {
        let _dropped_without_the_lock = self.lock().take();
    }
}

/// Held by the task that takes the answers: when the task ends, however it does, all questions end.
pub(super) struct Taking(pub(super) Open);

impl Drop for Taking {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A question in the table. It leaves the table when this is dropped.
pub(super) struct Entered<'a> {
    open: &'a Open,
    id: RequestId,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        drop(self.open.take(self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> RequestId {
        RequestId(number)
    }

    #[tokio::test]
    async fn an_answer_finds_its_asker_once() {
        let open = Open::new();
        let (entered, reply) = open.enter(id(1)).unwrap();
        assert!(open.take(id(2)).is_none(), "nobody asked");
        open.take(id(1)).unwrap().send(Ok((Answer::Done, Vec::new()))).unwrap();
        assert!(matches!(reply.await.unwrap(), Ok((Answer::Done, _))));
        assert!(open.take(id(1)).is_none());
        drop(entered);
    }

    #[tokio::test]
    async fn who_goes_away_leaves_nothing_behind() {
        let open = Open::new();
        let (entered, reply) = open.enter(id(1)).unwrap();
        drop((entered, reply));
        assert!(open.lock().as_ref().unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_end_of_the_channel_is_everybodys() {
        let open = Open::new();
        let (_entered, reply) = open.enter(id(1)).unwrap();
        drop(Taking(open.clone()));
        assert!(reply.await.is_err());
        assert!(open.enter(id(2)).is_none());
    }
}
