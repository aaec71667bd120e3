//! What a request says in `stream_options`, and where in its text a stream's usage can be asked for.

use std::{borrow::Cow, fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::fields::{is_taken_for, place};

/// The text to write into a body, and the range that it replaces, so that a stream reports its usage.
pub(crate) type Question = (Range<usize>, &'static str);

/// The member `stream_options` of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Options<'a> {
    Absent,
    /// There once, in the right spelling.
    Said(&'a RawValue),
    /// There twice, or in a spelling that some parser takes for it.
    Unclear,
}

/// Whether a stream will report its usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Telling {
    /// The agent asks for the usage, or the answer isn't a stream.
    Asked,
    /// The request has no options; this text asks for the usage.
    Open(Question),
    /// The agent sets options without asking for the usage; this text asks for it all the same.
    Declined(Question),
    /// Parsers may disagree on what the request asks for.
    Unclear,
}

impl Telling {
    /// The text that asks for the usage where the agent doesn't.
    pub fn question(&self) -> Option<Question> {
        match self {
            Self::Open(question) | Self::Declined(question) => Some(question.clone()),
            Self::Asked | Self::Unclear => None,
        }
    }
}

impl<'a> Options<'a> {
    /// Takes note of one more such member.
    pub fn hear(self, key: &str, value: &'a RawValue) -> Self {
        match self {
            Self::Absent if key == NAME => Self::Said(value),
            _ => Self::Unclear,
        }
    }

    /// Whether a stream will report its usage with these options, and how to ask for it in `text`, where a
    /// further member can be inserted at `free`.
    pub fn telling(self, text: &str, free: usize) -> Telling {
        let value = match self {
            Self::Absent => {
                return Telling::Open((free..free, r#","stream_options":{"include_usage":true}"#));
            }
            Self::Unclear => return Telling::Unclear,
            Self::Said(value) => value.get(),
        };
        let Some(at) = place(text, value) else { return Telling::Unclear };
        if value == "null" {
            return Telling::Open((at, r#"{"include_usage":true}"#));
        }
        let Ok(Members { include_usage, any }) = serde_json::from_str(value) else { return Telling::Unclear };
        let within = at.start + 1..at.start + 1;
        match include_usage.map(RawValue::get) {
            Some("true") => Telling::Asked,
            Some(other) => place(text, other).map_or(Telling::Unclear, |at| Telling::Declined((at, "true"))),
            None if any => Telling::Declined((within, r#""include_usage":true,"#)),
            None => Telling::Declined((within, r#""include_usage":true"#)),
        }
    }
}

pub(crate) const NAME: &str = "stream_options";
const ASKS: &str = "include_usage";

/// What is read of the options object. Parsing fails where another parser might read something else.
struct Members<'a> {
    include_usage: Option<&'a RawValue>,
    any: bool,
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        struct Level;
        impl<'de> Visitor<'de> for Level {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Members<'de>, A::Error> {
                let mut it = Members { include_usage: None, any: false };
                while let Some((key, value)) = members.next_entry::<Cow<'de, str>, &RawValue>()? {
                    it.any = true;
                    match (&*key, it.include_usage) {
                        (ASKS, None) => it.include_usage = Some(value),
                        (other, _) if is_taken_for(other, ASKS) => return Err(A::Error::custom("double")),
                        _ => {}
                    }
                }
                Ok(it)
            }
        }
        value.deserialize_map(Level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Fields;

    fn telling(members: &str) -> (String, Telling) {
        let text = format!(r#"{{"model":"a","stream":true{members}}}"#);
        let telling = serde_json::from_str::<Fields<'_>>(&text).unwrap().telling(&text, 12);
        (text, telling)
    }

    #[test]
    fn whoever_declines_can_be_asked_for_all_the_same() {
        for (members, wanted) in [
            (r#","stream_options": { } "#, r#","stream_options": {"include_usage":true } "#),
            (r#","stream_options":{"a":[{}]}"#, r#","stream_options":{"include_usage":true,"a":[{}]}"#),
            (
                r#","stream_options":{"a":1,"include\u005fusage" : false}"#,
                r#","stream_options":{"a":1,"include\u005fusage" : true}"#,
            ),
            (r#","stream_options":{"include_usage":null}"#, r#","stream_options":{"include_usage":true}"#),
            (r#","stream_options":{"include_usage":0}"#, r#","stream_options":{"include_usage":true}"#),
        ] {
            let (mut text, Telling::Declined((at, asks))) = telling(members) else { panic!("{members}") };
            text.replace_range(at, asks);
            assert_eq!(text, format!(r#"{{"model":"a","stream":true{wanted}}}"#));
        }
        assert_eq!(telling(r#","stream_options":{"include_usage":true}"#).1, Telling::Asked);
        assert!(matches!(telling(r#","stream_options":null"#).1, Telling::Open(_)));
        assert!(matches!(telling("").1, Telling::Open(_)));
    }

    #[test]
    fn what_readers_disagree_on_is_unclear() {
        for members in [
            r#","stream_options":{},"stream_options":{}"#,
            r#","Stream_Options":{"include_usage":true}"#,
            r#","stream_options":{"include_usage":true,"include_usage":false}"#,
            r#","stream_options":{"Include_Usage":false}"#,
            r#","stream_options":[]"#,
            r#","stream_options":"x""#,
        ] {
            assert_eq!(telling(members).1, Telling::Unclear, "{members}");
        }
    }
}
