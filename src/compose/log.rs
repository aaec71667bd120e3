//! The supervisor's own messages: to standard error, redacted, prefixed, in text or JSON.

use std::io::{self, Write};

use redactor::SharedRedactor;
use redactor::stream::LogWriter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::console::{LogFormat, Messages};
use crate::plan::Plan;

/// Installs the subscriber, once per process.
pub fn install(plan: &Plan, redactor: &SharedRedactor) {
    let level = if plan.quiet { LevelFilter::ERROR } else { LevelFilter::WARN };
    let format = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
    // An error means that a subscriber is installed already, which does as well.
    let _ = match plan.log_format {
        LogFormat::Text => {
            let writer = Stderr { redactor: redactor.clone(), prefix: "cofferdam: " };
            tracing::subscriber::set_global_default(
                format.without_time().with_target(false).with_writer(writer).finish(),
            )
        }
        LogFormat::Json => {
            let writer = Stderr { redactor: redactor.clone(), prefix: "" };
            tracing::subscriber::set_global_default(format.json().with_writer(writer).finish())
        }
    };
}

/// Prints one line per panic, without a backtrace: the actor's supervisor handles it, and the tree and the
/// audit log report it.
pub fn panics_are_told() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let text =
            payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let why = text.unwrap_or("no message");
        tracing::warn!(place, "a part panicked: {why}");
    }));
}

/// Standard error, behind the redactor and a queue, so that a task that logs never waits for the reader.
struct Stderr {
    redactor: SharedRedactor,
    prefix: &'static str,
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Prefixed<LogWriter<Messages>>;

    fn make_writer(&'a self) -> Self::Writer {
        // Held back until the message is whole.
        let inner = LogWriter::new(self.redactor.clone(), Messages);
        Prefixed { inner, prefix: self.prefix, begins: true }
    }
}

/// Puts a prefix before every line of a message, as the command's own messages have it: agents' output comes
/// between them.
struct Prefixed<W> {
    inner: W,
    prefix: &'static str,
    /// Whether the next byte begins a line.
    begins: bool,
}

impl<W: Write> Write for Prefixed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.begins {
                self.inner.write_all(self.prefix.as_bytes())?;
            }
            self.inner.write_all(line)?;
            self.begins = line.ends_with(b"\n");
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_says_whose_it_is() {
        let mut writer = Prefixed { inner: Vec::new(), prefix: "cofferdam: ", begins: true };
        writer.write_all(b"WARN one\n--> two").unwrap();
        writer.write_all(b"!\n").unwrap();
        assert_eq!(writer.inner, b"cofferdam: WARN one\ncofferdam: --> two!\n");
    }
}
