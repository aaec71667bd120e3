//! Prepares a provider's error for the agent: keeps its shape, and scrubs its text.
//!
//! Keys leak in errors: "Incorrect API key provided: sk-…". So an error is never streamed: it is read whole
//! (bounded) and parsed as JSON, every string is scrubbed in its decoded form, and the result is serialised
//! again. An error that can't be treated that way is replaced.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Map, Value, json};

use crate::{config::Kind, routes::Provider};

/// Most of an error that is read, in bytes.
pub const MAX_ERROR: usize = 64 * 1024;
/// How long an error's body may take to arrive.
pub const ERROR_DEADLINE: Duration = Duration::from_secs(10);
/// What replaces a key of which the provider itself masked all but the ends.
const MASKED: &str = "[REDACTED:masked-key]";

/// Removes known secrets and token formats from a text. Injected where the parts are put together, and done
/// by the redactor.
pub type Scrub = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Reads an error answer, which may take `within` to arrive, and returns the text to pass on, which is always
/// JSON.
pub(crate) async fn scrubbed<B>(
    response: Response<B>,
    provider: &Provider,
    scrub: &Scrub,
    within: Duration,
) -> Bytes
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let status = response.status();
    // Whatever a 401 says is about the operator's key, so none of it is passed on.
    if status == StatusCode::UNAUTHORIZED {
        return plain(provider, "authentication_error", "refused the operator's credential");
    }
    match explained(response, provider, scrub, within).await.map(|value| Bytes::from(value.to_string())) {
        Some(text) if !provider.screen.finds(&text) => text,
        _ => replaced(provider, status),
    }
}

/// Like [`scrubbed`], but returns the parsed value; `None` where the error isn't JSON or can't be read.
pub(crate) async fn explained<B>(
    response: Response<B>,
    provider: &Provider,
    scrub: &Scrub,
    within: Duration,
) -> Option<Value>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let declared_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.to_ascii_lowercase().contains("json"));
    let whole = tokio::time::timeout(within, Limited::new(response.into_body(), MAX_ERROR).collect()).await;
    let bytes = match whole {
        Ok(Ok(whole)) if declared_json => whole.to_bytes(),
        _ => return None,
    };
    let mut value = serde_json::from_slice::<Value>(&bytes).ok()?;
    clean(&mut value, provider, scrub);
    Some(value)
}

fn replaced(provider: &Provider, status: StatusCode) -> Bytes {
    plain(provider, "upstream_error", &format!("answered {} without a usable explanation", status.as_u16()))
}

fn plain(provider: &Provider, kind: &str, what: &str) -> Bytes {
    let message = format!("provider {} {what}", provider.name);
    let value = match provider.kind {
        Kind::Openai => json!({"error": {"message": message, "type": kind, "param": null, "code": kind}}),
        Kind::Anthropic => json!({"type": "error", "error": {"type": kind, "message": message}}),
    };
    Bytes::from(value.to_string())
}

/// Scrubs every string of a value. serde_json's own limit of 128 levels bounds the recursion.
fn clean(value: &mut Value, provider: &Provider, scrub: &Scrub) {
    match value {
        Value::String(text) => *text = clean_text(text, provider, scrub),
        Value::Array(items) => items.iter_mut().for_each(|item| clean(item, provider, scrub)),
        Value::Object(fields) => {
            let old = std::mem::replace(fields, Map::new());
            for (name, mut item) in old {
                clean(&mut item, provider, scrub);
                fields.insert(clean_text(&name, provider, scrub), item);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn clean_text(text: &str, provider: &Provider, scrub: &Scrub) -> String {
    let masked = provider.screen.masked(text.as_bytes());
    let text = scrub(&String::from_utf8_lossy(masked.as_deref().unwrap_or(text.as_bytes())));
    if !text.contains("***") {
        return text;
    }
    // Providers print a key as `sk-ab****wxyz`: its ends are part of the key, so the whole word goes.
    text.split_inclusive(char::is_whitespace)
        .map(|word| {
            if word.contains("***") {
                let space = word.len() - word.trim_end().len();
                format!("{MASKED}{}", word.get(word.len() - space..).unwrap_or_default())
            } else {
                word.to_owned()
            }
        })
        .collect()
}
