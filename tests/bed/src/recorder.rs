//! What arrived at the world's servers, kept for tests to look at. Bounded, so that a long demo doesn't grow.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Requests kept; the oldest are dropped.
const KEEP: usize = 10_000;
/// Bytes of a body kept.
pub const BODY_MAX: usize = 1 << 20;

/// One request as a server saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its number, counted from 1 over the world's life.
    pub number: u64,
    /// `Host` or `:authority`, without the port.
    pub host: String,
    /// The method.
    pub method: String,
    /// The path and query, byte for byte.
    pub target: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// Whether it came over TLS.
    pub tls: bool,
    /// Whether its connection came from the corporate proxy.
    pub proxied: bool,
    /// Whether its client showed a certificate.
    pub certified: bool,
    /// The headers, in order; values as text, lossily.
    pub headers: Vec<(String, String)>,
    /// The body, where the site read it whole; its first [`BODY_MAX`] bytes.
    pub body: Vec<u8>,
}

impl Seen {
    /// A header's first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

#[derive(Debug, Default)]
struct Kept {
    next: u64,
    requests: VecDeque<Seen>,
    questions: VecDeque<String>,
    streams: VecDeque<Stream>,
    tunnels: VecDeque<Tunnel>,
    over: BTreeSet<String>,
}

/// What the corporate proxy was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// The target of CONNECT.
    pub to: String,
    /// `Proxy-Authorization`.
    pub authorization: Option<String>,
    /// The code of the answer.
    pub code: u16,
}

/// What one connection to the raw servers sent, byte for byte.
#[derive(Debug)]
struct Stream {
    number: u64,
    bytes: Vec<u8>,
}

/// A shared list of what arrived. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<Kept>>);

impl Recorder {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A panic while the lock is held leaves a list that is whole all the same.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a request and returns its number.
    pub(crate) fn request(&self, mut seen: Seen) -> u64 {
        let mut kept = self.kept();
        kept.next += 1;
        seen.number = kept.next;
        if kept.requests.len() == KEEP {
            kept.requests.pop_front();
        }
        kept.requests.push_back(seen);
        kept.next
    }

    /// Adds the body of a request kept before.
    pub(crate) fn body(&self, number: u64, body: &[u8]) {
        if let Some(seen) = self.kept().requests.iter_mut().rev().find(|seen| seen.number == number) {
            seen.body = body.iter().copied().take(BODY_MAX).collect();
        }
    }

    /// Keeps what the corporate proxy was asked for.
    pub(crate) fn tunnel(&self, tunnel: Tunnel) {
        let mut kept = self.kept();
        if kept.tunnels.len() == KEEP {
            kept.tunnels.pop_front();
        }
        kept.tunnels.push_back(tunnel);
    }

    /// What the corporate proxy was asked for, oldest first.
    pub fn tunnels(&self) -> Vec<Tunnel> {
        self.kept().tunnels.iter().cloned().collect()
    }

    /// Keeps a name that DNS was asked for.
    pub(crate) fn question(&self, name: &str) {
        let mut kept = self.kept();
        if kept.questions.len() == KEEP {
            kept.questions.pop_front();
        }
        kept.questions.push_back(name.to_ascii_lowercase());
    }

    /// Opens the record of a raw connection and returns its number.
    pub(crate) fn stream(&self) -> u64 {
        let mut kept = self.kept();
        kept.next += 1;
        if kept.streams.len() == KEEP {
            kept.streams.pop_front();
        }
        let number = kept.next;
        kept.streams.push_back(Stream { number, bytes: Vec::new() });
        number
    }

    /// Adds bytes to a raw connection's record.
    pub(crate) fn streamed(&self, number: u64, bytes: &[u8]) {
        if let Some(stream) = self.kept().streams.iter_mut().rev().find(|stream| stream.number == number) {
            let room = BODY_MAX.saturating_sub(stream.bytes.len());
            stream.bytes.extend(bytes.iter().take(room));
        }
    }

    /// The raw connections whose bytes hold `marker`, byte for byte.
    pub fn streams_with(&self, marker: &str) -> Vec<Vec<u8>> {
        let holds = |bytes: &[u8]| bytes.windows(marker.len().max(1)).any(|w| w == marker.as_bytes());
        self.kept().streams.iter().filter(|s| holds(&s.bytes)).map(|s| s.bytes.clone()).collect()
    }

    /// Every request kept, oldest first.
    pub fn all(&self) -> Vec<Seen> {
        self.kept().requests.iter().cloned().collect()
    }

    /// The requests that reached one host.
    pub fn for_host(&self, host: &str) -> Vec<Seen> {
        self.kept().requests.iter().filter(|seen| seen.host == host).cloned().collect()
    }

    /// The requests whose target holds `marker`, by which concurrent tests tell their requests apart.
    pub fn with_marker(&self, marker: &str) -> Vec<Seen> {
        self.kept().requests.iter().filter(|seen| seen.target.contains(marker)).cloned().collect()
    }

    /// Lets streams end that were asked for with `until=MARKER`, so that a test can make a stream last as
    /// long as it needs.
    pub fn let_end(&self, marker: &str) {
        self.kept().over.insert(marker.to_owned());
    }

    /// Whether streams with this marker may end.
    pub(crate) fn may_end(&self, marker: &str) -> bool {
        self.kept().over.contains(marker)
    }

    /// Whether DNS was asked for a name.
    pub fn was_asked_for(&self, name: &str) -> bool {
        self.kept().questions.iter().any(|asked| asked == name)
    }
}
