//! What is alive: every connection and every decision that something still rests on.
//!
//! The tracker lives above the proxy actor. Connections are counted here against the sandbox's limit and
//! their agent's share of it, and each live tunnel or exchange is registered with what its decision was made
//! from. When a new policy generation is published, each is judged again, and only those that the new policy
//! refuses are ended. Must never end anything whose decision still stands, nor keep anything whose decision
//! doesn't.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use policy::{Host, Party, Share, Shares, Spent, Treatment};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::answer::Refusal;
use crate::guard::{HOST_NAME, Reached, Resolver};
use crate::intent::Exchange;
use crate::limits::{
    CONNECTIONS_TO_WHAT_IS_LEFT, MAX_EXCHANGES, MAX_HEADS_BYTES, MAX_HTTP_CONNECTIONS, MAX_JUDGED_BYTES,
    SPACIOUS_CONNECTIONS,
};
use crate::room::{Room, What};
use crate::route::judge_unresolved;
use crate::sizes::Sizes;
use crate::verdict::Granted;

/// Cheap to clone; all clones are the same tracker.
#[derive(Clone)]
pub struct Tracker(Arc<Inner>);

struct Inner {
    policy: policy::Store,
    resolver: Resolver,
    places: Shares,
    /// Connections to upstreams: as many as there are places, since descriptors are provided for one with
    /// each place.
    ways: Shares,
    /// Connections that HTTP is served on.
    seats: Shares,
    /// Requests in flight.
    turns: Shares,
    /// Bytes of all long heads that are being read. Apart from the bodies, since the agent of a new
    /// connection's head is not known at first.
    heads: Shares,
    /// Bytes of all judged bodies together.
    rooms: Shares,
    capacity: usize,
    live: Mutex<HashMap<u64, Arc<Entry>>>,
    next: AtomicU64,
    revoked: AtomicU64,
}

struct Entry {
    granted: Granted,
    exchange: Option<Exchange>,
    /// The address that was dialled (or the name given to the upstream proxy); replaced where the request had
    /// to be sent on a new connection.
    reached: Mutex<Option<Reached>>,
    revoked: CancellationToken,
}

/// One place among the sandbox's connections; given back when dropped.
#[derive(Debug)]
pub struct ConnectionSlot(Share);

impl ConnectionSlot {
    /// Charges the place to `party`, once the connection's agent is known.
    ///
    /// # Errors
    /// The party has as many connections open as one may have. The place stays taken until it is dropped.
    pub(crate) fn belongs_to(&mut self, party: Party) -> Result<(), TooMany> {
        self.0.belongs_to(party).map_err(|_| TooMany)
    }
}

/// An agent has as many connections open as one may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this agent has as many connections open as one may have")]
pub struct TooMany;

/// One connection to an upstream among the sandbox's; given back when dropped.
#[derive(Debug)]
pub struct UpstreamSlot {
    _share: Share,
    sizes: Sizes,
}

impl UpstreamSlot {
    /// How much the connection may buffer.
    pub(crate) fn sizes(&self) -> Sizes {
        self.sizes
    }
}

/// One connection among those that HTTP is served on; given back when dropped.
#[derive(Debug)]
pub(crate) struct HttpSlot(Share);

impl HttpSlot {
    /// Charges the seat to `party`, once the connection's agent is known.
    ///
    /// # Errors
    /// HTTP is spoken on as many connections of the party as one may have. The seat stays taken until it is
    /// dropped.
    pub(crate) fn belongs_to(&mut self, party: Party) -> Result<(), Refusal> {
        self.0.belongs_to(party).map_err(no_seat)
    }
}

fn no_seat(spent: Spent) -> Refusal {
    Refusal::Unavailable(format!("{} already has as many HTTP connections open as it may", whose(spent)))
}

/// Names the one whose limit is reached.
fn whose(spent: Spent) -> &'static str {
    if spent == Spent::Share { "this agent" } else { "this sandbox" }
}

/// One request among those in flight, while its caller is judged.
#[derive(Debug)]
pub(crate) struct UnchargedRequest(Share);

/// The same, charged to a party; given back when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct RequestSlot(#[expect(dead_code, reason = "held for its drop")] Arc<Share>);

impl UnchargedRequest {
    /// Charges the request to `party`, once its caller is judged.
    ///
    /// # Errors
    /// As many requests of the party are in flight as one may have.
    pub(crate) fn of(mut self, party: Party) -> Result<RequestSlot, Refusal> {
        self.0.belongs_to(party).map_err(no_turn)?;
        Ok(RequestSlot(Arc::new(self.0)))
    }
}

fn no_turn(spent: Spent) -> Refusal {
    Refusal::Unavailable(format!("{} already has as many requests in flight as it may", whose(spent)))
}

/// A registered decision; forgotten when dropped.
pub struct Live {
    inner: Arc<Inner>,
    id: u64,
    revoked: CancellationToken,
}

impl Tracker {
    /// A tracker for at most `capacity` connections. Starts the task that follows the policy's generations:
    /// must be called inside a tokio runtime, by whoever outlives the proxy actor.
    pub fn new(policy: policy::Store, resolver: Resolver, capacity: usize) -> Self {
        let mut generations = policy.subscribe();
        let inner = Arc::new(Inner {
            policy,
            resolver,
            places: Shares::leaving(capacity, CONNECTIONS_TO_WHAT_IS_LEFT),
            ways: Shares::leaving(capacity, CONNECTIONS_TO_WHAT_IS_LEFT),
            seats: Shares::leaving(MAX_HTTP_CONNECTIONS, CONNECTIONS_TO_WHAT_IS_LEFT),
            turns: Shares::leaving(MAX_EXCHANGES, CONNECTIONS_TO_WHAT_IS_LEFT),
            heads: Shares::new(MAX_HEADS_BYTES),
            rooms: Shares::new(MAX_JUDGED_BYTES),
            capacity,
            live: Mutex::default(),
            next: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
        });
        let weak = Arc::downgrade(&inner);
        supervision::essential(async move {
            while generations.changed().await.is_ok() {
                let Some(inner) = Weak::upgrade(&weak) else { return };
                inner.judge_all_again().await;
            }
        });
        Self(inner)
    }

    /// Takes a place for one more connection, if there is one. Its agent is not known yet: see
    /// [`ConnectionSlot::belongs_to`].
    pub fn admit(&self) -> Option<ConnectionSlot> {
        self.0.places.take(Party::UNKNOWN, 1).ok().map(ConnectionSlot)
    }

    /// Takes leave to dial an upstream, charged to `party`.
    ///
    /// # Errors
    /// There are as many connections to upstreams as there may be, or as this party may have.
    pub(crate) fn way(&self, party: Party) -> Result<UpstreamSlot, Refusal> {
        let share = self.0.ways.take(party, 1).map_err(|spent| {
            let whose = if spent == Spent::Share { " of this agent" } else { "" };
            Refusal::Unavailable(format!("too many connections{whose} to servers are open at the same time"))
        })?;
        Ok(UpstreamSlot { _share: share, sizes: Sizes::of_servers(self.0.ways.taken()) })
    }

    /// Takes leave to serve HTTP on one more connection, charged to `party` if that is known.
    ///
    /// # Errors
    /// There are as many as there may be, or as this party may have.
    pub(crate) fn seat(&self, party: Party) -> Result<HttpSlot, Refusal> {
        self.0.seats.take(party, 1).map(HttpSlot).map_err(no_seat)
    }

    /// Takes leave for one more request, charged to `party` if that is known.
    ///
    /// # Errors
    /// There are as many in flight as there may be, or as this party may have.
    pub(crate) fn turn(&self, party: Party) -> Result<UnchargedRequest, Refusal> {
        self.0.turns.take(party, 1).map(UnchargedRequest).map_err(no_turn)
    }

    /// Returns room for a connection's long heads, out of what all may hold, charged to `party`.
    pub(crate) fn head_room(&self, party: Party) -> Room {
        Room::new(&self.0.heads, party, What::Heads)
    }

    /// Returns room for a body, out of what all may hold, charged to `party`.
    pub(crate) fn room(&self, party: Party) -> Room {
        Room::new(&self.0.rooms, party, What::Bodies)
    }

    /// How many connections there may be.
    pub fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.0.places.taken()
    }

    /// How much an agent's new connection may buffer.
    pub(crate) fn sizes_of_agents(&self) -> Sizes {
        Sizes::of_agents(self.connections())
    }

    /// Whether agents have so many connections open that each may hold but little.
    pub(crate) fn is_crowded(&self) -> bool {
        self.connections() > SPACIOUS_CONNECTIONS
    }

    /// Number of tunnels and exchanges that rest on a decision now.
    pub fn live(&self) -> usize {
        self.0.lock().len()
    }

    /// How many were ended by a new policy since the start.
    pub fn revoked_total(&self) -> u64 {
        self.0.revoked.load(Ordering::Relaxed)
    }

    /// Registers a decision. If the policy changed since it was made, it is judged again at once.
    pub async fn track(
        &self,
        granted: Granted,
        exchange: Option<Exchange>,
        reached: Option<Reached>,
    ) -> Live {
        let entry = Arc::new(Entry {
            granted,
            exchange,
            reached: Mutex::new(reached),
            revoked: CancellationToken::new(),
        });
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.lock().insert(id, Arc::clone(&entry));
        let live = Live { inner: Arc::clone(&self.0), id, revoked: entry.revoked.clone() };
        // Registered first, compared after: a generation published in between is seen by one of the two.
        if self.0.policy.load().number != entry.granted.generation() {
            self.0.judge_again(&entry).await;
        }
        live
    }
}

impl Inner {
    /// The map is left whole by every critical section, so a poisoned lock still guards a good map.
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Entry>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn judge_all_again(&self) {
        let mut entries: Vec<_> = self.lock().values().cloned().collect();
        // What is judged by its destination alone takes no time: no request, however long its judging takes,
        // keeps a tunnel open. Others have their turn between any two.
        entries.sort_by_key(|entry| entry.exchange.is_some());
        for entry in entries {
            self.judge_again(&entry).await;
            tokio::task::yield_now().await;
        }
    }

    async fn judge_again(&self, entry: &Entry) {
        // Looked at twice: it may have been judged elsewhere meanwhile.
        let is_over = || entry.revoked.is_cancelled();
        if !is_over() && !self.still_stands(entry).await && !is_over() {
            self.revoked.fetch_add(1, Ordering::Relaxed);
            entry.revoked.cancel();
        }
    }

    async fn still_stands(&self, entry: &Entry) -> bool {
        let Some(before) = entry.granted.grant() else { return true };
        // A matcher that panics on one entry must not keep the others from being judged: it counts as a
        // refusal.
        let judged = catch_unwind(AssertUnwindSafe(|| {
            let generation = self.policy.load();
            let (destination, caller) = (entry.granted.destination(), entry.granted.caller());
            let compiled = &generation.compiled;
            let unnamed =
                |now: &Result<_, _>| now.is_err() || compiled.grants_by_approval_alone(destination, caller);
            let grant = match compiled.connect(destination, caller) {
                // No entry names it, as before: it rests on the operator's approval, or each request in it
                // does.
                now if entry.granted.unlisted().is_some() && unnamed(&now) => return Some(before.clone()),
                now => now.ok()?,
            };
            let Some(exchange) = &entry.exchange else { return Some(grant) };
            exchange.judge(&generation.compiled, (destination, grant.treatment), caller).ok()?;
            Some(grant)
        }));
        let Ok(Some(now)) = judged else { return false };
        // Bytes that nobody reads can't go on where requests, or a WebSocket's messages, are now to be
        // judged.
        let is_stream = entry.exchange.as_ref().is_none_or(|exchange| exchange.websocket);
        if is_stream && relays(before.treatment) && !relays(now.treatment) {
            return false;
        }
        now.addresses == before.addresses || self.address_stands(entry, &now.addresses).await
    }

    async fn address_stands(&self, entry: &Entry, rule: &policy::AddressRule) -> bool {
        let reached = *entry.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let addr = match reached {
            None => return true,
            Some(Reached::Address(addr)) => addr,
            Some(Reached::Name) => {
                let name = entry.granted.destination().host.name();
                return name.is_some_and(|name| judge_unresolved(name, rule).is_ok());
            }
        };
        if entry.granted.destination().host.name().is_some_and(|name| name.as_str() == HOST_NAME) {
            return rule.exact_host;
        }
        let (ip, port) = (addr.addr().ip(), addr.addr().port());
        self.resolver.resolve(&Host::Addr(ip), port, rule).await.is_ok()
    }
}

fn relays(treatment: Treatment) -> bool {
    matches!(treatment, Treatment::Relay { .. })
}

impl Live {
    /// Notes that the request now goes to another upstream address. Judged again if the policy changed
    /// meanwhile.
    pub(crate) async fn leads_to(&self, reached: Reached) {
        let entry = self.inner.lock().get(&self.id).cloned();
        let Some(entry) = entry else { return };
        *entry.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(reached);
        if self.inner.policy.load().number != entry.granted.generation() {
            self.inner.judge_again(&entry).await;
        }
    }

    /// Whether the decision was revoked.
    pub fn is_revoked(&self) -> bool {
        self.revoked.is_cancelled()
    }

    /// Resolves when the decision is revoked.
    pub fn revoked(&self) -> WaitForCancellationFutureOwned {
        self.revoked.clone().cancelled_owned()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.inner.lock().remove(&self.id);
    }
}
