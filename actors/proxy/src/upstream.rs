//! A step of the road, after dialling: a connection that speaks HTTP to what was dialled.
//!
//! TLS towards the upstream is verified against the host that was judged; HTTP/1.1 or HTTP/2 is what ALPN
//! says. Must never dial: connections come from the guard.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use policy::{Destination, Host};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, watch};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::address::Dialled;
use crate::answer::Refusal;
use crate::body::Body;
use crate::guard::Reached;
use crate::limits::{MAX_RESPONSE_HEAD_BYTES, TLS_HANDSHAKE, UPSTREAM_IDLE};
use crate::stall::{Watch, Watched};
use crate::tls::{self, ClientCertificates, Fault, Noting, UpstreamError, http1_only};
use crate::tracker::UpstreamSlot;

mod driver;
mod leash;

pub(crate) use driver::Driver;
use leash::Leashed;

/// TLS towards upstreams: one verifier, two ALPN offers. Clones share them.
#[derive(Clone)]
pub struct Upstream(Arc<Shared>);

struct Shared {
    made: OnceCell<Connectors>,
    load: Box<dyn Fn() -> Result<Arc<ClientConfig>, UpstreamError> + Send + Sync>,
    certificates: ClientCertificates,
}

/// One configuration with two ALPN offers, which share its sessions.
struct Offers {
    any: TlsConnector,
    http1: TlsConnector,
}

struct Connectors {
    /// For destinations that no client certificate is configured for.
    anonymous: Offers,
    presenting: HashMap<Destination, Offers>,
}

impl Offers {
    fn new(config: &Arc<ClientConfig>) -> Self {
        Self { any: TlsConnector::from(Arc::clone(config)), http1: TlsConnector::from(http1_only(config)) }
    }
}

impl Connectors {
    fn new(config: &Arc<ClientConfig>, certificates: &ClientCertificates) -> Self {
        let presenting = certificates.configs(config).map(|(to, config)| (to, Offers::new(&config)));
        Self { presenting: presenting.collect(), anonymous: Offers::new(config) }
    }
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wire {
    /// HTTP/1.1 in the clear.
    Plain,
    /// HTTP/2 in the clear, by prior knowledge (RFC 9113 section 3.3): the client's, which began with HTTP/2.
    PlainHttp2,
    /// HTTP/2 or HTTP/1.1 inside TLS, as agreed.
    Tls,
    /// HTTP/1.1 inside TLS: tried first for a WebSocket, since nearly every server takes one this way.
    TlsHttp1,
}

impl Wire {
    /// What to try for a WebSocket if the server doesn't speak the first choice.
    pub(crate) const fn otherwise(self) -> Self {
        match self {
            Self::TlsHttp1 => Self::Tls,
            Self::PlainHttp2 | Self::Plain => Self::Plain,
            Self::Tls => Self::Tls,
        }
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Requests.
    Requests,
    /// A WebSocket: the server must take those.
    WebSocket,
}

/// Why there is no connection.
pub(crate) enum Unopened {
    /// The server doesn't speak the only protocol that was offered (RFC 7301 section 3.2), or takes no
    /// WebSocket on it.
    NotSpoken(Refusal),
    /// Anything else.
    Failed(Refusal),
}

impl From<Refusal> for Unopened {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(refusal)
    }
}

impl From<Unopened> for Refusal {
    fn from(unopened: Unopened) -> Self {
        match unopened {
            Unopened::NotSpoken(refusal) | Unopened::Failed(refusal) => refusal,
        }
    }
}

impl Upstream {
    /// `config` holds the roots and offers HTTP/2 and HTTP/1.1: see [`crate::tls::upstream_config`].
    pub fn new(config: &Arc<ClientConfig>) -> Self {
        let config = Arc::clone(config);
        Self::lazy(ClientCertificates::default(), move || Ok(Arc::clone(&config)))
    }

    /// Loads the configuration at the first handshake, on a thread that may block: a system's roots take
    /// milliseconds to read, and many agents never need them. If that fails, so does the handshake, and the
    /// next one tries again. `certificates` are our client certificates, for servers that demand one.
    pub fn lazy(
        certificates: ClientCertificates,
        load: impl Fn() -> Result<Arc<ClientConfig>, UpstreamError> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Shared { made: OnceCell::new(), load: Box::new(load), certificates }))
    }

    async fn connectors(&self) -> io::Result<&Connectors> {
        let load = || async {
            let shared = Arc::clone(&self.0);
            let loaded = tokio::task::spawn_blocking(move || (shared.load)()).await;
            match loaded.map_err(io::Error::other)? {
                Ok(config) => Ok(Connectors::new(&config, &self.0.certificates)),
                Err(error) => {
                    tracing::error!(%error, "no upstream can be verified");
                    Err(io::Error::other(error))
                }
            }
        };
        self.0.made.get_or_try_init(load).await
    }

    /// A TLS handshake with `to`, verified; offers HTTP/2 unless `http1_only`.
    ///
    /// # Errors
    /// That the handshake failed or took longer than [`TLS_HANDSHAKE`].
    pub async fn tls(
        &self,
        stream: TcpStream,
        to: &Destination,
        http1_only: bool,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = match &to.host {
            Host::Name(name) => ServerName::try_from(name.as_str().to_owned()).map_err(io::Error::other)?,
            Host::Addr(addr) => ServerName::from(*addr),
        };
        let connectors = self.connectors().await?;
        let offers = connectors.presenting.get(to).unwrap_or(&connectors.anonymous);
        let connector = if http1_only { &offers.http1 } else { &offers.any };
        match tokio::time::timeout(TLS_HANDSHAKE, connector.connect(name, stream)).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Makes a connection ready for requests.
    pub(crate) async fn open(
        &self,
        dialled: Dialled,
        to: &Destination,
        wire: Wire,
        purpose: Purpose,
    ) -> Result<Sender, Unopened> {
        let Dialled { stream, reached, way } = dialled;
        let carried = Carried { reached, way, purpose };
        match wire {
            Wire::Plain => return Ok(Sender::http1(stream, carried, Fault::default()).await?),
            Wire::PlainHttp2 => return Ok(Sender::http2(stream, carried, Fault::default()).await?),
            Wire::Tls | Wire::TlsHttp1 => {}
        }
        let stream =
            self.tls(stream, to, wire == Wire::TlsHttp1).await.map_err(|error| unopened(&to.host, &error))?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let (stream, fault) = Noting::new(stream, to.host.to_string());
        Ok(match http2 {
            true => Sender::http2(stream, carried, fault).await?,
            false => Sender::http1(stream, carried, fault).await?,
        })
    }
}

fn unopened(host: &Host, error: &io::Error) -> Unopened {
    if error.kind() == io::ErrorKind::TimedOut {
        return Refusal::Timeout(format!("{host}: the TLS handshake took too long")).into();
    }
    let refusal = Refusal::Unreachable(match tls::explain(error) {
        Some(why) => format!("{host}: {why}"),
        None => format!("{host}: the TLS handshake failed: {error}"),
    });
    let alert = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match alert {
        Some(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)) => {
            Unopened::NotSpoken(refusal)
        }
        _ => refusal.into(),
    }
}

/// What goes along with a stream that HTTP is spoken on.
struct Carried {
    reached: Reached,
    way: UpstreamSlot,
    purpose: Purpose,
}

/// A connection that takes requests.
pub(crate) struct Sender {
    speaks: Speaks,
    driver: Arc<Driver>,
    /// Its reference count is the number of handles on the connection.
    handles: Arc<()>,
    reached: Reached,
    fault: Fault,
    /// Turns true if the server takes WebSockets on HTTP/2, and closes if it doesn't. `None` if that is not
    /// looked for.
    websockets: Option<watch::Receiver<bool>>,
}

enum Speaks {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Watched<Body>>, Watch),
}

/// A request that was not answered.
pub(crate) enum Unanswered {
    /// Not a byte of it was sent.
    Unsent(Box<Request<Body>>),
    /// Its server says that it has not looked at it, so that it may be sent again (RFC 9113 section 8.7).
    Untouched,
    /// What became of the request isn't known.
    Lost(hyper::Error),
}

impl Sender {
    async fn http1<T>(stream: T, carried: Carried, fault: Fault) -> Result<Self, Refusal>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(carried.way.sizes().buffer)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Refusal::Unreachable(error.to_string()))?;
        let Carried { reached, way, .. } = carried;
        let driver = Arc::new(Driver::http1(connection, way));
        let handles = Arc::default();
        Ok(Self { speaks: Speaks::Http1(sender), driver, handles, reached, fault, websockets: None })
    }

    async fn http2<T>(stream: T, carried: Carried, fault: Fault) -> Result<Self, Refusal>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Carried { reached, way, purpose } = carried;
        let sizes = way.sizes();
        let (stream, leash) = Leashed::new(stream, way);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(sizes.stream_window)
            .initial_connection_window_size(sizes.connection_window)
            .max_send_buf_size(sizes.send)
            .max_header_list_size(MAX_RESPONSE_HEAD_BYTES as u32)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Refusal::Unreachable(error.to_string()))?;
        let (tell, told) = match purpose {
            Purpose::WebSocket => Some(watch::channel(false)).unzip(),
            Purpose::Requests => (None, None),
        };
        let uploads = Watch::default();
        let driver = Arc::new(Driver::http2(connection, leash, tell, uploads.clone()));
        let speaks = Speaks::Http2(sender, uploads);
        Ok(Self { speaks, driver, handles: Arc::default(), reached, fault, websockets: told })
    }

    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.speaks, Speaks::Http2(..))
    }

    pub(crate) fn reached(&self) -> Reached {
        self.reached
    }

    /// What went wrong inside TLS, if that is what ended the connection.
    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.words()
    }

    /// Whether it takes a WebSocket: over HTTP/2 where the server says so in its first frame (RFC 8441
    /// section 3).
    pub(crate) async fn takes_websockets(&self) -> bool {
        match (&self.speaks, &self.websockets) {
            (Speaks::Http1(_), _) => true,
            (Speaks::Http2(..), Some(told)) => told.clone().wait_for(|takes| *takes).await.is_ok(),
            // Opened for requests, so this was not looked for.
            (Speaks::Http2(..), None) => false,
        }
    }

    /// Keeps the connection's task alive while an answer is still being read.
    pub(crate) fn driver(&self) -> Arc<Driver> {
        Arc::clone(&self.driver)
    }

    /// Another handle on the same HTTP/2 connection.
    pub(crate) fn another(&self) -> Option<Self> {
        match &self.speaks {
            Speaks::Http2(sender, uploads) => Some(Self {
                speaks: Speaks::Http2(sender.clone(), uploads.clone()),
                driver: Arc::clone(&self.driver),
                handles: Arc::clone(&self.handles),
                reached: self.reached,
                fault: self.fault.clone(),
                websockets: self.websockets.clone(),
            }),
            Speaks::Http1(_) => None,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        match &self.speaks {
            Speaks::Http1(sender) => sender.is_closed(),
            Speaks::Http2(sender, _) => sender.is_closed(),
        }
    }

    /// Whether the server has been silent for so long that the path to it may be dead, which nothing would
    /// report. Such a connection gets no further request, whatever is still under way on it.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.driver.silent_for().is_some_and(|silent| silent >= UPSTREAM_IDLE)
    }

    /// Number of other handles on the connection. Each belongs to one request until its answer is over.
    pub(crate) fn riders(&self) -> usize {
        Arc::strong_count(&self.handles).saturating_sub(1)
    }

    /// Whether the server takes one more request beside those of the other handles, as far as it has said. A
    /// request beyond that waits for one of them.
    pub(crate) fn has_room(&self) -> bool {
        self.riders() < self.driver.most()
    }

    /// Resolves when a request can be taken; an error when the connection is done.
    pub(crate) async fn ready(&mut self) -> Result<(), hyper::Error> {
        match &mut self.speaks {
            Speaks::Http1(sender) => sender.ready().await,
            Speaks::Http2(sender, _) => sender.ready().await,
        }
    }

    /// Sends one request, once, and waits for the head of its answer.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, Unanswered> {
        match &mut self.speaks {
            Speaks::Http1(sender) => {
                sender.try_send_request(request).await.map_err(|error| unanswered(error, |body| body))
            }
            Speaks::Http2(sender, uploads) => {
                let sent = sender.try_send_request(request.map(|body| uploads.over(body))).await;
                sent.map_err(|error| unanswered(error, Watched::unasked))
            }
        }
    }
}

fn unanswered<B>(mut error: TrySendError<Request<B>>, body: impl FnOnce(B) -> Body) -> Unanswered {
    if let Some(request) = error.take_message() {
        return Unanswered::Unsent(Box::new(request.map(body)));
    }
    let error = error.into_error();
    let stream = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
    // A GOAWAY fails those streams alone that came after the last one that the server looked at.
    let is_untouched = |stream: &h2::Error| {
        let is_refused = stream.is_reset() && stream.reason() == Some(h2::Reason::REFUSED_STREAM);
        stream.is_remote() && (stream.is_go_away() || is_refused)
    };
    if stream.is_some_and(is_untouched) { Unanswered::Untouched } else { Unanswered::Lost(error) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustls::HandshakeKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::tls::{Alpn, Authority, upstream_config_with_roots};

    #[tokio::test]
    async fn roots_are_read_once_and_one_that_fails_is_tried_again() {
        static LOADS: AtomicU32 = AtomicU32::new(0);
        let upstream =
            Upstream::lazy(ClientCertificates::default(), || match LOADS.fetch_add(1, Ordering::SeqCst) {
                0 => Err(UpstreamError::NamedRoots { variables: "V".into(), why: "gone".into() }),
                _ => upstream_config_with_roots(Vec::new()),
            });
        let error = upstream.connectors().await.err().unwrap();
        assert!(error.to_string().contains("gone"), "{error}");
        let shared = upstream.clone();
        assert!(upstream.connectors().await.is_ok() && shared.connectors().await.is_ok());
        assert_eq!(LOADS.load(Ordering::SeqCst), 2);
    }

    /// Two connections to one server: what the second handshake was.
    async fn second(
        upstream: &Upstream,
        server: Arc<rustls::ServerConfig>,
        second: (&str, bool),
    ) -> HandshakeKind {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream =
                    tokio_rustls::TlsAcceptor::from(Arc::clone(&server)).accept(stream).await.unwrap();
                stream.write_all(b"x").await.unwrap();
                let _ = stream.read(&mut [0]).await;
            }
        });
        let mut kind = None;
        for (host, http1_only) in [("up.test", false), second] {
            let to = Destination { host: Host::parse(host).unwrap(), port: 443 };
            let stream = TcpStream::connect(address).await.unwrap();
            let mut stream = upstream.tls(stream, &to, http1_only).await.unwrap();
            // Reading takes in the ticket that follows the handshake.
            stream.read_exact(&mut [0]).await.unwrap();
            kind = stream.get_ref().1.handshake_kind();
        }
        kind.unwrap()
    }

    #[tokio::test]
    async fn a_second_connection_resumes_and_never_with_another_host_or_certificate() {
        let world = Authority::generate().unwrap();
        let server =
            |host: &str| world.server_config_for(&Host::parse(host).unwrap(), Alpn::H2OrHttp1).unwrap();
        let config = upstream_config_with_roots(vec![world.certificate().clone()]).unwrap();
        let plain = Upstream::new(&config);
        assert_eq!(second(&plain, server("up.test"), ("up.test", false)).await, HandshakeKind::Resumed);
        // A WebSocket's connection is another offer, and the same session.
        let plain = Upstream::new(&config);
        assert_eq!(second(&plain, server("up.test"), ("up.test", true)).await, HandshakeKind::Resumed);
        // The session of one that showed our certificate is not that of one that didn't, though the host is
        // the same.
        let key = rcgen::KeyPair::generate().unwrap();
        let chain =
            rcgen::CertificateParams::new(vec!["us".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let mut ours = ClientCertificates::default();
        let to = Destination { host: Host::parse("up.test").unwrap(), port: 443 };
        ours.add(to.clone(), &chain, &redactor::Secret::from(key.serialize_pem())).unwrap();
        let both = Upstream::lazy(ours, move || Ok(Arc::clone(&config)));
        assert_eq!(second(&both, server("up.test"), ("up.test", false)).await, HandshakeKind::Resumed);
        let made = both.connectors().await.unwrap();
        let (with, without) = (made.presenting[&to].any.config(), made.anonymous.any.config());
        assert!(with.client_auth_cert_resolver.has_certs() && !without.client_auth_cert_resolver.has_certs());
        let elsewhere = Destination { port: 8443, ..to };
        assert!(!made.presenting.contains_key(&elsewhere));
    }
}
