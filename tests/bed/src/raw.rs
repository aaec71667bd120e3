//! A server that records every byte and checks none: what a proxy let through can be seen here as it was
//! sent.
//!
//! It answers `200` to whatever looks like a whole message to a *lenient* parser, since smuggling aims at
//! such parsers. It must never be strict: a request that a strict server would refuse has to leave its trace
//! here all the same.

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::recorder::Recorder;

/// Plain HTTP, recorded.
pub const PLAIN_PORT: u16 = 8090;
/// The same over TLS, HTTP/1.1 alone.
pub const TLS_PORT: u16 = 8490;
/// The host whose certificate the TLS port shows.
pub const HOST: &str = "h1.bed.test";

/// Stands before the answer to a request whose path has `/hints` in it (RFC 8297).
const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";
/// What HTTP/2 begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
/// Bytes kept for finding a message's end; more than any case sends in one message.
const WINDOW: usize = 1 << 20;

/// Records a connection until it ends.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    recorder: &Recorder,
) -> Result<()> {
    let number = recorder.stream();
    let mut waiting = Vec::new();
    let mut chunk = [0u8; 16 * 1024];
    loop {
        let read = stream.read(&mut chunk).await?;
        let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        recorder.streamed(number, bytes);
        waiting.extend_from_slice(bytes);
        while let Some(end) = message_end(&waiting) {
            let hinted = find(waiting.get(..end).unwrap_or_default(), b"/hints").is_some();
            waiting.drain(..end);
            if hinted {
                stream.write_all(HINTS).await?;
            }
            stream.write_all(ANSWER).await?;
        }
        if waiting.len() > WINDOW {
            return Ok(());
        }
    }
}

/// Where the first message ends, as a lenient reader sees it.
fn message_end(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(PREFACE) {
        return stream_end(bytes);
    }
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(bytes.get(..head)?).to_ascii_lowercase();
    if text.contains("chunked") {
        let body = bytes.get(head..)?;
        // A body without chunks begins with its last one.
        let last = if body.starts_with(b"0\r\n\r\n") { 5 } else { find(body, b"\r\n0\r\n\r\n")? + 7 };
        return Some(head + last);
    }
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|value| value.trim().parse::<usize>().ok())
        .unwrap_or(0);
    (bytes.len() >= head + length).then_some(head + length)
}

/// Where the first HTTP/2 request ends. A client that is answered right after its preface (in HTTP/1.1, as
/// here) may or may not send the rest, so the answer waits for it.
fn stream_end(bytes: &[u8]) -> Option<usize> {
    const FRAME_HEAD: usize = 9;
    const DATA_OR_HEADERS: [u8; 2] = [0, 1];
    const END_STREAM: u8 = 1;
    let mut at = PREFACE.len();
    loop {
        let [a, b, c, kind, flags] = *bytes.get(at..)?.first_chunk::<5>()?;
        at += FRAME_HEAD + usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
        if bytes.len() < at {
            return None;
        }
        if DATA_OR_HEADERS.contains(&kind) && flags & END_STREAM != 0 {
            return Some(at);
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_end_where_a_lenient_reader_ends_them() {
        assert_eq!(message_end(b"GET / HTTP/1.1\r\n\r\nGET"), Some(18));
        assert_eq!(message_end(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nabX"), Some(40));
        assert_eq!(message_end(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\na"), None);
        assert_eq!(message_end(b"P\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nX"), Some(44));
        assert_eq!(message_end(b"P\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX"), Some(38));
        let settings = [PREFACE, b"\0\0\0\x04\0\0\0\0\0"].concat();
        assert_eq!(message_end(&settings), None);
        let headers = [&settings[..], b"\0\0\x01\x01\x04\0\0\0\x01h"].concat();
        assert_eq!(message_end(&headers), None);
        let whole = [&headers[..], b"\0\0\x01\x00\x01\0\0\0\x01d"].concat();
        assert_eq!(message_end(&[&whole[..], b"more"].concat()), Some(whole.len()));
        assert_eq!(message_end(&whole[..whole.len() - 1]), None);
    }
}
