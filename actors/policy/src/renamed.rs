//! Query parameters that make some servers read another method than the request line has.
//!
//! `GET /posts/1?_method=DELETE` deletes where WordPress answers, and Salesforce, Firebase and others have
//! parameters of their own. The proxy removes header fields that do so; but a query is sent as it was judged,
//! so such a request must be allowed by its other method as well. Must never change what is sent, nor read a
//! method where the parameter isn't one.

use crate::decision::{Denial, Layer, RequestFacts};
use crate::model::is_method;
use crate::query::Query;
use crate::{Treatment, WEBSOCKET_TEXT};

/// Parameters whose value is always meant as a method.
const ALWAYS: [&str; 5] =
    ["_method", "_httpmethod", "x-http-method", "x-http-method-override", "x-method-override"];
/// A parameter with many uses, one of which is to name a method.
const PERHAPS: &str = "method";
/// The values with which [`PERHAPS`] names a method.
const METHODS: [&str; 7] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];

/// Most other methods of one request. A form names one.
const MAX_METHODS: usize = 8;

/// A method that a query names; none where what it says can't be one.
pub(crate) type Renamed = Option<String>;

/// The other methods by which a request must be judged; none where requests aren't read.
pub(crate) fn renamed(treatment: Treatment, facts: &RequestFacts<'_>) -> Vec<Renamed> {
    match treatment {
        Treatment::Inspect { .. } if !facts.websocket => named_in(facts.query, facts.method),
        _ => Vec::new(),
    }
}

/// Whether a query names another method than the request's own.
#[must_use]
pub fn names_another_method(query: &Query, own: &str) -> bool {
    !named_in(query, own).is_empty()
}

/// The methods that a query names and that aren't the request's own, each once. Of too many it is none: each
/// is judged, and a query has room for a thousand.
fn named_in(query: &Query, own: &str) -> Vec<Renamed> {
    let always = ALWAYS.iter().flat_map(|name| query.values(name)).map(read);
    let perhaps = query.values(PERHAPS).map(read);
    let perhaps = perhaps.filter(|method| method.as_deref().is_some_and(|method| METHODS.contains(&method)));
    let mut named = Vec::new();
    for method in always.chain(perhaps).filter(|method| method.as_deref() != Some(own)) {
        if named.contains(&method) {
            continue;
        }
        if named.len() == MAX_METHODS {
            return vec![None];
        }
        named.push(method);
    }
    named
}

/// Reads a value as a method, in capital letters, as every server does.
fn read(value: &str) -> Renamed {
    let value = value.trim().to_ascii_uppercase();
    (is_method(&value) && value != WEBSOCKET_TEXT).then_some(value)
}

/// The denial where a query's value can't be a method.
pub(crate) fn unknown_method() -> Denial {
    Denial {
        layer: Layer::L7,
        detail: "its query gives it another method for some servers, which can't be judged".to_owned(),
        policy: None,
        hint: Some("leave the parameter out, or name one method in it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(query: &str) -> Vec<Option<String>> {
        named_in(&Query::parse(Some(query)).unwrap(), "GET")
    }

    #[test]
    fn a_method_is_read_in_every_spelling_of_its_parameter() {
        let delete = || Some("DELETE".to_owned());
        for query in [
            "_method=DELETE",
            "a=b&_method=delete&c",
            "%5Fmethod=%44elete",
            "_METHOD=+DELETE",
            "_method[]=DELETE",
            "_HttpMethod=DELETE",
            "x-http-method-override=DELETE",
            "method=delete",
        ] {
            assert!(named(query).contains(&delete()), "{query}");
        }
        assert_eq!(named("_method=a%20b"), [None]);
        assert_eq!(named("_method="), [None]);
        assert_eq!(named(&format!("_method={WEBSOCKET_TEXT}")), [None]);
        assert_eq!(named("_method=GET&_method=DELETE"), [delete()]);
    }

    #[test]
    fn a_method_is_judged_once_and_too_many_are_none() {
        let (put, delete) = (|| Some("PUT".to_owned()), || Some("DELETE".to_owned()));
        assert_eq!(named(&"_method=PUT&x-method-override=delete&method=PUT&".repeat(300)), [put(), delete()]);
        let many = |count: usize| (0..count).map(|n| format!("_method=M{n}&")).collect::<String>();
        assert_eq!(named(&many(MAX_METHODS)).len(), MAX_METHODS);
        assert_eq!(named(&many(MAX_METHODS + 1)), [None]);
        assert_eq!(named(&many(1000)), [None]);
    }

    #[test]
    fn a_word_that_is_no_method_is_a_word() {
        for query in [
            "",
            "a=_method",
            "method=photos.search",
            "method=",
            "_methods=DELETE",
            "method=get",
            "METHOD=GET",
        ] {
            assert_eq!(named(query), [], "{query}");
        }
    }
}
