//! Budgets: how many tokens and requests may go to providers in a minute, hour or day. The counts survive any
//! process's being killed.
//!
//! A request is admitted atomically against all budgets that it counts in, with the most that it may use
//! ([`Estimate`]); that is on disk before anything of the request is sent. Where the answer may be longer
//! than estimated, room is kept for the rest. When the answer is over, the actual usage replaces the
//! estimate. So concurrent requests never exceed a limit together, and after a kill everything that was held
//! counts as used. [`Budgets`] is owned above the actor. Which provider is asked, and what an agent is told,
//! is not decided here.

mod estimate;
mod kept;
mod section;
mod table;
mod window;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use telemetry::complaints::Complaints;
use tokio::{runtime::Handle, sync::Mutex as AsyncMutex};

pub use estimate::{BYTES_A_TOKEN, Estimate, UNTOLD_INPUT, UNTOLD_MOST, UNTOLD_OUTPUT};
pub use kept::{FILE, MAX_FILE, Shelf, Unreadable, how_many};
pub use section::{Budget, MAX_BUDGETS, MAX_LIMIT};
pub(crate) use section::{check, limits};
pub(crate) use table::Limits;
pub use table::{Counts, MAX_KEPT, Spent, Standing, Which};
use table::{Hold, Table};
pub(crate) use window::now;
pub use window::{Per, written};

/// Why a request is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// A budget has no room for it.
    #[error("a budget is spent")]
    Spent(Box<Spent>),
    /// The counts can't be read, so what was used isn't known.
    #[error("the counts of the budgets can't be read: {0}")]
    Unreadable(Unreadable),
    /// The counts can't be written to disk.
    #[error("the counts of the budgets can't be written: {0}")]
    Unwritable(String),
}

/// All budgets. Clones share them.
#[derive(Clone)]
pub struct Budgets {
    inner: Arc<Inner>,
}

struct Inner {
    shelf: Option<Arc<dyn Shelf>>,
    /// Locked for a few comparisons, never while anything waits.
    state: Mutex<State>,
    /// The number of the last change that is on disk. Locked during a write.
    on_disk: Arc<AsyncMutex<u64>>,
    told: Told,
    /// Of counts that can't be written: each request is refused with the reason anyway.
    complaints: Complaints,
}

/// Called with every budget in force after each change.
pub type Told = Arc<dyn Fn(&[Standing]) + Send + Sync>;

#[derive(Default)]
struct State {
    table: Table,
    /// The number of the last change.
    change: u64,
    /// Why the counts can't be read, if so.
    unreadable: Option<Unreadable>,
    /// Whether the stored counts were restored.
    restored: bool,
    /// Whether a task was spawned that will write, and hasn't begun yet.
    writing: bool,
}

impl Budgets {
    /// Budgets whose counts are kept in `shelf`, or in memory alone where there is none. Nothing is read yet.
    pub fn new(shelf: Option<Arc<dyn Shelf>>, told: Told) -> Self {
        let (state, on_disk) = (Mutex::default(), Arc::new(AsyncMutex::new(0)));
        let inner = Inner { shelf, state, on_disk, told, complaints: Complaints::new() };
        Self { inner: Arc::new(inner) }
    }

    /// Puts budgets in force, each with the count that it already has. Reads the shelf the first time that
    /// there are any budgets.
    pub(crate) fn configure(&self, budgets: Vec<(Which, Limits)>) {
        if !budgets.is_empty() {
            self.inner.restore();
        }
        self.inner.lock().table.configure(budgets, now());
        self.tell();
    }

    /// Every budget in force, or why what was used of them isn't known.
    pub fn standing(&self) -> (Vec<Standing>, Option<Unreadable>) {
        let mut state = self.inner.lock();
        state.table.roll(now());
        (state.table.standing(), state.unreadable.clone())
    }

    /// Reports how the budgets stand, since a new window may have begun.
    pub fn tell(&self) {
        (self.inner.told)(&self.standing().0);
    }

    /// Holds what a request may use of every budget that it counts in; the counts are on disk once this
    /// returns. Returns `None` where the request counts in no budget.
    ///
    /// # Errors
    /// The request may not go, or it can't be determined that it may.
    pub async fn admit(
        &self,
        provider: &str,
        model: &str,
        estimate: Estimate,
    ) -> Result<Option<Reservation>, NotAdmitted> {
        if self.inner.lock().table.is_empty() {
            return Ok(None);
        }
        self.readable().await?;
        let (reservation, change) = {
            let mut state = self.inner.lock();
            let holds = state.table.admit(provider, model, estimate, now()).map_err(NotAdmitted::Spent)?;
            if holds.is_empty() {
                return Ok(None);
            }
            state.change += 1;
            let reservation =
                Reservation { inner: Arc::clone(&self.inner), holds, estimate, fate: Fate::Unsent };
            (reservation, state.change)
        };
        // If the write fails, dropping the reservation cancels it.
        self.inner.write(change).await.map_err(NotAdmitted::Unwritable)?;
        Ok(Some(reservation))
    }

    /// Reads the counts again if they couldn't be read: the operator may have fixed the file.
    async fn readable(&self) -> Result<(), NotAdmitted> {
        let faulty = |inner: &Inner| inner.lock().unreadable.clone();
        if faulty(&self.inner).is_none() {
            return Ok(());
        }
        let inner = Arc::clone(&self.inner);
        let looked = tokio::task::spawn_blocking(move || inner.restore()).await;
        match faulty(&self.inner) {
            None if looked.is_ok() => Ok(()),
            fault => {
                Err(NotAdmitted::Unreadable(fault.unwrap_or_else(|| Unreadable::Io("nobody looked".into()))))
            }
        }
    }
}

impl fmt::Debug for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Budgets").field(&self.inner.lock().table).finish()
    }
}

impl Inner {
    /// The state is whole after every critical section, so a poisoned lock still guards a good one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Restores the counts from the shelf, once. Blocks.
    fn restore(&self) {
        if self.lock().restored {
            return;
        }
        let read = self.shelf.as_ref().map_or(Ok(None), |shelf| shelf.read());
        let counts = read
            .map_err(|fault| Unreadable::Io(fault.to_string()))
            .and_then(|text| kept::counts(text.as_deref()));
        let mut state = self.lock();
        match counts {
            // Another thread may have restored them first, and counted since.
            Ok(_) if state.restored => {}
            Ok(counts) => {
                state.table.restore(counts, now());
                (state.restored, state.unreadable) = (true, None);
            }
            Err(fault) => {
                // Log each fault once, however often an agent's requests make us read again.
                if state.unreadable.as_ref() != Some(&fault) {
                    tracing::error!(%fault, "what was used of the budgets isn't known");
                }
                state.unreadable = Some(fault);
            }
        }
    }

    /// Writes the counts to disk, unless `change` is on disk already. Callers that arrive during a write
    /// share the next one (group commit).
    async fn write(self: &Arc<Self>, change: u64) -> Result<(), String> {
        let mut on_disk = Arc::clone(&self.on_disk).lock_owned().await;
        if *on_disk >= change {
            return Ok(());
        }
        let inner = Arc::clone(self);
        let writing = tokio::task::spawn_blocking(move || {
            let (change, counts) = {
                let state = inner.lock();
                (state.change, state.table.kept())
            };
            if let Some(shelf) = &inner.shelf {
                shelf.write(&kept::text(counts)).map_err(|fault| fault.to_string())?;
            }
            *on_disk = change;
            drop(on_disk);
            // Reports the present state: it may have changed during the write.
            let standing = inner.lock().table.standing();
            (inner.told)(&standing);
            Ok(())
        });
        writing.await.map_err(|panicked| panicked.to_string())?.inspect_err(|fault| {
            if let Some(untold) = self.complaints.told(Instant::now()) {
                tracing::warn!(%fault, untold, "the counts of the budgets were not written");
            }
        })
    }

    /// Writes soon, without a caller that waits. Until then the counts on disk are higher than what was used,
    /// which does no harm.
    fn write_soon(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else { return };
        if std::mem::replace(&mut self.lock().writing, true) {
            return;
        }
        let inner = Arc::clone(self);
        runtime.spawn(async move {
            let change = {
                let mut state = inner.lock();
                state.writing = false;
                state.change
            };
            // `write` logs a failure; the next change tries again.
            let _ = inner.write(change).await;
        });
    }
}

/// What a reservation counts as if it is dropped unsettled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing was sent: the reservation is cancelled.
    Unsent,
    /// The provider may have served the request: the estimate counts as used.
    Sent,
}

/// What is held of budgets for one request to one provider.
#[must_use = "dropped, it counts as if nothing had been sent"]
pub struct Reservation {
    inner: Arc<Inner>,
    holds: Vec<Hold>,
    estimate: Estimate,
    fate: Fate,
}

impl Reservation {
    /// Marks the request as sent. From here on the provider may serve it, so the estimate counts as used
    /// unless the reservation is settled or cancelled.
    pub fn sent(&mut self) {
        self.fate = Fate::Sent;
    }

    /// The estimate that is held.
    pub fn estimate(&self) -> Estimate {
        self.estimate
    }

    /// Whether a budget that limits tokens counts the request.
    pub fn counts_tokens(&self) -> bool {
        self.holds.iter().any(|hold| hold.of_tokens)
    }

    /// Cancels the reservation: nothing was sent after all.
    pub fn cancel(mut self) {
        self.fate = Fate::Unsent;
    }

    /// Replaces the estimate by the tokens that were used.
    pub fn settle(mut self, used: u64) {
        self.let_go(Some(used));
    }

    fn let_go(&mut self, used: Option<u64>) {
        let holds = std::mem::take(&mut self.holds);
        if holds.is_empty() {
            return;
        }
        {
            let mut state = self.inner.lock();
            let held = self.estimate;
            match (used, self.fate) {
                (Some(used), _) => state.table.settle(&holds, held, used),
                (None, Fate::Sent) => state.table.settle(&holds, held, held.most()),
                (None, Fate::Unsent) => state.table.cancel(&holds, held),
            }
            state.change += 1;
        }
        self.inner.write_soon();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.let_go(None);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("estimate", &self.estimate).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
