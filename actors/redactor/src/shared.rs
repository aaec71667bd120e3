//! The redactor in force, shared by all that show anything, replaceable as credentials come in.
//! It lives above every actor; readers never wait.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::engine::{Hit, Redactor};
use crate::pump::{self, NoObserver, SharedObserver};
use crate::secret::Redacted;

/// A handle on the redactor in force. Clones share it.
#[derive(Clone)]
pub struct SharedRedactor {
    now: Arc<ArcSwap<Redactor>>,
    observer: SharedObserver,
}

impl fmt::Debug for SharedRedactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.now.load().fmt(f)
    }
}

impl SharedRedactor {
    /// Begins with this redactor.
    #[must_use]
    pub fn new(redactor: Redactor) -> Self {
        Self::watched(redactor, Arc::new(NoObserver))
    }

    /// The same, and `observer` is notified of what is masked by [`Self::redact`] and in [`crate::stream`]s;
    /// not of what a caller of [`Self::load`] masks, who sees that itself.
    #[must_use]
    pub fn watched(redactor: Redactor, observer: SharedObserver) -> Self {
        Self { now: Arc::new(ArcSwap::from_pointee(redactor)), observer }
    }

    pub(crate) fn tell(&self, hits: &[Hit]) {
        pump::tell(hits, &self.observer);
    }

    /// The redactor in force, for one piece of work.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Redactor>> {
        self.now.load()
    }

    /// A whole text, made safe to show by the redactor in force.
    #[must_use]
    pub fn redact(&self, text: &str) -> Redacted<String> {
        let (shown, hits) = self.now.load().redact_telling(text);
        self.tell(&hits);
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn what_is_masked_is_told() {
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let observer = move |kind: &str, count: u64| heard.lock().unwrap().push((kind.to_owned(), count));
        let redactor = Redactor::new([("K", Secret::from("hunter2hunter2"))]).unwrap();
        let shared = SharedRedactor::watched(redactor, Arc::new(observer));
        assert_eq!(*shared.redact("nothing"), "nothing");
        assert_eq!(*shared.redact("x hunter2hunter2"), "x [REDACTED:K]");
        let mut stream = crate::stream::Streaming::new(shared);
        assert_eq!(stream.push(b"hunter2hun"), b"");
        assert_eq!(stream.push(b"ter2 "), b"[REDACTED:K] ");
        assert_eq!(*told.lock().unwrap(), vec![("K".to_owned(), 1), ("K".to_owned(), 1)]);
    }
}
