//! Catches signals for commands that must clean up before they end or stop: a terminal, a session.

use std::io;

use futures_util::future::select_all;
use nix::libc::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that would end this process.
pub const ENDING: [i32; 7] = [SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// Caught signals: they are only reported, and have no other effect.
pub struct Signals {
    heard: Vec<(i32, Signal)>,
}

impl Signals {
    /// Catches these signals from now on. Needs a runtime.
    ///
    /// # Errors
    /// One of them can't be caught.
    pub fn heard(signos: impl IntoIterator<Item = i32>) -> io::Result<Self> {
        let heard = |signo| Ok((signo, signal(SignalKind::from_raw(signo))?));
        Ok(Self { heard: signos.into_iter().map(heard).collect::<io::Result<_>>()? })
    }

    /// Waits for the next signal. Cancel safe: none is lost if the future is dropped.
    pub async fn next(&mut self) -> i32 {
        let each = self.heard.iter_mut().map(|(signo, heard)| {
            Box::pin(async move {
                let _ = heard.recv().await;
                *signo
            })
        });
        select_all(each).await.0
    }
}
