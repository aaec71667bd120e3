//! The socket: which users may connect, how many connections there may be, and how one is served.
//!
//! The listener itself lives above the actor: a clone of it is served here, so that nothing is refused while
//! the actor restarts. All connections belong to the future of [`Serving::run`] and end with it.

use std::{
    io,
    os::unix::net::UnixListener as StdUnixListener,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    control::{Control, Peer},
    exec,
    limits::{DISMISSAL, HEAD_DEADLINE, MAX_CONNECTIONS, MAX_HEAD, MAX_HEADERS, MAX_LASTING},
    routes::Routes,
    service::{Pending, Service},
};

/// Why the socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum Unservable {
    /// The listener can't be used.
    #[error("the control socket can't be listened on: {0}")]
    Listener(#[from] io::Error),
    /// The table of routes contradicts itself; an error in this crate.
    #[error("the control API's routes contradict each other: {0}")]
    Routes(#[from] matchit::InsertError),
}

/// The user who may connect, beside root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The operator's user id.
    pub uid: u32,
}

impl Owner {
    /// The user that this process runs as.
    pub fn this_process() -> Self {
        Self { uid: nix::unistd::geteuid().as_raw() }
    }

    /// Root alone: for a sandbox whose supervisor runs as another user than its operator, and may be in an
    /// intruder's hands.
    pub fn root() -> Self {
        Self { uid: 0 }
    }

    fn admits(self, uid: u32) -> bool {
        uid == self.uid || uid == 0
    }
}

/// The answer to one connection too many.
const BUSY: (&str, &str) = (
    "503 Service Unavailable",
    r#"{"error":"unavailable","detail":"too many control connections","hint":"close some"}"#,
);
/// The answer to another user.
const STRANGER: (&str, &str) = (
    "403 Forbidden",
    r#"{"error":"forbidden","detail":"this is another user's sandbox","hint":"ask its operator"}"#,
);

/// Prepares to serve a listener. Everything that can fail is done here.
///
/// # Errors
/// See [`Unservable`].
pub fn prepare(
    listener: StdUnixListener,
    control: Arc<dyn Control>,
    owner: Owner,
) -> Result<Serving, Unservable> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let lasting = Arc::new(Semaphore::new(MAX_LASTING));
    let service = Arc::new(Service { control, routes: Routes::new()?, lasting });
    Ok(Serving { listener, service, owner })
}

/// A socket that is ready to be served.
pub struct Serving {
    listener: UnixListener,
    service: Arc<Service>,
    owner: Owner,
}

impl Serving {
    /// Accepts until it is dropped; its connections are dropped with it.
    pub async fn run(self) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let Some(peer) = peer_of(&stream).filter(|p| self.owner.admits(p.uid)) else {
                        tracing::warn!("a stranger's connection to the control socket was refused");
                        connections.spawn(dismiss(stream, STRANGER));
                        continue;
                    };
                    match places.clone().try_acquire_owned() {
                        Ok(place) => {
                            let service = self.service.clone();
                            connections.spawn(async move {
                                connection(stream, service, peer).await;
                                drop(place);
                            });
                        }
                        Err(_) => drop(connections.spawn(dismiss(stream, BUSY))),
                    }
                }
                Err(fault) => {
                    // Out of descriptors, most likely: trying again at once would only burn time.
                    tracing::warn!(%fault, "the control socket can't accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Returns the peer's credentials, by `SO_PEERCRED`.
fn peer_of(stream: &UnixStream) -> Option<Peer> {
    let credentials = stream.peer_cred().ok()?;
    Some(Peer { uid: credentials.uid(), pid: credentials.pid() })
}

async fn dismiss(mut stream: UnixStream, (status, body): (&str, &str)) {
    let words = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut ignored = [0; 1024];
    // A strict client takes an answer that comes before it has begun its request for an error (hyper gives
    // the request up).
    let _begun = tokio::time::timeout(DISMISSAL, stream.read(&mut ignored)).await;
    let _ = tokio::time::timeout(DISMISSAL, async {
        stream.write_all(words.as_bytes()).await?;
        stream.shutdown().await?;
        // If the socket were closed with something unread, it would be reset, and the answer lost.
        while stream.read(&mut ignored).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}

async fn connection(stream: UnixStream, service: Arc<Service>, peer: Peer) {
    // Written by the one request that upgrades, read after the last one: the lock is never contended, and the
    // value is consistent even if it is poisoned.
    let pending: Arc<Mutex<Option<Pending>>> = Arc::default();
    let slot = pending.clone();
    let answering = service_fn(move |request: Request<Incoming>| {
        let (service, slot) = (service.clone(), slot.clone());
        async move {
            let mut begun = None;
            let response = service.handle(request, peer, &mut begun).await;
            if begun.is_some() {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = begun;
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), answering)
        .with_upgrades()
        .await;
    if let Err(fault) = served {
        tracing::debug!(%fault, "a control connection ended");
        return;
    }
    let begun = pending.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Pending { upgrade, session, place: _lasts }) = begun {
        let ran = match upgrade.await {
            Ok(io) => exec::run(TokioIo::new(io), session).await,
            Err(fault) => Err(io::Error::other(fault)),
        };
        if let Err(fault) = ran {
            tracing::debug!(%fault, "an exec session ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rooted_supervisors_own_user_is_a_stranger() {
        assert!(Owner::root().admits(0) && !Owner::root().admits(1000));
        let owner = Owner { uid: 1000 };
        assert!(owner.admits(0) && owner.admits(1000) && !owner.admits(1001));
    }
}
