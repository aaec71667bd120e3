//! A sandbox's name.

use std::fmt;
use std::path::Path;

use crate::failure::Failure;

/// The longest name of a sandbox: it is a hostname label too (RFC 1123: 63).
const NAME_MAX: usize = 63;

/// A sandbox's name: lower-case letters, digits and `-`, beginning and ending with a letter or digit, at most
/// 63 long.
///
/// It is a directory's name, a hostname and a label of metrics, so nothing else is taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The rule for names, as messages state it.
    pub const RULE: &str = "use 1 to 63 lower-case letters, digits and '-', such as my-agent";

    /// Whether a text is a valid name.
    pub fn fits(text: &str) -> bool {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        text.len() <= NAME_MAX
            && text.chars().all(inner)
            && edge(text.chars().next())
            && edge(text.chars().last())
    }

    /// Takes a name as typed.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if Self::fits(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(Failure::refused(format!("'{}' can't name a sandbox: {}", text.escape_debug(), Self::RULE)))
    }

    /// Makes a name from a command: its file name without the characters that a name can't have.
    pub fn from_command(command: &std::ffi::OsStr) -> Self {
        let file = Path::new(command).file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let kept: String =
            file.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit()).take(32).collect();
        Self(if kept.is_empty() { "agent".into() } else { kept })
    }

    /// Returns the name for `n` up to 1, and the name with `-n` appended from 2 on.
    pub fn numbered(&self, n: u32) -> Self {
        if n <= 1 { self.clone() } else { Self(format!("{}-{n}", self.0)) }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hostname_labels() {
        for good in ["a", "my-agent", "0x"] {
            assert!(Name::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a/b", "..", "a b", "a\n", &"a".repeat(64)] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_commands_name_is_made_fit() {
        assert_eq!(Name::from_command("/usr/bin/python3.11".as_ref()).as_str(), "python311");
        assert_eq!(Name::from_command("./--".as_ref()).as_str(), "agent");
    }
}
