//! How the gateway reaches providers: only through an implementation of [`Dial`].
//!
//! The gateway itself resolves no name and opens no socket, so that addresses are judged in one place.

use std::{io, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::base_url::BaseUrl;

/// A protocol spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, ALPN `http/1.1`.
    Http1,
    /// HTTP/2, ALPN `h2`.
    Http2,
}

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Name or address, lower-case, without brackets. From the operator's file, never from the agent.
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
    /// Whether TLS is spoken, with the host verified against the upstream roots.
    pub tls: bool,
    /// The protocols to offer by ALPN, the preferred one first. Without TLS the first is used.
    pub alpn: &'static [Protocol],
}

impl Upstream {
    /// For a base URL: HTTP/2 or HTTP/1.1 over TLS, HTTP/1.1 in clear.
    pub fn of(base: &BaseUrl) -> Self {
        let alpn: &[Protocol] =
            if base.tls { &[Protocol::Http2, Protocol::Http1] } else { &[Protocol::Http1] };
        Self { host: base.host.clone(), port: base.port, tls: base.tls, alpn }
    }
}

/// A byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection that is ready for its first request.
pub struct Dialed {
    /// The stream, inside TLS if that was asked for.
    pub io: Box<dyn Io>,
    /// The protocol that was agreed on.
    pub protocol: Protocol,
}

/// Makes connections to providers.
pub trait Dial: Send + Sync + 'static {
    /// Connects, with `TCP_NODELAY` (else small requests wait 40 ms for an acknowledgement). The caller
    /// bounds the time by dropping the future.
    fn dial<'a>(&'a self, upstream: &'a Upstream) -> BoxFuture<'a, io::Result<Dialed>>;
}
