//! The log, which outlives the actor: its queue, its health, and the writer's turn. Each incarnation of the
//! telemetry actor in turn runs the writer. It takes the turn by a lock that no panic poisons, and finds in
//! it all that its predecessor left: records taken from the queue but not yet written, a write still under
//! way.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redactor::SharedRedactor;
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio::task::JoinHandle;

use super::file::{AuditFile, Rotation, Written};
use super::found::AuditError;
use super::record::Draft;
use super::sink::Sink;
use crate::events::Feed;

/// Records that may be queued for the disk. At some 500 bytes each this is a few MiB.
pub const QUEUE_LENGTH: usize = 8192;
/// The most records committed by one `fdatasync`.
const BATCH_MAX: usize = 4096;
/// The back-off after a failed write, which doubles between these.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// How long the writer waits for further records behind one that is usually followed by others, so that one
/// `fdatasync` commits all of them.
const COMPANY: Duration = Duration::from_millis(3);

/// How long after the log's opening it begins to allocate disk ahead: allocating and giving back sixteen MiB
/// takes a good part of a short run.
const AHEAD_AFTER: Duration = Duration::from_millis(250);

/// How the log is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Records that may be queued; beyond that recording fails.
    pub queue: usize,
    /// When a new file is begun, and how many are kept.
    pub rotation: Rotation,
    /// How long after its opening the log begins to allocate disk ahead of its records.
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
    /// The disk takes them.
    Good,
    /// The disk refuses them, for this reason. Writing is retried until it succeeds.
    Failing(String),
}

/// What sinks and the writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) queue: mpsc::Sender<Draft>,
    pub(crate) health: watch::Sender<Health>,
    /// Wakes those who wait for room, each time that there may be some: the writer has taken records, or the
    /// disk fails, and nobody need wait any more.
    pub(crate) taken: Notify,
    /// Whether the sandbox ends, so that the last records are coming.
    ending: AtomicBool,
    /// Records ever queued.
    pub(crate) queued: AtomicU64,
    /// Records ever written.
    pub(super) committed: watch::Sender<u64>,
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
    /// When it begins to allocate disk ahead.
    ahead_from: Instant,
}

/// The result of a write.
#[derive(Debug)]
struct Ended {
    /// The file, if it could be opened.
    file: Option<AuditFile>,
    /// What was put on disk, whatever became of the rest.
    written: Written,
    done: Result<(), AuditError>,
}

/// What the writer works on, passed from one writer to the next.
#[derive(Debug)]
struct Turn {
    queue: mpsc::Receiver<Draft>,
    /// Records taken from the queue and not yet known to be on disk, and their number. The lock is never
    /// contended: only the writer takes it.
    batch: Arc<std::sync::Mutex<Vec<Draft>>>,
    batched: usize,
    /// The file between writes; `None` while one is under way.
    file: Option<AuditFile>,
    under_way: Option<JoinHandle<Ended>>,
    /// Whether disk has been allocated ahead, if possible.
    is_ahead: bool,
}

impl Turn {
    /// Waits shortly for further records, if the last one is usually followed by others. Cancel safe: what
    /// came is in the batch before anything else is awaited.
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
            taken: Notify::new(),
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

    /// Returns a handle through which callers record.
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

    /// Tells the log that the sandbox ends: after the next records it gives back the disk allocated ahead.
    pub fn ends(&self) {
        self.shared.ending.store(true, Ordering::Relaxed);
    }

    /// As [`Sink::flush`].
    pub async fn flush(&self, deadline: Duration) -> bool {
        Sink(Arc::clone(&self.shared)).flush(deadline).await
    }

    /// Runs the writer until aborted; a second one waits for its turn. An abort loses nothing, at whatever
    /// point it comes.
    pub async fn write(&self) {
        let mut turn = self.turn.lock().await;
        let mut retry = RETRY_MIN;
        loop {
            if turn.under_way.is_none() {
                // A batch that failed, or a predecessor's, is tried as it is: it must not grow.
                if turn.batched == 0 {
                    if !self.take(&mut turn).await {
                        return;
                    }
                    turn.wait_for_company().await;
                }
                // Also after a predecessor that was aborted while it waited.
                self.shared.taken.notify_waiters();
                self.begin(&mut turn);
            }
            match self.finish(&mut turn).await {
                Ok(()) => retry = RETRY_MIN,
                Err(error) => {
                    tracing::error!(%error, "the audit log cannot be written; egress is refused until it can");
                    self.shared.health.send_replace(Health::Failing(error.to_string()));
                    self.shared.taken.notify_waiters();
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Takes what is queued into the batch, or nothing once it is time to allocate disk ahead. `false` if the
    /// queue is closed.
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
            // If there is no file, the last write panicked or the log couldn't be opened: reading the log
            // tells how far it got.
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
        // Also if the write failed after them: they are not written again.
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

    /// Lines that are on disk aren't written again, so a watcher would otherwise never hear of them.
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

    /// The places that are kept free are for those under way, also while others wait for some.
    #[tokio::test(start_paused = true)]
    async fn who_waits_for_room_takes_none_and_is_let_in_when_there_is_some() {
        const QUEUE: usize = 40;
        let state = tempfile::tempdir().unwrap();
        let redactor = SharedRedactor::new(Redactor::new::<&str>([]).unwrap());
        let options = Options { queue: QUEUE, ..Options::default() };
        let log = AuditLog::open(state.path(), redactor, options).unwrap();
        let sink = log.sink();
        let event = || Event::Operator { action: "exec".into(), uid: None, detail: None };
        while sink.has_room() {
            sink.record(event()).unwrap();
        }
        let waiting = tokio::spawn({
            let sink = log.sink();
            async move { sink.room().await }
        });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished());
        let free = log.shared.queue.capacity();
        let recorded = (0..QUEUE).take_while(|_| sink.record(event()).is_ok()).count();
        assert_eq!(recorded, free, "the waiting one holds places");
        let writer = tokio::spawn({
            let log = log.clone();
            async move { log.write().await }
        });
        let began = tokio::time::Instant::now();
        waiting.await.unwrap();
        assert!(sink.has_room() && began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        writer.abort();
    }

    /// Runs on a paused clock, which only advances when there is nothing left to do.
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
