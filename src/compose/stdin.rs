//! The operator's standard input, led to the one agent in the foreground.
//!
//! The agent never gets the descriptor itself: an operator's terminal or file must not be in the sandbox. One thread
//! reads it, since a terminal or a file can't be waited for without blocking; `splice` keeps the bytes in the kernel on
//! their way into the agent's pipe, so that a supervisor killed in between has lost none.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use arc_swap::ArcSwapOption;
use nix::fcntl::{SpliceFFlags, splice};

use super::handover::{Handover, HeartLine};
use super::terminal::Terminal;

/// The write end of the agent's input pipe, as the heart keeps it.
const SLOT: &str = "stdin:pipe";
/// Moved at once.
const CHUNK: usize = 64 * 1024;

/// Standard input and where it leads. Clones share it.
#[derive(Clone)]
pub struct Stdin {
    led: Arc<ArcSwapOption<Led>>,
    start: SyncSender<()>,
}

enum Led {
    Pipe(OwnedFd),
    Terminal(Terminal),
}

impl Stdin {
    /// Starts the reading thread; it waits until there is somewhere to lead to.
    pub fn new(handover: &mut Handover, heart: HeartLine) -> Self {
        let (start, started) = sync_channel(1);
        let led = Arc::new(ArcSwapOption::empty());
        let stdin = Self { led: Arc::clone(&led), start };
        let runtime = tokio::runtime::Handle::current();
        std::thread::spawn(move || {
            // An error means that nobody will ever lead it anywhere.
            while started.recv().is_ok() {
                if let Some(now) = led.load_full() {
                    lead(&now, &runtime);
                    // Its end: the agent reads one, and a successor of ours does not lead it on.
                    led.store(None);
                    drop(now);
                    let _ = runtime.block_on(heart.release(SLOT));
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
        // Full: it is told already.
        let _ = self.start.try_send(());
    }

    /// A new pipe for a starting agent; gives its read end.
    pub async fn lead_to_pipe(&self, heart: &HeartLine) -> io::Result<OwnedFd> {
        let (read, write) = io::pipe()?;
        let write = OwnedFd::from(write);
        heart.keep(SLOT, write.as_fd()).await.map_err(io::Error::other)?;
        self.set(Led::Pipe(write));
        Ok(read.into())
    }

    /// The terminal of a started agent.
    pub fn lead_to_terminal(&self, terminal: Terminal) {
        self.set(Led::Terminal(terminal));
    }
}

/// Moves bytes until standard input or the agent ends.
fn lead(to: &Led, runtime: &tokio::runtime::Handle) {
    match to {
        Led::Pipe(pipe) => lead_to_pipe(pipe),
        Led::Terminal(terminal) => lead_to_terminal(terminal.clone(), runtime),
    }
}

fn lead_to_pipe(pipe: &OwnedFd) {
    let stdin = io::stdin();
    loop {
        match splice(stdin.as_fd(), None, pipe, None, CHUNK, SpliceFFlags::empty()) {
            Ok(0) => return,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            // What can't be spliced (some terminals and special files) is copied.
            Err(nix::errno::Errno::EINVAL) => return copy(pipe),
            Err(_) => return,
        }
    }
}

fn copy(pipe: &OwnedFd) {
    let Ok(pipe) = pipe.try_clone() else { return };
    let mut pipe = io::PipeWriter::from(pipe);
    let mut buffer = vec![0; CHUNK];
    while let Ok(read @ 1..) = io::stdin().read(&mut buffer) {
        if pipe.write_all(buffer.get(..read).unwrap_or_default()).is_err() {
            return;
        }
    }
}

fn lead_to_terminal(mut terminal: Terminal, runtime: &tokio::runtime::Handle) {
    use tokio::io::AsyncWriteExt;
    let mut buffer = vec![0; CHUNK];
    while let Ok(read @ 1..) = io::stdin().read(&mut buffer) {
        if runtime.block_on(terminal.write_all(buffer.get(..read).unwrap_or_default())).is_err() {
            return;
        }
    }
}
