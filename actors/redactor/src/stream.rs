//! Redaction of a stream in memory: the window is kept here, not in a pipe. For `cofferdam redact`, for log
//! writers and for any reader or writer that is not a journal. Never shows a held byte before it is decided
//! or released.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::engine::{Context, Scan};
use crate::shared::SharedRedactor;
use crate::tokens::End;

/// A held tail of fewer than 8 bytes is released after this silence: a prompt must show.
pub const SILENCE: Duration = Duration::from_millis(50);
/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// One stream: takes bytes, gives what may be shown.
#[derive(Debug)]
pub struct Streaming {
    redactor: SharedRedactor,
    window: Vec<u8>,
    context: Context,
}

impl Streaming {
    /// At a stream's beginning.
    #[must_use]
    pub fn new(redactor: SharedRedactor) -> Self {
        Self { redactor, window: Vec::new(), context: Context::default() }
    }

    /// Takes bytes; gives what may be shown by now.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.window.extend_from_slice(bytes);
        self.pass(End::More)
    }

    /// After a silence: gives what need not wait any longer.
    pub fn silence(&mut self) -> Vec<u8> {
        let Some(scan) = self.redactor.load().release(self.context, &self.window) else { return Vec::new() };
        if scan.consumed == 0 {
            self.context.shown = self.window.len();
            return scan.out;
        }
        self.settle(scan)
    }

    /// The end: gives the rest. The next stream may begin.
    pub fn finish(&mut self, end: End) -> Vec<u8> {
        let out = self.pass(if end == End::More { End::Eof } else { end });
        self.context = Context::default();
        out
    }

    /// Bytes that wait.
    #[must_use]
    pub fn held(&self) -> usize {
        self.window.len()
    }

    fn pass(&mut self, end: End) -> Vec<u8> {
        let scan = self.redactor.load().scan_after(self.context, &self.window, end);
        self.settle(scan)
    }

    fn settle(&mut self, scan: Scan) -> Vec<u8> {
        self.context = self.context.after(&self.window, scan.consumed);
        self.window.drain(..scan.consumed);
        self.redactor.tell(&scan.hits);
        scan.out
    }
}

/// Copies input to output, redacted, until the input ends: what `cofferdam redact` does. Bytes that stand at
/// the input's end as the beginning of a secret are masked. Returns the bytes read.
///
/// # Errors
/// When reading or writing fails.
pub fn copy(
    redactor: SharedRedactor,
    mut input: impl Read + AsFd,
    mut output: impl Write,
) -> io::Result<u64> {
    let mut stream = Streaming::new(redactor);
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        if stream.held() > 0 && !readable_within(&input, SILENCE)? {
            output.write_all(&stream.silence())?;
            output.flush()?;
            // What still waits is decided by the next byte only.
        }
        let read = match input.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if read == 0 {
            output.write_all(&stream.finish(End::Eof))?;
            output.flush()?;
            return Ok(total);
        }
        total += u64::try_from(read).unwrap_or(u64::MAX);
        output.write_all(&stream.push(buffer.get(..read).unwrap_or_default()))?;
        output.flush()?;
    }
}

fn readable_within(input: &impl AsFd, wait: Duration) -> io::Result<bool> {
    let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    let mut polled = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    match poll(&mut polled, timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(nix::errno::Errno::EINTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// A writer for whole messages, such as log events: collects what is written and writes it redacted, at once,
/// when dropped or flushed. For `tracing_subscriber`: `.with_writer(move || LogWriter::new(redactor.clone(),
/// io::stderr()))`.
#[derive(Debug)]
pub struct LogWriter<W: Write> {
    redactor: SharedRedactor,
    message: Vec<u8>,
    inner: W,
}

impl<W: Write> LogWriter<W> {
    /// A writer of one message.
    pub fn new(redactor: SharedRedactor, inner: W) -> Self {
        Self { redactor, message: Vec::new(), inner }
    }

    fn release(&mut self) -> io::Result<()> {
        if self.message.is_empty() {
            return Ok(());
        }
        let shown = self.redactor.load().redact_bytes(&self.message);
        self.message.clear();
        self.inner.write_all(&shown)
    }
}

impl<W: Write> Write for LogWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.message.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.release()?;
        self.inner.flush()
    }
}

impl<W: Write> Drop for LogWriter<W> {
    fn drop(&mut self) {
        // If nobody reads the log (a closed pipe), there is nobody to report the error to.
        let _ = self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Redactor, Secret};
    use std::thread::sleep;

    fn redactor() -> SharedRedactor {
        SharedRedactor::new(Redactor::new([("K", Secret::from("s3cret-value-0123"))]).unwrap())
    }

    #[test]
    fn a_silence_releases_a_short_tail_and_the_rest_of_a_secret_is_masked_all_the_same() {
        let mut stream = Streaming::new(redactor());
        assert_eq!(stream.push(b"pass: s3cr"), b"pass: ");
        assert_eq!(stream.silence(), b"s3cr");
        assert_eq!(stream.silence(), b"");
        assert_eq!(stream.push(b"et-value"), b"");
        // Too long by now to be released.
        assert_eq!(stream.silence(), b"");
        assert_eq!(stream.push(b"-0123 ok"), b"[REDACTED:K] ok");
    }

    #[test]
    fn released_text_that_was_no_secret_goes_on_unchanged() {
        let mut stream = Streaming::new(redactor());
        let mut out = stream.push(b"s3");
        out.extend(stream.silence());
        out.extend(stream.push(b"crets and more"));
        out.extend(stream.finish(End::Eof));
        assert_eq!(out, b"s3crets and more");
    }

    #[test]
    fn copying_releases_a_prompt_while_the_input_is_silent() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let (mut shown, out) = std::io::pipe().unwrap();
        let copying = std::thread::spawn(move || copy(redactor(), reader, out));
        writer.write_all(b"name: s3").unwrap();
        sleep(SILENCE * 4);
        let mut prompt = [0; 64];
        let mut read = shown.read(&mut prompt).unwrap();
        while read < 8 {
            read += shown.read(&mut prompt[read..]).unwrap();
        }
        assert_eq!(&prompt[..read], b"name: s3");
        writer.write_all(b"cret-value").unwrap();
        drop(writer);
        let mut rest = String::new();
        shown.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "[REDACTED:K]");
        assert_eq!(copying.join().unwrap().unwrap(), 18);
    }

    #[test]
    fn a_log_message_is_written_once_and_redacted() {
        let mut out = Vec::new();
        let mut writer = LogWriter::new(redactor(), &mut out);
        write!(writer, "a s3cret-").unwrap();
        write!(writer, "value-0123 b").unwrap();
        drop(writer);
        assert_eq!(out, b"a [REDACTED:K] b");
    }
}
