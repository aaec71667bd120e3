//! Anthropic's shapes: messages and count_tokens.

use http::Response;
use serde_json::{Value, json};

use super::http::{error_text, events, leak, named_event};
use super::{Provider, Reply, Turn, content_text, conversation, pieces, tokens};
use crate::server::{Body, json};

/// An error body.
pub fn error(kind: &str, text: &str) -> Value {
    json!({ "type": "error", "error": { "type": kind, "message": text }, "request_id": "req_bed" })
}

/// `POST /v1/messages/count_tokens`.
pub fn count_tokens(request: &Value) -> Value {
    json!({ "input_tokens": input_tokens(request) })
}

fn input_tokens(request: &Value) -> u64 {
    let messages = request["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let system = tokens(&content_text(&request["system"]));
    system + messages.iter().map(|m| tokens(&content_text(&m["content"]))).sum::<u64>()
}

/// `POST /v1/messages`.
pub fn messages(provider: &Provider, request: &Value, key: &str) -> Response<Body> {
    let model = request["model"].as_str().unwrap_or_default();
    let (spoken, last) = conversation(&request["messages"]);
    let (turn, pause) = match provider.reply(model, spoken, &last) {
        Reply::Turn { turn, pause } => (turn, pause),
        Reply::Error(code) => {
            let (kind, text) = error_text(code);
            return json(code, &error(kind, &text));
        }
        Reply::Leak => return json(400, &error("invalid_request_error", &leak(key))),
    };
    let (block, stop, output) = match &turn {
        Turn::Text(text) => (json!({ "type": "text", "text": text }), "end_turn", tokens(text)),
        Turn::Tool { name, arguments } => (
            json!({ "type": "tool_use", "id": format!("toolu_bed_{spoken}"), "name": name, "input": arguments }),
            "tool_use",
            tokens(&arguments.to_string()),
        ),
    };
    let input = input_tokens(request);
    let message = |content: Value, stop: Value, output: u64| {
        json!({ "id": format!("msg_bed_{spoken}"), "type": "message", "role": "assistant", "model": model, "content": content,
            "stop_reason": stop, "stop_sequence": null,
            "usage": { "input_tokens": input, "output_tokens": output,
                "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0 } })
    };
    if request["stream"] != true {
        return json(200, &message(json!([block]), json!(stop), output));
    }
    let mut out = vec![
        json!({ "type": "message_start", "message": message(json!([]), Value::Null, 1) }),
        json!({ "type": "ping" }),
    ];
    out.extend(block_events(&turn, &block));
    out.push(json!({ "type": "message_delta", "delta": { "stop_reason": stop, "stop_sequence": null },
        "usage": { "output_tokens": output } }));
    out.push(json!({ "type": "message_stop" }));
    events(out.iter().map(named_event).collect(), pause)
}

fn block_events(turn: &Turn, block: &Value) -> Vec<Value> {
    let mut begun = block.clone();
    let deltas: Vec<Value> = match turn {
        Turn::Text(text) => {
            begun["text"] = json!("");
            pieces(text).into_iter().map(|piece| json!({ "type": "text_delta", "text": piece })).collect()
        }
        Turn::Tool { arguments, .. } => {
            begun["input"] = json!({});
            vec![json!({ "type": "input_json_delta", "partial_json": arguments.to_string() })]
        }
    };
    let mut out = vec![json!({ "type": "content_block_start", "index": 0, "content_block": begun })];
    out.extend(deltas.into_iter().map(|d| json!({ "type": "content_block_delta", "index": 0, "delta": d })));
    out.push(json!({ "type": "content_block_stop", "index": 0 }));
    out
}
