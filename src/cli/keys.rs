//! What is typed on the operator's terminal for a process inside. Never reads what is typed while this
//! command is stopped: that is for the shell.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

/// Bytes of one read.
const CHUNK: usize = 4096;

/// The terminal that standard input is, read by a thread of its own.
pub struct Keys {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl Keys {
    /// Begins to read. The thread ends with the process, or once nobody takes what it reads.
    pub fn of_terminal() -> Self {
        let (send, chunks) = mpsc::channel(1);
        std::thread::spawn(move || {
            loop {
                let chunk = next();
                let is_last = !matches!(&chunk, Ok(bytes) if !bytes.is_empty());
                if send.blocking_send(chunk).is_err() || is_last {
                    return;
                }
            }
        });
        Self { chunks, rest: Bytes::new() }
    }
}

/// Waits for keys, and reads them. A thread that waits in read(2) would be given what is typed a moment after
/// the process was stopped, before the thread itself has stopped: data comes before signals there. From
/// poll(2) it stops before it reads.
fn next() -> io::Result<Bytes> {
    let stdin = io::stdin();
    loop {
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let mut chunk = [0; CHUNK];
        match nix::unistd::read(&stdin, &mut chunk) {
            Err(Errno::EINTR) => {}
            read => return Ok(Bytes::copy_from_slice(chunk.get(..read?).unwrap_or_default())),
        }
    }
}

impl AsyncRead for Keys {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            match ready!(self.chunks.poll_recv(cx)) {
                Some(chunk) => self.rest = chunk?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.rest.len().min(buf.remaining());
        buf.put_slice(self.rest.get(..length).unwrap_or_default());
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}
