//! A provider on loopback that speaks the real protocols, and a gateway in front of it.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use gateway::{
    Body, BoxError, Credentials, Deps, Dial, Dialed, Gateway, Ledger, Protocol, Upstream,
    budgets::{Shelf, Standing},
    config::Inference,
    ledger::{Exchange, Outcome, Unrecorded},
    refusal::Refusal,
    usage::Tokens,
};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{
    BodyExt as _, Full,
    channel::{Channel, Sender},
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use policy::{Caller, Executable};
use redactor::Secret;
use tokio::net::{TcpListener, TcpStream};

/// The operator's key. Long and odd enough that a match is no accident.
pub const KEY: &str = "sk-live/Zk9+QmVyZ0Jhbms-0123456789abcdef";
/// Another provider's.
pub const OTHER_KEY: &str = "sk-other-a41b7c90ff3e55d2Xy";

/// A request as the provider saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    pub version: http::Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub peer: u16,
}

type Answer = Response<Channel<Bytes, BoxError>>;

/// The provider: answers in the order that was scripted.
#[derive(Clone, Default)]
pub struct Provider {
    pub seen: Arc<Mutex<Vec<Seen>>>,
    script: Arc<Mutex<VecDeque<Answer>>>,
    pub port: u16,
}

impl Provider {
    pub async fn start() -> Self {
        Self::taking(None).await
    }

    /// One that takes so many streams on a connection of HTTP/2.
    pub async fn taking(streams: impl Into<Option<u32>>) -> Self {
        let streams = streams.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = Self { port: listener.local_addr().unwrap().port(), ..Self::default() };
        let it = provider.clone();
        tokio::spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let it = it.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| it.clone().answer(request, peer.port()));
                    let io = TokioIo::new(stream);
                    let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    if let Some(streams) = streams {
                        server.http2().max_concurrent_streams(streams);
                    }
                    let _ = server.serve_connection(io, service).await;
                });
            }
        });
        provider
    }

    async fn answer(self, request: Request<Incoming>, peer: u16) -> Result<Answer, Infallible> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let path = parts.uri.path_and_query().unwrap().to_string();
        self.seen.lock().unwrap().push(Seen {
            path,
            version: parts.version,
            headers: parts.headers,
            body,
            peer,
        });
        loop {
            if let Some(answer) = self.script.lock().unwrap().pop_front() {
                return Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Scripts an answer whose body is sent by the test.
    pub fn stream(&self, status: u16, headers: &[(&str, &str)]) -> Sender<Bytes, BoxError> {
        let (sender, body) = Channel::new(64);
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        self.script.lock().unwrap().push_back(response.body(body).unwrap());
        sender
    }

    /// Scripts a whole answer.
    pub async fn whole(&self, status: u16, headers: &[(&str, &str)], body: &str) {
        let mut sender = self.stream(status, headers);
        for piece in body.as_bytes().chunks(2000) {
            sender.send(Frame::data(Bytes::copy_from_slice(piece))).await.unwrap();
        }
    }

    pub fn last(&self) -> Seen {
        self.seen.lock().unwrap().last().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

/// Dials loopback in clear, whatever was asked for.
pub struct Plain {
    pub protocol: Protocol,
    pub dialed: Arc<Mutex<Vec<Upstream>>>,
}

impl Dial for Plain {
    fn dial<'a>(&'a self, upstream: &'a Upstream) -> BoxFuture<'a, io::Result<Dialed>> {
        Box::pin(async move {
            self.dialed.lock().unwrap().push(upstream.clone());
            if &*upstream.host == "blackhole.example" {
                std::future::pending::<()>().await;
            }
            let stream = TcpStream::connect(("127.0.0.1", upstream.port)).await?;
            stream.set_nodelay(true)?;
            Ok(Dialed { io: Box::new(stream), protocol: self.protocol })
        })
    }
}

/// What the ledger was told.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    Admitted { provider: String, route: String },
    Refused { code: &'static str, status: u16, provider: Option<String> },
    Spent { provider: Option<String> },
    FirstByte,
    Guessed,
    PassedOver { provider: String, code: u16 },
    Finished { provider: String, route: String, code: u16, tokens: Tokens, complete: bool },
}

#[derive(Default)]
pub struct Book {
    pub told: Mutex<Vec<Told>>,
    pub standing: Mutex<Vec<Standing>>,
    pub full: std::sync::atomic::AtomicBool,
}

impl Ledger for Book {
    fn admit(&self, exchange: &Exchange) -> Result<(), Unrecorded> {
        if self.full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Unrecorded);
        }
        let (provider, route) = (text(&exchange.provider), text(&exchange.route));
        self.told.lock().unwrap().push(Told::Admitted { provider, route });
        Ok(())
    }
    fn refused(&self, exchange: &Exchange, refusal: &Refusal) {
        if refusal.layer == "budget" {
            let provider = exchange.provider.as_ref().map(ToString::to_string);
            return self.told.lock().unwrap().push(Told::Spent { provider });
        }
        self.told.lock().unwrap().push(Told::Refused {
            code: refusal.code,
            status: refusal.status.as_u16(),
            provider: exchange.provider.as_ref().map(ToString::to_string),
        });
    }
    fn budgets(&self, standing: &[Standing]) {
        *self.standing.lock().unwrap() = standing.to_vec();
    }
    fn guessed(&self, _: &Exchange) {
        self.told.lock().unwrap().push(Told::Guessed);
    }
    fn first_byte(&self, _: &Exchange, _: Duration) {
        self.told.lock().unwrap().push(Told::FirstByte);
    }
    fn finished(&self, exchange: &Exchange, outcome: &Outcome) {
        if outcome.passed_over {
            let passed = Told::PassedOver { provider: text(&exchange.provider), code: outcome.code };
            return self.told.lock().unwrap().push(passed);
        }
        self.told.lock().unwrap().push(Told::Finished {
            provider: text(&exchange.provider),
            route: text(&exchange.route),
            code: outcome.code,
            tokens: outcome.tokens,
            complete: outcome.complete,
        });
    }
}

fn text(word: &Option<smol_str::SmolStr>) -> String {
    word.as_ref().unwrap().to_string()
}

/// A gateway with its book and its dialled hosts.
pub struct House {
    pub gateway: Gateway,
    pub book: Arc<Book>,
    pub dialed: Arc<Mutex<Vec<Upstream>>>,
}

/// A gateway over a section of cofferdam.yaml, written as JSON.
pub fn house(protocol: Protocol, section: &str) -> House {
    house_with(protocol, section, None)
}

/// A provider, and a gateway with [`both`] routes to it.
pub async fn before_both(protocol: Protocol) -> (Provider, House) {
    let provider = Provider::start().await;
    let house = house(protocol, &both(provider.port));
    (provider, house)
}

/// The same, with a place where the counts of budgets are kept.
pub fn house_with(protocol: Protocol, section: &str, shelf: Option<Arc<dyn Shelf>>) -> House {
    let book = Arc::new(Book::default());
    let dialed: Arc<Mutex<Vec<Upstream>>> = Arc::default();
    let deps = Deps {
        dial: Arc::new(Plain { protocol, dialed: dialed.clone() }),
        ledger: book.clone(),
        scrub: Arc::new(|text: &str| text.replace("hunter2hunter2", "[REDACTED:known]")),
        credentials: Credentials::new(
            [("env:KEY", KEY), ("env:OTHER", OTHER_KEY)]
                .map(|(reference, key)| (reference.to_owned(), Secret::from(key))),
        ),
        guesses: redactor::Guesses::default(),
        shelf,
    };
    let gateway = Gateway::new(deps);
    let inference: Inference = serde_json::from_str(section).unwrap();
    gateway.publish(&inference).unwrap();
    House { gateway, book, dialed }
}

/// One OpenAI-shaped and one Anthropic-shaped provider on the same port, with the aliases `small` and
/// `claude-*`.
pub fn both(port: u16) -> String {
    format!(
        r#"{{"providers":{{
            "oai":{{"kind":"openai","base_url":"http://127.0.0.1:{port}/v1","credential":"env:KEY"}},
            "ant":{{"kind":"anthropic","base_url":"http://127.0.0.1:{port}","credential":"env:KEY"}}}},
          "routes":[{{"model":"small","to":[{{"provider":"oai","model":"meta/llama-3.3-70b"}}]}},
                    {{"model":"claude-*","to":[{{"provider":"ant","model":"claude-real"}}],
                      "timeouts":{{"first_byte":"2s","idle":"2s"}}}}]}}"#
    )
}

pub fn caller() -> Caller {
    Caller {
        foreign_code: false,
        party: policy::Party::UNKNOWN,
        executable: Executable { path: "/usr/bin/python3".into(), sha256: [7; 32] },
        ancestors: Arc::from([]),
    }
}

pub fn post(path: &str, body: impl Into<Bytes>) -> Request<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    Request::builder()
        .method("POST")
        .uri(format!("https://inference.local{path}"))
        .header("content-type", "application/json")
        .header("authorization", "Bearer placeholder")
        .header("x-api-key", "placeholder")
        .header("cookie", "a=b")
        .body(body)
        .unwrap()
}

pub fn fetch(path: &str) -> Request<Body> {
    let body = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
    Request::builder().uri(format!("http://inference.local{path}")).body(body).unwrap()
}

impl House {
    pub async fn ask(&self, request: Request<Body>) -> Response<Body> {
        self.gateway.serve(request, caller(), "req-1").await
    }

    /// The same, by a program of this agent's.
    pub async fn ask_as(&self, agent: u64, request: Request<Body>) -> Response<Body> {
        let caller = Caller { party: policy::Party(agent), ..caller() };
        self.gateway.serve(request, caller, "req-1").await
    }

    /// Status, headers, whole body.
    pub async fn whole(&self, request: Request<Body>) -> (u16, HeaderMap, String) {
        let (parts, body) = self.ask(request).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), parts.headers, String::from_utf8(body.into()).unwrap())
    }

    pub fn told(&self) -> Vec<Told> {
        self.book.told.lock().unwrap().clone()
    }
}

/// A port that refuses every connection, and is nobody else's for as long as the socket is held.
pub fn refusing() -> (tokio::net::TcpSocket, u16) {
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = taken.local_addr().unwrap().port();
    (taken, port)
}
