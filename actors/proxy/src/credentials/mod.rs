//! Credentials by placeholder: the agent writes `cofferdam:cred:NAME`, and on the way out the value is put in
//! its place here.
//!
//! ```text
//! section ─ Credentials ─ head (headers, Basic, query) ─ upload (bodies, by body) ─ … ─ answer (screened)
//!           (who, where)   └──────── after the verdict, before anything is dialled ───┘
//! ```
//! A credential goes with a request whose host, port, path *and* judged program are all in one entry of its
//! `use`; any other placeholder is refused, so that none leaves unresolved. This file has the credentials
//! themselves and makes that decision; the other files find placeholders and write values in their places.
//! Must never put a value into an error, a record or anything that prints.

mod answer;
mod body;
mod charset;
mod head;
mod placeholder;
mod section;
mod upload;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy::second::Second;
use policy::{Binary, Caller, CanonicalPath, Denial, Destination, HostPattern, Layer, PathPattern};
use redactor::{Guesser, RedactorError, Reference, SCREEN_MIN, Secret};
use smol_str::SmolStr;

pub(crate) use answer::Guard;
pub(crate) use body::in_message;
pub use placeholder::{MAX_NAME_BYTES, PREFIX, is_name, placeholder};
pub(crate) use placeholder::{Watch, find};
pub use section::{Fault, Faults, MAX_CREDENTIALS, MAX_USES, Section, Told};
pub(crate) use upload::{Sent, apply, unrewritten};

use crate::limits::MAX_PLACEHOLDERS;
use crate::verdict::Permitted;

/// Every credential of a sandbox, ready for use. Immutable; printing it prints names only.
#[derive(Default)]
pub struct Credentials {
    book: BTreeMap<Arc<str>, Held>,
    values: Option<answer::Values>,
}

struct Held {
    value: Secret,
    uses: Box<[Use]>,
}

/// One place where a credential may go: a request must match every field.
#[derive(Debug, Clone)]
pub(crate) struct Use {
    pub(crate) host: HostPattern,
    pub(crate) ports: Vec<u16>,
    pub(crate) path: PathPattern,
    pub(crate) binaries: Vec<Binary>,
    pub(crate) plain_http: bool,
}

/// Why the credentials can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The section is wrong.
    #[error(transparent)]
    Section(#[from] Faults),
    /// A reference was not resolved.
    #[error("credentials.{0}: its key was not resolved when the sandbox started: restart the sandbox")]
    Unresolved(String),
    /// A key is too short to be searched for in answers.
    #[error(
        "credentials.{0}: the key is shorter than {SCREEN_MIN} bytes, too short to be kept out of answers: use a longer one"
    )]
    Short(String),
    /// There are more keys than answers can be searched for.
    #[error("credentials: {0}")]
    Many(#[from] RedactorError),
}

impl Credentials {
    /// Builds the credentials from the section of cofferdam.yaml and the keys that its references led to.
    ///
    /// # Errors
    /// [`Unusable`]: says how to mend it, and holds no key.
    pub fn new(section: &Section, key: impl Fn(&Reference) -> Option<Secret>) -> Result<Self, Unusable> {
        let mut book = BTreeMap::new();
        for (name, reference, uses) in section.checked()? {
            let value = key(reference).ok_or_else(|| Unusable::Unresolved(name.to_owned()))?;
            Self::fits(name, &value)?;
            book.insert(Arc::from(name), Held { value, uses: uses.into() });
        }
        let values = match book.is_empty() {
            true => None,
            false => Some(answer::Values::new(book.values().map(|held: &Held| &held.value))?),
        };
        Ok(Self { book, values })
    }

    /// Checks that a key is long enough to be kept out of answers.
    ///
    /// # Errors
    /// [`Unusable::Short`].
    pub fn fits(name: &str, key: &Secret) -> Result<(), Unusable> {
        if key.len() < SCREEN_MIN { Err(Unusable::Short(name.to_owned())) } else { Ok(()) }
    }

    /// Whether there are no credentials.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.book.is_empty()
    }

    /// What keeps the values out of answers, where `to` is a host that may be told one. A value that was left
    /// with a server comes back in answers to other requests, at whichever of its ports, so the host counts
    /// and not the request.
    pub(crate) fn guard(&self, to: &Destination, reader: impl FnOnce() -> Guesser) -> Option<Guard> {
        let told = |held: &Held| held.uses.iter().any(|place| place.host.matches(&to.host));
        let values = self.values.as_ref().filter(|_| self.book.values().any(told))?;
        Some(values.kept_from(reader()))
    }

    /// The value of `name`, for a request that may carry it.
    fn value(&self, name: &str, request: &Request<'_>) -> Result<&Secret, Denial> {
        let Some((_, held)) = self.book.get_key_value(name) else {
            return Err(denied(format!("no credential is called `{}`", shown(name)), None));
        };
        // The use that the request comes nearest to says what is wrong.
        let mut nearest = Miss::Host;
        for place in &held.uses {
            match place.miss(request) {
                None => return Ok(&held.value),
                Some(miss) => nearest = nearest.max(miss),
            }
        }
        let hint = held.uses.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Err(denied(
            format!("credential `{name}` {}", nearest.told(request)),
            Some(format!("it may go to {hint}")),
        ))
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.book.keys()).finish()
    }
}

/// The parts of a permitted request that decide which credentials it may carry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) to: &'a Destination,
    pub(crate) path: &'a CanonicalPath,
    /// What its fields name besides, which its server reads or writes by the same authority.
    pub(crate) seconds: &'a [Second],
    pub(crate) caller: &'a Caller,
    pub(crate) tls: bool,
    /// It passes because its refusal is only recorded (`enforcement: audit`).
    pub(crate) is_only_recorded: bool,
}

impl<'a> Request<'a> {
    pub(crate) fn of(permitted: &'a Permitted) -> Self {
        let (granted, exchange) = (permitted.granted(), permitted.exchange());
        Self {
            to: granted.destination(),
            path: &exchange.path,
            seconds: &exchange.seconds,
            caller: granted.caller(),
            tls: exchange.tls,
            is_only_recorded: permitted.allowed().is_some_and(|allowed| allowed.audit_only.is_some()),
        }
    }
}

/// Why a request doesn't match a use. The later the variant, the nearer the request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Miss {
    Host,
    Plain,
    Path,
    Second,
    Program,
    ForeignCode,
    Recorded,
}

impl Miss {
    fn told(self, request: &Request<'_>) -> String {
        let program = &request.caller.executable.path;
        match self {
            Self::Host => format!("is not for {}", request.to),
            Self::Plain => format!("goes by TLS only, and this request to {} does not", request.to),
            Self::Path => format!("is not for the path {} of {}", request.path.as_str(), request.to),
            Self::Second => format!("is not for all that this request to {} names", request.to),
            Self::Program => format!("is not for {program}"),
            Self::ForeignCode => format!("is not for {program} with code of unknown origin in it"),
            Self::Recorded => {
                "goes with no request that passes only because its endpoint's refusals are recorded and not enforced"
                    .to_owned()
            }
        }
    }
}

impl Use {
    fn is_at(&self, to: &Destination) -> bool {
        self.ports.contains(&to.port) && self.host.matches(&to.host)
    }

    /// Whether a second resource of a request lies where this use leads, too.
    fn covers(&self, second: &Second, here: &Destination) -> bool {
        second.place(here).is_some_and(|(to, path)| self.is_at(&to) && self.path.matches(path))
    }

    fn miss(&self, request: &Request<'_>) -> Option<Miss> {
        let program = |binary: &&Binary| binary.is(&request.caller.executable);
        if !self.is_at(request.to) {
            Some(Miss::Host)
        } else if !(request.tls || self.plain_http) {
            Some(Miss::Plain)
        } else if !self.path.matches(request.path) {
            Some(Miss::Path)
        } else if !request.seconds.iter().all(|second| self.covers(second, request.to)) {
            Some(Miss::Second)
        } else if !self.binaries.iter().any(|binary| program(&binary)) {
            Some(Miss::Program)
        } else if request.caller.foreign_code
            && !self.binaries.iter().filter(program).any(|binary| binary.allow_foreign_code)
        {
            Some(Miss::ForeignCode)
        } else if request.is_only_recorded {
            Some(Miss::Recorded)
        } else {
            None
        }
    }
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ports: Vec<_> = self.ports.iter().map(u16::to_string).collect();
        let programs: Vec<_> = self.binaries.iter().map(|binary| binary.path.as_str()).collect();
        let plain = if self.plain_http { ", without TLS too" } else { "" };
        write!(f, "{}:{} {} by {}{plain}", self.host, ports.join(","), self.path, programs.join(", "))
    }
}

/// The credentials that one request asked for and may carry.
pub(crate) struct Wallet<'a> {
    credentials: &'a Credentials,
    request: Request<'a>,
    filled: usize,
    carried: BTreeSet<SmolStr>,
}

impl<'a> Wallet<'a> {
    pub(crate) fn new(credentials: &'a Credentials, request: Request<'a>) -> Self {
        Self { credentials, request, filled: 0, carried: BTreeSet::new() }
    }

    /// The value that a placeholder stands for.
    ///
    /// # Errors
    /// The denial of the request: no such credential, or not for this request, or not spelled plainly.
    pub(crate) fn value(&mut self, place: &placeholder::Place<'_>) -> Result<&'a Secret, Denial> {
        if !place.plain {
            return Err(misplaced(place.name, "be spelled with escapes over escapes"));
        }
        let value = self.credentials.value(place.name, &self.request)?;
        self.filled += 1;
        self.carried.insert(place.name.into());
        match self.filled > MAX_PLACEHOLDERS {
            true => Err(denied(format!("it holds more than {MAX_PLACEHOLDERS} placeholders"), None)),
            false => Ok(value),
        }
    }

    /// Names of the credentials that it gave out.
    pub(crate) fn carried(&self) -> Vec<SmolStr> {
        self.carried.iter().cloned().collect()
    }
}

/// A placeholder stands where none may.
fn misplaced(name: &str, what: &str) -> Denial {
    denied(format!("the placeholder of credential `{}` may not {what}", shown(name)), None)
}

fn denied(detail: String, hint: Option<String>) -> Denial {
    Denial { layer: Layer::L7, detail, policy: None, hint }
}

/// A name from a request, cut for messages to the length that a name can have.
fn shown(name: &str) -> &str {
    name.get(..name.len().min(MAX_NAME_BYTES)).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests;
