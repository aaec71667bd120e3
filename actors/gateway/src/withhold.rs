//! Takes out of an event stream the one event that the agent didn't ask for: the last chunk, which holds
//! nothing but the usage.
//!
//! Providers of OpenAI's protocol report a stream's usage only if asked to (`stream_options.include_usage`).
//! Where the agent didn't ask, the gateway does, and the agent gets the stream that it would have got. Events
//! are passed on one by one and whole, since a client can't use half an event; an event that is too long to
//! be a usage is passed on as it comes. Nothing else is changed.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

/// Longest event that is held until it is whole, in bytes. Those that report a usage have a few hundred.
pub(crate) const MAX_EVENT: usize = 8 * 1024;

/// Takes out the usage event; see the module.
#[derive(Debug, Default)]
pub(crate) struct Withhold {
    /// The bytes of the event that has begun; none of them were passed on.
    held: Vec<u8>,
    /// Whether the event that has begun is too long to be held, and is passed on until its end.
    passing: bool,
    /// Whether the line that has begun has any bytes.
    in_line: bool,
    /// What was done with a carriage return, if it was the last byte: a line feed behind it belongs to the
    /// same line end.
    after_cr: Option<Went>,
}

#[derive(Debug, Clone, Copy)]
enum Went {
    On,
    Held,
    Nowhere,
}

impl Withhold {
    /// Takes the next bytes, and returns those that may be passed on.
    pub fn push(&mut self, bytes: &[u8]) -> Bytes {
        let mut on = BytesMut::with_capacity(self.held.len() + bytes.len());
        for byte in bytes {
            self.take(*byte, &mut on);
        }
        on.freeze()
    }

    /// Ends the stream, and returns the bytes of an unfinished event that are to be passed on.
    pub fn finish(&mut self) -> Bytes {
        let rest = std::mem::take(&mut self.held);
        if tells_only_usage(&rest) { Bytes::new() } else { rest.into() }
    }

    fn take(&mut self, byte: u8, on: &mut BytesMut) {
        match (byte, self.after_cr.take()) {
            (b'\n', Some(Went::On)) => return on.put_u8(byte),
            (b'\n', Some(Went::Held)) => return self.held.push(byte),
            (b'\n', Some(Went::Nowhere)) => return,
            _ => {}
        }
        if self.passing {
            on.put_u8(byte);
        } else {
            self.held.push(byte);
        }
        if !matches!(byte, b'\n' | b'\r') {
            self.in_line = true;
            if self.held.len() > MAX_EVENT {
                self.passing = true;
                self.let_go(on);
            }
            return;
        }
        let ends_event = !std::mem::take(&mut self.in_line);
        let went = if self.passing {
            self.passing = !ends_event;
            Went::On
        } else if ends_event && tells_only_usage(&self.held) {
            self.held.clear();
            Went::Nowhere
        } else if ends_event || self.held.starts_with(b":") {
            // A comment in front of an event isn't part of it: it keeps the connection alive, and must not be
            // delayed.
            self.let_go(on);
            Went::On
        } else {
            Went::Held
        };
        self.after_cr = (byte == b'\r').then_some(went);
    }

    fn let_go(&mut self, on: &mut BytesMut) {
        on.extend_from_slice(&self.held);
        self.held.clear();
    }
}

/// The members of a completion's chunk that matter here.
#[derive(Deserialize)]
struct Chunk<'a> {
    choices: Vec<IgnoredAny>,
    #[serde(borrow)]
    usage: &'a RawValue,
    #[serde(default)]
    error: Option<IgnoredAny>,
}

/// Whether an event is that last chunk: it has no choice, a usage, and no error.
fn tells_only_usage(event: &[u8]) -> bool {
    let mut data = Vec::new();
    for line in event.split(|byte| matches!(byte, b'\n' | b'\r')) {
        if let Some(more) = line.strip_prefix(b"data:") {
            data.extend_from_slice(more);
            data.push(b'\n');
        }
    }
    serde_json::from_slice::<Chunk<'_>>(&data).is_ok_and(|chunk| {
        chunk.choices.is_empty() && chunk.usage.get().starts_with('{') && chunk.error.is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const USAGE: &str = "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":3}}\n\n";

    /// What is passed on of `text`. Checks that it is the same however the text is cut.
    fn on(text: &str) -> String {
        let cut = |size: usize| {
            let mut it = Withhold::default();
            let mut out = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                out.extend_from_slice(&it.push(piece));
                assert!(it.held.len() <= MAX_EVENT + 2);
            }
            out.extend_from_slice(&it.finish());
            String::from_utf8(out).unwrap()
        };
        let whole = cut(text.len().max(1));
        for size in [1, 2, 3, 7] {
            assert_eq!(cut(size), whole);
        }
        whole
    }

    #[test]
    fn only_the_usage_is_taken_out() {
        let said = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"usage\":null}\n\n";
        assert_eq!(on(&format!("{said}{USAGE}data: [DONE]\n\n")), format!("{said}data: [DONE]\n\n"));
        for end in ["\r\n", "\r"] {
            let with = |text: &str| text.replace('\n', end);
            let text = format!("{said}{USAGE}data: [DONE]\n\n");
            assert_eq!(on(&with(&text)), with(&format!("{said}data: [DONE]\n\n")));
        }
        // A server that ends the stream with the usage, and one that spreads it over two lines.
        assert_eq!(on(&format!("{said}{}", USAGE.trim_end())), said);
        assert_eq!(on("id: 7\ndata: {\"choices\":[],\ndata: \"usage\":{}}\n\n"), "");
    }

    #[test]
    fn everything_else_goes_on_as_it_came() {
        let long = format!("data: {{\"choices\":[],\"usage\":{{\"x\":\"{}\"}}}}\n\n", "y".repeat(MAX_EVENT));
        for text in [
            "",
            "\n\n\r\n\r\r",
            ": keep-alive\n",
            ": one\r\n: two\r\n\r\n",
            "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n",
            "data: {\"choices\":[],\"usage\":null}\n\n",
            "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":3}}\n\n",
            "data: {\"choices\":[],\"usage\":{},\"error\":{\"code\":500}}\n\n",
            "data: {\"usage\":{}}\n\n",
            "data: {\"choices\":[],\"usage\":{},\"usage\":{}}\n\n",
            "event: x\ndata: [1]\n\n",
            "data: {\"choices\":[],\"usa",
            &long,
        ] {
            assert_eq!(on(text), text);
        }
        assert_eq!(on(&format!("{long}{USAGE}{long}")), format!("{long}{long}"));
    }

    #[test]
    fn nothing_waits_longer_than_for_its_events_end() {
        let mut it = Withhold::default();
        assert_eq!(it.push(b": alive\n"), ": alive\n");
        assert_eq!(it.push(b"data: {\"choices\""), "");
        assert_eq!(it.push(b":[1]}\r\n\r"), "data: {\"choices\":[1]}\r\n\r");
        assert_eq!(it.push(b"\ndata: 2\n\ndata"), "\ndata: 2\n\n");
        let long = "x".repeat(MAX_EVENT);
        assert_eq!(it.push(long.as_bytes()).len(), MAX_EVENT + 4);
        assert_eq!(it.push(b"more"), "more");
        assert_eq!(it.push(b"\n\ndata: 3\n\n"), "\n\ndata: 3\n\n");
        assert!(it.held.is_empty());
    }

    proptest! {
        #[test]
        fn without_a_usage_nothing_changes(pieces in proptest::collection::vec("(data: ?|: |\\{|\\}|\"choices\":\\[\\]|x|\n|\r|\r\n){0,6}", 0..8)) {
            let text = pieces.concat();
            prop_assert_eq!(on(&text), text);
        }
    }
}
