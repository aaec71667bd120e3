//! Moves bytes from one socket to another without taking them into this process: splice(2) through a pipe.
//!
//! Small amounts are copied through a buffer on the stack; once a read fills that buffer, the rest goes by
//! pipe. A pipe is taken when bytes are there and given back when they are gone, so that an idle tunnel holds
//! none. Must never give back a pipe in which bytes of a connection are left: it is closed, which discards
//! them.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use nix::fcntl::{OFlag, SpliceFFlags, splice};
use tokio::io::{AsyncRead, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::limits::{MAX_IDLE_PIPES, RELAY_BUFFER_BYTES};
use crate::relay::{Broken, End, Meter, Side, Stop, both};

/// Maximal number of bytes for one splice(2): more than a pipe holds, so the pipe is the bound.
const AT_ONCE: usize = 1 << 20;

thread_local! {
    /// Empty pipes that are not in use.
    static IDLE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe, and how many bytes are in it.
struct Pipe {
    ends: Option<Ends>,
    held: usize,
}

impl Pipe {
    fn take() -> io::Result<Self> {
        let idle = IDLE.try_with(|idle| idle.borrow_mut().pop()).ok().flatten();
        let ends = match idle {
            Some(ends) => ends,
            None => {
                let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
                Ends { read, write }
            }
        };
        Ok(Self { ends: Some(ends), held: 0 })
    }

    /// Moves bytes from the socket into the empty pipe. Returns 0 at the socket's end.
    fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Ok(0) };
        let moved = splice(from.as_fd(), None, ends.write.as_fd(), None, AT_ONCE, flags())?;
        self.held += moved;
        Ok(moved)
    }

    /// Moves bytes from the pipe into the socket, until the pipe is empty.
    async fn drain(&mut self, to: &TcpStream) -> io::Result<()> {
        while self.held > 0 {
            let Some(ends) = &self.ends else { return Ok(()) };
            let held = self.held;
            let pass = || Ok(splice(ends.read.as_fd(), None, to.as_fd(), None, held, flags())?);
            let moved = to.async_io(Interest::WRITABLE, pass).await?;
            if moved == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.held = held.saturating_sub(moved);
        }
        Ok(())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.held > 0 {
            return;
        }
        let Some(ends) = self.ends.take() else { return };
        let _closed_if_the_thread_ends = IDLE.try_with(|idle| {
            let mut idle = idle.borrow_mut();
            if idle.len() < MAX_IDLE_PIPES {
                idle.push(ends);
            }
        });
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

impl Side for TcpStream {
    fn cut(&self) {
        // A socket that is gone already needs no reset.
        let _gone = self.set_zero_linger();
    }

    async fn relay_to(
        &mut self,
        upstream: &mut TcpStream,
        meter: &Meter,
        stop: impl Future<Output = Stop> + Send,
    ) -> End {
        let (agent_reads, agent_writes) = self.split();
        let (upstream_reads, upstream_writes) = upstream.split();
        // Boxed, since each future that another one takes is kept twice: an idle tunnel is to take little.
        let up = Box::pin(pump(agent_reads, upstream_writes, meter, &meter.up));
        let down = Box::pin(pump(upstream_reads, agent_writes, meter, &meter.down));
        both(meter, up, down, stop).await
    }
}

/// Passes one direction on until its end, and the end too. Counts the bytes.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    meter: &Meter,
    moved: &AtomicU64,
) -> Result<(), Broken> {
    loop {
        let Passed { read, rest } = std::future::poll_fn(|cx| pass(&mut from, &to, cx)).await?;
        if read == 0 {
            return meter.pass_end(&mut to).await;
        }
        if !rest.is_empty() {
            to.write_all(&rest).await.map_err(Broken::Sink)?;
        }
        moved.fetch_add(read as u64, Ordering::Relaxed);
        if read >= RELAY_BUFFER_BYTES {
            pour(from.as_ref(), to.as_ref(), moved).await?;
        }
    }
}

/// How many bytes a read gave, and those of them that the other side didn't take at once.
struct Passed {
    read: usize,
    rest: Vec<u8>,
}

/// Copies what is there, as far as it fits a buffer on the stack.
fn pass(from: &mut ReadHalf<'_>, to: &WriteHalf<'_>, cx: &mut Context<'_>) -> Poll<Result<Passed, Broken>> {
    let mut chunk = [MaybeUninit::uninit(); RELAY_BUFFER_BYTES];
    let mut buffer = ReadBuf::uninit(&mut chunk);
    ready!(Pin::new(from).poll_read(cx, &mut buffer)).map_err(Broken::Source)?;
    let read = buffer.filled();
    let written = match read.is_empty() {
        true => 0,
        false => match to.try_write(read) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Poll::Ready(Err(Broken::Sink(error))),
        },
    };
    let rest = read.get(written..).unwrap_or_default().to_vec();
    Poll::Ready(Ok(Passed { read: read.len(), rest }))
}

/// Moves bytes by pipe until the source is empty for now or has ended, which the next read finds out.
async fn pour(from: &TcpStream, to: &TcpStream, moved: &AtomicU64) -> Result<(), Broken> {
    // Out of descriptors, or at the user's limit of pipe memory: go on by copying.
    let Ok(mut pipe) = Pipe::take() else { return Ok(()) };
    loop {
        match from.try_io(Interest::READABLE, || pipe.fill(from)) {
            Ok(0) => return Ok(()),
            Ok(filled) => {
                pipe.drain(to).await.map_err(Broken::Sink)?;
                moved.fetch_add(filled as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(Broken::Source(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (one, other) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (one.unwrap(), other.unwrap().0)
    }

    /// Sends `length` bytes through a pump to a reader that begins late, and gives what arrived.
    async fn through(length: usize) -> Vec<u8> {
        let ((mut source, mut from), (mut to, mut sink)) = (pair().await, pair().await);
        let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        let sent = bytes.clone();
        let sending = tokio::spawn(async move {
            source.write_all(&sent).await.unwrap();
            source.shutdown().await.unwrap();
        });
        let meter = Arc::new(Meter::default());
        let counted = Arc::clone(&meter);
        let pumping = tokio::spawn(async move {
            let ((from, _), (_, to)) = (from.split(), to.split());
            pump(from, to, &counted, &counted.up).await.unwrap();
        });
        // Until nothing moves any more: every buffer on the way is full, or all of it is through.
        let mut before = u64::MAX;
        while before != meter.up.load(Ordering::Relaxed) {
            before = meter.up.load(Ordering::Relaxed);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let mut got = Vec::new();
        sink.read_to_end(&mut got).await.unwrap();
        sending.await.unwrap();
        pumping.await.unwrap();
        assert_eq!(meter.up.load(Ordering::Relaxed), length as u64);
        assert!(got == bytes, "{length}");
        got
    }

    #[tokio::test]
    async fn everything_arrives_in_order_however_much_and_however_slowly_it_is_read() {
        for length in [0, 1, RELAY_BUFFER_BYTES - 1, RELAY_BUFFER_BYTES, 100_000, 20 << 20] {
            assert_eq!(through(length).await.len(), length);
        }
        assert!(IDLE.with_borrow(|idle| !idle.is_empty()), "pipes are used again");
    }

    #[tokio::test]
    async fn a_pipe_with_bytes_in_it_is_never_anothers() {
        let (mut source, from) = pair().await;
        source.write_all(b"somebody's").await.unwrap();
        from.readable().await.unwrap();
        IDLE.with_borrow_mut(Vec::clear);
        let mut pipe = Pipe::take().unwrap();
        assert!(from.try_io(Interest::READABLE, || pipe.fill(&from)).unwrap() > 0);
        drop(pipe);
        assert!(IDLE.with_borrow(Vec::is_empty));
        drop(Pipe::take().unwrap());
        assert_eq!(IDLE.with_borrow(Vec::len), 1);
    }
}
