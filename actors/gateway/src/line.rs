//! One connection to a provider. It is closed with its last handle, whatever is still pending on it.
//!
//! The HTTP library drives a connection by tasks. They would keep it, and a request's body with it, as long
//! as a provider doesn't read what it is sent. Here the tasks of a connection are one set, which is aborted
//! when the last handle is dropped. Which request goes where is not decided here.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::Response;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    rt::Executor,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::JoinSet;

use crate::{
    MAX_IN_FLIGHT,
    lane::Unsent,
    outgoing::{Outgoing, Parts},
    upstream::{Dial, Dialed, Protocol, Upstream},
};

/// Flow-control window of one HTTP/2 stream, in bytes: enough for some megabytes a second over a long
/// distance.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// Flow-control window of a connection, in bytes: so large that streams which aren't read never use up the
/// window of those which are.
const CONNECTION_WINDOW: u32 = MAX_IN_FLIGHT as u32 * STREAM_WINDOW;
/// Most headers in an answer.
pub const MAX_ANSWER_HEADERS: usize = 128;
/// Largest head of an answer, and size of hyper's read buffer, in bytes.
pub const MAX_ANSWER_HEAD: usize = 64 * 1024;

/// A handle on a connection.
pub(crate) struct Line {
    speaks: Speaks,
    driver: Arc<Driver>,
}

enum Speaks {
    Http1(http1::SendRequest<Parts>),
    Http2(http2::SendRequest<Parts>),
}

/// The outcome of sending a request.
pub(crate) enum Sent {
    Answer(Response<Incoming>),
    /// Nothing of the request was sent.
    HandedBack(hyper::Error),
}

impl Line {
    /// Connects, and does the handshake of the protocol that was agreed on.
    pub async fn open(dial: &dyn Dial, upstream: &Upstream) -> io::Result<Self> {
        let Dialed { io, protocol } = dial.dial(upstream).await?;
        let (io, tasks) = (TokioIo::new(io), Tasks::default());
        let driver = Arc::new(Driver(tasks.clone()));
        let speaks = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::Builder::new()
                    .max_headers(MAX_ANSWER_HEADERS)
                    .max_buf_size(MAX_ANSWER_HEAD)
                    .handshake(io)
                    .await
                    .map_err(io::Error::other)?;
                tasks.execute(async move { told(connection.await) });
                Speaks::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::Builder::new(tasks.clone())
                    .timer(TokioTimer::new())
                    .keep_alive_interval(Duration::from_secs(30))
                    .keep_alive_timeout(Duration::from_secs(10))
                    .max_header_list_size(MAX_ANSWER_HEAD as u32)
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .handshake(io)
                    .await
                    .map_err(io::Error::other)?;
                tasks.execute(async move { told(connection.await) });
                Speaks::Http2(sender)
            }
        };
        Ok(Self { speaks, driver })
    }

    /// Another handle on the connection; `None` if it takes one request at a time.
    pub fn another(&self) -> Option<Self> {
        match &self.speaks {
            Speaks::Http1(_) => None,
            Speaks::Http2(sender) => {
                Some(Self { speaks: Speaks::Http2(sender.clone()), driver: Arc::clone(&self.driver) })
            }
        }
    }

    /// Whether both are handles on the same connection.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.driver, &other.driver)
    }

    pub fn is_shared(&self) -> bool {
        matches!(self.speaks, Speaks::Http2(_))
    }

    /// Whether the connection can take a request now or, where it takes several at a time, soon.
    pub fn is_alive(&self) -> bool {
        match &self.speaks {
            Speaks::Http1(sender) => sender.is_ready(),
            Speaks::Http2(sender) => !sender.is_closed(),
        }
    }

    /// Waits until the connection can take a request; returns an error if it is closed.
    pub async fn ready(&mut self) -> hyper::Result<()> {
        match &mut self.speaks {
            Speaks::Http1(sender) => sender.ready().await,
            Speaks::Http2(sender) => sender.ready().await,
        }
    }

    /// Sends a request, and waits up to `first_byte` for the head of the answer.
    pub async fn try_send(&mut self, outgoing: &Outgoing, first_byte: Duration) -> Result<Sent, Unsent> {
        let request = outgoing.request(match self.speaks {
            Speaks::Http1(_) => Protocol::Http1,
            Speaks::Http2(_) => Protocol::Http2,
        })?;
        let sending = async {
            if let Err(fault) = self.ready().await {
                return Ok(Sent::HandedBack(fault));
            }
            match &mut self.speaks {
                Speaks::Http1(sender) => sender.try_send_request(request).await,
                Speaks::Http2(sender) => sender.try_send_request(request).await,
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
}

fn told(ended: hyper::Result<()>) {
    if let Err(fault) = ended {
        tracing::debug!(%fault, "a provider's connection ended");
    }
}

/// The set of a connection's tasks. They belong to no actor, so that an actor's crash cuts no answer.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    /// The lock is held for a moment only; the set is consistent even if the lock is poisoned.
    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut tasks = self.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// Aborts a connection's tasks when it is dropped. Dropping [`Tasks`] wouldn't do, since the tasks hold their
/// own set.
struct Driver(Tasks);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.lock().abort_all();
    }
}
