//! The server's side of an exec session: connects frames to the process's queues.
//!
//! Reading never stops, so that a signal or the client's leaving is noticed even while the process takes no
//! input: a flow-control window bounds what the client may send ahead. The session ends with the process or
//! with the client, whichever is first; dropping the queues tells the process's side.

use std::{
    future::pending,
    io,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, split},
    sync::{Notify, mpsc},
};

use crate::{
    control::{ExecControl, ExecOutput, ExecSession},
    frame::{Down, Reader, Up, write},
    limits::STDIN_WINDOW,
};

/// Runs a session to its end over an upgraded connection.
///
/// # Errors
/// The connection fails, a frame makes no sense, or the client overruns its window.
pub(crate) async fn run<Io: AsyncRead + AsyncWrite + Send>(io: Io, session: ExecSession) -> io::Result<()> {
    let (from, to) = split(io);
    let ExecSession { stdin, control, output } = session;
    let window = Window::default();
    // Unbounded as a type, bounded by the window.
    let (queue, queued) = mpsc::unbounded_channel();
    tokio::select! {
        done = send(to, output, &window) => done,
        gone = read(from, queue, control, &window) => gone,
        () = feed(queued, stdin, &window) => Ok(()),
    }
}

/// How many bytes the client is ahead of the credit that it was given: never more than [`STDIN_WINDOW`], even
/// if it sends and never reads.
#[derive(Default)]
struct Window {
    ahead: AtomicUsize,
    /// The part of these bytes that the process took and the client was not credited with yet.
    taken: AtomicU32,
    took: Notify,
}

impl Window {
    /// Notes that the client has sent `len` bytes.
    fn sent(&self, len: usize) -> io::Result<()> {
        match self.ahead.fetch_add(len, Relaxed) + len {
            ..=STDIN_WINDOW => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the client overran its window")),
        }
    }

    /// Notes that the process has taken `len` bytes.
    fn took(&self, len: usize) {
        self.taken.fetch_add(u32::try_from(len).unwrap_or(u32::MAX), Relaxed);
        self.took.notify_one();
    }

    /// Waits until the process has taken something, and returns all of it as one credit: however slowly the
    /// client reads, all outstanding credit is one number.
    async fn credit(&self) -> u32 {
        loop {
            match self.taken.swap(0, Relaxed) {
                0 => self.took.notified().await,
                taken => {
                    self.ahead.fetch_sub(taken as usize, Relaxed);
                    return taken;
                }
            }
        }
    }
}

/// Reads until the client leaves.
async fn read<R: AsyncRead + Unpin>(
    from: R,
    queue: mpsc::UnboundedSender<Bytes>,
    control: mpsc::Sender<ExecControl>,
    window: &Window,
) -> io::Result<()> {
    let mut frames = Reader::<_, Up>::new(from);
    let mut queue = Some(queue);
    while let Some(frame) = frames.next().await? {
        match frame {
            Up::Stdin(bytes) if bytes.is_empty() => {}
            Up::Stdin(bytes) => {
                window.sent(bytes.len())?;
                if let Some(queue) = &queue {
                    let _ = queue.send(bytes);
                }
            }
            Up::End => queue = None,
            // Where the process hears of nothing for now, its client waits.
            Up::Control(message) => drop(control.send(message).await),
        }
    }
    Ok(())
}

/// Passes the input on as the process takes it. Never returns: a process whose input has ended may go on for
/// hours.
async fn feed(mut queued: mpsc::UnboundedReceiver<Bytes>, stdin: mpsc::Sender<Bytes>, window: &Window) {
    while let Some(bytes) = queued.recv().await {
        let len = bytes.len();
        // A process that closed its input still lets the client send: the bytes go nowhere, as in a shell's
        // pipe.
        let _ = stdin.send(bytes).await;
        window.took(len);
    }
    drop(stdin);
    pending().await
}

async fn send<W: AsyncWrite + Unpin>(
    mut to: W,
    mut output: mpsc::Receiver<ExecOutput>,
    window: &Window,
) -> io::Result<()> {
    loop {
        let frame = tokio::select! {
            biased;
            taken = window.credit() => Down::Taken(taken),
            frame = output.recv() => match frame {
                Some(frame) => Down::Output(frame),
                None => return Ok(()),
            },
        };
        let last = matches!(frame, Down::Output(ExecOutput::Exit(_) | ExecOutput::Failed(_)));
        to.write_all(&write(frame)).await?;
        if last {
            return to.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_taken_is_told_in_one() {
        let window = Window::default();
        for _ in 0..3 {
            window.sent(1000).unwrap();
            window.took(1000);
        }
        assert_eq!(window.credit().await, 3000);
        // No credit is left: the next one is what is taken next.
        window.sent(1).unwrap();
        let (credit, ()) = tokio::join!(window.credit(), async { window.took(1) });
        assert_eq!(credit, 1);
    }

    #[test]
    fn a_client_that_hears_of_nothing_may_not_send_without_end() {
        let window = Window::default();
        window.sent(STDIN_WINDOW).unwrap();
        window.took(STDIN_WINDOW);
        window.sent(1).unwrap_err();
    }
}
