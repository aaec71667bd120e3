//! Fields by which a request names a second resource, which its server then reads or writes for it.
//!
//! `MOVE /public/a` with `Destination: /private/b` writes to `/private`, and an object store's copy reads what its field says. Whoever sends
//! that must be allowed to do it without a server's help: such a resource is judged as a request of its own, with the method that would read or
//! write it. What can't be read as one is refused. Must never change what is sent.

use std::str::FromStr as _;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Uri};
use policy::{
    Caller, CanonicalPath, Compiled, Content, Denial, Destination, Layer, PathOptions, Query, RequestFacts,
};

use crate::intent::authority_of;
use crate::misleading::is_spelled;

/// What is done to the resource that a field names.
#[derive(Clone, Copy)]
enum Done {
    /// What the request does.
    Likewise,
    /// It is read.
    Read,
}

/// WebDAV's (RFC 4918 section 10.3), and those of object stores.
const FIELDS: [(&str, Done); 10] = [
    ("destination", Done::Likewise),
    ("x-amz-copy-source", Done::Read),
    ("x-amz-rename-source", Done::Likewise),
    ("x-copy-from", Done::Read),
    ("x-cos-copy-source", Done::Read),
    ("x-goog-copy-source", Done::Read),
    ("x-ms-copy-source", Done::Read),
    ("x-ms-rename-source", Done::Likewise),
    ("x-obs-copy-source", Done::Read),
    ("x-oss-copy-source", Done::Read),
];

/// A second resource of a request.
#[derive(Debug, Clone)]
pub struct Second {
    field: &'static str,
    method: Method,
    /// None where the field can't be read.
    place: Option<Place>,
}

#[derive(Debug, Clone)]
struct Place {
    /// None for the request's own.
    at: Option<Destination>,
    path: CanonicalPath,
    query: Query,
}

/// All that a head names.
pub(crate) fn named_in(headers: &HeaderMap, method: &Method) -> Box<[Second]> {
    let mut named = Vec::new();
    for (name, value) in headers {
        let Some((field, done)) = FIELDS.iter().find(|(field, _)| is_spelled(field, name.as_str())) else {
            continue;
        };
        let method = match done {
            Done::Likewise => method.clone(),
            Done::Read => Method::GET,
        };
        named.push(Second { field, method, place: Place::read(value) });
    }
    named.into()
}

impl Place {
    fn read(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?;
        let (at, target) = match text.contains("://") {
            true => {
                let uri = Uri::try_from(text).ok()?;
                let port = match uri.scheme_str()? {
                    "http" => 80,
                    "https" => 443,
                    _ => return None,
                };
                let at = authority_of(uri.authority()?.as_str(), port).ok()?;
                (Some(at), uri.path_and_query()?.clone())
            }
            // A name of another host's, or none of a resource at all.
            false if text.starts_with("//") || text.starts_with("arn:") || text.is_empty() => return None,
            false => {
                let slash = if text.starts_with('/') { "" } else { "/" };
                (None, PathAndQuery::from_str(&format!("{slash}{text}")).ok()?)
            }
        };
        // A server undoes these, and reads another path than a rule would.
        let path = CanonicalPath::parse(target.path(), PathOptions { allow_encoded_slash: false }).ok()?;
        Some(Self { at, path, query: Query::parse(target.query()).ok()? })
    }
}

impl Second {
    /// Whether `caller` may do that itself. Gives what it should have been refused for, where that is recorded alone.
    pub(crate) fn judge(
        &self,
        compiled: &Compiled,
        here: &Destination,
        caller: &Caller,
    ) -> Result<Option<Box<Denial>>, Denial> {
        let Some(place) = &self.place else {
            return Err(Denial {
                layer: Layer::L7,
                detail: format!("the field `{}` names something that can't be judged", self.field),
                policy: None,
                hint: Some("a path, or a URL, without encoded slashes".to_owned()),
            });
        };
        let to = place.at.as_ref().unwrap_or(here);
        let facts = RequestFacts {
            method: self.method.as_str(),
            path: &place.path,
            query: &place.query,
            websocket: false,
            content: Content::Unread,
        };
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
mod tests {
    use super::*;

    fn read(value: &str) -> Option<String> {
        let place = Place::read(&HeaderValue::from_str(value).unwrap())?;
        let at = place.at.map(|at| at.to_string()).unwrap_or_default();
        Some(format!(
            "{at}{}{}",
            place.path.as_str(),
            place.query.as_str().map(|q| format!("?{q}")).unwrap_or_default()
        ))
    }

    #[test]
    fn paths_and_urls_are_read_and_nothing_else() {
        for (value, wanted) in [
            ("/a/b", "/a/b"),
            ("bucket/key", "/bucket/key"),
            ("bucket/a%20b?versionId=1", "/bucket/a%20b?versionId=1"),
            ("/a/../b", "/b"),
            ("https://A.test/x", "a.test:443/x"),
            ("http://a.test:8080/x?y=1", "a.test:8080/x?y=1"),
        ] {
            assert_eq!(read(value).as_deref(), Some(wanted), "{value}");
        }
        for value in [
            "",
            "//a.test/x",
            "ftp://a.test/x",
            "https://u@a.test/x",
            "https://",
            "bucket%2Fkey",
            "/a/%2e%2e%2fb",
            "/../a",
            "arn:aws:s3:::a/b",
            "/a b",
        ] {
            assert_eq!(read(value), None, "{value}");
        }
    }

    #[test]
    fn every_field_in_every_spelling_with_its_method() {
        let mut headers = HeaderMap::new();
        for name in ["Destination", "X-Amz-Copy-Source", "x_ms_rename_source", "x-other"] {
            headers.insert(
                http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_static("/x"),
            );
        }
        headers.append("destination", HeaderValue::from_static("/y"));
        let mut named: Vec<_> = named_in(&headers, &Method::PUT)
            .into_iter()
            .map(|second| (second.field, second.method))
            .collect();
        named.sort_by_key(|(field, _)| *field);
        let put = Method::PUT;
        let wanted = [
            ("destination", put.clone()),
            ("destination", put.clone()),
            ("x-amz-copy-source", Method::GET),
            ("x-ms-rename-source", put),
        ];
        assert_eq!(named, wanted);
    }
}
