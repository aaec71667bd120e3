//! A tunnel whose requests are read and judged one by one, behind TLS or in the clear. What is not HTTP is
//! never passed on.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::first::{First, judge_first, look};
use super::{messages, refused};
use crate::address;
use crate::caller::Claim;
use crate::conn::{Conn, Deps, Ground};
use crate::intent::Scope;
use crate::limits::{REVOKED_GRACE, TLS_HANDSHAKE};
use crate::tls::{Alpn, Prefixed};
use crate::tracker::Live;
use crate::verdict::Granted;
use crate::{serve, ssh};

/// A tunnel whose requests are read and judged one by one.
pub(crate) async fn inspected<T>(
    deps: &Arc<Deps>,
    claim: &Arc<Claim>,
    stream: T,
    surplus: BytesMut,
    granted: Granted,
    addresses: Option<address::JudgedAddresses>,
) where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let ground = Ground::of(&granted);
    let live = deps.tracker.track(granted, None, None).await;
    let told = live.revoked();
    let spoken = Spoken { ground, addresses, live };
    tokio::select! {
        () = speak(deps, claim, stream, surplus, spoken) => {}
        // After a revocation the connection ends by itself, in order, so that the client is told. It is cut
        // off only if that takes too long.
        () = async { told.await; sleep(REVOKED_GRACE).await } => {}
    }
}

/// An inspected tunnel before its first bytes.
struct Spoken {
    ground: Ground,
    addresses: Option<address::JudgedAddresses>,
    live: Live,
}

async fn speak<T>(deps: &Arc<Deps>, claim: &Arc<Claim>, mut stream: T, mut seen: BytesMut, spoken: Spoken)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Spoken { ground, addresses, live } = spoken;
    let destination = ground.destination.clone();
    let first = tokio::select! {
        first = look(&mut stream, &mut seen) => first,
        () = live.revoked() => None,
    };
    let Some(first) = first else { return };
    if let Err(denial) = judge_first(&first, &destination, false) {
        let (refusal, known) = refused(deps, claim, ground, denial);
        if ssh::begins(&seen) {
            serve::farewell(&mut stream, &ssh::last_words(&refusal, &known)).await;
        }
        return;
    }
    let tls = matches!(first, First::Tls(_));
    let scope = Scope::Fixed { destination: destination.clone(), tls };
    let conn = Conn::new(Arc::clone(deps), scope, Arc::clone(claim));
    let conn = Arc::new(conn.with_addresses(addresses).resting_on(live, ground));
    if !tls {
        return requests(&conn, stream, seen).await;
    }
    let config = match deps.authority.server_config_for(&destination.host, Alpn::H2OrHttp1) {
        Ok(config) => config,
        Err(error) => return tracing::error!(%error, %destination, "no certificate for an inspected tunnel"),
    };
    let accepting = TlsAcceptor::from(config).accept(Prefixed::new(seen.freeze(), stream));
    let stream = match timeout(TLS_HANDSHAKE, accepting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, %destination, "the agent's TLS handshake failed"),
        Err(_) => return,
    };
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => serve::http2(&conn, stream).await,
        _ => requests(&conn, stream, BytesMut::new()).await,
    }
}

/// Serves requests by the HTTP version that the client begins with: without ALPN, only the client knows which
/// one its server speaks.
async fn requests<T>(conn: &Arc<Conn>, stream: T, seen: BytesMut)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // CONNECT has no meaning in here, so the only thing to become is a WebSocket.
    if let Some((next, remains)) = serve::either(conn, stream, seen).await {
        messages(conn, next, remains).await;
    }
}
