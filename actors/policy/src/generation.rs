//! Generations, which number the policies that come into force, and the store that holds the current one.
//!
//! The data path loads an `Arc` (no lock, no wait). Publishing swaps it atomically. The store is owned above
//! the reloader actor and outlives it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::compiled::Compiled;
use crate::compose::compose;
use crate::diagnostics::Diagnostics;
use crate::model::Policy;
use crate::read::{Preset, parse};

/// A policy that was checked and compiled, ready to be put in force.
#[derive(Debug, Clone)]
pub struct Candidate {
    policy: Policy,
    compiled: Compiled,
    source: Source,
    text: Arc<str>,
    sha256: [u8; 32],
    warnings: Diagnostics,
}

/// The text that a policy was made of, before anything was added to it.
#[derive(Debug, Clone)]
pub struct Source {
    /// The name that messages use for it.
    pub name: Arc<str>,
    /// The text.
    pub text: Arc<str>,
}

impl Candidate {
    /// Reads, composes and compiles a policy.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn new(name: &str, text: &str, presets: &[Preset]) -> Result<Self, Diagnostics> {
        let parsed = parse(name, text)?;
        let policy = compose(parsed.policy, presets)?;
        let compiled = Compiled::new(&policy)?;
        let source = Source { name: name.into(), text: text.into() };
        let text = if presets.is_empty() { Arc::clone(&source.text) } else { policy.to_yaml().into() };
        let sha256 = Sha256::digest(text.as_bytes()).into();
        Ok(Self { policy, compiled, source, text, sha256, warnings: parsed.warnings })
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The warnings about the policy.
    #[must_use]
    pub fn warnings(&self) -> &Diagnostics {
        &self.warnings
    }

    fn numbered(self, number: u64) -> Generation {
        Generation {
            number,
            compiled: self.compiled,
            policy: self.policy,
            source: self.source,
            text: self.text,
            sha256: self.sha256,
            loaded_at: jiff::Timestamp::now(),
        }
    }
}

/// A policy in force.
#[derive(Debug, Clone)]
pub struct Generation {
    /// Counts from 1, up by one at every publication.
    pub number: u64,
    /// The policy compiled, for deciding.
    pub compiled: Compiled,
    /// The policy as values, for showing, and for the cage.
    pub policy: Policy,
    /// The text it was made of: composing that with the same additions gives this policy again.
    pub source: Source,
    /// The file's text; where presets or approvals were added, the composed policy as YAML.
    pub text: Arc<str>,
    /// The SHA-256 of `text`.
    pub sha256: [u8; 32],
    /// When it was put in force.
    pub loaded_at: jiff::Timestamp,
}

/// Holds the policy in force. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    current: Arc<ArcSwap<Generation>>,
    number: Arc<watch::Sender<u64>>,
}

impl Store {
    /// A store whose first generation is `candidate`, number 1.
    #[must_use]
    pub fn new(candidate: Candidate) -> Self {
        Self::starting_at(candidate, 1)
    }

    /// A store whose first generation has a given number, so that a restarted supervisor continues the count.
    #[must_use]
    pub fn starting_at(candidate: Candidate, number: u64) -> Self {
        let number = number.max(1);
        Self {
            current: Arc::new(ArcSwap::from_pointee(candidate.numbered(number))),
            number: Arc::new(watch::channel(number).0),
        }
    }

    /// The policy in force now. Hold it for one decision or connection, not longer.
    #[must_use]
    pub fn load(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    /// Puts a policy in force and returns its number.
    pub fn publish(&self, candidate: Candidate) -> u64 {
        let before = self.current.rcu(|old| candidate.clone().numbered(old.number + 1));
        let number = before.number + 1;
        self.number.send_modify(|n| *n = (*n).max(number));
        number
    }

    /// A receiver of the number of each new generation (of several in quick succession, the last).
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.number.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(text: &str) -> Candidate {
        Candidate::new("p.yaml", text, &[]).unwrap()
    }

    #[tokio::test]
    async fn generations_are_numbered_and_told() {
        let store = Store::new(candidate("version: 1\n"));
        let mut told = store.subscribe();
        let first = store.load();
        assert_eq!(first.number, 1);
        assert_eq!(store.publish(candidate("version: 1\n# again\n")), 2);
        told.changed().await.unwrap();
        assert_eq!(*told.borrow_and_update(), 2);
        assert_eq!(store.load().number, 2);
        assert_eq!(first.number, 1, "who holds an old one keeps it");
        assert_ne!(first.sha256, store.load().sha256);
        assert_eq!(Store::starting_at(candidate("version: 1\n"), 7).load().number, 7);
    }

    #[test]
    fn publishing_from_many_threads_loses_no_number() {
        let store = Store::new(candidate("version: 1\n"));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let store = store.clone();
                std::thread::spawn(move || {
                    (0..50).map(|_| store.publish(candidate("version: 1\n"))).collect::<Vec<_>>()
                })
            })
            .collect();
        let mut all: Vec<u64> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        all.sort_unstable();
        assert_eq!(all, (2..=201).collect::<Vec<_>>());
        assert_eq!(*store.subscribe().borrow(), 201);
    }

    #[test]
    fn the_text_of_a_composed_policy_is_the_whole() {
        let pypi = crate::builtin::preset("pypi").unwrap().preset().unwrap();
        let candidate = Candidate::new("p", "version: 1\n", &[pypi]).unwrap();
        let again = Candidate::new("p", &candidate.text, &[]).unwrap();
        assert_eq!(again.policy(), candidate.policy());
    }
}
