//! A step of the road: what a well-formed head asks for, in canonical form.
//!
//! An [`Intent`] is made here and nowhere else, from a request and the [`Scope`] it arrived in. All the names
//! that a request carries (CONNECT target, absolute form, `Host`, `:authority`, the tunnel it travels in)
//! must agree after canonicalisation; the intent has just one. Nothing is looked up and nothing is judged
//! here.

use http::{Method, Version, header, request::Parts};
use hyper::ext::Protocol;
use policy::second::{self, Second};
use policy::{
    Allowed, AuthorityError, Caller, CanonicalPath, Compiled, Denial, Destination, DomainName, Host,
    PathOptions, Query, Treatment, WEBSOCKET_TEXT, split_authority,
};

use crate::answer::Refusal;
use crate::hop;
use crate::limits::MAX_HEADERS;
use crate::strict::Violation;
use crate::strict::head::decimal;

/// The name that leads to the gateway, on any listener, and never out.
pub const INFERENCE_HOST: &str = crate::guard::INFERENCE_NAME;

/// The kind of connection that a request was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The explicit proxy's listener: CONNECT and absolute form.
    Explicit,
    /// A captured connection to an address that stands for no name: the `Host` of each request names its
    /// destination.
    Claimed {
        /// The port that was connected to.
        port: u16,
    },
    /// Inside a tunnel, or on a listener for one destination: every request goes there.
    Fixed {
        /// The one destination.
        destination: Destination,
        /// Whether the requests came by TLS that ended here.
        tls: bool,
    },
}

impl Scope {
    /// The destination of all requests that are read here, whatever they name, if there is only one.
    pub(crate) fn leads_to(&self) -> Option<&Destination> {
        match self {
            Self::Fixed { destination, .. } => Some(destination),
            Self::Explicit | Self::Claimed { .. } => None,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Intent {
    destination: Destination,
    ask: Ask,
}

/// The two things that can be asked of a proxy.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every one is the large one, and a box is an allocation each"
)]
#[derive(Debug, Clone)]
pub enum Ask {
    /// A tunnel.
    Tunnel,
    /// An answer to one request.
    Exchange(Exchange),
}

/// One request, canonical.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The method token as sent.
    pub method: Method,
    /// The path that is judged and sent. It may contain `%2F`: code that judges it must check
    /// [`CanonicalPath::has_encoded_slash`].
    pub path: CanonicalPath,
    /// The query that is judged and sent.
    pub query: Query,
    /// A WebSocket handshake: RFC 6455's over HTTP/1, RFC 8441's over HTTP/2. Both are a GET to the policy
    /// and to upstream.
    pub websocket: bool,
    /// Whether it is sent on over TLS.
    pub tls: bool,
    /// Its body, if that was read to be judged.
    pub judged: Option<crate::protocol::JudgedBody>,
    /// What its headers ask for besides its method and path.
    pub seconds: Box<[Second]>,
}

impl Exchange {
    /// Whether it asks for more than its method and path say: another method by its query, or another
    /// resource by its head.
    pub(crate) fn asks_for_more(&self) -> bool {
        !self.seconds.is_empty() || policy::names_another_method(&self.query, self.method.as_str())
    }

    /// Calls `judge` with what the policy judges of it, under this method.
    fn facts<T>(&self, method: &Method, judge: impl FnOnce(&policy::RequestFacts<'_>) -> T) -> T {
        let with = |content: policy::Content<'_>| {
            judge(&policy::RequestFacts {
                method: method.as_str(),
                path: &self.path,
                query: &self.query,
                websocket: self.websocket,
                content,
            })
        };
        match &self.judged {
            Some(judged) => judged.with(with),
            None => with(policy::Content::Unread),
        }
    }

    /// Asks the policy whether all that it asks for may be done at `to`. Where no endpoint inspects, the
    /// policy lets every request through, whatever else it names: only the destination was to be judged.
    ///
    /// # Errors
    /// The policy's denial.
    pub(crate) fn judge(
        &self,
        compiled: &Compiled,
        (to, treatment): (&Destination, Treatment),
        caller: &Caller,
    ) -> Result<Allowed, Denial> {
        self.facts(&self.method, |facts| {
            compiled.request_as_sent((to, treatment), caller, facts, &self.seconds)
        })
    }
}

impl Intent {
    /// Reads the intent of `parts`.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] for every form whose names disagree, or that has no meaning in `scope`.
    pub fn of(scope: &Scope, parts: &Parts) -> Result<Self, Refusal> {
        one_host_header(parts)?;
        let tunnel = parts.method == Method::CONNECT && !extended(parts)?;
        match scope {
            Scope::Explicit if tunnel => {
                let destination = target(parts, None)?;
                agrees(parts, &destination, false)?;
                Ok(Self { destination, ask: Ask::Tunnel })
            }
            Scope::Explicit => {
                match parts.uri.scheme_str() {
                    Some("http") => {}
                    Some(_) => {
                        return bad("https goes through CONNECT, not through an absolute-form request");
                    }
                    None => {
                        return bad("this is a proxy: send CONNECT HOST:PORT, or an absolute http:// target");
                    }
                }
                let destination = target(parts, Some(80))?;
                agrees(parts, &destination, false)?;
                Ok(Self { ask: Ask::Exchange(exchange(parts, false)?), destination })
            }
            Scope::Claimed { .. } | Scope::Fixed { .. } if tunnel => {
                bad("CONNECT inside a tunnel goes nowhere")
            }
            Scope::Claimed { port } => {
                let destination = claimed(parts, *port)?;
                agrees(parts, &destination, false)?;
                Ok(Self { ask: Ask::Exchange(exchange(parts, false)?), destination })
            }
            Scope::Fixed { destination, tls } => {
                agrees(parts, destination, *tls)?;
                Ok(Self { destination: destination.clone(), ask: Ask::Exchange(exchange(parts, *tls)?) })
            }
        }
    }

    /// The destination of a request that has no valid intent, if it can be read. For the answer and the
    /// record only.
    pub(crate) fn place(scope: &Scope, parts: &Parts) -> Option<Destination> {
        match scope {
            Scope::Fixed { destination, .. } => Some(destination.clone()),
            Scope::Claimed { port } => claimed(parts, *port).ok(),
            Scope::Explicit => {
                let default_port = match parts.uri.scheme_str() {
                    Some("http") => Some(80),
                    Some("https") => Some(443),
                    _ => None,
                };
                target(parts, default_port).ok()
            }
        }
    }

    /// The intent of a captured connection: a tunnel to the destination that its address stands for.
    pub(crate) fn captured(destination: Destination) -> Self {
        Self { destination, ask: Ask::Tunnel }
    }

    /// The destination.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// What is asked for.
    pub fn ask(&self) -> &Ask {
        &self.ask
    }

    /// Whether the gateway answers it: such a request is never dialled out.
    pub fn is_inference(&self) -> bool {
        is_inference(&self.destination)
    }
}

/// Whether `destination` is the gateway's.
pub fn is_inference(destination: &Destination) -> bool {
    destination.host.name().is_some_and(|name| name.as_str() == INFERENCE_HOST)
}

/// The gateway's destination at `port`.
pub fn inference(port: u16) -> Option<Destination> {
    Some(Destination { host: Host::Name(DomainName::parse(INFERENCE_HOST).ok()?), port })
}

fn bad<T>(why: &str) -> Result<T, Refusal> {
    Err(Refusal::BadRequest(why.to_owned()))
}

impl From<AuthorityError> for Refusal {
    fn from(error: AuthorityError) -> Self {
        Self::BadRequest(error.to_string())
    }
}

/// The destination of an absolute target.
fn target(parts: &Parts, default_port: Option<u16>) -> Result<Destination, Refusal> {
    let text = parts.uri.authority().ok_or(AuthorityError::NotPlain)?;
    Ok(Destination::of_authority(text.as_str(), default_port)?)
}

/// The destination that `Host` (HTTP/2's `:authority`) claims, at the port that was connected to.
fn claimed(parts: &Parts, port: u16) -> Result<Destination, Refusal> {
    let host = || parts.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let text = match parts.version {
        Version::HTTP_2 => parts.uri.authority().map(|authority| authority.as_str()).or_else(host),
        _ => host(),
    };
    let Some(text) = text else { return bad("the request names no host") };
    let (host, _agrees_below) = split_authority(text)?;
    Ok(Destination { host, port })
}

/// Checks what is judged for HTTP/1 before it gets here: HTTP/2 has its own ways to bring two names or a
/// stray field.
fn one_host_header(parts: &Parts) -> Result<(), Refusal> {
    if parts.headers.len() > MAX_HEADERS {
        return Err(Violation::TooLarge.into());
    }
    if parts.headers.get_all(header::HOST).iter().count() > 1 {
        return bad("Host stands twice");
    }
    if parts.headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return bad("Content-Length stands twice");
    }
    // It is sent on as it came, to HTTP/1 servers, too: some refuse `0005` or read it as octal.
    let length = parts.headers.get(header::CONTENT_LENGTH);
    if length.is_some_and(|length| decimal(length.as_bytes()).is_none()) {
        return Err(Violation::ContentLength.into());
    }
    if parts.version != Version::HTTP_2 {
        return Ok(());
    }
    let forbidden = [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];
    if forbidden.iter().any(|name| parts.headers.contains_key(name)) {
        return bad("HTTP/2 has no connection fields (RFC 9113 section 8.2.2)");
    }
    match parts.headers.get(header::TE) {
        Some(te) if te != "trailers" => bad("HTTP/2 knows `te: trailers` only"),
        _ => Ok(()),
    }
}

/// Checks that the names in the request are those of the tunnel. A missing port means the tunnel's: the
/// request can't go elsewhere.
fn agrees(parts: &Parts, destination: &Destination, tls: bool) -> Result<(), Refusal> {
    let host_header = match parts.headers.get(header::HOST) {
        Some(value) => match value.to_str() {
            Ok(text) => Some(text),
            Err(_) => return bad("Host is not text"),
        },
        None => None,
    };
    let target = parts.uri.authority().map(|authority| authority.as_str());
    if host_header.is_none() && target.is_none() && parts.version != Version::HTTP_10 {
        return bad("the request names no host");
    }
    for name in [host_header, target].into_iter().flatten() {
        let (host, port) = split_authority(name)?;
        if host != destination.host || port.is_some_and(|port| port != destination.port) {
            return bad("the request names another host than the connection it came by");
        }
    }
    match parts.uri.scheme_str() {
        Some(scheme) if (scheme == "https") != tls => bad("the scheme is not that of the connection"),
        _ => Ok(()),
    }
}

fn exchange(parts: &Parts, tls: bool) -> Result<Exchange, Refusal> {
    let raw = parts.uri.path();
    if parts.method == Method::OPTIONS && raw == "*" {
        return bad("`OPTIONS *` asks about the proxy itself, which answers nothing");
    }
    let path = CanonicalPath::parse(raw, PathOptions { allow_encoded_slash: true })
        .map_err(|error| Refusal::BadRequest(error.to_string()))?;
    let query = Query::parse(parts.uri.query()).map_err(|error| Refusal::BadRequest(error.to_string()))?;
    let websocket = websocket(parts)?;
    let method = if websocket { Method::GET } else { parts.method.clone() };
    if method.as_str() == WEBSOCKET_TEXT {
        // Rules name WebSocket messages by this method; a request with it would be taken for one.
        return Err(Refusal::BadRequest(format!("{WEBSOCKET_TEXT} is no method of a request")));
    }
    let seconds = second::named_in(&parts.headers, method.as_str(), &path);
    Ok(Exchange { method, path, query, websocket, tls, judged: None, seconds })
}

/// Whether a request is HTTP/2's CONNECT for a protocol (RFC 8441 section 4): it has a path, so it is no
/// tunnel. WebSocket is the only protocol supported.
fn extended(parts: &Parts) -> Result<bool, Refusal> {
    match parts.extensions.get::<Protocol>() {
        None => Ok(false),
        Some(protocol) if protocol.as_str() == "websocket" && parts.method == Method::CONNECT => Ok(true),
        Some(_) => bad("the only `:protocol` that is spoken is websocket, in a CONNECT"),
    }
}

/// Whether a request is a WebSocket handshake, which must be complete; any other upgrade is an ordinary
/// request whose fields are stripped.
fn websocket(parts: &Parts) -> Result<bool, Refusal> {
    let thirteen = parts.headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    if extended(parts)? {
        return if thirteen { Ok(true) } else { bad("the WebSocket handshake is not that of RFC 8441") };
    }
    let upgrade = hop::names(&parts.headers, header::UPGRADE, "websocket");
    if !upgrade || parts.version != Version::HTTP_11 {
        return Ok(false);
    }
    let whole = parts.method == Method::GET
        && hop::names(&parts.headers, header::CONNECTION, "upgrade")
        && thirteen
        && parts.headers.get_all(header::SEC_WEBSOCKET_KEY).iter().count() == 1;
    match whole {
        true => Ok(true),
        false => bad("the WebSocket handshake is not that of RFC 6455"),
    }
}

#[cfg(test)]
mod tests;
