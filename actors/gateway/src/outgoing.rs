//! One request to a provider, which can be started again as long as nothing of it was sent.
//!
//! Its body is the agent's own bytes around the new model name, never a copy of them: they are long, and
//! count against the agent's share once.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header::HOST};
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::{body::Held, lane::Unsent, upstream::Protocol};

/// Bytes that are handed on at a time: the writer may copy that many.
const PIECE: usize = 64 * 1024;

/// A request to a provider; see the module.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pub method: Method,
    pub path_and_query: String,
    pub authority: String,
    pub tls: bool,
    pub headers: HeaderMap,
    pub body: Parts,
    /// Tells whether the agent's bytes in the body are still held.
    pub held: Held,
}

impl Outgoing {
    /// The request in the form that `protocol` needs.
    pub fn request(&self, protocol: Protocol) -> Result<Request<Parts>, Unsent> {
        let mut headers = self.headers.clone();
        let uri = match protocol {
            Protocol::Http1 => {
                let host = HeaderValue::from_str(&self.authority).map_err(|_| Unsent::Unwritable)?;
                headers.insert(HOST, host);
                Uri::builder().path_and_query(self.path_and_query.as_str()).build()
            }
            Protocol::Http2 => Uri::builder()
                .scheme(if self.tls { "https" } else { "http" })
                .authority(self.authority.as_str())
                .path_and_query(self.path_and_query.as_str())
                .build(),
        };
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri.map_err(|_| Unsent::Unwritable)?;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// A body in parts, sent one after the other. Clones share the bytes.
#[derive(Debug, Clone)]
pub struct Parts(VecDeque<Bytes>);

impl Parts {
    /// A body of these parts, without empty ones.
    pub(crate) fn new(parts: impl IntoIterator<Item = Bytes>) -> Self {
        Self(parts.into_iter().filter(|part| !part.is_empty()).collect())
    }
}

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(part) = self.0.front_mut() else { return Poll::Ready(None) };
        let piece = part.split_to(part.len().min(PIECE));
        if part.is_empty() {
            self.0.pop_front();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|part| part.len() as u64).sum())
    }
}
