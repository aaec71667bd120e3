//! Captured connections: made by a program that knows no proxy, straight to some outside address, and treated
//! as if made by CONNECT.
//!
//! ```text
//! an address of ours ─ its name ──────────────────────────────────────────┐
//! an address that the policy names ───────────────────────────────────────┼─▶ the road, as CONNECT walks it
//! any other ─┬─ TLS: the name in SNI ─────────────────────────────────────┘
//!            ├─ HTTP: the name in Host, of each request ─▶ the road, as absolute form walks it
//!            └─ neither: the address itself, which the policy doesn't name
//! ```
//! A name that a client only claims (SNI, Host) decides where the connection *goes*: the name is resolved
//! anew and judged, and the address that the client chose is never dialled. A refusal is told in the client's
//! own protocol.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use policy::{Denial, Destination, Host, Layer};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::answer::{Known, Refusal};
use crate::caller::Claim;
use crate::conn::{Conn, Deps, Next};
use crate::intent::{Intent, Scope};
use crate::limits::{REFUSED_HELLO, TLS_HANDSHAKE};
use crate::names::Bound;
use crate::road::{self, Authorised};
use crate::strict::io::Remains;
use crate::tls::{Alpn, Hello, Prefixed};
use crate::tunnel::First;
use crate::{outcome, serve, ssh, tunnel};

/// Serves one captured connection; `asked` is the address that the client connected to.
pub(crate) async fn serve(deps: Arc<Deps>, claim: Arc<Claim>, mut stream: TcpStream, asked: SocketAddr) {
    let started = Instant::now();
    let mut seen = BytesMut::new();
    let at = |host: Host| Destination { host, port: asked.port() };
    let destination = match deps.names.at(asked.ip()) {
        Bound::Name(name) => at(Host::Name(name)),
        Bound::Nothing => {
            let refusal = nobody(&asked);
            return refused(&deps, &claim, stream, seen, at(Host::Addr(asked.ip())), refusal, started).await;
        }
        Bound::Foreign if names(&deps, &asked) => at(Host::Addr(asked.ip())),
        Bound::Foreign => match tunnel::look(&mut stream, &mut seen).await {
            Some(First::Tls(Hello { server_name: Some(name), .. })) => at(Host::Name(name)),
            Some(First::Http) => return requests(deps, claim, stream, seen, asked.port()).await,
            _ => at(Host::Addr(asked.ip())),
        },
    };
    let mut known = Known::nothing(claim.client());
    known.destination = Some(destination.clone());
    match open(&deps, &claim, &Intent::captured(destination.clone()), &mut known, started).await {
        Ok(next) => {
            let scope = Scope::Fixed { destination, tls: false };
            let conn = Arc::new(Conn::new(deps, scope, claim));
            tunnel::run(&conn, next, Remains { stream, surplus: seen }).await;
        }
        Err(refusal) => {
            let refusal = outcome::refused(&*deps.journal, &known, refusal, started.elapsed());
            tell(&deps, stream, seen, &destination.host, &refusal, &known).await;
        }
    }
}

/// Walks the road as far as CONNECT does.
async fn open(
    deps: &Deps,
    claim: &Arc<Claim>,
    intent: &Intent,
    known: &mut Known,
    started: Instant,
) -> Result<Next, Refusal> {
    let Authorised { granted, .. } = road::authorise(deps, claim, intent, known).await?;
    tunnel::prepare(deps, granted, known, started).await
}

/// Serves plain HTTP to an address that stands for no name and that the policy doesn't name: each request's
/// own `Host` or `:authority` is its destination.
async fn requests(deps: Arc<Deps>, claim: Arc<Claim>, stream: TcpStream, seen: BytesMut, port: u16) {
    let conn = Arc::new(Conn::new(deps, Scope::Claimed { port }, claim));
    if let Some((next, remains)) = serve::either(&conn, stream, seen).await {
        tunnel::run(&conn, next, remains).await;
    }
}

/// Whether the policy names the address itself.
fn names(deps: &Deps, asked: &SocketAddr) -> bool {
    deps.policy.load().compiled.names(&Host::Addr(asked.ip()))
}

fn nobody(asked: &SocketAddr) -> Refusal {
    Refusal::Denied(Denial {
        layer: Layer::L4,
        detail: format!("no name has the address {} (any more)", asked.ip()),
        policy: None,
        hint: Some("look the name up again".to_owned()),
    })
}

async fn refused(
    deps: &Deps,
    claim: &Claim,
    stream: TcpStream,
    seen: BytesMut,
    destination: Destination,
    refusal: Refusal,
    started: Instant,
) {
    let mut known = Known::nothing(claim.client());
    let host = destination.host.clone();
    known.destination = Some(destination);
    let refusal = outcome::refused(&*deps.journal, &known, refusal, started.elapsed());
    tell(deps, stream, seen, &host, &refusal, &known).await;
}

/// Tells a refusal in the protocol that the client speaks: HTTP, HTTP inside TLS by the sandbox's authority,
/// or SSH. Resets the connection otherwise.
async fn tell(
    deps: &Deps,
    mut stream: TcpStream,
    mut seen: BytesMut,
    host: &Host,
    refusal: &Refusal,
    known: &Known,
) {
    match timeout(REFUSED_HELLO, tunnel::look(&mut stream, &mut seen)).await {
        Ok(Some(First::Http)) if serve::begins_http2(&seen) => {
            serve::refuse_http2(Prefixed::new(seen.freeze(), stream), refusal, known).await;
        }
        Ok(Some(First::Http)) => serve::last_words(&mut stream, refusal, known).await,
        Ok(Some(First::Tls(hello))) => {
            let host = hello.server_name.map_or_else(|| host.clone(), Host::Name);
            let Ok(config) = deps.authority.server_config_for(&host, Alpn::H2OrHttp1) else { return };
            let accepting = TlsAcceptor::from(config).accept(Prefixed::new(seen.freeze(), stream));
            let Ok(Ok(mut inside)) = timeout(TLS_HANDSHAKE, accepting).await else { return };
            if inside.get_ref().1.alpn_protocol() == Some(b"h2") {
                return serve::refuse_http2(inside, refusal, known).await;
            }
            // Some clients take an answer that comes before their request for an error.
            let _asked = timeout(REFUSED_HELLO, inside.read(&mut [0; 1])).await;
            serve::last_words(&mut inside, refusal, known).await;
        }
        Ok(Some(First::Opaque)) if ssh::begins(&seen) => {
            serve::farewell(&mut stream, &ssh::last_words(refusal, known)).await;
        }
        _ => {
            // A client of any other protocol can't be told why: the reset at least ends its connection at
            // once.
            let _reset = stream.set_zero_linger();
        }
    }
}
