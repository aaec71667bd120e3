//! One request to one provider, outside any sandbox: does it answer, take its key, and speak its protocol?
//!
//! Uses the same connections and headers as agents' requests, but no route and no budget, and records
//! nothing. The answer is bounded in bytes and in time. A provider that was sent a key can repeat it in ways
//! that no search finds, reversed or a letter at a time. So nothing that it says is ever shown, and of other
//! providers only scrubbed text. What to fix, and how to report it, is not decided here.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use smol_str::SmolStr;
use tokio::time::{Instant, timeout_at};

use crate::{
    answer,
    body::Held,
    config::{Kind, plain_name},
    headers,
    lane::Unsent,
    line::{Line, Sent},
    outgoing::{Outgoing, Parts},
    routes::Provider,
    upstream::{Dial, Upstream},
    upstream_error::{Scrub, explained},
};

/// Most of an answer that is read, in bytes. The longest known list of models has some hundreds of KiB.
pub const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// Most names that are kept of a list of models; more are counted.
pub const MAX_NAMES: usize = 64;
/// Longest explanation of a provider's that is shown, in bytes.
const MAX_WHY: usize = 300;
/// Maximum of tokens for a reasoning model, which refuses `max_tokens`.
const THINKING: u32 = 16;

/// What a probe asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question<'a> {
    /// The list of models, which costs nothing.
    Models,
    /// One token from this model.
    Token(&'a str),
}

/// A probe, with the capabilities that it needs from outside this crate.
pub struct Probe {
    /// Makes connections.
    pub dial: Arc<dyn Dial>,
    /// Scrubs error texts.
    pub scrub: Scrub,
    /// The longest that the whole probe may take.
    pub within: Duration,
}

/// The answer of a provider that works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The content of the answer.
    pub said: Said,
    /// The time from the start of connecting to the head of the answer.
    pub first_byte: Duration,
}

/// The content of an answer, by what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Its models.
    Models {
        /// How many it lists.
        count: usize,
        /// The names that can stand in a configuration, at most [`MAX_NAMES`]; empty where a key was sent.
        names: Vec<SmolStr>,
    },
    /// A token, or several.
    Token,
}

/// What is wrong. Never holds a word from a provider that was sent a key, nor unscrubbed text from another.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The connection failed.
    #[error("can't be connected to: {0}")]
    Connect(io::Error),
    /// The connection wasn't made in time.
    #[error("no connection within {}", humantime::format_duration(*.0))]
    NotConnected(Duration),
    /// The provider took the request and sent nothing.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Silent(Duration),
    /// The provider began to answer and didn't finish.
    #[error("its answer didn't end within {}", humantime::format_duration(*.0))]
    Endless(Duration),
    /// The connection broke, or the answer isn't HTTP.
    #[error("{0}")]
    Broken(String),
    /// 401 and 403.
    #[error("{} ({})", refused(*.asked_with_key), .code.as_u16())]
    Refused {
        /// Which of the two.
        code: StatusCode,
        /// Whether a key was sent.
        asked_with_key: bool,
    },
    /// Another status than success.
    #[error("answered {}{}", .code.as_u16(), after(.why.as_deref()))]
    Status {
        /// The status.
        code: StatusCode,
        /// The provider's explanation, scrubbed; `None` where a key was sent.
        why: Option<String>,
    },
    /// The answer isn't of the protocol of its kind.
    #[error("{0}")]
    OtherProtocol(String),
    /// The key can't stand in a header.
    #[error("its key can't stand in a header")]
    Key,
}

fn refused(asked_with_key: bool) -> &'static str {
    if asked_with_key { "refused the credential" } else { "asks for a credential" }
}

fn after(why: Option<&str>) -> String {
    why.map(|why| format!(": {why}")).unwrap_or_default()
}

/// A fault, with what is known besides but never shown.
struct Failed {
    fault: Fault,
    /// Whether the provider's error names `max_completion_tokens`.
    names_other_limit: bool,
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self { fault, names_other_limit: false }
    }
}

impl Probe {
    /// Asks a provider.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub async fn ask(&self, provider: &Provider, question: Question<'_>) -> Result<Answer, Fault> {
        let until = Instant::now() + self.within;
        let asked = match question {
            Question::Models => self.ask_once(provider, question, Bytes::new(), until).await,
            Question::Token(model) => {
                let body = one_token(model, "max_tokens", 1);
                match self.ask_once(provider, question, body, until).await {
                    // Reasoning models refuse `max_tokens`. A provider without such models doesn't know the
                    // other name, so it can't be tried first.
                    Err(Failed { names_other_limit: true, .. }) if provider.kind == Kind::Openai => {
                        let body = one_token(model, "max_completion_tokens", THINKING);
                        self.ask_once(provider, question, body, until).await
                    }
                    asked => asked,
                }
            }
        };
        asked.map_err(|failed| failed.fault)
    }

    async fn ask_once(
        &self,
        provider: &Provider,
        question: Question<'_>,
        body: Bytes,
        until: Instant,
    ) -> Result<Answer, Failed> {
        let began = Instant::now();
        let outgoing = outgoing(provider, question, body)?;
        let upstream = Upstream::of(&provider.base);
        // Kept until the answer is read: the connection is closed when this is dropped.
        let mut line = timeout_at(until, Line::open(&*self.dial, &upstream))
            .await
            .map_err(|_| Fault::NotConnected(self.within))?
            .map_err(Fault::Connect)?;
        let left = until.saturating_duration_since(Instant::now());
        let response = match line.try_send(&outgoing, left).await {
            Ok(Sent::Answer(response)) => response,
            // The provider hung up, or sent something first, which no HTTP server does.
            Ok(Sent::HandedBack(_)) => {
                let why = "it ended the connection, or spoke, before it was asked";
                return Err(Fault::Broken(why.into()).into());
            }
            Err(Unsent::FirstByteTimeout(_)) => return Err(Fault::Silent(self.within).into()),
            Err(other) => return Err(Fault::Broken(other.to_string()).into()),
        };
        let first_byte = began.elapsed();
        let said = self.said(provider, question, response, until).await?;
        Ok(Answer { said, first_byte })
    }

    async fn said(
        &self,
        provider: &Provider,
        question: Question<'_>,
        response: Response<Incoming>,
        until: Instant,
    ) -> Result<Said, Failed> {
        let code = response.status();
        if matches!(code, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(Fault::Refused { code, asked_with_key: provider.key.is_some() }.into());
        }
        answer::fit(provider, &response).map_err(|refusal| Fault::OtherProtocol(refusal.detail))?;
        if !code.is_success() {
            let left = until.saturating_duration_since(Instant::now());
            let told = explained(response, provider, &self.scrub, left).await;
            let why = told.as_ref().and_then(explanation);
            return Err(Failed {
                names_other_limit: why.as_ref().is_some_and(|why| why.contains("max_completion_tokens")),
                fault: Fault::Status { code, why: why.filter(|_| provider.key.is_none()) },
            });
        }
        let whole = timeout_at(until, Limited::new(response.into_body(), MAX_ANSWER).collect())
            .await
            .map_err(|_| Fault::Endless(self.within))?
            .map_err(|fault| match fault.downcast_ref::<LengthLimitError>() {
                Some(_) => Fault::OtherProtocol(format!("its answer has more than {MAX_ANSWER} bytes")),
                None => Fault::Broken("its answer broke off".into()),
            })?;
        match question {
            Question::Models => Ok(self.models(&whole.to_bytes(), provider)?),
            Question::Token(_) => Ok(token(&whole.to_bytes(), provider.kind)?),
        }
    }

    fn models(&self, bytes: &[u8], provider: &Provider) -> Result<Said, Fault> {
        let listing: Listing = serde_json::from_slice(bytes).map_err(|_| {
            Fault::OtherProtocol("what it answers is no list of models (`{\"data\":[{\"id\":…}]}`)".into())
        })?;
        let models = listing.data.unwrap_or_default();
        // A name that the scrubber changes looks like a secret, and is no model's.
        let is_fit = |id: &str| provider.key.is_none() && plain_name(id).is_ok() && (self.scrub)(id) == id;
        let names = models.iter().map(|model| model.id.as_str()).filter(|id| is_fit(id)).take(MAX_NAMES);
        Ok(Said::Models { count: models.len(), names: names.map(SmolStr::new).collect() })
    }
}

/// A list of models, in either protocol; other members are ignored.
#[derive(Deserialize)]
struct Listing {
    /// Must be there, but may be `null`: Ollama answers so if it has no model.
    #[serde(deserialize_with = "said_or_null")]
    data: Option<Vec<Model>>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

fn said_or_null<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Model>>, D::Error> {
    Option::deserialize(from)
}

/// Checks that an answer is a model's, in the protocol of this kind.
fn token(bytes: &[u8], kind: Kind) -> Result<Said, Fault> {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let (is_one, wanted) = match kind {
        Kind::Openai => {
            let choices = value.get("choices").and_then(Value::as_array);
            (choices.is_some_and(|choices| !choices.is_empty()), "chat completion")
        }
        Kind::Anthropic => {
            let is_message = value.get("type").is_some_and(|kind| kind == "message");
            (is_message && value.get("content").is_some_and(Value::is_array), "message")
        }
    };
    let other =
        || Fault::OtherProtocol(format!("what it answers is no {wanted} of the {} protocol", kind.as_str()));
    is_one.then_some(Said::Token).ok_or_else(other)
}

/// The message of a scrubbed error, in one line.
fn explanation(error: &Value) -> Option<String> {
    let places = ["/error/message", "/message", "/detail", "/error"];
    let text = places.into_iter().find_map(|place| error.pointer(place)?.as_str())?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    let end = (0..=MAX_WHY.min(text.len())).rev().find(|end| text.is_char_boundary(*end))?;
    text.get(..end).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn outgoing(provider: &Provider, question: Question<'_>, body: Bytes) -> Result<Outgoing, Fault> {
    let (method, path, query) = match (question, provider.kind) {
        (Question::Models, Kind::Openai) => (Method::GET, "/v1/models", ""),
        // Without a limit, only twenty models are listed.
        (Question::Models, Kind::Anthropic) => (Method::GET, "/v1/models", "?limit=1000"),
        (Question::Token(_), Kind::Openai) => (Method::POST, "/v1/chat/completions", ""),
        (Question::Token(_), Kind::Anthropic) => (Method::POST, "/v1/messages", ""),
    };
    let mut headers =
        headers::upstream(&HeaderMap::new(), provider.kind, provider.key.as_ref()).map_err(|_| Fault::Key)?;
    if method == Method::GET {
        headers.remove(CONTENT_TYPE);
    }
    Ok(Outgoing {
        path_and_query: format!("{}{query}", provider.base.join(path, provider.kind == Kind::Openai)),
        method,
        authority: provider.base.authority(),
        tls: provider.base.tls,
        headers,
        body: Parts::new([body]),
        held: Held::of_nobody(),
    })
}

/// A request for a few tokens, which is the same in both protocols.
fn one_token(model: &str, limit: &str, tokens: u32) -> Bytes {
    let message = json!({ "role": "user", "content": "Say one word." });
    let body = json!({ "model": model, "messages": [message], limit: tokens });
    Bytes::from(body.to_string())
}
