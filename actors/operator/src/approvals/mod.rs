//! Requests that no policy entry names, held for the operator's word.
//!
//! [`Approvals`] lives above every actor: what is held stays held when the operator's actor dies. A request
//! is asked for by [`Approvals::ask`], which waits; the operator's word comes by [`Approvals::approve_once`],
//! [`Approvals::settle`] and [`Approvals::deny`]. What is asked twice is one question that counts. Bounded in
//! questions and in waiting; it decides nothing by itself, dials nothing, and knows no policy: what lets more
//! than one request through becomes an entry of the policy elsewhere ([`Approvals::approved`] lists it).

mod book;
mod kept;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use book::{Asking, Book};
pub use book::{Refused, Rule};
pub use kept::Kept;

use crate::types::{Approval, Scope};

/// Questions that are remembered, answered ones included; beyond it the oldest that nobody waits for and
/// nobody answered goes, or else the refused one that was asked for longest ago.
pub const MAX_QUESTIONS: usize = 256;

/// What is asked for: two requests that agree in all of it are one question.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The host, canonical, an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The method.
    pub method: String,
    /// The canonical path, without the query.
    pub path: String,
    /// The program's path inside the sandbox.
    pub binary: String,
    /// What it contains, SHA-256 in hex.
    pub sha256: String,
}

/// What becomes of a request that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// This one may go, under this generation of the policy.
    Once,
    /// The policy is to be asked again: it was told of the answer.
    Again,
    /// The operator said no.
    Denied(u64),
    /// Nobody answered in time. The question stays.
    Unanswered(u64),
    /// There are as many questions as there may be.
    Full,
}

/// Cheap to clone; all clones are the same book.
#[derive(Clone)]
pub struct Approvals(Arc<Inner>);

struct Inner {
    /// Begins every id, so that an id alone names the sandbox.
    sandbox: String,
    hold: Duration,
    book: Mutex<Book>,
    changes: watch::Sender<u64>,
}

impl Approvals {
    /// A book with what was kept of an earlier one. `hold` is how long a request waits.
    #[must_use]
    pub fn new(sandbox: &str, hold: Duration, kept: Kept) -> Self {
        let (changes, _) = watch::channel(0);
        Self(Arc::new(Inner { sandbox: sandbox.to_owned(), hold, book: Mutex::new(Book::of(kept)), changes }))
    }

    /// Asks for a request that comes under this generation of the policy (`again` if it did under another),
    /// and waits for the answer, at most as long as requests are held; `waits` is shown the question where it
    /// does. Dropping it takes the request back.
    pub async fn ask(
        &self,
        asked: Asked,
        (generation, again): (u64, bool),
        waits: impl FnOnce(Approval),
    ) -> Word {
        let (tell, told) = oneshot::channel();
        let asking = self.change(|book| book.ask(asked, (generation, again), tell));
        let (id, waiter) = match asking {
            Asking::Answered(word) => return word,
            Asking::Waits { id, waiter } => (id, waiter),
        };
        let _taken_back = TakenBack { approvals: self, id, waiter };
        if let Ok(shown) = self.shown(id) {
            waits(shown);
        }
        match timeout(self.0.hold, told).await {
            Ok(Ok(word)) => word,
            // Its question went: the book is full of others.
            Ok(Err(_)) => Word::Full,
            Err(_) => Word::Unanswered(id),
        }
    }

    /// Every question, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Approval> {
        self.lock().list(&self.0.sandbox)
    }

    /// What an id asks for, under which generation it was asked last, and whether it may be approved for more
    /// than once.
    ///
    /// # Errors
    /// No such question.
    pub fn find(&self, id: &str) -> Result<(u64, Asked, u64), Refused> {
        let number = self.number(id)?;
        let (asked, generation) = self.lock().find(number)?;
        Ok((number, asked, generation))
    }

    /// Lets one request through: the one that waits longest, or else the next that comes under `generation`.
    ///
    /// # Errors
    /// No such question, or it was asked under another generation.
    pub fn approve_once(&self, id: u64, generation: u64, by: u32) -> Result<Approval, Refused> {
        self.answer(id, |book| book.approve_once(id, generation, by))
    }

    /// It is an entry of the policy from now on: who waits is judged by that.
    ///
    /// # Errors
    /// No such question.
    pub fn settle(&self, id: u64, scope: Scope, rule: Rule, by: u32) -> Result<Approval, Refused> {
        self.answer(id, |book| book.settle(id, scope, rule, by))
    }

    /// Refuses it, those that wait and those that come, until it is approved or forgotten.
    ///
    /// # Errors
    /// No such question.
    pub fn deny(&self, id: u64, by: u32) -> Result<Approval, Refused> {
        self.answer(id, |book| book.deny(id, by))
    }

    /// Forgets what was answered: it is asked again when it comes again.
    ///
    /// # Errors
    /// No such question, or it waits for an answer.
    pub fn revoke(&self, id: u64) -> Result<Approval, Refused> {
        let before = self.shown(id)?;
        self.change(|book| book.revoke(id))?;
        Ok(before)
    }

    /// What is to be part of the policy: id, what was asked, and the rule where the operator wrote another
    /// one.
    #[must_use]
    pub fn approved(&self) -> Vec<(u64, Asked, Rule)> {
        self.lock().approved()
    }

    /// How many questions wait for an answer with a request held.
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.lock().pending()
    }

    /// Changes whenever the book does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// All that outlives this process.
    #[must_use]
    pub fn kept(&self) -> Kept {
        self.lock().kept()
    }

    /// An id as people have it.
    #[must_use]
    pub fn id(&self, number: u64) -> String {
        book::id(&self.0.sandbox, number)
    }

    fn number(&self, id: &str) -> Result<u64, Refused> {
        let number = id.strip_prefix(&*self.0.sandbox).and_then(|rest| rest.strip_prefix('-'));
        number.and_then(|number| number.parse().ok()).ok_or(Refused::Unknown)
    }

    fn shown(&self, id: u64) -> Result<Approval, Refused> {
        self.lock().shown(&self.0.sandbox, id)
    }

    fn answer(
        &self,
        id: u64,
        change: impl FnOnce(&mut Book) -> Result<(), Refused>,
    ) -> Result<Approval, Refused> {
        self.change(change)?;
        self.shown(id)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        let changed = change(&mut self.lock());
        self.0.changes.send_modify(|count| *count += 1);
        changed
    }

    /// Every critical section leaves the book whole, so a poisoned lock still guards a good one.
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that waits no longer, however that came.
struct TakenBack<'a> {
    approvals: &'a Approvals,
    id: u64,
    waiter: u64,
}

impl Drop for TakenBack<'_> {
    fn drop(&mut self) {
        self.approvals.change(|book| book.take_back(self.id, self.waiter));
    }
}

#[cfg(test)]
mod tests;
