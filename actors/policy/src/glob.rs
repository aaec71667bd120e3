//! The glob engine that matches all paths, binaries, query values and host labels.
//!
//! `*` matches any run of characters within a segment, `**` any run across segments, `?` one character that
//! isn't a separator, `[a-z]` and `[!a-z]` one character of (or not of) a set. `**/` at the start of a
//! segment also matches nothing, so `/**/x` covers `/x`. There are no escapes and no braces. Matching works
//! on bytes, allocates nothing, backtracks to at most two places and doesn't start the same `*` twice in one
//! segment, so its time is bounded by pattern length × text length.

use std::fmt;

use serde::{Serialize, Serializer};

mod literals;

use literals::{LONG, has_literals};

/// Longest pattern, in bytes. Nothing longer was ever meant.
pub const MAX_GLOB_BYTES: usize = 4096;

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// Nothing there.
    #[error("the pattern is empty")]
    Empty,
    /// Over [`MAX_GLOB_BYTES`].
    #[error("the pattern is longer than {MAX_GLOB_BYTES} bytes")]
    TooLong,
    /// `[` without `]`, an empty set, or a range that runs backwards.
    #[error("the pattern has a broken character set (`[` without `]`, empty, or a backward range)")]
    Set,
    /// Three or more `*` in a row.
    #[error("the pattern has more than two `*` in a row")]
    Stars,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// These bytes.
    Literal(Box<[u8]>),
    /// `*`
    Star,
    /// `**`
    Deep,
    /// `**/` where a segment begins: nothing, or whole segments with their separators.
    Segments,
    /// `?`
    One,
    /// `[…]`
    Set { negated: bool, ranges: Box<[(u8, u8)]> },
}

/// A compiled pattern. Keeps its text for messages.
#[derive(Debug, Clone)]
pub struct Glob {
    text: Box<str>,
    separator: u8,
    tokens: Box<[Token]>,
}

impl Glob {
    /// Compiles a pattern whose segments are separated by `separator` (an ASCII byte).
    ///
    /// # Errors
    /// A [`GlobError`] that says what is wrong with the text.
    pub fn new(text: &str, separator: u8) -> Result<Self, GlobError> {
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        if text.len() > MAX_GLOB_BYTES {
            return Err(GlobError::TooLong);
        }
        Ok(Self { text: text.into(), separator, tokens: tokens(text.as_bytes(), separator)? })
    }

    /// A pattern over `/`-separated paths.
    ///
    /// # Errors
    /// As [`Glob::new`].
    pub fn path(text: &str) -> Result<Self, GlobError> {
        Self::new(text, b'/')
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern has no wildcard, so that it matches its own text only.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.tokens.iter().all(|t| matches!(t, Token::Literal(_)))
    }

    /// Whether some text may match both patterns, judged by their literal beginnings and ends alone. Patterns
    /// whose beginnings and ends agree are taken to overlap, even if no text matches both.
    #[must_use]
    pub fn may_overlap(&self, other: &Self) -> bool {
        let ends = |tokens: &[Token]| {
            let literal = |token: Option<&Token>| match token {
                Some(Token::Literal(bytes)) => bytes.clone(),
                _ => Box::default(),
            };
            (literal(tokens.first()), literal(tokens.last()))
        };
        let ((a_first, a_last), (b_first, b_last)) = (ends(&self.tokens), ends(&other.tokens));
        let begin_alike = a_first.starts_with(&b_first) || b_first.starts_with(&a_first);
        begin_alike && (a_last.ends_with(&b_last) || b_last.ends_with(&a_last))
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let text = text.as_bytes();
        (text.len() < LONG || has_literals(&self.tokens, text))
            && run(&self.tokens, text, self.separator, || {})
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Self) -> bool {
        self.separator == other.separator && self.text == other.text
    }
}

impl Eq for Glob {}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Glob {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

fn tokens(text: &[u8], separator: u8) -> Result<Box<[Token]>, GlobError> {
    let mut out = Vec::new();
    let mut literal = Vec::new();
    let mut rest = text;
    let mut at_segment_start = true;
    while let Some((&byte, after)) = rest.split_first() {
        let (token, after) = match byte {
            b'*' => star(after, separator, at_segment_start)?,
            b'?' => (Token::One, after),
            b'[' => set(after)?,
            other => {
                literal.push(other);
                at_segment_start = other == separator;
                rest = after;
                continue;
            }
        };
        at_segment_start = token == Token::Segments;
        if !literal.is_empty() {
            out.push(Token::Literal(std::mem::take(&mut literal).into()));
        }
        out.push(token);
        rest = after;
    }
    if !literal.is_empty() {
        out.push(Token::Literal(literal.into()));
    }
    Ok(out.into())
}

/// The token that a `*` begins: `after` is the text behind it. Also returns the rest of the text.
fn star(after: &[u8], separator: u8, at_segment_start: bool) -> Result<(Token, &[u8]), GlobError> {
    let Some(after) = after.strip_prefix(b"*") else { return Ok((Token::Star, after)) };
    if after.first() == Some(&b'*') {
        return Err(GlobError::Stars);
    }
    match after.split_first() {
        Some((&next, tail)) if next == separator && at_segment_start => Ok((Token::Segments, tail)),
        _ => Ok((Token::Deep, after)),
    }
}

/// A character set: `after` is the text behind its `[`. Also returns the rest of the text.
fn set(after: &[u8]) -> Result<(Token, &[u8]), GlobError> {
    let (negated, body) = match after.split_first() {
        Some((b'!' | b'^', body)) => (true, body),
        _ => (false, after),
    };
    let end = body.iter().position(|b| *b == b']').ok_or(GlobError::Set)?;
    let (members, tail) = body.split_at_checked(end).ok_or(GlobError::Set)?;
    let tail = tail.strip_prefix(b"]").ok_or(GlobError::Set)?;
    let mut ranges = Vec::new();
    let mut left = members;
    loop {
        left = match left {
            [] => break,
            [low, b'-', high, more @ ..] => {
                if low > high {
                    return Err(GlobError::Set);
                }
                ranges.push((*low, *high));
                more
            }
            [one, more @ ..] => {
                ranges.push((*one, *one));
                more
            }
        };
    }
    if ranges.is_empty() {
        return Err(GlobError::Set);
    }
    Ok((Token::Set { negated, ranges: ranges.into() }, tail))
}

/// A place to backtrack to: the tokens behind a wildcard, and the text that the wildcard has left to them so
/// far.
#[derive(Clone, Copy)]
struct Resume<'t, 'x> {
    tokens: &'t [Token],
    text: &'x [u8],
    whole_segments: bool,
}

/// Matches tokens against the whole text. Calls `tick` at each step, for tests to count.
fn run(tokens: &[Token], text: &[u8], separator: u8, mut tick: impl FnMut()) -> bool {
    let (mut tokens, mut text) = (tokens, text);
    // A later `**` can absorb all that an earlier one could, and so can a later `*` within its segment. So
    // only the last of each ever needs to be tried again.
    let mut star: Option<Resume<'_, '_>> = None;
    let mut deep: Option<Resume<'_, '_>> = None;
    // How much text was left at the end of the segment in which the first `*` behind the last `**` began.
    // That `*` tries all of the segment; where it failed, one that begins later in the segment fails too.
    // Without this bound, matching would take quadratic time.
    let mut tried: Option<usize> = None;
    loop {
        tick();
        match tokens.split_first() {
            None if text.is_empty() => return true,
            None => {}
            Some((Token::Star, _)) if star.is_none() && tried.is_some_and(|left| text.len() >= left) => {}
            Some((Token::Star, rest)) => {
                if star.is_none() && deep.is_some() {
                    let end = text.iter().position(|byte| *byte == separator);
                    tried = Some(end.map_or(0, |end| text.len() - end));
                }
                star = Some(Resume { tokens: rest, text, whole_segments: false });
                tokens = rest;
                continue;
            }
            Some((token @ (Token::Deep | Token::Segments), rest)) => {
                deep = Some(Resume { tokens: rest, text, whole_segments: *token == Token::Segments });
                (star, tried) = (None, None);
                tokens = rest;
                continue;
            }
            Some((token, rest)) => {
                if let Some(after) = step(token, text, separator) {
                    (tokens, text) = (rest, after);
                    continue;
                }
            }
        }
        // Mismatch: let the last `*` take one more byte of its segment, else the last `**` one more of
        // anything.
        let next = star.take().and_then(|s| extend_star(s, separator));
        if next.is_some() {
            star = next;
        } else {
            deep = deep.take().and_then(|d| extend_deep(d, separator));
        }
        match star.or(deep) {
            Some(resume) => (tokens, text) = (resume.tokens, resume.text),
            None => return false,
        }
    }
}

/// The text that is left when a token other than `*` or `**` has matched its beginning; `None` if it doesn't
/// match.
fn step<'x>(token: &Token, text: &'x [u8], separator: u8) -> Option<&'x [u8]> {
    match token {
        Token::Literal(bytes) => text.strip_prefix(bytes.as_ref()),
        Token::One => text.split_first().filter(|(b, _)| **b != separator).map(|(_, after)| after),
        Token::Set { negated, ranges } => {
            let (byte, after) = text.split_first()?;
            let inside = ranges.iter().any(|(low, high)| (low..=high).contains(&byte));
            (*byte != separator && inside != *negated).then_some(after)
        }
        Token::Star | Token::Deep | Token::Segments => None,
    }
}

fn extend_star<'t, 'x>(resume: Resume<'t, 'x>, separator: u8) -> Option<Resume<'t, 'x>> {
    let (byte, text) = resume.text.split_first()?;
    (*byte != separator).then_some(Resume { text, ..resume })
}

fn extend_deep<'t, 'x>(resume: Resume<'t, 'x>, separator: u8) -> Option<Resume<'t, 'x>> {
    let skip = if resume.whole_segments { resume.text.iter().position(|b| *b == separator)? + 1 } else { 1 };
    let mut text = resume.text.get(skip..)?;
    if let (Some(Token::Literal(bytes)), true) = (resume.tokens.first(), text.len() >= LONG) {
        let before = resume.whole_segments.then_some(separator);
        text = text.get(literals::next(bytes, text, before)?..)?;
    }
    Some(Resume { text, ..resume })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The slow, obvious matcher: plain recursion over the pattern's characters.
    pub(crate) fn slow(pattern: &str, text: &str, separator: char) -> bool {
        fn go(p: &[char], t: &[char], sep: char, start: bool) -> bool {
            match p {
                [] => t.is_empty(),
                ['*', '*', s, rest @ ..] if *s == sep && start => {
                    // `**/` matches nothing, or everything up to and including any later separator.
                    go(rest, t, sep, true)
                        || (0..t.len()).any(|i| t[i] == sep && go(rest, &t[i + 1..], sep, true))
                }
                ['*', '*', rest @ ..] => (0..=t.len()).any(|i| go(rest, &t[i..], sep, false)),
                ['*', rest @ ..] => {
                    let end = t.iter().position(|c| *c == sep).unwrap_or(t.len());
                    (0..=end).any(|i| go(rest, &t[i..], sep, false))
                }
                ['?', rest @ ..] => t.first().is_some_and(|c| *c != sep) && go(rest, &t[1..], sep, false),
                ['[', rest @ ..] => {
                    let end = rest.iter().position(|c| *c == ']').unwrap();
                    let (set, rest) = (&rest[..end], &rest[end + 1..]);
                    let (negated, set) = match set {
                        ['!' | '^', set @ ..] => (true, set),
                        _ => (false, set),
                    };
                    let Some(c) = t.first() else { return false };
                    *c != sep && in_set(set, *c) != negated && go(rest, &t[1..], sep, false)
                }
                [c, rest @ ..] => t.first() == Some(c) && go(rest, &t[1..], sep, *c == sep),
            }
        }
        fn in_set(set: &[char], c: char) -> bool {
            match set {
                [] => false,
                [low, '-', high, rest @ ..] => (*low..=*high).contains(&c) || in_set(rest, c),
                [one, rest @ ..] => *one == c || in_set(rest, c),
            }
        }
        let pattern: Vec<char> = pattern.chars().collect();
        let text: Vec<char> = text.chars().collect();
        go(&pattern, &text, separator, true)
    }

    fn matches(pattern: &str, text: &str) -> bool {
        Glob::path(pattern).unwrap().matches(text)
    }

    #[test]
    fn one_star_stays_within_a_segment_and_two_cross() {
        assert!(matches("/repos/*/issues", "/repos/x/issues"));
        assert!(!matches("/repos/*/issues", "/repos/x/y/issues"));
        assert!(matches("/repos/**", "/repos/"));
        assert!(matches("/repos/**", "/repos/x/y"));
        assert!(!matches("/repos/**", "/repos"));
        assert!(matches("/**", "/"));
        assert!(matches("/**/info/refs*", "/o/r.git/info/refs"));
        assert!(matches("/**/info/refs", "/info/refs"));
        assert!(!matches("/**/info/refs", "/xinfo/refs"));
        assert!(matches("/bot*/**", "/bot123:abc/sendMessage"));
        assert!(matches("/usr/bin/python3*", "/usr/bin/python3.11"));
        assert!(!matches("/usr/bin/python3*", "/usr/bin/python3/x"));
        assert!(matches("/a/*", "/a/"));
        assert!(!matches("/a/*", "/a"));
        assert!(matches("**", "/anything/at/all"));
    }

    #[test]
    fn one_character_and_sets() {
        assert!(matches("/v?/x", "/v1/x") && !matches("/v?/x", "/v/x") && !matches("/v?x", "/v/x"));
        assert!(matches("/v[0-9]", "/v7") && !matches("/v[0-9]", "/va"));
        assert!(matches("/v[!0]", "/v1") && !matches("/v[!0]", "/v0") && !matches("/v[!0]x", "/v/x"));
        assert_eq!(Glob::path("/v[0-9").unwrap_err(), GlobError::Set);
        assert_eq!(Glob::path("/v[]").unwrap_err(), GlobError::Set);
        assert_eq!(Glob::path("/v[9-0]").unwrap_err(), GlobError::Set);
        assert_eq!(Glob::path("/***").unwrap_err(), GlobError::Stars);
        assert_eq!(Glob::path("").unwrap_err(), GlobError::Empty);
    }

    /// The steps that a failing match takes.
    fn steps(pattern: &str, text: &str) -> usize {
        let glob = Glob::path(pattern).unwrap();
        let mut steps = 0;
        assert!(!run(&glob.tokens, text.as_bytes(), b'/', || steps += 1), "{pattern}");
        steps
    }

    #[test]
    fn hostile_repetition_takes_no_more_than_pattern_times_text() {
        let long = "drop".repeat(1 << 12);
        for (pattern, text) in [
            (format!("/{}b", "*a".repeat(200)), format!("/{}", "a".repeat(8000))),
            (format!("/{}b", "**/a*/".repeat(50)), "/aaaa".repeat(1600)),
            ("**drop*table**".into(), long.clone()),
            ("**d*o*table**".into(), format!("{long}/{long}")),
            ("**d?o*p/d*o*table".into(), format!("{long}/{long}/{long}")),
            ("**/d*table**".into(), format!("/{}", "drop/".repeat(1 << 12))),
            ("**d*r**o*p*table".into(), long.clone()),
        ] {
            let (taken, bound) = (steps(&pattern, &text), pattern.len() * text.len());
            assert!(taken <= bound, "{pattern}: {taken} steps, {bound} at most");
        }
    }

    /// What an agent can write at any length, and no rule says.
    #[test]
    fn a_long_text_is_not_tried_at_every_place() {
        let text = format!("/{}x", "s1aaaa./".repeat(900));
        for (pattern, bound) in [
            ("/**/secret/**", 0),
            ("/**/*secret*/**", 0),
            ("/**s1aaaa./y", 0),
            ("/**/a./**", 8),
            ("/**/aaaa./s1**", 8),
        ] {
            let tokens = Glob::path(pattern).unwrap().tokens;
            let taken = if has_literals(&tokens, text.as_bytes()) { steps(pattern, &text) } else { 0 };
            assert!(taken <= bound, "{pattern}: {taken} steps");
            assert!(!matches(pattern, &text), "{pattern}");
        }
        let (long, at) = (text.clone() + "/secret/x", text + "secret/secret/xsecret");
        for pattern in ["/**/secret/**", "/**/*ecre?/**", "/**x*/**/x*", "/**/s1aaaa./**/secret/x*"] {
            assert!(matches(pattern, &long) && matches(pattern, &at), "{pattern}");
        }
        assert!(matches("/**s1aaaa.**/x/secret/x", &long) && !matches("/**/x/secret/x", &at));
    }

    #[test]
    fn patterns_that_begin_or_end_otherwise_share_no_text() {
        let overlap = |a, b| Glob::path(a).unwrap().may_overlap(&Glob::path(b).unwrap());
        assert!(
            overlap("/usr/bin/*", "/usr/**") && overlap("/**", "/usr/bin/*") && overlap("**/sh", "/usr/b*h")
        );
        assert!(!overlap("/usr/bin/*", "/opt/**") && !overlap("/usr/**/node", "/usr/bin/*py"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn what_matches_two_patterns_makes_them_overlap(
            one in "(/|a|b|\\*|\\*\\*/|\\*\\*|\\?|\\[ab\\]){1,5}",
            other in "(/|a|b|\\*|\\*\\*/|\\*\\*|\\?|\\[ab\\]){1,5}",
            text in "[/ab]{0,5}",
        ) {
            if let (Ok(one), Ok(other)) = (Glob::path(&one), Glob::path(&other)) {
                let both = one.matches(&text) && other.matches(&text);
                prop_assert!(!both || one.may_overlap(&other), "{} and {} on {}", one, other, text);
            }
        }

        #[test]
        fn agrees_with_the_slow_matcher(pattern in "(/|a|b|\\*|\\*\\*/|\\*\\*|\\?|\\[ab\\]|\\[!a\\]){1,8}", text in "[/ab]{0,10}") {
            if let Ok(glob) = Glob::path(&pattern) {
                prop_assert_eq!(glob.matches(&text), slow(&pattern, &text, '/'), "{} on {}", pattern, text);
            }
        }
    }
}
