//! Estimates what a request may use at most, from the request itself, and works out what it used once its
//! answer is over.
//!
//! The estimate is held of a budget until the usage is known. It errs towards too much: a token of text
//! nearly always has more than two bytes, and the answer is taken to be as long as the request allows.

use crate::{config::Kind, output::Output, shape::Endpoint, usage::Tokens};

/// Bytes of a request or answer that are counted as one token.
pub const BYTES_A_TOKEN: u64 = 2;
/// Tokens that are counted for an answer whose request sets no maximum, until the usage is known.
pub const UNTOLD_OUTPUT: u64 = 8192;
/// Tokens that such an answer may come to: the most that any provider's model makes in one answer.
pub const UNTOLD_MOST: u64 = 131_072;

/// Tokens that are counted for state at the provider that a request refers to: an earlier response, a
/// conversation, a stored prompt.
pub const UNTOLD_INPUT: u64 = 131_072;

/// The most tokens that a request may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Tokens of the request.
    pub input: u64,
    /// Tokens of the answer.
    pub output: u64,
    /// Tokens that the answer may have beyond `output`, where its request sets no maximum. A request is
    /// admitted beside others only if there is room for them too, but they count only once they are used:
    /// answers are rarely so long, and many are broken off.
    pub beyond: u64,
}

impl Estimate {
    /// The estimate for a request of `bytes` bytes. `leans` says that it refers to state at its provider.
    pub(crate) fn of(endpoint: Endpoint, bytes: usize, leans: bool, asked: Output) -> Self {
        let input = (bytes as u64).div_ceil(BYTES_A_TOKEN) + if leans { UNTOLD_INPUT } else { 0 };
        match endpoint {
            // No model runs for these.
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

    /// The tokens that are counted until the usage is known.
    pub fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// The tokens for which there must be room while other requests are in flight.
    pub(crate) fn most(self) -> u64 {
        self.total().saturating_add(self.beyond)
    }

    /// The tokens that were used, given the answer's status and whether it came to its end. Where the
    /// provider reported nothing, the estimate stands, or the tokens seen in the answer if they are more: an
    /// agent can set a small maximum or none, and hang up before the usage is reported.
    pub(crate) fn used(self, kind: Kind, told: &Tokens, seen: u64, code: u16, complete: bool) -> u64 {
        // Anthropic reports cached prompt tokens in addition to the input tokens, OpenAI among them.
        let cached = match kind {
            Kind::Anthropic => told.cache_read.unwrap_or(0).saturating_add(told.cache_write.unwrap_or(0)),
            Kind::Openai => 0,
        };
        let sum = |input: u64, output: u64| input.saturating_add(output).saturating_add(cached);
        if !(200..300).contains(&code) {
            // An error: the request wasn't served, unless a usage was reported.
            return sum(told.input.unwrap_or(0), told.output.unwrap_or(0));
        }
        let output = match told.output {
            Some(output) if complete => output,
            output => output.unwrap_or(self.output).max(seen),
        };
        let used = sum(told.input.unwrap_or(self.input), output);
        // Where a stream broke off, the reported usage may be an intermediate total.
        if complete { used } else { used.max(self.most()) }
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
        // A usage reported at the end counts as it is; an error wasn't served.
        let open = Estimate { input: 50, output: 500, beyond: 9500 };
        let used = |told: Tokens, seen, complete| open.used(Kind::Openai, &told, seen, 200, complete);
        let told = Tokens { input: Some(10), output: Some(20), ..Tokens::default() };
        assert_eq!(used(Tokens::default(), 0, false), 10_050);
        assert_eq!((used(told, 600, false), used(told, 11_000, false)), (10_050, 11_010));
        assert_eq!((used(told, 600, true), used(Tokens::default(), 600, true)), (30, 650));
    }

    #[test]
    fn what_is_told_at_the_end_is_it_and_an_error_was_not_served() {
        let used = |input, output, code, complete| {
            let told = Tokens { input, output, ..Tokens::default() };
            Estimate { input: 50, output: 500, beyond: 0 }.used(Kind::Openai, &told, 9000, code, complete)
        };
        assert_eq!(used(Some(10), Some(20), 200, true), 30);
        assert_eq!(used(None, None, 500, false), 0);
    }
}
