//! A case: bytes on one of the roads, and the expected result. `main` judges the results.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bed::raw::{HOST, PLAIN_PORT, TLS_PORT};
use serde_json::{Value, json};

/// Where the explicit proxy listens inside.
pub const PROXY: (&str, u16) = ("127.0.0.1", 3128);

/// How a request travels. A request that is refused on one road must be refused on every road.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    /// Absolute form to the explicit proxy.
    Plain,
    /// Plain HTTP inside CONNECT.
    Tunnel,
    /// TLS inside CONNECT.
    Tls,
    /// Plain HTTP by a client that knows no proxy.
    Captured,
    /// TLS by a client that knows no proxy.
    CapturedTls,
}

impl Road {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Plain, Self::Tunnel, Self::Tls, Self::Captured, Self::CapturedTls];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tunnel => "tunnel",
            Self::Tls => "tls",
            Self::Captured => "captured",
            Self::CapturedTls => "captured tls",
        }
    }

    fn tls(self) -> bool {
        matches!(self, Self::Tls | Self::CapturedTls)
    }

    fn port(self) -> u16 {
        if self.tls() { TLS_PORT } else { PLAIN_PORT }
    }

    fn dial(self) -> (String, u16) {
        match self {
            Self::Captured | Self::CapturedTls => (HOST.to_owned(), self.port()),
            _ => proxy(),
        }
    }
}

/// The expected result of a case. In every case, no request for `/secret/…` may arrive.
#[derive(Debug, Clone)]
pub enum Expect {
    /// The answer has one of these statuses, and not a byte of the request arrives.
    Refused(&'static [u16]),
    /// The connection ends without success, and not a byte of the request arrives.
    Silent,
    /// The beginning may arrive, since it was well-formed and allowed; what came after the fault doesn't.
    Cut,
    /// The request arrives, with the bytes `has` and without `hasnt`, in as many byte streams as the case has
    /// answers.
    Arrives {
        /// What the server must have been sent.
        has: Vec<String>,
        /// What it mustn't.
        hasnt: Vec<String>,
    },
}

/// One step of the client, see `client.py`.
#[derive(Debug, Clone)]
pub enum Step {
    /// These bytes.
    Send(Vec<u8>),
    /// Read until this has come.
    Await(&'static str),
    /// TLS from here, with this name and these protocols.
    Tls(&'static str, &'static [&'static str]),
    /// The same again and again.
    Many(Vec<u8>, u32),
    /// What comes from here on is HTTP/2: read until the first stream or the connection has ended.
    Frames,
}

/// One case. `{M}` in its bytes becomes a word of its own, by which what arrived is found.
#[derive(Debug, Clone)]
pub struct Case {
    /// `road/what`.
    pub name: String,
    /// Where the client connects.
    pub dial: (String, u16),
    /// What it does.
    pub steps: Vec<Step>,
    /// How many answers it waits for; 0: until the connection ends.
    pub answers: usize,
    /// What must come of it.
    pub expect: Expect,
}

impl Case {
    /// A message on a road: `{U}` is what stands before a target's path there, `{H}` the host and port.
    pub fn message(road: Road, name: &str, text: impl AsRef<[u8]>, expect: Expect) -> Self {
        let authority = format!("{HOST}:{}", road.port());
        let before = if road == Road::Plain { format!("http://{authority}") } else { String::new() };
        let text = fill(text.as_ref(), "{U}", &before);
        let text = fill(&text, "{H}", &authority);
        let mut steps = Vec::new();
        if matches!(road, Road::Tunnel | Road::Tls) {
            steps.extend(connect(&authority));
        }
        if road.tls() {
            steps.push(Step::Tls(HOST, &["http/1.1"]));
        }
        steps.push(Step::Send(text));
        let answers = usize::from(matches!(expect, Expect::Arrives { .. }));
        Self { name: format!("{}/{name}", road.name()), dial: road.dial(), steps, answers, expect }
    }

    /// Steps towards the proxy.
    pub fn steps(name: &str, steps: Vec<Step>, answers: usize, expect: Expect) -> Self {
        Self { name: name.to_owned(), dial: proxy(), steps, answers, expect }
    }

    /// Makes the case wait for this many answers.
    pub fn answers(mut self, answers: usize) -> Self {
        self.answers = answers;
        self
    }

    /// The case as a line for `client.py`, with its own word in place of `{M}`.
    pub fn line(&self, word: &str) -> Value {
        let encoded = |bytes: &[u8]| STANDARD.encode(fill(bytes, "{M}", word));
        let steps: Vec<Value> = self
            .steps
            .iter()
            .map(|step| match step {
                Step::Send(bytes) => json!({ "send": encoded(bytes) }),
                Step::Await(text) => json!({ "await": text }),
                Step::Tls(name, protocols) => json!({ "tls": name, "alpn": protocols }),
                Step::Many(bytes, times) => json!({ "many": encoded(bytes), "times": times }),
                Step::Frames => json!({ "frames": true }),
            })
            .collect();
        json!({ "id": word, "dial": self.dial, "steps": steps, "answers": self.answers })
    }
}

fn proxy() -> (String, u16) {
    (PROXY.0.to_owned(), PROXY.1)
}

/// CONNECT, and its 200.
pub fn connect(authority: &str) -> Vec<Step> {
    let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    vec![Step::Send(head.into_bytes()), Step::Await("HTTP/1.1 200")]
}

/// Replaces in bytes that need not be text.
fn fill(bytes: &[u8], what: &str, by: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(what.len()).position(|window| window == what.as_bytes()) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(by.as_bytes());
        rest = &rest[at + what.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// A request head that is well-formed and allowed, with more fields.
pub fn get(path: &str, fields: &str) -> String {
    format!("GET {{U}}{path} HTTP/1.1\r\nHost: {{H}}\r\n{fields}\r\n")
}

/// The same with a body.
pub fn post(fields: &str, body: &str) -> String {
    format!("POST {{U}}/ok/{{M}} HTTP/1.1\r\nHost: {{H}}\r\n{fields}\r\n\r\n{body}")
}

/// The request that an attack tries to smuggle.
pub fn smuggled() -> String {
    get("/secret/{M}", "")
}

/// The request arrives with these texts in it.
pub fn arrives(has: &[&str]) -> Expect {
    Expect::Arrives { has: has.iter().map(|s| (*s).to_owned()).collect(), hasnt: Vec::new() }
}

/// The request arrives with some texts in it and without others.
pub fn arrives_without(has: &[&str], hasnt: &[&str]) -> Expect {
    Expect::Arrives {
        has: has.iter().map(|s| (*s).to_owned()).collect(),
        hasnt: hasnt.iter().map(|s| (*s).to_owned()).collect(),
    }
}

/// The head is no HTTP that we take.
pub const BAD: Expect = Expect::Refused(&[400]);
/// It is refused by policy.
pub const DENIED: Expect = Expect::Refused(&[403]);
/// Either status, depending on which check comes first.
pub const BAD_OR_DENIED: Expect = Expect::Refused(&[400, 403]);
