//! Where an agent's output goes, and from where its input comes: pipes or a terminal, of which the heart
//! keeps an end.
//!
//! A start opens streams of its own, and what a supervisor before this one left in its pipes is taken up
//! first. Must never lose a byte that the agent could write: whatever is handed to it, the heart has the
//! other end of before.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agent::actor::{Opened, Streams as AgentStreams};
use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use redactor::pump::{AgentLog, Source};
use redactor::{StreamKind, StreamSpec, Streams};

use crate::compose::handover::{Handover, HeartLine};
use crate::compose::stdin::Stdin;
use crate::compose::terminal::Terminal;
use crate::plan::{Mode, slot};

/// What follows a terminal's slot for the journal's write end.
const FEED: &str = ":feed";
/// What follows a terminal's slot for its master.
const MASTER: &str = ":master";
/// A terminal without a size.
const USUAL_SIZE: (u16, u16) = (24, 80);

/// Where an agent's output goes: into pipes that the heart keeps too, so that none of it is lost with this
/// process.
pub(super) struct Output {
    pub(super) name: Arc<str>,
    pub(super) mode: Mode,
    pub(super) heart: HeartLine,
    pub(super) streams: Streams,
    pub(super) log: Arc<AgentLog>,
    pub(super) stdin: Option<Stdin>,
    pub(super) terminal: Arc<ArcSwap<Option<Terminal>>>,
}

impl Output {
    /// The slot of one stream of one start. Every start has names of its own: the end of an old stream, which
    /// a child of the old process may hold open for long, must not release what a new one needs.
    fn slot(&self, stream: StreamKind) -> String {
        static STARTS: AtomicU64 = AtomicU64::new(0);
        let start = STARTS.fetch_add(1, Ordering::Relaxed);
        format!("{}{}:{}:{}-{start}", slot::OUTPUT, self.name, stream.as_str(), std::process::id())
    }

    fn foreground(&self, stream: StreamKind) -> io::Result<Option<OwnedFd>> {
        if self.mode == Mode::Service {
            return Ok(None);
        }
        match stream {
            StreamKind::Stdout => io::stdout().as_fd().try_clone_to_owned(),
            StreamKind::Stderr => io::stderr().as_fd().try_clone_to_owned(),
        }
        .map(Some)
    }

    fn pump(&self, slot: String, stream: StreamKind, source: Source, resumed: bool) -> io::Result<()> {
        let spec = StreamSpec {
            agent: Arc::clone(&self.name),
            stream,
            source,
            foreground: self.foreground(stream)?,
            log: Some(Arc::clone(&self.log)),
            resumed,
        };
        let mut handle = self.streams.add(spec);
        let heart = self.heart.clone();
        let slots = [slot.clone(), format!("{slot}{FEED}"), format!("{slot}{MASTER}")];
        tokio::spawn(async move {
            // An ended stream is not handed to a successor. Where its reader went away, the agent now gets
            // SIGPIPE.
            handle.drained().await;
            for slot in slots {
                let _ = heart.release(&slot).await;
            }
        });
        Ok(())
    }

    /// Takes up the pipes that the heart kept from a supervisor before this one.
    pub(super) fn resume(&self, handover: &mut Handover) -> io::Result<()> {
        for stream in [StreamKind::Stdout, StreamKind::Stderr] {
            let prefix = format!("{}{}:{}:", slot::OUTPUT, self.name, stream.as_str());
            let mut kept = handover.take_all(&prefix);
            let starts: Vec<String> = kept.keys().filter(|name| !name.contains(':')).cloned().collect();
            for start in starts {
                let Some(journal) = kept.remove(&start) else { continue };
                let (feed, master) =
                    (kept.remove(&format!("{start}{FEED}")), kept.remove(&format!("{start}{MASTER}")));
                let source = match (feed, master) {
                    (Some(feed), Some(master)) => {
                        self.show_terminal(&master)?;
                        Source::Pty { master, journal, feed }
                    }
                    _ => Source::Pipe(journal),
                };
                self.pump(format!("{prefix}{start}"), stream, source, true)?;
            }
        }
        Ok(())
    }

    fn show_terminal(&self, master: &OwnedFd) -> io::Result<()> {
        let terminal = Terminal::new(master.try_clone()?)?;
        if let Some(stdin) = &self.stdin {
            stdin.lead_to_terminal(terminal.clone());
        }
        self.terminal.store(Arc::new(Some(terminal)));
        Ok(())
    }

    async fn pipe(&self, stream: StreamKind) -> io::Result<OwnedFd> {
        let (read, write) = io::pipe()?;
        let read = OwnedFd::from(read);
        let slot = self.slot(stream);
        // Kept before anything is written to it.
        self.heart.keep(&slot, read.as_fd()).await.map_err(io::Error::other)?;
        self.pump(slot, stream, Source::Pipe(read), false)?;
        Ok(write.into())
    }
}

impl AgentStreams for Output {
    fn open(&self) -> BoxFuture<'_, io::Result<Opened>> {
        Box::pin(async move {
            // Somebody else may hold the other ends of an old start's, for ever.
            self.streams.leave(&self.name);
            if self.mode == (Mode::Foreground { tty: true }) {
                let size = operator::client::window_of(io::stdin());
                let (rows, columns) = size.map_or(USUAL_SIZE, |size| (size.rows, size.cols));
                return Ok(Opened::Terminal { rows, columns });
            }
            let stdin = match &self.stdin {
                Some(stdin) => stdin.lead_to_pipe(&self.heart).await?,
                None => std::fs::File::open("/dev/null")?.into(),
            };
            let streams = [stdin, self.pipe(StreamKind::Stdout).await?, self.pipe(StreamKind::Stderr).await?];
            Ok(Opened::Given(streams))
        })
    }

    fn terminal(&self, master: OwnedFd) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let (journal, feed) = io::pipe()?;
            let (journal, feed) = (OwnedFd::from(journal), OwnedFd::from(feed));
            let slot = self.slot(StreamKind::Stdout);
            let parts = [
                (slot.clone(), &journal),
                (format!("{slot}{FEED}"), &feed),
                (format!("{slot}{MASTER}"), &master),
            ];
            for (name, fd) in parts {
                self.heart.keep(&name, fd.as_fd()).await.map_err(io::Error::other)?;
            }
            self.show_terminal(&master)?;
            self.pump(slot, StreamKind::Stdout, Source::Pty { master, journal, feed }, false)
        })
    }
}
