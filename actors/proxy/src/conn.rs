//! What the requests of one connection share, and what the proxy as a whole brings to them.

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
use crate::strict::Violation;
use crate::strict::io::Fault;
use crate::tls::Authority;
use crate::tracker::{Live, Seat, Tracker};
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
    /// Who holds a connection.
    pub identify: Arc<dyn Identify>,
    /// What our addresses stand for.
    pub names: Arc<Book>,
    /// The SSRF guard.
    pub resolver: Resolver,
    /// Whether an upstream proxy lies on the way.
    pub routes: Routes,
    /// The sandbox's certificate authority.
    pub authority: Arc<Authority>,
    /// TLS towards upstreams.
    pub upstream: Upstream,
    /// Audit log and metrics.
    pub journal: Arc<dyn Journal>,
    /// What is alive.
    pub tracker: Tracker,
    /// The gateway.
    pub local: Arc<dyn LocalService>,
    /// What placeholders stand for.
    pub credentials: Arc<Credentials>,
    /// What who guesses has learned of it.
    pub guesses: Guesses,
    /// Who is asked about what no entry names.
    pub approvals: Approvals,
}

/// What a connection becomes when HTTP is done on it.
pub(crate) enum Next {
    /// Bytes go to what was dialled.
    Relay { upstream: Dialled, granted: Granted, known: Known },
    /// Requests are read inside it.
    Inspect { granted: Granted, addresses: Option<address::Judged> },
    /// WebSocket messages pass, judged where the handshake was.
    WebSocket {
        upgrade: OnUpgrade,
        /// The connection that it lies on, which ends with the last of its users.
        sender: Sender,
        live: Arc<Live>,
        /// Its handshake's, with its place among the requests in flight: it may buffer as much as one.
        ledger: Arc<Ledger>,
        known: Known,
        judge: Option<Box<Judge>>,
        guard: Option<Guard>,
    },
}

/// What a tunnel was judged by: what is told of everything in it that is refused before it is judged itself.
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

    /// As what is known of something that came by it.
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
    pub(crate) addresses: Mutex<Option<address::Judged>>,
    /// The tunnel's decision, where it is one.
    rests_on: Option<(Live, Ground)>,
    /// Held while HTTP is served on it.
    seat: Mutex<Option<Seat>>,
    next: Mutex<Option<Next>>,
    fault: OnceLock<Fault>,
    /// Where an answer can be preceded by what its destination says of it: not on HTTP/2.
    interim: OnceLock<Interim>,
    refused: AtomicBool,
    in_flight: AtomicUsize,
    /// Its client takes nothing of what it was given.
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

    pub(crate) fn with_addresses(self, addresses: Option<address::Judged>) -> Self {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
        self
    }

    /// A connection that is over when this decision falls, whatever its requests' own decisions are.
    pub(crate) fn resting_on(self, live: Live, ground: Ground) -> Self {
        Self { rests_on: Some((live, ground)), ..self }
    }

    /// What is known of a request on it before any of it was read.
    pub(crate) fn known(&self) -> Known {
        match &self.rests_on {
            Some((_, ground)) => ground.clone().known(self.claim.client()),
            None => {
                Known { destination: self.scope.leads_to().cloned(), ..Known::nothing(self.claim.client()) }
            }
        }
    }

    /// Resolves when the decision falls that the connection as a whole rests on.
    pub(crate) async fn revoked(&self) {
        match &self.rests_on {
            Some((live, _)) => live.revoked().await,
            None => std::future::pending().await,
        }
    }

    /// The addresses that CONNECT resolved, once, and if they are still good.
    pub(crate) fn take_addresses(&self, rule: &AddressRule) -> Option<address::Judged> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.take().filter(|judged| judged.are_good_under(rule))
    }

    pub(crate) fn set_next(&self, next: Next) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
    }

    pub(crate) fn take_next(&self) -> Option<Next> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Where violations of this connection's framing will stand.
    pub(crate) fn watch(&self, fault: Fault) {
        let _set_once_per_connection = self.fault.set(fault);
    }

    /// Where interim answers of this connection are to be put.
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

    /// Why a body of this connection broke: its framing, if that is known, else `why`.
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

    /// Takes a seat for as long as HTTP is served on it.
    ///
    /// # Errors
    /// There is none, or none for the connection's agent.
    pub(crate) fn sit(&self) -> Result<(), Refusal> {
        let seat = self.deps.tracker.seat(self.claim.party())?;
        *self.seat.lock().unwrap_or_else(PoisonError::into_inner) = Some(seat);
        Ok(())
    }

    /// Puts the seat on the account of whose connection it is, once that is known.
    ///
    /// # Errors
    /// That agent has no more of them.
    pub(crate) fn sits_for(&self, party: Party) -> Result<(), Refusal> {
        let mut seat = self.seat.lock().unwrap_or_else(PoisonError::into_inner);
        seat.as_mut().map_or(Ok(()), |seat| seat.belongs_to(party))
    }

    /// Puts the seat, and what its head pays for, on the account of whose connection it is as soon as that is
    /// known, whether or not a request ever comes: who says nothing would hold what is nobody's. Ends if that
    /// agent has no more of either.
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

    /// A part of what all bodies may hold, for one of this connection's.
    pub(crate) fn room(&self) -> Room {
        self.deps.tracker.room(self.claim.party())
    }

    /// Notes that the answer was ours and the rest of the request may never be read.
    pub(crate) fn note_refused(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    pub(crate) fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Ends it with all that it carries: its client takes nothing.
    pub(crate) fn end(&self) {
        self.stuck.cancel();
    }

    /// Waits until it is to end so.
    pub(crate) async fn ended(&self) {
        self.stuck.cancelled().await;
    }

    /// Counts one exchange as long as the guard lives.
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
