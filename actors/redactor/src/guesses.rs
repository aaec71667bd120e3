//! Limits how often a party can have a server send a possible beginning of a credential, and see from what
//! comes late whether it is one.
//!
//! A look at a stream's end tells hardly more than one bit: the end waits, or it doesn't. For a value's first
//! bytes that isn't counted ([`public`](crate::public) says for how many); beyond them each such look is
//! counted here as a guess, right or wrong, before its outcome can be seen. A party that has had
//! [`MAX_OF_ONE`], or any party once all have had [`MAX_OF_ALL`], sees no more outcomes: a sieve then holds
//! back every stream's end, whatever it is. Only numbers are kept here, never a byte of a text or a secret.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Most guesses whose outcome one party sees. Honest work makes none, except if a server sends a real value
/// in many small pieces.
pub const MAX_OF_ONE: u32 = 16;
/// Most guesses whose outcome all parties together see, in a sandbox's whole life: an agent that is started
/// again after its last process has ended is another party.
pub const MAX_OF_ALL: u32 = 64;
/// What is recorded of a party that sees no more outcomes.
pub const SPENT: &str = "answers of hosts that may be told a credential come late to this agent from now on, since it had beginnings of \
    credentials in them too often: was that a guess, give the credentials anew; a new start of the sandbox ends it";
/// Number of parties from which on those that have guessed nothing are forgotten.
const MANY: usize = 1024;

/// The guesses of all parties. Clones share them.
#[derive(Clone)]
pub struct Guesses(Arc<All>);

struct All {
    seen: Count,
    /// Locked when a stream begins, and never while one is read.
    parties: Mutex<HashMap<u64, Arc<One>>>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct One {
    seen: Count,
    /// Whether the party sees no more outcomes.
    spent: AtomicBool,
}

/// The counts, in the form in which they outlive the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    seen: u32,
    parties: Vec<(u64, u32, bool)>,
}

impl Kept {
    /// How many guesses were seen in all.
    #[must_use]
    pub fn seen(&self) -> u32 {
        self.seen
    }

    /// The same without the parties, for a process in which party numbers stand for others.
    #[must_use]
    pub fn of_nobody(self) -> Self {
        Self { parties: Vec::new(), ..self }
    }
}

/// A counter for many threads at a time, which never goes beyond a bound.
#[derive(Default)]
struct Count(AtomicU32);

impl Count {
    fn take(&self, most: u32) -> bool {
        let more = |seen: u32| (seen < most).then_some(seen + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give_back(&self, taken: u32) {
        let less = |seen: u32| Some(seen.saturating_sub(taken));
        let _always = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for Guesses {
    fn default() -> Self {
        Self::restored(&Kept::default())
    }
}

impl Guesses {
    /// Restores the counts that were kept.
    #[must_use]
    pub fn restored(kept: &Kept) -> Self {
        let one = |(party, seen, spent): &(u64, u32, bool)| {
            let one = One { seen: Count(AtomicU32::new(*seen)), spent: AtomicBool::new(*spent) };
            (*party, Arc::new(one))
        };
        Self(Arc::new(All {
            seen: Count(AtomicU32::new(kept.seen)),
            parties: Mutex::new(kept.parties.iter().map(one).collect()),
            changed: watch::Sender::new(()),
        }))
    }

    /// Returns the counts to be kept. Parties that have seen nothing are left out: once all guesses are
    /// spent, not even their first is seen.
    #[must_use]
    pub fn kept(&self) -> Kept {
        let parties = self.lock();
        let mut kept: Vec<_> = parties
            .iter()
            .map(|(party, one)| (*party, one.seen.get(), one.spent.load(Ordering::Relaxed)))
            .filter(|(_, seen, _)| *seen > 0)
            .collect();
        kept.sort_unstable();
        Kept { seen: self.0.seen.get(), parties: kept }
    }

    /// Notified whenever [`Guesses::kept`] changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Returns the reader of an answer. `tell` is called once the party sees no more outcomes.
    #[must_use]
    pub fn of(&self, party: u64, tell: impl Fn() + Send + Sync + 'static) -> Guesser {
        let mut parties = self.lock();
        if parties.len() >= MANY && !parties.contains_key(&party) {
            parties.retain(|_, one| one.seen.get() > 0 || Arc::strong_count(one) > 1);
        }
        let one = Arc::clone(parties.entry(party).or_default());
        Guesser { all: Arc::clone(&self.0), one, tell: Arc::new(tell) }
    }

    /// The map is whole after every critical section, so a poisoned lock still guards a good one.
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<One>>> {
        self.0.parties.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Guesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guesses").field(&self.0.seen.get()).finish()
    }
}

/// The reader of an answer, who may guess. Clones share the counts.
#[derive(Clone)]
pub struct Guesser {
    all: Arc<All>,
    one: Arc<One>,
    tell: Arc<dyn Fn() + Send + Sync>,
}

impl Guesser {
    /// Whether the party sees no more outcomes.
    pub(crate) fn is_spent(&self) -> bool {
        self.one.spent.load(Ordering::Relaxed)
    }

    /// Counts a guess, and returns whether its outcome may be seen.
    pub(crate) fn may_see(&self) -> bool {
        if self.is_spent() {
            return false;
        }
        let sees = self.one.seen.take(MAX_OF_ONE) && self.takes_of_all();
        if !sees && !self.one.spent.swap(true, Ordering::Relaxed) {
            (self.tell)();
        }
        self.all.changed.send_replace(());
        sees
    }

    /// Takes back what were no guesses: what began was a credential, and is masked.
    pub(crate) fn were_none(&self, guesses: u32) {
        if guesses > 0 {
            self.one.seen.give_back(guesses);
            self.all.seen.give_back(guesses);
            self.all.changed.send_replace(());
        }
    }

    fn takes_of_all(&self) -> bool {
        let took = self.all.seen.take(MAX_OF_ALL);
        if !took {
            self.one.seen.give_back(1);
        }
        took
    }
}

impl fmt::Debug for Guesser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guesser").field(&self.one.seen.get()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guesses until no more is seen; gives how many were.
    fn guesses_all(guesser: &Guesser) -> u32 {
        (0..).find(|_| !guesser.may_see()).unwrap()
    }

    #[test]
    fn the_documentation_has_the_rows() {
        let page = include_str!("../../../docs/limits.md");
        for (name, value) in [("MAX_OF_ONE", MAX_OF_ONE), ("MAX_OF_ALL", MAX_OF_ALL)] {
            let row = format!("| `guesses::{name}` | {value} |");
            assert!(page.contains(&row), "docs/limits.md lacks {row}");
        }
    }

    fn silent(guesses: &Guesses, party: u64) -> Guesser {
        guesses.of(party, || {})
    }

    #[test]
    fn one_sees_so_many_on_all_its_streams_together() {
        let guesses = Guesses::default();
        let told = Arc::new(AtomicU32::new(0));
        let streams: Vec<Guesser> = (0..3)
            .map(|_| {
                let told = Arc::clone(&told);
                guesses.of(1, move || {
                    told.fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        let seen = (0..100).filter(|turn| streams[turn % 3].may_see()).count();
        assert_eq!(u32::try_from(seen).unwrap(), MAX_OF_ONE);
        assert!(streams.iter().all(Guesser::is_spent) && silent(&guesses, 1).is_spent());
        assert_eq!(told.load(Ordering::Relaxed), 1, "it is told once");
        assert!(!silent(&guesses, 2).is_spent(), "others are others");
    }

    /// Many at a time see no more than one after the other.
    #[test]
    fn streams_beside_each_other_see_no_more() {
        let guesses = Guesses::default();
        let seen = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (guesses, seen) = (&guesses, &seen);
                scope.spawn(move || {
                    for turn in 0..400 {
                        let sees = silent(guesses, thread + turn % 16).may_see();
                        seen.fetch_add(u32::from(sees), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(seen.load(Ordering::Relaxed), MAX_OF_ALL);
    }

    /// Started again and again, one is another party each time.
    #[test]
    fn all_together_see_so_many_and_who_comes_later_sees_none() {
        let guesses = Guesses::default();
        let seen: u32 = (1..100).map(|party| guesses_all(&silent(&guesses, party))).sum();
        assert_eq!(seen, MAX_OF_ALL);
        let honest = silent(&guesses, 100);
        assert!(!honest.is_spent(), "who guesses nothing is told nothing late");
        assert!(!honest.may_see() && honest.is_spent());
    }

    #[test]
    fn what_was_no_guess_is_given_back() {
        let guesses = Guesses::default();
        let guesser = silent(&guesses, 1);
        for _ in 0..100 {
            assert!(guesser.may_see() && guesser.may_see());
            guesser.were_none(2);
        }
        assert_eq!(guesses.kept(), Kept::default());
    }

    #[test]
    fn a_new_process_goes_on_where_the_last_was() {
        let guesses = Guesses::default();
        let mut changes = guesses.changes();
        guesses_all(&silent(&guesses, 1));
        assert!(silent(&guesses, 2).may_see());
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        let kept = serde_json::to_string(&guesses.kept()).unwrap();
        let guesses = Guesses::restored(&serde_json::from_str(&kept).unwrap());
        assert!(silent(&guesses, 1).is_spent());
        assert_eq!(guesses_all(&silent(&guesses, 2)), MAX_OF_ONE - 1);
        assert_eq!(guesses_all(&silent(&guesses, 3)), MAX_OF_ONE);
    }

    #[test]
    fn parties_that_guessed_nothing_are_forgotten_and_others_are_not() {
        let guesses = Guesses::default();
        guesses_all(&silent(&guesses, 0));
        let reads = silent(&guesses, 1);
        for party in 2..10_000 {
            let _gone = silent(&guesses, party);
        }
        assert!(guesses.lock().len() <= MANY);
        assert!(silent(&guesses, 0).is_spent());
        assert!(reads.may_see());
        assert_eq!(guesses_all(&silent(&guesses, 1)), MAX_OF_ONE - 1);
    }
}
