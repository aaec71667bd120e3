//! Counts tokens from the `usage` of an answer that passes through, without keeping the answer or changing a
//! byte.
//!
//! One scanner for a JSON body and for the `data:` lines of an event stream. It understands just enough JSON
//! to find `usage` at the top, or one level down in `message` (Anthropic) and `response` (Responses API), and
//! holds a few KiB at most, whatever the answer's size. For an answer that reports no usage it counts the
//! text that passes. The answer isn't trusted: the worst that it can cause is a wrong count.

use serde::Deserialize;

use crate::budgets::BYTES_A_TOKEN;

/// Longest `usage` object that is read, in bytes. Real ones have a few hundred.
pub const MAX_USAGE: usize = 4096;

/// Tokens of one exchange, as the provider reported them. `None`: not reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Prompt tokens. OpenAI's count includes cached ones, Anthropic's doesn't.
    pub input: Option<u64>,
    /// Completion tokens.
    pub output: Option<u64>,
    /// Prompt tokens read from a cache.
    pub cache_read: Option<u64>,
    /// Prompt tokens written to a cache.
    pub cache_write: Option<u64>,
}

impl Tokens {
    /// Streams report running totals: the largest of each counts.
    fn merge(&mut self, other: Self) {
        let most = |a: &mut Option<u64>, b: Option<u64>| *a = (*a).max(b);
        most(&mut self.input, other.input);
        most(&mut self.output, other.output);
        most(&mut self.cache_read, other.cache_read);
        most(&mut self.cache_write, other.cache_write);
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
    input_tokens_details: Option<Details>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Details {
    cached_tokens: Option<u64>,
}

impl From<Usage> for Tokens {
    fn from(u: Usage) -> Self {
        let cached = u.prompt_tokens_details.or(u.input_tokens_details).and_then(|d| d.cached_tokens);
        Self {
            input: u.prompt_tokens.or(u.input_tokens),
            output: u.completion_tokens.or(u.output_tokens),
            cache_read: u.cache_read_input_tokens.or(cached),
            cache_write: u.cache_creation_input_tokens,
        }
    }
}

/// Reads an answer as it passes, and counts its tokens.
#[derive(Debug)]
pub struct Tap {
    framing: Framing,
    json: Json,
    tokens: Tokens,
    /// Bytes of text in the events that are over, or of a whole body that is neither JSON nor events.
    text: u64,
    /// The number of `data:` lines.
    events: u64,
    /// How the line in hand of an event stream begins.
    begun: Begun,
    end: End,
}

/// How far an event stream is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// The event whose usage is the whole answer's was named: it follows, in the Responses API.
    Named,
    Over,
}

/// The beginning of a line, as long as any that is looked for.
#[derive(Debug, Default)]
struct Begun {
    bytes: [u8; 26],
    length: usize,
}

impl Begun {
    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.length) {
            *slot = byte;
        }
        self.length = self.length.saturating_add(1);
    }

    /// What the line says of the stream's end, now that it is over itself.
    fn take(&mut self) -> Option<End> {
        let line = self.bytes.get(..std::mem::take(&mut self.length))?;
        let (field, value) = line.split_at_checked(line.iter().position(|byte| *byte == b':')?)?;
        match (field, value.strip_prefix(b": ").or_else(|| value.strip_prefix(b":"))?) {
            (b"data", b"[DONE]") | (b"event", b"message_stop") => Some(End::Over),
            (b"event", b"response.completed" | b"response.incomplete" | b"response.failed") => {
                Some(End::Named)
            }
            _ => None,
        }
    }
}

#[derive(Debug)]
enum Framing {
    /// The body is one JSON text.
    Whole,
    /// The body is an event stream.
    Events(Line),
    /// The body is neither: only its bytes are counted.
    Opaque,
}

#[derive(Debug, Clone, Copy)]
enum Line {
    /// This many bytes of `data:` have matched.
    Name(usize),
    Data,
    Other,
}

impl Tap {
    /// A tap for a body of this content type.
    pub fn new(content_type: &str) -> Self {
        let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let framing = match kind.as_str() {
            "application/json" => Framing::Whole,
            "text/event-stream" => Framing::Events(Line::Name(0)),
            _ => Framing::Opaque,
        };
        Self {
            framing,
            json: Json::default(),
            tokens: Tokens::default(),
            text: 0,
            events: 0,
            begun: Begun::default(),
            end: End::default(),
        }
    }

    /// Reads the next bytes.
    pub fn see(&mut self, bytes: &[u8]) {
        match &mut self.framing {
            Framing::Opaque => self.text = self.text.saturating_add(bytes.len() as u64),
            Framing::Whole => {
                for b in bytes {
                    self.json.take(*b, &mut self.tokens);
                }
            }
            Framing::Events(line) => {
                for b in bytes {
                    if matches!(b, b'\n' | b'\r') {
                        self.end = self.begun.take().unwrap_or(self.end);
                    } else {
                        self.begun.push(*b);
                    }
                    *line = match (*line, *b) {
                        // The empty line ends an event, and with it its JSON.
                        (Line::Name(0), b'\n' | b'\r') => {
                            self.text = self.text.saturating_add(std::mem::take(&mut self.json).text);
                            Line::Name(0)
                        }
                        (_, b'\n' | b'\r') => Line::Name(0),
                        (Line::Name(n), b) => match DATA.get(n) {
                            Some(want) if *want == b && n + 1 == DATA.len() => {
                                self.events = self.events.saturating_add(1);
                                Line::Data
                            }
                            Some(want) if *want == b => Line::Name(n + 1),
                            _ => Line::Other,
                        },
                        (Line::Data, b) => {
                            self.json.take(b, &mut self.tokens);
                            Line::Data
                        }
                        (Line::Other, _) => Line::Other,
                    };
                }
            }
        }
    }

    /// Whether the answer has said that this is all of it, though its body may go on: no more is made.
    pub fn is_over(&self) -> bool {
        match (&self.framing, self.end) {
            (Framing::Events(_), End::Over) => true,
            (Framing::Events(_), End::Named) | (Framing::Whole, _) => self.tokens.output.is_some(),
            (Framing::Events(_), End::Open) | (Framing::Opaque, _) => false,
        }
    }

    /// Whether the body is an event stream.
    pub fn reads_events(&self) -> bool {
        matches!(self.framing, Framing::Events(_))
    }

    /// Tokens of the answer that have passed, whatever was reported: one for every [`BYTES_A_TOKEN`] bytes of
    /// its text, which is nearly always too many, and at least one for each event. Tokens that the provider
    /// doesn't send, such as hidden reasoning, aren't seen.
    pub fn passed(&self) -> u64 {
        self.text.saturating_add(self.json.text).div_ceil(BYTES_A_TOKEN).max(self.events)
    }

    /// The usage that was reported so far.
    pub fn tokens(&self) -> Tokens {
        self.tokens
    }
}

const DATA: &[u8] = b"data:";
/// Most bytes of a key that are kept: one more than the longest key that is looked for has.
const MAX_KEY: usize = 9;

#[derive(Debug, Default)]
struct Json {
    depth: u32,
    within: Text,
    /// Whether the next string is a key of the object at `depth`.
    key_next: bool,
    key: Vec<u8>,
    /// Whether the scanner is inside a `message` or `response` at the top.
    below: bool,
    /// Bytes of string values below the top level. At the top only `delta` counts: the others are ids and
    /// names.
    text: u64,
    /// Of `text`, the bytes of the last string. They are taken off again if a colon follows, which makes it a
    /// key.
    string: u64,
    /// A `usage` object being copied, and the depth at which it began.
    copy: Option<(u32, Vec<u8>)>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Text {
    #[default]
    Outside,
    Value,
    Key,
    Escape {
        key: bool,
    },
}

impl Json {
    fn take(&mut self, b: u8, tokens: &mut Tokens) {
        if let Some((_, copy)) = &mut self.copy {
            copy.push(b);
            if copy.len() > MAX_USAGE {
                self.copy = None;
            }
        }
        match self.within {
            Text::Escape { key: true } => self.within = Text::Key,
            Text::Escape { key: false } => {
                self.hear();
                self.within = Text::Value;
            }
            Text::Value | Text::Key if b == b'\\' => {
                self.within = Text::Escape { key: self.within == Text::Key }
            }
            Text::Value | Text::Key if b == b'"' => self.within = Text::Outside,
            Text::Value => self.hear(),
            Text::Key => {
                if self.key.len() < MAX_KEY {
                    self.key.push(b);
                }
            }
            Text::Outside => self.structure(b, tokens),
        }
    }

    /// Counts a byte of a string.
    fn hear(&mut self) {
        if self.depth > 1 || self.key == b"delta" {
            self.text = self.text.saturating_add(1);
            self.string = self.string.saturating_add(1);
        }
    }

    /// Whether keys at the current depth matter.
    fn looked_at(&self) -> bool {
        self.depth == 1 || (self.depth == 2 && self.below)
    }

    fn structure(&mut self, b: u8, tokens: &mut Tokens) {
        match b {
            b'"' if self.key_next && self.looked_at() => {
                self.key.clear();
                (self.within, self.string) = (Text::Key, 0);
            }
            b'"' => (self.within, self.string) = (Text::Value, 0),
            b':' => {
                self.text = self.text.saturating_sub(std::mem::take(&mut self.string));
                self.key_next = false;
            }
            b',' => self.key_next = self.looked_at(),
            b'{' => {
                let usage = self.looked_at() && self.key == b"usage";
                let below = self.depth == 1 && (self.key == b"message" || self.key == b"response");
                self.depth = self.depth.saturating_add(1);
                if usage && self.copy.is_none() {
                    self.copy = Some((self.depth, vec![b'{']));
                } else if below {
                    self.below = true;
                }
                self.key.clear();
                self.key_next = self.looked_at();
            }
            b'[' => {
                self.depth = self.depth.saturating_add(1);
                self.key_next = false;
            }
            b'}' | b']' => {
                if let Some((_, copy)) = self.copy.take_if(|(began, _)| *began == self.depth) {
                    tokens.merge(serde_json::from_slice::<Usage>(&copy).unwrap_or_default().into());
                }
                self.depth = self.depth.saturating_sub(1);
                self.below &= self.depth >= 2;
                self.key_next = false;
                self.key.clear();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn count(kind: &str, text: &str) -> Tokens {
        let mut tap = Tap::new(kind);
        tap.see(text.as_bytes());
        // However it is cut, the count is the same.
        for size in [1, 2, 3, 7] {
            let mut cut = Tap::new(kind);
            for chunk in text.as_bytes().chunks(size) {
                cut.see(chunk);
            }
            assert_eq!(cut.tokens(), tap.tokens());
        }
        tap.tokens()
    }

    const SSE: &str = "text/event-stream; charset=utf-8";

    #[test]
    fn chat_completion() {
        let text = r#"{"id":"x","choices":[{"message":{"content":"{\"usage\":{\"prompt_tokens\":99}}","usage":{"prompt_tokens":98}}}],
            "usage":{"prompt_tokens":12,"completion_tokens":7,"total_tokens":19,"prompt_tokens_details":{"cached_tokens":4}}}"#;
        let it = count("application/json", text);
        assert_eq!(it, Tokens { input: Some(12), output: Some(7), cache_read: Some(4), cache_write: None });
    }

    #[test]
    fn chat_completion_stream() {
        let text = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"usage\":null}\n\n\
                    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
        assert_eq!(count(SSE, text), Tokens { input: Some(3), output: Some(2), ..Tokens::default() });
    }

    #[test]
    fn responses_stream() {
        let text = "event: response.completed\r\ndata: {\"type\":\"response.completed\",\"response\":{\"output\":[{\"usage\":{\"input_tokens\":1}}],\
                    \"usage\":{\"input_tokens\":30,\"input_tokens_details\":{\"cached_tokens\":5},\"output_tokens\":9}}}\r\n\r\n";
        let it = count(SSE, text);
        assert_eq!(it, Tokens { input: Some(30), output: Some(9), cache_read: Some(5), cache_write: None });
    }

    #[test]
    fn anthropic_stream_reports_running_totals() {
        let text = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"content\":[],\"usage\":{\"input_tokens\":25,\"cache_read_input_tokens\":6,\"output_tokens\":1}}}\n\n\
                    event: ping\ndata: {\"type\": \"ping\"}\n\n\
                    event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"output_tokens\":15}}\n\n";
        let it = count(SSE, text);
        assert_eq!(it, Tokens { input: Some(25), output: Some(15), cache_read: Some(6), cache_write: None });
    }

    #[test]
    fn the_text_that_passes_is_counted_and_what_frames_it_is_not() {
        let passed = |kind: &str, text: &str| {
            let mut tap = Tap::new(kind);
            text.as_bytes().chunks(3).for_each(|piece| tap.see(piece));
            tap.passed()
        };
        let chunk = |text: &str| {
            format!(
                "data: {{\"id\":\"chatcmpl\",\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
            )
        };
        // One token in each event; many tokens in each event; an event that is cut off.
        assert_eq!(passed(SSE, &chunk("a").repeat(300)), 300);
        assert_eq!(passed(SSE, &chunk(&"word".repeat(100)).repeat(3)), 600);
        assert_eq!(passed(SSE, chunk(&"word".repeat(100)).split_once("\"}}").unwrap().0), 200);
        let response = "data: {\"item_id\":\"i\",\"delta\":\"four\\ntimes\",\"sequence\":1}\n\n";
        assert_eq!(passed(SSE, response), 5);
        let message = "data: {\"delta\":{\"type\":\"text_delta\",\"text\":\"four times\"}}\n\n";
        assert_eq!(passed(SSE, message), 10);
        assert_eq!(passed("text/plain", "four times"), 5);
    }

    #[test]
    fn an_answer_is_over_with_its_last_word() {
        let over = |kind: &str, text: &str| {
            let whole = [text.len(), 1, 3].map(|size| {
                let mut tap = Tap::new(kind);
                text.as_bytes().chunks(size).for_each(|piece| tap.see(piece));
                tap.is_over()
            });
            assert!(whole == [whole[0]; 3], "{text}");
            whole[0]
        };
        let usage = "data: {\"response\":{\"usage\":{\"output_tokens\":5}}}\r\n";
        for text in [
            "data: {\"choices\":[]}\n\ndata: [DONE]\n",
            "data:[DONE]\r\n\r\n",
            "event: message_start\ndata: {}\n\nevent: message_stop\n",
            &format!("event: response.completed\r\n{usage}"),
            &format!("event:response.incomplete\r\n{usage}"),
        ] {
            assert!(over(SSE, text), "{text}");
        }
        for text in [
            usage,
            "event: response.completed\ndata: {\"response\":{\"usage\":{\"output_to",
            "event: message_stop",
            "event: message_delta\ndata: {\"usage\":{\"output_tokens\":15}}\n\n",
            "data: \"data: [DONE]\"\n",
            "data: [DONE] \nid: [DONE]\n: event: message_stop\n[DONE]\n",
        ] {
            assert!(!over(SSE, text), "{text}");
        }
        assert!(over("application/json", "{\"usage\":{\"completion_tokens\":1}"));
        assert!(!over("application/json", "{\"usage\":{\"prompt_tokens\":1},\"choices\":["));
        assert!(!over("text/plain", "data: [DONE]\n"));
    }

    #[test]
    fn odd_usage_counts_nothing() {
        for text in [
            "{\"usage\":null}",
            "{\"usage\":[1]}",
            "{\"usage\":{\"prompt_tokens\":-1}}",
            "{\"usage\":{\"prompt_tokens\":1e400}}",
            "[{\"usage\":{\"prompt_tokens\":5}}]",
            "{\"x\":{\"usage\":{\"prompt_tokens\":5}}}",
            "{\"x\":\"usage\",\"y\":{\"prompt_tokens\":5}}",
        ] {
            assert_eq!(count("application/json", text), Tokens::default(), "{text}");
        }
        let huge = format!("{{\"usage\":{{\"x\":\"{}\",\"prompt_tokens\":5}}}}", "y".repeat(MAX_USAGE));
        assert_eq!(count("application/json", &huge), Tokens::default());
    }

    proptest! {
        #[test]
        fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400), events in any::<bool>()) {
            let mut tap = Tap::new(if events { SSE } else { "application/json" });
            tap.see(&bytes);
            let _ = tap.tokens();
        }

        #[test]
        fn strings_never_confuse_it(noise in "\\PC{0,40}") {
            let noise = serde_json::Value::from(noise);
            let text = format!("{{\"a\":{noise},\"b\":[{noise},{{\"c\":{noise}}}],\"usage\":{{\"n\":{noise},\"input_tokens\":4}}}}");
            prop_assert_eq!(count("application/json", &text).input, Some(4));
        }
    }
}
