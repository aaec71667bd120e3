//! Reads the first level of a request's body: where its model's name stands, and whether what its endpoint
//! needs is there.
//!
//! One pass over the text, which keeps nothing but places in it. Deeper levels are skipped: whether a message
//! makes sense is for the provider to judge, but a body that is no request at all is refused here, before any
//! provider is asked.

use std::{borrow::Cow, ops::Range};

use policy::content::json::folds_to;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::{
    options::{self, Options, Telling},
    output::{Output, texts},
    shape::Endpoint,
};

/// The members of a body's first level that matter here.
pub(crate) struct Fields<'a> {
    pub model: &'a RawValue,
    pub stream: bool,
    stream_options: Options<'a>,
    /// Whether the request asks for an answer in the background, which only the endpoint for responses knows.
    pub background: bool,
    pub seen: Seen,
    pub output: Output,
}

/// What a request lacks of its endpoint's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// For a conversation.
    #[error("`messages` must be an array of objects, with one at least")]
    Messages,
    /// For a completion.
    #[error("`prompt` must be a string or an array")]
    Prompt,
    /// For an embedding or a response.
    #[error("`input` must be a string or an array")]
    Input,
    /// For a response, which may also continue from state at the provider.
    #[error("one of `input`, `prompt`, `previous_response_id` and `conversation` must be there")]
    AnyInput,
    /// For an Anthropic message, which has no default for it.
    #[error("`max_tokens` must be a positive integer")]
    MaxTokens,
}

/// The form of each member that some endpoint needs. Of two with the same name the later counts, as in most
/// parsers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    messages: Form,
    prompt: Form,
    input: Form,
    max_tokens: Form,
    previous_response_id: Form,
    conversation: Form,
}

/// The form of a value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Form {
    /// Not there, or `null`, which clients write for what isn't set.
    #[default]
    Absent,
    Text,
    /// An array.
    List,
    /// An array of objects, with one at least. Distinguished from [`Self::List`] only for `messages`.
    Objects,
    /// A positive integer.
    Count,
    Other,
}

impl Fields<'_> {
    /// Whether the stream will report its usage, and if not, what to write into `text` so that it does. A
    /// further member can be inserted at `free`, behind the value of `model`.
    pub fn telling(&self, text: &str, free: usize) -> Telling {
        if self.stream { self.stream_options.telling(text, free) } else { Telling::Asked }
    }
}

/// The place of a value in the text that it was read from. The value is a slice of the text, so the
/// difference of their addresses is its place.
pub(crate) fn place(text: &str, value: &str) -> Option<Range<usize>> {
    let start = (value.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    let at = start..start + value.len();
    (text.get(at.clone()) == Some(value)).then_some(at)
}

impl Seen {
    /// Checks that everything is there that `endpoint` needs.
    pub fn fits(&self, endpoint: Endpoint) -> Result<(), Lack> {
        let holds = |holds: bool, lack: Lack| if holds { Ok(()) } else { Err(lack) };
        let text = |form: Form| matches!(form, Form::Text | Form::List);
        let messages = || holds(self.messages == Form::Objects, Lack::Messages);
        match endpoint {
            Endpoint::Models | Endpoint::Model => Ok(()),
            Endpoint::ChatCompletions | Endpoint::CountTokens => messages(),
            Endpoint::Messages => {
                messages()?;
                holds(self.max_tokens == Form::Count, Lack::MaxTokens)
            }
            Endpoint::Completions => holds(text(self.prompt), Lack::Prompt),
            Endpoint::Embeddings => holds(text(self.input), Lack::Input),
            Endpoint::Responses => {
                let others = [self.prompt, self.previous_response_id, self.conversation];
                match self.input {
                    Form::Absent => holds(others.iter().any(|it| *it != Form::Absent), Lack::AnyInput),
                    input => holds(text(input), Lack::Input),
                }
            }
        }
    }

    /// Whether the request refers to state that only one provider has.
    pub fn leans_on_provider(&self, endpoint: Endpoint) -> bool {
        let kept = [self.previous_response_id, self.conversation, self.prompt];
        endpoint == Endpoint::Responses && kept.iter().any(|it| *it != Form::Absent)
    }

    /// The entry for a member that some endpoint needs.
    fn member(&mut self, key: &str) -> Option<&mut Form> {
        match key {
            "prompt" => Some(&mut self.prompt),
            "input" => Some(&mut self.input),
            "max_tokens" => Some(&mut self.max_tokens),
            "previous_response_id" => Some(&mut self.previous_response_id),
            "conversation" => Some(&mut self.conversation),
            _ => None,
        }
    }
}

impl Form {
    /// Tells the form by the value's first byte, and a number by its whole text, so that long values aren't
    /// read again.
    fn of(value: &RawValue) -> Self {
        let text = value.get();
        match text.as_bytes().first() {
            Some(b'n') => Self::Absent,
            Some(b'"') => Self::Text,
            Some(b'[') => Self::List,
            // `1024.0` is an integer, too, in JSON and to providers.
            Some(b'0'..=b'9') if text.parse::<f64>().is_ok_and(|n| n >= 1.0 && n.fract() == 0.0) => {
                Self::Count
            }
            _ => Self::Other,
        }
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(body: D) -> Result<Self, D::Error> {
        body.deserialize_map(FirstLevel)
    }
}

/// Reads keys so strictly that every parser finds the same `model` and `stream`.
struct FirstLevel;

impl<'de> Visitor<'de> for FirstLevel {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Fields<'de>, A::Error> {
        let (mut model, mut stream, mut seen) = (None, None, Seen::default());
        let (mut output, mut prompts) = (Output::default(), 1);
        let (mut stream_options, mut background) = (Options::Absent, false);
        while let Some(key) = members.next_key::<Cow<'de, str>>()? {
            match &*key {
                "model" if model.is_none() => model = Some(members.next_value()?),
                "stream" if stream.is_none() => stream = Some(members.next_value::<Option<bool>>()?),
                // The key stands twice, or in a spelling that some parser takes for it. Parsers disagree on
                // which of the two counts.
                other if ["model", "stream"].into_iter().any(|name| is_taken_for(other, name)) => {
                    return Err(A::Error::custom("double"));
                }
                other if is_taken_for(other, options::NAME) => {
                    stream_options = stream_options.hear(other, members.next_value()?);
                }
                // In any spelling that some parser may take for it.
                other if is_taken_for(other, "background") => {
                    let value: &RawValue = members.next_value()?;
                    background |= !matches!(value.get(), "false" | "null");
                }
                "messages" => seen.messages = members.next_value::<Messages>()?.0,
                other => match (seen.member(other), Output::is_told_by(other)) {
                    (None, false) => drop(members.next_value::<IgnoredAny>()?),
                    (member, told) => {
                        let value: &RawValue = members.next_value()?;
                        if told {
                            output.hear(other, value);
                        }
                        if other == "prompt" {
                            prompts = prompts.max(texts(value));
                        }
                        member.into_iter().for_each(|form| *form = Form::of(value));
                    }
                },
            }
        }
        let model = model.ok_or_else(|| A::Error::missing_field("model"))?;
        output.answers = output.answers.max(1).saturating_mul(prompts);
        let stream = stream.flatten().unwrap_or(false);
        Ok(Fields { model, stream, stream_options, background, seen, output })
    }
}

/// Whether some parser takes a key for `name`, since it ignores case or ends keys at a control character.
pub(crate) fn is_taken_for(key: &str, name: &str) -> bool {
    key.split(char::is_control).next().is_some_and(|key| folds_to(key, name))
}

/// The value of `messages`. Only checks that each message is an object.
struct Messages(Form);

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        value.deserialize_any(Conversation).map(Self)
    }
}

struct Conversation;

impl<'de> Visitor<'de> for Conversation {
    type Value = Form;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Form, A::Error> {
        let (mut any, mut fit) = (false, true);
        while let Some(item) = items.next_element::<&RawValue>()? {
            any = true;
            fit &= item.get().starts_with('{');
        }
        Ok(if any && fit { Form::Objects } else { Form::List })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Form, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Form::Other)
    }

    fn visit_unit<E>(self) -> Result<Form, E> {
        Ok(Form::Absent)
    }

    fn visit_str<E>(self, _: &str) -> Result<Form, E> {
        Ok(Form::Text)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Form, E> {
        Ok(Form::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Form, E> {
        Ok(Form::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Form, E> {
        Ok(Form::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Form, E> {
        Ok(Form::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(endpoint: Endpoint, members: &str) -> Result<(), Lack> {
        let text = format!(r#"{{"model":"a"{members}}}"#);
        serde_json::from_str::<Fields<'_>>(&text).unwrap().seen.fits(endpoint)
    }

    #[test]
    fn each_endpoint_has_what_it_needs() {
        use Endpoint::{ChatCompletions, Completions, CountTokens, Embeddings, Messages, Responses};
        for (endpoint, members) in [
            (ChatCompletions, r#","messages":[{"role":"user"}]"#),
            (ChatCompletions, r#","messages" : [ { } , {"a":[[{}]]} ] ,"prompt":7"#),
            (ChatCompletions, r#","mess\u0061ges":[{}]"#),
            (CountTokens, r#","messages":[{}]"#),
            (Messages, r#","messages":[{}],"max_tokens":1"#),
            (Messages, r#","max_tokens":1024.0,"messages":[{}]"#),
            (Completions, r#","prompt":"""#),
            (Completions, r#","prompt":[1,2]"#),
            (Embeddings, r#","input":"x""#),
            (Embeddings, r#","input":["x"]"#),
            (Responses, r#","input":"x""#),
            (Responses, r#","input":[],"prompt":{"id":"p"}"#),
            (Responses, r#","prompt":{"id":"p"}"#),
            (Responses, r#","input":null,"previous_response_id":"r""#),
            (Responses, r#","conversation":"c""#),
        ] {
            assert_eq!(judge(endpoint, members), Ok(()), "{endpoint:?} {members}");
        }
    }

    #[test]
    fn what_is_lacking_is_named() {
        use Endpoint::{ChatCompletions, Completions, CountTokens, Embeddings, Messages, Responses};
        for members in [
            "",
            r#","messages":[]"#,
            r#","messages":null"#,
            r#","messages":"h\u0065llo""#,
            r#","messages":{"role":"user"}"#,
            r#","messages":[{},"x"]"#,
            r#","messages":[[{}]]"#,
            r#","messages":true"#,
            r#","messages":-1"#,
            r#","messages":1.5"#,
            r#","Messages":[{}]"#,
        ] {
            for endpoint in [ChatCompletions, CountTokens, Messages] {
                assert_eq!(judge(endpoint, members), Err(Lack::Messages), "{endpoint:?} {members}");
            }
        }
        for number in ["0", "-1", "1.5", "\"5\"", "null", "[]", "1e999"] {
            let members = format!(r#","messages":[{{}}],"max_tokens":{number}"#);
            assert_eq!(judge(Messages, &members), Err(Lack::MaxTokens), "{number}");
        }
        for value in ["null", "{}", "7", "true"] {
            assert_eq!(judge(Completions, &format!(r#","prompt":{value}"#)), Err(Lack::Prompt), "{value}");
            assert_eq!(judge(Embeddings, &format!(r#","input":{value}"#)), Err(Lack::Input), "{value}");
        }
        assert_eq!(judge(Responses, r#","input":7,"prompt":{}"#), Err(Lack::Input));
        for members in ["", r#","input":null"#, r#","messages":[{}],"conversation":null"#] {
            assert_eq!(judge(Responses, members), Err(Lack::AnyInput), "{members}");
        }
        for (lack, field) in [
            (Lack::Messages, "`messages`"),
            (Lack::Prompt, "`prompt`"),
            (Lack::Input, "`input`"),
            (Lack::AnyInput, "`previous_response_id`"),
            (Lack::MaxTokens, "`max_tokens`"),
        ] {
            assert!(lack.to_string().contains(field));
        }
    }
}
