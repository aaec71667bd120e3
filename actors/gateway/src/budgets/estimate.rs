//! What a request may use at most, told from what it says of itself, and what it has used once its answer is over.
//!
//! An estimate is what is held of a budget while nobody knows better. It errs towards too much: a token of text has more than two bytes nearly always,
//! and of what may be answered all is taken that is asked for.

use crate::{config::Kind, output::Output, shape::Endpoint, usage::Tokens};

/// Bytes of a request that are taken for one token of it.
pub const BYTES_A_TOKEN: u64 = 2;
/// Tokens of an answer whose request names no most of its own.
pub const UNTOLD_OUTPUT: u64 = 8192;

/// Tokens that are taken for what a request only names, and its provider has: a response before it, a conversation, a stored prompt.
pub const UNTOLD_INPUT: u64 = 131_072;

/// Tokens, at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Of the request.
    pub input: u64,
    /// Of the answer.
    pub output: u64,
}

impl Estimate {
    /// Of a request of so many bytes, which may lean on what its provider keeps.
    pub(crate) fn of(endpoint: Endpoint, bytes: usize, leans: bool, asked: Output) -> Self {
        let input = (bytes as u64).div_ceil(BYTES_A_TOKEN) + if leans { UNTOLD_INPUT } else { 0 };
        match endpoint {
            // Nothing is made of them.
            Endpoint::Models | Endpoint::Model | Endpoint::CountTokens => Self::default(),
            Endpoint::Embeddings => Self { input, output: 0 },
            Endpoint::ChatCompletions | Endpoint::Completions | Endpoint::Responses | Endpoint::Messages => {
                let each = asked.most.unwrap_or(UNTOLD_OUTPUT);
                Self { input, output: each.saturating_mul(asked.answers.max(1)) }
            }
        }
    }

    /// In all.
    pub fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// What was used, by an answer that came with this status and to its end or not. Of what isn't told the estimate stands, or what
    /// was seen of the answer where that is more: an agent can name a small maximum or none, and leave before it is told.
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

    fn output(most: Option<u64>, answers: u64) -> Output {
        Output { most, answers }
    }

    #[test]
    fn an_estimate_has_all_that_is_asked_for() {
        let of = |endpoint, most, answers| Estimate::of(endpoint, 1001, false, output(most, answers)).total();
        assert_eq!(of(Endpoint::ChatCompletions, Some(100), 0), 501 + 100);
        assert_eq!(of(Endpoint::ChatCompletions, Some(100), 8), 501 + 800);
        assert_eq!(of(Endpoint::Responses, None, 1), 501 + UNTOLD_OUTPUT);
        let leans = Estimate::of(Endpoint::Responses, 1001, true, output(Some(1), 1));
        assert_eq!(leans.total(), 501 + 1 + UNTOLD_INPUT);
        assert_eq!(of(Endpoint::Embeddings, Some(100), 8), 501);
        assert_eq!(of(Endpoint::CountTokens, Some(100), 8), 0);
        assert_eq!(of(Endpoint::Messages, Some(u64::MAX), u64::MAX), u64::MAX);
    }

    #[test]
    fn what_is_told_counts_and_of_the_rest_the_estimate() {
        let estimate = Estimate { input: 50, output: 500 };
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
            Estimate { input: 50, output: 500 }.used(Kind::Openai, &told, 9000, code, complete)
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
