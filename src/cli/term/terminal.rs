//! The operator's terminal while `term` has it: in raw mode, on the alternate screen. It is restored
//! afterwards, whatever ends or stops us.
//!
//! A separate thread writes frames, so that a terminal that takes no more bytes (a slow line, Ctrl-S) delays
//! no key and no signal. While one frame is being written, no other is drawn.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
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
use tui::input::Keys;
use tui::keys::Press;
use tui::message::Message;
use tui::screen::{Screen, leave};

/// How long to wait for the last frame at the end, and for a terminal that takes no bytes.
const LAST_FRAME: Duration = Duration::from_millis(500);
/// How many reads of keys may wait for the model: a person types no further ahead.
const KEYS: usize = 32;

/// How many milliseconds after an ESC the following bytes may still belong to its sequence: terminals send a
/// sequence at once.
const ESCAPE_MS: u8 = 50;

/// The changes to the terminal that must be undone, by us or by the panic hook.
struct Taken {
    raw: RawTerminal,
    out: OwnedFd,
    is_ours: AtomicBool,
}

impl Taken {
    fn new(input: impl AsFd, out: impl AsFd) -> io::Result<Arc<Self>> {
        let out = out.as_fd().try_clone_to_owned()?;
        Ok(Arc::new(Self { raw: RawTerminal::enter(input)?, out, is_ours: AtomicBool::new(true) }))
    }

    /// Restores the terminal in a panic, before the panic's message is written: on our screen it would never
    /// be read.
    fn give_back_in_a_panic(self: &Arc<Self>) {
        let (theirs, hook) = (Arc::clone(self), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            theirs.give_back();
            hook(panic);
        }));
    }

    fn give_back(&self) {
        if self.is_ours.swap(false, Ordering::SeqCst) {
            let _ = write(&self.out, &leave(), Some(LAST_FRAME));
            self.raw.give_back();
        }
    }
}

/// The terminal. Dropping this restores it.
pub struct Terminal {
    taken: Arc<Taken>,
    screen: Screen,
    frames: mpsc::Sender<Vec<u8>>,
    done: mpsc::Receiver<io::Result<()>>,
    is_writing: bool,
}

impl Terminal {
    /// Takes the terminal.
    pub fn take() -> io::Result<Self> {
        let taken = Taken::new(io::stdin(), io::stdout())?;
        taken.give_back_in_a_panic();
        let theirs = Arc::clone(&taken);
        let (frames, mut queue) = mpsc::channel::<Vec<u8>>(1);
        let (tell, done) = mpsc::channel(1);
        std::thread::Builder::new().name("screen".into()).spawn(move || {
            while let Some(frame) = queue.blocking_recv() {
                if tell.blocking_send(write(&theirs.out, &frame, None)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { taken, screen: Screen::new(), frames, done, is_writing: false })
    }

    /// Returns the terminal's size as a message to the model.
    pub fn size(&self) -> Message {
        // A terminal that reports no size is assumed to have the usual one.
        let (columns, rows) = window_of(io::stdout()).map_or((80, 24), |window| (window.cols, window.rows));
        Message::Resize { columns, rows }
    }

    /// Whether a frame may be drawn.
    pub fn is_idle(&self) -> bool {
        !self.is_writing && self.taken.is_ours.load(Ordering::SeqCst)
    }

    /// Draws a frame, and has the thread write it.
    pub fn show(&mut self, model: &Model) {
        // The queue has room: no frame is drawn while another is being written.
        self.is_writing = self.frames.try_send(self.screen.frame(model)).is_ok();
    }

    /// Waits until the current frame is written; for ever if there is none.
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

    /// Restores the terminal and stops this process until it is continued: then [`Self::take_again`] must be
    /// called. Does nothing if no shell could continue us.
    pub async fn stop(&mut self) {
        if !has_a_shell() {
            return;
        }
        self.settle().await;
        self.taken.give_back();
        let _ = raise(Signal::SIGSTOP);
    }

    /// Takes the terminal again, whatever another program has done to it meanwhile. In the background this
    /// waits until we are in the foreground.
    pub fn take_again(&mut self) {
        // An error means that the terminal is gone: the SIGHUP is on its way.
        if self.taken.raw.take_again().is_err() {
            return;
        }
        self.taken.is_ours.store(true, Ordering::SeqCst);
        self.screen.forget();
    }

    /// Restores the terminal for good, after the last frame.
    pub async fn finish(mut self) {
        self.settle().await;
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.taken.give_back();
    }
}

/// Returns the keys as they come, grouped as they were read, until the terminal can't be read any more.
pub fn keys() -> io::Result<mpsc::Receiver<io::Result<Vec<Press>>>> {
    let (sender, queue) = mpsc::channel(KEYS);
    std::thread::Builder::new().name("keys".into()).spawn(move || {
        let mut keys = Keys::default();
        loop {
            let presses = read(&mut keys);
            let is_over = presses.is_err();
            if sender.blocking_send(presses).is_err() || is_over {
                return;
            }
        }
    })?;
    Ok(queue)
}

/// Reads the next keys. If an ESC waits for the rest of its sequence, also returns when nothing follows in
/// time.
fn read(keys: &mut Keys) -> io::Result<Vec<Press>> {
    let input = io::stdin();
    let timeout = if keys.is_waiting() { PollTimeout::from(ESCAPE_MS) } else { PollTimeout::NONE };
    match poll(&mut [PollFd::new(input.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(0) => return Ok(keys.silence().into_iter().collect()),
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    let mut bytes = [0; 256];
    match nix::unistd::read(&input, &mut bytes) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(read) => Ok(keys.read(bytes.get(..read).unwrap_or_default())),
        Err(Errno::EINTR | Errno::EAGAIN) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Does what Ctrl-Z does on a terminal that isn't raw: stops our whole process group, also a script that
/// started us.
pub fn stop_all() {
    if has_a_shell() {
        let _ = kill(Pid::from_raw(0), Signal::SIGTSTP);
    }
}

/// Whether a shell can continue us: a shell with job control gives each job its own process group. A process
/// in the group of the terminal's first process would stay stopped for ever.
fn has_a_shell() -> bool {
    getsid(None).is_ok_and(|session| session != getpgrp())
}

/// Writes all bytes. With `within`, gives up when the terminal takes none for so long.
fn write(out: &OwnedFd, mut bytes: &[u8], within: Option<Duration>) -> io::Result<()> {
    let timeout =
        within.map_or(PollTimeout::NONE, |time| PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO));
    while !bytes.is_empty() {
        // poll(2) is needed also because another process that shares the terminal may have made it
        // non-blocking.
        if poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLOUT)], timeout)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match nix::unistd::write(out, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;

    use nix::pty::openpty;
    use rustix::termios::{LocalModes, tcgetattr};

    use super::*;

    fn is_cooked(terminal: &impl AsFd) -> bool {
        tcgetattr(terminal)
            .unwrap()
            .local_modes
            .contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    #[test]
    fn a_panic_gives_the_terminal_back_before_its_words() {
        let pty = openpty(None, None).unwrap();
        let taken = Taken::new(&pty.slave, &pty.slave).unwrap();
        assert!(!is_cooked(&pty.slave));
        let before = std::panic::take_hook();
        let (tell, told) = std::sync::mpsc::channel();
        // What writes the words of a panic: by then the terminal is a terminal.
        let device = pty.slave.try_clone().unwrap();
        std::panic::set_hook(Box::new(move |_| {
            let _ = tell.send(is_cooked(&device));
        }));
        taken.give_back_in_a_panic();
        let panicked = std::thread::spawn(|| panic!("a test's")).join();
        std::panic::set_hook(before);
        assert!(panicked.is_err());
        assert!(told.recv().unwrap(), "it is still raw while the words are written");
        let mut shown = [0; 256];
        let mut master = File::from(pty.master);
        let read = master.read(&mut shown).unwrap();
        assert_eq!(shown[..read], leave());
        // Once is enough.
        taken.give_back();
        assert!(is_cooked(&pty.slave));
    }

    /// A terminal that takes no more bytes: its output isn't read, and its buffer is full.
    #[test]
    fn a_terminal_that_takes_nothing_is_given_back_all_the_same() {
        let pty = openpty(None, None).unwrap();
        let taken = Taken::new(&pty.slave, &pty.slave).unwrap();
        let mut full = 0;
        while write(&taken.out, &[b'x'; 64], Some(Duration::from_millis(20))).is_ok() {
            full += 64;
            assert!(full < 1 << 20, "a terminal that takes everything");
        }
        taken.give_back();
        assert!(is_cooked(&pty.slave));
    }
}
