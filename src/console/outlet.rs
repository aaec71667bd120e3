//! How a process writes its messages. Standard error may block: Ctrl-S, a pager, a log's pipe that nobody
//! reads.
//!
//! ```text
//! a command        waits for whoever reads
//! the heart        waits a second once, then not at all until something is read again
//! the supervisor   never waits: a queue, and one thread of its own that does
//! ```
//! Messages that an agent provokes must not block the processes that guard it or that hold its sandbox's
//! name. Messages that find no room are counted, and the next one that finds room reports them.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc::PIPE_BUF;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};

/// How long the heart waits, in all, for a reader that has stopped reading.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes that may wait for the supervisor's thread.
const WAITING_MAX: usize = 256 * 1024;

/// How this process writes messages. Unset, it waits for the reader.
static WAY: OnceLock<Way> = OnceLock::new();

enum Way {
    Briefly(Mutex<Brief>),
    Queued(Queue),
}

/// Makes this process, and those forked from it, give up soon on a reader that doesn't read.
pub fn wait_briefly() {
    let _already = WAY.set(Way::Briefly(Mutex::default()));
}

/// Makes this process never wait for a reader: a thread does, which is started with the first message.
pub fn queue() {
    let _already = WAY.set(Way::Queued(Queue::default()));
}

/// Waits, `within` so long, until everything queued is written.
pub fn flush(within: Duration) {
    if let Some(Way::Queued(queue)) = WAY.get() {
        queue.flush(within);
    }
}

/// Writes a whole message.
pub fn put(message: &[u8]) {
    match WAY.get() {
        // Nothing can be done about a closed standard error.
        None => drop(io::stderr().lock().write_all(message)),
        Some(Way::Briefly(brief)) => locked(brief).put(message),
        Some(Way::Queued(queue)) => queue.put(message),
    }
}

/// Standard error as a writer: each write is a whole message.
#[derive(Debug)]
pub struct Messages;

impl Write for Messages {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        put(message);
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lost_in_words(lost: u64) -> Vec<u8> {
    let words = match lost {
        1 => "a message was lost: nobody read standard error".to_owned(),
        more => format!("{more} messages were lost: nobody read standard error"),
    };
    super::worded(tracing::Level::WARN, &words).into_bytes()
}

/// What a process without threads knows about its reader.
#[derive(Default)]
struct Brief {
    is_stuck: bool,
    lost: u64,
}

impl Brief {
    fn put(&mut self, message: &[u8]) {
        let by = Instant::now() + if self.is_stuck { Duration::ZERO } else { PATIENCE };
        let note = if self.lost > 0 { lost_in_words(self.lost) } else { Vec::new() };
        self.is_stuck = write_by(&[&note, message].concat(), Some(by)) == Err(Errno::ETIMEDOUT);
        self.lost = if self.is_stuck { self.lost.saturating_add(1) } else { 0 };
    }
}

/// Messages that wait for the thread that writes them.
#[derive(Default)]
struct Queue {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Vec<u8>>,
    bytes: usize,
    /// How many messages after these found no room.
    lost: u64,
    has_writer: bool,
    is_writing: bool,
}

impl Waiting {
    fn is_all_out(&self) -> bool {
        self.messages.is_empty() && self.lost == 0 && !self.is_writing
    }

    /// Queues a message. Once one was lost, the following ones are too: the note of the loss stands in their
    /// place.
    fn add(&mut self, message: &[u8]) {
        if self.lost > 0 || self.bytes + message.len() > WAITING_MAX {
            self.lost = self.lost.saturating_add(1);
        } else {
            self.bytes += message.len();
            self.messages.push_back(message.to_vec());
        }
    }

    /// Takes everything that waits, as one text, with the note of lost messages.
    fn take(&mut self) -> Vec<u8> {
        let lost = std::mem::take(&mut self.lost);
        self.bytes = 0;
        let note = (lost > 0).then(|| lost_in_words(lost));
        self.messages.drain(..).chain(note).flatten().collect()
    }
}

impl Queue {
    fn put(&'static self, message: &[u8]) {
        let mut waiting = locked(&self.state);
        waiting.add(message);
        if !waiting.has_writer {
            let write = move || self.write();
            // If no thread can be started, the next message tries again.
            waiting.has_writer = std::thread::Builder::new().name("messages".into()).spawn(write).is_ok();
        }
        self.changed.notify_all();
    }

    /// Does the thread's work: the only place that waits for a reader.
    fn write(&self) {
        loop {
            let waiting = locked(&self.state);
            let waiting = self.changed.wait_while(waiting, |waiting| waiting.messages.is_empty());
            let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
            let text = waiting.take();
            waiting.is_writing = true;
            drop(waiting);
            // Nothing can be done about a closed standard error.
            let _ = write_by(&text, None);
            locked(&self.state).is_writing = false;
            self.changed.notify_all();
        }
    }

    fn flush(&self, within: Duration) {
        let waiting = locked(&self.state);
        let _out_or_not = self.changed.wait_timeout_while(waiting, within, |waiting| !waiting.is_all_out());
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes the whole text, and waits for a reader until `by`.
fn write_by(text: &[u8], by: Option<Instant>) -> Result<(), Errno> {
    let stderr = io::stderr();
    let door = Door::of(stderr.as_fd());
    let mut left = text;
    while !left.is_empty() {
        wait_writable(door.fd(), by)?;
        match door.write(left) {
            Ok(written) => left = left.get(written..).unwrap_or_default(),
            // Another writer was quicker.
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait_writable(fd: BorrowedFd<'_>, by: Option<Instant>) -> Result<(), Errno> {
    loop {
        let left = by.map(|by| by.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(PollTimeout::NONE, |left| left.try_into().unwrap_or(PollTimeout::MAX));
        match poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], timeout) {
            Ok(0) if by.is_some_and(|by| by <= Instant::now()) => return Err(Errno::ETIMEDOUT),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Standard error, in a form that can be written without waiting. The open file description is shared with
/// the operator's shell, so its flags are left alone.
enum Door<'a> {
    /// A pipe or terminal, opened again with O_NONBLOCK.
    Own(OwnedFd),
    /// A socket: each call passes MSG_DONTWAIT.
    Socket(BorrowedFd<'a>),
    /// A file, or a pipe or terminal that can't be opened again, since another user opened it for us. It is
    /// written in small pieces, only when it is ready.
    Shared(BorrowedFd<'a>),
}

impl<'a> Door<'a> {
    fn of(fd: BorrowedFd<'a>) -> Self {
        let kind = fstat(fd).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
        match kind {
            Ok(SFlag::S_IFSOCK) => Self::Socket(fd),
            Ok(SFlag::S_IFIFO | SFlag::S_IFCHR) => opened_anew(fd).map_or(Self::Shared(fd), Self::Own),
            _ => Self::Shared(fd),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(fd) => fd.as_fd(),
            Self::Socket(fd) | Self::Shared(fd) => *fd,
        }
    }

    fn write(&self, text: &[u8]) -> Result<usize, Errno> {
        match self {
            Self::Own(fd) => nix::unistd::write(fd, text),
            Self::Socket(fd) => send(fd.as_raw_fd(), text, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL),
            // A pipe that is writable has room for PIPE_BUF bytes (pipe(7)).
            Self::Shared(fd) => nix::unistd::write(fd, text.get(..PIPE_BUF).unwrap_or(text)),
        }
    }
}

fn opened_anew(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    open(path.as_str(), flags, Mode::empty()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_behind_what_did() {
        let mut waiting = Waiting::default();
        let half = vec![b'x'; WAITING_MAX / 2];
        for _ in 0..2 {
            waiting.add(&half);
        }
        waiting.add(b"no room\n");
        waiting.add(b"");
        let taken = waiting.take();
        assert_eq!(
            String::from_utf8_lossy(taken.get(WAITING_MAX..).unwrap()),
            "cofferdam: 2 messages were lost: nobody read standard error\n"
        );
        assert!(waiting.is_all_out());
        waiting.add(b"room again\n");
        assert_eq!(waiting.take(), b"room again\n");
    }

    #[test]
    fn a_reader_that_does_not_read_is_waited_for_until_then() {
        let (reader, writer) = io::pipe().unwrap();
        let door = Door::of(writer.as_fd());
        assert!(matches!(door, Door::Own(_)));
        let written = std::iter::from_fn(|| door.write(&[b'x'; PIPE_BUF]).ok()).sum::<usize>();
        assert!(written >= PIPE_BUF);
        let by = Instant::now() + Duration::from_millis(10);
        assert_eq!(wait_writable(door.fd(), Some(by)), Err(Errno::ETIMEDOUT));
        drop(reader);
        assert_eq!(wait_writable(door.fd(), Some(by)), Ok(()));
        assert_eq!(door.write(b"x"), Err(Errno::EPIPE));
    }
}
