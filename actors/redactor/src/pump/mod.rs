//! Pumps: each moves one agent stream from its journal pipe, redacted, to its sinks. The pipe is the journal:
//! bytes are consumed only after the sinks have taken them, redacted, so nothing is lost, whichever process
//! or task dies.
//!
//! `journal` looks into the pipe without taking, `foreground` and `log` are the sinks, `task` is the pump
//! itself, `streams` the registry above the actor. Never writes raw bytes anywhere.

mod foreground;
mod journal;
mod log;
mod ready;
mod streams;
mod task;

use std::sync::Arc;

use crate::engine::Hit;

pub use journal::Source;
pub use log::{AgentLog, LogLimits, LogLine};
pub use streams::{Stream, StreamEnd, StreamHandle, StreamId, StreamKind, StreamSpec, Streams};
pub use task::run;

/// Notified of events in the pumps. Called on the data path: must not block.
pub trait Observer: Send + Sync {
    /// Secrets of this kind were masked.
    fn on_hits(&self, kind: &str, count: u64);
    /// Bytes of an agent's log could not be written (a full disk) and are gone from the log, not from the
    /// foreground.
    fn on_log_lost(&self, _agent: &str, _bytes: u64) {}
}

/// Ignores all events.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn on_hits(&self, _: &str, _: u64) {}
}

impl<F: Fn(&str, u64) + Send + Sync> Observer for F {
    fn on_hits(&self, kind: &str, count: u64) {
        self(kind, count);
    }
}

/// Shared by all pumps.
pub type SharedObserver = Arc<dyn Observer>;

/// Reports each hit as one of its kind.
pub(crate) fn tell(hits: &[Hit], observer: &SharedObserver) {
    hits.iter().for_each(|hit| observer.on_hits(&hit.kind, 1));
}
