//! What the agent is told when it gets no model's answer. All refusals have one JSON shape, as on every layer
//! of cofferdam.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use serde::Serialize;

use crate::{
    Body,
    body::BadBody,
    budgets::{self, Counts, NotAdmitted, Spent, Which},
    lane::Unsent,
    shape::Misshapen,
};

/// The header that carries the id of a request, for the audit log.
pub const REQUEST_ID: &str = "x-cofferdam-request-id";

/// The layer that refuses what is no model request, or has no route.
pub const INFERENCE: &str = "inference";
/// The layer that refuses a request for which a budget has no room.
pub const BUDGET: &str = "budget";

/// Longest piece of the agent's own text that is repeated to it.
const MAX_ECHO: usize = 256;
/// `Retry-After` in seconds where only requests in flight hold what is left of a budget.
const CROWDED_AGAIN: u64 = 5;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// `error` in the body; from a closed set.
    pub code: &'static str,
    /// The layer that refused: [`INFERENCE`] or [`BUDGET`].
    pub layer: &'static str,
    /// What happened, in one sentence.
    pub detail: String,
    /// What would help.
    pub hint: Option<String>,
    /// `Allow`, on a 405.
    pub allow: Option<&'static str>,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { status, code, layer: INFERENCE, detail, hint: None, allow: None, retry_after: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// 403: the routes don't allow it.
    pub fn denied(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "policy_denied", detail)
    }

    /// 403: no route for a model.
    pub fn no_route(model: &str, listed: &[smol_str::SmolStr]) -> Self {
        Self::denied(format!("no route serves the model \"{}\"", clip(model))).hint(with_a_route(listed))
    }

    /// 404: a model that the list doesn't have.
    pub fn no_model(model: &str, listed: &[smol_str::SmolStr]) -> Self {
        let detail = format!("no model \"{}\" is listed", clip(model));
        Self::new(StatusCode::NOT_FOUND, "not_found", detail).hint(with_a_route(listed))
    }

    /// 403: a budget has no room for the request; 503: the counts can't be read or written.
    pub(crate) fn not_admitted(why: &NotAdmitted, now: u64) -> Self {
        // The causes are about the operator's machine, so they go to the log only.
        let refused = match why {
            NotAdmitted::Spent(spent) => Self::spent(spent, now),
            NotAdmitted::Unreadable(_) => {
                let file = budgets::FILE;
                Self::unavailable("what was used of the budgets can't be read, so nothing is sent").hint(
                    format!("the operator mends {file} in the sandbox's state directory, or removes it to count anew"),
                )
            }
            NotAdmitted::Unwritable(_) => {
                Self::unavailable("what is used of the budgets can't be put on disk, so nothing is sent")
                    .hint("the operator makes room on the disk that holds the sandbox's state directory")
            }
        };
        Self { layer: BUDGET, ..refused }
    }

    fn spent(spent: &Spent, now: u64) -> Self {
        let left = spent.ends.saturating_sub(now).max(1);
        let opens = format!("from {} on, when it opens anew", budgets::written(spent.ends));
        let (how, hint, after) = if spent.crowded {
            let hint = format!("ask for less, again when those are answered, or {opens}");
            ("has no room for this request beside those in flight", hint, left.min(CROWDED_AGAIN))
        } else {
            ("is spent", format!("ask again {opens}"), left)
        };
        let denied = Self::denied(format!("{} {how}", named(spent))).hint(hint);
        Self { retry_after: Some(after), ..denied }
    }

    /// 400: a budget counts the request's tokens, but the usage wouldn't be reported.
    pub(crate) fn uncounted(what: &str, hint: &str) -> Self {
        let detail = format!("{what} where a budget counts tokens: what was used would not be told");
        Self { layer: BUDGET, ..Self::new(StatusCode::BAD_REQUEST, "bad_request", detail).hint(hint) }
    }

    /// 503: a part is restarting or full.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).hint("try again shortly")
    }

    /// 502: the provider gave no usable answer.
    pub fn unreachable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "upstream_unreachable", detail)
    }

    pub(crate) fn unsent(provider: &str, fault: &Unsent) -> Self {
        match fault {
            // The cause may name addresses of the operator's network, so it goes to the log and must never
            // reach the agent.
            Unsent::Connect(_) => Self::unreachable(format!("provider {provider} can't be connected to")),
            Unsent::Broken(_) => {
                Self::unreachable(format!("provider {provider} broke off or answered no HTTP"))
            }
            Unsent::Unwritable => {
                Self::unreachable(format!("provider {provider} can't be sent this request"))
            }
            Unsent::ConnectTimeout(after) | Unsent::FirstByteTimeout(after) => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", format!("provider {provider}: {fault}"))
                    .hint(format!("the operator can raise the route's time-out of {after:?}"))
            }
        }
    }

    /// The answer for the agent.
    pub fn respond(&self, about: &About<'_>) -> Response<Body> {
        #[derive(Serialize)]
        struct Shown<'a> {
            error: &'a str,
            layer: &'a str,
            detail: &'a str,
            host: &'a str,
            port: u16,
            method: &'a str,
            path: &'a str,
            binary: Option<&'a str>,
            policy: Option<&'a str>,
            request_id: &'a str,
            hint: Option<&'a str>,
        }
        let shown = Shown {
            error: self.code,
            layer: self.layer,
            detail: &self.detail,
            host: about.host,
            port: about.port,
            method: about.method,
            path: clip(about.path),
            binary: about.binary,
            policy: about.route,
            request_id: about.request_id,
            hint: self.hint.as_deref(),
        };
        let mut response = json(self.status, &shown, about.request_id);
        if let Some(allow) = self.allow {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// The request that an answer is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The host, as the agent addressed it.
    pub host: &'a str,
    /// The port, as the agent addressed it.
    pub port: u16,
    /// Method.
    pub method: &'a str,
    /// Path.
    pub path: &'a str,
    /// The caller's executable.
    pub binary: Option<&'a str>,
    /// The alias of the route, once it is known.
    pub route: Option<&'a str>,
    /// The id of this request.
    pub request_id: &'a str,
}

/// A JSON answer of our own.
pub(crate) fn json(status: StatusCode, value: &impl Serialize, request_id: &str) -> Response<Body> {
    let text = serde_json::to_vec(value).unwrap_or_default();
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, id);
    }
    response
}

/// Names a budget for a refusal.
fn named(spent: &Spent) -> String {
    let Which { per, provider, model } = &spent.which;
    let what = match spent.counts {
        Counts::Tokens => "tokens",
        Counts::Requests => "requests",
    };
    let of = |what: &str, name: &Option<smol_str::SmolStr>| {
        name.as_ref().map_or_else(String::new, |name| format!(", {what} {name}"))
    };
    let (provider, model) = (of("provider", provider), of("model", model));
    format!("the budget of {} {what} a {}{provider}{model}", spent.limit, per.as_str())
}

/// A hint that lists models that could be asked for instead.
fn with_a_route(listed: &[smol_str::SmolStr]) -> String {
    let known: Vec<_> = listed.iter().take(8).map(|m| m.as_str()).collect();
    if known.is_empty() {
        "the operator adds a route under `inference.routes`".into()
    } else {
        format!("models with a route: {}", known.join(", "))
    }
}

pub(crate) fn clip(text: &str) -> &str {
    let mut end = text.len().min(MAX_ECHO);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

impl From<Misshapen> for Refusal {
    fn from(fault: Misshapen) -> Self {
        let bad = |status, detail: &str| Self::new(status, "bad_request", detail);
        match fault {
            Misshapen::UnknownPath => Self::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "inference.local has no such path",
            )
            .hint(
                "GET /v1/models, /v1/models/{id}; POST /v1/chat/completions, /v1/completions, /v1/responses, /v1/embeddings, \
                     /v1/messages, /v1/messages/count_tokens",
            ),
            Misshapen::Method(takes) => Self {
                allow: Some(takes),
                ..bad(StatusCode::METHOD_NOT_ALLOWED, &format!("this path takes {takes}"))
            },
            Misshapen::Query => bad(StatusCode::BAD_REQUEST, "this path takes no such query"),
            Misshapen::ContentType => {
                bad(StatusCode::BAD_REQUEST, "the body must be declared `content-type: application/json`")
            }
            Misshapen::ContentEncoding => bad(StatusCode::BAD_REQUEST, "the body must not be compressed"),
        }
    }
}

impl From<BadBody> for Refusal {
    fn from(fault: BadBody) -> Self {
        let status = match fault {
            BadBody::NoRoom(_) | BadBody::Unread => return Self::unavailable(fault.to_string()),
            BadBody::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            BadBody::Slow => StatusCode::REQUEST_TIMEOUT,
            BadBody::Broken | BadBody::NotJson(_) | BadBody::Model | BadBody::Lacks(_) => {
                StatusCode::BAD_REQUEST
            }
        };
        Self::new(status, "bad_request", fault.to_string())
    }
}
