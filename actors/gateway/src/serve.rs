//! The gateway, and the first steps of a model request: shape → body → route. Then a `call` walks over the
//! route's targets.
//!
//! A request is served in its own task on one snapshot of the routes; no actor is asked. Nothing is sent
//! before it is recorded, and of the caller's request only the body and a short list of headers are sent at
//! all.

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use http::{HeaderMap, Request, Response};
use policy::parse_pool::ParsePool;
use policy::{Caller, Shares, Spent};
use redactor::Guesses;
use serde::Serialize;
use smol_str::SmolStr;

use crate::{
    Body,
    body::{Asked, BadBody, room},
    budgets::{self, Budgets, Shelf, Standing, Unreadable},
    call::Call,
    config::{Cost, Faults, Inference, Kind, Trust},
    credential::Credentials,
    health::Reading,
    ledger::{Exchange, Ledger},
    listing,
    refusal::{About, Refusal, clip},
    routes::{Provider, Routes, Target},
    shape::Endpoint,
    upstream::Dial,
    upstream_error::Scrub,
};

/// Most model requests in flight at the same time, streams included; each agent may have a share of them
/// ([`policy::Shares`]). Further ones are answered 503.
pub const MAX_IN_FLIGHT: usize = 128;

/// The capabilities and data that the gateway needs from outside this crate.
#[derive(Clone)]
pub struct Deps {
    /// Makes connections.
    pub dial: Arc<dyn Dial>,
    /// Keeps the record.
    pub ledger: Arc<dyn Ledger>,
    /// Scrubs error texts.
    pub scrub: Scrub,
    /// Keys, resolved before the start.
    pub credentials: Credentials,
    /// How much callers that guess at keys have learned.
    pub guesses: Guesses,
    /// Where the counts of budgets are stored; `None` keeps them in memory only.
    pub shelf: Option<Arc<dyn Shelf>>,
}

/// Answers requests to `inference.local`. Owned above its actor; cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    deps: Deps,
    routes: ArcSwap<Routes>,
    /// The bytes that request bodies may hold.
    room: Shares,
    /// Parses long bodies.
    pool: ParsePool,
    in_flight: Shares,
    budgets: Budgets,
}

/// One provider as `status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ProviderStatus {
    /// Its name.
    pub name: SmolStr,
    /// Its protocol.
    pub kind: Kind,
    /// Host and port.
    pub endpoint: String,
    /// How far the operator trusts it.
    pub trust: Trust,
    /// What it costs.
    pub cost: Cost,
    /// The reference of its key, never the key.
    pub credential: Option<String>,
    /// What its last requests showed.
    pub health: Reading,
}

impl Gateway {
    /// A gateway without routes: it refuses every model until [`Gateway::publish`].
    pub fn new(deps: Deps) -> Self {
        let ledger = Arc::clone(&deps.ledger);
        let budgets = Budgets::new(deps.shelf.clone(), Arc::new(move |standing| ledger.budgets(standing)));
        let (routes, in_flight) = (ArcSwap::default(), Shares::new(MAX_IN_FLIGHT));
        let inner = Inner { deps, routes, room: room(), pool: ParsePool::common(), in_flight, budgets };
        Self { inner: Arc::new(inner) }
    }

    /// Compiles a section and puts it in force atomically. Requests under way finish with the table they
    /// began with. The first section that has budgets reads their counts, a small file.
    ///
    /// # Errors
    /// All faults; the table and the budgets in force stay.
    pub fn publish(&self, inference: &Inference) -> Result<(), Faults> {
        let routes = Routes::compile(inference, &self.inner.deps.credentials, &self.routes())?;
        // Before the routes, so that no request takes a new route uncounted.
        self.inner.budgets.configure(budgets::limits(inference));
        self.inner.routes.store(Arc::new(routes));
        Ok(())
    }

    /// The table in force.
    pub fn routes(&self) -> Arc<Routes> {
        self.inner.routes.load_full()
    }

    /// Every provider with its health.
    pub fn status(&self) -> Vec<ProviderStatus> {
        let show = |p: &Arc<Provider>| ProviderStatus {
            name: p.name.clone(),
            kind: p.kind,
            endpoint: format!("{}:{}", p.base.host, p.base.port),
            trust: p.trust,
            cost: p.cost,
            credential: p.reference.clone(),
            health: p.lane.health.read(),
        };
        self.routes().providers().iter().map(show).collect()
    }

    /// Every budget as it stands, or why what was used isn't known.
    pub fn budgets(&self) -> (Vec<Standing>, Option<Unreadable>) {
        self.inner.budgets.standing()
    }

    /// Model requests in flight.
    pub fn in_flight(&self) -> usize {
        self.inner.in_flight.taken()
    }

    /// Closes kept connections that are too old, and reports how the budgets stand. Returns the number of
    /// connections that are still kept.
    pub fn sweep(&self) -> usize {
        self.inner.budgets.tell();
        let mut kept = 0;
        for provider in self.routes().providers() {
            kept += provider.lane.sweep();
        }
        kept
    }

    /// Answers one request. Never fails: every fault becomes an answer.
    pub async fn serve(&self, request: Request<Body>, caller: Caller, request_id: &str) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let exchange = Exchange {
            request_id: request_id.into(),
            method: parts.method.clone(),
            path: clip(parts.uri.path()).into(),
            asked: None,
            streamed: false,
            route: None,
            provider: None,
            upstream_model: None,
            caller,
        };
        let binary = exchange.caller.executable.path.clone();
        let about = About {
            host: parts.uri.host().unwrap_or("inference.local"),
            port: parts.uri.port_u16().unwrap_or(if parts.uri.scheme_str() == Some("http") {
                80
            } else {
                443
            }),
            method: parts.method.as_str(),
            path: parts.uri.path(),
            binary: Some(&binary),
            route: None,
            request_id,
        };
        let query = parts.uri.query();
        let mut stage = Stage { about, exchange };
        match self.answer(&parts.headers, &parts.method, query, body, &mut stage).await {
            Ok(response) => response,
            Err(refusal) => {
                self.inner.deps.ledger.refused(&stage.exchange, &refusal);
                refusal.respond(&About { route: stage.exchange.route.as_deref(), ..stage.about })
            }
        }
    }

    async fn answer<'a>(
        &self,
        headers: &HeaderMap,
        method: &http::Method,
        query: Option<&str>,
        body: Body,
        stage: &mut Stage<'a>,
    ) -> Result<Response<Body>, Refusal> {
        let began = Instant::now();
        let endpoint = Endpoint::judge(method, stage.about.path, query, headers)?;
        let routes = self.routes();
        let caller = &stage.exchange.caller;
        if !routes.programs.admit(caller) {
            return Err(routes.programs.refusal(caller, stage.about.host, "inference.binaries"));
        }
        let Some(kind) = endpoint.kind() else {
            let Some(id) = endpoint.model(stage.about.path) else {
                return Ok(listing::all(&routes, caller, stage.about.request_id));
            };
            stage.exchange.asked = Some(clip(&id).into());
            return listing::one(&routes, &stage.exchange.caller, &id, stage.about.request_id);
        };
        let party = stage.exchange.caller.party;
        let place = self.inner.in_flight.take(party, 1).map_err(|spent| {
            Refusal::unavailable(match spent {
                Spent::All => "too many model requests at one time",
                Spent::Share => "too many model requests of this agent at one time",
            })
        })?;
        let room = self.inner.room.take(party, 0).map_err(BadBody::NoRoom)?;
        let asked = Asked::read(body, room, (&self.inner.pool, party)).await?;
        stage.exchange.asked = Some(clip(asked.model()).into());
        stage.exchange.streamed = asked.stream;
        asked.fits(endpoint)?;
        let caller = &stage.exchange.caller;
        let route = routes
            .find(asked.model())
            .ok_or_else(|| Refusal::no_route(asked.model(), &routes.listed(caller)))?;
        stage.exchange.route = Some(route.alias.as_str().into());
        if !route.programs.admit(&stage.exchange.caller) {
            let of = format!("the route \"{}\"", route.alias);
            return Err(route.programs.refusal(&stage.exchange.caller, &of, "inference.routes[].binaries"));
        }
        let targets: Vec<&Target> = route.targets.iter().filter(|t| t.provider.kind == kind).collect();
        if targets.is_empty() {
            return Err(Refusal::denied(format!(
                "no provider of the route \"{}\" speaks the {} protocol",
                route.alias,
                kind.as_str()
            )));
        }
        let query = endpoint.upstream_query(query).unwrap_or_default();
        let deps = &self.inner.deps;
        let budgets = &self.inner.budgets;
        let call =
            Call { deps, budgets, route: &route, kind, endpoint, query, headers, asked: &asked, began };
        call.answered(&targets, place, stage).await
    }
}

/// What is known of the request so far, for the refusal and the record.
pub(crate) struct Stage<'a> {
    pub about: About<'a>,
    pub exchange: Exchange,
}
