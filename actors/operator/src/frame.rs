//! The framed protocol of an exec session, after the upgrade to [`PROTOCOL`].
//!
//! A frame is one byte of kind, four bytes of length (big-endian, at most [`MAX_FRAME`]) and the payload. No
//! frame is acknowledged; each direction keeps its order. A frame of unknown kind or too great length ends
//! the session.

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::{
    control::{ExecControl, ExecOutput},
    limits::MAX_FRAME,
    types::Window,
};

/// The token of the `Upgrade` header.
pub const PROTOCOL: &str = "cofferdam-exec/1";

const HEAD: usize = 5;
const STDIN: u8 = 0;
const END: u8 = 1;
const RESIZE: u8 = 2;
const SIGNAL: u8 = 3;
const STDOUT: u8 = 16;
const STDERR: u8 = 17;
const EXIT: u8 = 18;
const FAILED: u8 = 19;
const TAKEN: u8 = 20;

/// A frame that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// Longer than [`MAX_FRAME`].
    #[error("a frame of {0} bytes; at most {MAX_FRAME} are taken")]
    TooLong(usize),
    /// Not a kind of this direction.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// A payload that doesn't fit its kind.
    #[error("a frame of kind {0} with an unfit payload")]
    Payload(u8),
}

impl From<BadFrame> for io::Error {
    fn from(fault: BadFrame) -> Self {
        Self::new(io::ErrorKind::InvalidData, fault)
    }
}

/// The frames of one direction.
pub trait Frame: Sized + Send + 'static {
    /// Encodes into kind and payload.
    fn encode(self) -> (u8, Bytes);
    /// Decodes kind and payload.
    ///
    /// # Errors
    /// When they make no sense.
    fn decode(kind: u8, payload: Bytes) -> Result<Self, BadFrame>;
}

/// From the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Up {
    /// Bytes for the standard input. The client may be [`crate::limits::STDIN_WINDOW`] ahead of
    /// [`Down::Taken`], so that the server never has to stop reading: a signal, or the client's leaving, is
    /// noticed however full the input is.
    Stdin(Bytes),
    /// The end of the standard input.
    End,
    /// A resize or a signal.
    Control(ExecControl),
}

/// From the server.
#[derive(Debug, Clone, PartialEq)]
pub enum Down {
    /// From the process.
    Output(ExecOutput),
    /// The process took this many more bytes of the input.
    Taken(u32),
}

impl Frame for Up {
    fn encode(self) -> (u8, Bytes) {
        match self {
            Self::Stdin(bytes) => (STDIN, bytes),
            Self::End => (END, Bytes::new()),
            Self::Control(ExecControl::Resize(Window { rows, cols })) => {
                let mut out = BytesMut::with_capacity(4);
                out.put_u16(rows);
                out.put_u16(cols);
                (RESIZE, out.freeze())
            }
            Self::Control(ExecControl::Signal(number)) => {
                (SIGNAL, Bytes::copy_from_slice(&number.to_be_bytes()))
            }
        }
    }

    fn decode(kind: u8, mut payload: Bytes) -> Result<Self, BadFrame> {
        match (kind, payload.len()) {
            (STDIN, _) => Ok(Self::Stdin(payload)),
            (END, 0) => Ok(Self::End),
            (RESIZE, 4) => {
                let window = Window { rows: payload.get_u16(), cols: payload.get_u16() };
                Ok(Self::Control(ExecControl::Resize(window)))
            }
            (SIGNAL, 4) => match payload.get_i32() {
                // 1 to SIGRTMAX.
                number @ 1..=64 => Ok(Self::Control(ExecControl::Signal(number))),
                _ => Err(BadFrame::Payload(kind)),
            },
            (END | RESIZE | SIGNAL, _) => Err(BadFrame::Payload(kind)),
            _ => Err(BadFrame::Kind(kind)),
        }
    }
}

impl Frame for Down {
    fn encode(self) -> (u8, Bytes) {
        match self {
            Self::Output(ExecOutput::Stdout(bytes)) => (STDOUT, bytes),
            Self::Output(ExecOutput::Stderr(bytes)) => (STDERR, bytes),
            Self::Output(ExecOutput::Exit(exit)) => {
                (EXIT, serde_json::to_vec(&exit).unwrap_or_default().into())
            }
            Self::Output(ExecOutput::Failed(fault)) => {
                (FAILED, serde_json::to_vec(&fault).unwrap_or_default().into())
            }
            Self::Taken(bytes) => (TAKEN, Bytes::copy_from_slice(&bytes.to_be_bytes())),
        }
    }

    fn decode(kind: u8, mut payload: Bytes) -> Result<Self, BadFrame> {
        let unfit = |_| BadFrame::Payload(kind);
        let output = match kind {
            STDOUT => ExecOutput::Stdout(payload),
            STDERR => ExecOutput::Stderr(payload),
            EXIT => ExecOutput::Exit(serde_json::from_slice(&payload).map_err(unfit)?),
            FAILED => ExecOutput::Failed(serde_json::from_slice(&payload).map_err(unfit)?),
            TAKEN if payload.len() == 4 => return Ok(Self::Taken(payload.get_u32())),
            TAKEN => return Err(BadFrame::Payload(kind)),
            _ => return Err(BadFrame::Kind(kind)),
        };
        Ok(Self::Output(output))
    }
}

/// The bytes of a frame; a payload that is too long becomes several frames of its kind.
pub fn write(frame: impl Frame) -> BytesMut {
    let (kind, mut payload) = frame.encode();
    let mut out = BytesMut::with_capacity(HEAD + payload.len());
    loop {
        let piece = payload.split_to(payload.len().min(MAX_FRAME));
        out.put_u8(kind);
        // At most MAX_FRAME.
        out.put_u32(piece.len() as u32);
        out.put(piece);
        if payload.is_empty() {
            return out;
        }
    }
}

/// Reads frames of one direction. Safe to drop between frames and in the middle of one.
pub struct Reader<R, F> {
    from: R,
    buffer: BytesMut,
    _direction: std::marker::PhantomData<fn() -> F>,
}

impl<R: AsyncRead + Unpin, F: Frame> Reader<R, F> {
    /// Makes a reader of a byte stream.
    pub fn new(from: R) -> Self {
        Self { from, buffer: BytesMut::new(), _direction: std::marker::PhantomData }
    }

    /// The next frame; `None` at an end between two frames. Cancel-safe.
    ///
    /// # Errors
    /// The stream's errors; `InvalidData` for a [`BadFrame`]; `UnexpectedEof` at an end inside a frame.
    pub async fn next(&mut self) -> io::Result<Option<F>> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(8 * 1024);
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                let between = self.buffer.is_empty();
                return if between { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    fn buffered(&mut self) -> Result<Option<F>, BadFrame> {
        let mut head = &*self.buffer;
        if head.len() < HEAD {
            return Ok(None);
        }
        let kind = head.get_u8();
        let len = head.get_u32() as usize;
        if len > MAX_FRAME {
            return Err(BadFrame::TooLong(len));
        }
        if head.len() < len {
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        F::decode(kind, self.buffer.split_to(len).freeze()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fault::{Code, Fault},
        types::Exit,
    };
    use proptest::prelude::*;

    async fn read_all<F: Frame>(bytes: &[u8]) -> io::Result<Vec<F>> {
        let mut reader = Reader::<_, F>::new(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[tokio::test]
    async fn both_directions_round_trip() {
        let input = [
            Up::Stdin(Bytes::from_static(b"a\0b")),
            Up::Control(ExecControl::Resize(Window { rows: 24, cols: 80 })),
            Up::Control(ExecControl::Signal(15)),
            Up::End,
        ];
        let bytes: Vec<u8> = input.iter().cloned().flat_map(write).collect();
        assert_eq!(read_all::<Up>(&bytes).await.unwrap(), input);
        let output = [
            Down::Output(ExecOutput::Stdout(Bytes::from_static(b"x"))),
            Down::Output(ExecOutput::Stderr(Bytes::new())),
            Down::Taken(70_000),
            Down::Output(ExecOutput::Failed(Fault::new(Code::Unavailable, "gone"))),
            Down::Output(ExecOutput::Exit(Exit { code: None, signal: Some(9) })),
        ];
        let bytes: Vec<u8> = output.iter().cloned().flat_map(write).collect();
        assert_eq!(read_all::<Down>(&bytes).await.unwrap(), output);
        assert!(read_all::<Up>(&bytes).await.is_err());
    }

    #[tokio::test]
    async fn a_long_payload_is_cut() {
        let long = Bytes::from(vec![7; MAX_FRAME * 2 + 1]);
        let frames = read_all::<Up>(&write(Up::Stdin(long))).await.unwrap();
        assert_eq!(frames.len(), 3);
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        for bytes in [
            &[0, 0xff, 0xff, 0xff, 0xff][..],
            &[9, 0, 0, 0, 0],
            &[RESIZE, 0, 0, 0, 1, 0],
            &[SIGNAL, 0, 0, 0, 4, 0, 0, 0, 0],
            &[SIGNAL, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff],
            &[END, 0, 0, 0, 1, 0],
            &[STDIN, 0, 0, 0, 2, 0],
        ] {
            assert!(read_all::<Up>(bytes).await.is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(read_all::<Up>(&bytes));
            let _ = runtime.block_on(read_all::<Down>(&bytes));
        }
    }
}
