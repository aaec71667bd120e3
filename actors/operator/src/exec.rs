//! The server's side of an exec session: frames on one hand, the process's queues on the other.
//!
//! Reading never stops: what the client may send ahead is bounded by its window, so a signal or the client's leaving is
//! noticed while the process takes no input. The session ends with the process or with the client, whichever is first;
//! dropping the queues tells the process's side.

use std::{
    future::pending,
    io,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, split},
    sync::mpsc,
};

use crate::{
    control::{ExecControl, ExecOutput, ExecSession},
    frame::{Down, Reader, Up, write},
    limits::STDIN_WINDOW,
};

/// Runs a session to its end over an upgraded connection.
///
/// # Errors
/// Of the connection, of frames that make no sense, and of a client that overruns its window.
pub(crate) async fn run<Io: AsyncRead + AsyncWrite + Send>(io: Io, session: ExecSession) -> io::Result<()> {
    let (from, to) = split(io);
    let ExecSession { stdin, control, output } = session;
    // Unbounded as types, bounded by the window: `ahead` counts what is under way.
    let ahead = AtomicUsize::new(0);
    let (queue, queued) = mpsc::unbounded_channel();
    let (took, taken) = mpsc::unbounded_channel();
    tokio::select! {
        done = send(to, output, taken) => done,
        gone = read(from, queue, control, &ahead) => gone,
        () = feed(queued, stdin, took, &ahead) => Ok(()),
    }
}

/// Reads until the client leaves.
async fn read<R: AsyncRead + Unpin>(
    from: R,
    queue: mpsc::UnboundedSender<Bytes>,
    control: mpsc::Sender<ExecControl>,
    ahead: &AtomicUsize,
) -> io::Result<()> {
    let mut frames = Reader::<_, Up>::new(from);
    let mut queue = Some(queue);
    while let Some(frame) = frames.next().await? {
        match frame {
            Up::Stdin(bytes) if bytes.is_empty() => {}
            Up::Stdin(bytes) => {
                let len = bytes.len();
                if ahead.fetch_add(len, Relaxed) + len > STDIN_WINDOW {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the client overran its window"));
                }
                if let Some(queue) = &queue {
                    let _ = queue.send(bytes);
                }
            }
            Up::End => queue = None,
            // A client that resizes faster than the process can hear of it loses the sizes in between.
            Up::Control(message) => drop(control.try_send(message)),
        }
    }
    Ok(())
}

/// Moves the input on as the process takes it. Never ends by itself: a process without input may go on for hours.
async fn feed(
    mut queued: mpsc::UnboundedReceiver<Bytes>,
    stdin: mpsc::Sender<Bytes>,
    took: mpsc::UnboundedSender<u32>,
    ahead: &AtomicUsize,
) {
    while let Some(bytes) = queued.recv().await {
        let len = bytes.len();
        // A process that closed its input still lets the client send: the bytes go nowhere, as in a shell's pipe.
        let _ = stdin.send(bytes).await;
        ahead.fetch_sub(len, Relaxed);
        let _ = took.send(u32::try_from(len).unwrap_or(u32::MAX));
    }
    drop(stdin);
    pending().await
}

async fn send<W: AsyncWrite + Unpin>(
    mut to: W,
    mut output: mpsc::Receiver<ExecOutput>,
    mut taken: mpsc::UnboundedReceiver<u32>,
) -> io::Result<()> {
    loop {
        let frame = tokio::select! {
            biased;
            Some(bytes) = taken.recv() => Down::Taken(bytes),
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
