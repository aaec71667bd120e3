//! Placeholder; see the module's owner.
