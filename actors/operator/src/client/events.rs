//! Streams of answers: pieces of output, and server-sent events reassembled.

use bytes::{Bytes, BytesMut};
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::{ClientError, Result};
use crate::types::Event;

/// Longest line of an event stream, in bytes.
const MAX_LINE: usize = 1024 * 1024;

/// The body's data as it comes.
pub(super) fn pieces(body: Incoming) -> BoxStream<'static, Result<Bytes>> {
    stream::unfold(Some(body), |body| async {
        let mut body = body?;
        loop {
            match body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => return Some((Ok(data), Some(body))),
                    Err(_) => continue,
                },
                Err(fault) => return Some((Err(ClientError::Lost(fault.to_string())), None)),
            }
        }
    })
    .boxed()
}

/// The body's events; comments and fields other than `data` are skipped, since `data` holds the whole event.
pub(super) fn events(body: Incoming) -> BoxStream<'static, Result<Event>> {
    struct Reading {
        from: BoxStream<'static, Result<Bytes>>,
        buffer: BytesMut,
        ended: bool,
    }
    let reading = Reading { from: pieces(body), buffer: BytesMut::new(), ended: false };
    stream::unfold(reading, |mut it| async move {
        loop {
            if it.ended {
                return None;
            }
            while let Some(line) = take_line(&mut it.buffer) {
                let Some(data) = line.strip_prefix(b"data:") else { continue };
                let event = serde_json::from_slice(data).map_err(|e| ClientError::Unknown(e.to_string()));
                return Some((event, it));
            }
            if it.buffer.len() > MAX_LINE {
                it.ended = true;
                return Some((Err(ClientError::Unknown("an event is too long".into())), it));
            }
            match it.from.next().await? {
                Ok(bytes) => it.buffer.extend_from_slice(&bytes),
                Err(fault) => {
                    it.ended = true;
                    return Some((Err(fault), it));
                }
            }
        }
    })
    .boxed()
}

fn take_line(buffer: &mut BytesMut) -> Option<Bytes> {
    let end = buffer.iter().position(|b| *b == b'\n')?;
    let line = buffer.split_to(end + 1).freeze();
    Some(line.slice(..end))
}
