//! Which headers cross the gateway, in each direction. Both lists are closed: a header that isn't named is
//! dropped.
//!
//! The caller's credentials, cookies, forwarding headers and its choice of a paying organisation must never
//! go up. Cookies, hop-by-hop headers and whatever identifies the operator's account must never come down.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
};
use redactor::Secret;

use crate::config::Kind;

/// Longest value that is passed on, in bytes. `anthropic-beta` is the longest in use, at a few hundred.
pub const MAX_VALUE: usize = 2048;

/// The version of the Messages API that is asked for when the agent names none.
const ANTHROPIC_VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");

const UP: [&str; 6] =
    ["content-type", "user-agent", "anthropic-version", "anthropic-beta", "openai-beta", "idempotency-key"];

const DOWN: [&str; 9] = [
    "content-type",
    "cache-control",
    "date",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "openai-processing-ms",
    "openai-version",
    "openai-model",
];

/// Prefixes of the rate-limit headers, by which clients pace themselves.
const DOWN_PREFIXES: [&str; 2] = ["x-ratelimit-", "anthropic-ratelimit-"];

/// The headers of the request to a provider.
///
/// # Errors
/// When the key can't stand in a header; [`redactor::Reference::resolve`] refuses such a key before.
pub fn upstream(
    from: &HeaderMap,
    kind: Kind,
    key: Option<&Secret>,
) -> Result<HeaderMap, header::InvalidHeaderValue> {
    let mut to = HeaderMap::with_capacity(UP.len() + 4);
    for name in UP {
        // Only the first value of each: a second one is either noise or an attack.
        if let Some(value) = from.get(name)
            && value.len() <= MAX_VALUE
        {
            to.insert(HeaderName::from_static(name), value.clone());
        }
    }
    to.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Whether it is a stream the body says; the agent's own word could ask for a character set that nothing
    // here can read.
    to.insert(ACCEPT, HeaderValue::from_static("*/*"));
    to.entry(USER_AGENT).or_insert(HeaderValue::from_static("cofferdam"));
    // The answer is counted and searched for the key, so it must come uncompressed.
    to.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    match kind {
        Kind::Openai => {
            to.remove("anthropic-version");
            to.remove("anthropic-beta");
            if let Some(key) = key {
                to.insert(AUTHORIZATION, secret_value(b"Bearer ", key)?);
            }
        }
        Kind::Anthropic => {
            to.remove("openai-beta");
            to.entry("anthropic-version").or_insert(ANTHROPIC_VERSION);
            if let Some(key) = key {
                to.insert("x-api-key", secret_value(b"", key)?);
            }
        }
    }
    Ok(to)
}

fn secret_value(before: &[u8], key: &Secret) -> Result<HeaderValue, header::InvalidHeaderValue> {
    let line = zeroize::Zeroizing::new([before, key.expose()].concat());
    let mut value = HeaderValue::from_bytes(&line)?;
    // Never indexed by HPACK, never printed by Debug.
    value.set_sensitive(true);
    Ok(value)
}

/// The headers of the answer to the agent, before their values are searched for the key.
pub fn downstream(from: &HeaderMap) -> HeaderMap {
    let mut to = HeaderMap::with_capacity(8);
    for (name, value) in from {
        let passes =
            DOWN.contains(&name.as_str()) || DOWN_PREFIXES.iter().any(|p| name.as_str().starts_with(p));
        if passes && value.len() <= MAX_VALUE && !to.contains_key(name) {
            to.insert(name.clone(), value.clone());
        }
    }
    // Let an operator match a fault with the provider's own log.
    for name in ["x-request-id", "request-id"] {
        if let Some(value) = from.get(name)
            && value.len() <= 128
        {
            to.insert(HeaderName::from_static("x-upstream-request-id"), value.clone());
            if name == "request-id" {
                to.insert(HeaderName::from_static("request-id"), value.clone());
            }
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn the_callers_credentials_stay_behind_and_ours_goes_up() {
        let from = map(&[
            ("authorization", "Bearer theirs"),
            ("x-api-key", "theirs"),
            ("api-key", "theirs"),
            ("x-goog-api-key", "theirs"),
            ("proxy-authorization", "theirs"),
            ("cookie", "theirs"),
            ("openai-organization", "theirs"),
            ("openai-project", "theirs"),
            ("x-forwarded-for", "theirs"),
            ("transfer-encoding", "chunked"),
            ("accept-encoding", "gzip, br"),
            ("accept", "application/json; charset=utf-32"),
            ("accept-charset", "utf-32"),
            ("anthropic-version", "2024-01-01"),
            ("anthropic-beta", "tools-1"),
        ]);
        let key = Secret::new(b"ours".to_vec());
        let to = upstream(&from, Kind::Openai, Some(&key)).unwrap();
        assert!(!to.values().any(|v| v.as_bytes().windows(6).any(|w| w == b"theirs")));
        assert_eq!(to["authorization"], "Bearer ours");
        assert!(to["authorization"].is_sensitive());
        assert_eq!(
            (&to["accept-encoding"], &to["accept"]),
            (&"identity".parse().unwrap(), &"*/*".parse().unwrap())
        );
        assert!(!to.contains_key("accept-charset"));
        assert!(!to.contains_key("transfer-encoding") && !to.contains_key("x-api-key"));
        let to = upstream(&from, Kind::Anthropic, Some(&key)).unwrap();
        assert_eq!(to["x-api-key"], "ours");
        assert_eq!(to["anthropic-version"], "2024-01-01");
        assert_eq!(to["anthropic-beta"], "tools-1");
        assert!(!to.contains_key("authorization") && !to.contains_key("host"));
        let to = upstream(&HeaderMap::new(), Kind::Anthropic, None).unwrap();
        assert_eq!(to["anthropic-version"], "2023-06-01");
        assert!(!to.contains_key("x-api-key"));
    }

    #[test]
    fn nothing_but_the_list_comes_down() {
        let from = map(&[
            ("content-type", "text/event-stream"),
            ("set-cookie", "__cf_bm=x"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("openai-organization", "acme"),
            ("www-authenticate", "Bearer realm=\"acme\""),
            ("server", "nginx"),
            ("location", "https://evil.example"),
            ("alt-svc", "h3"),
            ("x-ratelimit-remaining-tokens", "5"),
            ("retry-after", "3"),
            ("x-request-id", "req_1"),
        ]);
        let to = downstream(&from);
        let mut names: Vec<_> = to.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["content-type", "retry-after", "x-ratelimit-remaining-tokens", "x-upstream-request-id"]
        );
    }
}
