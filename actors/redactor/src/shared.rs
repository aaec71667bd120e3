//! The redactor in force, shared by all that show anything, replaceable as credentials come in.
//! It lives above every actor; readers never wait.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::engine::{Redactor, RedactorError};
use crate::secret::{Redacted, Secret};

/// A handle on the redactor in force. Clones share it.
#[derive(Debug, Clone)]
pub struct SharedRedactor(Arc<ArcSwap<Redactor>>);

impl SharedRedactor {
    /// Begins with this redactor.
    #[must_use]
    pub fn new(redactor: Redactor) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(redactor)))
    }

    /// The redactor in force, for one piece of work.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Redactor>> {
        self.0.load()
    }

    /// Adds a secret: from here on it is masked everywhere. Blocking work of up to some milliseconds.
    ///
    /// # Errors
    /// When the secrets become more than the search is made for; the redactor in force stays.
    pub fn add_secret(&self, name: &str, secret: Secret) -> Result<(), RedactorError> {
        loop {
            let current = self.0.load_full();
            let next = Arc::new(current.with(name, secret.clone())?);
            let seen = self.0.compare_and_swap(&current, next);
            if Arc::ptr_eq(&seen, &current) {
                return Ok(());
            }
        }
    }

    /// Short for `load().redact(text)`.
    #[must_use]
    pub fn redact(&self, text: &str) -> Redacted<String> {
        self.0.load().redact(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_added_secret_is_masked_by_every_clone() {
        let shared = SharedRedactor::new(Redactor::new::<&str>([]).unwrap());
        let clone = shared.clone();
        assert_eq!(*clone.redact("x hunter2hunter2"), "x hunter2hunter2");
        shared.add_secret("PASSWORD", Secret::from("hunter2hunter2")).unwrap();
        assert_eq!(*clone.redact("x hunter2hunter2"), "x [REDACTED:PASSWORD]");
    }
}
