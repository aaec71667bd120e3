//! One connection to a provider. It ends with its last user, whatever still waits on it.
//!
//! The HTTP library gives a connection to tasks, and these keep it, and a request's body with it, for as long
//! as a provider takes nothing of what it is sent. Here they are one set, which ends when nobody has the
//! connection any more. Never here: which request goes where.

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

/// What a provider may send on one stream of HTTP/2 before it is read, in bytes: some megabytes a second over
/// a long line.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// On all streams of a connection: what everybody leaves unread never takes up the room of who reads.
const CONNECTION_WINDOW: u32 = MAX_IN_FLIGHT as u32 * STREAM_WINDOW;
/// Headers in an answer.
pub const MAX_ANSWER_HEADERS: usize = 128;
/// Bytes of an answer's head, and of hyper's read buffer.
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

/// What came of a request.
pub(crate) enum Sent {
    Answer(Response<Incoming>),
    /// Nothing of it was sent.
    HandedBack(hyper::Error),
}

impl Line {
    /// Connects, and agrees on how to speak.
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

    /// Another handle on it, where it takes several requests at a time.
    pub fn another(&self) -> Option<Self> {
        match &self.speaks {
            Speaks::Http1(_) => None,
            Speaks::Http2(sender) => {
                Some(Self { speaks: Speaks::Http2(sender.clone()), driver: Arc::clone(&self.driver) })
            }
        }
    }

    /// Whether both lead to the same connection.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.driver, &other.driver)
    }

    pub fn is_shared(&self) -> bool {
        matches!(self.speaks, Speaks::Http2(_))
    }

    /// Whether a request can be taken now, or soon where it takes several.
    pub fn is_alive(&self) -> bool {
        match &self.speaks {
            Speaks::Http1(sender) => sender.is_ready(),
            Speaks::Http2(sender) => !sender.is_closed(),
        }
    }

    /// Resolves when a request can be taken; an error when the connection is done.
    pub async fn ready(&mut self) -> hyper::Result<()> {
        match &mut self.speaks {
            Speaks::Http1(sender) => sender.ready().await,
            Speaks::Http2(sender) => sender.ready().await,
        }
    }

    /// Sends, and waits so long for the head of the answer.
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

/// Where a connection's tasks are begun. They are their own, so that an actor's crash cuts no answer.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    /// Held for a moment, and whole even if poisoned.
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

/// Ends a connection when it is dropped: the tasks have a hold on their own set.
struct Driver(Tasks);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.lock().abort_all();
    }
}
