//! One request with its route: asks the route's targets in turn, each with its own provider's key, until one
//! has an answer for the agent.
//!
//! Every attempt is admitted and recorded by itself. The agent gets the answer of the last provider that gave
//! one, never one of our own if any provider answered. Which failure lets another target be asked is decided
//! in [`failover`], and what of an answer is passed on in [`answer`].

use std::time::Instant;

use http::{HeaderMap, Method, Response};
use hyper::body::Incoming;
use policy::Share;

use crate::{
    Body,
    answer::{self, Answered, Around},
    body::Asked,
    budgets::{Budgets, Estimate, NotAdmitted, Reservation, now},
    config::{Kind, StreamUsage},
    failover, headers,
    lane::{Lease, Unsent},
    ledger::Outcome,
    options::Telling,
    outgoing::Outgoing,
    refusal::Refusal,
    routes::{Provider, Route, Target},
    serve::{Deps, Stage},
    shape::Endpoint,
    upstream::Upstream,
    usage::Tokens,
};

/// A request and its route; see the module.
pub(crate) struct Call<'a> {
    pub deps: &'a Deps,
    pub budgets: &'a Budgets,
    pub route: &'a Route,
    pub kind: Kind,
    pub endpoint: Endpoint,
    pub query: &'static str,
    pub headers: &'a HeaderMap,
    pub asked: &'a Asked,
    /// When the request came.
    pub began: Instant,
}

/// The outcome of asking one target.
enum Came {
    /// An answer for the agent.
    Answer(Response<Incoming>, Lease, Option<Reservation>),
    /// An answer that says that the request wasn't served; another target may be asked.
    PassedOver(Answered),
    /// Nothing was sent: the provider can't be connected to, or a budget for it has no room or couldn't count
    /// the request. Another target may be asked.
    NotReached(Refusal),
    /// Nothing was sent, and nothing may be sent to any other target.
    NoMore(Refusal),
}

impl Call<'_> {
    /// Asks the targets in turn until one answers.
    ///
    /// # Errors
    /// No provider gave an answer, or one may have served the request without giving an answer.
    pub async fn answered(
        &self,
        targets: &[&Target],
        place: Share,
        stage: &mut Stage<'_>,
    ) -> Result<Response<Body>, Refusal> {
        let moves = !self.asked.leans_on_provider(self.endpoint);
        let order = if moves { failover::order(targets, Instant::now()) } else { targets.to_vec() };
        let (mut given, mut last) = (None, Refusal::unreachable("no provider could be tried"));
        for (n, target) in order.iter().enumerate() {
            let is_last = n + 1 == order.len();
            match self.ask(target, moves && !is_last, stage).await? {
                Came::Answer(response, lease, held) => {
                    self.deps.ledger.first_byte(&stage.exchange, self.began.elapsed());
                    return answer::relayed(
                        &self.around(&target.provider, held.as_ref()),
                        response,
                        (place, lease, held),
                        stage,
                    )
                    .await;
                }
                Came::PassedOver(answered) => given = Some(answered),
                Came::NotReached(refusal) if is_last && given.is_none() => last = refusal,
                Came::NoMore(refusal) if given.is_none() => return Err(refusal),
                // The target that ends the walk is recorded with the refusal, by the caller.
                Came::NotReached(refusal) => self.deps.ledger.refused(&stage.exchange, &refusal),
                Came::NoMore(refusal) => {
                    self.deps.ledger.refused(&stage.exchange, &refusal);
                    break;
                }
            }
        }
        let Some(given) = given else { return Err(last) };
        self.deps.ledger.first_byte(&stage.exchange, self.began.elapsed());
        Ok(given.given((self.began, self.route.timeouts), place))
    }

    /// Asks one target; `another` says whether a further one may be asked after it.
    async fn ask(&self, target: &Target, another: bool, stage: &mut Stage<'_>) -> Result<Came, Refusal> {
        let provider = &target.provider;
        let left = self.route.timeouts.total.saturating_sub(self.began.elapsed());
        if left.is_zero() {
            let late = Unsent::FirstByteTimeout(self.route.timeouts.total);
            return Ok(Came::NotReached(Refusal::unsent(&provider.name, &late)));
        }
        stage.exchange.provider = Some(provider.name.clone());
        stage.exchange.upstream_model = target.model.clone().or_else(|| stage.exchange.asked.clone());
        let mut held = match self.budgets.admit(&provider.name, self.asked.model(), self.estimate()).await {
            Ok(held) => held,
            Err(why) => return Ok(not_admitted(&why)),
        };
        if let Some(refusal) = self.untold(provider, held.as_ref()) {
            return Ok(Came::NotReached(refusal));
        }
        self.deps.ledger.admit(&stage.exchange).map_err(|why| {
            Refusal::unavailable(format!("the audit log can't take a record ({why}), so nothing is sent"))
        })?;
        let outgoing = self.outgoing(target, held.as_ref())?;
        let upstream = Upstream::of(&provider.base);
        held.iter_mut().for_each(Reservation::sent);
        let party = stage.exchange.caller.party;
        let sending = provider.lane.send(party, &*self.deps.dial, &upstream, &outgoing, &self.route.timeouts);
        let sent = tokio::time::timeout(left, sending)
            .await
            .unwrap_or(Err(Unsent::FirstByteTimeout(self.route.timeouts.total)));
        match sent {
            Ok((response, lease)) => {
                let (status, headers) = (response.status(), response.headers());
                if !failover::is_passed_over(status, headers) {
                    if status.is_success() {
                        target.works();
                    }
                    return Ok(Came::Answer(response, lease, held));
                }
                target.rest(Instant::now(), failover::rest(status, headers));
                if another {
                    // A provider that says that it didn't serve used no tokens; the request itself counts.
                    held.into_iter().for_each(|held| held.settle(0));
                    return Ok(Came::PassedOver(self.passed_over(provider, response, lease, stage).await));
                }
                Ok(Came::Answer(response, lease, held))
            }
            Err(fault) => {
                let request_id = stage.about.request_id;
                if let Some(untold) = provider.lane.complaints.told(Instant::now()) {
                    tracing::warn!(provider = %provider.name, %fault, request_id, untold, "inference request failed");
                }
                let refusal = Refusal::unsent(&provider.name, &fault);
                if !fault.may_try_another() {
                    return Err(refusal);
                }
                held.into_iter().for_each(Reservation::cancel);
                provider.lane.rest.begin(Instant::now(), crate::rest::REST);
                Ok(Came::NotReached(refusal))
            }
        }
    }

    /// Reads and records the answer of a provider that didn't serve, and releases its connection.
    async fn passed_over(
        &self,
        provider: &Provider,
        response: Response<Incoming>,
        lease: Lease,
        stage: &Stage<'_>,
    ) -> Answered {
        let code = response.status().as_u16();
        tracing::info!(provider = %provider.name, code, request_id = stage.about.request_id, "passed over");
        let answered = Answered::read(response, &self.around(provider, None), stage).await;
        drop(lease);
        let outcome = Outcome {
            code,
            tokens: Tokens::default(),
            bytes: answered.bytes(),
            took: self.began.elapsed(),
            complete: true,
            passed_over: true,
        };
        self.deps.ledger.finished(&stage.exchange, &outcome);
        answered
    }

    fn around<'b>(&'b self, provider: &'b Provider, held: Option<&Reservation>) -> Around<'b> {
        Around {
            deps: self.deps,
            provider,
            endpoint: self.endpoint,
            timeouts: self.route.timeouts,
            began: self.began,
            unasked: self.asks_usage(provider, held),
        }
    }

    fn outgoing(&self, target: &Target, held: Option<&Reservation>) -> Result<Outgoing, Refusal> {
        let provider = &target.provider;
        let path = provider.base.join(self.endpoint.path(), self.kind == Kind::Openai);
        let headers = headers::upstream(self.headers, self.kind, provider.key.as_ref()).map_err(|_| {
            Refusal::unreachable(format!("provider {}: its key can't stand in a header", provider.name))
        })?;
        Ok(Outgoing {
            method: Method::POST,
            path_and_query: format!("{path}{}", self.query),
            authority: provider.base.authority(),
            tls: provider.base.tls,
            headers,
            body: self.asked.with_model(
                target.model.as_deref().unwrap_or(self.asked.model()),
                self.asks_usage(provider, held),
            ),
            held: self.asked.held(),
        })
    }

    fn estimate(&self) -> Estimate {
        self.asked.estimate(self.endpoint)
    }

    /// Whether the gateway asks the provider for the stream's usage where the agent doesn't; the agent isn't
    /// shown it then. If the agent declined the usage, that is overridden only where a budget counts tokens.
    fn asks_usage(&self, provider: &Provider, held: Option<&Reservation>) -> bool {
        let wanted = match self.asked.telling() {
            Telling::Open(_) => true,
            Telling::Declined(_) => held.is_some_and(Reservation::counts_tokens),
            Telling::Asked | Telling::Unclear => false,
        };
        wanted && provider.stream_usage == StreamUsage::Ask && self.endpoint.has_stream_options()
    }

    /// Refuses a request whose usage the provider wouldn't report, if a budget is to count its tokens.
    fn untold(&self, provider: &Provider, held: Option<&Reservation>) -> Option<Refusal> {
        if !held.is_some_and(Reservation::counts_tokens) {
            return None;
        }
        if self.asked.is_in_background(self.endpoint) {
            return Some(Refusal::uncounted("`background` isn't taken", "ask without `background`"));
        }
        let unclear = *self.asked.telling() == Telling::Unclear && self.endpoint.has_stream_options();
        (unclear && provider.stream_usage == StreamUsage::Ask).then(|| {
            let detail = "`stream_options` must be one object, with one `include_usage` at most";
            Refusal::uncounted(detail, "write each once, in small letters, or leave it out")
        })
    }
}

/// If a budget of this provider alone is spent, the other targets may be asked; any other budget would refuse
/// them too.
fn not_admitted(why: &NotAdmitted) -> Came {
    let refusal = Refusal::not_admitted(why, now());
    match why {
        NotAdmitted::Spent(spent) if spent.which.provider.is_some() => Came::NotReached(refusal),
        _ => Came::NoMore(refusal),
    }
}
