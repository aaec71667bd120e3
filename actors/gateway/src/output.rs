//! How much of an answer a request asks for: what a budget holds for it.
//!
//! Read from the first level of a body beside what else stands there (`fields`), as whoever reads most into it would. Never here: whether it may have so much.

use serde::{
    Deserializer as _,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{budgets::UNTOLD_OUTPUT, fields::is_taken_for};

/// How much of an answer is asked for. Of what is said twice, or in a spelling that somebody takes for it, the most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Output {
    /// Tokens of each answer, at most; none where nothing is said of it.
    pub most: Option<u64>,
    /// How many answers are made; 0 and 1 are one.
    pub answers: u64,
}

impl Output {
    const MOST: [&str; 3] = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
    /// Of `best_of` answers all are made, and `n` of them told.
    const ANSWERS: [&str; 2] = ["n", "best_of"];

    /// Whether a member says anything of it.
    pub fn is_told_by(key: &str) -> bool {
        Self::MOST.into_iter().chain(Self::ANSWERS).any(|name| is_taken_for(key, name))
    }

    pub fn hear(&mut self, key: &str, value: &RawValue) {
        // Saturates, as what is no number at all is for the provider to refuse.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "that is what is wanted")]
        let Some((is_none, count)) = value.get().parse::<f64>().ok().map(|n| (n < 0.0, n.ceil() as u64))
        else {
            return;
        };
        if Self::MOST.into_iter().any(|name| is_taken_for(key, name)) {
            // Local servers take a negative one for as much as there is.
            self.most = self.most.max(Some(if is_none { UNTOLD_OUTPUT } else { count }));
        } else {
            self.answers = self.answers.max(count);
        }
    }
}

/// How many prompts a completion's `prompt` holds, each of which is answered: texts, or lists of tokens. Counted unkept, however many they are.
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

    #[test]
    fn as_much_of_an_answer_is_expected_as_anybody_may_take_to_be_asked_for() {
        let of = |members: &str| {
            let text = format!(r#"{{"model":"a"{members}}}"#);
            let Output { most, answers } = serde_json::from_str::<Fields<'_>>(&text).unwrap().output;
            (most, answers)
        };
        for (members, wanted) in [
            ("", (None, 1)),
            (r#","max_tokens":5"#, (Some(5), 1)),
            (r#","max_tokens":5,"max_tokens":7,"max_tokens":6"#, (Some(7), 1)),
            (r#","max_tokens":5,"max_completion_tokens":9"#, (Some(9), 1)),
            (r#","Max_Output_Tokens":9,"n":3"#, (Some(9), 3)),
            (r#","n":3,"best_of":8,"max_tokens":1e3"#, (Some(1000), 8)),
            (r#","n":0,"max_tokens":0.5"#, (Some(1), 1)),
            (r#","n":null,"max_tokens":"9""#, (None, 1)),
            (r#","max_tokens":-1"#, (Some(UNTOLD_OUTPUT), 1)),
            (r#","max_tokens":5,"max_completion_tokens":-2"#, (Some(UNTOLD_OUTPUT), 1)),
            (r#","max_tokens":1e999,"n":-4"#, (Some(u64::MAX), 1)),
            (r#","prompt":["a","b",[1,2],3],"n":2"#, (None, 6)),
            (r#","prompt":[1,2,3]"#, (None, 1)),
            (r#","prompt":"x""#, (None, 1)),
        ] {
            assert_eq!(of(members), wanted, "{members}");
        }
    }
}
