//! Requests that no policy entry names, held for the operator's decision.
//!
//! [`Approvals`] lives above every actor: held requests stay held when the operator's actor dies.
//! [`Approvals::ask`] asks about a request and waits; the operator decides by [`Approvals::approve_once`],
//! [`Approvals::settle`] and [`Approvals::deny`]. Equal requests are one question, which counts them. The
//! number of questions and the time of waiting are bounded. This module decides nothing by itself, dials
//! nothing, and knows no policy: an approval of more than one request becomes a policy entry elsewhere
//! ([`Approvals::approved`] lists those).

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

/// Maximal number of remembered questions, answered ones included. Beyond it, the oldest unanswered question
/// with no waiting request is forgotten or, if there is none, the refused one that was last asked longest
/// ago.
pub const MAX_QUESTIONS: usize = 256;

/// What a question asks about: two requests that agree in all of it are one question.
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
    /// SHA-256 of the program's content, in hex.
    pub sha256: String,
}

/// What becomes of a request that was asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// This one request is allowed, under this generation of the policy.
    Once,
    /// The answer has become part of the policy, which is to judge the request again.
    Again,
    /// The operator refused. Holds the question's number.
    Denied(u64),
    /// No answer in time. Holds the number of the question, which stays.
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
    /// Makes a book with what was kept of an earlier one. `hold` is how long a request waits.
    #[must_use]
    pub fn new(sandbox: &str, hold: Duration, kept: Kept) -> Self {
        let (changes, _) = watch::channel(0);
        Self(Arc::new(Inner { sandbox: sandbox.to_owned(), hold, book: Mutex::new(Book::of(kept)), changes }))
    }

    /// Asks about a request that was judged under this generation of the policy (`again` if it was asked
    /// about under an earlier one), and waits for the answer, at most as long as requests are held. If it has
    /// to wait, `waits` is called with the question first. Dropping the future withdraws the request.
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
            // The question was forgotten: the book is full of others.
            Ok(Err(_)) => Word::Full,
            Err(_) => Word::Unanswered(id),
        }
    }

    /// Every question, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Approval> {
        self.lock().list(&self.0.sandbox)
    }

    /// Returns the number of the question with this id, what it asks about, and the policy generation under
    /// which it was last asked.
    ///
    /// # Errors
    /// No such question.
    pub fn find(&self, id: &str) -> Result<(u64, Asked, u64), Refused> {
        let number = self.number(id)?;
        let (asked, generation) = self.lock().find(number)?;
        Ok((number, asked, generation))
    }

    /// Lets one request through: the one that has waited longest or, if none waits, the next that comes under
    /// `generation`.
    ///
    /// # Errors
    /// No such question, it is approved for longer already, or it was last asked under another generation.
    pub fn approve_once(&self, id: u64, generation: u64, by: u32) -> Result<Approval, Refused> {
        self.answer(id, |book| book.approve_once(id, generation, by))
    }

    /// Notes that the question's approval is an entry of the policy now: waiting requests are judged again by
    /// that.
    ///
    /// # Errors
    /// No such question.
    pub fn settle(&self, id: u64, scope: Scope, rule: Rule, by: u32) -> Result<Approval, Refused> {
        self.answer(id, |book| book.settle(id, scope, rule, by))
    }

    /// Refuses the question's requests, both waiting ones and later ones, until it is approved or forgotten.
    ///
    /// # Errors
    /// No such question.
    pub fn deny(&self, id: u64, by: u32) -> Result<Approval, Refused> {
        self.answer(id, |book| book.deny(id, by))
    }

    /// Forgets the answer: the operator is asked again when the request comes again.
    ///
    /// # Errors
    /// No such question, or it waits for an answer.
    pub fn revoke(&self, id: u64) -> Result<Approval, Refused> {
        let before = self.shown(id)?;
        self.change(|book| book.revoke(id))?;
        Ok(before)
    }

    /// Returns the approvals that are to be part of the policy: number, what was asked about, and where the
    /// operator's rule differs from it.
    #[must_use]
    pub fn approved(&self) -> Vec<(u64, Asked, Rule)> {
        self.lock().approved()
    }

    /// Returns how many questions have a request held.
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.lock().pending()
    }

    /// Changes whenever the book does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Returns all that outlives this process.
    #[must_use]
    pub fn kept(&self) -> Kept {
        self.lock().kept()
    }

    /// Returns a question's id as people use it.
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

/// Removes a waiting request from the book on drop, however its waiting ended.
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
