//! A model provider that speaks the real protocols: OpenAI's chat completions, completions, responses,
//! embeddings and models, and Anthropic's messages; whole and streamed, with tools and usage; the key checked
//! on every request.
//!
//! What it says is decided by the model's name and, for a script, by how many turns the assistant has already
//! taken in the conversation, so that retries and side requests change nothing.
//!
//! | model | says |
//! |---|---|
//! | `bed-echo`, and any other name | `You said: ` and the last user message |
//! | `bed-ticks-N` | `tick 1` … `tick N`, one every 50 ms when streamed |
//! | `bed-leaky` | 400, with the key that it was sent in the error's text, as some providers do |
//! | `bed-error-CODE` | that status; with 429 it asks to be left alone for [`RETRY_AFTER`] |
//! | `bed-slow-MS` | the same as `bed-echo`, so many milliseconds later |
//! | `bed-broken` | three events of an answer, and then the connection breaks |
//! | `bed-spends-N` | `spent`, and a usage of N tokens, never streamed |
//! | a scripted name | the [`Turn`] of that place in the script |

pub mod anthropic;
pub mod http;
pub mod openai;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// The key that the provider takes. It must never be seen inside a sandbox.
pub const KEY: &str = "sk-bed-5f1d0c3ab9e84e7fa2c6d8b1e0937f42Q";
/// The provider's own port, plain HTTP: on loopback as a self-hosted server, or at `llm.bed.test`.
pub const PORT: u16 = 8000;
/// The provider as a self-hosted server on the machine's loopback.
pub const BASE_URL: &str = "http://127.0.0.1:8000/v1";
/// The provider as a remote service.
pub const REMOTE_BASE_URL: &str = "https://llm.bed.test/v1";
/// Seconds, with 429.
pub const RETRY_AFTER: u64 = 20;
/// The pause between ticks.
const TICK: std::time::Duration = std::time::Duration::from_millis(50);

/// One thing a scripted model does.
#[derive(Debug, Clone)]
pub enum Turn {
    /// It says this and ends its turn.
    Text(String),
    /// It calls a tool.
    Tool {
        /// The tool's name, as the agent offers it.
        name: String,
        /// The arguments, an object.
        arguments: Value,
    },
}

impl Turn {
    /// It says this.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// It calls this tool.
    pub fn tool(name: impl Into<String>, arguments: Value) -> Self {
        Self::Tool { name: name.into(), arguments }
    }
}

/// The provider's memory: scripts by model name.
#[derive(Debug, Default)]
pub struct Provider {
    scripts: Mutex<HashMap<String, Vec<Turn>>>,
}

/// What a request is answered with, before a protocol gives it its shape.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A turn, in pieces with the pause between them.
    Turn { turn: Turn, pause: Option<std::time::Duration> },
    /// An error status.
    Error(u16),
    /// An error that holds the key.
    Leak,
}

impl Provider {
    /// Gives a model its lines: the first when the assistant has not spoken yet, and so on; the last goes on
    /// for ever.
    pub fn script(&self, model: impl Into<String>, turns: Vec<Turn>) {
        self.scripts.lock().unwrap_or_else(PoisonError::into_inner).insert(model.into(), turns);
    }

    /// What `model` says in a conversation where the assistant has spoken `spoken` times.
    pub(crate) fn reply(&self, model: &str, spoken: usize, last_user: &str) -> Reply {
        let scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = scripts.get(model)
            && let Some(turn) = turns.get(spoken).or(turns.last())
        {
            return Reply::Turn { turn: turn.clone(), pause: None };
        }
        if let Some(n) = model.strip_prefix("bed-ticks-").and_then(|n| n.parse::<u32>().ok()) {
            let text = (1..=n).map(|i| format!("tick {i}")).collect::<Vec<_>>().join(" ");
            return Reply::Turn { turn: Turn::Text(text), pause: Some(TICK) };
        }
        if let Some(code) = model.strip_prefix("bed-error-").and_then(|code| code.parse().ok()) {
            return Reply::Error(code);
        }
        if model == "bed-leaky" {
            return Reply::Leak;
        }
        Reply::Turn { turn: Turn::Text(format!("You said: {last_user}")), pause: None }
    }
}

/// A text in the pieces that it is streamed in: two words each, spaces kept.
pub(crate) fn pieces(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_inclusive(' ').collect();
    words.chunks(2).map(<[&str]>::concat).collect()
}

/// A text's tokens, as this provider counts them.
pub(crate) fn tokens(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

/// A message's content as text: a string, or the text parts of a list.
pub(crate) fn content_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part.get("text").and_then(Value::as_str))
            .collect::<Vec<_>>()
            .join(" "),
        _ => String::new(),
    }
}

/// How often the assistant has spoken, and the last thing the user said.
pub(crate) fn conversation(messages: &Value) -> (usize, String) {
    let messages = messages.as_array().map(Vec::as_slice).unwrap_or_default();
    let role = |m: &Value, r: &str| m.get("role").and_then(Value::as_str) == Some(r);
    let spoken = messages.iter().filter(|m| role(m, "assistant")).count();
    let last = messages.iter().rev().find(|m| role(m, "user")).map(|m| content_text(&m["content"]));
    (spoken, last.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_script_follows_the_conversation() {
        let provider = Provider::default();
        provider.script("m", vec![Turn::tool("bash", json!({ "command": "ls" })), Turn::text("done")]);
        let said = |spoken| match provider.reply("m", spoken, "") {
            Reply::Turn { turn: Turn::Text(text), .. } => text,
            Reply::Turn { turn: Turn::Tool { name, .. }, .. } => name,
            other => format!("{other:?}"),
        };
        assert_eq!((said(0), said(1), said(7)), ("bash".into(), "done".into(), "done".into()));
    }

    #[test]
    fn pieces_join_to_the_text() {
        let text = "one two  three four five";
        assert_eq!(pieces(text).concat(), text);
    }
}
