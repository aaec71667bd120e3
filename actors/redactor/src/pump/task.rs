//! The pump: looks at the journal, redacts, hands the result to the sinks, and only then consumes. Everything
//! that a successor needs is in the `Turn`, changed only between awaits, so that an abort or a panic at any
//! point neither loses a byte nor writes one twice.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::foreground::Foreground;
use super::journal::{Journal, Source, WINDOW_MAX};
use super::log::decode;
use super::streams::{Stream, StreamEnd, Streams};
use super::{SharedObserver, tell};
use crate::engine::{Context, Redactor, Scan};
use crate::shared::SharedRedactor;
use crate::stream::SILENCE;
use crate::tokens::{End, TAIL_MIN};

/// While a tail is held the pipe is looked at this often even if the kernel reports nothing: before 5.14 it
/// reported only the first bytes in a pipe.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long more output is waited for once an agent is gone: a child of its own may hold the pipe open for
/// ever, or hand it to another process.
const LEFT_SILENCE: Duration = Duration::from_millis(500);
/// However much more output comes then, the stream ends after this time.
const LEFT_MOST: Duration = Duration::from_secs(5);
/// The stream ends after so many bytes, too: what a pipe can hold (`fs.pipe-max-size`, pipe(7)), since all of
/// that may have been written before.
const LEFT_BYTES: usize = 1 << 20;
/// After this many panics on the same bytes they are masked unread: one bad stream must not stop the others.
const PANICS_MAX: u32 = 3;
/// What is shown in their place.
const UNREADABLE: &[u8] = b"[REDACTED:unreadable]";

/// The state that a pump works on; it outlives the pump.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Source and foreground, until the first pump opens them: that needs the runtime.
    given: Option<(Source, Option<OwnedFd>)>,
    journal: Option<Journal>,
    foreground: Option<Foreground>,
    context: Context,
    pending: Option<Pending>,
    /// The first bytes of a character that isn't whole yet, kept back from the log.
    carry: Vec<u8>,
    window: Vec<u8>,
    resumed: bool,
    /// Bytes that went out since the process that it was made for is gone.
    since_left: usize,
}

/// A chunk on its way to the sinks.
#[derive(Debug)]
struct Pending {
    out: Vec<u8>,
    written: usize,
    log: LogStep,
    /// How many bytes of the journal the chunk stands for.
    consume: usize,
    next: Context,
    last: bool,
    repeated: bool,
}

#[derive(Debug)]
enum LogStep {
    Todo,
    UnderWay(JoinHandle<u64>),
    Done,
}

impl Turn {
    pub(crate) fn new(source: Source, foreground: Option<OwnedFd>, resumed: bool) -> Self {
        Self {
            given: Some((source, foreground)),
            journal: None,
            foreground: None,
            context: Context::default(),
            pending: None,
            carry: Vec::new(),
            window: Vec::new(),
            resumed,
            since_left: 0,
        }
    }

    fn open(&mut self) -> io::Result<()> {
        if let Some((source, foreground)) = self.given.take() {
            self.foreground = foreground.map(Foreground::open);
            self.journal = Some(Journal::open(source)?);
        }
        Ok(())
    }
}

/// What to do next.
enum Next {
    /// A chunk is pending.
    Deliver,
    /// Wait for more; release the tail after a silence if it is short.
    Wait { short: bool, held: bool },
    /// All is out.
    Ended,
}

/// Pumps one stream until it ends. Abort it at any time: the next one goes on where it stopped.
pub async fn run(streams: &Streams, stream: &Stream, redactor: &SharedRedactor, observer: &SharedObserver) {
    let mut turn = stream.turn.lock().await;
    if stream.ended() {
        return;
    }
    let end = match pump(&mut turn, stream, redactor, observer).await {
        Ok(()) => StreamEnd::Drained,
        Err(Stuck::Sink(error)) if error.kind() == io::ErrorKind::BrokenPipe => StreamEnd::SinkClosed,
        Err(Stuck::Sink(error)) => StreamEnd::SinkFailed(told(stream, &error)),
        Err(Stuck::Journal(error)) => StreamEnd::Failed(told(stream, &error)),
    };
    // Closes our ends before anybody is told.
    turn.given = None;
    turn.journal = None;
    turn.foreground = None;
    streams.end(stream, end);
}

/// Why a stream can't go on.
enum Stuck {
    /// The foreground can't be written.
    Sink(io::Error),
    /// The journal, whose other end is the agent's: whatever it did there.
    Journal(io::Error),
}

impl From<io::Error> for Stuck {
    fn from(error: io::Error) -> Self {
        Self::Journal(error)
    }
}

fn told(stream: &Stream, error: &io::Error) -> String {
    let (agent, kind) = (&stream.agent, stream.kind.as_str());
    tracing::error!(%agent, stream = kind, %error, "output can no longer be shown");
    error.to_string()
}

async fn pump(
    turn: &mut Turn,
    stream: &Stream,
    redactor: &SharedRedactor,
    observer: &SharedObserver,
) -> Result<(), Stuck> {
    turn.open()?;
    let mut left = stream.left.subscribe();
    let mut is_silent = false;
    loop {
        deliver(turn, stream, observer).await?;
        let since = *left.borrow_and_update();
        if since.is_some_and(|since| since.elapsed() >= LEFT_MOST) || turn.since_left >= LEFT_BYTES {
            return Ok(());
        }
        // A stream that always has more must not keep others from this thread.
        tokio::task::consume_budget().await;
        let redactor = Arc::clone(&redactor.load());
        match look(turn, stream, &redactor, is_silent, observer)? {
            Next::Deliver if is_silent => {
                // The silence ended the stream, and with that decided what was held; nothing that comes now
                // belongs to it.
                return deliver(turn, stream, observer).await;
            }
            Next::Deliver => {}
            Next::Ended => return Ok(()),
            Next::Wait { short, held } => {
                let Some(journal) = &turn.journal else { return Ok(()) };
                let patience = match (since, held) {
                    (Some(_), _) => Some(LEFT_SILENCE),
                    (None, true) => Some(if short { SILENCE } else { LOOK_AGAIN }),
                    (None, false) => None,
                };
                tokio::select! {
                    changed = journal.changed() => changed?,
                    () = after(patience) => match since {
                        Some(_) => is_silent = true,
                        None if short => release(turn, &redactor, observer),
                        None => {}
                    },
                    _ = left.changed() => {}
                }
            }
        }
    }
}

async fn after(patience: Option<Duration>) {
    match patience {
        Some(patience) => tokio::time::sleep(patience).await,
        None => std::future::pending().await,
    }
}

/// Looks at the journal and makes a chunk of what is decided. `is_silent`: nothing more is waited for.
fn look(
    turn: &mut Turn,
    stream: &Stream,
    redactor: &Redactor,
    is_silent: bool,
    observer: &SharedObserver,
) -> io::Result<Next> {
    let Some(journal) = turn.journal.as_mut() else { return Ok(Next::Ended) };
    let mut look = journal.look(&mut turn.window)?;
    look.ended |= is_silent;
    let window = &turn.window;
    if stream.panics.load(Ordering::Relaxed) >= PANICS_MAX && !window.is_empty() {
        let scan = Scan { out: UNREADABLE.to_vec(), consumed: window.len(), held: 0, hits: Vec::new() };
        accept(turn, scan, look.ended, observer);
        return Ok(Next::Deliver);
    }
    let mut end = if look.ended { End::Eof } else { End::More };
    let mut scan = redactor.scan_after(turn.context, window, end);
    if scan.consumed == 0 && scan.held > 0 && look.full {
        // No room for the byte that would decide it.
        end = End::Eof;
        scan = redactor.scan_after(turn.context, window, end);
    }
    if scan.consumed > 0 {
        accept(turn, scan, look.ended, observer);
        return Ok(Next::Deliver);
    }
    if look.ended {
        return Ok(finish(turn));
    }
    // An empty journal at a restart: nothing can repeat from here on.
    turn.resumed &= !window.is_empty();
    let short = scan.held > 0 && scan.held < TAIL_MIN && turn.context.shown < scan.held;
    Ok(Next::Wait { short, held: scan.held > 0 })
}

/// Ends a stream whose journal is empty and closed: first what is left of the log's last character goes out.
fn finish(turn: &mut Turn) -> Next {
    if turn.carry.is_empty() {
        return Next::Ended;
    }
    let next = turn.context;
    turn.pending = Some(Pending {
        out: Vec::new(),
        written: 0,
        log: LogStep::Todo,
        consume: 0,
        next,
        last: true,
        repeated: false,
    });
    Next::Deliver
}

fn release(turn: &mut Turn, redactor: &Redactor, observer: &SharedObserver) {
    let Some(scan) = redactor.release(turn.context, &turn.window) else { return };
    let released = scan.consumed == 0;
    let held = scan.held;
    accept(turn, scan, false, observer);
    if let Some(pending) = turn.pending.as_mut().filter(|_| released) {
        pending.next.shown = held;
    }
}

/// Makes a scan the pending chunk.
fn accept(turn: &mut Turn, scan: Scan, last: bool, observer: &SharedObserver) {
    tell(&scan.hits, observer);
    let next = turn.context.after(&turn.window, scan.consumed);
    // A window cut at its limit may be followed by more, even after a hang-up.
    let last = last && turn.window.len() < WINDOW_MAX;
    let repeated = std::mem::take(&mut turn.resumed);
    if repeated {
        tracing::warn!(
            bytes = scan.consumed,
            "the supervisor was restarted; this much of the output may repeat"
        );
    }
    turn.pending = Some(Pending {
        out: scan.out,
        written: 0,
        log: LogStep::Todo,
        consume: scan.consumed,
        next,
        last,
        repeated,
    });
}

/// Gets the pending chunk out, then consumes what it stands for.
async fn deliver(turn: &mut Turn, stream: &Stream, observer: &SharedObserver) -> Result<(), Stuck> {
    let Some(pending) = turn.pending.as_mut() else { return Ok(()) };
    if let Some(log) = &stream.log {
        if matches!(pending.log, LogStep::Todo) {
            let text = decode(&mut turn.carry, &pending.out, pending.last);
            let (log, agent, kind, repeated) =
                (Arc::clone(log), Arc::clone(&stream.agent), stream.kind, pending.repeated);
            pending.log = LogStep::UnderWay(tokio::task::spawn_blocking(move || {
                log.append(&agent, kind, &text, repeated)
            }));
        }
        if let LogStep::UnderWay(writing) = &mut pending.log {
            // Awaited in place: after an abort the next pump waits for the same write.
            let lost = writing.await.unwrap_or_else(|panicked| {
                tracing::error!(agent = %stream.agent, %panicked, "writing an agent's log failed");
                u64::try_from(pending.out.len()).unwrap_or(u64::MAX)
            });
            pending.log = LogStep::Done;
            if lost > 0 {
                observer.on_log_lost(&stream.agent, lost);
            }
        }
    }
    if let Some(foreground) = &mut turn.foreground {
        while let Some(rest) = pending.out.get(pending.written..).filter(|rest| !rest.is_empty()) {
            let written = foreground.write(rest).await.map_err(Stuck::Sink)?;
            pending.written += written;
        }
    }
    // There is no await from here to the end: the rest happens as one.
    if let Some(journal) = turn.journal.as_mut() {
        journal.consume(pending.consume)?;
    }
    if stream.left.borrow().is_some() {
        turn.since_left = turn.since_left.saturating_add(pending.consume);
    }
    turn.context = pending.next;
    turn.pending = None;
    stream.panics.store(0, Ordering::Relaxed);
    Ok(())
}
