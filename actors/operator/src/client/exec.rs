//! The client's side of an exec session: connects local stdio to frames.

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split},
    sync::mpsc,
};

use super::{ClientError, Result};
use crate::{
    control::{ExecControl, ExecOutput},
    frame::{Down, Frame, Reader, Up, write},
    limits::STDIN_WINDOW,
    types::Exit,
};

const PIECE: usize = 16 * 1024;

/// The three local streams. `stdin: None` when the request asked for none.
pub struct Stdio<I, O, E> {
    /// Read until its end.
    pub stdin: Option<I>,
    /// Gets the process's standard output.
    pub stdout: O,
    /// Gets its standard error.
    pub stderr: E,
}

/// A process that was started and is to be connected by [`Self::drive`].
#[derive(Debug)]
pub struct ExecClient {
    io: TokioIo<Upgraded>,
}

impl ExecClient {
    pub(super) fn new(io: Upgraded) -> Self {
        Self { io: TokioIo::new(io) }
    }

    /// Connects the process to the local streams until it ends. `controls` carries resizes and signals; the
    /// session goes on when it is closed.
    ///
    /// Dropping the future ends the session, and the process is hung up. With `tokio::io::stdin()`, the
    /// runtime's shutdown waits for a blocked read: leave by `shutdown_background` or `process::exit`.
    ///
    /// # Errors
    /// [`ClientError::Lost`] when the connection broke, [`ClientError::Fault`] when the sandbox lost the
    /// process, [`ClientError::Local`] when the local output can't be written (a closed pipe).
    pub async fn drive<I, O, E>(
        self,
        stdio: Stdio<I, O, E>,
        controls: mpsc::Receiver<ExecControl>,
    ) -> Result<Exit>
    where
        I: AsyncRead + Unpin,
        O: AsyncWrite + Unpin,
        E: AsyncWrite + Unpin,
    {
        let (from, to) = split(self.io);
        let (credit, credits) = mpsc::unbounded_channel();
        let mut receiving = std::pin::pin!(receive(from, stdio.stdout, stdio.stderr, credit));
        tokio::select! {
            exit = &mut receiving => exit,
            // A process that ends at once may close the session before our first frame is written: its exit
            // code is still there to be read.
            lost = send(to, stdio.stdin, controls, credits) => match receiving.await {
                Err(ClientError::Lost(_)) => Err(lost),
                told => told,
            },
        }
    }
}

async fn receive<R, O, E>(
    from: R,
    mut stdout: O,
    mut stderr: E,
    credit: mpsc::UnboundedSender<u32>,
) -> Result<Exit>
where
    R: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let mut frames = Reader::<_, Down>::new(from);
    loop {
        let frame = frames.next().await.map_err(|e| ClientError::Lost(e.to_string()))?;
        match frame.ok_or_else(|| ClientError::Lost("the session ended without an exit code".into()))? {
            Down::Output(ExecOutput::Stdout(bytes)) => put(&mut stdout, &bytes).await?,
            Down::Output(ExecOutput::Stderr(bytes)) => put(&mut stderr, &bytes).await?,
            Down::Output(ExecOutput::Exit(exit)) => return Ok(exit),
            Down::Output(ExecOutput::Failed(fault)) => return Err(fault.into()),
            Down::Taken(bytes) => drop(credit.send(bytes)),
        }
    }
}

/// Writes and flushes at once: a prompt without a newline must show.
async fn put(to: &mut (impl AsyncWrite + Unpin), bytes: &Bytes) -> Result<()> {
    to.write_all(bytes).await.map_err(ClientError::Local)?;
    to.flush().await.map_err(ClientError::Local)
}

/// Sends input and controls. Returns only if the connection is lost: the process's end is noticed by
/// `receive`.
async fn send<W, I>(
    mut to: W,
    mut stdin: Option<I>,
    mut controls: mpsc::Receiver<ExecControl>,
    mut credits: mpsc::UnboundedReceiver<u32>,
) -> ClientError
where
    W: AsyncWrite + Unpin,
    I: AsyncRead + Unpin,
{
    let mut window = STDIN_WINDOW;
    let mut controlled = true;
    let mut buffer = vec![0; PIECE];
    if stdin.is_none()
        && let Err(lost) = put_frame(&mut to, Up::End).await
    {
        return lost;
    }
    loop {
        let room = window.min(PIECE);
        let frame = tokio::select! {
            read = read_some(&mut stdin, &mut buffer, room) => match read {
                // An input that can't be read counts as ended.
                Ok(0) | Err(_) => {
                    stdin = None;
                    Up::End
                }
                Ok(n) => {
                    window = window.saturating_sub(n);
                    Up::Stdin(Bytes::copy_from_slice(buffer.get(..n).unwrap_or_default()))
                }
            },
            message = controls.recv(), if controlled => match message {
                Some(message) => Up::Control(message),
                None => {
                    controlled = false;
                    continue;
                }
            },
            Some(bytes) = credits.recv() => {
                window = window.saturating_add(bytes as usize).min(STDIN_WINDOW);
                continue;
            }
        };
        if let Err(lost) = put_frame(&mut to, frame).await {
            return lost;
        }
    }
}

/// Reads input; never resolves while there is no input stream or no room in the window.
async fn read_some<I: AsyncRead + Unpin>(
    stdin: &mut Option<I>,
    buffer: &mut [u8],
    room: usize,
) -> std::io::Result<usize> {
    match (stdin, buffer.get_mut(..room)) {
        (Some(stdin), Some(buffer)) if !buffer.is_empty() => stdin.read(buffer).await,
        _ => std::future::pending().await,
    }
}

async fn put_frame(to: &mut (impl AsyncWrite + Unpin), frame: impl Frame) -> Result<()> {
    let lost = |e: std::io::Error| ClientError::Lost(e.to_string());
    to.write_all(&write(frame)).await.map_err(lost)?;
    to.flush().await.map_err(lost)
}
