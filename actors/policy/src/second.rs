//! Header fields by which a request names a second resource, which the server then reads or writes for it.
//!
//! `MOVE /public/a` with `Destination: /private/b` writes to `/private`, and an object store's copy reads
//! what its field says. The caller must be allowed to do that without the server's help: such a resource is
//! judged as a request of its own, with the method that would read or write it. A field that can't be read is
//! refused. Must never change what is sent.

use std::borrow::Cow;
use std::str::FromStr as _;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};

use crate::{
    Caller, CanonicalPath, Compiled, Content, Denial, Destination, Host, Layer, PathOptions, Query,
    RequestFacts,
};

/// What the server does to the resource that a field names.
#[derive(Clone, Copy)]
enum Done {
    /// The same as the request does.
    Likewise,
    /// The server reads it.
    Read,
}

/// How a field names the resource, where its value isn't a URL.
#[derive(Clone, Copy)]
enum Form {
    /// By its path on the same server.
    Path,
    /// `container/object`, of the account that the request's own path begins with (Swift:
    /// `/v1/ACCOUNT/container/object`).
    Container,
    /// `bucket/key`: a path on the same server, or `key` on another host where buckets have hosts.
    Bucket,
    /// `bucket.host/key`, at the port of the request.
    Hosted,
    /// In a form that no policy can express; such a field is refused.
    Unnamed,
}

/// The known fields: WebDAV's (RFC 4918 section 10.3), and those of object stores.
const FIELDS: [(&str, Done, Form); 16] = [
    ("destination", Done::Likewise, Form::Path),
    ("destination-account", Done::Likewise, Form::Unnamed),
    ("x-amz-copy-source", Done::Read, Form::Bucket),
    ("x-amz-rename-source", Done::Likewise, Form::Path),
    ("x-copy-from", Done::Read, Form::Container),
    ("x-copy-from-account", Done::Read, Form::Unnamed),
    ("x-cos-copy-source", Done::Read, Form::Hosted),
    ("x-goog-copy-source", Done::Read, Form::Bucket),
    ("x-ms-copy-source", Done::Read, Form::Path),
    ("x-ms-file-rename-source", Done::Likewise, Form::Path),
    ("x-ms-rename-source", Done::Likewise, Form::Path),
    ("x-obs-copy-source", Done::Read, Form::Bucket),
    ("x-oss-copy-source", Done::Read, Form::Bucket),
    ("x-symlink-target", Done::Read, Form::Container),
    ("x-symlink-target-account", Done::Read, Form::Unnamed),
    ("x-tos-copy-source", Done::Read, Form::Bucket),
];

/// Endings of the fields by which other stores do the same, each with its own prefix (`x-bce-copy-source`,
/// `x-qs-move-source`, `x-oss-symlink-target`). We can't read their values, and must not ignore them, so they
/// are refused.
const ENDS: [&str; 7] = [
    "-copy-from",
    "-copy-source",
    "-move-source",
    "-object-manifest",
    "-rename-source",
    "-symlink-bucket",
    "-symlink-target",
];
/// Marks a field that holds the client's own metadata about the object, which a store keeps and doesn't
/// interpret.
const METADATA: &str = "-meta-";

/// A second resource of a request.
#[derive(Debug, Clone)]
pub struct Second {
    field: Cow<'static, str>,
    method: Cow<'static, str>,
    /// `None` where the field's value can't be read.
    place: Option<Place>,
}

#[derive(Debug, Clone)]
struct Place {
    at: At,
    path: CanonicalPath,
    query: Query,
}

/// The server of a second resource.
#[derive(Debug, Clone)]
enum At {
    /// The request's own server.
    Here,
    /// This server.
    There(Destination),
    /// This host, at the request's own port.
    Named(Host),
    /// The request's own server where buckets are in paths. Where buckets have hosts, the host of this
    /// bucket, with this path.
    Bucket(String, CanonicalPath),
}

/// All second resources that a request's head names; `own` is the path of the request itself.
#[must_use]
pub fn named_in(headers: &HeaderMap, method: &str, own: &CanonicalPath) -> Box<[Second]> {
    let mut named = Vec::new();
    for (name, value) in headers {
        let Some((field, done, form)) = meant_by(name.as_str()) else { continue };
        let method = match done {
            Done::Likewise => method.to_owned().into(),
            Done::Read => "GET".into(),
        };
        named.push(Second { field, method, place: Place::read(value, form, own.as_str()) });
    }
    named.into()
}

/// Whether a field of this name names a second resource.
#[must_use]
pub fn is_named_by(name: &str) -> bool {
    meant_by(name).is_some()
}

/// Reads a field's name as lenient servers do. Returns the field in its canonical spelling, what the server
/// does to the resource, and how it is named.
fn meant_by(name: &str) -> Option<(Cow<'static, str>, Done, Form)> {
    if let Some((field, done, form)) = FIELDS.iter().find(|(field, ..)| is_spelled(field, name)) {
        return Some((Cow::Borrowed(*field), *done, *form));
    }
    let ends = |end: &&str| {
        let tail = name.len().checked_sub(end.len()).and_then(|from| name.get(from..));
        tail.is_some_and(|tail| is_spelled(end, tail))
    };
    if !ENDS.iter().any(ends) {
        return None;
    }
    let field: String = name.bytes().map(|byte| char::from(dashed(byte))).collect();
    (!field.contains(METADATA)).then_some((Cow::Owned(field), Done::Likewise, Form::Unnamed))
}

/// Whether some server takes a field's name (in lower case, as the `http` crate keeps it) for `own`: servers
/// of the CGI kind (PHP, lighttpd) take every character that is neither letter nor digit for `-`.
#[must_use]
pub fn is_spelled(own: &str, name: &str) -> bool {
    own.len() == name.len() && own.bytes().eq(name.bytes().map(dashed))
}

fn dashed(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte } else { b'-' }
}

impl Place {
    fn read(value: &HeaderValue, form: Form, own: &str) -> Option<Self> {
        let text = value.to_str().ok()?;
        if text.contains("://") {
            let uri = Uri::try_from(text).ok().filter(|_| !text.contains('#'))?;
            let port = match uri.scheme_str()? {
                "http" => 80,
                "https" => 443,
                _ => return None,
            };
            let at = Destination::of_authority(uri.authority()?.as_str(), Some(port)).ok()?;
            return Self::of(At::There(at), uri.path_and_query()?);
        }
        // `//host` and `arn:` name resources elsewhere, and an empty text names none. A fragment would be cut
        // off here, and perhaps nowhere else.
        if text.starts_with("//") || text.starts_with("arn:") || text.is_empty() || text.contains('#') {
            return None;
        }
        let path = text.strip_prefix('/').unwrap_or(text);
        let target = |path: &str| PathAndQuery::from_str(&format!("/{path}")).ok();
        match form {
            Form::Path => match account(own) {
                // Swift's COPY.
                Some(account) if account.contains("/AUTH_") => {
                    Self::of(At::Here, &target(&format!("{account}{path}"))?)
                }
                _ => Self::of(At::Here, &target(path)?),
            },
            Form::Container => {
                Self::of(At::Here, &target(&format!("{}{path}", account(own).unwrap_or_default()))?)
            }
            Form::Bucket => {
                let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
                let key = canonical(target(key)?.path())?;
                Self::of(At::Bucket(bucket.to_owned(), key), &target(path)?).filter(Self::is_one_object)
            }
            Form::Hosted => {
                let (host, key) = path.split_once('/')?;
                Self::of(At::Named(Host::parse(host).ok()?), &target(key)?).filter(Self::is_one_object)
            }
            Form::Unnamed => None,
        }
    }

    fn of(at: At, target: &PathAndQuery) -> Option<Self> {
        Some(Self { at, path: canonical(target.path())?, query: Query::parse(target.query()).ok()? })
    }

    /// Whether the query is empty or names a version only: stores take any other `?` for a part of the
    /// object's name.
    fn is_one_object(&self) -> bool {
        self.query.as_str().is_none_or(|query| query.starts_with("versionId=") && !query.contains(['&', '/']))
    }

    /// The destination and path of the resource, for a request to `here`. `None` where the bucket's host
    /// isn't a valid name.
    fn found<'a>(&'a self, here: &'a Destination) -> Option<(Cow<'a, Destination>, &'a CanonicalPath)> {
        let at_port = |host: &Host| Cow::Owned(Destination { host: host.clone(), port: here.port });
        Some(match &self.at {
            At::Here => (Cow::Borrowed(here), &self.path),
            At::There(there) => (Cow::Borrowed(there), &self.path),
            At::Named(host) => (at_port(host), &self.path),
            At::Bucket(bucket, key) => match store(here) {
                None => (Cow::Borrowed(here), &self.path),
                Some(store) => (at_port(&Host::parse(&format!("{bucket}.{store}")).ok()?), key),
            },
        })
    }
}

/// Reads a path, if every server reads it alike; the field is sent as it came, so the path can't be
/// rewritten. Refused are encoded slashes, which a server may undo, and everything that canonical paths drop
/// or resolve, which stores take for a part of the name.
fn canonical(path: &str) -> Option<CanonicalPath> {
    let segments = || path.strip_prefix('/').unwrap_or(path).split('/');
    let is_dots = |segment: &str| matches!(&*segment.replace("%2e", ".").replace("%2E", "."), "." | "..");
    let empty = segments().rev().skip(1).any(str::is_empty);
    if empty || path.contains(';') || segments().any(is_dots) {
        return None;
    }
    CanonicalPath::parse(path, PathOptions { allow_encoded_slash: false }).ok()
}

/// The prefix `v1/ACCOUNT/` of a path, if it is one of Swift's.
fn account(own: &str) -> Option<&str> {
    let rest = own.strip_prefix("/v1/").or_else(|| own.strip_prefix("/v1.0/"))?;
    let end = own.len() - rest.len() + rest.find('/')? + 1;
    own.get(1..end)
}

/// The store's own host name, where `here` is the host of a bucket in a store that gives buckets hosts.
fn store(here: &Destination) -> Option<&str> {
    /// Stores whose host name is the region followed by one of these.
    const BEHIND_REGIONS: [&str; 2] = [".digitaloceanspaces.com", ".linodeobjects.com"];
    let name = here.host.name()?.as_str();
    let starts = || std::iter::once(0).chain(name.match_indices('.').map(|(dot, _)| dot + 1));
    let is_store = |start: &usize| {
        let rest = name.get(*start..).unwrap_or_default();
        let label = rest.split('.').next().unwrap_or_default();
        let region = BEHIND_REGIONS
            .iter()
            .any(|behind| label.len() + behind.len() == rest.len() && rest.ends_with(behind));
        let is_known = matches!(label, "s3" | "oss" | "obs") || rest == "storage.googleapis.com";
        region
            || is_known
            || ["s3-", "s3express-", "oss-", "tos-"].iter().any(|begins| label.starts_with(begins))
    };
    starts().rfind(is_store).filter(|start| *start > 0).and_then(|start| name.get(start..))
}

impl Second {
    /// The field, as policies and records call it.
    pub(crate) fn field(&self) -> &str {
        &self.field
    }

    /// Where it is and under which path, for a request that goes `here`. None where it can't be read.
    #[must_use]
    pub fn place<'a>(&'a self, here: &'a Destination) -> Option<(Cow<'a, Destination>, &'a CanonicalPath)> {
        self.place.as_ref()?.found(here)
    }

    /// What it comes to as a request of its own, for one that goes `here`. None where it can't be read.
    pub(crate) fn asks<'a>(
        &'a self,
        here: &'a Destination,
    ) -> Option<(Cow<'a, Destination>, RequestFacts<'a>)> {
        let place = self.place.as_ref()?;
        let (to, path) = place.found(here)?;
        let content = Content::Unread;
        Some((
            to,
            RequestFacts { method: &self.method, path, query: &place.query, websocket: false, content },
        ))
    }

    /// Judges whether `caller` may access the resource itself. With `enforcement: audit`, returns the denial
    /// that is only recorded.
    pub(crate) fn judge(
        &self,
        compiled: &Compiled,
        here: &Destination,
        caller: &Caller,
    ) -> Result<Option<Box<Denial>>, Denial> {
        let Some((to, facts)) = self.asks(here) else {
            return Err(Denial {
                layer: Layer::L7,
                detail: format!("the field `{}` names something that can't be judged", self.field),
                policy: None,
                hint: Some("a path, or a URL, in its plainest form and without encoded slashes".to_owned()),
            });
        };
        let to = &*to;
        let judged = match to == here {
            true => compiled.request(to, caller, &facts),
            false => compiled.connect(to, caller).and_then(|_| compiled.request(to, caller, &facts)),
        };
        match judged {
            Ok(allowed) => Ok(allowed.audit_only),
            Err(denial) => {
                let detail = format!("the field `{}` names a second resource: {}", self.field, denial.detail);
                Err(Denial { detail, ..denial })
            }
        }
    }
}

#[cfg(test)]
mod tests;
