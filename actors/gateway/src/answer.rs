//! Turns a provider's answer into the agent's: checks and filters its head, scrubs its error, searches its
//! body for the key as it passes.
//!
//! Whether another provider is asked instead is not decided here.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use policy::Share;
use redactor::{Guesser, Sieve};

use crate::{
    Body,
    budgets::Reservation,
    charset,
    config::Timeouts,
    failover::TEXT_WITHIN,
    headers,
    lane::Lease,
    refusal::{REQUEST_ID, Refusal},
    relay::{Relay, Story},
    routes::Provider,
    serve::{Deps, Stage},
    shape::Endpoint,
    upstream_error::{ERROR_DEADLINE, scrubbed},
    usage::Tap,
    withhold::Withhold,
};

/// The context in which an answer is judged and passed on.
pub(crate) struct Around<'a> {
    pub deps: &'a Deps,
    pub provider: &'a Provider,
    pub endpoint: Endpoint,
    pub timeouts: Timeouts,
    /// When the request came.
    pub began: Instant,
    /// Whether the gateway asked the provider for a usage that the agent didn't ask for, and so must not see.
    pub unasked: bool,
}

impl Around<'_> {
    fn sieve(&self, stage: &Stage<'_>) -> Sieve {
        self.provider.screen.sieve(reader(self.deps, stage))
    }
}

/// The caller as the reader of the answer, who may guess at keys.
fn reader(deps: &Deps, stage: &Stage<'_>) -> Guesser {
    let (ledger, exchange) = (Arc::clone(&deps.ledger), stage.exchange.clone());
    deps.guesses.of(exchange.caller.party.0, move || ledger.guessed(&exchange))
}

/// Passes an answer on: an error whole and scrubbed, anything else as it comes.
///
/// # Errors
/// The answer is one that is never passed on.
pub(crate) async fn relayed(
    around: &Around<'_>,
    response: Response<Incoming>,
    (place, lease, held): (Share, Lease, Option<Reservation>),
    stage: &Stage<'_>,
) -> Result<Response<Body>, Refusal> {
    let provider = around.provider;
    fit(provider, &response)?;
    let status = response.status();
    let mut headers = head(provider, response.headers(), stage);
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let tap = Tap::new(kind);
    let story = Story {
        ledger: around.deps.ledger.clone(),
        exchange: stage.exchange.clone(),
        code: status.as_u16(),
        kind: provider.kind,
        answers: around.endpoint.is_answered_in_tokens(),
        held,
    };
    let (sieve, times) = (around.sieve(stage), (around.began, around.timeouts));
    let (story, holds) = (Some(story), (place, Some(lease)));
    let body = if status.is_success() {
        let unasked = around.unasked && tap.reads_events();
        let withhold = unasked.then(Withhold::default);
        Relay::new(response.into_body(), (withhold, sieve), tap, times, story, holds).boxed_unsync()
    } else {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let text = scrubbed(response, provider, &around.deps.scrub, ERROR_DEADLINE).await;
        Relay::new(Full::new(text), (None, sieve), tap, times, story, holds).boxed_unsync()
    };
    Ok(whole(status, headers, body))
}

/// An error answer of a provider that didn't serve. It becomes the agent's answer if no other provider gives
/// a better one.
pub(crate) struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    text: Bytes,
    sieve: Sieve,
}

impl Answered {
    /// Reads the error, scrubbed like any other.
    pub async fn read(response: Response<Incoming>, around: &Around<'_>, stage: &Stage<'_>) -> Self {
        let status = response.status();
        let mut headers = head(around.provider, response.headers(), stage);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let sieve = around.sieve(stage);
        // A compressed error isn't JSON, and so is replaced.
        let text = scrubbed(response, around.provider, &around.deps.scrub, TEXT_WITHIN).await;
        Self { status, headers, text, sieve }
    }

    /// Length of its text.
    pub fn bytes(&self) -> u64 {
        self.text.len() as u64
    }

    /// Makes the error the agent's answer. It is on record already.
    pub fn given(self, times: (Instant, Timeouts), place: Share) -> Response<Body> {
        let (body, sifted) = (Full::new(self.text), (None, self.sieve));
        let relay = Relay::new(body, sifted, Tap::new(""), times, None, (place, None));
        whole(self.status, self.headers, relay.boxed_unsync())
    }
}

/// Checks whether an answer may be passed on at all.
pub(crate) fn fit(provider: &Provider, response: &Response<Incoming>) -> Result<(), Refusal> {
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
    if !charset::is_clear(response.headers()) {
        return Err(Refusal::unreachable(format!(
            "provider {} answered in a character set in which it can't be checked",
            provider.name
        )));
    }
    Ok(())
}

/// The headers that go to the agent: none that holds the key.
fn head(provider: &Provider, from: &HeaderMap, stage: &Stage<'_>) -> HeaderMap {
    let mut headers = headers::downstream(from);
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
    headers
}

fn whole(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}
