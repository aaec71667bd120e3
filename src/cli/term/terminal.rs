//! The operator's terminal while `term` has it: raw, on its other screen; and itself again afterwards, whatever ends or stops us.
//!
//! Frames are written by a thread of their own: a terminal that takes no more bytes (a slow line, Ctrl-S) keeps no key and no signal
//! waiting. While one is being written no other is drawn.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::{Pid, getpgrp, getsid};
use operator::client::{RawTerminal, window_of};
use tokio::sync::mpsc;
use tui::Model;
use tui::keys::Press;
use tui::message::Message;
use tui::screen::{Screen, enter, leave};

/// How long the last frame is waited for at the end, and how long a terminal that takes nothing.
const LAST_FRAME: Duration = Duration::from_millis(500);
/// Keys that wait for the model: a person types no more ahead.
const KEYS: usize = 32;

/// What has been done to the terminal, and is to be undone: by us, or by a panic on its way.
struct Taken {
    raw: RawTerminal,
    is_ours: AtomicBool,
}

impl Taken {
    fn give_back(&self) {
        if self.is_ours.swap(false, Ordering::SeqCst) {
            // No lock: whoever writes a frame has standard output's.
            let _ = write(&leave(), Some(LAST_FRAME));
            self.raw.give_back();
        }
    }
}

/// The terminal. Dropped, it is as before.
pub struct Terminal {
    taken: Arc<Taken>,
    screen: Screen,
    frames: mpsc::Sender<Vec<u8>>,
    done: mpsc::Receiver<io::Result<()>>,
    is_writing: bool,
}

impl Terminal {
    /// Takes it.
    pub fn take() -> io::Result<Self> {
        let raw = RawTerminal::enter(io::stdin())?;
        let taken = Arc::new(Taken { raw, is_ours: AtomicBool::new(true) });
        let theirs = Arc::clone(&taken);
        let hook = std::panic::take_hook();
        // Before the words of a panic are written: on our screen nobody would ever read them.
        std::panic::set_hook(Box::new(move |panic| {
            theirs.give_back();
            hook(panic);
        }));
        let (frames, mut queue) = mpsc::channel::<Vec<u8>>(1);
        let (tell, done) = mpsc::channel(1);
        std::thread::Builder::new().name("screen".into()).spawn(move || {
            while let Some(frame) = queue.blocking_recv() {
                if tell.blocking_send(write(&frame, None)).is_err() {
                    return;
                }
            }
        })?;
        let mut terminal = Self { taken, screen: Screen::new(), frames, done, is_writing: false };
        terminal.send(enter());
        Ok(terminal)
    }

    /// Its size, as the model wants it.
    pub fn size(&self) -> Message {
        // What tells no size is taken for the usual one.
        let (columns, rows) = window_of(io::stdout()).map_or((80, 24), |window| (window.cols, window.rows));
        Message::Resize { columns, rows }
    }

    /// Whether a frame may be drawn.
    pub fn is_idle(&self) -> bool {
        !self.is_writing && self.taken.is_ours.load(Ordering::SeqCst)
    }

    /// Draws a frame, which is written meanwhile.
    pub fn show(&mut self, model: &Model) {
        let frame = self.screen.frame(model);
        self.send(frame);
    }

    fn send(&mut self, bytes: Vec<u8>) {
        // There is room: nothing is sent while something is being written.
        self.is_writing = self.frames.try_send(bytes).is_ok();
    }

    /// Waits until what is being written is; for ever where nothing is.
    pub async fn written(&mut self) -> io::Result<()> {
        if !self.is_writing {
            return std::future::pending().await;
        }
        let written = self.done.recv().await;
        self.is_writing = false;
        written.unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into()))
    }

    async fn settle(&mut self) {
        if self.is_writing {
            let _ = tokio::time::timeout(LAST_FRAME, self.written()).await;
        }
    }

    /// Gives the terminal back and stops us, until somebody has us go on: then [`Self::take_again`] is due. Where nobody could, we go on.
    pub async fn stop(&mut self) {
        if !has_a_shell() {
            return;
        }
        self.settle().await;
        self.taken.give_back();
        let _ = raise(Signal::SIGSTOP);
    }

    /// Takes the terminal again: whoever had it meanwhile may have done anything to it. In the background that waits until we aren't.
    pub fn take_again(&mut self) {
        // Gone: then the SIGHUP is on its way.
        if self.taken.raw.take_again().is_err() {
            return;
        }
        self.taken.is_ours.store(true, Ordering::SeqCst);
        self.screen.forget();
        if !self.is_writing {
            self.send(enter());
        }
    }

    /// Gives it back for good, behind the last frame.
    pub async fn finish(mut self) {
        self.settle().await;
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.taken.give_back();
    }
}

/// The keys as they come, until the terminal gives none any more.
pub fn keys() -> io::Result<mpsc::Receiver<io::Result<Press>>> {
    let (sender, keys) = mpsc::channel(KEYS);
    std::thread::Builder::new().name("keys".into()).spawn(move || {
        loop {
            let next = tui::input::next();
            let is_over = next.is_err();
            if sender.blocking_send(next).is_err() || is_over {
                return;
            }
        }
    })?;
    Ok(keys)
}

/// What Ctrl-Z does where the terminal isn't raw: all that share it with us are told, a script that started us too.
pub fn stop_all() {
    if has_a_shell() {
        let _ = kill(Pid::from_raw(0), Signal::SIGTSTP);
    }
}

/// Whether somebody can have us go on: a shell that controls jobs gives each a process group. What a terminal's first process starts
/// in its own group would stay stopped for ever.
fn has_a_shell() -> bool {
    getsid(None).is_ok_and(|session| session != getpgrp())
}

/// Writes all of it to standard output; within a time, at most what the terminal takes at once.
fn write(mut bytes: &[u8], within: Option<Duration>) -> io::Result<()> {
    let out = io::stdout();
    let timeout =
        within.map_or(PollTimeout::NONE, |time| PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO));
    while !bytes.is_empty() {
        if within.is_some() && poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLOUT)], timeout)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match nix::unistd::write(out.as_fd(), bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            // Somebody has made it so that shares it with us.
            Err(Errno::EAGAIN) => {
                poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLOUT)], timeout)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
