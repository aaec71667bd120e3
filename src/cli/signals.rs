//! Signals that reach a command which has something to put in order before it ends or stops: a terminal, a
//! session.

use std::io;

use futures_util::future::select_all;
use nix::libc::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Those that would end us.
pub const ENDING: [i32; 7] = [SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// Signals that are heard from now on, and do nothing else.
pub struct Signals {
    heard: Vec<(i32, Signal)>,
}

impl Signals {
    /// Hears these. Needs a runtime.
    ///
    /// # Errors
    /// When one of them can't be caught.
    pub fn heard(signos: impl IntoIterator<Item = i32>) -> io::Result<Self> {
        let heard = |signo| Ok((signo, signal(SignalKind::from_raw(signo))?));
        Ok(Self { heard: signos.into_iter().map(heard).collect::<io::Result<_>>()? })
    }

    /// The next one. Nothing is lost where the wait is given up.
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
