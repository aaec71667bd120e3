//! Listeners, TLS and the HTTP engine: the one path from a connection to a site.
//!
//! Every listener sits on the wildcard address: the world's ranges are local, so a connection to any of its
//! addresses arrives here, and the site is found by the name the client used, as on a shared web server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::LazyConfigAcceptor;

use crate::authority::Authority;
use crate::corporate;
use crate::names;
use crate::provider::{self, Provider};
use crate::raw;
use crate::recorder::{Recorder, Seen};
use crate::sites;

/// A response body of any site.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// What every connection needs.
#[derive(Debug)]
pub struct Shared {
    /// Certificates.
    pub authority: Arc<Authority>,
    /// Where requests are noted.
    pub recorder: Recorder,
    /// The model provider.
    pub provider: Arc<Provider>,
    /// Where the git server's repository is made on first use.
    pub git_dir: PathBuf,
}

/// How a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// Port 443.
    Tls,
    /// Ports 80 and 8080.
    Plain,
    /// The provider's own port, whatever the name used.
    Provider,
    /// [`sites::redis::PORT`].
    Redis,
    /// [`sites::ssh::PORT`].
    Ssh,
    /// [`raw::PLAIN_PORT`] and [`raw::TLS_PORT`]: bytes are recorded, not judged.
    Raw {
        /// Whether TLS ends here first.
        tls: bool,
    },
}

/// What is known of a connection.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    door: Door,
    /// It comes from the corporate proxy.
    proxied: bool,
    /// Its client showed a certificate.
    certified: bool,
}

/// Binds every listener, then serves each on a task of its own.
pub async fn start(shared: Shared) -> Result<()> {
    let shared = Arc::new(shared);
    for (port, door) in [
        (443, Door::Tls),
        (8443, Door::Tls),
        (80, Door::Plain),
        (8080, Door::Plain),
        (provider::PORT, Door::Provider),
        (sites::redis::PORT, Door::Redis),
        (sites::ssh::PORT, Door::Ssh),
        (raw::PLAIN_PORT, Door::Raw { tls: false }),
        (raw::TLS_PORT, Door::Raw { tls: true }),
    ] {
        let listener = listen(port).await?;
        let shared = Arc::clone(&shared);
        tokio::spawn(async move { accept(listener, door, shared).await });
    }
    for kind in corporate::Kind::ALL {
        let listener = listen(kind.port()).await?;
        let recorder = shared.recorder.clone();
        tokio::spawn(corporate::serve(listener, *kind, recorder));
    }
    let dns = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).await.context("binding DNS on 127.0.0.1:53")?;
    let recorder = shared.recorder.clone();
    tokio::spawn(names::serve_dns(dns, move |name| recorder.question(name)));
    Ok(())
}

/// Both families on one listener where IPv6 is there, else IPv4 alone.
async fn listen(port: u16) -> Result<TcpListener> {
    if let Ok(listener) = TcpListener::bind(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)).await {
        return Ok(listener);
    }
    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    TcpListener::bind(any).await.with_context(|| format!("binding port {port}"))
}

async fn accept(listener: TcpListener, door: Door, shared: Arc<Shared>) {
    loop {
        // A client that is gone before it is accepted is no reason to stop.
        let Ok((stream, from)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let arrival = Arrival { door, proxied: from.ip().to_canonical() == names::PROXY, certified: false };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // Clients that hang up, refuse the certificate or send nonsense are part of what is tested.
            let _ = match door {
                Door::Tls => serve_tls(stream, arrival, shared).await,
                Door::Plain | Door::Provider => serve(stream, arrival, shared).await,
                Door::Redis => sites::redis::serve(stream).await,
                Door::Ssh => sites::ssh::serve(stream).await,
                Door::Raw { tls: false } => raw::serve(stream, &shared.recorder).await,
                Door::Raw { tls: true } => serve_raw_tls(stream, &shared).await,
            };
        });
    }
}

/// Reads until the peer is done. If bytes were left unread, the kernel would reset the connection, and the
/// peer could lose a TLS alert that it hasn't read yet.
async fn linger(mut stream: tokio::net::TcpStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let drain = async {
        stream.shutdown().await?;
        while stream.read(&mut [0; 4096]).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _at_most = tokio::time::timeout(std::time::Duration::from_secs(2), drain).await;
}

async fn serve_tls(stream: tokio::net::TcpStream, arrival: Arrival, shared: Arc<Shared>) -> Result<()> {
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    let name = start.client_hello().server_name().map(str::to_owned);
    let stream = match start.into_stream(shared.authority.for_host(name.as_deref())).into_fallible().await {
        Ok(stream) => stream,
        Err((error, stream)) => {
            linger(stream).await;
            return Err(error.into());
        }
    };
    let certified = stream.get_ref().1.peer_certificates().is_some();
    serve(stream, Arrival { certified, ..arrival }, shared).await
}

/// Serves HTTP/1.1 only, so that the proxy has to translate HTTP/2 requests into it, and a smuggled line
/// would show.
async fn serve_raw_tls(stream: tokio::net::TcpStream, shared: &Shared) -> Result<()> {
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    let stream = start.into_stream(shared.authority.for_host(Some(raw::HOST))).await?;
    raw::serve(stream, &shared.recorder).await
}

async fn serve<S>(stream: S, arrival: Arrival, shared: Arc<Shared>) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, std::convert::Infallible>(route(request, arrival, &shared).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // RFC 8441: WebSockets over HTTP/2.
    builder.http2().enable_connect_protocol();
    builder
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await
        .map_err(|e| anyhow::anyhow!("serving: {e}"))
}

async fn route(request: Request<Incoming>, arrival: Arrival, shared: &Shared) -> Response<Body> {
    let head = request.method() == http::Method::HEAD;
    let response = site(request, arrival, shared).await;
    // Over HTTP/2 the library sends whatever body it is given.
    if !head && !matches!(response.status().as_u16(), 204 | 304) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact().filter(|_| head) {
        parts.headers.entry(http::header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    Response::from_parts(parts, whole(""))
}

async fn site(request: Request<Incoming>, arrival: Arrival, shared: &Shared) -> Response<Body> {
    let host = host_of(&request);
    let number = shared.recorder.request(seen(&request, &host, arrival));
    let visit = sites::Visit { host: &host, number, recorder: &shared.recorder };
    match host.as_str() {
        _ if arrival.door == Door::Provider => {
            provider::http::answer(request, &visit, &shared.provider).await
        }
        "llm.bed.test" => provider::http::answer(request, &visit, &shared.provider).await,
        "git.bed.test" => sites::git::answer(request, &visit, &shared.git_dir).await,
        "pypi.bed.test" => sites::packages::pypi(&request),
        "npm.bed.test" => sites::packages::npm(&request),
        "crates.bed.test" => sites::crates::answer(&request),
        "deb.bed.test" => sites::deb::answer(&request),
        "grpc.bed.test" => sites::grpc::answer(request, &visit).await,
        _ => sites::web::answer(request, &visit).await,
    }
}

fn host_of(request: &Request<Incoming>) -> String {
    let authority = request
        .uri()
        .authority()
        .map(|a| a.as_str())
        .or_else(|| request.headers().get(http::header::HOST).and_then(|v| v.to_str().ok()))
        .unwrap_or_default();
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host.to_ascii_lowercase()
}

fn seen(request: &Request<Incoming>, host: &str, arrival: Arrival) -> Seen {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Seen {
        number: 0,
        host: host.to_owned(),
        method: request.method().to_string(),
        target: request.uri().path_and_query().map_or_else(String::new, ToString::to_string),
        version: format!("{:?}", request.version()),
        tls: arrival.door == Door::Tls,
        proxied: arrival.proxied,
        certified: arrival.certified,
        headers: request.headers().iter().map(|(n, v)| (n.to_string(), text(v))).collect(),
        body: Vec::new(),
    }
}

/// A body held whole.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A response with a body held whole.
pub(crate) fn respond(code: u16, kind: &str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(whole(bytes));
    *response.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(kind) = http::HeaderValue::from_str(kind) {
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    }
    response
}

/// A JSON response.
pub(crate) fn json(code: u16, value: &serde_json::Value) -> Response<Body> {
    respond(code, "application/json", value.to_string())
}
