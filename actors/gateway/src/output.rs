//! How long an answer a request asks for, which a budget holds for it.
//!
//! Read from the first level of a body together with the other members (`fields`), in the way of the parser
//! that would read the most into it. Whether the request may have so much is not decided here.

use serde::{
    Deserializer as _,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{fields::is_taken_for, shape::Endpoint};

/// How long an answer is asked for, and how many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Output {
    /// What each of [`Output::MOST`] says.
    most: [Most; 3],
    /// How many answers are made; 0 and 1 both mean one. If a member stands twice, or in a spelling that some
    /// parser takes for it, the largest value counts.
    pub answers: u64,
}

/// What a member says of an answer's maximum, in the order in which one takes precedence over another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Most {
    #[default]
    Unsaid,
    /// `null`: clients write it for what isn't set.
    Unset,
    Said(u64),
    /// Said twice, in a spelling that not every parser knows, or not as a positive number: some server may
    /// take that for no maximum, or for as much as there is.
    Unclear,
}

impl Most {
    fn of(value: &RawValue) -> Self {
        if value.get() == "null" {
            return Self::Unset;
        }
        match value.get().parse::<f64>() {
            // Some servers take 0 for no maximum, and a negative number for as much as there is.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
            Ok(most) if most >= 1.0 => Self::Said(most.ceil() as u64),
            _ => Self::Unclear,
        }
    }

    fn hear(&mut self, is_exact: bool, value: &RawValue) {
        let is_first = *self == Self::Unsaid;
        *self = if is_exact && is_first { Self::of(value) } else { Self::Unclear };
    }
}

impl Output {
    const MOST: [&str; 3] = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
    /// All of `best_of` answers are made, and `n` of them returned.
    const ANSWERS: [&str; 2] = ["n", "best_of"];

    /// Whether a member says anything of the answer's length or number.
    pub fn is_told_by(key: &str) -> bool {
        Self::MOST.into_iter().chain(Self::ANSWERS).any(|name| is_taken_for(key, name))
    }

    pub fn hear(&mut self, key: &str, value: &RawValue) {
        let names = Self::MOST.into_iter().zip(&mut self.most);
        for (name, most) in names.filter(|(name, _)| is_taken_for(key, name)) {
            most.hear(key == name, value);
        }
        if Self::ANSWERS.into_iter().any(|name| is_taken_for(key, name)) {
            self.hear_answers(value);
        }
    }

    fn hear_answers(&mut self, value: &RawValue) {
        // The cast saturates. A value that isn't a number is for the provider to refuse.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "that is what is wanted")]
        if let Ok(count) = value.get().parse::<f64>() {
            self.answers = self.answers.max(count.ceil() as u64);
        }
    }

    /// Most tokens of each answer, by the member names that this endpoint has: providers ignore any other.
    /// `None` where none of them states a maximum beyond doubt.
    pub fn most(&self, endpoint: Endpoint) -> Option<u64> {
        let [tokens, completion, output] = self.most;
        let most = match endpoint {
            Endpoint::ChatCompletions => tokens.max(completion),
            Endpoint::Completions | Endpoint::Messages => tokens,
            Endpoint::Responses => output,
            Endpoint::Models | Endpoint::Model | Endpoint::Embeddings | Endpoint::CountTokens => return None,
        };
        match most {
            Most::Said(most) => Some(most),
            Most::Unsaid | Most::Unset | Most::Unclear => None,
        }
    }
}

/// How many prompts (texts, or lists of tokens) a completion's `prompt` holds, each of which is answered.
/// They are counted without being kept.
pub(crate) fn texts(value: &RawValue) -> u64 {
    struct Prompts;
    impl<'de> Visitor<'de> for Prompts {
        type Value = u64;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<u64, A::Error> {
            let mut texts = 0;
            while let Some(item) = items.next_element::<&RawValue>()? {
                texts += u64::from(item.get().starts_with(['"', '[']));
            }
            Ok(texts)
        }
    }
    let mut list = serde_json::Deserializer::from_str(value.get());
    list.deserialize_seq(Prompts).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Fields;

    fn output(members: &str) -> Output {
        let text = format!(r#"{{"model":"a"{members}}}"#);
        serde_json::from_str::<Fields<'_>>(&text).unwrap().output
    }

    #[test]
    fn the_most_of_an_answer_is_what_is_said_beyond_doubt() {
        for (members, wanted) in [
            ("", None),
            (r#","max_tokens":5"#, Some(5)),
            (r#","max_tokens":5,"max_completion_tokens":9"#, Some(9)),
            (r#","max_tokens":9,"max_completion_tokens":null"#, Some(9)),
            (r#","max_tokens":1e3"#, Some(1000)),
            (r#","max_tokens":1e999"#, Some(u64::MAX)),
            (r#","max_tokens":5,"max_tokens":7"#, None),
            (r#","max_tokens":5,"max_tokens":null"#, None),
            (r#","Max_Tokens":5"#, None),
            (r#","max_tokens":5,"MAX_TOKENS":5"#, None),
            (r#","max_tokens":null"#, None),
            (r#","max_tokens":"9""#, None),
            (r#","max_tokens":0"#, None),
            (r#","max_tokens":0.5"#, None),
            (r#","max_tokens":-1"#, None),
            (r#","max_tokens":5,"max_completion_tokens":-2"#, None),
        ] {
            assert_eq!(output(members).most(Endpoint::ChatCompletions), wanted, "{members}");
        }
    }

    #[test]
    fn only_an_endpoints_own_names_count() {
        use Endpoint::{ChatCompletions, Completions, Messages, Responses};
        for (name, endpoints) in [
            ("max_tokens", &[ChatCompletions, Completions, Messages][..]),
            ("max_completion_tokens", &[ChatCompletions]),
            ("max_output_tokens", &[Responses]),
        ] {
            let output = output(&format!(r#","{name}":1"#));
            for endpoint in [ChatCompletions, Completions, Messages, Responses] {
                let wanted = endpoints.contains(&endpoint).then_some(1);
                assert_eq!(output.most(endpoint), wanted, "{name} {endpoint:?}");
            }
        }
    }

    #[test]
    fn all_answers_count_that_anybody_may_take_to_be_asked_for() {
        for (members, wanted) in [
            ("", 1),
            (r#","n":3"#, 3),
            (r#","N":3,"n":1"#, 3),
            (r#","n":3,"best_of":8"#, 8),
            (r#","n":0"#, 1),
            (r#","n":null"#, 1),
            (r#","n":-4"#, 1),
            (r#","prompt":["a","b",[1,2],3],"n":2"#, 6),
            (r#","prompt":[1,2,3]"#, 1),
            (r#","prompt":"x""#, 1),
        ] {
            assert_eq!(output(members).answers, wanted, "{members}");
        }
    }
}
