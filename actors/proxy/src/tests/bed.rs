//! The test bed: a proxy with all that it needs, upstreams, and helpers.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use policy::{Caller, Candidate, Denial, DomainName, Executable, Layer, Party, Store};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use uuid::Uuid;

use crate::answer::{Known, Refusal};
use crate::approval::{Approvals, Operator};
use crate::body::{Body, full};
use crate::caller::Unjudged;
use crate::conn::{Deps, LocalService};
use crate::credentials::Credentials;
use crate::guard::{Lookup, LookupError, OwnAddresses, Resolver};
use crate::listen::{Kind, accept};
use crate::outcome::{Decision, Finished, Journal, JournalFull, Verdict};
use crate::tls::{Alpn, Authority, upstream_config_with_roots};
use crate::{Identify, Tracker, Upstream};

/// Long enough that only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The one program that policies of these tests name.
pub const AGENT: &str = "/usr/bin/agent";

pub struct Bed {
    pub deps: Arc<Deps>,
    pub proxy: SocketAddr,
    pub inference: SocketAddr,
    /// A captured listener: connections to 127.0.0.1 are connections to "some address of the world".
    pub captured: SocketAddr,
    pub inference_tls: SocketAddr,
    pub journal: Arc<Recorded>,
    pub who: Arc<Who>,
    pub world: Arc<Authority>,
    accepting: Vec<JoinHandle<()>>,
}

impl Bed {
    /// A proxy under the `endpoints` (YAML list items) of one entry for [`AGENT`].
    pub async fn new(endpoints: &str) -> Self {
        Self::with_capacity(endpoints, 64).await
    }

    pub async fn with_capacity(endpoints: &str, capacity: usize) -> Self {
        Self::with(endpoints, capacity, Credentials::default()).await
    }

    pub async fn with(endpoints: &str, capacity: usize, credentials: Credentials) -> Self {
        Self::made(endpoints, capacity, credentials, None).await
    }

    /// A proxy that asks about what no entry names.
    pub async fn asking(endpoints: &str, operator: Arc<dyn Operator>) -> Self {
        Self::made(endpoints, 64, Credentials::default(), Some(operator)).await
    }

    async fn made(
        endpoints: &str,
        capacity: usize,
        credentials: Credentials,
        operator: Option<Arc<dyn Operator>>,
    ) -> Self {
        let store = Store::new(candidate(endpoints));
        let world = Arc::new(Authority::generate().unwrap());
        let resolver =
            Resolver::new(Arc::new(Table), OwnAddresses::fixed([])).permitting_loopback_for_tests();
        let journal = Arc::new(Recorded::default());
        let who = Arc::new(Who::default());
        let config = upstream_config_with_roots(vec![world.certificate().clone()]).unwrap();
        let deps = Arc::new(Deps {
            tracker: Tracker::new(store.clone(), resolver.clone(), capacity),
            policy: store,
            identify: Arc::clone(&who) as Arc<dyn Identify>,
            resolver,
            routes: crate::route::Routes::default(),
            names: Arc::default(),
            authority: Arc::new(Authority::generate().unwrap()),
            upstream: Upstream::new(&config),
            shelf: crate::shelf::Shelf::default(),
            journal: Arc::clone(&journal) as Arc<dyn Journal>,
            local: Arc::new(Local),
            credentials: Arc::new(credentials),
            guesses: redactor::Guesses::default(),
            approvals: Approvals::new(operator),
        });
        let mut accepting = Vec::new();
        let mut listen = |kind| {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            let listener = crate::Listener { kind, socket: Arc::new(socket) }.open().unwrap();
            accepting.push(tokio::spawn(accept(Arc::clone(&deps), listener, kind)));
            address
        };
        Self {
            proxy: listen(Kind::Explicit),
            captured: listen(Kind::Captured { port: 0 }),
            inference: listen(Kind::Inference { tls: false }),
            inference_tls: listen(Kind::Inference { tls: true }),
            journal,
            who,
            world,
            accepting,
            deps,
        }
    }

    pub fn reload(&self, endpoints: &str) {
        self.deps.policy.publish(candidate(endpoints));
    }

    /// Ends the accept tasks, as the actor's death does.
    pub fn stop_accepting(&mut self) {
        self.accepting.drain(..).for_each(|task| task.abort());
    }

    pub async fn open(&self) -> TcpStream {
        TcpStream::connect(self.proxy).await.unwrap()
    }

    /// Sends bytes and reads until the proxy closes.
    pub async fn talk(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.open().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
        read_to_close(&mut stream).await
    }

    /// CONNECT; the stream comes back after the answer's head, which is the first part.
    pub async fn connect(&self, target: &str) -> (String, TcpStream) {
        let mut stream = self.open().await;
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        (read_head(&mut stream).await, stream)
    }

    /// CONNECT and a TLS handshake with the sandbox's authority.
    pub async fn tls(&self, target: &str, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
        let (head, stream) = self.connect(target).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let name = target.rsplit_once(':').unwrap().0;
        self.handshake(stream, name, alpn).await.unwrap()
    }

    pub async fn handshake(
        &self,
        stream: TcpStream,
        name: &str,
        alpn: &[&[u8]],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let roots = vec![self.deps.authority.certificate().clone()];
        let mut config = (*upstream_config_with_roots(roots).unwrap()).clone();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// A TLS configuration for an upstream named `host`, that the proxy trusts.
    pub fn upstream_tls(&self, host: &str, alpn: Alpn) -> Arc<rustls::ServerConfig> {
        self.world.server_config_for(&policy::Host::parse(host).unwrap(), alpn).unwrap()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop_accepting();
    }
}

fn candidate(endpoints: &str) -> Candidate {
    let items: String = endpoints.lines().map(|line| format!("      {line}\n")).collect();
    let text = format!(
        "version: 1\nnetwork_policies:\n  test:\n    name: test\n    endpoints:\n{items}    binaries: [ {{ path: {AGENT} }} ]\n"
    );
    Candidate::new("test.yaml", &text, &[]).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// An endpoint whose requests are judged.
pub fn rest(host: &str, port: u16) -> String {
    format!(
        "- {{ host: {host}, port: {port}, protocol: rest, rules: [ {{ allow: {{ method: GET, path: \"/ok/**\" }} }}, {{ allow: {{ method: POST, path: \"/ok/**\" }} }} ] }}"
    )
}

/// An endpoint that takes WebSockets.
pub fn ws(host: &str, port: u16) -> String {
    let rules: Vec<_> = ["GET", "WEBSOCKET_TEXT"]
        .map(|method| format!("{{ allow: {{ method: {method}, path: \"/ok/**\" }} }}"))
        .into();
    format!("- {{ host: {host}, port: {port}, protocol: websocket, rules: [ {} ] }}", rules.join(", "))
}

/// An endpoint whose bytes are relayed.
pub fn l4(host: &str, port: u16) -> String {
    format!("- {{ host: {host}, port: {port} }}")
}

pub async fn read_to_close<T: AsyncRead + Unpin>(stream: &mut T) -> String {
    let mut out = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        // A reset after the answer is an end too.
        match tokio::time::timeout(PATIENCE, stream.read(&mut chunk)).await.expect("the proxy closes") {
            Ok(read) if read > 0 => out.extend_from_slice(&chunk[..read]),
            _ => return String::from_utf8_lossy(&out).into_owned(),
        }
    }
}

pub async fn read_head<T: AsyncRead + Unpin>(stream: &mut T) -> String {
    let mut out = Vec::new();
    while !out.ends_with(b"\r\n\r\n") {
        match tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("an answer comes") {
            Ok(byte) => out.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The JSON of a refusal.
pub fn json(answer: &str) -> serde_json::Value {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// The names that resolve: `*.test` is loopback, the others lead where attackers would like to go.
struct Table;

impl Lookup for Table {
    fn addresses<'a>(&'a self, name: &'a DomainName) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
        Box::pin(async move {
            let table = HashMap::from([
                ("metadata.evil", "169.254.169.254"),
                ("private.evil", "10.1.2.3"),
                ("multicast.evil", "224.0.0.1"),
            ]);
            match table.get(name.as_str()) {
                Some(address) => Ok(vec![address.parse().unwrap()]),
                None if name.as_str().ends_with(".test") => Ok(vec![IpAddr::from([127, 0, 0, 1])]),
                None => Err(LookupError::NotFound),
            }
        })
    }
}

/// The identity that is given to every caller.
pub struct Who {
    pub path: Mutex<&'static str>,
    pub unknown: AtomicBool,
    /// Whether the holder of a connection can't be found out.
    pub untold: AtomicBool,
    /// Whether the program's parent is seen as well, which makes another identity of the same program.
    pub ancestor: AtomicBool,
    /// Whether the program has code of unknown origin mapped.
    pub foreign: AtomicBool,
    /// Whether identification never ends.
    pub mute: AtomicBool,
    pub asked: AtomicUsize,
    /// How often it was asked whether a connection is still open.
    pub looked: AtomicUsize,
    /// Number of the party that every connection belongs to.
    pub party: AtomicU64,
}

impl Default for Who {
    fn default() -> Self {
        Self {
            path: Mutex::new(AGENT),
            unknown: AtomicBool::new(false),
            untold: AtomicBool::new(false),
            ancestor: AtomicBool::new(false),
            foreign: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            looked: AtomicUsize::new(0),
            party: AtomicU64::new(0),
        }
    }
}

impl Identify for Who {
    fn identify(
        &self,
        _: SocketAddr,
        _: SocketAddr,
        _: crate::identity::Look,
    ) -> BoxFuture<'_, Result<Caller, Unjudged>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            if self.mute.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            if self.untold.load(Ordering::Relaxed) {
                let detail = "no holder".to_owned();
                let denial = Denial { layer: Layer::Identity, detail, policy: None, hint: None };
                return Err(Unjudged::Untold(denial));
            }
            if self.unknown.load(Ordering::Relaxed) {
                let detail = "several holders".to_owned();
                let denial = Denial { layer: Layer::Identity, detail, policy: None, hint: None };
                return Err(Unjudged::Another(denial));
            }
            let path = *self.path.lock().unwrap();
            let parent = Executable { path: "/usr/bin/parent".into(), sha256: [8; 32] };
            let ancestors = self.ancestor.load(Ordering::Relaxed).then_some(parent);
            Ok(Caller {
                foreign_code: self.foreign.load(Ordering::Relaxed),
                party: Party(self.party.load(Ordering::Relaxed)),
                executable: Executable { path: path.into(), sha256: [7; 32] },
                ancestors: ancestors.into_iter().collect(),
            })
        })
    }

    /// Looks at the real sockets on the loopback.
    fn is_open(&self, client: SocketAddr, local: SocketAddr) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let open = crate::identity::diag_for_tests().inode(client, local).await.unwrap().is_some();
            self.looked.fetch_add(1, Ordering::Relaxed);
            open
        })
    }

    fn notes_makers(&self) -> bool {
        true
    }
}

/// What was recorded, in order: `allow l7 GET /path`, `deny l4 …`, `end 200`.
#[derive(Default)]
pub struct Recorded {
    pub lines: Mutex<Vec<String>>,
    /// Program, policy entry and generation of each refusal, in order.
    refused: Mutex<Vec<String>>,
    names: Mutex<Vec<String>>,
    /// Names of the credentials that were sent, in order.
    pub carried: Mutex<Vec<String>>,
    /// How long what was decided last had been held for the operator.
    pub held: Mutex<Duration>,
    pub full: AtomicBool,
}

impl Recorded {
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    pub fn refused(&self) -> Vec<String> {
        self.refused.lock().unwrap().clone()
    }

    pub fn names(&self) -> Vec<String> {
        self.names.lock().unwrap().clone()
    }
}

impl Journal for Recorded {
    fn has_room(&self) -> bool {
        !self.full.load(Ordering::Relaxed)
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn decided(&self, decision: &Decision<'_>) -> Result<(), JournalFull> {
        if self.full.load(Ordering::Relaxed) {
            return Err(JournalFull::Queue);
        }
        self.carried.lock().unwrap().extend(decision.known.credentials.iter().map(ToString::to_string));
        let verdict = match decision.verdict {
            Verdict::Allow { layer, .. } => format!("allow {layer}"),
            Verdict::Ask => "ask".to_owned(),
            Verdict::Deny(Refusal::Denied(denial)) => format!("deny {}", denial.layer),
            Verdict::Deny(refusal) => format!("deny {}", refusal.code()),
        };
        let known = decision.known;
        *self.held.lock().unwrap() = known.held;
        if let Verdict::Deny(refusal) = decision.verdict {
            let binary = known.binary().map_or("-", |binary| &**binary);
            let policy = refusal.policy(known).unwrap_or("-");
            let facts = format!("{binary} {policy} {}", known.generation.unwrap_or_default());
            self.refused.lock().unwrap().push(facts);
        }
        let line = format!(
            "{verdict} {} {}",
            known.method.as_deref().unwrap_or("-"),
            known.path.as_deref().unwrap_or("-")
        );
        self.lines.lock().unwrap().push(line);
        Ok(())
    }

    fn name_refused(&self, name: &str, _: &str, _: u64) {
        self.names.lock().unwrap().push(name.to_owned());
    }

    fn port_refused(&self, destination: &SocketAddr, _: &str, _: u64) {
        self.lines.lock().unwrap().push(format!("refused {destination}"));
    }

    fn guessed(&self, known: &Known) {
        self.lines.lock().unwrap().push(format!("guessed {}", known.path.as_deref().unwrap_or("-")));
    }

    fn finished(&self, finished: &Finished) {
        let mut line = format!("end {:?} up {} down {}", finished.status, finished.up, finished.down);
        if let Some(fault) = &finished.fault {
            line.push_str(": ");
            line.push_str(fault);
        }
        self.lines.lock().unwrap().push(line);
    }
}

/// A gateway that answers with what it was asked. Its answer to [`ENDLESS`] has no end.
struct Local;

/// See [`Local`].
pub const ENDLESS: &str = "/endless";
/// The path whose answer comes in two large frames.
pub const LARGE: &str = "/large";
/// The path whose answer comes in one large frame, which is the last.
pub const LARGE_WHOLE: &str = "/large/whole";
/// Bytes of a large frame.
pub const LARGE_BYTES: usize = 256 * 1024;
/// The path whose answer is one small frame.
pub const SHORT: &str = "/short";
/// Bytes of the small frame.
pub const SHORT_BYTES: usize = 12 * 1024;

impl LocalService for Local {
    fn serve(&self, request: Request<Body>, caller: Arc<Caller>, _: Uuid) -> BoxFuture<'_, Response<Body>> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            if parts.uri.path() == ENDLESS {
                return Response::new(endless());
            }
            if parts.uri.path() == LARGE {
                let frame = || Ok(http_body::Frame::data(Bytes::from(vec![7; LARGE_BYTES])));
                let frames = futures_util::stream::iter([frame(), frame()]);
                return Response::new(http_body_util::StreamBody::new(frames).boxed_unsync());
            }
            if parts.uri.path() == LARGE_WHOLE {
                return Response::new(full(vec![7; LARGE_BYTES]));
            }
            if parts.uri.path() == SHORT {
                return Response::new(full(vec![7; SHORT_BYTES]));
            }
            let body = body.collect().await.unwrap().to_bytes();
            Response::new(full(format!(
                "local {} {} {} {}",
                parts.method,
                parts.uri,
                caller.executable.path,
                body.len()
            )))
        })
    }
}

/// A body that never ends and is always ready.
pub fn endless() -> Body {
    let frames = std::iter::repeat_with(|| Ok(http_body::Frame::data(Bytes::from_static(&[0; 4096]))));
    http_body_util::StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

/// An upstream that records every byte and answers each head with the same bytes.
pub struct Raw {
    pub port: u16,
    seen: Arc<Mutex<Vec<u8>>>,
    pub connections: Arc<AtomicUsize>,
}

impl Raw {
    pub async fn new(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (sink, count) = (Arc::clone(&seen), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let sink = Arc::clone(&sink);
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    let mut tail = Vec::new();
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        sink.lock().unwrap().extend_from_slice(&buffer[..read]);
                        tail.extend_from_slice(&buffer[..read]);
                        while let Some(at) = tail.windows(4).position(|window| window == b"\r\n\r\n") {
                            tail.drain(..at + 4);
                            if stream.write_all(answer).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Self { port, seen, connections }
    }

    pub async fn ok() -> Self {
        Self::new(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
    }

    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }
}

/// Echoes bytes; for relayed tunnels.
pub async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ended = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    port
}

/// One HTTP exchange by hyper on any stream; the whole body.
pub async fn exchange<T>(stream: T, request: Request<Body>) -> (http::response::Parts, Bytes)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    let (parts, body) = response.into_parts();
    (parts, body.collect().await.unwrap().to_bytes())
}
