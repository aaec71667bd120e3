//! What an operator approved in addition to the policy's text, as entries of the policy.
//!
//! Each approval becomes one entry, no broader than what was asked: one host and port, one program by path
//! *and* content (not its children), one method, one path, and no private address behind the name. Approvals
//! aren't part of the policy's text; they are composed in at every load, as presets are. An approval that
//! contradicts the policy's own entries is left out: the operator's file has the last word.

use serde_json::json;

use crate::diagnostics::{Diagnostics, Severity};
use crate::generation::Candidate;
use crate::read::{Preset, parse_preset};

/// Characters that are special in a pattern. Patterns have no escape, so they can't be written literally.
const PATTERN: [char; 3] = ['*', '?', '['];

/// One thing that was approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approved {
    /// The approval's id; the entry's name is `approved-ID`.
    pub id: String,
    /// The host, a name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The method; a GET covers HEAD.
    pub method: String,
    /// The path, or the operator's own pattern.
    pub path: String,
    /// The program's path inside the sandbox.
    pub binary: String,
    /// SHA-256 of the program's content, in hex.
    pub sha256: String,
}

/// Why an approval can't become an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// Read as a pattern, the text would cover more than was asked.
    #[error("{what} {text:?} has a character that means more than itself in a rule (`*`, `?`, `[`)")]
    Pattern {
        /// What the text is, in words for the message.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// The policy parser rejects the entry.
    #[error("{message}")]
    Rejected {
        /// What is wrong: the parser's first message. Where it stands would mean nothing to the operator, who
        /// wrote no such file.
        message: String,
        /// The parser's mend.
        help: Option<String>,
    },
}

impl Approved {
    /// Checks that a text, where a pattern may stand, matches nothing but itself.
    ///
    /// # Errors
    /// [`Unwritable::Pattern`].
    pub fn literal(what: &'static str, text: &str) -> Result<(), Unwritable> {
        match text.contains(PATTERN) {
            true => Err(Unwritable::Pattern { what, text: text.to_owned() }),
            false => Ok(()),
        }
    }

    /// The name of the entry for an approval's id.
    #[must_use]
    pub fn key(id: &str) -> String {
        format!("approved-{id}")
    }

    /// Whether an entry's name has the form that approvals' entries have.
    pub(crate) fn is_key(name: &str) -> bool {
        let number = name.strip_prefix(&*Self::key("")).unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    }

    /// Checks that the approval can become an entry.
    ///
    /// # Errors
    /// Why it can't. A pattern in the path is the operator's own and is accepted; one in the program's path
    /// or the host is not.
    pub fn check(&self) -> Result<(), Unwritable> {
        Self::literal("the program's path", &self.binary)?;
        Self::literal("the host", &self.host)?;
        self.preset().map(drop).map_err(|errors| {
            let first = errors.items().iter().find(|item| item.severity == Severity::Error);
            Unwritable::Rejected {
                message: first.map_or_else(|| errors.summary(), |item| item.message.clone()),
                help: first.and_then(|item| item.help.clone()),
            }
        })
    }

    /// The entry, made by the ordinary policy parser. The text given to it is JSON, which is YAML and can
    /// hold every text unchanged.
    fn preset(&self) -> Result<Preset, Diagnostics> {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        let entry = json!({
            "endpoints": [{
                "host": host,
                "port": self.port,
                "protocol": "rest",
                "public_only": true,
                "rules": [{ "allow": { "method": self.method, "path": self.path } }],
            }],
            "binaries": [{ "path": self.binary, "sha256": self.sha256, "ancestors": false }],
        });
        let name = Self::key(&self.id);
        let text = json!({
            "preset": { "name": "approvals", "description": "what the operator approved" },
            "network_policies": { name: entry },
        });
        let (mut preset, _) = parse_preset("approvals", &text.to_string())?;
        preset.network.iter_mut().for_each(|entry| entry.approved = true);
        Ok(preset)
    }
}

impl Candidate {
    /// Makes a candidate of a policy, presets and approvals. Also returns the ids of the approvals that were
    /// left out because they can't be entries or contradict the rest.
    ///
    /// # Errors
    /// What is wrong with the policy itself.
    pub fn with_approved(
        name: &str,
        text: &str,
        presets: &[Preset],
        approved: &[Approved],
    ) -> Result<(Self, Vec<String>), Diagnostics> {
        let mut all = presets.to_vec();
        let own = all.len();
        all.extend(approved.iter().filter_map(|one| one.preset().ok()));
        if all.len() == own + approved.len()
            && let Ok(candidate) = Self::new(name, text, &all)
        {
            return Ok((candidate, Vec::new()));
        }
        let mut candidate = Self::new(name, text, presets)?;
        let (mut taken, mut left_out) = (presets.to_vec(), Vec::new());
        for one in approved {
            let better = one.preset().ok().and_then(|preset| {
                taken.push(preset);
                Self::new(name, text, &taken).inspect_err(|_| drop(taken.pop())).ok()
            });
            match better {
                Some(better) => candidate = better,
                None => left_out.push(one.id.clone()),
            }
        }
        Ok((candidate, left_out))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Caller, CanonicalPath, Content, Destination, Executable, Host, Party, Query, RequestFacts};

    fn approved(id: &str, path: &str) -> Approved {
        Approved {
            id: id.to_owned(),
            host: "api.example.com".to_owned(),
            port: 443,
            method: "POST".to_owned(),
            path: path.to_owned(),
            binary: "/usr/bin/curl".to_owned(),
            sha256: "ab".repeat(32),
        }
    }

    fn caller(path: &str, byte: u8) -> Caller {
        let executable = Executable { path: path.into(), sha256: [byte; 32] };
        Caller { executable, ancestors: Arc::from([]), foreign_code: false, party: Party::UNKNOWN }
    }

    /// Whether the request may be sent.
    fn lets(candidate: &Candidate, to: (&str, u16), caller: &Caller, method: &str, path: &str) -> bool {
        let destination = Destination { host: Host::parse(to.0).unwrap(), port: to.1 };
        let generation = crate::Store::new(candidate.clone()).load();
        if generation.compiled.connect(&destination, caller).is_err() {
            return false;
        }
        let facts = RequestFacts {
            method,
            path: &CanonicalPath::parse(path, crate::PathOptions::default()).unwrap(),
            query: &Query::parse(None).unwrap(),
            websocket: false,
            content: Content::Unread,
        };
        generation.compiled.request(&destination, caller, &facts).is_ok()
    }

    #[test]
    fn an_approval_is_as_narrow_as_what_was_asked() {
        let (candidate, left_out) =
            Candidate::with_approved("p", "version: 1\n", &[], &[approved("1", "/a/b")]).unwrap();
        assert!(left_out.is_empty());
        let curl = caller("/usr/bin/curl", 0xab);
        let at = ("api.example.com", 443);
        assert!(lets(&candidate, at, &curl, "POST", "/a/b"));
        assert!(!lets(&candidate, at, &curl, "GET", "/a/b"), "another method");
        assert!(!lets(&candidate, at, &curl, "POST", "/a/b/c"), "another path");
        assert!(!lets(&candidate, at, &curl, "POST", "/a"), "another path");
        assert!(!lets(&candidate, ("api.example.com", 80), &curl, "POST", "/a/b"), "another port");
        assert!(!lets(&candidate, ("b.example.com", 443), &curl, "POST", "/a/b"), "another host");
        assert!(!lets(&candidate, at, &caller("/usr/bin/curl", 0xac), "POST", "/a/b"), "another content");
        assert!(!lets(&candidate, at, &caller("/usr/bin/wget", 0xab), "POST", "/a/b"), "another program");
        let destination = Destination { host: Host::parse(at.0).unwrap(), port: at.1 };
        let generation = crate::Store::new(candidate.clone()).load();
        let grant = generation.compiled.connect(&destination, &curl).unwrap();
        assert!(!grant.addresses.exact_host, "no private address behind the name");
        assert!(generation.compiled.grants_by_approval_alone(&destination, &curl));
        let text = "version: 1\nnetwork_policies: { own: { endpoints: [ { host: api.example.com, port: 443, protocol: rest, \
                    access: read-only } ], binaries: [ { path: /usr/bin/curl } ] } }\n";
        let (both, _) = Candidate::with_approved("p", text, &[], &[approved("1", "/a/b")]).unwrap();
        let both = crate::Store::new(both).load();
        assert!(!both.compiled.grants_by_approval_alone(&destination, &curl), "an entry has its say");
        let elsewhere = Destination { port: 80, ..destination };
        assert!(!generation.compiled.grants_by_approval_alone(&elsewhere, &curl), "nobody grants it");
        let mut child = caller("/usr/bin/other", 1);
        child.ancestors = Arc::from([curl.executable.clone()]);
        assert!(!lets(&candidate, at, &child, "POST", "/a/b"), "a child of it");
    }

    #[test]
    fn the_text_tells_it_and_the_source_does_not() {
        let (candidate, _) =
            Candidate::with_approved("p", "version: 1\n", &[], &[approved("7", "/a")]).unwrap();
        let generation = crate::Store::new(candidate).load();
        assert!(generation.text.contains("approved-7"), "{}", generation.text);
        assert_eq!(&*generation.source.text, "version: 1\n");
        let read = Candidate::new("again", &generation.text, &[]).unwrap();
        assert_eq!(
            read.policy().to_yaml(),
            generation.policy.to_yaml(),
            "it is written so that it can be read"
        );
    }

    #[test]
    fn what_contradicts_the_policy_is_left_out_alone() {
        let text = "version: 1\nnetwork_policies: { own: { endpoints: [ { host: api.example.com, port: 443, tls: skip } ], \
                    binaries: [ { path: /usr/bin/curl } ] } }\n";
        let mut other = approved("2", "/x");
        other.host = "other.example.com".to_owned();
        let (candidate, left_out) =
            Candidate::with_approved("p", text, &[], &[approved("1", "/a"), other]).unwrap();
        assert_eq!(left_out, ["1"]);
        let keys: Vec<&str> = candidate.policy().network().iter().map(|entry| &*entry.key).collect();
        assert_eq!(keys, ["own", "approved-2"]);
    }

    #[test]
    fn a_name_that_is_a_pattern_is_refused_and_odd_text_is_taken_as_it_is() {
        let mut star = approved("1", "/a");
        star.binary = "/sandbox/*".to_owned();
        assert!(matches!(star.check(), Err(Unwritable::Pattern { .. })));
        let mut everywhere = approved("1", "/a");
        everywhere.host = "*.example.com".to_owned();
        assert!(matches!(everywhere.check(), Err(Unwritable::Pattern { .. })));
        let mut quoted = approved("1", "/a'b,%22c%22");
        quoted.binary = "/sandbox/it's \"x\": {y} #z".to_owned();
        quoted.check().unwrap();
        let mut none = approved("1", "not a path");
        assert!(matches!(none.check(), Err(Unwritable::Rejected { .. })));
        none.path = "/a".to_owned();
        none.host = "2001:db8::1".to_owned();
        none.check().unwrap();
        none.host = "two words".to_owned();
        assert!(none.check().is_err());
    }
}
