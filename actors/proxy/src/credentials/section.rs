//! The `credentials:` section of cofferdam.yaml as data, and its check.
//!
//! Reading is serde's work; judging is [`Section::check`], which reports *every* fault at once. Hosts, paths
//! and programs are the policy's own patterns. A literal key never leaves its field: it is dropped while it
//! is read. Nothing here opens a file or an environment variable.

use std::collections::BTreeMap;
use std::fmt;

use policy::{Binary, HostPattern, NamedProgram, PathPattern, Policy, Protocol};
use redactor::{Credential, Reference};
use serde::{Deserialize, Serialize};

use super::placeholder::{MAX_NAME_BYTES, is_name};
use super::{Credentials, Unusable, Use};

/// Most credentials in one file.
pub const MAX_CREDENTIALS: usize = 64;
/// Most places that one credential may go to; they are tried in order.
pub const MAX_USES: usize = 32;
/// The port of a use that names none.
const DEFAULT_PORT: u16 = 443;

/// The section: credentials by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section(BTreeMap<String, Said>);

/// One credential as the file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    /// Where its key is.
    from: Credential,
    /// The environment variable that holds its placeholder inside the sandbox.
    #[serde(default)]
    env: Option<String>,
    /// Where it may go.
    #[serde(rename = "use")]
    uses: Vec<SaidUse>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SaidUse {
    host: String,
    #[serde(default)]
    ports: Vec<u16>,
    path: String,
    binaries: Vec<NamedProgram>,
    #[serde(default)]
    plain_http: bool,
}

/// What may be shown of one credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its name.
    pub name: String,
    /// The environment variable that holds its placeholder inside the sandbox.
    pub env: Option<String>,
    /// Where it may go, in words.
    pub uses: Vec<String>,
}

/// One fault in the section: its place, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("credentials.{at}: {what}")]
pub struct Fault {
    /// Path below `credentials`, such as `github.use[0].host`.
    pub at: String,
    /// What is wrong and how to mend it.
    pub what: String,
}

/// All faults of one section.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// A checked credential: name, reference, uses.
type Checked<'a> = (&'a str, &'a Reference, Vec<Use>);

impl Section {
    /// Judges the section without touching the machine.
    ///
    /// # Errors
    /// Every fault found.
    pub fn check(&self) -> Result<(), Faults> {
        self.checked().map(drop)
    }

    /// Every credential, checked.
    pub(super) fn checked(&self) -> Result<Vec<Checked<'_>>, Faults> {
        let mut faults = Vec::new();
        let mut out = Vec::new();
        let mut say = |at: &str, what: String| faults.push(Fault { at: at.to_owned(), what });
        if self.0.len() > MAX_CREDENTIALS {
            say("", format!("more than {MAX_CREDENTIALS} credentials"));
        }
        let mut variables: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, said) in &self.0 {
            if !is_name(name) {
                say(
                    name,
                    format!("a name has 1 to {MAX_NAME_BYTES} letters, digits, `-` and `_`: rename it"),
                );
            }
            if let Some(variable) = &said.env {
                if !is_variable(variable) {
                    say(&format!("{name}.env"), format!("`{variable}` is no variable's name"));
                }
                if let Some(other) = variables.insert(variable, name) {
                    say(
                        &format!("{name}.env"),
                        format!(
                            "{variable} holds the placeholder of `{other}` already: name another variable"
                        ),
                    );
                }
            }
            if let Credential::Refused(why) = &said.from {
                say(&format!("{name}.from"), (*why).to_owned());
            }
            let uses = said.uses(name, &mut say);
            if let Credential::Reference(reference) = &said.from {
                out.push((name.as_str(), reference, uses));
            }
        }
        if faults.is_empty() { Ok(out) } else { Err(Faults(faults)) }
    }

    /// Every name with the reference to its key, for the CLI to resolve before the start.
    pub fn references(&self) -> impl Iterator<Item = (&str, &Reference)> {
        self.0.iter().filter_map(|(name, said)| Some((name.as_str(), said.from.reference()?)))
    }

    /// The environment variables that hold a placeholder inside the sandbox, each with its placeholder.
    pub fn environment(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().filter_map(|(name, said)| Some((said.env.clone()?, super::placeholder(name))))
    }

    /// What may be shown of it.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn told(&self) -> Result<Vec<Told>, Faults> {
        let told = |(name, _, uses): Checked<'_>| Told {
            name: name.to_owned(),
            env: self.0.get(name).and_then(|said| said.env.clone()),
            uses: uses.iter().map(ToString::to_string).collect(),
        };
        Ok(self.checked()?.into_iter().map(told).collect())
    }

    /// Returns a warning for each use that can't work under `policy`: a placeholder in bytes that are relayed
    /// is never seen.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn warnings(&self, policy: &Policy) -> Result<Vec<String>, Faults> {
        let mut out = Vec::new();
        for (name, _, uses) in self.checked()? {
            for place in uses {
                let has_port = |ports: &[u16]| ports.iter().any(|port| place.ports.contains(port));
                let inspected =
                    place.leads_to(policy, |ports, protocol| has_port(ports) && protocol.is_some());
                let relayed = place.leads_to(policy, |ports, protocol| has_port(ports) && protocol.is_none());
                let beside = place.leads_to(policy, |_, protocol| protocol.is_none());
                let why = match (inspected, relayed) {
                    (true, _) if !beside => continue,
                    (true, _) => {
                        "is reached by a relayed entry, too, whose answers nobody searches: what one program has left \
                         there another reads in clear; give that entry a `protocol`"
                    }
                    (false, true) => {
                        "is reached by a relayed entry only, whose bytes nobody reads: its placeholder would leave as it \
                         stands; give the entry a `protocol`"
                    }
                    (false, false) => "is reached by no entry of the policy",
                };
                out.push(format!("credentials.{name}: {} {why}", place.host));
            }
        }
        Ok(out)
    }
}

impl Said {
    fn uses(&self, name: &str, say: &mut impl FnMut(&str, String)) -> Vec<Use> {
        let at = format!("{name}.use");
        if self.uses.is_empty() {
            say(&at, "without a place to go it is of no use: name host, path and binaries".into());
        }
        if self.uses.len() > MAX_USES {
            say(&at, format!("more than {MAX_USES} places"));
        }
        let numbered = self.uses.iter().enumerate();
        numbered.filter_map(|(n, said)| said.checked(&format!("{at}[{n}]"), say)).collect()
    }
}

impl SaidUse {
    fn checked(&self, at: &str, say: &mut impl FnMut(&str, String)) -> Option<Use> {
        let host = HostPattern::parse(&self.host);
        if let Err(why) = &host {
            say(&format!("{at}.host"), format!("`{}` can't be a host: {why}", self.host));
        }
        let path = PathPattern::parse(&self.path);
        if let Err(why) = &path {
            say(&format!("{at}.path"), why.to_string());
        }
        if self.ports.contains(&0) {
            say(&format!("{at}.ports"), "a port is a number from 1 to 65535".into());
        }
        if self.binaries.is_empty() {
            say(&format!("{at}.binaries"), "name the programs that may send it".into());
        }
        let mut binaries = Vec::new();
        for (n, said) in self.binaries.iter().enumerate() {
            match sender(said) {
                Ok(binary) => binaries.push(binary),
                Err(why) => say(&format!("{at}.binaries[{n}]"), why),
            }
        }
        let ports = if self.ports.is_empty() { vec![DEFAULT_PORT] } else { self.ports.clone() };
        Some(Use { host: host.ok()?, ports, path: path.ok()?, binaries, plain_http: self.plain_http })
    }
}

/// Checks a program that may send a credential. `ancestors` are refused: which program started it says
/// nothing about what it does.
fn sender(said: &NamedProgram) -> Result<Binary, String> {
    match said.ancestors() {
        Some(_) => Err("`ancestors` has no place here: name each program that sends it".into()),
        None => said.checked(false),
    }
}

impl Use {
    /// Whether some endpoint of `policy` that leads to the host is of a kind, by its ports and its protocol.
    fn leads_to(&self, policy: &Policy, kind: impl Fn(&[u16], Option<Protocol>) -> bool) -> bool {
        policy.network().iter().flat_map(|entry| &entry.endpoints).any(|endpoint| {
            endpoint.host.as_ref().is_some_and(|host| host.overlaps(&self.host))
                && kind(&endpoint.ports, endpoint.protocol)
        })
    }
}

/// Whether shells accept `text` as the name of a variable.
fn is_variable(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

impl Section {
    /// Reads every key. For the CLI, before the start, on the operator's side.
    ///
    /// # Errors
    /// The first key that can't be read or can't be used, with how to mend it.
    pub fn resolve(&self) -> Result<Vec<(String, redactor::Secret)>, String> {
        self.references()
            .map(|(name, reference)| {
                let key = reference.resolve().map_err(|why| format!("credentials.{name}: {why}"))?;
                Credentials::fits(name, &key).map_err(|why: Unusable| why.to_string())?;
                Ok((reference.to_string(), key))
            })
            .collect()
    }
}
