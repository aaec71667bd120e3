//! Where an agent's output goes and its input comes from: pipes or a terminal. The heart keeps one end of
//! each.
//!
//! Every start of an agent opens new streams. What an earlier supervisor left in its pipes is resumed first.
//! Must never lose a byte that the agent could write: the heart has the other end of a stream before the
//! agent gets it.

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

/// The suffix of a terminal's slot name for the journal's write end.
const FEED: &str = ":feed";
/// The suffix of a terminal's slot name for its master.
const MASTER: &str = ":master";
/// Rows and columns if the operator's terminal has no size.
const USUAL_SIZE: (u16, u16) = (24, 80);

/// Directs an agent's output into pipes that the heart keeps too, so that none of it is lost with this
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
    /// Returns a slot name for one stream of one start. Every start has names of its own: when an old stream
    /// ends, which a child of the old process may delay for long, a new one's slot must not be released.
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
            // An ended stream must not be handed to a successor. If it ended because its reader went away,
            // the agent gets SIGPIPE from here on.
            handle.drained().await;
            for slot in slots {
                let _ = heart.release(&slot).await;
            }
        });
        Ok(())
    }

    /// Resumes the pipes that the heart kept from an earlier supervisor.
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
            // Other processes may hold the far ends of an old start's streams for ever.
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
