//! The road of one model request: shape → body → route → record → provider → answer.
//!
//! A task walks it over one snapshot of the routes; no actor is asked. Nothing is sent before it is recorded, and
//! nothing of the caller's but the body and a short list of headers is sent at all.

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use policy::{Caller, Share, Shares, Spent};
use redactor::{Guesser, Guesses};
use serde::Serialize;
use smol_str::SmolStr;

use crate::{
    Body,
    body::{Asked, BadBody, room},
    config::{Cost, Faults, Inference, Kind, StreamUsage, Trust},
    credential::Credentials,
    headers,
    health::Reading,
    lane::{Lease, Unsent},
    ledger::{Exchange, Ledger},
    listing,
    outgoing::Outgoing,
    refusal::{About, REQUEST_ID, Refusal, clip},
    relay::{Relay, Story},
    routes::{Provider, Route, Routes, Target},
    shape::Endpoint,
    upstream::{Dial, Upstream},
    upstream_error::{Scrub, scrubbed},
    usage::Tap,
    withhold::Withhold,
};

/// Model requests in flight at one time, streams included, of which one agent has its share ([`policy::Shares`]). More are answered 503.
pub const MAX_IN_FLIGHT: usize = 128;

/// What the gateway needs of the world.
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
    /// What who guesses has learned of them.
    pub guesses: Guesses,
}

/// Answers for `inference.local`. Lives above its actor; cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    deps: Deps,
    routes: ArcSwap<Routes>,
    /// Bytes of bodies.
    room: Shares,
    in_flight: Shares,
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
    /// As the operator judged it.
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
        let inner =
            Inner { deps, routes: ArcSwap::default(), room: room(), in_flight: Shares::new(MAX_IN_FLIGHT) };
        Self { inner: Arc::new(inner) }
    }

    /// Compiles a section and puts it in force in one step. Requests under way end on the table they began with.
    ///
    /// # Errors
    /// All faults; the table in force stays.
    pub fn publish(&self, inference: &Inference) -> Result<(), Faults> {
        let routes = Routes::compile(inference, &self.inner.deps.credentials, &self.routes())?;
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

    /// Model requests in flight.
    pub fn in_flight(&self) -> usize {
        self.inner.in_flight.taken()
    }

    /// Closes kept connections that are too old; gives how many are kept still.
    pub async fn sweep(&self) -> usize {
        let mut kept = 0;
        for provider in self.routes().providers() {
            kept += provider.lane.sweep().await;
        }
        kept
    }

    /// Answers one request. Never fails: every fault is an answer.
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
        let Some(kind) = endpoint.kind() else {
            let Some(id) = endpoint.model(stage.about.path) else {
                return Ok(listing::all(&routes, stage.about.request_id));
            };
            stage.exchange.asked = Some(clip(&id).into());
            return listing::one(&routes, &id, stage.about.request_id);
        };
        let party = stage.exchange.caller.party;
        let place = self.inner.in_flight.take(party, 1).map_err(|spent| {
            Refusal::unavailable(match spent {
                Spent::All => "too many model requests at one time",
                Spent::Share => "too many model requests of this agent at one time",
            })
        })?;
        let room = self.inner.room.take(party, 0).map_err(BadBody::NoRoom)?;
        let asked = Asked::read(body, room).await?;
        stage.exchange.asked = Some(clip(asked.model()).into());
        stage.exchange.streamed = asked.stream;
        asked.fits(endpoint)?;
        let route =
            routes.find(asked.model()).ok_or_else(|| Refusal::no_route(asked.model(), &routes.listed()))?;
        stage.exchange.route = Some(route.alias.as_str().into());
        let targets: Vec<&Target> = route.targets.iter().filter(|t| t.provider.kind == kind).collect();
        if targets.is_empty() {
            return Err(Refusal::denied(format!(
                "no provider of the route \"{}\" speaks the {} protocol",
                route.alias,
                kind.as_str()
            )));
        }
        let query = endpoint.upstream_query(query).unwrap_or_default();
        let call =
            Call { gateway: self, route: &route, kind, endpoint, query, headers, asked: &asked, began };
        call.first_that_connects(&targets, place, stage).await
    }
}

/// What is known of the request so far, for the refusal and the record.
struct Stage<'a> {
    about: About<'a>,
    exchange: Exchange,
}

/// A request with its route.
struct Call<'a> {
    gateway: &'a Gateway,
    route: &'a Route,
    kind: Kind,
    endpoint: Endpoint,
    query: &'static str,
    headers: &'a HeaderMap,
    asked: &'a Asked,
    began: Instant,
}

impl Call<'_> {
    /// Tries the targets in order, going on only while nothing was sent to anyone.
    async fn first_that_connects(
        &self,
        targets: &[&Target],
        place: Share,
        stage: &mut Stage<'_>,
    ) -> Result<Response<Body>, Refusal> {
        let deps = &self.gateway.inner.deps;
        let mut last = Refusal::unreachable("no provider could be tried");
        for target in targets {
            let provider = &*target.provider;
            stage.exchange.provider = Some(provider.name.clone());
            stage.exchange.upstream_model = target.model.clone().or_else(|| stage.exchange.asked.clone());
            deps.ledger
                .admit(&stage.exchange)
                .map_err(|_| Refusal::unavailable("the audit log can't take a record, so nothing is sent"))?;
            let outgoing = self.outgoing(target)?;
            let upstream = Upstream::of(&provider.base);
            let left = self.route.timeouts.total.saturating_sub(self.began.elapsed());
            let party = stage.exchange.caller.party;
            let sending = provider.lane.send(party, &*deps.dial, &upstream, &outgoing, &self.route.timeouts);
            let sent = tokio::time::timeout(left, sending)
                .await
                .unwrap_or(Err(Unsent::FirstByteTimeout(self.route.timeouts.total)));
            match sent {
                Ok((response, lease)) => {
                    deps.ledger.first_byte(&stage.exchange, self.began.elapsed());
                    return self.relay(response, provider, (place, lease), stage).await;
                }
                Err(fault) => {
                    tracing::warn!(provider = %provider.name, %fault, request_id = stage.about.request_id, "inference request failed");
                    last = Refusal::unsent(&provider.name, &fault);
                    if !fault.may_try_another() {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    fn outgoing(&self, target: &Target) -> Result<Outgoing, Refusal> {
        let provider = &target.provider;
        let path = provider.base.join(self.endpoint.path(), self.kind == Kind::Openai);
        let headers = headers::upstream(self.headers, self.kind, provider.key.as_ref()).map_err(|_| {
            Refusal::unreachable(format!("provider {}: its key can't stand in a header", provider.name))
        })?;
        Ok(Outgoing {
            path_and_query: format!("{path}{}", self.query),
            authority: provider.base.authority(),
            tls: provider.base.tls,
            headers,
            body: self
                .asked
                .with_model(target.model.as_deref().unwrap_or(self.asked.model()), self.asks_usage(provider)),
            held: self.asked.held(),
        })
    }

    /// Whether the provider is asked what the stream used, which the agent didn't ask and is not told.
    fn asks_usage(&self, provider: &Provider) -> bool {
        provider.stream_usage == StreamUsage::Ask
            && self.endpoint.has_stream_options()
            && self.asked.leaves_usage_open()
    }

    /// Whoever reads the answer.
    fn reader(&self, stage: &Stage<'_>) -> Guesser {
        let deps = &self.gateway.inner.deps;
        let (ledger, exchange) = (Arc::clone(&deps.ledger), stage.exchange.clone());
        deps.guesses.of(exchange.caller.party.0, move || ledger.guessed(&exchange))
    }

    async fn relay(
        &self,
        response: Response<Incoming>,
        provider: &Provider,
        holds: (Share, Lease),
        stage: &Stage<'_>,
    ) -> Result<Response<Body>, Refusal> {
        let status = response.status();
        if status.is_redirection()
            || status.is_informational()
            || status == StatusCode::PROXY_AUTHENTICATION_REQUIRED
        {
            return Err(Refusal::unreachable(format!(
                "provider {} answered {}; redirects are never followed",
                provider.name,
                status.as_u16()
            )));
        }
        let encoded = response.headers().get_all(header::CONTENT_ENCODING).iter();
        if encoded.into_iter().any(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(Refusal::unreachable(format!(
                "provider {} compressed its answer unasked, so it can't be checked",
                provider.name
            )));
        }
        let mut headers = headers::downstream(response.headers());
        let leaking: Vec<_> = headers
            .iter()
            .filter(|(name, value)| {
                [name.as_str().as_bytes(), value.as_bytes()].iter().any(|text| provider.screen.finds(text))
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in leaking {
            headers.remove(name);
        }
        if let Ok(id) = HeaderValue::from_str(stage.about.request_id) {
            headers.insert(REQUEST_ID, id);
        }
        let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let tap = Tap::new(kind);
        let story = Story {
            ledger: self.gateway.inner.deps.ledger.clone(),
            exchange: stage.exchange.clone(),
            code: status.as_u16(),
            began: self.began,
        };
        let sieve = provider.screen.sieve(self.reader(stage));
        let body = if status.is_success() {
            let unasked = self.asks_usage(provider) && tap.reads_events();
            let withhold = unasked.then(Withhold::default);
            Relay::new(response.into_body(), (withhold, sieve), tap, self.route.timeouts, story, holds)
                .boxed_unsync()
        } else {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let text = scrubbed(response, provider, &self.gateway.inner.deps.scrub).await;
            Relay::new(Full::new(text), (None, sieve), tap, self.route.timeouts, story, holds).boxed_unsync()
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }
}
