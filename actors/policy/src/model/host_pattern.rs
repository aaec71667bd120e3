//! The hosts that an endpoint names: one, or several by a wildcard in the first label.

use std::fmt;

use crate::host::check_label;
use crate::{DomainName, Glob, Host, HostError};

/// Why a text isn't a host pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// Not a host even without its wildcard.
    #[error(transparent)]
    Host(#[from] HostError),
    /// `*` or `**` alone.
    #[error("a bare wildcard would name every host")]
    Bare,
    /// `*.com` and the like.
    #[error("a wildcard over a top-level domain would name too many hosts")]
    TopLevel,
    /// A wildcard behind the first dot.
    #[error("a wildcard may stand in the first label only")]
    Place,
    /// `**` with something beside it.
    #[error("`**` must be the whole first label")]
    Deep,
}

/// The `host` of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// This host.
    Exact(Host),
    /// `*.x`, `a-*.x`: one label in front of the suffix, matched by the glob.
    Label {
        /// The pattern for the first label.
        label: Glob,
        /// The labels behind the first.
        suffix: DomainName,
    },
    /// `**.x`: one label or more in front of the suffix.
    Deep {
        /// The labels behind those that `**` stands for.
        suffix: DomainName,
    },
}

impl HostPattern {
    /// Reads the `host` of an endpoint.
    ///
    /// # Errors
    /// A [`HostPatternError`] that says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, HostPatternError> {
        if !text.contains('*') {
            return Ok(Self::Exact(Host::parse(text)?));
        }
        let Some((first, suffix)) = text.split_once('.') else { return Err(HostPatternError::Bare) };
        if suffix.contains('*') {
            return Err(HostPatternError::Place);
        }
        let suffix = DomainName::parse(suffix)?;
        if !suffix.as_str().contains('.') {
            return Err(HostPatternError::TopLevel);
        }
        if first == "**" {
            return Ok(Self::Deep { suffix });
        }
        if first.contains("**") {
            return Err(HostPatternError::Deep);
        }
        // With its wildcards replaced by a letter, the label must be valid.
        check_label(&first.replace('*', "x"))?;
        let label = Glob::new(&first.to_ascii_lowercase(), b'.')
            .map_err(|_| HostPatternError::Host(HostError::Label))?;
        Ok(Self::Label { label, suffix })
    }

    /// Whether it names `host`.
    #[must_use]
    pub fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Exact(own), host) => own == host,
            (Self::Label { label, suffix }, Host::Name(name)) => name
                .as_str()
                .split_once('.')
                .is_some_and(|(first, rest)| rest == suffix.as_str() && label.matches(first)),
            (Self::Deep { suffix }, Host::Name(name)) => name
                .as_str()
                .strip_suffix(suffix.as_str())
                .is_some_and(|front| front.len() > 1 && front.ends_with('.')),
            (Self::Label { .. } | Self::Deep { .. }, Host::Addr(_)) => false,
        }
    }

    /// Whether some host is named by both. Two label wildcards over one suffix are taken to overlap.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(host), pattern) | (pattern, Self::Exact(host)) => pattern.matches(host),
            (Self::Label { suffix: a, .. }, Self::Label { suffix: b, .. }) => a == b,
            (Self::Deep { suffix: deep }, Self::Label { suffix, .. })
            | (Self::Label { suffix, .. }, Self::Deep { suffix: deep }) => ends_in(suffix, deep),
            (Self::Deep { suffix: a }, Self::Deep { suffix: b }) => ends_in(a, b) || ends_in(b, a),
        }
    }
}

/// Whether `name` is `suffix` or lies beneath it.
fn ends_in(name: &DomainName, suffix: &DomainName) -> bool {
    name.as_str().strip_suffix(suffix.as_str()).is_some_and(|front| front.is_empty() || front.ends_with('.'))
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(Host::Addr(addr)) => addr.fmt(f),
            Self::Exact(host) => host.fmt(f),
            Self::Label { label, suffix } => write!(f, "{label}.{suffix}"),
            Self::Deep { suffix } => write!(f, "**.{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pattern: &str, host: &str) -> bool {
        HostPattern::parse(pattern).unwrap().matches(&Host::parse(host).unwrap())
    }

    #[test]
    fn wildcards_are_by_label() {
        assert!(names("*.github.com", "api.github.com"));
        assert!(!names("*.github.com", "github.com") && !names("*.github.com", "a.b.github.com"));
        assert!(!names("*.github.com", "apigithub.com") && !names("*.github.com", "api.github.com.evil.org"));
        assert!(names("**.github.com", "a.b.github.com") && names("**.github.com", "a.github.com"));
        assert!(!names("**.github.com", "github.com") && !names("**.github.com", "evilgithub.com"));
        assert!(names("a-*.example.org", "a-b.example.org") && !names("a-*.example.org", "b-a.example.org"));
        assert!(names("*-aiplatform.googleapis.com", "us-central1-aiplatform.googleapis.com"));
        assert!(names("API.GitHub.com", "api.github.com"));
        assert!(names("10.0.5.1", "10.0.5.1") && !names("*.0.5.1.nip.io", "10.0.5.1"));
    }

    #[test]
    fn what_names_too_much_is_refused() {
        for (text, why) in [
            ("*", HostPatternError::Bare),
            ("**", HostPatternError::Bare),
            ("*.com", HostPatternError::TopLevel),
            ("**.com", HostPatternError::TopLevel),
            ("a.*.com", HostPatternError::Place),
            ("api.*", HostPatternError::Place),
            ("*.*.example.com", HostPatternError::Place),
            ("a**.example.com", HostPatternError::Deep),
            ("*.0.0.1", HostPatternError::Host(HostError::OddAddress)),
            ("*_ .example.com", HostPatternError::Host(HostError::Character)),
            ("exa mple.com", HostPatternError::Host(HostError::Character)),
            ("0x7f.1", HostPatternError::Host(HostError::OddAddress)),
        ] {
            assert_eq!(HostPattern::parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn overlap() {
        let overlaps = |a: &str, b: &str| {
            let (a, b) = (HostPattern::parse(a).unwrap(), HostPattern::parse(b).unwrap());
            assert_eq!(a.overlaps(&b), b.overlaps(&a));
            a.overlaps(&b)
        };
        assert!(overlaps("api.github.com", "api.github.com"));
        assert!(overlaps("api.github.com", "*.github.com"));
        assert!(overlaps("**.github.com", "*.api.github.com"));
        assert!(overlaps("**.github.com", "**.api.github.com"));
        assert!(!overlaps("**.github.com", "*.com.example"));
        assert!(!overlaps("*.github.com", "*.api.github.com"));
        assert!(!overlaps("github.com", "*.github.com"));
    }
}
