//! The registry of all streams, above the actor: what has to be pumped, how far each pump came, and how it
//! ended. A pump locks its stream's [`Turn`], by a lock that no panic poisons, so two never work on one
//! stream, and the next goes on from what the one before left there.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::journal::Source;
use super::log::AgentLog;
use super::task::Turn;

/// Names one stream for as long as the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

/// Which stream of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamKind {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl StreamKind {
    /// The name in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A stream to be pumped.
#[derive(Debug)]
pub struct StreamSpec {
    /// The agent's name.
    pub agent: Arc<str>,
    /// Which of its streams.
    pub stream: StreamKind,
    /// Where it comes from. The descriptors become non-blocking.
    pub source: Source,
    /// A descriptor that gets the redacted bytes.
    pub foreground: Option<OwnedFd>,
    /// A log that gets them too.
    pub log: Option<Arc<AgentLog>>,
    /// A supervisor process before this one may have shown some of it: what is in the journal now is marked.
    pub resumed: bool,
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEnd {
    /// Everything is out.
    Drained,
    /// Nobody reads the foreground any more (EPIPE). Our end of the journal is closed; when the heart closes
    /// its own too, the agent gets SIGPIPE.
    SinkClosed,
    /// The foreground can't be written: what it should have got is lost.
    SinkFailed(String),
    /// The journal failed for good. Its other end is the agent's, which can take its own output out again.
    Failed(String),
}

/// What a caller holds of a stream.
#[derive(Debug, Clone)]
pub struct StreamHandle {
    id: StreamId,
    end: watch::Receiver<Option<StreamEnd>>,
}

impl StreamHandle {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Waits until all of its output is out, or can't be got out.
    pub async fn drained(&mut self) -> StreamEnd {
        match self.end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(StreamEnd::Drained),
            // The registry went before the stream ended.
            Err(_) => StreamEnd::Failed("the registry of streams is gone".to_owned()),
        }
    }

    /// How it ended, if it did.
    #[must_use]
    pub fn end(&self) -> Option<StreamEnd> {
        self.end.borrow().clone()
    }
}

/// A registered stream.
#[derive(Debug)]
pub struct Stream {
    pub(crate) id: StreamId,
    pub(crate) agent: Arc<str>,
    pub(crate) kind: StreamKind,
    pub(crate) log: Option<Arc<AgentLog>>,
    pub(crate) turn: Mutex<Turn>,
    pub(crate) end: watch::Sender<Option<StreamEnd>>,
    /// How many pumps have panicked on what is in the journal now.
    pub(crate) panics: AtomicU32,
    /// Since when the process that it was made for is gone.
    pub(crate) left: watch::Sender<Option<Instant>>,
}

impl Stream {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Whether its output is out, or can't be got out.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Notes that a pump panicked on this stream.
    pub fn note_panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Registry {
    streams: ArcSwap<BTreeMap<StreamId, Arc<Stream>>>,
    next: AtomicU64,
    changed: watch::Sender<u64>,
    /// Whether any stream ended as [`StreamEnd::SinkFailed`].
    sink_failed: AtomicBool,
}

/// The registry. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Streams(Arc<Registry>);

impl Streams {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a stream; it is pumped as soon as the actor is up.
    pub fn add(&self, spec: StreamSpec) -> StreamHandle {
        let id = StreamId(self.0.next.fetch_add(1, Ordering::Relaxed));
        let end = watch::Sender::new(None);
        let handle = StreamHandle { id, end: end.subscribe() };
        let turn = Mutex::new(Turn::new(spec.source, spec.foreground, spec.resumed));
        let panics = AtomicU32::new(0);
        let (agent, kind, log) = (spec.agent, spec.stream, spec.log);
        let left = watch::Sender::new(None);
        let stream = Arc::new(Stream { id, agent, kind, log, turn, end, panics, left });
        self.0.streams.rcu(|streams| {
            let mut streams = BTreeMap::clone(streams);
            streams.insert(id, Arc::clone(&stream));
            streams
        });
        self.0.changed.send_modify(|version| *version += 1);
        handle
    }

    /// All streams that have not ended.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Stream>> {
        self.0.streams.load().values().cloned().collect()
    }

    /// Notified whenever a stream is added.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Notes that the process which an agent's streams were made for is gone. Whatever still writes to them
    /// doesn't belong to it: what is in the streams comes out, and then they end, whichever process holds
    /// their other end.
    pub fn leave(&self, agent: &str) {
        for stream in self.all().iter().filter(|stream| &*stream.agent == agent) {
            stream.left.send_if_modified(|left| {
                let is_new = left.is_none();
                left.get_or_insert_with(Instant::now);
                is_new
            });
        }
    }

    /// Waits until all output that an agent has by now is out. `false` when the deadline passed first.
    pub async fn agent_drained(&self, agent: &str, deadline: Duration) -> bool {
        let streams: Vec<_> = self.all().into_iter().filter(|stream| &*stream.agent == agent).collect();
        let all = async {
            for stream in streams {
                // The sender lives in the stream, which is held here.
                let _ = stream.end.subscribe().wait_for(Option::is_some).await;
            }
        };
        tokio::time::timeout(deadline, all).await.is_ok()
    }

    /// Whether output of any stream that has ended was lost, because its foreground could not be written.
    #[must_use]
    pub fn have_lost_output(&self) -> bool {
        self.0.sink_failed.load(Ordering::Acquire)
    }

    /// Ends a stream: notifies those who wait for that, and forgets it.
    pub(crate) fn end(&self, stream: &Stream, end: StreamEnd) {
        if matches!(end, StreamEnd::SinkFailed(_)) {
            self.0.sink_failed.store(true, Ordering::Release);
        }
        self.0.streams.rcu(|streams| {
            let mut streams = BTreeMap::clone(streams);
            streams.remove(&stream.id);
            streams
        });
        stream.end.send_replace(Some(end));
    }
}
