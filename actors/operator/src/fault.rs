//! Errors of the control API, as `{"error":code,"detail":…,"hint":…}`, the same on both ends of the socket.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The closed set of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// 400: the request makes no sense.
    BadRequest,
    /// 403: not allowed in this sandbox, such as `crash` without fault injection.
    Forbidden,
    /// 404: no such path, actor or agent.
    NotFound,
    /// 405: the path takes another method.
    MethodNotAllowed,
    /// 409: not now.
    Conflict,
    /// 409: the policy's static section has changed: under it, agents can run only in another cage.
    NeedsCage,
    /// 413: the body is too long.
    TooLarge,
    /// 422: the policy has errors; `diagnostics` holds them all.
    InvalidPolicy,
    /// 422: the command to execute isn't there (exit code 127).
    CommandNotFound,
    /// 422: the command can't be executed (exit code 126).
    NotExecutable,
    /// 426: the path needs an upgrade.
    UpgradeRequired,
    /// 500: an error of cofferdam's own.
    Internal,
    /// 503: a part is restarting, or there are too many connections.
    Unavailable,
    /// 504: a part didn't answer in time.
    Timeout,
}

impl Code {
    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict | Self::NeedsCage => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::InvalidPolicy | Self::CommandNotFound | Self::NotExecutable => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::UpgradeRequired => StatusCode::UPGRADE_REQUIRED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// An error on the control API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}{}", hint.as_ref().map(|h| format!(" ({h})")).unwrap_or_default())]
pub struct Fault {
    /// The code.
    #[serde(rename = "error")]
    pub code: Code,
    /// What happened, in one sentence.
    pub detail: String,
    /// How to fix it.
    #[serde(default)]
    pub hint: Option<String>,
    /// Errors of a policy, as `policy check --json` gives them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnostics: Option<Value>,
    /// For [`Code::MethodNotAllowed`]: the methods that the path takes, for the header `allow` (RFC 9110
    /// section 15.5.6).
    #[serde(skip)]
    pub allow: Option<String>,
}

impl Fault {
    /// Makes an error with a code and a detail.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), hint: None, diagnostics: None, allow: None }
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a policy's errors.
    #[must_use]
    pub fn diagnostics(mut self, diagnostics: Value) -> Self {
        self.diagnostics = Some(diagnostics);
        self
    }

    /// `crash` in a sandbox that doesn't allow it.
    pub fn fault_injection_is_off() -> Self {
        Self::new(Code::Forbidden, "fault injection is off in this sandbox")
            .hint("start it with --allow-fault-injection")
    }

    /// An actor that isn't in the tree.
    pub fn no_such_actor(name: &str) -> Self {
        let name: String = name.chars().take(64).collect();
        Self::new(Code::NotFound, format!("no actor is called {name:?}"))
            .hint("`cofferdam tree NAME` lists them")
    }
}
