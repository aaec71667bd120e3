//! The providers' keys, resolved: by reference, in zeroizing memory of the supervisor.

use std::{collections::BTreeMap, fmt, sync::Arc};

use redactor::{Reference, Secret};

/// Resolved keys by reference. Cheap to clone; prints no key.
#[derive(Clone, Default)]
pub struct Credentials {
    keys: Arc<BTreeMap<String, Secret>>,
}

impl Credentials {
    /// From pairs of the reference as written (`env:NAME`) and its key.
    pub fn new(keys: impl IntoIterator<Item = (String, Secret)>) -> Self {
        Self { keys: Arc::new(keys.into_iter().collect()) }
    }

    /// The key behind a reference.
    pub fn key(&self, reference: &Reference) -> Option<&Secret> {
        self.keys.get(&reference.to_string())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys.keys()).finish()
    }
}
