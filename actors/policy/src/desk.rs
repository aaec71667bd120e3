//! Where long bodies are read: beside the threads that all streams share, few at a time, and one at a time of
//! a party.
//!
//! Reading a body of megabytes is work that nothing interrupts. Each party waits behind its own bodies, then
//! with one body in a line in which every party has one at most: whoever sends many long ones is no more in
//! others' way than whoever sends one. A request that is gone leaves the line; what is being read for it
//! keeps its place until that is done. What is in a body is its reader's affair.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Party;

/// Up to here a body is read where its request is, bytes: that takes no longer than other turns do.
pub const SHORT: usize = 64 * 1024;
/// Bodies that are read at one time.
pub const PLACES: usize = 2;

/// Places to read at. Clones are the same.
#[derive(Debug, Clone)]
pub struct Desk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    places: Arc<Semaphore>,
    /// Each party's turn, as long as it reads or waits. Held for a look-up.
    turns: Mutex<HashMap<Party, Weak<Semaphore>>>,
}

/// What was read broke off: its reader panicked, or everything ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body could not be read")]
pub struct Broken;

/// A place, and the party's turn.
type Place = (Option<OwnedSemaphorePermit>, OwnedSemaphorePermit);

impl Default for Desk {
    fn default() -> Self {
        Self(Arc::new(Inner { places: Arc::new(Semaphore::new(PLACES)), turns: Mutex::default() }))
    }
}

impl Desk {
    /// The one at which everything of this process is read: what is shared are its threads.
    #[must_use]
    pub fn common() -> Self {
        static COMMON: LazyLock<Desk> = LazyLock::new(Desk::default);
        COMMON.clone()
    }

    /// Reads something of so many bytes for a party: at once if it is short, or else when there is a place.
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
            // Kept here, since nothing ends this before its time.
            let _place = place;
            read()
        });
        reading.await.map_err(|_| Broken)
    }

    async fn place(&self, party: Party) -> Result<Place, Broken> {
        // Whoever is nobody known is not one party, here as everywhere.
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
        // Those that are gone are forgotten when another comes: never more are kept than have something to
        // read.
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

    /// Something that is being read until it is let go.
    struct Gate {
        reading: tokio::task::JoinHandle<Result<(), Broken>>,
        begun: tokio::sync::oneshot::Receiver<()>,
        go: mpsc::Sender<()>,
    }

    fn gate(desk: &Desk, party: Party) -> Gate {
        let (desk, (go, gone), (begin, begun)) =
            (desk.clone(), mpsc::channel(), tokio::sync::oneshot::channel());
        let reading = tokio::spawn(async move {
            let read = move || {
                let _listens = begin.send(());
                let _let_go = gone.recv();
            };
            desk.read(party, LONG, read).await
        });
        Gate { reading, begun, go }
    }

    /// As far as everything gets by itself.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_partys_long_bodies_keep_nobody_elses_out() {
        let desk = Desk::default();
        let mut one: Vec<Gate> = (0..20).map(|_| gate(&desk, Party(1))).collect();
        (&mut one[0].begun).await.unwrap();
        settle().await;
        assert!(one[1..].iter_mut().all(|other| other.begun.try_recv().is_err()), "one at a time");
        assert_eq!(desk.read(Party(2), LONG, || 7).await, Ok(7), "all others still wait");
        // With both places taken, another party's is the next of all.
        let second = gate(&desk, Party(2));
        second.begun.await.unwrap();
        let mut third = gate(&desk, Party(3));
        settle().await;
        assert!(third.begun.try_recv().is_err(), "no more than there are places");
        one.remove(0).go.send(()).unwrap();
        third.begun.await.unwrap();
        drop((one, second.go, third.go));
    }

    #[tokio::test]
    async fn who_is_gone_leaves_the_line_and_what_is_read_for_it_keeps_its_place() {
        let desk = Desk::default();
        let mut first = gate(&desk, Party(1));
        (&mut first.begun).await.unwrap();
        let waits = gate(&desk, Party(1));
        settle().await;
        waits.reading.abort();
        first.reading.abort();
        assert!(first.reading.await.is_err() && waits.reading.await.is_err());
        assert_eq!(desk.0.places.available_permits(), PLACES - 1, "it is still being read");
        let mut next = gate(&desk, Party(1));
        settle().await;
        assert!(next.begun.try_recv().is_err());
        first.go.send(()).unwrap();
        next.begun.await.unwrap();
        next.go.send(()).unwrap();
        assert_eq!(next.reading.await.unwrap(), Ok(()));
        assert_eq!(desk.0.places.available_permits(), PLACES);
        assert_eq!(desk.read(Party(2), LONG, || ()).await, Ok(()));
        assert!(desk.lock().len() <= 1, "who reads nothing is forgotten");
    }

    #[tokio::test]
    async fn what_is_short_waits_for_nobody_and_a_panic_ends_one_alone() {
        let desk = Desk::default();
        let gates: Vec<Gate> = (1..=4).map(|party| gate(&desk, Party(party))).collect();
        settle().await;
        assert_eq!(desk.read(Party(1), SHORT, || 7).now_or_never(), Some(Ok(7)));
        drop(gates);
        let panics = || std::panic::resume_unwind(Box::new("as any reader might"));
        assert_eq!(desk.read::<()>(Party(1), LONG, panics).await, Err(Broken));
        assert_eq!(desk.read(Party(1), LONG, || 7).await, Ok(7));
    }

    #[tokio::test]
    async fn nobody_known_is_not_one_party() {
        let desk = Desk::default();
        let (one, other) = (gate(&desk, Party::UNKNOWN), gate(&desk, Party::UNKNOWN));
        one.begun.await.unwrap();
        other.begun.await.unwrap();
        drop((one.go, other.go));
    }
}
