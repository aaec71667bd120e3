//! Rules about requests (methods, path, query, and a WebSocket's messages), and the `access` presets that
//! stand for several.

use std::fmt;

use super::argument::JsonMatcher;
use super::body_rule::{GraphqlRule, RpcRule, list};
use crate::content::{OperationKind, Text};
use crate::path::{hex_digit, lenient, push_escape, stands_raw};
use crate::{CanonicalPath, Glob, GlobError, Query};

/// Stands in place of a method for the client's messages on a `websocket` endpoint.
pub const WEBSOCKET_TEXT: &str = "WEBSOCKET_TEXT";

/// The `access` presets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// GET, HEAD, OPTIONS.
    ReadOnly,
    /// The above, and POST, PUT, PATCH, and a WebSocket's messages.
    ReadWrite,
    /// Any method.
    Full,
}

impl Access {
    /// The name in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "read-write",
            Self::Full => "full",
        }
    }

    /// Whether it covers a kind of GraphQL operation.
    #[must_use]
    pub fn covers_operation(self, kind: OperationKind) -> bool {
        match self {
            Self::ReadOnly => kind == OperationKind::Query,
            Self::ReadWrite => kind != OperationKind::Subscription,
            Self::Full => true,
        }
    }

    /// Whether it covers a method.
    #[must_use]
    pub fn covers(self, method: &str) -> bool {
        match self {
            Self::ReadOnly => matches!(method, "GET" | "HEAD" | "OPTIONS"),
            Self::ReadWrite => {
                matches!(method, "GET" | "HEAD" | "OPTIONS" | "POST" | "PUT" | "PATCH" | WEBSOCKET_TEXT)
            }
            Self::Full => true,
        }
    }
}

/// Longest method, in bytes; registered ones have at most 17 letters.
const MAX_METHOD_BYTES: usize = 32;

/// Whether a text is a valid method (a token, RFC 9110 sections 5.6.2 and 9.1) of at most
/// [`MAX_METHOD_BYTES`].
pub(crate) fn is_method(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=MAX_METHOD_BYTES).contains(&text.len()) && text.bytes().all(token)
}

/// Which methods a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// `*`.
    Any,
    /// This one, in this case; `GET` stands for `HEAD` too.
    Named(Box<str>),
}

impl Method {
    /// Whether the rule is about `method`.
    #[must_use]
    pub fn covers(&self, method: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Named(own) => &**own == method || (&**own == "GET" && method == "HEAD"),
        }
    }

    /// Whether the rule, as a deny rule, is about `method` in any case: methods are case-sensitive (RFC 9110
    /// section 9.1), but many servers ignore the case.
    #[must_use]
    pub fn hits(&self, method: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Named(own) => {
                let is = |name: &str| name.eq_ignore_ascii_case(method);
                is(own) || (&**own == "GET" && is("HEAD"))
            }
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "*",
            Self::Named(name) => name,
        })
    }
}

/// Why a text can't be a path pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathPatternError {
    /// Broken as a pattern.
    #[error(transparent)]
    Glob(#[from] GlobError),
    /// A path begins with `/`.
    #[error("a path pattern begins with `/` (or is `**`)")]
    NotAbsolute,
    /// `{a,b}`.
    #[error("`{{…}}` is not part of the pattern language: write one rule for each alternative")]
    Braces,
    /// The pattern has something that no canonical path holds, so the rule would never match.
    #[error("no canonical path holds {0}, so this would never match")]
    Never(&'static str),
}

/// A pattern over canonical paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    written: Box<str>,
    glob: Glob,
    /// The pattern for lenient readings of a path, where it differs.
    lenient: Option<Glob>,
}

impl PathPattern {
    /// Reads a pattern. Its literal parts are brought to canonical form as a request's path is.
    ///
    /// # Errors
    /// A [`PathPatternError`] for patterns that are broken or could never match.
    pub fn parse(text: &str) -> Result<Self, PathPatternError> {
        if text.is_empty() {
            return Err(GlobError::Empty.into());
        }
        if !text.starts_with('/') && text != "**" {
            return Err(PathPatternError::NotAbsolute);
        }
        if text.contains(['{', '}']) {
            return Err(PathPatternError::Braces);
        }
        for (found, what) in [("//", "`//`"), (";", "`;`"), ("#", "`#`"), ("\\", "a backslash")] {
            if text.contains(found) {
                return Err(PathPatternError::Never(what));
            }
        }
        if text.split('/').any(|segment| segment == "." || segment == "..") {
            return Err(PathPatternError::Never("dot segments"));
        }
        let canonical = canonical_literal(text);
        let bare = without_end(&canonical);
        let lenient = lenient(bare).or_else(|| (bare != canonical).then(|| bare.to_owned()));
        Ok(Self {
            written: text.into(),
            glob: Glob::path(&canonical)?,
            // If lower-casing broke a set, lenient readings are matched against the pattern as written.
            lenient: lenient.as_deref().and_then(|reading| Glob::path(reading).ok()),
        })
    }

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// Whether it matches a canonical path.
    #[must_use]
    pub fn matches(&self, path: &CanonicalPath) -> bool {
        self.glob.matches(path.as_str())
    }

    /// Whether the pattern matches any reading that a server may have of a canonical path: `%2F` as `/`, an
    /// escape undone twice, letters in another case, with or without a slash at the end, or without dots and
    /// spaces at the end of a name.
    #[must_use]
    pub fn may_match(&self, path: &CanonicalPath) -> bool {
        let with_or_without_end = |glob: &Glob, reading: &str| {
            let bare = without_end(reading);
            glob.matches(reading) || (bare.len() < reading.len() && glob.matches(bare))
        };
        let lenient = || self.lenient.as_ref().unwrap_or(&self.glob);
        let leniently = || with_or_without_end(lenient(), path.leniently().unwrap_or(path.as_str()));
        with_or_without_end(&self.glob, path.as_str())
            || path.with_slashes().is_some_and(|reading| self.glob.matches(reading))
            // If neither the pattern nor the path has a lenient form of its own, this was checked already.
            || ((self.lenient.is_some() || path.leniently().is_some()) && leniently())
            || path.without_ends().is_some_and(|reading| with_or_without_end(lenient(), reading))
            || path.barely().is_some_and(|reading| with_or_without_end(lenient(), reading))
    }

    /// Whether it matches every path.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        matches!(&*self.written, "/**" | "**")
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// The path without a slash at its end; the root keeps its slash.
fn without_end(path: &str) -> &str {
    path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(path)
}

/// Brings a pattern's literal parts to canonical spelling; wildcards and sets are left as they are.
fn canonical_literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut bytes = text.bytes().peekable();
    let mut in_set = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' => in_set = true,
            b']' => in_set = false,
            b'%' if !in_set => {
                let mut ahead = bytes.clone();
                let digits = ahead.next().and_then(hex_digit).zip(ahead.next().and_then(hex_digit));
                if let Some((high, low)) = digits {
                    bytes = ahead;
                    let value = high << 4 | low;
                    if value == b'*' {
                        // Canonical paths hold `*` raw; a set with one member is how a pattern writes a
                        // literal `*`.
                        out.push_str("[*]");
                    } else if stands_raw(value) {
                        out.push(char::from(value));
                    } else {
                        push_escape(&mut out, value);
                    }
                } else {
                    push_escape(&mut out, b'%');
                }
                continue;
            }
            _ => {}
        }
        if in_set || stands_raw(byte) || matches!(byte, b'/' | b'?' | b'[' | b']') {
            // Inside a set only ASCII can match, since canonical paths hold nothing else.
            out.push(char::from(byte));
        } else {
            push_escape(&mut out, byte);
        }
    }
    out
}

/// One parameter of a rule's `query`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryMatcher {
    /// The decoded name.
    pub name: Box<str>,
    /// The decoded value must match one of these.
    pub any: Vec<Glob>,
}

impl QueryMatcher {
    /// Whether the parameter is there and every one of its values matches.
    #[must_use]
    pub(crate) fn allows(&self, query: &Query) -> bool {
        query.every(&self.name, |value| self.value(value))
    }

    fn value(&self, value: &str) -> bool {
        self.any.iter().any(|glob| glob.matches(value))
    }
}

/// One rule of `rules` or `deny_rules`. Its kind follows from the endpoint's protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// `rest` and `websocket`.
    Http(HttpRule),
    /// `mcp` and `json-rpc`.
    Rpc(RpcRule),
    /// `graphql`.
    Graphql(GraphqlRule),
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(rule) => write!(f, "{rule}"),
            Self::Rpc(rule) => write!(f, "{rule}"),
            Self::Graphql(rule) => write!(f, "{rule}"),
        }
    }
}

/// A rule of a `rest` or `websocket` endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRule {
    /// Which methods.
    pub method: Method,
    /// Which paths.
    pub path: PathPattern,
    /// Which query; empty is any.
    pub query: Vec<QueryMatcher>,
    /// Which messages on a WebSocket, as text; empty is any.
    pub text: Vec<Glob>,
    /// What must stand in a message on a WebSocket that is JSON; empty is any message.
    pub json: Vec<JsonMatcher>,
}

impl HttpRule {
    /// Whether the rule, as an allow rule, covers a request of its method: every value of every named
    /// parameter must match.
    #[must_use]
    pub(crate) fn allows_place(&self, path: &CanonicalPath, query: &Query) -> bool {
        self.path.matches(path) && self.query.iter().all(|m| m.allows(query))
    }

    /// Whether the rule, as a deny rule, hits a request: one matching reading of method and path, and one
    /// matching value of each named parameter, are enough.
    #[must_use]
    pub(crate) fn denies_place(&self, path: &CanonicalPath, query: &Query) -> bool {
        self.path.may_match(path) && self.query.iter().all(|m| query.any(&m.name, |v| m.value(v)))
    }

    /// Whether the rule depends on the content of messages.
    #[must_use]
    pub fn reads_messages(&self) -> bool {
        !self.text.is_empty() || !self.json.is_empty()
    }

    /// Whether the rule, as an allow rule, covers a text message.
    #[must_use]
    pub fn allows_text(&self, message: &Text<'_>) -> bool {
        (self.text.is_empty() || self.text.iter().any(|glob| glob.matches(message.text)))
            && (self.json.is_empty()
                || message.json.is_some_and(|value| self.json.iter().all(|matcher| matcher.allows(value))))
    }

    /// Whether the rule, as a deny rule, hits a text message. A message that we can't read as JSON counts as
    /// matching: another parser might read it.
    #[must_use]
    pub fn denies_text(&self, message: &Text<'_>) -> bool {
        (self.text.is_empty() || self.text.iter().any(|glob| glob.matches(message.text)))
            && (self.json.is_empty()
                || message.json.is_none_or(|value| self.json.iter().all(|matcher| matcher.denies(value))))
    }
}

impl fmt::Display for HttpRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        for (index, matcher) in self.query.iter().enumerate() {
            let values: Vec<&str> = matcher.any.iter().map(Glob::as_str).collect();
            write!(f, "{}{}={}", if index == 0 { "?" } else { "&" }, matcher.name, values.join("|"))?;
        }
        if !self.text.is_empty() {
            let texts: Vec<&str> = self.text.iter().map(Glob::as_str).collect();
            write!(f, " text {}", texts.join("|"))?;
        }
        if !self.json.is_empty() {
            write!(f, " json {}", list(&self.json))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PathOptions;

    fn matches(pattern: &str, path: &str) -> bool {
        let path = CanonicalPath::parse(path, PathOptions { allow_encoded_slash: true }).unwrap();
        PathPattern::parse(pattern).unwrap().matches(&path)
    }

    #[test]
    fn literals_are_canonicalised_like_paths() {
        assert!(matches("/a b/*", "/a%20b/c"));
        assert!(matches("/caf%c3%a9", "/caf%C3%A9") && matches("/café", "/caf%C3%A9"));
        assert!(matches("/%40scope%2fname", "/@scope%2Fname"));
        assert!(matches("/~u/[a-z]?", "/%7eu/b1"));
        assert!(!matches("/a/b", "/a%2Fb"));
        let encoded = CanonicalPath::parse("/a%2fb", PathOptions { allow_encoded_slash: true }).unwrap();
        assert!(PathPattern::parse("/a/*").unwrap().may_match(&encoded));
        let may = |pattern: &str, path: &str| {
            let path = CanonicalPath::parse(path, PathOptions { allow_encoded_slash: true }).unwrap();
            PathPattern::parse(pattern).unwrap().may_match(&path)
        };
        for path in [
            "/repos/x/rulesets",
            "/repos/x/rulesets/",
            "/repos/x/Rulesets",
            "/REPOS/x/RULESETS/",
            "/repos/x/%2572ulesets",
            "/repos/x/%2552ulesets/",
            "/repos/x%2Frulesets",
            "/repos%2Fx%2FRulesets/",
            "/repos/x/rulesets.",
            "/repos/x/rulesets%20",
            "/repos./x/Rulesets.%20./",
        ] {
            for pattern in ["/repos/*/rulesets", "/repos/*/rulesets/", "/Repos/*/rule%73ets"] {
                assert!(may(pattern, path), "{pattern} {path}");
            }
            assert_eq!(matches("/repos/*/rulesets", path), path == "/repos/x/rulesets", "{path}");
        }
        for path in [
            "/repos/x/rulesets/y",
            "/repos/rulesets",
            "/repos/x/rulesetz",
            "/repos/x/%25zzrulesets",
            "/repos/x/rulesets.json",
            "/repos/x/.rulesets",
        ] {
            assert!(!may("/repos/*/rulesets", path), "{path}");
        }
        assert!(may("/", "/") && !may("/", "/a") && may("/a/", "/a") && !may("/a/", "/"));
        assert!(matches("/100%/x", "/100%25/x"));
        assert!(!matches("/a%2ab", "/axb") && matches("/a%2ab", "/a*b"));
    }

    #[test]
    fn names_are_denied_in_spellings_that_only_some_servers_have() {
        let may = |pattern: &str, path: &str| {
            let path = CanonicalPath::parse(path, PathOptions::default()).unwrap();
            PathPattern::parse(pattern).unwrap().may_match(&path)
        };
        for path in [
            "/public/secrets.txt::$DATA",
            "/public/Secrets.txt.::$data",
            "/public/secrets.txt%3A%3A$DATA",
            "/public/secrets.txt%253A%253A%2524DATA",
            "/public:$I30:$INDEX_ALLOCATION/secrets.txt",
            "/public/%C5%BFecrets.txt",
            "/public/sec%E2%80%8Crets.txt",
            "/%EF%BB%BFpublic/secrets%C2%AD.txt.%E2%80%8B/",
        ] {
            assert!(may("/public/secrets.txt", path) && may("/Public/**", path), "{path}");
            assert!(!matches("/public/secrets.txt", path), "{path}");
        }
        assert!(may("/admin/**", "/admin:$i30:$INDEX_ALLOCATION/x") && may("/key", "/%E2%84%AAey"));
        // What a rule says of a colon, it says still; and most colons are in names.
        assert!(may("/v1/models/*:generate*", "/v1/models/x:generateContent"));
        assert!(!may("/v1/models/x", "/v1/models/x:generateContent"));
        assert!(may("/a/*::$DATA", "/a/b::$DATA") && may("/sec%E2%80%8Crets", "/sec%E2%80%8Crets"));
    }

    #[test]
    fn patterns_that_never_match_are_refused() {
        assert_eq!(PathPattern::parse("*"), Err(PathPatternError::NotAbsolute));
        assert_eq!(PathPattern::parse("repos/**"), Err(PathPatternError::NotAbsolute));
        assert_eq!(PathPattern::parse("/{a,b}"), Err(PathPatternError::Braces));
        for text in ["/a//b", "/a;x", "/a/../b", "/./a", "/a#b", "/a\\b"] {
            assert!(matches!(PathPattern::parse(text), Err(PathPatternError::Never(_))), "{text}");
        }
        assert_eq!(PathPattern::parse("/[a"), Err(PathPatternError::Glob(GlobError::Set)));
    }

    #[test]
    fn a_get_rule_covers_head_and_methods_keep_their_case() {
        let get = Method::Named("GET".into());
        assert!(get.covers("GET") && get.covers("HEAD") && !get.covers("get") && !get.covers("POST"));
        assert!(!Method::Named("HEAD".into()).covers("GET"));
        // To deny, any case will do.
        assert!(get.hits("get") && get.hits("Head") && !get.hits("POST"));
        assert!(Access::ReadOnly.covers("OPTIONS") && !Access::ReadOnly.covers("POST"));
        assert!(Access::ReadWrite.covers("PATCH") && !Access::ReadWrite.covers("DELETE"));
        assert!(Access::Full.covers("DELETE"));
    }
}
