//! OpenAI's shapes: chat completions, completions, responses, embeddings, models.

use http::Response;
use serde_json::{Value, json};

use super::http::{error_text, events, leak, named_event};
use super::{Provider, Reply, Turn, content_text, conversation, pieces, tokens};
use crate::server::{Body, json};

/// A moment that never changes, so that answers compare.
const CREATED: u64 = 1_760_000_000;

/// An error body.
pub fn error(kind: &str, text: &str) -> Value {
    json!({ "error": { "message": text, "type": kind, "param": null, "code": null } })
}

/// `GET /v1/models`.
pub fn models() -> Value {
    let model = |id: &str| json!({ "id": id, "object": "model", "created": CREATED, "owned_by": "bed" });
    json!({ "object": "list", "data": [model("bed-echo"), model("bed-ticks-20")] })
}

/// `POST /v1/embeddings`: each input's length and a constant.
pub fn embeddings(request: &Value) -> Value {
    let inputs = match &request["input"] {
        Value::Array(inputs) => inputs.clone(),
        one => vec![one.clone()],
    };
    let data: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| {
            let length = input.as_str().map_or(0, str::len) as f64;
            // The Python SDK asks for base64 by default: little-endian 32-bit floats.
            let embedding = if request["encoding_format"] == "base64" {
                use base64::Engine as _;
                let bytes: Vec<u8> = [length as f32, 0.5].iter().flat_map(|f| f.to_le_bytes()).collect();
                json!(base64::engine::general_purpose::STANDARD.encode(bytes))
            } else {
                json!([length, 0.5])
            };
            json!({ "object": "embedding", "index": index, "embedding": embedding })
        })
        .collect();
    let used: u64 = inputs.iter().filter_map(Value::as_str).map(tokens).sum();
    json!({ "object": "list", "data": data, "model": request["model"],
        "usage": { "prompt_tokens": used, "total_tokens": used } })
}

fn failed(reply: &Reply, key: &str) -> Option<Response<Body>> {
    match reply {
        Reply::Error(code) => {
            let (kind, text) = error_text(*code);
            Some(json(*code, &error(kind, &text)))
        }
        Reply::Leak => Some(json(400, &error("invalid_request_error", &leak(key)))),
        Reply::Turn { .. } => None,
    }
}

/// `POST /v1/chat/completions`.
pub fn chat(provider: &Provider, request: &Value, key: &str) -> Response<Body> {
    let model = request["model"].as_str().unwrap_or_default();
    let (spoken, last) = conversation(&request["messages"]);
    let reply = provider.reply(model, spoken, &last);
    if let Some(response) = failed(&reply, key) {
        return response;
    }
    let Reply::Turn { turn, pause } = reply else { return json(500, &error("api_error", "no turn")) };
    let usage = usage(request, &turn);
    if request["stream"] == true {
        let with_usage = request["stream_options"]["include_usage"] == true;
        return events(chat_events(model, &turn, spoken, with_usage.then_some(usage)), pause);
    }
    let (message, finish) = match &turn {
        Turn::Text(text) => (json!({ "role": "assistant", "content": text, "refusal": null }), "stop"),
        Turn::Tool { .. } => (
            json!({ "role": "assistant", "content": null, "tool_calls": [tool_call(&turn, spoken)] }),
            "tool_calls",
        ),
    };
    let choice = json!({ "index": 0, "message": message, "finish_reason": finish, "logprobs": null });
    let answer = json!({ "id": format!("chatcmpl-bed-{spoken}"), "object": "chat.completion", "created": CREATED, "model": model,
        "choices": [choice], "usage": usage });
    json(200, &answer)
}

fn tool_call(turn: &Turn, spoken: usize) -> Value {
    let Turn::Tool { name, arguments } = turn else { return Value::Null };
    json!({ "id": format!("call_bed_{spoken}"), "type": "function",
        "function": { "name": name, "arguments": arguments.to_string() } })
}

fn said(turn: &Turn) -> String {
    match turn {
        Turn::Text(text) => text.clone(),
        Turn::Tool { arguments, .. } => arguments.to_string(),
    }
}

fn usage(request: &Value, turn: &Turn) -> Value {
    let messages = request["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let prompt: u64 = messages.iter().map(|m| tokens(&content_text(&m["content"]))).sum();
    let completion = tokens(&said(turn));
    json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion })
}

fn chat_events(model: &str, turn: &Turn, spoken: usize, usage: Option<Value>) -> Vec<String> {
    let chunk = |choices: Value, usage: Value| {
        let value = json!({ "id": format!("chatcmpl-bed-{spoken}"), "object": "chat.completion.chunk", "created": CREATED, "model": model,
            "choices": choices, "usage": usage });
        format!("data: {value}\n\n")
    };
    let delta = |delta: Value, finish: Value| {
        chunk(json!([{ "index": 0, "delta": delta, "finish_reason": finish }]), Value::Null)
    };
    let mut out = vec![delta(json!({ "role": "assistant", "content": "" }), Value::Null)];
    let finish = match turn {
        Turn::Text(text) => {
            out.extend(pieces(text).into_iter().map(|piece| delta(json!({ "content": piece }), Value::Null)));
            "stop"
        }
        Turn::Tool { arguments, .. } => {
            // The call's head first with empty arguments, then the arguments, as the real service does.
            let mut head = tool_call(turn, spoken);
            head["index"] = json!(0);
            head["function"]["arguments"] = json!("");
            out.push(delta(json!({ "tool_calls": [head] }), Value::Null));
            let rest = json!({ "index": 0, "function": { "arguments": arguments.to_string() } });
            out.push(delta(json!({ "tool_calls": [rest] }), Value::Null));
            "tool_calls"
        }
    };
    out.push(delta(json!({}), json!(finish)));
    if let Some(usage) = usage {
        out.push(chunk(json!([]), usage));
    }
    out.push("data: [DONE]\n\n".to_owned());
    out
}

/// `POST /v1/completions`: the older text protocol.
pub fn completions(provider: &Provider, request: &Value) -> Response<Body> {
    let model = request["model"].as_str().unwrap_or_default();
    let prompt = content_text(&request["prompt"]);
    let text = match provider.reply(model, 0, &prompt) {
        Reply::Turn { turn, .. } => said(&turn),
        other => return failed(&other, "").unwrap_or_else(|| json(500, &error("api_error", "no turn"))),
    };
    let value = |text: &str, finish: Value| {
        json!({ "id": "cmpl-bed", "object": "text_completion", "created": CREATED, "model": model,
            "choices": [{ "index": 0, "text": text, "finish_reason": finish, "logprobs": null }] })
    };
    if request["stream"] == true {
        let mut out: Vec<String> =
            pieces(&text).iter().map(|piece| format!("data: {}\n\n", value(piece, Value::Null))).collect();
        out.push(format!("data: {}\n\n", value("", json!("stop"))));
        out.push("data: [DONE]\n\n".to_owned());
        return events(out, None);
    }
    let mut whole = value(&text, json!("stop"));
    let (asked, answered) = (tokens(&prompt), tokens(&text));
    whole["usage"] =
        json!({ "prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered });
    json(200, &whole)
}

/// `POST /v1/responses`.
pub fn responses(provider: &Provider, request: &Value, key: &str) -> Response<Body> {
    let model = request["model"].as_str().unwrap_or_default();
    let (spoken, last) = match &request["input"] {
        Value::String(text) => (0, text.clone()),
        items => {
            let calls = items.as_array().map(Vec::as_slice).unwrap_or_default();
            let calls = calls.iter().filter(|item| item["type"] == "function_call").count();
            let (spoken, last) = conversation(items);
            (spoken + calls, last)
        }
    };
    let reply = provider.reply(model, spoken, &last);
    if let Some(response) = failed(&reply, key) {
        return response;
    }
    let Reply::Turn { turn, pause } = reply else { return json(500, &error("api_error", "no turn")) };
    let item = match &turn {
        Turn::Text(text) => {
            json!({ "id": format!("msg_bed_{spoken}"), "type": "message", "status": "completed", "role": "assistant",
            "content": [{ "type": "output_text", "text": text, "annotations": [] }] })
        }
        Turn::Tool { name, arguments } => json!({ "id": format!("fc_bed_{spoken}"), "type": "function_call",
            "status": "completed", "call_id": format!("call_bed_{spoken}"), "name": name,
            "arguments": arguments.to_string() }),
    };
    let (asked, answered) = (tokens(&last), tokens(&said(&turn)));
    let response = |status: &str, output: Value, usage: Value| {
        json!({ "id": format!("resp_bed_{spoken}"), "object": "response", "created_at": CREATED, "status": status, "model": model,
            "output": output, "usage": usage, "error": null, "incomplete_details": null, "instructions": null,
            "metadata": {}, "parallel_tool_calls": true, "temperature": 1.0, "tool_choice": "auto", "tools": [],
            "top_p": 1.0 })
    };
    let usage = json!({ "input_tokens": asked, "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": answered, "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": asked + answered });
    let whole = response("completed", json!([item]), usage);
    if request["stream"] != true {
        return json(200, &whole);
    }
    let begun = response("in_progress", json!([]), Value::Null);
    let mut out = vec![
        json!({ "type": "response.created", "response": begun }),
        json!({ "type": "response.in_progress", "response": begun }),
    ];
    out.extend(item_events(&turn, &item));
    out.push(json!({ "type": "response.completed", "response": whole }));
    for (number, event) in out.iter_mut().enumerate() {
        event["sequence_number"] = json!(number);
    }
    events(out.iter().map(named_event).collect(), pause)
}

fn item_events(turn: &Turn, item: &Value) -> Vec<Value> {
    let id = &item["id"];
    let mut begun = item.clone();
    begun["status"] = json!("in_progress");
    let mut out = Vec::new();
    match turn {
        Turn::Text(text) => {
            begun["content"] = json!([]);
            out.push(json!({ "type": "response.output_item.added", "output_index": 0, "item": begun }));
            let at = |mut event: Value| {
                event["item_id"] = id.clone();
                event["output_index"] = json!(0);
                event["content_index"] = json!(0);
                event
            };
            let part = |text: &str| json!({ "type": "output_text", "text": text, "annotations": [] });
            out.push(at(json!({ "type": "response.content_part.added", "part": part("") })));
            for piece in pieces(text) {
                out.push(at(json!({ "type": "response.output_text.delta", "delta": piece, "logprobs": [] })));
            }
            out.push(at(json!({ "type": "response.output_text.done", "text": text, "logprobs": [] })));
            out.push(at(json!({ "type": "response.content_part.done", "part": part(text) })));
        }
        Turn::Tool { arguments, name } => {
            begun["arguments"] = json!("");
            let arguments = arguments.to_string();
            out.push(json!({ "type": "response.output_item.added", "output_index": 0, "item": begun }));
            out.push(
                json!({ "type": "response.function_call_arguments.delta", "item_id": id, "output_index": 0,
                "delta": arguments }),
            );
            out.push(
                json!({ "type": "response.function_call_arguments.done", "item_id": id, "output_index": 0,
                "name": name, "arguments": arguments }),
            );
        }
    }
    out.push(json!({ "type": "response.output_item.done", "output_index": 0, "item": item }));
    out
}
