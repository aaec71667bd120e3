//! The way to one provider: a few kept connections and what is known of its health.
//!
//! A request is sent again only when hyper hands it back unsent: what may have reached a provider is never repeated. A connection of
//! HTTP/1.1 is one request's until its answer is read; one of HTTP/2 is one agent's, for its streams share room, and a number of
//! which the provider has the say.

use std::{
    fmt, io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header::HOST};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use policy::Party;
use tokio::sync::Mutex;

use crate::{
    MAX_IN_FLIGHT,
    config::Timeouts,
    health::Health,
    upstream::{Dial, Dialed, Protocol, Upstream},
};

/// Kept HTTP/1.1 connections of one provider.
pub const MAX_IDLE: usize = 8;
/// Kept HTTP/2 connections of one provider, one an agent. Beyond, the one that was longest unused ends with its last answer.
pub const MAX_SHARED: usize = 16;
/// What a provider may send on one stream of HTTP/2 before it is read, in bytes: some megabytes a second over a long line.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// On all streams of a connection: what everybody leaves unread never takes up the room of who reads.
const CONNECTION_WINDOW: u32 = MAX_IN_FLIGHT as u32 * STREAM_WINDOW;
/// How long one of HTTP/1.1 is kept: shorter than the 60–75 s after which common servers close.
pub const IDLE_LIFE: Duration = Duration::from_secs(45);
/// Headers in an answer.
pub const MAX_ANSWER_HEADERS: usize = 128;
/// Bytes of an answer's head, and of hyper's read buffer.
pub const MAX_ANSWER_HEAD: usize = 64 * 1024;

type Out = Full<Bytes>;

/// What goes to a provider.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pub path_and_query: String,
    pub authority: String,
    pub tls: bool,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsent {
    /// Nothing was sent: another target may be tried.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// Nothing was sent: another target may be tried.
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    /// It was sent, perhaps answered in part.
    #[error("no answer within {0:?}")]
    FirstByteTimeout(Duration),
    /// It was sent, and the connection broke or spoke no HTTP.
    #[error("the connection failed: {0}")]
    Broken(String),
    /// The request can't be written; a fault of ours.
    #[error("the request can't be written")]
    Unwritable,
}

impl Unsent {
    pub fn may_try_another(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout(_))
    }
}

#[derive(Default)]
struct Kept {
    h1: Vec<(Instant, http1::SendRequest<Out>)>,
    /// The one that was used last stands last.
    h2: Vec<(Party, http2::SendRequest<Out>)>,
}

impl Kept {
    fn shared(&mut self, party: Party) -> Option<http2::SendRequest<Out>> {
        self.h2.retain(|(_, h2)| !h2.is_closed());
        let at = self.h2.iter().position(|(whose, _)| *whose == party)?;
        let found = self.h2.remove(at);
        let sender = found.1.clone();
        self.h2.push(found);
        Some(sender)
    }

    fn share(&mut self, party: Party, sender: http2::SendRequest<Out>) {
        if self.shared(party).is_none() {
            if self.h2.len() >= MAX_SHARED {
                self.h2.remove(0);
            }
            self.h2.push((party, sender));
        }
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Lane {
    // Tokio's mutex: it can't be poisoned, and it is held for a push or a pop.
    kept: std::sync::Arc<Mutex<Kept>>,
    pub health: Health,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

impl Lane {
    /// Sends for `party`, over a kept connection if one is alive.
    pub async fn send(
        &self,
        party: Party,
        dial: &dyn Dial,
        upstream: &Upstream,
        outgoing: &Outgoing,
        timeouts: &Timeouts,
    ) -> Result<Response<Incoming>, Unsent> {
        let answer = self.send_any(party, dial, upstream, outgoing, timeouts).await;
        match &answer {
            Ok(response) if response.status().is_server_error() => self.health.failed(),
            Ok(_) => self.health.answered(),
            Err(_) => self.health.failed(),
        }
        answer
    }

    async fn send_any(
        &self,
        party: Party,
        dial: &dyn Dial,
        upstream: &Upstream,
        outgoing: &Outgoing,
        timeouts: &Timeouts,
    ) -> Result<Response<Incoming>, Unsent> {
        while let Some(mut sender) = self.take(party).await {
            match sender.try_send(outgoing, timeouts.first_byte).await? {
                Sent::Answer(response) => {
                    self.keep(party, sender);
                    return Ok(response);
                }
                // A kept connection that died unnoticed.
                Sent::HandedBack(_) => {}
            }
        }
        let mut sender = tokio::time::timeout(timeouts.connect, connect(dial, upstream))
            .await
            .map_err(|_| Unsent::ConnectTimeout(timeouts.connect))?
            .map_err(Unsent::Connect)?;
        match sender.try_send(outgoing, timeouts.first_byte).await? {
            Sent::Answer(response) => {
                self.keep(party, sender);
                Ok(response)
            }
            Sent::HandedBack(fault) => Err(Unsent::Connect(io::Error::other(fault))),
        }
    }

    async fn take(&self, party: Party) -> Option<Sender> {
        let mut kept = self.kept.lock().await;
        if let Some(h2) = kept.shared(party) {
            return Some(Sender::H2(h2));
        }
        while let Some((since, h1)) = kept.h1.pop() {
            if since.elapsed() < IDLE_LIFE && h1.is_ready() {
                return Some(Sender::H1(h1));
            }
        }
        None
    }

    /// Keeps a connection for the next request: at once for HTTP/2, after the answer's last byte for HTTP/1.1.
    fn keep(&self, party: Party, sender: Sender) {
        let kept = self.kept.clone();
        tokio::spawn(async move {
            match sender {
                Sender::H2(h2) => kept.lock().await.share(party, h2),
                Sender::H1(mut h1) => {
                    if h1.ready().await.is_ok() {
                        let mut kept = kept.lock().await;
                        if kept.h1.len() < MAX_IDLE {
                            kept.h1.push((Instant::now(), h1));
                        }
                    }
                }
            }
        });
    }

    /// Closes what is too old or dead. Called by the actor now and then; [`Lane::send`] needs it not.
    pub async fn sweep(&self) -> usize {
        let mut kept = self.kept.lock().await;
        kept.h2.retain(|(_, h2)| !h2.is_closed());
        kept.h1.retain(|(since, h1)| since.elapsed() < IDLE_LIFE && h1.is_ready());
        kept.h1.len() + kept.h2.len()
    }
}

enum Sender {
    H1(http1::SendRequest<Out>),
    H2(http2::SendRequest<Out>),
}

enum Sent {
    Answer(Response<Incoming>),
    HandedBack(hyper::Error),
}

impl Sender {
    async fn try_send(&mut self, outgoing: &Outgoing, first_byte: Duration) -> Result<Sent, Unsent> {
        let request = outgoing.request(self.protocol())?;
        let sending = async {
            match self {
                Self::H1(h1) => match h1.ready().await {
                    Ok(()) => h1.try_send_request(request).await,
                    Err(fault) => return Ok(Sent::HandedBack(fault)),
                },
                Self::H2(h2) => match h2.ready().await {
                    Ok(()) => h2.try_send_request(request).await,
                    Err(fault) => return Ok(Sent::HandedBack(fault)),
                },
            }
            .map(Sent::Answer)
            .or_else(|mut fault| {
                let unsent = fault.take_message().is_some();
                let fault = fault.into_error();
                if unsent { Ok(Sent::HandedBack(fault)) } else { Err(Unsent::Broken(fault.to_string())) }
            })
        };
        tokio::time::timeout(first_byte, sending).await.map_err(|_| Unsent::FirstByteTimeout(first_byte))?
    }

    fn protocol(&self) -> Protocol {
        match self {
            Self::H1(_) => Protocol::Http1,
            Self::H2(_) => Protocol::Http2,
        }
    }
}

impl Outgoing {
    fn request(&self, protocol: Protocol) -> Result<Request<Out>, Unsent> {
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
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.map_err(|_| Unsent::Unwritable)?;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

async fn connect(dial: &dyn Dial, upstream: &Upstream) -> io::Result<Sender> {
    let Dialed { io, protocol } = dial.dial(upstream).await?;
    let io = TokioIo::new(io);
    // The connections live in tasks of their own, which end with their streams: an actor's crash doesn't cut an answer.
    match protocol {
        Protocol::Http1 => {
            let (sender, connection) = http1::Builder::new()
                .max_headers(MAX_ANSWER_HEADERS)
                .max_buf_size(MAX_ANSWER_HEAD)
                .handshake(io)
                .await
                .map_err(io::Error::other)?;
            tokio::spawn(async move {
                if let Err(fault) = connection.await {
                    tracing::debug!(%fault, "a provider's connection ended");
                }
            });
            Ok(Sender::H1(sender))
        }
        Protocol::Http2 => {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(Duration::from_secs(30))
                .keep_alive_timeout(Duration::from_secs(10))
                .max_header_list_size(MAX_ANSWER_HEAD as u32)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .handshake(io)
                .await
                .map_err(io::Error::other)?;
            tokio::spawn(async move {
                if let Err(fault) = connection.await {
                    tracing::debug!(%fault, "a provider's connection ended");
                }
            });
            Ok(Sender::H2(sender))
        }
    }
}
