//! A deadline for poll functions. Pushing it out costs one clock read.
//!
//! The runtime's timer is touched only when something has to wait, and re-armed when it fires too early. It
//! isn't cancelled and made anew for each read.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// (Re)starts the clock.
    pub(crate) fn set(&mut self, after: Duration) {
        self.deadline = Some(Instant::now() + after);
    }

    /// Starts the clock unless it runs.
    pub(crate) fn arm(&mut self, after: Duration) {
        if self.deadline.is_none() {
            self.set(after);
        }
    }

    /// Stops the clock.
    pub(crate) fn clear(&mut self) {
        self.deadline = None;
    }

    /// Ready once the deadline has passed; for ever pending without one.
    pub(crate) fn poll_elapsed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}
