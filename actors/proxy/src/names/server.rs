//! The name server at 127.0.0.53, by UDP and TCP.
//!
//! It decides from the policy's snapshot and the book alone: nothing here can ask a server outside. Its tasks
//! belong to the proxy actor; sockets, book and counters live above it, so questions that come while it is
//! down wait in the socket. Bounded by queries and by new names a minute, for the whole sandbox.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use policy::{DomainName, Host};
use telemetry::audit::Verdict;
use telemetry::complaints::Complaints;
use telemetry::metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::book::Book;
use super::question::{A, AAAA, Code, MAX_QUERY_BYTES, Packet, Question, read};
use crate::approval;
use crate::intent::INFERENCE_HOST;
use crate::limits::{ACCEPT_BACKOFF_MAX, ACCEPT_BACKOFF_MIN};
use crate::outcome::Journal;
use crate::repeats::Repeats;

/// How long a client may cache an answer, in seconds. The binding lasts far longer; a short TTL lets a reload
/// of the policy take effect soon.
pub const TTL: u32 = 60;
/// Most questions of one sandbox a minute. A busy build asks some hundred.
pub const QUERIES_PER_MINUTE: u32 = 6000;
/// Most names that get an address a minute: bounds how soon addresses come back (hours).
pub const NEW_NAMES_PER_MINUTE: u32 = 600;
/// Most names without an entry that get an address a minute, because the operator is asked about connections
/// to them: each is a question to the operator, who can't answer more. At this rate no name of the policy
/// loses its address: the least recently used go first, and it takes an hour to go round.
pub const ASKED_NAMES_PER_MINUTE: u32 = 60;
/// Most TCP connections to the name server at a time. One more takes the place of the oldest, which had its
/// turn (RFC 7766 section 6.2.3): a client that keeps all of them open, asking now and then, shuts no other
/// out.
pub const MAX_TCP_CLIENTS: usize = 32;
/// A TCP connection without a whole question for so long is closed.
pub const TCP_IDLE: Duration = Duration::from_secs(10);

/// The sockets, made inside the sandbox; live above the actor.
#[derive(Debug, Clone)]
pub struct Sockets {
    /// For datagrams.
    pub udp: Arc<std::net::UdpSocket>,
    /// For streams.
    pub tcp: Arc<std::net::TcpListener>,
}

/// Answers questions. Lives above the actor.
pub struct Resolver {
    policy: policy::Store,
    book: Arc<Book>,
    journal: Arc<dyn Journal>,
    inference: Ipv4Addr,
    /// Whether the operator is asked about connections to names that no entry has.
    asks: bool,
    refused: Repeats,
    queries: Meter,
    new_names: Meter,
    asked_names: Meter,
    /// Of addresses that can't be kept.
    unkept: Complaints,
}

impl Resolver {
    /// Answers from `policy` and `book`; `inference` is where the gateway listens.
    pub fn new(
        policy: policy::Store,
        book: Arc<Book>,
        journal: Arc<dyn Journal>,
        inference: Ipv4Addr,
    ) -> Self {
        Self {
            policy,
            book,
            journal,
            inference,
            asks: false,
            refused: Repeats::new(),
            queries: Meter::new(QUERIES_PER_MINUTE),
            new_names: Meter::new(NEW_NAMES_PER_MINUTE),
            asked_names: Meter::new(ASKED_NAMES_PER_MINUTE),
            unkept: Complaints::new(),
        }
    }

    /// Gives addresses to names that no entry has, too: the operator is asked about a connection to one
    /// before anything is looked up outside.
    #[must_use]
    pub fn where_the_operator_is_asked(self) -> Self {
        Self { asks: true, ..self }
    }

    /// Returns the answer to a packet, if it gets one.
    pub fn answer(&self, packet: &[u8]) -> Option<Vec<u8>> {
        match read(packet) {
            Packet::Noise => None,
            Packet::Fault(answer) => Some(answer),
            Packet::Question(question) if !self.queries.takes() => Some(question.fails(Code::Refused)),
            Packet::Question(question) => Some(self.resolve(&question)),
        }
    }

    fn resolve(&self, question: &Question<'_>) -> Vec<u8> {
        let Some(text) = question.text() else {
            let name = "(a name of other characters than hosts have)";
            return self.refuse(question, name);
        };
        let of_kind = |v4: Ipv4Addr, v6: Option<Ipv6Addr>| match question.kind {
            A => question.answers(Some(v4.into()), TTL),
            AAAA => question.answers(v6.map(IpAddr::from), TTL),
            _ => question.answers(None, TTL),
        };
        if text == "localhost" || text.ends_with(".localhost") {
            // RFC 6761 section 6.3.
            return of_kind(Ipv4Addr::LOCALHOST, Some(Ipv6Addr::LOCALHOST));
        }
        if text == INFERENCE_HOST {
            return of_kind(self.inference, None);
        }
        if is_ours_reversed(&text) {
            return question.answers(None, TTL);
        }
        let Ok(name) = DomainName::parse(&text) else { return self.refuse(question, &text) };
        let generation = self.policy.load();
        let is_named = generation.compiled.names(&Host::Name(name.clone()));
        if !is_named && !self.asks_about(&name) {
            return self.refuse(question, name.as_str());
        }
        let (verdict, new_names) = match is_named {
            true => (Verdict::Allowed, &self.new_names),
            false => (Verdict::Asked, &self.asked_names),
        };
        if question.kind != A && question.kind != AAAA {
            metrics::decision("dns", verdict, "");
            return question.answers(None, TTL);
        }
        let addresses = match self.book.known(&name) {
            Some(known) => known,
            None if !new_names.takes() => {
                let why = "more new names than a minute's have been asked for";
                return self.refused_as(question, Code::Refused, name.as_str(), why);
            }
            None => match self.book.bind(&name) {
                Ok(bound) => bound,
                Err(error) => {
                    if let Some(untold) = self.unkept.told(std::time::Instant::now()) {
                        tracing::error!(%error, untold, "a name's address could not be kept");
                    }
                    return question.fails(Code::ServFail);
                }
            },
        };
        metrics::decision("dns", verdict, "");
        of_kind(addresses.v4, Some(addresses.v6))
    }

    /// Whether the operator is asked about connections to this name.
    fn asks_about(&self, name: &DomainName) -> bool {
        self.asks && approval::is_public(name)
    }

    /// Answers that the name doesn't exist.
    fn refuse(&self, question: &Question<'_>, name: &str) -> Vec<u8> {
        self.refused_as(question, Code::NxDomain, name, "no entry of the policy names this host")
    }

    fn refused_as(&self, question: &Question<'_>, code: Code, name: &str, why: &str) -> Vec<u8> {
        metrics::decision("dns", Verdict::Denied, "");
        if let Some(more) = self.refused.due(name) {
            self.journal.name_refused(name, &format!("{why}{more}"), self.policy.load().number);
        }
        question.fails(code)
    }
}

/// Whether it is the reverse name of one of our addresses (RFC 1035 section 3.5, RFC 3596 section 2.5). Such
/// a name is no secret, and no name of a host either.
fn is_ours_reversed(name: &str) -> bool {
    [".18.198.in-addr.arpa", ".19.198.in-addr.arpa", ".2.0.0.0.0.0.0.0.6.6.f.6.3.6.d.f.ip6.arpa"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// A limit per minute. Its lock is on no connection's path, and a question holds it for a moment only.
struct Meter {
    limit: u32,
    since: Mutex<Instant>,
    taken: AtomicU32,
}

impl Meter {
    fn new(limit: u32) -> Self {
        Self { limit, since: Mutex::new(Instant::now()), taken: AtomicU32::new(0) }
    }

    fn takes(&self) -> bool {
        if self.taken.fetch_add(1, Ordering::Relaxed) < self.limit {
            return true;
        }
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.elapsed() < Duration::from_secs(60) {
            return false;
        }
        *since = Instant::now();
        self.taken.store(1, Ordering::Relaxed);
        true
    }
}

/// Answers datagrams for ever.
///
/// # Errors
/// Out of descriptors, at the start.
pub async fn datagrams(resolver: Arc<Resolver>, socket: Arc<std::net::UdpSocket>) -> io::Result<()> {
    let socket = UdpSocket::from_std(socket.try_clone()?)?;
    // One byte more than is accepted, so that a truncated datagram is seen to be too long.
    let mut packet = [0; MAX_QUERY_BYTES + 1];
    loop {
        let (length, from) = match socket.recv_from(&mut packet).await {
            Ok(received) => received,
            // If the receiver of an earlier answer refused it, that is reported here.
            Err(error) => {
                tracing::debug!(%error, "a datagram could not be received");
                sleep(ACCEPT_BACKOFF_MIN).await;
                continue;
            }
        };
        if let Some(answer) = packet.get(..length).and_then(|packet| resolver.answer(packet)) {
            // A receiver that doesn't read loses answers, and delays nobody.
            let _lost = socket.try_send_to(&answer, from);
        }
    }
}

/// Answers streams for ever (RFC 7766).
///
/// # Errors
/// Out of descriptors, at the start.
pub async fn streams(resolver: Arc<Resolver>, listener: Arc<std::net::TcpListener>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener.try_clone()?)?;
    // They end with this task.
    let mut clients = JoinSet::new();
    // The oldest first.
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    let mut backoff = ACCEPT_BACKOFF_MIN;
    loop {
        while clients.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                backoff = ACCEPT_BACKOFF_MIN;
                open.retain(|client| !client.is_finished());
                if open.len() >= MAX_TCP_CLIENTS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                let resolver = Arc::clone(&resolver);
                open.push_back(clients.spawn(async move {
                    let _broken_off = questions(&resolver, stream).await;
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                sleep(backoff).await;
                backoff = (backoff * 2).min(ACCEPT_BACKOFF_MAX);
            }
        }
    }
}

/// Serves one stream: questions one after the other, each after its length.
async fn questions(resolver: &Resolver, mut stream: TcpStream) -> io::Result<()> {
    let mut packet = [0; MAX_QUERY_BYTES];
    loop {
        let Ok(length) = timeout(TCP_IDLE, stream.read_u16()).await else { return Ok(()) };
        let Some(packet) = packet.get_mut(..usize::from(length?)) else { return Ok(()) };
        let Ok(read) = timeout(TCP_IDLE, stream.read_exact(packet)).await else { return Ok(()) };
        read?;
        let Some(answer) = resolver.answer(packet) else { return Ok(()) };
        let length = u16::try_from(answer.len()).unwrap_or(u16::MAX).to_be_bytes();
        let framed = [&length[..], &answer].concat();
        let Ok(written) = timeout(TCP_IDLE, stream.write_all(&framed)).await else { return Ok(()) };
        written?;
    }
}

#[cfg(test)]
mod tests {
    use super::super::question::tests::ask;
    use super::*;
    use crate::tests::bed::{Bed, PATIENCE, l4};

    async fn resolver(endpoints: &str) -> (Bed, Resolver) {
        let bed = Bed::new(endpoints).await;
        let deps = &bed.deps;
        let made = Resolver::new(
            deps.policy.clone(),
            Arc::clone(&deps.names),
            Arc::clone(&deps.journal),
            Ipv4Addr::new(127, 0, 0, 77),
        );
        (bed, made)
    }

    /// Code and the last bytes of the answer's first record, as an address.
    fn asked(resolver: &Resolver, name: &str, kind: u16) -> (u8, Option<IpAddr>) {
        let question = ask(name, kind);
        let answer = resolver.answer(&question).unwrap();
        let data = answer.get(question.len() + 12..).filter(|_| answer[7] == 1);
        let address = data.map(|data| match data.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(data).unwrap()),
            _ => IpAddr::from(<[u8; 16]>::try_from(data).unwrap()),
        });
        (answer[3] & 0xf, address)
    }

    #[tokio::test]
    async fn what_the_policy_names_exists_and_nothing_else() {
        let (bed, resolver) = resolver(&format!("{}\n{}", l4("a.test", 443), l4("\"*.b.test\"", 443))).await;
        let (code, v4) = asked(&resolver, "A.Test", A);
        assert_eq!(code, 0);
        assert_eq!(
            bed.deps.names.at(v4.unwrap()),
            super::super::Bound::Name(DomainName::parse("a.test").unwrap())
        );
        assert_eq!(asked(&resolver, "a.test", A), (0, v4), "the same again");
        assert!(asked(&resolver, "a.test", AAAA).1.unwrap().is_ipv6());
        assert!(asked(&resolver, "x.b.test", A).1.is_some());
        for (name, kind, wanted) in [
            ("a.test", 16, (0, None)),
            ("a.test", 65, (0, None)),
            ("b.test", A, (3, None)),
            ("x.y.b.test", A, (3, None)),
            ("a.test.evil.test", A, (3, None)),
            ("a", A, (3, None)),
            ("1.2.3.4", A, (3, None)),
            ("a_-.test.", A, (3, None)),
            ("", A, (3, None)),
            ("localhost", A, (0, Some("127.0.0.1".parse().unwrap()))),
            ("x.localhost", AAAA, (0, Some("::1".parse().unwrap()))),
            ("inference.local", A, (0, Some("127.0.0.77".parse().unwrap()))),
            ("inference.local", AAAA, (0, None)),
            ("0.0.18.198.in-addr.arpa", 12, (0, None)),
            ("8.8.8.8.in-addr.arpa", 12, (3, None)),
        ] {
            assert_eq!(asked(&resolver, name, kind), wanted, "{name} {kind}");
        }
        assert!(bed.journal.names().contains(&"b.test".to_owned()));
        bed.reload(&l4("c.test", 443));
        assert_eq!(asked(&resolver, "a.test", A), (3, None));
        assert!(asked(&resolver, "c.test", A).1.is_some());
    }

    #[tokio::test]
    async fn where_the_operator_is_asked_public_names_exist() {
        let (bed, resolver) = resolver(&l4("a.test", 443)).await;
        let resolver = resolver.where_the_operator_is_asked();
        let (code, address) = asked(&resolver, "unlisted.example.com", A);
        let bound = super::super::Bound::Name(DomainName::parse("unlisted.example.com").unwrap());
        assert_eq!((code, bed.deps.names.at(address.unwrap())), (0, bound));
        // So many a minute, and what the policy names goes on.
        let more = |n: u32| asked(&resolver, &format!("n{n}.example.com"), A);
        assert_eq!((1..1000).filter(|n| more(*n).1.is_some()).count(), ASKED_NAMES_PER_MINUTE as usize - 1);
        assert_eq!(more(1001), (5, None));
        assert!(bed.journal.names().contains(&"n60.example.com".to_owned()), "on record");
        assert!(asked(&resolver, "a.test", A).1.is_some());
        for name in [
            "wpad",
            "metadata.google.internal",
            "host.cofferdam.internal",
            "printer.local",
            "router.lan",
            "x.corp",
            "b.home",
            "c.localdomain",
            "x.home.arpa",
            "8.8.8.8.in-addr.arpa",
            "hidden.onion",
            "1.2.3.4",
            "a_-.example.com.",
        ] {
            assert_eq!(asked(&resolver, name, A), (3, None), "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn questions_and_new_names_are_bounded_by_the_minute() {
        let (_bed, resolver) = resolver(&l4("\"*.b.test\"", 443)).await;
        let count = |range: std::ops::Range<u32>| {
            range.filter(|n| asked(&resolver, &format!("n{n}.b.test"), A).1.is_some()).count() as u32
        };
        assert_eq!(count(0..1000), NEW_NAMES_PER_MINUTE);
        assert!(asked(&resolver, "n1.b.test", A).1.is_some(), "a known name needs no new place");
        for _ in 0..QUERIES_PER_MINUTE {
            let _ = asked(&resolver, "n1.b.test", A);
        }
        assert_eq!(asked(&resolver, "n1.b.test", A), (5, None));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(count(1000..1010), 10);
    }

    /// How many records answer a question on a stream.
    async fn asks(stream: &mut TcpStream) -> io::Result<u8> {
        let question = ask("a.test", A);
        stream.write_u16(question.len() as u16).await?;
        stream.write_all(&question).await?;
        let length = timeout(PATIENCE, stream.read_u16()).await.unwrap()?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        Ok(answer[7])
    }

    #[tokio::test]
    async fn by_udp_and_by_tcp() {
        let (_bed, resolver) = resolver(&l4("a.test", 443)).await;
        let resolver = Arc::new(resolver);
        let udp = Arc::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let tcp = Arc::new(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        udp.set_nonblocking(true).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let _udp = tokio::spawn(datagrams(Arc::clone(&resolver), Arc::clone(&udp)));
        let _tcp = tokio::spawn(streams(resolver, Arc::clone(&tcp)));
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(udp.local_addr().unwrap()).await.unwrap();
        // Garbage first: it delays nobody.
        for bytes in [&b""[..], b"x", &[0xff; 600], &[0; 1500]] {
            client.send(bytes).await.unwrap();
        }
        let question = ask("a.test", A);
        client.send(&question).await.unwrap();
        let mut answer = [0; 512];
        loop {
            let length = timeout(PATIENCE, client.recv(&mut answer)).await.unwrap().unwrap();
            if answer[7] == 1 {
                assert_eq!(length, question.len() + 16);
                break;
            }
        }
        let mut stream = TcpStream::connect(tcp.local_addr().unwrap()).await.unwrap();
        for _ in 0..3 {
            assert_eq!(asks(&mut stream).await.unwrap(), 1);
        }
        stream.write_u16(u16::MAX).await.unwrap();
        assert_eq!(timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn whoever_keeps_all_streams_keeps_nobody_out() {
        let (_bed, resolver) = resolver(&l4("a.test", 443)).await;
        let tcp = Arc::new(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        tcp.set_nonblocking(true).unwrap();
        let at = tcp.local_addr().unwrap();
        let _tcp = tokio::spawn(streams(Arc::new(resolver), tcp));
        let mut kept = Vec::new();
        for _ in 0..MAX_TCP_CLIENTS {
            let mut stream = TcpStream::connect(at).await.unwrap();
            assert_eq!(asks(&mut stream).await.unwrap(), 1);
            kept.push(stream);
        }
        let mut next = TcpStream::connect(at).await.unwrap();
        assert_eq!(asks(&mut next).await.unwrap(), 1);
        assert!(asks(&mut kept[0]).await.is_err(), "the oldest had its turn");
        assert_eq!(asks(&mut kept[1]).await.unwrap(), 1, "and no other waited for its idle end");
    }
}
