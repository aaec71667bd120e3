//! The operator's standard input, forwarded to the one agent in the foreground.
//!
//! The agent never gets the descriptor itself: an operator's terminal or file must not be in the sandbox. One
//! thread reads it, since a terminal or a file can't be waited for without blocking. `splice` keeps the bytes
//! in the kernel on their way into the agent's pipe, so that a supervisor killed in between loses none. What
//! is typed while the heart is stopped or in the background is left to the shell. This process has to check
//! for that itself: the kernel applies job control only to the terminal's own session, and this process is in
//! another.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{Receiver, channel};

use super::handover::{Handover, HeartLine};
use super::interrupts::Interrupts;
use super::terminal::Terminal;
use crate::heart::{INTERRUPTED, INTERRUPTED_TWICE};

/// The write end of the agent's input pipe, as the heart keeps it.
const SLOT: &str = "stdin:pipe";
/// Bytes that are moved at once.
const CHUNK: usize = 64 * 1024;
/// Bytes that are read from a terminal at once: it returns no more (N_TTY_BUF_SIZE).
const KEYS: usize = 4096;
/// How many reads of [`KEYS`] bytes may wait for a program that doesn't read its terminal: 1 MiB at most.
const TYPED_AHEAD: usize = 256;
/// How often to check whether the heart has its terminal again, while input waits.
const AWAY_LOOK: Duration = Duration::from_millis(50);

/// Standard input and where it is forwarded to. Clones share it.
#[derive(Clone)]
pub struct Stdin {
    led: Arc<ArcSwapOption<Led>>,
    start: SyncSender<()>,
    /// Held while destination and slot change together.
    slot: Arc<Mutex<()>>,
}

enum Led {
    Pipe(OwnedFd),
    Terminal(Terminal),
}

impl Stdin {
    /// Starts the reading thread, which waits until there is a destination. Resumes the pipe that the heart
    /// kept, if any.
    pub fn new(handover: &mut Handover, heart: HeartLine) -> Self {
        let (start, started) = sync_channel(1);
        let led = Arc::new(ArcSwapOption::empty());
        let slot = Arc::new(Mutex::new(()));
        let stdin = Self { led: Arc::clone(&led), start, slot: Arc::clone(&slot) };
        let runtime = tokio::runtime::Handle::current();
        std::thread::spawn(move || {
            // An error means that no sender is left: no destination will ever be set.
            while started.recv().is_ok() {
                if let Some(now) = led.load_full() {
                    lead(&now, &runtime, &heart);
                    // End of input: dropping the pipe lets the agent read end of file, and releasing the slot
                    // keeps a successor from forwarding more. A newer destination stays what it is.
                    runtime.block_on(async {
                        let _slot = slot.lock().await;
                        let newest = led.compare_and_swap(&now, None);
                        if newest.as_ref().is_some_and(|newest| Arc::ptr_eq(newest, &now)) {
                            drop((newest, now));
                            let _ = heart.release(SLOT).await;
                        }
                    });
                }
            }
        });
        if let Some(pipe) = handover.take(SLOT) {
            stdin.set(Led::Pipe(pipe));
        }
        stdin
    }

    fn set(&self, led: Led) {
        self.led.store(Some(Arc::new(led)));
        // If the channel is full, the thread has been told already.
        let _ = self.start.try_send(());
    }

    /// Forwards to a new pipe, for a starting agent. Returns the pipe's read end.
    pub async fn lead_to_pipe(&self, heart: &HeartLine) -> io::Result<OwnedFd> {
        let (read, write) = io::pipe()?;
        let write = OwnedFd::from(write);
        let _slot = self.slot.lock().await;
        heart.keep(SLOT, write.as_fd()).await.map_err(io::Error::other)?;
        self.set(Led::Pipe(write));
        Ok(read.into())
    }

    /// Forwards to the terminal of a started agent.
    pub fn lead_to_terminal(&self, terminal: Terminal) {
        self.set(Led::Terminal(terminal));
    }
}

/// Waits until there is input that is meant for the agent. The heart's state is read from /proc, which shows
/// a stop no later than a waiting shell learns of it: the shell finds no other reader.
fn wait_for_input() {
    let stdin = io::stdin();
    let is_terminal = stdin.is_terminal();
    loop {
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        // An error of poll(2) is no reason not to read.
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            _ if Job::of_the_heart().is_none_or(|heart| heart.may_read(is_terminal)) => return,
            _ => std::thread::sleep(AWAY_LOOK),
        }
    }
}

/// The state of a process under a shell's job control, from proc_pid_stat(5).
#[derive(Debug, PartialEq, Eq)]
struct Job {
    is_stopped: bool,
    group: i32,
    /// The group that its terminal is given to; -1 without a terminal.
    foreground: i32,
}

impl Job {
    /// Returns the heart's state. `None` if it can't be read (`hidepid`): then the heart isn't known to be
    /// stopped.
    fn of_the_heart() -> Option<Self> {
        let heart = std::os::unix::process::parent_id();
        Self::read(&std::fs::read_to_string(format!("/proc/{heart}/stat")).ok()?)
    }

    fn read(stat: &str) -> Option<Self> {
        // The fields after the name, which may hold any character: state, parent, group, session, terminal,
        // the terminal's group.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse().ok();
        Some(Self { is_stopped: *fields.first()? == "T", group: number(2)?, foreground: number(5)? })
    }

    /// Whether input may be read while the heart is in this state. Without a controlling terminal (`setsid`)
    /// there is no shell to take keys from.
    fn may_read(&self, is_terminal: bool) -> bool {
        let is_behind = is_terminal && self.foreground > 0 && self.foreground != self.group;
        !self.is_stopped && !is_behind
    }
}

/// Moves bytes until standard input or the agent ends.
fn lead(to: &Led, runtime: &tokio::runtime::Handle, heart: &HeartLine) {
    match to {
        Led::Pipe(pipe) => lead_to_pipe(pipe),
        Led::Terminal(terminal) => lead_to_terminal(terminal.clone(), runtime, heart),
    }
}

fn lead_to_pipe(pipe: &OwnedFd) {
    let stdin = io::stdin();
    loop {
        wait_for_input();
        match splice(stdin.as_fd(), None, pipe, None, CHUNK, SpliceFFlags::empty()) {
            Ok(0) => return,
            Ok(_) | Err(Errno::EINTR) => {}
            // What can't be spliced (some terminals and special files) is copied.
            Err(Errno::EINVAL) => return copy(pipe),
            Err(_) => return,
        }
    }
}

/// Reads standard input. A whole chunk is requested, so that nothing stays in the library's buffer, where
/// poll(2) doesn't see it.
fn read(chunk: &mut [u8]) -> io::Result<usize> {
    wait_for_input();
    io::stdin().read(chunk)
}

fn copy(pipe: &OwnedFd) {
    let Ok(pipe) = pipe.try_clone() else { return };
    let mut pipe = io::PipeWriter::from(pipe);
    let mut buffer = vec![0; CHUNK];
    while let Ok(read @ 1..) = read(&mut buffer) {
        if pipe.write_all(buffer.get(..read).unwrap_or_default()).is_err() {
            return;
        }
    }
}

/// Forwards what is typed. Reading goes on while earlier input waits for a program that doesn't read it:
/// Ctrl-C may come after a long paste.
fn lead_to_terminal(terminal: Terminal, runtime: &tokio::runtime::Handle, heart: &HeartLine) {
    let (typed, waiting) = channel(TYPED_AHEAD);
    runtime.spawn(type_into(terminal.clone(), waiting));
    let mut buffer = vec![0; KEYS];
    let mut interrupts = Interrupts::default();
    while !typed.is_closed()
        && let Ok(read @ 1..) = read(&mut buffer)
    {
        let keys = buffer.get(..read).unwrap_or_default();
        if interrupts.end_with(keys, &terminal) {
            // If the heart can't be reached it is gone, and the sandbox with it.
            let _ = runtime.block_on(heart.finish(INTERRUPTED, None, Some(INTERRUPTED_TWICE.into())));
            return;
        }
        if typed.blocking_send(keys.to_vec()).is_err() {
            return;
        }
    }
}

/// Writes what waits into the terminal. Ends with the terminal, or when the input ends.
async fn type_into(mut terminal: Terminal, mut waiting: Receiver<Vec<u8>>) {
    while let Some(keys) = waiting.recv().await {
        if terminal.write_all(&keys).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_in_the_background_reads_no_terminal() {
        let of = |rest: &str| Job::read(&format!("12 (a) R (b) {rest}")).unwrap();
        let (before, behind) = (of("S 1 12 10 34816 12 0 0"), of("S 1 12 10 34816 10 0 0"));
        assert!(before.may_read(true) && !behind.may_read(true));
        assert!(behind.may_read(false), "a file or a pipe is nobody else's");
        assert!(!of("T 1 12 10 34816 12 0 0").may_read(false));
        assert!(of("S 1 12 12 0 -1 0 0").may_read(true));
        assert_eq!(Job::read("12 (a)"), None);
    }
}
