//! A provider's error on its way to the agent: its shape kept, its words scrubbed.
//!
//! Errors are where keys leak: "Incorrect API key provided: sk-…". So an error is never streamed: it is read
//! whole (bounded), taken apart as JSON, every string of it scrubbed in its decoded form, and put together
//! again. What can't be treated that way is replaced.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Map, Value, json};

use crate::{config::Kind, routes::Provider};

/// Most of an error that is read, in bytes.
pub const MAX_ERROR: usize = 64 * 1024;
/// How long it may take to come.
pub const ERROR_DEADLINE: Duration = Duration::from_secs(10);
/// What stands in the place of a key that the provider has masked itself, but for its ends.
const MASKED: &str = "[REDACTED:masked-key]";

/// Takes known secrets and token formats out of a text. Given by compose; the redactor's work.
pub type Scrub = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Reads an error answer, which has so long to come, and gives the text to pass on, always JSON.
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
    // Whatever it says of the key, it says of the operator's.
    if status == StatusCode::UNAUTHORIZED {
        return plain(provider, "authentication_error", "refused the operator's credential");
    }
    match explained(response, provider, scrub, within).await.map(|value| Bytes::from(value.to_string())) {
        Some(text) if !provider.screen.finds(&text) => text,
        _ => replaced(provider, status),
    }
}

/// As [`scrubbed`], as the value that it is; none where it is no JSON, or not to be had.
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

/// serde_json's own limit of 128 levels bounds the depth.
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
