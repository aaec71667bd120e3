//! The client's side of an exec session: connects local stdio to frames.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use nix::libc::SIGPIPE;
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

/// A process that goes on writing for this long after the SIGPIPE is hung up: it would never end.
const AFTER_SIGPIPE: Duration = Duration::from_secs(2);

/// What the receiving half has the sending half do.
#[derive(Debug, PartialEq, Eq)]
enum Back {
    /// The process took this many bytes of its input.
    Credit(u32),
    /// Nobody reads its output any more.
    SigPipe,
}

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
    /// Where nobody reads a local output any more (`| head`), the process gets the SIGPIPE that a pipe of its
    /// own would have given it, and the rest is dropped: the exit code is still the process's. One that goes
    /// on writing nevertheless counts as ended by SIGPIPE, and is hung up.
    ///
    /// Dropping the future ends the session, and the process is hung up. With `tokio::io::stdin()`, the
    /// runtime's shutdown waits for a blocked read: leave by `shutdown_background` or `process::exit`.
    ///
    /// # Errors
    /// [`ClientError::Lost`] when the connection broke, [`ClientError::Fault`] when the sandbox lost the
    /// process, [`ClientError::Local`] when the local output can't be written (a full disk).
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
        let (back, backs) = mpsc::unbounded_channel();
        let mut receiving = std::pin::pin!(receive(from, stdio.stdout, stdio.stderr, back));
        tokio::select! {
            exit = &mut receiving => exit,
            // A process that ends at once may close the session before our first frame is written: its exit
            // code is still there to be read.
            lost = send(to, stdio.stdin, controls, backs) => match receiving.await {
                Err(ClientError::Lost(_)) => Err(lost),
                told => told,
            },
        }
    }
}

async fn receive<R, O, E>(from: R, stdout: O, stderr: E, back: mpsc::UnboundedSender<Back>) -> Result<Exit>
where
    R: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let mut frames = Reader::<_, Down>::new(from);
    let (mut stdout, mut stderr) = (Outlet::new(stdout), Outlet::new(stderr));
    loop {
        let frame = frames.next().await.map_err(|e| ClientError::Lost(e.to_string()))?;
        match frame.ok_or_else(|| ClientError::Lost("the session ended without an exit code".into()))? {
            Down::Output(ExecOutput::Stdout(bytes)) => {
                if stdout.put(&bytes, &back).await?.is_in_vain() {
                    return Ok(Exit { code: None, signal: Some(SIGPIPE) });
                }
            }
            Down::Output(ExecOutput::Stderr(bytes)) => {
                if stderr.put(&bytes, &back).await?.is_in_vain() {
                    return Ok(Exit { code: None, signal: Some(SIGPIPE) });
                }
            }
            Down::Output(ExecOutput::Exit(exit)) => return Ok(exit),
            Down::Output(ExecOutput::Failed(fault)) => return Err(fault.into()),
            Down::Taken(bytes) => drop(back.send(Back::Credit(bytes))),
        }
    }
}

/// A local output, and since when nobody reads it any more.
struct Outlet<W> {
    to: W,
    closed: Option<Instant>,
}

impl<W: AsyncWrite + Unpin> Outlet<W> {
    fn new(to: W) -> Self {
        Self { to, closed: None }
    }

    /// Writes and flushes at once: a prompt without a newline must show. Where nobody reads, the process is
    /// told so the first time, and what it writes is dropped.
    async fn put(&mut self, bytes: &Bytes, back: &mpsc::UnboundedSender<Back>) -> Result<&Self> {
        if self.closed.is_none() {
            match self.write(bytes).await {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.closed = Some(Instant::now());
                    drop(back.send(Back::SigPipe));
                }
                done => done.map_err(|e| ClientError::Local(unwritable(e)))?,
            }
        }
        Ok(self)
    }

    async fn write(&mut self, bytes: &Bytes) -> io::Result<()> {
        self.to.write_all(bytes).await?;
        self.to.flush().await
    }

    /// Whether the process has gone on writing for too long although nobody reads.
    fn is_in_vain(&self) -> bool {
        self.closed.is_some_and(|since| since.elapsed() >= AFTER_SIGPIPE)
    }
}

/// Says what failed, where the kernel only says why.
fn unwritable(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the process's output can't be written here: {error}"))
}

/// Sends input and controls. Returns only if the connection is lost: the process's end is noticed by
/// `receive`.
async fn send<W, I>(
    mut to: W,
    mut stdin: Option<I>,
    mut controls: mpsc::Receiver<ExecControl>,
    mut backs: mpsc::UnboundedReceiver<Back>,
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
            Some(back) = backs.recv() => match back {
                Back::Credit(bytes) => {
                    window = window.saturating_add(bytes as usize).min(STDIN_WINDOW);
                    continue;
                }
                Back::SigPipe => Up::Control(ExecControl::Signal(SIGPIPE)),
            },
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

#[cfg(test)]
mod tests {
    use super::*;

    /// An exit frame after `lines` of output, as the server sends them.
    fn session(lines: usize) -> Vec<u8> {
        let line = || Down::Output(ExecOutput::Stdout(Bytes::from_static(b"y\n")));
        let exit = Down::Output(ExecOutput::Exit(Exit { code: Some(7), signal: None }));
        std::iter::repeat_with(line)
            .take(lines)
            .chain([exit])
            .flat_map(|frame| write(frame).to_vec())
            .collect()
    }

    #[tokio::test]
    async fn where_nobody_reads_the_process_is_told_once_and_its_code_is_awaited() {
        let (closed, reader) = tokio::io::duplex(64);
        drop(reader);
        let (back, mut backs) = mpsc::unbounded_channel();
        let exit = receive(&*session(100), closed, tokio::io::sink(), back).await.unwrap();
        assert_eq!(exit, Exit { code: Some(7), signal: None });
        assert_eq!(backs.recv().await, Some(Back::SigPipe));
        assert_eq!(backs.recv().await, None, "once");
        let (mut theirs, ours) = tokio::io::duplex(64);
        let (back, backs) = mpsc::unbounded_channel();
        back.send(Back::SigPipe).unwrap();
        let (_controls, queue) = mpsc::channel(1);
        let sending = tokio::spawn(send(ours, None::<tokio::io::Empty>, queue, backs));
        let mut heard = Reader::<_, Up>::new(&mut theirs);
        assert_eq!(heard.next().await.unwrap(), Some(Up::End));
        assert_eq!(heard.next().await.unwrap(), Some(Up::Control(ExecControl::Signal(SIGPIPE))));
        sending.abort();
    }

    #[tokio::test]
    async fn a_process_that_minds_no_sigpipe_is_left_in_the_end() {
        let (back, _backs) = mpsc::unbounded_channel();
        let past = Instant::now().checked_sub(AFTER_SIGPIPE).unwrap();
        let mut outlet = Outlet { to: tokio::io::sink(), closed: Some(past) };
        assert!(outlet.put(&Bytes::from_static(b"y"), &back).await.unwrap().is_in_vain());
        let mut fresh = Outlet::new(tokio::io::sink());
        assert!(!fresh.put(&Bytes::from_static(b"y"), &back).await.unwrap().is_in_vain());
    }
}
