//! `policy diff`: what changes from one policy to another, in words, and whether a change allows more or
//! less.

use std::fmt;

use serde::Serialize;

use crate::model::{Binary, Bodies, Endpoint, Entry, PathRule, Policy};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Where: `filesystem_policy`, `landlock`, or the key of an entry.
    pub section: String,
    /// Whether the change allows more or less.
    pub effect: Effect,
    /// What changes, in words.
    pub text: String,
}

/// Whether a change allows more or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// More is allowed than before.
    Wider,
    /// Less is allowed than before.
    Narrower,
    /// Neither, or it can't be told.
    Other,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.effect {
            Effect::Wider => '+',
            Effect::Narrower => '-',
            Effect::Other => '~',
        };
        write!(f, "{sign} {}: {}", self.section, self.text)
    }
}

/// What changes from `old` to `new`.
#[must_use]
pub fn diff(old: &Policy, new: &Policy) -> Vec<Change> {
    let mut out = Changes::default();
    out.statics(old, new);
    for entry in &old.network {
        match new.network.iter().find(|other| other.key == entry.key) {
            None => out.add(&entry.key, Effect::Narrower, format!("the entry is gone ({})", summary(entry))),
            Some(other) => out.entry(entry, other),
        }
    }
    for entry in &new.network {
        if !old.network.iter().any(|other| other.key == entry.key) {
            out.add(&entry.key, Effect::Wider, format!("a new entry ({})", summary(entry)));
        }
    }
    out.0
}

/// An entry in a few words.
fn summary(entry: &Entry) -> String {
    let endpoints: Vec<String> = entry.endpoints.iter().map(Endpoint::describe).collect();
    let programs = match &entry.binaries {
        None => String::from("any program"),
        Some(list) => list.iter().map(|b| b.path.as_str()).collect::<Vec<_>>().join(", "),
    };
    format!("{} for {programs}", endpoints.join(", "))
}

#[derive(Default)]
struct Changes(Vec<Change>);

impl Changes {
    fn add(&mut self, section: &str, effect: Effect, text: impl Into<String>) {
        self.0.push(Change { section: section.to_owned(), effect, text: text.into() });
    }

    /// Compares the static sections. The process section is left out: whatever it says, the agent runs as the
    /// one user and group that there are.
    fn statics(&mut self, old: &Policy, new: &Policy) {
        let section = "filesystem_policy";
        let (a, b) = (&old.filesystem, &new.filesystem);
        if a.include_workdir != b.include_workdir {
            let effect = if b.include_workdir { Effect::Wider } else { Effect::Narrower };
            let text = format!(
                "the working directory is {}writable of itself",
                if b.include_workdir { "" } else { "no longer " }
            );
            self.add(section, effect, text);
        }
        self.paths(&a.read_only, &b.read_only, "readable");
        self.paths(&a.read_write, &b.read_write, "writable");
        if old.landlock != new.landlock {
            let text = format!("compatibility {} becomes {}", old.landlock.as_str(), new.landlock.as_str());
            self.add("landlock", Effect::Other, text);
        }
    }

    fn paths(&mut self, old: &[PathRule], new: &[PathRule], word: &str) {
        let section = "filesystem_policy";
        let find = |list: &'_ [PathRule], rule: &PathRule| list.iter().find(|o| o.path == rule.path).cloned();
        for rule in old {
            match find(new, rule) {
                None => self.add(
                    section,
                    Effect::Narrower,
                    format!("{} is no longer {word}", rule.path.display()),
                ),
                Some(other) if other.optional != rule.optional => {
                    let text = format!(
                        "{} is {} optional",
                        rule.path.display(),
                        if other.optional { "now" } else { "no longer" }
                    );
                    self.add(section, Effect::Other, text);
                }
                Some(_) => {}
            }
        }
        for rule in new.iter().filter(|rule| find(old, rule).is_none()) {
            self.add(section, Effect::Wider, format!("{} is now {word}", rule.path.display()));
        }
    }

    fn entry(&mut self, old: &Entry, new: &Entry) {
        let key = &*old.key;
        if old.name != new.name {
            self.add(key, Effect::Other, format!("the name `{}` becomes `{}`", old.name, new.name));
        }
        self.binaries(key, old.binaries.as_deref(), new.binaries.as_deref());
        // Endpoints are paired by host, ports and path; several with the same are paired in their order.
        let mut rest: Vec<&Endpoint> = new.endpoints.iter().collect();
        for endpoint in &old.endpoints {
            let same = rest.iter().position(|e| e == &endpoint);
            let alike = same.or_else(|| rest.iter().position(|e| e.describe() == endpoint.describe()));
            match alike {
                Some(index) => self.endpoint(key, endpoint, rest.remove(index)),
                None => {
                    self.add(key, Effect::Narrower, format!("the endpoint {} is gone", endpoint.describe()))
                }
            }
        }
        for endpoint in rest {
            self.add(key, Effect::Wider, format!("a new endpoint {}", endpoint.describe()));
        }
    }

    fn binaries(&mut self, key: &str, old: Option<&[Binary]>, new: Option<&[Binary]>) {
        match (old, new) {
            (None, None) => {}
            (None, Some(_)) => self.add(key, Effect::Narrower, "only listed programs may use it"),
            (Some(_), None) => self.add(key, Effect::Wider, "any program may use it"),
            (Some(old), Some(new)) => {
                for binary in old.iter().filter(|b| !new.contains(b)) {
                    self.add(key, Effect::Narrower, format!("the program {} is gone", program(binary)));
                }
                for binary in new.iter().filter(|b| !old.contains(b)) {
                    self.add(key, Effect::Wider, format!("a new program {}", program(binary)));
                }
            }
        }
    }

    fn endpoint(&mut self, key: &str, old: &Endpoint, new: &Endpoint) {
        let at = old.describe();
        let protocol = |e: &Endpoint| e.protocol.map_or("none (bytes are relayed)", crate::Protocol::as_str);
        if old.protocol != new.protocol {
            let effect = match (old.protocol, new.protocol) {
                (None, Some(_)) => Effect::Narrower,
                (Some(_), None) => Effect::Wider,
                _ => Effect::Other,
            };
            self.add(key, effect, format!("{at}: protocol {} becomes {}", protocol(old), protocol(new)));
        }
        if old.public_only != new.public_only {
            let (effect, word) =
                if new.public_only { (Effect::Narrower, "on") } else { (Effect::Wider, "off") };
            self.add(key, effect, format!("{at}: public_only is turned {word}"));
        }
        for (name, was, is) in [
            ("tls: skip", old.tls_skip, new.tls_skip),
            ("enforcement: audit", old.audit, new.audit),
            ("allow_encoded_slash", old.allow_encoded_slash, new.allow_encoded_slash),
            ("request_body_credential_rewrite", old.rewrites.bodies, new.rewrites.bodies),
            ("websocket_credential_rewrite", old.rewrites.messages, new.rewrites.messages),
        ] {
            if was != is {
                let (effect, word) = if is { (Effect::Wider, "on") } else { (Effect::Narrower, "off") };
                self.add(key, effect, format!("{at}: {name} is turned {word}"));
            }
        }
        self.bodies(key, &at, (&old.bodies, &new.bodies));
        let words = |list: Vec<String>| list;
        let allowed = |e: &Endpoint| {
            let access = e.access.map(|a| format!("access: {}", a.as_str()));
            access.into_iter().chain(e.rules.iter().map(|r| format!("allow {}", r.rule))).collect()
        };
        let denied = |e: &Endpoint| e.deny_rules.iter().map(|r| format!("deny {}", r.rule)).collect();
        self.words(key, &at, (words(allowed(old)), words(allowed(new))), (Effect::Narrower, Effect::Wider));
        self.words(key, &at, (denied(old), denied(new)), (Effect::Wider, Effect::Narrower));
        if old.allowed_ips != new.allowed_ips {
            let nets =
                |e: &Endpoint| e.allowed_ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            self.add(key, Effect::Other, format!("{at}: allowed_ips [{}] become [{}]", nets(old), nets(new)));
        }
    }

    fn bodies(&mut self, key: &str, at: &str, (old, new): (&Bodies, &Bodies)) {
        if old.max_bytes != new.max_bytes {
            let effect = if new.max_bytes > old.max_bytes { Effect::Wider } else { Effect::Narrower };
            let text = format!("{at}: bodies of {} bytes become bodies of {}", old.max_bytes, new.max_bytes);
            self.add(key, effect, text);
        }
        for (name, was, is) in [
            ("tools of any name", !old.strict_tool_names, !new.strict_tool_names),
            ("every known MCP method", old.known_mcp_methods, new.known_mcp_methods),
            ("answers to the server", old.client_responses, new.client_responses),
        ] {
            if was != is {
                let (effect, word) = if is {
                    (Effect::Wider, "may be sent")
                } else {
                    (Effect::Narrower, "may no longer be sent")
                };
                self.add(key, effect, format!("{at}: {name} {word}"));
            }
        }
        let registered = |bodies: &Bodies| -> Vec<String> {
            let all = bodies.persisted.iter().flatten();
            all.map(|(id, operation)| format!("persisted query {id} ({operation})")).collect()
        };
        self.words(key, at, (registered(old), registered(new)), (Effect::Narrower, Effect::Wider));
    }

    fn words(&mut self, key: &str, at: &str, lists: (Vec<String>, Vec<String>), effects: (Effect, Effect)) {
        for text in lists.0.iter().filter(|t| !lists.1.contains(t)) {
            self.add(key, effects.0, format!("{at}: `{text}` is gone"));
        }
        for text in lists.1.iter().filter(|t| !lists.0.contains(t)) {
            self.add(key, effects.1, format!("{at}: `{text}` is new"));
        }
    }
}

fn program(binary: &Binary) -> String {
    let mut out = binary.path.to_string();
    if let Some(sha256) = binary.sha256 {
        out.push_str(&format!(" (sha256 {})", hex::encode(sha256)));
    }
    if !binary.ancestors {
        out.push_str(" (itself only)");
    }
    if binary.allow_foreign_code {
        out.push_str(" (foreign code allowed)");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;

    fn words(old: &str, new: &str) -> Vec<String> {
        let policy = |text: &str| crate::parse("p", text).unwrap().policy;
        diff(&policy(old), &policy(new)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_policy_doesnt_differ_from_itself() {
        for profile in builtin::profiles() {
            assert_eq!(words(profile.text, profile.text), Vec::<String>::new());
        }
    }

    #[test]
    fn a_default_that_is_written_out_is_no_change() {
        let written = "version: 1\nprocess: { run_as_user: sandbox, run_as_group: sandbox }\nlandlock: { compatibility: hard_requirement }\n";
        assert_eq!(words(written, "version: 1\n"), Vec::<String>::new());
        assert_eq!(words("version: 1\n", written), Vec::<String>::new());
    }

    #[test]
    fn changes_are_told_in_words_with_their_direction() {
        let old = "\
version: 1
filesystem_policy: { read_only: [/usr, /app], read_write: [/tmp] }
network_policies:
  a:
    endpoints: [ { host: a.example.com, port: 443, protocol: rest, access: read-only } ]
    binaries: [ { path: /usr/bin/curl } ]
  b: { endpoints: [ { host: b.example.com, port: 22 } ], binaries: [ { path: /usr/bin/ssh } ] }
";
        let new = "\
version: 1
filesystem_policy: { read_only: [/usr], read_write: [/tmp, /data] }
landlock: { compatibility: hard_requirement }
network_policies:
  a:
    endpoints:
      - { host: a.example.com, port: 443, protocol: rest, enforcement: audit, access: read-write, deny_rules: [ { method: POST, path: /admin } ] }
      - { host: a.example.com, port: 8443, protocol: rest, access: read-only }
    binaries: [ { path: /usr/bin/curl, ancestors: false } ]
  c: { endpoints: [ { host: c.example.com, port: 22 } ] }
";
        assert_eq!(
            words(old, new),
            [
                "- filesystem_policy: /app is no longer readable",
                "+ filesystem_policy: /data is now writable",
                "- a: the program /usr/bin/curl is gone",
                "+ a: a new program /usr/bin/curl (itself only)",
                "+ a: a.example.com:443: enforcement: audit is turned on",
                "- a: a.example.com:443: `access: read-only` is gone",
                "+ a: a.example.com:443: `access: read-write` is new",
                "- a: a.example.com:443: `deny POST /admin` is new",
                "+ a: a new endpoint a.example.com:8443",
                "- b: the entry is gone (b.example.com:22 for /usr/bin/ssh)",
                "+ c: a new entry (c.example.com:22 for any program)",
            ]
        );
    }
}
