//! What the requests of one connection share ([`Conn`]), and what all connections of the proxy share
//! ([`Deps`]).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::upgrade::OnUpgrade;
use policy::{AddressRule, Caller, Destination, Party};
use redactor::Guesses;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::address::{self, Dialled};
use crate::answer::{Known, Refusal};
use crate::approval::Approvals;
use crate::body::Body;
use crate::caller::{Claim, Identify};
use crate::credentials::{Credentials, Guard};
use crate::guard::Resolver;
use crate::intent::Scope;
use crate::interim::Interim;
use crate::message::Ledger;
use crate::names::Book;
use crate::outcome::Journal;
use crate::pool::Pool;
use crate::protocol::Ungathered;
use crate::protocol::websocket::Judge;
use crate::room::{Heads, Room};
use crate::route::Routes;
use crate::shelf::Shelf;
use crate::strict::Violation;
use crate::strict::io::Fault;
use crate::tls::Authority;
use crate::tracker::{HttpSlot, Live, Tracker};
use crate::upstream::{Sender, Upstream};
use crate::verdict::Granted;

/// Answers what is asked of `inference.local`. Such a request is never dialled out.
pub trait LocalService: Send + Sync + 'static {
    /// Answers one request: its path is canonical, its hop-by-hop fields are gone, its caller is judged.
    fn serve(
        &self,
        request: Request<Body>,
        caller: Arc<Caller>,
        request_id: Uuid,
    ) -> BoxFuture<'_, Response<Body>>;
}

/// Everything that the proxy needs and doesn't own. All of it outlives the proxy actor.
pub struct Deps {
    /// The policy in force.
    pub policy: policy::Store,
    /// Identifies the program that holds a connection.
    pub identify: Arc<dyn Identify>,
    /// The names that the sandbox's own addresses stand for.
    pub names: Arc<Book>,
    /// The SSRF guard.
    pub resolver: Resolver,
    /// Decides which destinations are reached through an upstream proxy.
    pub routes: Routes,
    /// The sandbox's certificate authority.
    pub authority: Arc<Authority>,
    /// TLS towards upstreams.
    pub upstream: Upstream,
    /// Connections to upstreams that wait for the next connection of the same caller.
    pub shelf: Shelf,
    /// Audit log and metrics.
    pub journal: Arc<dyn Journal>,
    /// The live connections and decisions.
    pub tracker: Tracker,
    /// The gateway.
    pub local: Arc<dyn LocalService>,
    /// The credentials that placeholders stand for.
    pub credentials: Arc<Credentials>,
    /// Counts each agent's guesses at credentials.
    pub guesses: Guesses,
    /// Asks the operator about what no policy entry names.
    pub approvals: Approvals,
}

/// What a connection becomes when HTTP is done on it.
pub(crate) enum Next {
    /// Bytes go to what was dialled.
    Relay { upstream: Dialled, granted: Granted, known: Known },
    /// Requests are read inside it.
    Inspect { granted: Granted, addresses: Option<address::JudgedAddresses> },
    /// WebSocket messages pass, judged where the handshake was.
    WebSocket {
        upgrade: OnUpgrade,
        /// The upstream connection that carries the WebSocket; it ends with the last of its users.
        sender: Sender,
        live: Arc<Live>,
        /// The handshake's ledger. It keeps the handshake's place among the requests in flight, since a
        /// WebSocket may buffer as much as a request.
        ledger: Arc<Ledger>,
        known: Known,
        judge: Option<Box<Judge>>,
        guard: Option<Guard>,
    },
}

/// What a tunnel's decision was made from. It fills the records of what is refused inside the tunnel before
/// being judged itself.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub(crate) destination: Destination,
    pub(crate) policy: Option<Arc<str>>,
    caller: Arc<Caller>,
    generation: u64,
}

impl Ground {
    pub(crate) fn of(granted: &Granted) -> Self {
        Self {
            destination: granted.destination().clone(),
            policy: granted.entry().cloned(),
            caller: Arc::clone(granted.caller()),
            generation: granted.generation(),
        }
    }

    /// Returns what is known of a request that came by this tunnel.
    pub(crate) fn known(self, client: SocketAddr) -> Known {
        Known {
            destination: Some(self.destination),
            caller: Some(self.caller),
            generation: Some(self.generation),
            policy: self.policy,
            ..Known::nothing(client)
        }
    }
}

/// One HTTP connection of the agent (a socket, or a tunnel inside one).
pub(crate) struct Conn {
    pub(crate) deps: Arc<Deps>,
    pub(crate) scope: Scope,
    pub(crate) claim: Arc<Claim>,
    pub(crate) pool: Pool,
    /// Addresses that CONNECT already resolved; for the first dial.
    pub(crate) addresses: Mutex<Option<address::JudgedAddresses>>,
    /// If the connection is inside a tunnel: the tunnel's decision.
    rests_on: Option<(Live, Ground)>,
    /// Held while HTTP is served on the connection.
    seat: Mutex<Option<HttpSlot>>,
    next: Mutex<Option<Next>>,
    fault: OnceLock<Fault>,
    /// Takes the destination's interim answers. Not set on HTTP/2.
    interim: OnceLock<Interim>,
    refused: AtomicBool,
    in_flight: AtomicUsize,
    /// Cancelled when the client reads nothing of what was written to it: the connection must end.
    stuck: CancellationToken,
}

impl Conn {
    pub(crate) fn new(deps: Arc<Deps>, scope: Scope, claim: Arc<Claim>) -> Self {
        Self {
            deps,
            scope,
            claim,
            pool: Pool::default(),
            addresses: Mutex::default(),
            rests_on: None,
            seat: Mutex::default(),
            next: Mutex::default(),
            fault: OnceLock::new(),
            interim: OnceLock::new(),
            refused: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            stuck: CancellationToken::new(),
        }
    }

    pub(crate) fn with_addresses(self, addresses: Option<address::JudgedAddresses>) -> Self {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
        self
    }

    /// Makes the connection end when this decision is revoked, whatever its requests' own decisions are.
    pub(crate) fn resting_on(self, live: Live, ground: Ground) -> Self {
        Self { rests_on: Some((live, ground)), ..self }
    }

    /// Returns what is known of a request on this connection before any of the request was read.
    pub(crate) fn known(&self) -> Known {
        match &self.rests_on {
            Some((_, ground)) => ground.clone().known(self.claim.client()),
            None => {
                Known { destination: self.scope.leads_to().cloned(), ..Known::nothing(self.claim.client()) }
            }
        }
    }

    /// Resolves when the decision that the whole connection rests on is revoked.
    pub(crate) async fn revoked(&self) {
        match &self.rests_on {
            Some((live, _)) => live.revoked().await,
            None => std::future::pending().await,
        }
    }

    /// Takes the addresses that CONNECT resolved, which only the first call can, if they are still good under
    /// `rule`.
    pub(crate) fn take_addresses(&self, rule: &AddressRule) -> Option<address::JudgedAddresses> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.take().filter(|judged| judged.are_good_under(rule))
    }

    pub(crate) fn set_next(&self, next: Next) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
    }

    pub(crate) fn take_next(&self) -> Option<Next> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Sets where violations of this connection's framing are noted.
    pub(crate) fn watch(&self, fault: Fault) {
        let _set_once_per_connection = self.fault.set(fault);
    }

    /// Sets where interim answers to this connection's requests are put.
    pub(crate) fn passes_interim(&self, interim: Interim) {
        let _set_once_per_connection = self.interim.set(interim);
    }

    pub(crate) fn interim(&self) -> Option<&Interim> {
        self.interim.get()
    }

    /// The violation that broke this connection off, if one did.
    pub(crate) fn violation(&self) -> Option<Violation> {
        self.fault.get().and_then(|fault| fault.get().copied())
    }

    /// Returns why a body of this connection broke off: the framing violation if there was one, else `why`.
    pub(crate) fn broken(&self, why: &str) -> Refusal {
        match self.violation() {
            Some(violation) => Refusal::Malformed(violation),
            None => Refusal::BadRequest(why.to_owned()),
        }
    }

    /// Why a body was not read as far as it should be.
    pub(crate) fn ungathered(&self, why: Ungathered) -> Refusal {
        match why {
            Ungathered::Broken(why) => self.broken(why),
            Ungathered::NoRoom(refusal) => refusal,
        }
    }

    /// Takes a seat, that is, a place among the connections that HTTP is served on, until [`Self::stand_up`].
    ///
    /// # Errors
    /// All seats are taken, or all that the connection's agent may have.
    pub(crate) fn sit(&self) -> Result<(), Refusal> {
        let seat = self.deps.tracker.seat(self.claim.party())?;
        *self.seat.lock().unwrap_or_else(PoisonError::into_inner) = Some(seat);
        Ok(())
    }

    /// Charges the seat to `party`, once the connection is known to be that agent's.
    ///
    /// # Errors
    /// The agent has all the seats that it may have.
    pub(crate) fn sits_for(&self, party: Party) -> Result<(), Refusal> {
        let mut seat = self.seat.lock().unwrap_or_else(PoisonError::into_inner);
        seat.as_mut().map_or(Ok(()), |seat| seat.belongs_to(party))
    }

    /// Charges the seat, and the memory of long heads, to the connection's agent as soon as that is known,
    /// whether or not a request ever comes: a silent client would otherwise hold what is charged to nobody.
    /// Resolves only if the agent may have no more of either.
    pub(crate) async fn overdrawn(&self, heads: Option<&Heads>) -> Refusal {
        let party = self.claim.known_party().await;
        let had = self.sits_for(party);
        match had.and_then(|()| heads.map_or(Ok(()), |heads| heads.lock().belongs_to(party))) {
            Ok(()) => std::future::pending().await,
            Err(refusal) => refusal,
        }
    }

    /// Gives the seat back.
    pub(crate) fn stand_up(&self) {
        *self.seat.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns room for one body of this connection, out of what all bodies together may hold.
    pub(crate) fn room(&self) -> Room {
        self.deps.tracker.room(self.claim.party())
    }

    /// Notes that a request was refused here, so that the rest of it may never be read.
    pub(crate) fn note_refused(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    pub(crate) fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Ends the connection with all that it carries, since its client reads nothing.
    pub(crate) fn end(&self) {
        self.stuck.cancel();
    }

    /// Waits for [`Self::end`].
    pub(crate) async fn ended(&self) {
        self.stuck.cancelled().await;
    }

    /// Counts one exchange as in flight for as long as the guard lives.
    pub(crate) fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }
}

/// See [`Conn::enter`].
pub(crate) struct InFlight(Arc<Conn>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
