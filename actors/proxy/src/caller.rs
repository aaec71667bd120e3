//! A step of the road: identifying the caller.
//!
//! A [`JudgedCaller`] caller is made here and nowhere else, by asking the identifier who holds the agent's
//! end of the connection, and whether that is the process that made it. The first request asks both in one
//! question, after its head was read; a connection that stays silent is asked about by [`Claim::watch`], so
//! that a program that means to lend its connection can't wait until the note of its connect(2) is gone. A
//! kept connection can change hands between two requests (fork, SCM_RIGHTS), so an answer is good for
//! [`IDENTITY_FRESH`] only and asked for again after it. Must never fall back on an older answer when the new
//! one is a refusal.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use policy::{Caller, Denial, Layer, Party};
use tokio::sync::{Notify, OnceCell};
use tokio::time::Instant;

use crate::answer::Refusal;
use crate::identity::{Changed, Identifier, Look, Unidentified};
use crate::limits::{HOLDER_LOOK, IDENTITY_FRESH, MAKER_ASKED_WITHIN, MAX_UNTOLD_LOOKS};
use crate::relay::Stop;
use crate::tracker::{ConnectionSlot, TooMany};

/// Age at which an answer is renewed in the background, while requests may still use it: the time that is
/// left of [`IDENTITY_FRESH`] is enough for a look.
const RENEWED_AFTER: Duration = Duration::from_millis(IDENTITY_FRESH.as_millis() as u64 * 3 / 4);

/// Finds out which program holds a connection. [`Identities`] is the real implementation; tests bring their
/// own.
pub trait Identify: Send + Sync + 'static {
    /// The caller that holds the agent's end: `client` is its address, `local` is ours.
    fn identify(
        &self,
        client: SocketAddr,
        local: SocketAddr,
        look: Look,
    ) -> BoxFuture<'_, Result<Caller, Unjudged>>;

    /// Whether the agent's end is still open, even if only for reading. Also true if that can't be
    /// determined.
    fn is_open(&self, client: SocketAddr, local: SocketAddr) -> BoxFuture<'_, bool>;

    /// Whether makers of connections are recorded at their connect(2), as far as is known: only then may a
    /// first look wait.
    fn notes_makers(&self) -> bool;
}

/// The real implementation: the identifier, and a function that is called for each changed binary.
pub struct Identities {
    identifier: Identifier,
    changed: Box<dyn Fn(&Changed) + Send + Sync>,
}

impl Identities {
    /// `changed` is called with each binary that is not what it was at first use (audit record, event). Must
    /// not block.
    pub fn new(identifier: Identifier, changed: impl Fn(&Changed) + Send + Sync + 'static) -> Self {
        Self { identifier, changed: Box::new(changed) }
    }
}

impl Identify for Identities {
    fn identify(
        &self,
        client: SocketAddr,
        local: SocketAddr,
        look: Look,
    ) -> BoxFuture<'_, Result<Caller, Unjudged>> {
        Box::pin(async move {
            match self.identifier.judge(client, local, look).await {
                Ok(caller) => Ok(caller),
                Err(why) => {
                    if let Unidentified::Changed { changed, .. } = &why {
                        (self.changed)(changed);
                    }
                    Err(why.into())
                }
            }
        })
    }

    fn is_open(&self, client: SocketAddr, local: SocketAddr) -> BoxFuture<'_, bool> {
        Box::pin(self.identifier.is_open(client, local))
    }

    fn notes_makers(&self) -> bool {
        self.identifier.notes_makers()
    }
}

/// Why the caller could not be established. In each case the request is refused.
#[derive(Debug, Clone)]
pub enum Unjudged {
    /// The holder is known and may not use the connection, but no path can be reported for it.
    Another(Denial),
    /// The holder is known and may not use the connection.
    Named {
        /// Why it may not use the connection.
        denial: Denial,
        /// The program's path.
        program: Arc<str>,
    },
    /// The holder could not be determined: there is none, or it could not be found out in time.
    Untold(Denial),
    /// The agent that the connection belongs to has too many connections open.
    TooMany(TooMany),
}

impl Unjudged {
    /// Path of the program that asks, where that much is known.
    pub(crate) fn program(&self) -> Option<&Arc<str>> {
        match self {
            Self::Named { program, .. } => Some(program),
            Self::Another(_) | Self::Untold(_) | Self::TooMany(_) => None,
        }
    }
}

impl From<TooMany> for Refusal {
    fn from(why: TooMany) -> Self {
        Self::Unavailable(why.to_string())
    }
}

impl From<Unjudged> for Refusal {
    fn from(unjudged: Unjudged) -> Self {
        match unjudged {
            Unjudged::Another(denial) | Unjudged::Named { denial, .. } | Unjudged::Untold(denial) => {
                Self::Denied(denial)
            }
            Unjudged::TooMany(why) => why.into(),
        }
    }
}

/// A caller whose identity was established for the request at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedCaller(Arc<Caller>);

impl JudgedCaller {
    /// The caller, to keep.
    pub fn shared(&self) -> Arc<Caller> {
        Arc::clone(&self.0)
    }
}

impl std::ops::Deref for JudgedCaller {
    type Target = Caller;
    fn deref(&self) -> &Caller {
        &self.0
    }
}

/// One connection of the agent, as far as identity goes: its tuple, its place among all of them and the last
/// answer.
pub struct Claim {
    identify: Arc<dyn Identify>,
    client: SocketAddr,
    local: SocketAddr,
    /// Its place among all connections: no agent's until the first look, then its maker's. `None` once it is
    /// no longer served.
    place: Mutex<Option<ConnectionSlot>>,
    first: OnceCell<Result<JudgedCaller, Unjudged>>,
    /// Its maker's party, once that is known.
    party: AtomicU64,
    /// Notified when the party becomes known.
    told: Notify,
    /// Whether any look found code of unknown origin in a holder: that code may have sent something before
    /// the program was executed anew, without it.
    foreign_code: AtomicBool,
    last: ArcSwapOption<(JudgedCaller, Instant)>,
    /// Whether a renewal is under way beside the requests.
    renewing: AtomicBool,
    /// Held while the caller is asked for anew.
    turn: tokio::sync::Mutex<()>,
}

impl Claim {
    /// A connection of which nothing is known yet.
    pub fn new(identify: Arc<dyn Identify>, client: SocketAddr, local: SocketAddr) -> Self {
        Self {
            identify,
            client,
            local,
            place: Mutex::default(),
            first: OnceCell::new(),
            party: AtomicU64::new(Party::UNKNOWN.0),
            told: Notify::new(),
            foreign_code: AtomicBool::new(false),
            last: ArcSwapOption::empty(),
            renewing: AtomicBool::new(false),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Gives the connection this place, for as long as it is watched.
    #[must_use]
    pub(crate) fn at(self, place: ConnectionSlot) -> Self {
        Self { place: Mutex::new(Some(place)), ..self }
    }

    /// The maker's party; [`Party::UNKNOWN`] until that is known.
    pub(crate) fn party(&self) -> Party {
        Party(self.party.load(Ordering::Acquire))
    }

    /// Waits until the maker's party is known and returns it. Starts no look itself; waits for ever if no
    /// look succeeds.
    pub(crate) async fn known_party(&self) -> Party {
        // Created before the party is read, so that a notification in between wakes it.
        let told = self.told.notified();
        if self.party() == Party::UNKNOWN {
            told.await;
        }
        self.party()
    }

    /// The agent's end.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// Serves the connection, and establishes who made it. If makers are not recorded, that comes before a
    /// byte is read: a program could send something and then hand the connection to another, which would be
    /// taken for the sender. Else it comes after [`MAKER_ASKED_WITHIN`], if no request has asked by then.
    ///
    /// # Errors
    /// The maker's agent has too many connections. This one is no longer served, whatever was going on, so
    /// that no agent holds more places by staying silent.
    pub(crate) async fn watch(&self, serving: impl Future<Output = ()>) -> Result<(), TooMany> {
        let _place = Placed(self);
        if !self.identify.notes_makers() {
            self.establish().await?;
            serving.await;
            return Ok(());
        }
        let asked_in_time = async {
            tokio::time::sleep(MAKER_ASKED_WITHIN).await;
            match self.establish().await {
                Ok(()) => std::future::pending().await,
                Err(too_many) => too_many,
            }
        };
        tokio::select! {
            () = serving => Ok(()),
            too_many = asked_in_time => Err(too_many),
        }
    }

    async fn establish(&self) -> Result<(), TooMany> {
        match self.first.get_or_init(|| self.ask_first()).await {
            Err(Unjudged::TooMany(too_many)) => Err(*too_many),
            // Any other refusal is the answer to each request.
            _ => Ok(()),
        }
    }

    async fn ask_first(&self) -> Result<JudgedCaller, Unjudged> {
        let first = self.ask(Look::First).await?;
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        match place.as_mut().map(|place| place.belongs_to(first.party)) {
            Some(Err(too_many)) => Err(Unjudged::TooMany(too_many)),
            None | Some(Ok(())) => {
                self.party.store(first.party.0, Ordering::Release);
                self.told.notify_waiters();
                Ok(first)
            }
        }
    }

    async fn ask(&self, look: Look) -> Result<JudgedCaller, Unjudged> {
        let mut caller = self.identify.identify(self.client, self.local, look).await?;
        caller.foreign_code |= self.foreign_code.fetch_or(caller.foreign_code, Ordering::Relaxed);
        if let Some(Ok(first)) = self.first.get() {
            // The connection is its maker's, whichever program uses it.
            caller.party = first.party;
        }
        Ok(JudgedCaller(Arc::new(caller)))
    }

    /// Returns the current caller, which must still be the program that made the connection.
    ///
    /// # Errors
    /// The identifier's denial, or that the connection has changed hands since it was made. A refusal of the
    /// first look stays for good; after a later one the next request asks anew.
    pub async fn judged(self: &Arc<Self>) -> Result<JudgedCaller, Unjudged> {
        let (mut asked, begun) = (false, Instant::now());
        let first = self.first.get_or_init(|| {
            asked = true;
            self.ask_first()
        });
        let first = first.await.clone()?;
        if asked {
            // This look found who held the connection when this request was there. A look from before the
            // first request's head ([`Self::watch`]) counts as fresh for no request.
            self.last.store(Some(Arc::new((first.clone(), begun))));
            return Ok(first);
        }
        if let Some(last) = self.last.load_full() {
            let age = last.1.elapsed();
            if age >= RENEWED_AFTER && age < IDENTITY_FRESH {
                self.renew_ahead();
            }
            if age < IDENTITY_FRESH {
                return Ok(last.0.clone());
            }
        }
        self.renew(&first).await
    }

    /// Whether the agent's end is still open. Also true if that can't be determined.
    pub(crate) async fn is_open(&self) -> bool {
        self.identify.is_open(self.client, self.local).await
    }

    /// Resolves when another program is seen to hold the connection while bytes pass (`moves` changes); for
    /// bytes that aren't judged one by one. One look that can't find the holder stops nothing, since another
    /// agent may have caused that. After [`MAX_UNTOLD_LOOKS`] of them in a row `hold(Some(denial))` stops all
    /// bytes, until a look succeeds and `hold(None)` is called. Also resolves when the client closes its end
    /// while bytes are held.
    pub(crate) async fn changes_hands(
        self: &Arc<Self>,
        moves: impl Fn() -> u64,
        hold: impl Fn(Option<Denial>),
    ) -> (Stop, Option<Denial>) {
        let (mut before, mut untold) = (moves(), 0_u32);
        loop {
            tokio::time::sleep(HOLDER_LOOK).await;
            let (now, held) = (moves(), untold >= MAX_UNTOLD_LOOKS);
            if now == before && !held {
                continue;
            }
            before = now;
            match self.judged().await {
                // If the agent has too many connections, `watch` ends this one.
                Ok(_) | Err(Unjudged::TooMany(_)) => {
                    untold = 0;
                    if held {
                        hold(None);
                        // What was held is polled in the same task, maybe before this: have the task polled
                        // once more.
                        tokio::task::yield_now().await;
                    }
                }
                Err(Unjudged::Another(denial) | Unjudged::Named { denial, .. }) => {
                    return (Stop::Hands, Some(denial));
                }
                Err(Unjudged::Untold(_)) if held => {
                    if !self.is_open().await {
                        return (Stop::Left, None);
                    }
                }
                Err(Unjudged::Untold(denial)) => {
                    untold += 1;
                    if untold >= MAX_UNTOLD_LOOKS {
                        hold(Some(still_untold(denial)));
                    }
                }
            }
        }
    }

    /// Renews the last answer in the background before it is too old, so that the next request needn't wait.
    /// A refusal leaves no answer: the next request asks itself.
    fn renew_ahead(self: &Arc<Self>) {
        if self.renewing.swap(true, Ordering::Relaxed) {
            return;
        }
        let claim = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(Ok(first)) = claim.first.get() {
                let _told_to_the_next_request = claim.renew(first).await;
            }
            claim.renewing.store(false, Ordering::Relaxed);
        });
    }

    /// Asks for the caller anew. One look at a time, so that an older answer never replaces a newer one; a
    /// call that waited takes an answer that was begun since.
    async fn renew(&self, first: &JudgedCaller) -> Result<JudgedCaller, Unjudged> {
        let since = Instant::now();
        let _turn = self.turn.lock().await;
        if let Some(last) = self.last.load_full().filter(|last| last.1 >= since) {
            return Ok(last.0.clone());
        }
        let begun = Instant::now();
        let asked = self.ask(Look::Again).await;
        // Only the program has to be the same: ancestors may exit, and the policy judges those that are left.
        let now = asked.and_then(|now| match now.executable == first.executable {
            true => Ok(now),
            false => Err(Unjudged::Named {
                denial: changed_hands(first, &now),
                program: now.executable.path.clone(),
            }),
        });
        // Dated by when the look was begun: what it saw is newer.
        self.last.store(now.as_ref().ok().map(|now| Arc::new((now.clone(), begun))));
        now
    }
}

/// Gives a connection's place back when it is no longer served, even if its claim is still held.
struct Placed<'a>(&'a Claim);

impl Drop for Placed<'_> {
    fn drop(&mut self) {
        self.0.place.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn still_untold(last: Denial) -> Denial {
    let detail =
        format!("{MAX_UNTOLD_LOOKS} looks in a row told nobody who holds the connection: {}", last.detail);
    Denial { detail, ..last }
}

fn changed_hands(first: &JudgedCaller, now: &JudgedCaller) -> Denial {
    Denial {
        layer: Layer::Identity,
        detail: format!(
            "the connection was made by {} and is held by {} now",
            first.executable.path, now.executable.path
        ),
        policy: None,
        hint: Some("a program must make its connections itself".to_owned()),
    }
}

#[cfg(test)]
mod tests;
