//! The provider's HTTP side: checks the key, then chooses the protocol by path.

use std::time::Duration;

use ::http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{KEY, Provider, RETRY_AFTER, anthropic, openai};
use crate::server::{Body, json};
use crate::sites::{Visit, web};

/// Answers one request.
pub(crate) async fn answer(
    request: Request<Incoming>,
    visit: &Visit<'_>,
    provider: &Provider,
) -> Response<Body> {
    let mut response = answered(request, visit, provider).await;
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER.into());
    }
    response
}

async fn answered(request: Request<Incoming>, visit: &Visit<'_>, provider: &Provider) -> Response<Body> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let bearer = header("authorization").strip_prefix("Bearer ").unwrap_or_default().to_owned();
    let key = if bearer.is_empty() { header("x-api-key").to_owned() } else { bearer };
    let path = head.uri.path();
    let messages = path.starts_with("/v1/messages");
    let refuse = |code, kind: &str, text: &str| {
        json(code, &if messages { anthropic::error(kind, text) } else { openai::error(kind, text) })
    };

    let Some(body) = visit.read(body).await else {
        return refuse(400, "invalid_request_error", "The body broke off or is too long.");
    };
    if key != KEY {
        return refuse(401, "authentication_error", &format!("Incorrect API key provided: {key}"));
    }
    if head.method == Method::GET {
        return match path {
            "/v1/models" => json(200, &openai::models()),
            _ => refuse(404, "not_found_error", "There is nothing here."),
        };
    }
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return refuse(400, "invalid_request_error", "The body is not JSON.");
    };
    if let Some(odd) = odd(&request).await {
        return odd;
    }
    match path {
        "/v1/chat/completions" => openai::chat(provider, &request, &key),
        "/v1/completions" => openai::completions(provider, &request),
        "/v1/responses" => openai::responses(provider, &request, &key),
        "/v1/embeddings" => json(200, &openai::embeddings(&request)),
        "/v1/messages" if header("anthropic-version").is_empty() => {
            refuse(400, "invalid_request_error", "anthropic-version: header is required")
        }
        "/v1/messages" => anthropic::messages(provider, &request, &key),
        "/v1/messages/count_tokens" => json(200, &anthropic::count_tokens(&request)),
        _ => refuse(404, "not_found_error", "There is nothing here."),
    }
}

/// The answer of a model that misbehaves. A model that is only slow waits here, and then answers as usual
/// (`None`).
async fn odd(request: &Value) -> Option<Response<Body>> {
    let model = request["model"].as_str().unwrap_or_default();
    let number = |text: &str| text.parse::<u64>().ok();
    if let Some(ms) = model.strip_prefix("bed-slow-").and_then(number) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        return None;
    }
    if let Some(spent) = model.strip_prefix("bed-spends-").and_then(number) {
        let usage = json!({ "prompt_tokens": spent.saturating_sub(1), "completion_tokens": 1, "total_tokens": spent });
        let message = json!({ "index": 0, "message": { "role": "assistant", "content": "spent" }, "finish_reason": "stop" });
        return Some(json(
            200,
            &json!({ "id": "spent", "object": "chat.completion", "model": model,
            "choices": [message], "usage": usage }),
        ));
    }
    (model == "bed-broken").then(|| {
        web::stream("text/event-stream", None, |mut sender| async move {
            for n in 1..=3 {
                let event = format!(
                    "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"piece {n}\"}}}}]}}\n\n"
                );
                if sender.send_data(event.into()).await.is_err() {
                    return;
                }
            }
            // So that what was sent is out before the connection is cut.
            tokio::time::sleep(Duration::from_millis(200)).await;
            sender.abort(std::io::ErrorKind::ConnectionReset.into()).await;
        })
    })
}

/// The text of an error that gives the caller's key away, as some providers' do.
pub(super) fn leak(key: &str) -> String {
    format!("Bad request by key {key}: try another.")
}

/// A stream of server-sent events with a pause between them.
pub(super) fn events(events: Vec<String>, pause: Option<Duration>) -> Response<Body> {
    web::stream("text/event-stream", None, move |mut sender| async move {
        for event in events {
            if sender.send_data(event.into()).await.is_err() {
                return;
            }
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
        }
    })
}

/// One event with a name, as Anthropic and OpenAI's responses send them.
pub(super) fn named_event(value: &Value) -> String {
    format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap_or("message"))
}

/// A made-up status as an error of either protocol.
pub(super) fn error_text(code: u16) -> (&'static str, String) {
    let kind = match code {
        401 => "authentication_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    };
    (kind, json!(format!("Made-up error {code}.")).as_str().unwrap_or_default().to_owned())
}
