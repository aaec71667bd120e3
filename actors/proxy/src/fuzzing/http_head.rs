//! Whatever the strict reader accepts, httparse and hyper read the same way: method, target, fields, and
//! where each body ends.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use futures_util::task::noop_waker;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pieces;
use crate::limits::{IO_BUFFER_BYTES, MAX_HEAD_BYTES, MAX_HEADERS};
use crate::strict::framing::Framing;
use crate::strict::head::{self, field, find_end};

/// One request: method, target, fields in lower case and order, body.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    method: String,
    target: http::Uri,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// The property. The first byte says how bodies are cut; the rest is what a client sends.
pub fn holds(bytes: &[u8]) {
    let Some((&choice, stream)) = bytes.split_first() else { return };
    let (mut at, mut ours) = (0, Vec::new());
    while let Some(rest) = stream.get(at..).filter(|rest| !rest.is_empty()) {
        let Some(end) = find_end(rest, 0).filter(|end| *end <= MAX_HEAD_BYTES) else { break };
        let Ok(judged) = head::judge(&rest[..end]) else { break };
        assert!(may_come_in_pieces(&rest[..end], choice), "a head that is accepted whole");
        let Some(taken) = body_length(&judged.framing, &rest[end..], choice) else { break };
        ours.push(message(&rest[..end], plain(&judged.framing, &rest[end..end + taken])));
        at += end + taken;
        if judged.tunnel {
            break;
        }
    }
    let theirs = hyper_reads(&stream[..at]);
    // hyper stops early where a request says that it is the last one.
    assert!(theirs.len() <= ours.len() && (ours.is_empty() || !theirs.is_empty()), "{theirs:?} {ours:?}");
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
}

/// Whether no beginning of the head is refused, however it is cut.
fn may_come_in_pieces(head: &[u8], choice: u8) -> bool {
    let (mut seen, mut has_line) = (0, false);
    pieces(head, choice).all(|piece| {
        let from = seen;
        seen += piece.len();
        let judged = if has_line { Ok(true) } else { head::judge_beginning(&head[..seen], from) };
        judged.inspect(|line| has_line = *line).is_ok()
    })
}

/// Where the body ends, if it is whole: the same in one piece and in many.
fn body_length(framing: &Framing, rest: &[u8], choice: u8) -> Option<usize> {
    let whole = follow(framing.clone(), [rest].into_iter());
    assert_eq!(whole, follow(framing.clone(), pieces(rest, choice)));
    whole
}

fn follow<'a>(mut framing: Framing, pieces: impl Iterator<Item = &'a [u8]>) -> Option<usize> {
    let mut taken = 0;
    for piece in pieces {
        taken += framing.advance(piece).ok()?;
        if framing.is_empty() {
            break;
        }
    }
    framing.is_empty().then_some(taken)
}

/// What a body says, by the plainest reading of its chunks.
fn plain(framing: &Framing, raw: &[u8]) -> Vec<u8> {
    if matches!(framing, Framing::Length(_)) {
        return raw.to_vec();
    }
    let (mut out, mut rest) = (Vec::new(), raw);
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            return out;
        }
        out.extend_from_slice(&rest[line + 2..][..size]);
        rest = &rest[line + 2 + size + 2..];
    }
}

/// Reads a head by its lines, and asserts that httparse reads the same.
fn message(head: &[u8], body: Vec<u8>) -> Message {
    let mut lines = head.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let words: Vec<&[u8]> = lines.next().unwrap().split(|b| *b == b' ').collect();
    let fields: Vec<(&[u8], &[u8])> =
        lines.take_while(|l| !l.is_empty()).map(|l| field(l).unwrap()).collect();

    let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut theirs = httparse::Request::new(&mut slots);
    assert_eq!(theirs.parse(head), Ok(httparse::Status::Complete(head.len())));
    assert_eq!(theirs.method.unwrap().as_bytes(), words[0]);
    assert_eq!(theirs.path.unwrap().as_bytes(), words[1]);
    assert_eq!(words[2], format!("HTTP/1.{}", theirs.version.unwrap()).as_bytes());
    let read: Vec<(&[u8], &[u8])> = theirs.headers.iter().map(|h| (h.name.as_bytes(), h.value)).collect();
    assert_eq!(read, fields);

    Message {
        method: String::from_utf8(words[0].to_vec()).unwrap(),
        target: http::Uri::try_from(words[1]).unwrap(),
        fields: sorted(fields.iter().map(|(name, value)| (std::str::from_utf8(name).unwrap(), *value))),
        body,
    }
}

/// By name; several of one name stay in order.
fn sorted<'a>(fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Vec<(String, Vec<u8>)> {
    let mut fields: Vec<_> =
        fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect();
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    fields
}

/// The requests that hyper serves, set up as it is set up behind the strict reader.
fn hyper_reads(bytes: &[u8]) -> Vec<Message> {
    let seen = RefCell::new(Vec::new());
    let service = service_fn(|request: Request<Incoming>| {
        let seen = &seen;
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes().to_vec());
            seen.borrow_mut().push(Message {
                method: head.method.to_string(),
                target: head.uri,
                fields: sorted(head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))),
                body: body.expect("a whole body is read whole"),
            });
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let connection = http1::Builder::new()
        .half_close(true)
        .auto_date_header(false)
        .max_buf_size(MAX_HEAD_BYTES + IO_BUFFER_BYTES)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(Client(bytes)), service);
    let mut connection = pin!(connection);
    let waker = noop_waker();
    let mut context = Context::from_waker(&waker);
    // Nothing here waits for the world: each poll gets it further.
    for _ in 0..=bytes.len() + 16 {
        if connection.as_mut().poll(&mut context).is_ready() {
            return seen.take();
        }
    }
    panic!("hyper waits for more than there is");
}

/// A client that has sent everything, and takes any answer.
struct Client<'a>(&'a [u8]);

impl AsyncRead for Client<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (now, later) = self.0.split_at(self.0.len().min(to.remaining()));
        to.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
