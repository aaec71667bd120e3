//! What a request may use at most, told from what it says of itself, and what it has used once its answer is
//! over.
//!
//! An estimate is what is held of a budget while nobody knows better. It errs towards too much: a token of
//! text has more than two bytes nearly always, and of what may be answered all is taken that is asked for.

use crate::{config::Kind, output::Output, shape::Endpoint, usage::Tokens};

/// Bytes of a request that are taken for one token of it.
pub const BYTES_A_TOKEN: u64 = 2;
/// Tokens that an answer is counted with whose request names no most of its own, until somebody knows better.
pub const UNTOLD_OUTPUT: u64 = 8192;
/// Tokens that such an answer may come to: no more than what any provider's model makes in one.
pub const UNTOLD_MOST: u64 = 131_072;

/// Tokens that are taken for what a request only names, and its provider has: a response before it, a
/// conversation, a stored prompt.
pub const UNTOLD_INPUT: u64 = 131_072;

/// Tokens, at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Of the request.
    pub input: u64,
    /// Of the answer.
    pub output: u64,
    /// What the answer may have beyond that, where its request names no most. It is kept free for as long as
    /// others are in flight, and counts only once it is used: an answer has as much once in a long while, and
    /// many are broken off.
    pub beyond: u64,
}

impl Estimate {
    /// Of a request of so many bytes, which may lean on what its provider keeps.
    pub(crate) fn of(endpoint: Endpoint, bytes: usize, leans: bool, asked: Output) -> Self {
        let input = (bytes as u64).div_ceil(BYTES_A_TOKEN) + if leans { UNTOLD_INPUT } else { 0 };
        match endpoint {
            // Nothing is made of them.
            Endpoint::Models | Endpoint::Model | Endpoint::CountTokens => Self::default(),
            Endpoint::Embeddings => Self { input, ..Self::default() },
            Endpoint::ChatCompletions | Endpoint::Completions | Endpoint::Responses | Endpoint::Messages => {
                let (output, beyond) = match asked.most(endpoint) {
                    Some(most) => (most, 0),
                    None => (UNTOLD_OUTPUT, UNTOLD_MOST - UNTOLD_OUTPUT),
                };
                let all = |each: u64| each.saturating_mul(asked.answers.max(1));
                Self { input, output: all(output), beyond: all(beyond) }
            }
        }
    }

    /// What is counted while nobody knows better.
    pub fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// What there must be room for beside others.
    pub(crate) fn most(self) -> u64 {
        self.total().saturating_add(self.beyond)
    }

    /// What was used, by an answer that came with this status and to its end or not. Of what isn't told the
    /// estimate stands, or what was seen of the answer where that is more: an agent can name a small maximum
    /// or none, and leave before it is told.
    pub(crate) fn used(self, kind: Kind, told: &Tokens, seen: u64, code: u16, complete: bool) -> u64 {
        // Anthropic counts what it keeps of a prompt beside it, OpenAI within it.
        let cached = match kind {
            Kind::Anthropic => told.cache_read.unwrap_or(0).saturating_add(told.cache_write.unwrap_or(0)),
            Kind::Openai => 0,
        };
        let sum = |input: u64, output: u64| input.saturating_add(output).saturating_add(cached);
        if !(200..300).contains(&code) {
            // An error: it was not served, unless it says so.
            return sum(told.input.unwrap_or(0), told.output.unwrap_or(0));
        }
        let output = match told.output {
            Some(output) if complete => output,
            output => output.unwrap_or(self.output).max(seen),
        };
        let used = sum(told.input.unwrap_or(self.input), output);
        // Of a stream that broke off, what was told may be what it came to by then.
        if complete { used } else { used.max(self.total()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Fields;

    fn asked(members: &str) -> Output {
        let text = format!(r#"{{"model":"a"{members}}}"#);
        serde_json::from_str::<Fields<'_>>(&text).unwrap().output
    }

    #[test]
    fn an_estimate_has_all_that_is_asked_for() {
        let of = |endpoint, members: &str| Estimate::of(endpoint, 1001, false, asked(members));
        let chat = of(Endpoint::ChatCompletions, r#","max_tokens":100"#);
        assert_eq!((chat.total(), chat.most()), (501 + 100, 501 + 100));
        assert_eq!(of(Endpoint::ChatCompletions, r#","max_tokens":100,"n":8"#).most(), 501 + 800);
        let leans = Estimate::of(Endpoint::Responses, 1001, true, asked(r#","max_output_tokens":1"#));
        assert_eq!(leans.total(), 501 + 1 + UNTOLD_INPUT);
        assert_eq!(of(Endpoint::Embeddings, r#","max_tokens":100,"n":8"#).most(), 501);
        assert_eq!(of(Endpoint::CountTokens, r#","max_tokens":100,"n":8"#).most(), 0);
        assert_eq!(of(Endpoint::Messages, r#","max_tokens":1e99,"n":1e99"#).most(), u64::MAX);
    }

    #[test]
    fn an_answer_without_a_most_is_counted_low_and_needs_the_room_of_the_longest() {
        for (endpoint, members, answers) in [
            (Endpoint::Responses, "", 1),
            (Endpoint::Responses, r#","max_tokens":1"#, 1),
            (Endpoint::ChatCompletions, r#","max_output_tokens":1,"n":3"#, 3),
            (Endpoint::ChatCompletions, r#","max_tokens":-1"#, 1),
        ] {
            let estimate = Estimate::of(endpoint, 1001, false, asked(members));
            let wanted = (501 + answers * UNTOLD_OUTPUT, 501 + answers * UNTOLD_MOST);
            assert_eq!((estimate.total(), estimate.most()), wanted, "{endpoint:?} {members}");
        }
        let absurd = Estimate::of(Endpoint::ChatCompletions, 1001, false, asked(r#","n":1e99"#));
        assert_eq!(absurd.most(), u64::MAX);
    }

    #[test]
    fn what_is_told_counts_and_of_the_rest_the_estimate() {
        let estimate = Estimate { input: 50, output: 500, beyond: 0 };
        let told = |input, output| Tokens { input, output, cache_read: Some(7), cache_write: Some(2) };
        let used = |kind, told, code, complete| estimate.used(kind, &told, 0, code, complete);
        assert_eq!(used(Kind::Openai, told(Some(10), Some(20)), 200, true), 30);
        assert_eq!(used(Kind::Anthropic, told(Some(10), Some(20)), 200, true), 39);
        assert_eq!(used(Kind::Openai, told(Some(10), None), 200, true), 510);
        assert_eq!(used(Kind::Openai, told(None, None), 200, true), 550);
        assert_eq!(used(Kind::Openai, told(Some(10), Some(1)), 200, false), 550);
        assert_eq!(used(Kind::Openai, told(Some(10), Some(900)), 200, false), 910);
        assert_eq!(used(Kind::Openai, Tokens::default(), 400, true), 0);
        assert_eq!(used(Kind::Openai, told(Some(u64::MAX), Some(1)), 200, true), u64::MAX);
    }

    #[test]
    fn what_was_seen_of_an_answer_counts_where_it_is_more_than_was_estimated() {
        let used = |input, output, code, complete| {
            let told = Tokens { input, output, ..Tokens::default() };
            Estimate { input: 50, output: 500, beyond: 0 }.used(Kind::Openai, &told, 9000, code, complete)
        };
        assert_eq!(used(None, None, 200, true), 9050);
        assert_eq!(used(Some(10), None, 200, false), 9010);
        assert_eq!(used(Some(10), Some(20), 200, false), 9010);
        assert_eq!(used(Some(10), Some(20_000), 200, false), 20_010);
        // Told at the end, that is it; and an error was not served.
        assert_eq!(used(Some(10), Some(20), 200, true), 30);
        assert_eq!(used(None, None, 500, false), 0);
    }
}
