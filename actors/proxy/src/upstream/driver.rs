//! The task that moves a connection's bytes, and what ends it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::leash::Leash;
use crate::body::Body;
use crate::limits::{SETTINGS_LOOK, SETTINGS_WITHIN};
use crate::stall::{Watch, Watched};
use crate::tracker::UpstreamSlot;

/// Keeps a connection alive; the connection ends with the last of its users.
#[derive(Debug)]
pub(crate) struct Driver {
    task: JoinHandle<()>,
    ends: Ends,
}

/// The parts of a connection that end with its driver.
#[derive(Debug)]
enum Ends {
    /// The stream is held by the task or, after an upgrade, by the upgrade's owner.
    Http1(#[expect(dead_code, reason = "held for its drop")] UpstreamSlot),
    /// The stream, held by hyper's own tasks, ends with the leash. The number is how many requests the server
    /// takes at a time.
    Http2(Leash, Arc<AtomicUsize>),
}

impl Driver {
    pub(super) fn http1<T>(connection: http1::Connection<TokioIo<T>, Body>, way: UpstreamSlot) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let task = tokio::spawn(async move { told(connection.with_upgrades().await) });
        Self { task, ends: Ends::Http1(way) }
    }

    /// `tell` turns true if the server takes WebSockets. The connection ends if one of the bodies in
    /// `uploads` stalls.
    pub(super) fn http2<T>(
        connection: http2::Connection<TokioIo<T>, Watched<Body>, TokioExecutor>,
        leash: Leash,
        tell: Option<watch::Sender<bool>>,
        uploads: Watch,
    ) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let ender = leash.ender();
        let most = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
        let noted = Arc::clone(&most);
        let task = tokio::spawn(async move {
            let moving = async {
                told(drive(connection, tell, &noted).await);
                // The server takes no more requests; those under way go on in hyper's tasks.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = moving => {}
                () = uploads.stalled() => {
                    tracing::debug!("a server takes nothing of a request body: its connection ends");
                    ender.end();
                }
            }
        });
        Self { task, ends: Ends::Http2(leash, most) }
    }

    /// For how long nothing has come from the server. `None` for HTTP/1, where silence concerns one request
    /// only.
    pub(super) fn silent_for(&self) -> Option<Duration> {
        match &self.ends {
            Ends::Http1(_) => None,
            Ends::Http2(leash, _) => Some(leash.silent_for()),
        }
    }

    /// How many requests the server takes at a time, as known when the last one was sent; before the server
    /// has said, what hyper assumes.
    pub(super) fn most(&self) -> usize {
        match &self.ends {
            Ends::Http1(_) => 1,
            Ends::Http2(_, most) => most.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn told(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "upstream connection ended");
    }
}

/// Drives a connection. With `tell`, also polls for whether the server takes WebSockets, since hyper doesn't
/// report when it has the server's settings.
async fn drive<T>(
    mut connection: http2::Connection<TokioIo<T>, Watched<Body>, TokioExecutor>,
    tell: Option<watch::Sender<bool>>,
    most: &AtomicUsize,
) -> hyper::Result<()>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    if let Some(tell) = tell {
        let mut looks = tokio::time::interval(SETTINGS_LOOK);
        let until = tokio::time::Instant::now() + SETTINGS_WITHIN;
        let ended = std::future::poll_fn(|cx| {
            if let Poll::Ready(end) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Some(end));
            }
            while let Poll::Ready(now) = looks.poll_tick(cx) {
                if connection.is_extended_connect_protocol_enabled() {
                    tell.send_replace(true);
                    return Poll::Ready(None);
                }
                if now >= until {
                    return Poll::Ready(None);
                }
            }
            Poll::Pending
        });
        if let Some(end) = ended.await {
            return end;
        }
    }
    std::future::poll_fn(|cx| {
        // Each request causes a poll; the server's settings alone don't.
        most.store(connection.current_max_send_streams(), Ordering::Relaxed);
        Pin::new(&mut connection).poll(cx)
    })
    .await
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use http_body_util::BodyExt as _;
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use policy::Party;
    use tokio::io::duplex;
    use tokio::sync::mpsc;

    use super::super::{Carried, Purpose, Sender};
    use crate::guard::Reached;
    use crate::limits::WRITE_STALL;
    use crate::tests::bed::{Bed, endless, rest};
    use crate::tls::Fault;
    use crate::tracker::Tracker;

    use super::*;
    use crate::body::full;

    /// A sandbox with room for one connection, and that one: to a server that answers early, and reads
    /// nothing of what it is sent.
    async fn only_one() -> (Bed, Sender) {
        let bed = Bed::with_capacity(&rest("up.test", 1), 1).await;
        let (ours, theirs) = duplex(64 * 1024);
        let (keep, mut kept) = mpsc::unbounded_channel();
        let service = service_fn(move |request: Request<Incoming>| {
            // To drop it would tell the client that no more is wanted.
            let _ = keep.send(request.into_body());
            async { Ok::<_, std::convert::Infallible>(Response::new(full("early"))) }
        });
        tokio::spawn(async move {
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(theirs), service);
            let mut bodies = Vec::new();
            tokio::pin!(serving);
            loop {
                tokio::select! {
                    _ended = &mut serving => return,
                    Some(body) = kept.recv() => bodies.push(body),
                }
            }
        });
        let way = bed.deps.tracker.way(Party::UNKNOWN).unwrap();
        let carried = Carried { reached: Reached::Name, way, purpose: Purpose::Requests };
        let mut sender = Sender::http2(ours, carried, Fault::default()).await.unwrap_or_else(|_| panic!());
        let request = Request::post("http://up.test/ok/x").body(endless()).unwrap();
        let response = sender.send(request).await.unwrap_or_else(|_| panic!("it is answered"));
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "early");
        assert!(bed.deps.tracker.way(Party::UNKNOWN).is_err(), "the upload goes on");
        (bed, sender)
    }

    async fn is_given_back(tracker: &Tracker) {
        while tracker.way(Party::UNKNOWN).is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_with_its_last_user_though_an_upload_waits() {
        let (bed, sender) = only_one().await;
        drop(sender);
        let waited = tokio::time::timeout(WRITE_STALL / 2, is_given_back(&bed.deps.tracker)).await;
        waited.expect("its place is free long before the upload stalls");
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_its_server_takes_nothing_of_ends_the_connection() {
        let (bed, _pooled) = only_one().await;
        let waited = tokio::time::timeout(WRITE_STALL * 2, is_given_back(&bed.deps.tracker)).await;
        waited.expect("the connection ends");
    }
}
