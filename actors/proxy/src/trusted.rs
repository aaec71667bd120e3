//! Connections to places that the operator named in the configuration: inference providers.
//!
//! Same resolver and same TLS as the agent's traffic, but no SSRF guard: a provider on the host's loopback is
//! what self-hosted means. Providers are reached through the upstream proxy, if there is one. Must never be
//! reachable with a name that an agent chose.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use policy::{Destination, Host};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::guard::{Lookup, MAX_ATTEMPTS, RESOLVE_DEADLINE};
use crate::limits::TRUSTED_CONNECT;
use crate::route::{self, Route, Routes};
use crate::tls;
use crate::upstream::Upstream;

/// A byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Dials for the gateway. Cheap to clone.
#[derive(Clone)]
pub struct Trusted {
    lookup: Arc<dyn Lookup>,
    upstream: Upstream,
    routes: Routes,
}

/// How to speak to what is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speak {
    /// In the clear.
    Plain,
    /// TLS, HTTP/2 or HTTP/1.1 as agreed.
    Tls,
    /// TLS, HTTP/1.1 alone.
    TlsHttp1,
}

/// An open connection.
pub struct Opened {
    /// The stream, inside TLS where that was asked for.
    pub io: Box<dyn Io>,
    /// Whether HTTP/2 was agreed on; HTTP/1.1 otherwise.
    pub http2: bool,
}

/// TLS with a server failed: inside the error of [`Trusted::dial`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host}: {why}")]
pub struct TlsFault {
    host: Host,
    /// The cause, in words that say how to fix it.
    why: String,
}

impl Trusted {
    /// Makes a dialler with this resolver, TLS configuration and routes.
    pub fn new(lookup: Arc<dyn Lookup>, upstream: Upstream, routes: Routes) -> Self {
        Self { lookup, upstream, routes }
    }

    /// Connects, TLS handshake included.
    ///
    /// # Errors
    /// The last address's error; that there is no address; that an upstream proxy refuses; that the handshake
    /// failed or anything took too long.
    pub async fn dial(&self, host: &Host, port: u16, speak: Speak) -> io::Result<Opened> {
        let to = Destination { host: host.clone(), port };
        let stream = match self.route(host).await {
            Route::Straight => tcp(&*self.lookup, host, port).await?,
            Route::Through(proxy) => {
                let tunnel = route::through(&proxy, &to, &[]).await;
                tunnel.map_err(|refusal| io::Error::other(refusal.detail()))?.stream
            }
        };
        if speak == Speak::Plain {
            return Ok(Opened { io: Box::new(stream), http2: false });
        }
        let stream =
            self.upstream.tls(stream, &to, speak == Speak::TlsHttp1).await.map_err(
                |error| match tls::explain(&error) {
                    Some(why) => io::Error::other(TlsFault { host: host.clone(), why }),
                    None => error,
                },
            )?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Opened { io: Box::new(stream), http2 })
    }

    /// Returns the route to `host`. A name that resolves to loopback, or to addresses exempt from the
    /// upstream proxy, is dialled directly, as those addresses are.
    async fn route(&self, host: &Host) -> Route {
        match self.routes.to(host) {
            route @ Route::Through(_) if route.resolves_here() => {
                match addresses(&*self.lookup, host).await {
                    Ok(all) if !all.is_empty() && all.iter().all(IpAddr::is_loopback) => Route::Straight,
                    Ok(all) => route.given(all),
                    // The proxy may know the name.
                    Err(_) => route,
                }
            }
            route => route,
        }
    }
}

/// Connects to a host that the operator named.
pub(crate) async fn tcp(lookup: &dyn Lookup, host: &Host, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in addresses(lookup, host).await?.into_iter().take(MAX_ATTEMPTS) {
        match timeout(TRUSTED_CONNECT, TcpStream::connect(SocketAddr::new(address, port))).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

async fn addresses(lookup: &dyn Lookup, host: &Host) -> io::Result<Vec<IpAddr>> {
    let name = match host {
        Host::Addr(address) => return Ok(vec![*address]),
        // RFC 6761 section 6.3: never asked of a resolver.
        Host::Name(name) if name.labels().next_back() == Some("localhost") => {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        Host::Name(name) => name,
    };
    match timeout(RESOLVE_DEADLINE, lookup.addresses(name)).await {
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err(io::Error::new(io::ErrorKind::NotFound, format!("{name}: {error}"))),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;
    use policy::DomainName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::guard::LookupError;
    use crate::tls::{Alpn, Authority, upstream_config_with_roots};

    struct Loopback;

    impl Lookup for Loopback {
        fn addresses<'a>(&'a self, name: &'a DomainName) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
            Box::pin(async move {
                match name.as_str() {
                    "provider.test" => Ok(vec!["127.0.0.2".parse().unwrap(), "127.0.0.1".parse().unwrap()]),
                    _ => Err(LookupError::NotFound),
                }
            })
        }
    }

    #[tokio::test]
    async fn plain_and_tls_and_the_next_address() {
        let world = Authority::generate().unwrap();
        let config = upstream_config_with_roots(vec![world.certificate().clone()]).unwrap();
        let trusted = Trusted::new(Arc::new(Loopback), Upstream::new(&config), Routes::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let host = Host::parse("provider.test").unwrap();
        let acceptor =
            tokio_rustls::TlsAcceptor::from(world.server_config_for(&host, Alpn::H2OrHttp1).unwrap());
        tokio::spawn(async move {
            let (mut plain, _) = listener.accept().await.unwrap();
            plain.write_all(b"plain").await.unwrap();
            drop(plain);
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            stream.write_all(b"inside").await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let mut got = String::new();
        let mut opened = trusted.dial(&Host::parse("localhost").unwrap(), port, Speak::Plain).await.unwrap();
        opened.io.read_to_string(&mut got).await.unwrap();
        let mut opened = trusted.dial(&host, port, Speak::Tls).await.unwrap();
        assert!(opened.http2);
        opened.io.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "plaininside");
        assert!(trusted.dial(&Host::parse("other.test").unwrap(), port, Speak::Plain).await.is_err());
    }
}
