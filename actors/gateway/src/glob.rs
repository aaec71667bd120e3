//! Patterns for model names in routes: literal, or with `*` for any run of characters.
//!
//! A model name has no segments (`meta/llama-3.3` is one name), so there is one wildcard only. Matching is
//! linear in both lengths, so a name from the agent can't make it slow.

use std::fmt;

use crate::config::plain_name;

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    text: Box<str>,
}

impl Glob {
    /// Parses a pattern of printable ASCII.
    ///
    /// # Errors
    /// What is wrong with the pattern.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        plain_name(text)?;
        if text.contains(['?', '[', ']', '{', '}', '\\']) {
            return Err("`*` is the only wildcard in a model name");
        }
        Ok(Self { text: text.into() })
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern has no wildcard, so that it matches one name only.
    pub fn is_literal(&self) -> bool {
        !self.text.contains('*')
    }

    /// Whether it stands for one name only, and this is it, in these very letters.
    pub fn is(&self, name: &str) -> bool {
        self.is_literal() && &*self.text == name
    }

    /// Whether `name` fits, with its letters (of ASCII) in either case: many a provider takes `GPT-4o` for
    /// `gpt-4o`, and what is said of one must hold for the other.
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.text.as_bytes().split(|byte| *byte == b'*');
        let Some(first) = parts.next() else { return false };
        let Some(mut rest) = behind(first, name.as_bytes()) else { return false };
        let mut last = None;
        for part in parts {
            // Each middle part is matched as early as possible, which leaves the most for the parts behind
            // it.
            if let Some(before) = last.replace(part) {
                match (0..=rest.len()).find_map(|at| behind(before, rest.get(at..)?)) {
                    Some(after) => rest = after,
                    None => return false,
                }
            }
        }
        match last {
            None => rest.is_empty(),
            Some(tail) => {
                let end = rest.len().checked_sub(tail.len()).and_then(|from| rest.get(from..));
                end.is_some_and(|end| end.eq_ignore_ascii_case(tail))
            }
        }
    }
}

/// What follows `part` in a name that begins with it.
fn behind<'n>(part: &[u8], name: &'n [u8]) -> Option<&'n [u8]> {
    let (begin, rest) = name.split_at_checked(part.len())?;
    begin.eq_ignore_ascii_case(part).then_some(rest)
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The obvious matcher, exponential and right.
    fn slow(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some((b'*', rest)), _) => {
                slow(rest, name) || name.split_first().is_some_and(|(_, tail)| slow(pattern, tail))
            }
            (Some((p, rest)), Some((n, tail))) => p.eq_ignore_ascii_case(n) && slow(rest, tail),
            (Some(_), None) => false,
        }
    }

    #[test]
    fn table() {
        for (pattern, name, fits) in [
            ("*", "meta/llama", true),
            ("gpt-*", "gpt-4o", true),
            ("gpt-*", "xgpt-4o", false),
            ("*-mini", "gpt-mini-2", false),
            ("a*a", "a", false),
            ("a*b*c", "aXbYc", true),
            ("claude", "claude", true),
            ("claude", "claude-3", false),
            ("gpt-4*", "GPT-4o", true),
            ("*-MINI", "gpt-Mini", true),
            ("a*B*c", "AbC", true),
            ("Claude", "cLAUDE", true),
            ("k*", "\u{212a}", false),
        ] {
            assert_eq!(Glob::parse(pattern).unwrap().matches(name), fits, "{pattern} {name}");
        }
        assert!(Glob::parse("gpt-?").is_err());
        assert!(Glob::parse("").is_err());
    }

    proptest! {
        #[test]
        fn agrees_with_the_obvious_matcher(pattern in "[abA*]{1,8}", name in "[abBé]{0,10}") {
            prop_assert_eq!(Glob::parse(&pattern).unwrap().matches(&name), slow(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
