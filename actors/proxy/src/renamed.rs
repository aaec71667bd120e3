//! Query parameters by which some servers take a request for one of another method.
//!
//! `GET /posts/1?_method=DELETE` deletes where WordPress answers, and Salesforce, Firebase and others have words of their own. A field that
//! does so is taken off ([`crate::misleading`]); a query is sent as it was judged, so such a request must be allowed by its other method as
//! well. Must never change what is sent, nor take a parameter for a method that is none.

use http::Method;
use policy::{Query, WEBSOCKET_TEXT};

use crate::limits::MAX_METHOD_BYTES;

/// Whatever they hold is a method.
const ALWAYS: [&str; 5] =
    ["_method", "_httpmethod", "x-http-method", "x-http-method-override", "x-method-override"];
/// A word of many meanings, of which one is a method.
const PERHAPS: &str = "method";
/// What it holds then.
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// Another method of a request; none where it can't be one.
pub(crate) type Renamed = Option<Method>;

/// All the methods that a query names and that aren't the request's own.
pub(crate) fn named_in(query: &Query, own: &Method) -> Box<[Renamed]> {
    let always = ALWAYS.iter().flat_map(|name| query.values(name)).map(read);
    let perhaps = query.values(PERHAPS).map(read);
    let perhaps = perhaps.filter(|method| method.as_ref().is_some_and(|method| METHODS.contains(method)));
    always.chain(perhaps).filter(|method| method.as_ref() != Some(own)).collect()
}

/// In capital letters, as every server reads it.
fn read(value: &str) -> Renamed {
    let value = value.trim().to_ascii_uppercase();
    let fits = value.len() <= MAX_METHOD_BYTES && value != WEBSOCKET_TEXT;
    Method::from_bytes(value.as_bytes()).ok().filter(|_| fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(query: &str) -> Vec<Option<String>> {
        let methods = named_in(&Query::parse(Some(query)).unwrap(), &Method::GET);
        methods.iter().map(|method| method.as_ref().map(ToString::to_string)).collect()
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
