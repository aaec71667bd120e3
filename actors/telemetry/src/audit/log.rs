//! The log above the actor: its queue, its health, and the writer's turn. Whoever runs the writer (one
//! incarnation of the telemetry actor after the other) takes the turn by a lock that no panic poisons, and
//! finds there all that the one before left: records taken from the queue but not yet written, a write still
//! under way.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redactor::SharedRedactor;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use super::file::{AuditFile, Rotation, Written};
use super::found::AuditError;
use super::record::Draft;
use super::sink::Sink;
use crate::events::Feed;

/// Records that may wait for the disk. At some 500 bytes each this is a few MiB.
pub const QUEUE_LENGTH: usize = 8192;
/// Records committed by one `fdatasync`.
const BATCH_MAX: usize = 4096;
/// How long after a failed write the next is tried: doubling between these.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// How long the writer waits for further records behind one that is usually followed by others, so that one
/// `fdatasync` commits all of them.
const COMPANY: Duration = Duration::from_millis(3);

/// Disk is taken ahead of records from here on: to take and give back sixteen MiB is a good part of a short
/// run.
const AHEAD_AFTER: Duration = Duration::from_millis(250);

/// How the log is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Records that may wait; beyond it recording fails.
    pub queue: usize,
    /// When a new file is begun, and how many are kept.
    pub rotation: Rotation,
    /// How long after its opening the log begins to take disk ahead of its records.
    pub ahead_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { queue: QUEUE_LENGTH, rotation: Rotation::default(), ahead_after: AHEAD_AFTER }
    }
}

/// Whether the disk takes records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Good,
    /// It refuses them, for this reason; it is tried again until it does.
    Failing(String),
}

/// What sinks and the writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) queue: mpsc::Sender<Draft>,
    pub(crate) health: watch::Sender<Health>,
    /// Whether the last records are coming.
    ending: AtomicBool,
    /// Records ever queued.
    pub(crate) queued: AtomicU64,
    /// Records ever written.
    committed: watch::Sender<u64>,
}

/// The audit log. Lives above every actor; clones share it.
#[derive(Debug, Clone)]
pub struct AuditLog {
    shared: Arc<Shared>,
    turn: Arc<Mutex<Turn>>,
    feed: Feed,
    redactor: SharedRedactor,
    directory: Arc<Path>,
    rotation: Rotation,
    /// When it begins to take disk ahead.
    ahead_from: Instant,
}

/// What a write gives back.
#[derive(Debug)]
struct Ended {
    /// The file, if it could be opened.
    file: Option<AuditFile>,
    /// What is on disk now, whatever came of the rest.
    written: Written,
    done: Result<(), AuditError>,
}

/// What the writer works on.
#[derive(Debug)]
struct Turn {
    queue: mpsc::Receiver<Draft>,
    /// Taken from the queue, not yet known to be on disk; so many. Locked by whoever writes, alone.
    batch: Arc<std::sync::Mutex<Vec<Draft>>>,
    batched: usize,
    /// At rest between writes; gone while one is under way.
    file: Option<AuditFile>,
    under_way: Option<JoinHandle<Ended>>,
    /// Disk has been taken ahead, if it was to be had.
    is_ahead: bool,
}

impl Turn {
    /// Cancel safe: what came is in the batch before anything else is awaited.
    async fn wait_for_company(&mut self) {
        let is_followed = lock(&self.batch).last().is_some_and(|last| last.event.is_followed());
        if !is_followed {
            return;
        }
        let mut company = Vec::new();
        let coming = self.queue.recv_many(&mut company, BATCH_MAX);
        if tokio::time::timeout(COMPANY, coming).await.is_ok() {
            self.batched += company.len();
            lock(&self.batch).append(&mut company);
        }
    }
}

/// Ignores poisoning: a write that panicked may have redacted a part of the batch, and redacting it again
/// does no harm.
fn lock(batch: &std::sync::Mutex<Vec<Draft>>) -> std::sync::MutexGuard<'_, Vec<Draft>> {
    batch.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl AuditLog {
    /// Opens the log in the sandbox's state directory, repairs (on record) what a crash left, and continues
    /// its chain. Blocking; done once at start.
    ///
    /// # Errors
    /// When the log can't be opened, locked, read or written.
    pub fn open(directory: &Path, redactor: SharedRedactor, options: Options) -> Result<Self, AuditError> {
        let file = AuditFile::open(directory, options.rotation, &redactor.load())?;
        let (queue, receiver) = mpsc::channel(options.queue.max(1));
        let shared = Shared {
            queue,
            health: watch::Sender::new(Health::Good),
            ending: AtomicBool::new(false),
            queued: AtomicU64::new(0),
            committed: watch::Sender::new(0),
        };
        let turn = Turn {
            queue: receiver,
            batch: Arc::default(),
            batched: 0,
            file: Some(file),
            under_way: None,
            is_ahead: false,
        };
        Ok(Self {
            shared: Arc::new(shared),
            turn: Arc::new(Mutex::new(turn)),
            feed: Feed::new(),
            redactor,
            directory: directory.into(),
            rotation: options.rotation,
            ahead_from: Instant::now() + options.ahead_after,
        })
    }

    /// What callers record through.
    #[must_use]
    pub fn sink(&self) -> Sink {
        Sink(Arc::clone(&self.shared))
    }

    /// The live feed of written records.
    #[must_use]
    pub fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// Whether the disk takes records; changes can be awaited.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// Where the log is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Says that the sandbox ends: with the next records the log gives back the disk that it has taken ahead.
    pub fn ends(&self) {
        self.shared.ending.store(true, Ordering::Relaxed);
    }

    /// Waits until everything queued so far is durable. `false` when the deadline passed first.
    pub async fn flush(&self, deadline: Duration) -> bool {
        let wanted = self.shared.queued.load(Ordering::SeqCst);
        let mut committed = self.shared.committed.subscribe();
        let done = committed.wait_for(|count| *count >= wanted);
        matches!(tokio::time::timeout(deadline, done).await, Ok(Ok(_)))
    }

    /// The writer. Runs until aborted; a second one waits for its turn. Nothing is lost by an abort at any
    /// point.
    pub async fn write(&self) {
        let mut turn = self.turn.lock().await;
        let mut retry = RETRY_MIN;
        loop {
            if turn.under_way.is_none() {
                if turn.batched == 0 && !self.take(&mut turn).await {
                    return;
                }
                turn.wait_for_company().await;
                self.begin(&mut turn);
            }
            match self.finish(&mut turn).await {
                Ok(()) => retry = RETRY_MIN,
                Err(error) => {
                    tracing::error!(%error, "the audit log cannot be written; egress is refused until it can");
                    self.shared.health.send_replace(Health::Failing(error.to_string()));
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Takes what waits in the queue; nothing, where it is time to take disk ahead. `false` when nobody can
    /// queue any more.
    async fn take(&self, turn: &mut Turn) -> bool {
        let mut batch = Vec::new();
        // Cancel safe: either it waits and has taken nothing, or it returns at once with what it took.
        tokio::select! {
            biased;
            taken = turn.queue.recv_many(&mut batch, BATCH_MAX) => {
                if taken == 0 {
                    return false;
                }
            }
            () = tokio::time::sleep_until(self.ahead_from.into()), if !turn.is_ahead => {}
        }
        turn.batched = batch.len();
        turn.batch = Arc::new(std::sync::Mutex::new(batch));
        true
    }

    /// Hands the batch to a blocking thread.
    fn begin(&self, turn: &mut Turn) {
        let file = turn.file.take();
        let batch = Arc::clone(&turn.batch);
        let redactor = self.redactor.clone();
        let directory: PathBuf = self.directory.to_path_buf();
        let rotation = self.rotation;
        let ends = self.shared.ending.load(Ordering::Relaxed);
        turn.is_ahead = Instant::now() >= self.ahead_from;
        let is_ahead = turn.is_ahead;
        turn.under_way = Some(tokio::task::spawn_blocking(move || {
            // Without a file the last write ended in a panic: it is read back how far it got.
            let mut file = match AuditFile::go_on(file, &directory, rotation, &redactor.load()) {
                Ok(file) => file,
                Err(error) => return Ended { file: None, written: Written::default(), done: Err(error) },
            };
            let mut batch = lock(&batch);
            if is_ahead {
                file.keep_ahead();
            }
            let done = file.append(&mut batch, &redactor.load());
            if ends {
                file.give_back();
            }
            Ended { written: file.take_written(), file: Some(file), done }
        }));
    }

    /// Waits for the write under way and settles its batch.
    async fn finish(&self, turn: &mut Turn) -> Result<(), AuditError> {
        let Some(under_way) = turn.under_way.as_mut() else { return Ok(()) };
        // Awaited in place: an abort here leaves the handle for the next turn.
        let ended = under_way.await;
        turn.under_way = None;
        let Ended { file, written, done } = match ended {
            Ok(ended) => ended,
            Err(panicked) => return Err(AuditError::Panicked(panicked.to_string())),
        };
        turn.file = file;
        // Also where the write failed behind them: they are not written again.
        if self.feed.is_watched() {
            written.records().for_each(|record| self.feed.publish(record));
        }
        done?;
        let count = u64::try_from(std::mem::take(&mut turn.batched)).unwrap_or(u64::MAX);
        turn.batch = Arc::default();
        self.shared.committed.send_modify(|committed| *committed += count);
        self.shared.health.send_if_modified(|health| {
            let failing = *health != Health::Good;
            *health = Health::Good;
            failing
        });
        crate::metrics::audit_records(count);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use redactor::Redactor;

    use super::super::event::Event;
    use super::*;

    /// What is on disk isn't written again, so that whoever watches would never hear of it.
    #[tokio::test]
    async fn a_batch_whose_head_cant_be_written_is_in_the_live_feed_once() {
        let state = tempfile::tempdir().unwrap();
        let redactor = SharedRedactor::new(Redactor::new::<&str>([]).unwrap());
        let log = AuditLog::open(state.path(), redactor, Options::default()).unwrap();
        log.turn.lock().await.file.as_mut().unwrap().make_head_read_only();
        let (mut feed, mut health) = (log.feed().subscribe(), log.health());
        let write = || {
            let log = log.clone();
            tokio::spawn(async move { log.write().await })
        };
        let writer = write();
        let id =
            log.sink().record(Event::Operator { action: "exec".into(), uid: None, detail: None }).unwrap();
        health.wait_for(|health| *health != Health::Good).await.unwrap();
        assert_eq!(feed.try_recv().map(|record| record.id), Ok(id));
        writer.abort();
        let _ = writer.await;
        let mut turn = log.turn.lock().await;
        if let Some(under_way) = turn.under_way.take() {
            let _ = under_way.await;
        }
        // As after a panic: opened anew.
        turn.file = None;
        drop(turn);
        let writer = write();
        assert!(log.flush(Duration::from_secs(20)).await);
        assert!(feed.try_recv().is_err(), "told twice");
        writer.abort();
    }

    /// By a clock that stands still while anything is left to do.
    #[tokio::test(start_paused = true)]
    async fn an_agents_end_is_written_with_what_follows_it_or_soon_alone() {
        use super::super::event::{AgentChange, SandboxChange};
        let state = tempfile::tempdir().unwrap();
        let redactor = SharedRedactor::new(Redactor::new::<&str>([]).unwrap());
        let log = AuditLog::open(state.path(), redactor, Options::default()).unwrap();
        let writer = tokio::spawn({
            let log = log.clone();
            async move { log.write().await }
        });
        let end = || Event::Agent {
            name: "a".into(),
            change: AgentChange::Exited,
            pid: None,
            code: Some(0),
            detail: None,
        };
        let mut committed = log.shared.committed.subscribe();
        log.sink().note(end()).unwrap();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let over = Event::Sandbox {
            change: SandboxChange::Stopped,
            name: "s".into(),
            version: "0".into(),
            detail: None,
        };
        log.sink().note(over).unwrap();
        assert_eq!(*committed.wait_for(|count| *count > 0).await.unwrap(), 2, "written together");
        log.sink().note(end()).unwrap();
        assert_eq!(*committed.wait_for(|count| *count > 2).await.unwrap(), 3, "nothing followed");
        writer.abort();
    }
}
