//! What the agent is told when its request does not go through: one JSON shape for every cause.
//!
//! Holds the causes ([`Refusal`]) and what was known of the request ([`Known`]); makes the body and headers
//! of DESIGN section 8. Must never carry an upstream's words, a secret, or anything the agent didn't itself
//! send.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body::Body as _;
use policy::{Caller, Denial, Destination};
use serde_json::json;
use smol_str::SmolStr;
use uuid::Uuid;

use crate::body::{Body, empty, full};
use crate::strict::Violation;

/// Every answer of ours carries the request's id in this header; the audit log has the same id.
pub const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-cofferdam-request-id");

/// Why a request is not answered by its upstream.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// Policy, identity or the SSRF guard says no. 403.
    Denied(Denial),
    /// The agent's bytes are not what they should be. 400, 408 or 431.
    Malformed(Violation),
    /// The request is well-formed HTTP and still makes no sense here. 400.
    BadRequest(String),
    /// The destination could not be reached or doesn't speak properly. 502.
    Unreachable(String),
    /// A part of cofferdam can't serve this now; nothing was sent upstream. 503.
    Unavailable(String),
    /// The destination took too long. 504.
    Timeout(String),
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Self {
        Self::Malformed(violation)
    }
}

impl Refusal {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Denied(_) => StatusCode::FORBIDDEN,
            Self::Malformed(violation) => violation.status(),
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unreachable(_) => StatusCode::BAD_GATEWAY,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The `error` field: a closed set, fit for programs and metric labels.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Denied(_) => "policy_denied",
            Self::Malformed(Violation::TooLarge) => "headers_too_large",
            Self::Malformed(Violation::Slow) | Self::Timeout(_) => "timeout",
            Self::Malformed(Violation::Crowded) | Self::Unavailable(_) => "unavailable",
            Self::Malformed(_) | Self::BadRequest(_) => "bad_request",
            Self::Unreachable(_) => "upstream_unreachable",
        }
    }

    /// What happened, in one sentence.
    pub fn detail(&self) -> String {
        match self {
            Self::Denied(denial) => denial.detail.clone(),
            Self::Malformed(violation) => violation.to_string(),
            Self::BadRequest(detail)
            | Self::Unreachable(detail)
            | Self::Unavailable(detail)
            | Self::Timeout(detail) => detail.clone(),
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Denied(denial) => denial.hint.clone().unwrap_or_else(|| {
                "this sandbox allows only what its policy lists; ask the operator to allow this, \
                 or see `cofferdam policy explain`"
                    .to_owned()
            }),
            Self::Malformed(Violation::TooLarge) => "send fewer or shorter header fields".to_owned(),
            Self::Malformed(Violation::Crowded) | Self::Unavailable(_) => {
                "try again in a moment; nothing was sent".to_owned()
            }
            Self::Malformed(_) | Self::BadRequest(_) => {
                "the proxy takes strict HTTP only; check the client that made this request".to_owned()
            }
            Self::Unreachable(_) => "the destination is allowed but did not answer properly".to_owned(),
            Self::Timeout(_) => "the destination is allowed but took too long".to_owned(),
        }
    }

    /// For a denial, the policy entry that refused the request or comes nearest to allowing it. For any other
    /// refusal, the entry that had let the request come so far.
    pub fn policy<'a>(&'a self, known: &'a Known) -> Option<&'a str> {
        match self {
            Self::Denied(denial) => denial.policy.as_deref(),
            _ => known.policy.as_deref(),
        }
    }

    /// The JSON body.
    pub fn body(&self, known: &Known) -> Vec<u8> {
        let denial = match self {
            Self::Denied(denial) => Some(denial),
            _ => None,
        };
        json!({
            "error": self.code(),
            "layer": denial.map(|denial| denial.layer.as_str()),
            "detail": self.detail(),
            "host": known.destination.as_ref().map(|destination| destination.host.bare()),
            "port": known.destination.as_ref().map(|destination| destination.port),
            "method": known.method,
            "path": known.path,
            "binary": known.binary(),
            "policy": self.policy(known),
            "request_id": known.request_id.to_string(),
            "hint": self.hint(),
        })
        .to_string()
        .into_bytes()
    }

    /// The whole answer.
    pub fn response(&self, known: &Known) -> Response<Body> {
        let mut response = Response::new(full(self.body(known)));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(id) = HeaderValue::from_str(&known.request_id.to_string()) {
            headers.insert(REQUEST_ID_HEADER, id);
        }
        response
    }

    /// The whole answer as bytes of HTTP/1.1, for a connection that the HTTP library has let go of.
    pub fn raw(&self, known: &Known) -> Vec<u8> {
        let body = self.body(known);
        let status = self.status();
        let mut bytes = format!(
            "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncache-control: no-store\r\n\
             {REQUEST_ID_HEADER}: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            status.as_str(),
            status.canonical_reason().unwrap_or("Refused"),
            known.request_id,
            body.len(),
        )
        .into_bytes();
        bytes.extend_from_slice(&body);
        bytes
    }
}

/// Removes the body of an answer that must have none (RFC 9110 sections 9.3.2, 15.3.5, 15.4.5): over HTTP/2,
/// hyper would send it. Except with 204, the length stays, since a HEAD asks for it.
pub(crate) fn without_body(method: &Method, response: Response<Body>) -> Response<Body> {
    let status = response.status();
    if method != Method::HEAD && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    if status == StatusCode::NO_CONTENT {
        parts.headers.remove(header::CONTENT_LENGTH);
    } else if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
        parts.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    Response::from_parts(parts, empty())
}

/// What is known of a request so far; grows as the request walks the road.
#[derive(Debug, Clone)]
pub struct Known {
    /// UUID version 7, so that ids sort by time.
    pub request_id: Uuid,
    /// The agent's socket, for the audit record.
    pub client: SocketAddr,
    /// Canonical destination, once the intent is made.
    pub destination: Option<Destination>,
    /// Method as sent.
    pub method: Option<SmolStr>,
    /// Canonical path, once there is one. Never the query: it may hold secrets.
    pub path: Option<SmolStr>,
    /// The caller, once identified.
    pub caller: Option<Arc<Caller>>,
    /// Path of the calling program, where the caller can't be identified but the path is known.
    pub program: Option<Arc<str>>,
    /// Number of the policy generation that judged the request, if it came that far; if the caller could not
    /// be identified, of the generation in force.
    pub generation: Option<u64>,
    /// The policy entry that has let the request come so far.
    pub policy: Option<Arc<str>>,
    /// Names of the credentials that the request carries.
    pub credentials: Vec<SmolStr>,
    /// How long the request was held for the operator: a person's time, which no decision of ours takes.
    pub held: Duration,
}

impl Known {
    /// A request of which only the client's address is known.
    pub fn nothing(client: SocketAddr) -> Self {
        Self {
            request_id: Uuid::now_v7(),
            client,
            destination: None,
            method: None,
            path: None,
            caller: None,
            program: None,
            generation: None,
            policy: None,
            credentials: Vec::new(),
            held: Duration::ZERO,
        }
    }

    /// Path of the calling program, if known.
    pub fn binary(&self) -> Option<&Arc<str>> {
        self.caller.as_ref().map(|caller| &caller.executable.path).or(self.program.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use policy::{Executable, Host, Layer};

    use super::*;

    #[test]
    fn what_has_no_body_keeps_its_length() {
        let refusal = Refusal::Unavailable("not now".to_owned());
        let known = Known::nothing("127.0.0.1:9".parse().unwrap());
        let length = refusal.body(&known).len();
        let get = without_body(&Method::GET, refusal.response(&known));
        assert!(!get.body().is_end_stream());
        let head = without_body(&Method::HEAD, refusal.response(&known));
        assert!(head.body().is_end_stream());
        assert_eq!(head.headers()[header::CONTENT_LENGTH], length.to_string().as_str());
        let mut nothing = Response::new(full("surplus"));
        *nothing.status_mut() = StatusCode::NO_CONTENT;
        nothing.headers_mut().insert(header::CONTENT_LENGTH, 7.into());
        let nothing = without_body(&Method::GET, nothing);
        assert!(nothing.body().is_end_stream() && !nothing.headers().contains_key(header::CONTENT_LENGTH));
    }

    #[test]
    fn the_body_has_every_field_of_the_contract() {
        let mut known = Known::nothing("127.0.0.1:9".parse().unwrap());
        known.destination = Some(Destination { host: Host::parse("a.test").unwrap(), port: 443 });
        known.method = Some("POST".into());
        known.path = Some("/x".into());
        known.caller = Some(Arc::new(Caller {
            foreign_code: false,
            party: policy::Party::UNKNOWN,
            executable: Executable { path: "/usr/bin/curl".into(), sha256: [0; 32] },
            ancestors: Arc::from([]),
        }));
        let refusal = Refusal::Denied(Denial {
            layer: Layer::L7,
            detail: "no rule".to_owned(),
            policy: Some("github".into()),
            hint: None,
        });
        let value: serde_json::Value = serde_json::from_slice(&refusal.body(&known)).unwrap();
        for (key, wanted) in [
            ("error", "policy_denied"),
            ("layer", "l7"),
            ("detail", "no rule"),
            ("host", "a.test"),
            ("method", "POST"),
            ("path", "/x"),
            ("binary", "/usr/bin/curl"),
            ("policy", "github"),
        ] {
            assert_eq!(value[key], wanted, "{key}");
        }
        assert_eq!(value["port"], 443);
        assert!(value["hint"].as_str().is_some_and(|hint| !hint.is_empty()));
        assert_eq!(value["request_id"], known.request_id.to_string());
        assert_eq!(refusal.response(&known).status(), 403);
    }

    #[test]
    fn the_entry_is_the_one_that_refused_or_had_let_it_come_so_far() {
        let mut known = Known::nothing("127.0.0.1:9".parse().unwrap());
        known.policy = Some("github".into());
        let told = |refusal: Refusal| -> serde_json::Value {
            serde_json::from_slice(&refusal.body(&known)).unwrap()
        };
        assert_eq!(told(Refusal::Unreachable("x".to_owned()))["policy"], "github");
        assert_eq!(told(Refusal::Timeout("x".to_owned()))["policy"], "github");
        let denial = Denial { layer: Layer::L4, detail: "x".to_owned(), policy: None, hint: None };
        assert!(told(Refusal::Denied(denial))["policy"].is_null());
    }

    #[test]
    fn an_address_stands_without_brackets_and_a_program_by_its_name_alone() {
        let mut known = Known::nothing("127.0.0.1:9".parse().unwrap());
        known.destination = Some(Destination { host: Host::parse("[2001:db8::1]").unwrap(), port: 80 });
        known.program = Some("/usr/bin/changed".into());
        let refusal = Refusal::BadRequest("x".to_owned());
        let value: serde_json::Value = serde_json::from_slice(&refusal.body(&known)).unwrap();
        assert_eq!((&value["host"], &value["port"]), (&"2001:db8::1".into(), &80.into()));
        assert_eq!(value["binary"], "/usr/bin/changed");
    }
}
