//! The upstream connections of one connection of the agent.
//!
//! The pool belongs to the agent's connection and ends with it; what is idle then goes on to the
//! [`shelf`](crate::shelf). Each pooled connection belongs to one caller,
//! so that no request ever uses a connection that another identity opened: when another caller is judged on
//! the agent's connection, everything pooled is dropped first. A new policy may judge addresses by another
//! rule: connections that were dialled under the old rule are dropped then, too.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use policy::{AddressRule, Caller, Destination};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::caller::JudgedCaller;
use crate::limits::{MAX_HTTP1_ONLY, MAX_IDLE_UPSTREAM, UPSTREAM_IDLE};
use crate::shelf::Kept;
use crate::upstream::{Sender, Wire};

/// What two requests must have in common to use the same connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// The caller. If its answer is read to the end late, the connection doesn't come back among another
    /// caller's.
    pub(crate) caller: Arc<Caller>,
    pub(crate) destination: Destination,
    pub(crate) wire: Wire,
    /// The rule by which the dialled address was judged.
    pub(crate) addresses: AddressRule,
}

impl Hash for Key {
    /// Hashes only the fields that usually differ.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.destination.hash(state);
        self.wire.hash(state);
    }
}

impl Key {
    /// Whether a connection for `other` goes to the same destination, but to an address that was judged by
    /// another rule.
    fn is_judged_otherwise(&self, other: &Self) -> bool {
        self.destination == other.destination && self.addresses != other.addresses
    }
}

/// How long to wait for an idle connection to be ready. After its answer was read to the end, that takes
/// microseconds; a connection that isn't ready by then is busy with a request body that its upstream didn't
/// want.
const READY_WITHIN: Duration = Duration::from_millis(50);

/// Whether an idle connection takes a request now.
pub(crate) async fn is_ready(idle: &mut Sender) -> bool {
    matches!(timeout(READY_WITHIN, idle.ready()).await, Ok(Ok(())))
}

#[derive(Default)]
pub(crate) struct Pool {
    state: Mutex<State>,
}

/// What a request that finds no connection does next.
pub(crate) enum Turn<'a> {
    /// Opens one, for all requests that come meanwhile.
    First(Opening<'a>),
    /// Looks again: another request has opened one.
    Again,
    /// Opens one of its own, beside others.
    Free,
}

/// The right to open the connection that a burst of HTTP/2 streams waits for and shares. When it is dropped,
/// all of them go on at once.
pub(crate) struct Opening<'a> {
    pool: &'a Pool,
    key: &'a Key,
    told: watch::Receiver<bool>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        // Another request may be opening the next one already.
        if state.opening.get(self.key).is_some_and(|it| it.subscribe().same_channel(&self.told)) {
            state.opening.remove(self.key);
        }
    }
}

#[derive(Default)]
struct State {
    /// Nothing is pooled any more.
    closed: bool,
    /// A request has authenticated its connection: see [`crate::shelf::binds_its_connection`].
    private: bool,
    owner: Option<JudgedCaller>,
    idle: Vec<(Key, Sender, Instant)>,
    /// HTTP/2 connections by key, the latest first: it takes the request that it was opened for. There are
    /// several where the earlier ones take no more requests at a time.
    shared: HashMap<Key, Vec<Sender>>,
    /// Connections that are being opened. The value turns true once the connection is open and shared.
    opening: HashMap<Key, watch::Sender<bool>>,
    /// Keys whose connections turned out not to be shareable (HTTP/1), latest last.
    http1_only: VecDeque<Key>,
}

/// Which request opens the connection that all may share.
enum BeingOpened {
    /// None can be shared: each request opens its own.
    Alone,
    ByYou(watch::Receiver<bool>),
    /// Another request does. The value turns true when the connection is there.
    ByAnother(watch::Receiver<bool>),
}

impl State {
    fn being_opened(&mut self, key: &Key) -> BeingOpened {
        let shareable = matches!(key.wire, Wire::Tls | Wire::PlainHttp2);
        if self.closed || !shareable || self.http1_only.contains(key) {
            return BeingOpened::Alone;
        }
        if let Some(opening) = self.opening.get(key) {
            return BeingOpened::ByAnother(opening.subscribe());
        }
        let (opening, told) = watch::channel(false);
        self.opening.insert(key.clone(), opening);
        BeingOpened::ByYou(told)
    }

    fn drop_shared(&mut self, drops: impl Fn(&Key, &Sender) -> bool) {
        self.shared.retain(|key, senders| {
            senders.retain(|sender| !drops(key, sender));
            !senders.is_empty()
        });
    }

    /// Notes that connections for `key` can't be shared. If there are too many such keys, the oldest is
    /// forgotten: a burst to it then opens one connection after the other once more.
    fn note_http1(&mut self, key: &Key) {
        if self.http1_only.contains(key) {
            return;
        }
        if self.http1_only.len() >= MAX_HTTP1_ONLY {
            self.http1_only.pop_front();
        }
        self.http1_only.push_back(key.clone());
    }
}

impl Pool {
    /// The map is left whole by every critical section, so a poisoned lock still guards a good map.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops everything unless it was opened for `caller`.
    pub(crate) fn claim(&self, caller: &JudgedCaller) {
        let mut state = self.lock();
        if state.owner.as_ref().is_some_and(|owner| owner != caller) {
            *state = State { closed: state.closed, ..State::default() };
        }
        state.owner.get_or_insert_with(|| caller.clone());
    }

    /// Drops everything for good: the agent's connection is over. An answer that is still being read keeps
    /// its upstream connection alive; a connection that only this pool kept (one with a request body that its
    /// server doesn't read) ends. Returns the connections that nobody uses, for the next one of this caller.
    pub(crate) fn close(&self) -> Vec<Kept> {
        let last = std::mem::replace(&mut *self.lock(), State { closed: true, ..State::default() });
        if last.private {
            return Vec::new();
        }
        let idle = last.idle.into_iter().map(|(key, sender, since)| Kept { key, sender, since });
        let shared = last.shared.into_iter().flat_map(|(key, senders)| {
            let unused = senders.into_iter().filter(|sender| sender.riders() == 0 && !sender.is_doubtful());
            unused.map(move |sender| Kept { key: key.clone(), sender, since: Instant::now() })
        });
        idle.chain(shared).collect()
    }

    /// Keeps everything that is pooled from other connections of the same caller.
    pub(crate) fn keep_private(&self) {
        self.lock().private = true;
    }

    /// Returns an open connection that takes a request now, if there is one.
    pub(crate) async fn take(&self, key: &Key) -> Option<Sender> {
        if let Some(shared) = self.shared(key) {
            return Some(shared);
        }
        while let Some(mut idle) = self.idle(key) {
            if is_ready(&mut idle).await {
                return Some(idle);
            }
        }
        None
    }

    /// Returns whether it is this request's turn to open a connection for `key`: one opens at a time, unless
    /// it is known that connections can't be shared. A request that waited for a connection that wasn't
    /// opened, or can't be shared, doesn't wait for another.
    pub(crate) async fn turn<'a>(&'a self, key: &'a Key) -> Turn<'a> {
        let mut opened = match self.lock().being_opened(key) {
            BeingOpened::Alone => return Turn::Free,
            BeingOpened::ByYou(told) => return Turn::First(Opening { pool: self, key, told }),
            BeingOpened::ByAnother(opened) => opened,
        };
        match opened.wait_for(|shared| *shared).await {
            Ok(_) => Turn::Again,
            Err(_) => Turn::Free,
        }
    }

    /// Notes a connection just opened, and shares it if it can be.
    pub(crate) fn opened(&self, key: &Key, sender: &Sender) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        match sender.another() {
            Some(another) => {
                // Closed connections to other destinations are never looked up again, and there may be any
                // number of destinations: drop them here.
                state.drop_shared(|_, sender| sender.is_closed());
                let shared = state.shared.entry(key.clone()).or_default();
                shared.insert(0, another);
                shared.truncate(MAX_IDLE_UPSTREAM);
                if let Some(opening) = state.opening.remove(key) {
                    opening.send_replace(true);
                }
            }
            None => state.note_http1(key),
        }
    }

    /// Gives a connection back after its answer was read to the end.
    pub(crate) fn give_back(&self, key: Key, sender: Sender) {
        if sender.is_http2() || sender.is_closed() {
            return;
        }
        let mut state = self.lock();
        if state.closed {
            return;
        }
        // Drop what will not be asked for again.
        state.idle.retain(|(other, sender, since)| {
            !sender.is_closed() && since.elapsed() < UPSTREAM_IDLE && other.caller == key.caller
        });
        if state.idle.len() >= MAX_IDLE_UPSTREAM {
            state.idle.remove(0);
        }
        state.idle.push((key, sender, Instant::now()));
    }

    fn shared(&self, key: &Key) -> Option<Sender> {
        let mut state = self.lock();
        state.drop_shared(|other, sender| {
            key.is_judged_otherwise(other) || other == key && (sender.is_closed() || sender.is_doubtful())
        });
        let shared = state.shared.get(key)?;
        let with_room = shared.iter().find(|sender| sender.has_room());
        // At the maximal number of connections, a request waits on the one with the fewest others.
        let least = || shared.iter().min_by_key(|sender| sender.riders());
        let is_most = shared.len() >= MAX_IDLE_UPSTREAM;
        with_room.or_else(|| is_most.then(least).flatten())?.another()
    }

    fn idle(&self, key: &Key) -> Option<Sender> {
        let mut state = self.lock();
        state.idle.retain(|(other, sender, since)| {
            !sender.is_closed() && since.elapsed() < UPSTREAM_IDLE && !key.is_judged_otherwise(other)
        });
        let at = state.idle.iter().rposition(|(idle, ..)| idle == key)?;
        Some(state.idle.remove(at).1)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::FutureExt as _;
    use futures_util::stream::{FuturesUnordered, StreamExt as _};
    use http::{Request, Response};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use policy::{Executable, Host, Party};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::address::Dialled;
    use crate::body::full;
    use crate::guard::Reached;
    use crate::tests::bed::{Bed, PATIENCE, rest};
    use crate::upstream::Purpose;

    fn key(host: &str, wire: Wire) -> Key {
        let executable = Executable { path: "/a".into(), sha256: [0; 32] };
        let (ancestors, party) = (Arc::from([]), Party::UNKNOWN);
        Key {
            caller: Arc::new(Caller { executable, ancestors, foreign_code: false, party }),
            destination: Destination { host: Host::parse(host).unwrap(), port: 80 },
            wire,
            addresses: AddressRule { allowed_ips: Arc::from([]), exact_host: true },
        }
    }

    async fn opened(bed: &Bed, to: &Key, listener: &TcpListener) -> (Sender, TcpStream) {
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let way = bed.deps.tracker.way(Party::UNKNOWN).unwrap();
        let dialled = Dialled { stream, reached: Reached::Name, way };
        let sender = bed.deps.upstream.open(dialled, &to.destination, to.wire, Purpose::Requests).await;
        (sender.unwrap_or_else(|_| panic!()), listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn what_speaks_http1_is_remembered_to_a_bound() {
        let bed = Bed::new(&rest("up.test", 1)).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pool, keys) =
            (Pool::default(), (0..=MAX_HTTP1_ONLY).map(|n| key(&format!("n{n}.test"), Wire::Tls)));
        let keys: Vec<_> = keys.collect();
        let (sender, _server) = opened(&bed, &key("up.test", Wire::Plain), &listener).await;
        keys.iter().for_each(|key| pool.opened(key, &sender));
        pool.opened(&keys[1], &sender);
        assert_eq!(pool.lock().http1_only.len(), MAX_HTTP1_ONLY);
        // For the forgotten key it has to be found out again, by one request at a time.
        assert!(matches!(pool.turn(&keys[0]).await, Turn::First(_)));
        for known in &keys[1..] {
            assert!(matches!(pool.turn(known).await, Turn::Free));
        }
    }

    /// Lets thirty callers wait while one opens a connection by `opens`, and gives the turn that each of them
    /// gets afterwards.
    async fn waited<'a>(pool: &'a Pool, key: &'a Key, opens: impl AsyncFnOnce(Opening<'a>)) -> Vec<Turn<'a>> {
        let Turn::First(opening) = pool.turn(key).await else { panic!("nobody opens") };
        let mut waiting = (0..30).map(|_| pool.turn(key)).collect::<FuturesUnordered<_>>();
        assert!(waiting.next().now_or_never().is_none());
        opens(opening).await;
        timeout(PATIENCE, waiting.collect()).await.expect("all of them go on")
    }

    #[tokio::test]
    async fn who_waited_for_what_is_not_shared_opens_beside_the_others() {
        let bed = Bed::new(&rest("up.test", 1)).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pool, key) = (Pool::default(), key("up.test", Wire::Tls));
        let failed = waited(&pool, &key, async |opening| drop(opening)).await;
        assert!(failed.iter().all(|turn| matches!(turn, Turn::Free)));
        let (http1, _server) = opened(&bed, &self::key("up.test", Wire::Plain), &listener).await;
        let turns = waited(&pool, &key, async |_opening| pool.opened(&key, &http1)).await;
        assert!(turns.iter().all(|turn| matches!(turn, Turn::Free)));
        assert!(matches!(pool.turn(&key).await, Turn::Free), "it is known to speak HTTP/1");
        assert!(pool.lock().opening.is_empty());
    }

    #[tokio::test]
    async fn one_destinations_first_connection_keeps_no_other_waiting() {
        let bed = Bed::new(&rest("up.test", 1)).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::default();
        let (key, other) = (key("up.test", Wire::PlainHttp2), key("other.test", Wire::PlainHttp2));
        let (http2, _server) = opened(&bed, &key, &listener).await;
        let turns = waited(&pool, &key, async |_opening| {
            assert!(matches!(pool.turn(&other).now_or_never(), Some(Turn::First(_))));
            pool.opened(&key, &http2);
        });
        assert!(turns.await.iter().all(|turn| matches!(turn, Turn::Again)));
        assert!(pool.take(&key).await.is_some());
    }

    /// Like a connection whose path to its server is dead, for as long as the kernel tries to send.
    #[tokio::test]
    async fn what_has_been_silent_for_long_takes_no_further_request() {
        let bed = Bed::new(&rest("up.test", 1)).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pool, key) = (Pool::default(), key("up.test", Wire::PlainHttp2));
        let (mut sender, server) = opened(&bed, &key, &listener).await;
        let answer = |_: Request<Incoming>| async { Ok::<_, Infallible>(Response::new(full("x"))) };
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(server), service_fn(answer));
        let serving = tokio::spawn(serving);
        pool.opened(&key, &sender);
        tokio::time::pause();
        for _ in 0..3 {
            let request = Request::get("http://up.test/").body(full("")).unwrap();
            assert!(sender.send(request).await.is_ok());
            tokio::time::advance(UPSTREAM_IDLE * 3 / 4).await;
            assert!(pool.take(&key).await.is_some(), "it was heard of late");
        }
        tokio::time::advance(UPSTREAM_IDLE).await;
        assert!(pool.take(&key).await.is_none());
        assert!(pool.lock().shared.is_empty() && !sender.is_closed(), "what is under way on it goes on");
        serving.abort();
    }

    #[tokio::test]
    async fn one_that_takes_no_more_at_a_time_is_joined_by_another_to_a_bound() {
        let bed = Bed::new(&rest("up.test", 1)).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pool, key) = (Pool::default(), key("up.test", Wire::PlainHttp2));
        let mut riding = Vec::new();
        for opened_before in 0..MAX_IDLE_UPSTREAM {
            assert!(pool.take(&key).await.is_none(), "{opened_before} are full");
            let (mut sender, server) = opened(&bed, &key, &listener).await;
            let answer = |_: Request<Incoming>| async { Ok::<_, Infallible>(Response::new(full("x"))) };
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(2)
                .serve_connection(TokioIo::new(server), service_fn(answer));
            tokio::spawn(serving);
            // By the second request, the server's limit is noted.
            for _ in 0..2 {
                let request = Request::get("http://up.test/").body(full("")).unwrap();
                assert!(sender.send(request).await.is_ok());
            }
            pool.opened(&key, &sender);
            riding.extend([sender, pool.take(&key).await.expect("it takes two")]);
        }
        // No further connection is opened, and a request that is done makes room.
        assert!(pool.take(&key).await.is_some());
        drop(riding.pop());
        let last = pool.take(&key).await.unwrap();
        assert_eq!(riding.last().unwrap().riders(), 2, "the pool's, and the one that took its place");
        drop(last);
    }

    #[tokio::test]
    async fn what_is_over_is_not_kept_for_others() {
        let bed = Bed::new(&rest("up.test", 1)).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::default();
        for host in ["one.test", "other.test"] {
            let key = key(host, Wire::PlainHttp2);
            let (sender, server) = opened(&bed, &key, &listener).await;
            pool.opened(&key, &sender);
            assert_eq!(pool.lock().shared.len(), 1, "of the one before nothing is left");
            let answer = |_: Request<Incoming>| async { Ok::<_, Infallible>(Response::new(full("x"))) };
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(server), service_fn(answer));
            drop(serving);
            let over = async {
                while !sender.is_closed() {
                    tokio::task::yield_now().await;
                }
            };
            timeout(PATIENCE, over).await.expect("it is over");
        }
    }
}
