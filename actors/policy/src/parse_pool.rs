//! Parses long bodies off the threads that all streams share: few at a time, and one at a time for each
//! party.
//!
//! Parsing a body of megabytes is work that nothing interrupts. A party's bodies queue behind each other
//! first, then the foremost one joins a common queue in which every party has at most one: a party that sends
//! many long bodies delays the others no more than one that sends a single body. A request that is gone
//! leaves the queue; a body that is already being parsed for it keeps its place until that is done. How a
//! body is parsed is the caller's concern.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Party;

/// Up to this many bytes a body is parsed in the task of its request: that takes no longer than other polls
/// of a task do.
pub const SHORT: usize = 64 * 1024;
/// The number of long bodies that are parsed at the same time.
pub const PLACES: usize = 2;

/// A limited number of places for parsing long bodies. Clones share them.
#[derive(Debug, Clone)]
pub struct ParsePool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    places: Arc<Semaphore>,
    /// Each party's turn, for as long as the party parses or waits. The lock is held for a look-up only.
    turns: Mutex<HashMap<Party, Weak<Semaphore>>>,
}

/// Parsing broke off: the closure panicked, or the runtime is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body could not be read")]
pub struct Broken;

/// The permits held while parsing: the party's turn (`None` for [`Party::UNKNOWN`]), and a place.
type Place = (Option<OwnedSemaphorePermit>, OwnedSemaphorePermit);

impl Default for ParsePool {
    fn default() -> Self {
        Self(Arc::new(Inner { places: Arc::new(Semaphore::new(PLACES)), turns: Mutex::default() }))
    }
}

impl ParsePool {
    /// The pool that the whole process uses: what has to be shared out are the process's threads.
    #[must_use]
    pub fn common() -> Self {
        static COMMON: LazyLock<ParsePool> = LazyLock::new(ParsePool::default);
        COMMON.clone()
    }

    /// Runs `read`, which parses `bytes` bytes, for a party: at once if they are at most [`SHORT`], else on a
    /// blocking thread once there is a place.
    ///
    /// # Errors
    /// [`Broken`].
    pub async fn read<T: Send + 'static>(
        &self,
        party: Party,
        bytes: usize,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Broken> {
        if bytes <= SHORT {
            return Ok(read());
        }
        let place = self.place(party).await?;
        let reading = tokio::task::spawn_blocking(move || {
            // Held in the blocking task, which runs to its end even if the request is gone.
            let _place = place;
            read()
        });
        reading.await.map_err(|_| Broken)
    }

    async fn place(&self, party: Party) -> Result<Place, Broken> {
        // Unknown callers aren't one party, here as everywhere: they have no common turn.
        let turn = match party {
            Party::UNKNOWN => None,
            party => Some(self.turn(party).acquire_owned().await.map_err(|_| Broken)?),
        };
        Ok((turn, Arc::clone(&self.0.places).acquire_owned().await.map_err(|_| Broken)?))
    }

    fn turn(&self, party: Party) -> Arc<Semaphore> {
        let mut turns = self.lock();
        if let Some(turn) = turns.get(&party).and_then(Weak::upgrade) {
            return turn;
        }
        // Turns that nobody holds are removed when a new party comes, so the map stays bounded by the parties
        // that have something to parse.
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Semaphore::new(1));
        turns.insert(party, Arc::downgrade(&turn));
        turn
    }

    /// The map is whole after every critical section, so a poisoned lock still guards a good one.
    fn lock(&self) -> MutexGuard<'_, HashMap<Party, Weak<Semaphore>>> {
        self.0.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt as _;

    use super::*;

    const LONG: usize = SHORT + 1;

    /// A reading that runs until the test lets it go.
    struct Gate {
        reading: tokio::task::JoinHandle<Result<(), Broken>>,
        begun: tokio::sync::oneshot::Receiver<()>,
        go: mpsc::Sender<()>,
    }

    fn gate(pool: &ParsePool, party: Party) -> Gate {
        let (pool, (go, gone), (begin, begun)) =
            (pool.clone(), mpsc::channel(), tokio::sync::oneshot::channel());
        let reading = tokio::spawn(async move {
            let read = move || {
                let _listens = begin.send(());
                let _let_go = gone.recv();
            };
            pool.read(party, LONG, read).await
        });
        Gate { reading, begun, go }
    }

    /// Lets every task run as far as it gets by itself.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_partys_long_bodies_keep_nobody_elses_out() {
        let pool = ParsePool::default();
        let mut one: Vec<Gate> = (0..20).map(|_| gate(&pool, Party(1))).collect();
        (&mut one[0].begun).await.unwrap();
        settle().await;
        assert!(one[1..].iter_mut().all(|other| other.begun.try_recv().is_err()), "one at a time");
        assert_eq!(pool.read(Party(2), LONG, || 7).await, Ok(7), "all others still wait");
        // With both places taken, the next place goes to another party.
        let second = gate(&pool, Party(2));
        second.begun.await.unwrap();
        let mut third = gate(&pool, Party(3));
        settle().await;
        assert!(third.begun.try_recv().is_err(), "no more than there are places");
        one.remove(0).go.send(()).unwrap();
        third.begun.await.unwrap();
        drop((one, second.go, third.go));
    }

    #[tokio::test]
    async fn who_is_gone_leaves_the_line_and_what_is_read_for_it_keeps_its_place() {
        let pool = ParsePool::default();
        let mut first = gate(&pool, Party(1));
        (&mut first.begun).await.unwrap();
        let waits = gate(&pool, Party(1));
        settle().await;
        waits.reading.abort();
        first.reading.abort();
        assert!(first.reading.await.is_err() && waits.reading.await.is_err());
        assert_eq!(pool.0.places.available_permits(), PLACES - 1, "it is still being read");
        let mut next = gate(&pool, Party(1));
        settle().await;
        assert!(next.begun.try_recv().is_err());
        first.go.send(()).unwrap();
        next.begun.await.unwrap();
        next.go.send(()).unwrap();
        assert_eq!(next.reading.await.unwrap(), Ok(()));
        assert_eq!(pool.0.places.available_permits(), PLACES);
        assert_eq!(pool.read(Party(2), LONG, || ()).await, Ok(()));
        assert!(pool.lock().len() <= 1, "who reads nothing is forgotten");
    }

    #[tokio::test]
    async fn what_is_short_waits_for_nobody_and_a_panic_ends_one_alone() {
        let pool = ParsePool::default();
        let gates: Vec<Gate> = (1..=4).map(|party| gate(&pool, Party(party))).collect();
        settle().await;
        assert_eq!(pool.read(Party(1), SHORT, || 7).now_or_never(), Some(Ok(7)));
        drop(gates);
        let panics = || std::panic::resume_unwind(Box::new("as any reader might"));
        assert_eq!(pool.read::<()>(Party(1), LONG, panics).await, Err(Broken));
        assert_eq!(pool.read(Party(1), LONG, || 7).await, Ok(7));
    }

    #[tokio::test]
    async fn nobody_known_is_not_one_party() {
        let pool = ParsePool::default();
        let (one, other) = (gate(&pool, Party::UNKNOWN), gate(&pool, Party::UNKNOWN));
        one.begun.await.unwrap();
        other.begun.await.unwrap();
        drop((one.go, other.go));
    }
}
