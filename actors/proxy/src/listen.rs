//! The first step of the road: accepting, and knowing what was accepted.
//!
//! Accept tasks belong to the proxy actor and die with it; the connections they hand over do not. Must never
//! spin on a failing accept, and never hold more connections than the sandbox may have.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::answer::{Known, Refusal};
use crate::caller::Claim;
use crate::conn::{Conn, Deps};
use crate::intent::{Scope, inference};
use crate::limits::{ACCEPT_BACKOFF_MAX, ACCEPT_BACKOFF_MIN, CONNECTION_TOTAL};
use crate::tracker::ConnectionSlot;
use crate::verdict::Granted;
use crate::witness::Witness;
use crate::{capture, outcome, road, tunnel};

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The explicit proxy: CONNECT and absolute form.
    Explicit,
    /// Connections to any address of the world at this port.
    Captured {
        /// The port.
        port: u16,
    },
    /// `inference.local` itself.
    Inference {
        /// Whether TLS is expected.
        tls: bool,
    },
}

/// A listening socket that lives above the proxy actor.
#[derive(Debug, Clone)]
pub struct Listener {
    /// What it is for.
    pub kind: Kind,
    /// The socket.
    pub socket: Arc<std::net::TcpListener>,
}

/// How connections to the outside are met; listeners come and go with the policy's ports.
#[derive(Clone, Default)]
pub struct Captured {
    /// A listener for each captured port.
    pub listeners: Vec<Listener>,
    /// Records refusals at all other ports, where they can be seen.
    pub witness: Option<Arc<Witness>>,
}

impl Listener {
    /// Duplicates the socket. Duplicates share the listen queue, so that what waits in it is not lost when
    /// one of them closes.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn open(&self) -> io::Result<TcpListener> {
        let socket = self.socket.try_clone()?;
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket)
    }
}

/// A connection of the agent, with the tuple that says whose it is.
pub(crate) struct Accepted {
    stream: TcpStream,
    client: SocketAddr,
    local: SocketAddr,
    kind: Kind,
    place: ConnectionSlot,
}

/// Accepts for ever. Each connection goes on as a task of its own that outlives this one.
pub async fn accept(deps: Arc<Deps>, listener: TcpListener, kind: Kind) {
    let mut backoff = ACCEPT_BACKOFF_MIN;
    let is_captured = matches!(kind, Kind::Captured { .. });
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                backoff = ACCEPT_BACKOFF_MIN;
                hand_over(&deps, stream, client, kind);
            }
            // Init has taken the port back: this task ends when its actor hears of it, too.
            Err(error) if is_captured && error.kind() == io::ErrorKind::InvalidInput => {
                std::future::pending().await
            }
            Err(error) => {
                // Out of descriptors or memory: waiting connections stay in the queue.
                tracing::warn!(%error, "accept failed");
                sleep(backoff).await;
                backoff = (backoff * 2).min(ACCEPT_BACKOFF_MAX);
            }
        }
    }
}

fn hand_over(deps: &Arc<Deps>, stream: TcpStream, client: SocketAddr, kind: Kind) {
    let Some(place) = deps.tracker.admit() else {
        return full(deps, &stream, client);
    };
    let (Ok(local), Ok(())) = (stream.local_addr(), stream.set_nodelay(true)) else { return };
    // A dual-stack listener reports IPv4 addresses as mapped IPv6 ones; the agent's own socket has the IPv4
    // ones.
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (client, local) = (plain(client), plain(local));
    let accepted = Accepted { stream, client, local, kind, place };
    let deps = Arc::clone(deps);
    tokio::spawn(async move {
        let _counted = telemetry::metrics::proxy_connection();
        let _at_most = timeout(CONNECTION_TOTAL, connection(deps, accepted)).await;
    });
}

/// Refuses one connection too many: writes the refusal if the socket takes it at once, and closes.
fn full(deps: &Deps, stream: &TcpStream, client: SocketAddr) {
    let known = Known::nothing(client);
    let why = format!("this sandbox has {} connections open, which is its limit", deps.tracker.capacity());
    let refusal = outcome::refused(&*deps.journal, &known, Refusal::Unavailable(why), Duration::ZERO);
    let _best_effort = stream.try_write(&refusal.raw(&known));
}

async fn connection(deps: Arc<Deps>, accepted: Accepted) {
    let Accepted { stream, client, local, kind, place } = accepted;
    let claim = Arc::new(Claim::new(Arc::clone(&deps.identify), client, local).at(place));
    let served = claim.watch(serve(Arc::clone(&deps), &claim, stream, local, kind)).await;
    if let Err(too_many) = served {
        outcome::refused(&*deps.journal, &Known::nothing(client), too_many.into(), Duration::ZERO);
    }
}

/// Each stage is boxed by itself, so that a connection that idles for long holds the memory of that stage
/// alone.
async fn serve(deps: Arc<Deps>, claim: &Arc<Claim>, stream: TcpStream, local: SocketAddr, kind: Kind) {
    let claim = Arc::clone(claim);
    match kind {
        Kind::Explicit => {
            let conn = Arc::new(Conn::new(deps, Scope::Explicit, claim));
            let http = Box::pin(crate::serve::either(&conn, stream, BytesMut::new())).await;
            if let Some((next, remains)) = http {
                Box::pin(tunnel::run(&conn, next, remains)).await;
            }
        }
        Kind::Captured { .. } => Box::pin(capture::serve(deps, claim, stream, local)).await,
        Kind::Inference { tls } => Box::pin(inference_connection(deps, claim, stream, tls)).await,
    }
}

/// Serves a connection made straight to the gateway's address, as if made by CONNECT.
async fn inference_connection(deps: Arc<Deps>, claim: Arc<Claim>, stream: TcpStream, tls: bool) {
    let Some(destination) = inference(if tls { 443 } else { 80 }) else { return };
    let started = Instant::now();
    let mut known = Known::nothing(claim.client());
    known.destination = Some(destination.clone());
    match road::identified(&deps, &claim, &mut known).await {
        Ok(caller) => {
            let generation = deps.policy.load().number;
            let granted = Granted::to_inference(destination, &caller, generation);
            tunnel::inspected(&deps, &claim, stream, BytesMut::new(), granted, None).await;
        }
        Err(refusal) => {
            let refusal = outcome::refused(&*deps.journal, &known, refusal, started.elapsed());
            let mut stream = stream;
            if !tls {
                crate::serve::last_words(&mut stream, &refusal, &known).await;
            }
        }
    }
}
