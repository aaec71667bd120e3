//! What each executable contained when it was first used ("trust on first use").
//!
//! The pins outlive the proxy's actor: make one [`Pins`] above it and give clones away. Nothing is evicted to
//! make room, since that would let an agent wash out the pin of a program that it then replaces.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::digest::Sha256Hash;

/// Most paths remembered; the programs of a whole distribution fit. Beyond it new paths are refused, except
/// for programs that the policy names by their whole path; the programs that started those need room here,
/// too.
pub const MAX_PINS: usize = 16_384;
/// Further paths, for programs that the policy names. Beyond these they are refused as well.
const NAMED_PINS: usize = 4096;
/// Most bytes of all remembered paths together, as written in JSON: agents choose how long a path is, and all
/// of them are handed from one supervisor to the next.
pub const MAX_PINNED_BYTES: usize = 2 << 20;
/// Further bytes, for the paths of programs that the policy names.
const NAMED_BYTES: usize = 512 << 10;

/// The pins. Clones share them. Reading takes no lock; writing (once a program) copies the table.
#[derive(Debug, Clone)]
pub struct Pins(Arc<Table>);

#[derive(Debug)]
struct Table {
    pins: ArcSwap<Known>,
    /// Counts the changes that the next supervisor must be told of.
    changes: watch::Sender<u64>,
}

/// The pins by path, and the size of all paths.
#[derive(Debug, Clone, Default)]
struct Known {
    pins: HashMap<Arc<str>, Pin>,
    /// Bytes of all paths, as [`written`] counts them.
    bytes: usize,
}

impl Known {
    /// Whether one more path fits; `named`: whether the policy names it.
    fn has_room(&self, path: &str, named: bool) -> bool {
        let (count, bytes) = match named {
            true => (MAX_PINS + NAMED_PINS, MAX_PINNED_BYTES + NAMED_BYTES),
            false => (MAX_PINS, MAX_PINNED_BYTES),
        };
        self.pins.len() < count && self.bytes.saturating_add(written(path)) <= bytes
    }

    fn add(&mut self, pin: Pin) {
        self.bytes = self.bytes.saturating_add(written(&pin.path));
        self.pins.insert(pin.path.clone(), pin);
    }
}

/// Most bytes that a path can take in JSON, where an escaped character has up to six.
fn written(path: &str) -> usize {
    path.bytes().map(|byte| if byte < b' ' || matches!(byte, b'"' | b'\\') { 6 } else { 1 }).sum()
}

/// A pin as it is listed, and kept outside this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// The program's path inside the sandbox.
    pub path: String,
    /// Its SHA-256 at first use, or as it was last accepted.
    pub sha256: Sha256Hash,
    /// Hash of another content that was seen there since and that the operator has not accepted.
    pub pending: Option<Sha256Hash>,
}

#[derive(Debug, Clone)]
struct Pin {
    path: Arc<str>,
    sha256: Sha256Hash,
    /// The other content last seen at the path, which [`Pins::accept`] would take.
    pending: Option<Sha256Hash>,
}

/// An executable whose content is not what it was when first used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Its path inside the sandbox.
    pub path: Arc<str>,
    /// The hash that is trusted.
    pub first: Sha256Hash,
    /// The hash that was found.
    pub now: Sha256Hash,
}

/// A change that the operator accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its path inside the sandbox.
    pub path: Arc<str>,
    /// What was trusted until now.
    pub was: Sha256Hash,
    /// What is trusted from now on.
    pub is: Sha256Hash,
}

/// There is no pin for this path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no program at `{0}` has asked for the network yet")]
pub struct Unknown(pub String);

/// Why nothing was accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// The path was never used.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// The path's content is the one trusted.
    #[error("`{0}` has not changed since it was first used")]
    Unchanged(String),
    /// The content changed again after the operator looked.
    #[error("`{path}` has changed again: it is now sha256 {}", hex::encode(.now))]
    ChangedAgain {
        /// The path.
        path: String,
        /// What was last seen there.
        now: Sha256Hash,
    },
}

/// What [`Pins::check`] found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PinError {
    Changed(Changed),
    Full,
}

impl Pin {
    fn shown(&self) -> Pinned {
        Pinned { path: self.path.to_string(), sha256: self.sha256, pending: self.pending }
    }
}

impl Default for Pins {
    fn default() -> Self {
        Self::new()
    }
}

impl Pins {
    /// No pins yet.
    #[must_use]
    pub fn new() -> Self {
        Self::restored([])
    }

    /// Restores what [`Pins::kept`] returned in an earlier supervisor.
    #[must_use]
    pub fn restored(kept: impl IntoIterator<Item = Pinned>) -> Self {
        let mut known = Known::default();
        for Pinned { path, sha256, pending } in kept.into_iter().take(MAX_PINS + NAMED_PINS) {
            known.add(Pin { path: path.into(), sha256, pending });
        }
        let table = Table { pins: ArcSwap::from_pointee(known), changes: watch::Sender::new(0) };
        Self(Arc::new(table))
    }

    /// Returns every pin, sorted by path: to be listed, and to be kept for the next supervisor, whose start
    /// must not turn any program's next use into a first one.
    #[must_use]
    pub fn kept(&self) -> Vec<Pinned> {
        let mut all: Vec<_> = self.0.pins.load().pins.values().map(Pin::shown).collect();
        all.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        all
    }

    /// A counter that changes with every first use, every other content that is seen, and every change that
    /// the operator accepts or path that they forget.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn changed(&self) {
        self.0.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Compares the content with that of the first use, or records this as the first use. Returns the path,
    /// shared. `named` says whether the policy names the program; it is called only if there is no other room
    /// left.
    pub(super) fn check(
        &self,
        path: &str,
        sha256: &Sha256Hash,
        named: impl Fn(&str) -> bool,
    ) -> Result<Arc<str>, PinError> {
        match self.compare(path, sha256) {
            Some(Ok(path)) => return Ok(path),
            Some(Err(changed)) => {
                self.remember_pending(path, *sha256);
                return Err(PinError::Changed(changed));
            }
            None => {}
        }
        let is_named = !self.0.pins.load().has_room(path, false) && named(path);
        let shared: Arc<str> = Arc::from(path);
        let mut is_added = false;
        self.0.pins.rcu(|known| {
            is_added = !known.pins.contains_key(path) && known.has_room(path, is_named);
            if !is_added {
                return known.clone();
            }
            let mut known = Known::clone(known);
            known.add(Pin { path: shared.clone(), sha256: *sha256, pending: None });
            Arc::new(known)
        });
        if is_added {
            self.changed();
        }
        // Another task may have been first, with other content.
        match self.compare(path, sha256) {
            Some(verdict) => verdict.map_err(PinError::Changed),
            None => Err(PinError::Full),
        }
    }

    fn compare(&self, path: &str, sha256: &Sha256Hash) -> Option<Result<Arc<str>, Changed>> {
        let known = self.0.pins.load();
        let pin = known.pins.get(path)?;
        Some(if pin.sha256 == *sha256 {
            Ok(pin.path.clone())
        } else {
            Err(Changed { path: pin.path.clone(), first: pin.sha256, now: *sha256 })
        })
    }

    fn remember_pending(&self, path: &str, now: Sha256Hash) {
        if self.0.pins.load().pins.get(path).is_some_and(|pin| pin.pending == Some(now)) {
            return;
        }
        self.0.pins.rcu(|known| {
            let mut known = Known::clone(known);
            if let Some(pin) = known.pins.get_mut(path) {
                pin.pending = Some(now);
            }
            known
        });
        self.changed();
    }

    /// Trusts from now on what was last seen at the path, if that is `expected`: the operator accepts what
    /// they looked at and not what came after.
    ///
    /// # Errors
    /// [`AcceptError`], if there is nothing to accept or it is something else.
    pub fn accept(&self, path: &str, expected: Sha256Hash) -> Result<Accepted, AcceptError> {
        let mut outcome = Err(Unknown(path.to_owned()).into());
        self.0.pins.rcu(|known| {
            let Some(pin) = known.pins.get(path) else {
                outcome = Err(Unknown(path.to_owned()).into());
                return known.clone();
            };
            let is = match pin.pending {
                None => {
                    outcome = Err(AcceptError::Unchanged(path.to_owned()));
                    return known.clone();
                }
                Some(now) if expected != now => {
                    outcome = Err(AcceptError::ChangedAgain { path: path.to_owned(), now });
                    return known.clone();
                }
                Some(now) => now,
            };
            outcome = Ok(Accepted { path: pin.path.clone(), was: pin.sha256, is });
            let accepted = Pin { path: pin.path.clone(), sha256: is, pending: None };
            let mut known = Known::clone(known);
            known.pins.insert(accepted.path.clone(), accepted);
            Arc::new(known)
        });
        if outcome.is_ok() {
            self.changed();
        }
        outcome
    }

    /// Forgets a path, so that its next use is a first use. Returns what was remembered.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn forget(&self, path: &str) -> Result<Pinned, Unknown> {
        let mut forgotten = Err(Unknown(path.to_owned()));
        self.0.pins.rcu(|known| {
            forgotten = known.pins.get(path).map(Pin::shown).ok_or_else(|| Unknown(path.to_owned()));
            let mut known = Known::clone(known);
            if known.pins.remove(path).is_some() {
                known.bytes = known.bytes.saturating_sub(written(path));
            }
            known
        });
        if forgotten.is_ok() {
            self.changed();
        }
        forgotten
    }

    /// How many paths are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.pins.load().pins.len()
    }

    /// Whether no path is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.pins.load().pins.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_refused_until_the_operator_accepts_it() {
        let (a, b, c) = ([1; 32], [2; 32], [3; 32]);
        let pins = Pins::new();
        assert_eq!(pins.check("/bin/x", &a, |_| false).as_deref(), Ok("/bin/x"));
        assert_eq!(pins.check("/bin/x", &a, |_| false).as_deref(), Ok("/bin/x"));
        assert_eq!(pins.accept("/bin/x", a), Err(AcceptError::Unchanged("/bin/x".into())));
        let change = Changed { path: "/bin/x".into(), first: a, now: b };
        assert_eq!(pins.check("/bin/x", &b, |_| false), Err(PinError::Changed(change)));
        assert_eq!(pins.kept(), [Pinned { path: "/bin/x".into(), sha256: a, pending: Some(b) }]);
        // The old content is still good: it is what was trusted.
        assert!(pins.check("/bin/x", &a, |_| false).is_ok());

        let other = pins.accept("/bin/x", c);
        assert_eq!(other, Err(AcceptError::ChangedAgain { path: "/bin/x".into(), now: b }));
        assert_eq!(pins.accept("/bin/x", b).unwrap().was, a);
        assert!(pins.check("/bin/x", &b, |_| false).is_ok());
        assert!(pins.check("/bin/x", &a, |_| false).is_err(), "the old content is a change now");
        assert_eq!(pins.accept("/bin/y", a), Err(Unknown("/bin/y".into()).into()));
    }

    #[test]
    fn after_forgetting_the_next_use_is_a_first_one() {
        let pins = Pins::new();
        assert_eq!(pins.forget("/bin/x"), Err(Unknown("/bin/x".into())));
        pins.check("/bin/x", &[1; 32], |_| false).unwrap();
        pins.check("/bin/y", &[1; 32], |_| false).unwrap();
        assert!(pins.check("/bin/x", &[2; 32], |_| false).is_err());
        let forgotten = pins.forget("/bin/x").unwrap();
        assert_eq!(forgotten, Pinned { path: "/bin/x".into(), sha256: [1; 32], pending: Some([2; 32]) });
        assert!(pins.check("/bin/x", &[2; 32], |_| false).is_ok());
        assert!(pins.check("/bin/y", &[2; 32], |_| false).is_err(), "another's pin stays");
    }

    #[test]
    fn what_was_kept_is_no_first_use() {
        let pins = Pins::new();
        let mut changes = pins.changes();
        pins.check("/usr/bin/curl", &[1; 32], |_| false).unwrap();
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        pins.check("/usr/bin/curl", &[1; 32], |_| false).unwrap();
        assert!(!changes.has_changed().unwrap());
        assert!(pins.check("/usr/bin/curl", &[2; 32], |_| false).is_err());
        assert!(changes.has_changed().unwrap(), "what waits for the operator is kept as well");
        let next = Pins::restored(pins.kept());
        assert!(next.check("/usr/bin/curl", &[1; 32], |_| false).is_ok());
        assert!(next.accept("/usr/bin/curl", [2; 32]).is_ok(), "what was seen waits across a death, too");
    }

    #[test]
    fn the_table_is_bounded_and_nothing_is_evicted() {
        let pins = Pins::restored((0..MAX_PINS).map(|n| Pinned {
            path: format!("/tmp/{n}"),
            sha256: [0; 32],
            pending: None,
        }));
        assert_eq!(pins.check("/bin/new", &[0; 32], |_| false), Err(PinError::Full));
        assert_eq!(pins.len(), MAX_PINS);
        // What the policy names has room of its own, and no more.
        for n in 0..NAMED_PINS {
            assert!(
                pins.check(&format!("/usr/bin/{n}"), &[0; 32], |path| path.starts_with("/usr/bin/")).is_ok()
            );
        }
        assert_eq!(pins.check("/usr/bin/more", &[0; 32], |_| true), Err(PinError::Full));
        assert!(pins.check("/tmp/7", &[0; 32], |_| false).is_ok());
        assert!(pins.check("/tmp/7", &[1; 32], |_| false).is_err());
    }

    /// Whatever agents call their programs, a successor reads all that was kept.
    #[test]
    fn all_paths_together_are_bounded_as_they_are_written() {
        let (pins, mut taken) = (Pins::new(), 0);
        let path = |n: usize| format!("/tmp/{}/{n}", "\u{1}".repeat(4000));
        while pins.check(&path(taken), &[255; 32], |_| false).is_ok() {
            let _pending = pins.check(&path(taken), &[254; 32], |_| false);
            taken += 1;
        }
        assert_eq!(pins.check(&path(taken), &[255; 32], |_| false), Err(PinError::Full));
        assert!((80..=MAX_PINNED_BYTES / 24_000).contains(&taken), "{taken}");
        let written = serde_json::to_vec(&pins.kept()).unwrap().len();
        assert!(written < 2 * MAX_PINNED_BYTES, "{written}");
        // One that the policy names, and what is forgotten, have room.
        assert!(pins.check(&path(taken), &[0; 32], |_| true).is_ok());
        pins.forget(&path(0)).unwrap();
        pins.forget(&path(1)).unwrap();
        assert!(pins.check(&path(0), &[0; 32], |_| false).is_ok());
        // A table that is full of the longest digests.
        let worst = Pinned { path: String::new(), sha256: [255; 32], pending: Some([255; 32]) };
        let each = serde_json::to_vec(&worst).unwrap().len() + 1;
        let all = each * (MAX_PINS + NAMED_PINS) + MAX_PINNED_BYTES + NAMED_BYTES;
        assert!(all < 16 << 20, "{all}: more than is read of a sealed file");
    }

    #[test]
    fn concurrent_first_uses_agree_on_one() {
        let pins = Pins::new();
        let good: usize = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8u8)
                .map(|n| {
                    let pins = pins.clone();
                    scope.spawn(move || usize::from(pins.check("/bin/x", &[n; 32], |_| false).is_ok()))
                })
                .collect();
            tries.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(good, 1);
    }
}
