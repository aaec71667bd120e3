//! How a judged destination is reached: straight, or through the operator's own proxy (HTTP CONNECT).
//!
//! ```text
//! destination ─┬─ loopback of the host, or in `no_proxy` ─▶ Straight: the judged address is dialled
//!              └─ everything else ────────────────────────▶ Through: CONNECT host:port, never around it
//! ```
//! The proxy's own address is set by the operator and not judged by the guard. If the proxy fails, the error
//! names it; nothing is ever dialled around it. [`Resolve`] says who resolves names.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use policy::{AddressRule, Denial, Destination, DomainName, Host, Layer};
use redactor::Secret;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::answer::Refusal;
use crate::guard::{Connected, HOST_NAME, JudgedAddr, Lookup, MAX_ATTEMPTS, NEVER_OPENED, Reached};
use crate::limits::{DIAL_DEADLINE, MAX_PROXY_HEAD_BYTES};
use crate::trusted;

/// Who resolves names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolve {
    /// This machine: every address is judged, then the proxy is given the name.
    #[default]
    Local,
    /// This machine: every address is judged, and the proxy is given a judged one. Nothing is resolved twice.
    Pinned,
    /// The proxy alone, where this machine has no DNS for names outside: only names and literal addresses are
    /// judged.
    Proxy,
}

/// The operator's proxy.
pub struct UpstreamProxy {
    host: Host,
    port: u16,
    /// The whole header value.
    authorization: Option<Secret>,
    exempt: Vec<Exempt>,
    resolve: Resolve,
    lookup: Arc<dyn Lookup>,
}

impl fmt::Debug for UpstreamProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamProxy").field("at", &self.to_string()).finish_non_exhaustive()
    }
}

impl fmt::Display for UpstreamProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// One entry of `no_proxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exempt {
    /// This name alone.
    Name(DomainName),
    /// Every name below this one (written `.corp.example`), not the name itself.
    Below(DomainName),
    /// Addresses: a network, or one address.
    Net(IpNet),
}

impl Exempt {
    /// Reads `name`, `.suffix`, `10.0.0.0/8` or an address.
    ///
    /// # Errors
    /// Says what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("'{text}' is no host name, no `.suffix`, no address and no network such as 10.0.0.0/8")
        };
        if let Some(suffix) = text.strip_prefix('.') {
            return DomainName::parse(suffix).map(Self::Below).map_err(|_| wrong());
        }
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::Net(net.trunc()));
        }
        match Host::parse(text) {
            Ok(Host::Addr(addr)) => Ok(Self::Net(addr.into())),
            Ok(Host::Name(name)) => Ok(Self::Name(name)),
            Err(_) => Err(wrong()),
        }
    }

    fn covers_name(&self, name: &DomainName) -> bool {
        match self {
            Self::Name(exact) => exact == name,
            Self::Below(suffix) => {
                name.as_str().strip_suffix(suffix.as_str()).is_some_and(|front| front.ends_with('.'))
            }
            Self::Net(_) => false,
        }
    }

    fn covers(&self, addr: IpAddr) -> bool {
        matches!(self, Self::Net(net) if net.contains(&addr))
    }
}

impl UpstreamProxy {
    /// The proxy at `host` and `port`; `credential` is `user:password`.
    pub fn new(
        (host, port): (Host, u16),
        credential: Option<&Secret>,
        exempt: Vec<Exempt>,
        resolve: Resolve,
        lookup: Arc<dyn Lookup>,
    ) -> Self {
        let basic = |pair: &Secret| {
            let mut value = zeroize::Zeroizing::new(String::from("Basic "));
            STANDARD.encode_string(pair.expose(), &mut value);
            Secret::new(value.as_bytes())
        };
        Self { host, port, authorization: credential.map(basic), exempt, resolve, lookup }
    }

    /// Opens a tunnel to `to`.
    async fn tunnel(&self, to: &Destination) -> Result<TcpStream, Failure> {
        let mut stream = trusted::tcp(&*self.lookup, &self.host, self.port).await.map_err(Failure::Dead)?;
        let mut head =
            zeroize::Zeroizing::new(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").into_bytes());
        if let Some(authorization) = &self.authorization {
            head.extend_from_slice(b"Proxy-Authorization: ");
            head.extend_from_slice(authorization.expose());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        stream.write_all(&head).await.map_err(Failure::Dead)?;
        match status(&answer(&mut stream).await?) {
            Some(200..=299) => Ok(stream),
            Some(407) => Err(Failure::Credential { given: self.authorization.is_some() }),
            Some(code) => Err(Failure::Refused(code)),
            None => Err(Failure::NotHttp),
        }
    }
}

/// Reads the head of the proxy's answer. What follows belongs to the tunnel and stays in the socket.
async fn answer(stream: &mut TcpStream) -> Result<Vec<u8>, Failure> {
    const END: &[u8] = b"\r\n\r\n";
    let mut head = Vec::new();
    let mut ahead = [0; 1024];
    while head.len() < MAX_PROXY_HEAD_BYTES {
        let seen = stream.peek(&mut ahead).await.map_err(Failure::Dead)?;
        if seen == 0 {
            return Err(Failure::NotHttp);
        }
        let before = head.len();
        head.extend_from_slice(ahead.get(..seen).unwrap_or_default());
        // The end marker may begin in bytes that were taken earlier.
        let from = before.saturating_sub(END.len() - 1);
        let end = head.get(from..).and_then(|new| new.windows(END.len()).position(|w| w == END));
        let whole = end.map(|at| from + at + END.len());
        head.truncate(whole.unwrap_or(head.len()));
        let taken = head.len() - before;
        // Bytes that were peeked at can be read without waiting.
        stream.read_exact(ahead.get_mut(..taken).unwrap_or_default()).await.map_err(Failure::Dead)?;
        if whole.is_some() {
            return Ok(head);
        }
    }
    Err(Failure::NotHttp)
}

/// The code of `HTTP/1.x CODE …`.
fn status(head: &[u8]) -> Option<u16> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut fields);
    matches!(answer.parse(head), Ok(httparse::Status::Complete(_))).then_some(answer.code).flatten()
}

/// Why there is no tunnel. Holds no text of the proxy's: that may repeat what it was sent, the credential
/// too.
#[derive(Debug)]
enum Failure {
    Dead(std::io::Error),
    Credential { given: bool },
    Refused(u16),
    NotHttp,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dead(error) => write!(f, "can't be reached: {error}"),
            Self::Credential { given: true } => f.write_str("does not take its credential (407)"),
            Self::Credential { given: false } => f.write_str("demands a credential (407), and has none"),
            Self::Refused(code) => write!(f, "refused the connection ({code})"),
            Self::NotHttp => f.write_str("gave no answer to CONNECT in HTTP"),
        }
    }
}

/// Decides how each destination is reached. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Routes(Option<Arc<UpstreamProxy>>);

/// How one destination is reached.
#[derive(Debug, Clone)]
pub enum Route {
    /// By its own address.
    Straight,
    /// Through the operator's proxy.
    Through(Arc<UpstreamProxy>),
}

impl Routes {
    /// Routes everything through this proxy, except what it exempts.
    pub fn through(proxy: UpstreamProxy) -> Self {
        Self(Some(Arc::new(proxy)))
    }

    /// The route to a host before its name is resolved; for a literal address it is final.
    pub(crate) fn to(&self, host: &Host) -> Route {
        let Some(proxy) = &self.0 else { return Route::Straight };
        let straight = match host {
            Host::Addr(addr) => addr.is_loopback() || proxy.exempt.iter().any(|it| it.covers(*addr)),
            Host::Name(name) => {
                name.as_str() == HOST_NAME
                    || name.labels().next_back() == Some("localhost")
                    || proxy.exempt.iter().any(|it| it.covers_name(name))
            }
        };
        if straight { Route::Straight } else { Route::Through(Arc::clone(proxy)) }
    }
}

impl Route {
    /// Whether this machine resolves names on this route.
    pub(crate) fn resolves_here(&self) -> bool {
        !matches!(self, Self::Through(proxy) if proxy.resolve == Resolve::Proxy)
    }

    /// The route once all addresses are known: straight if each of them is exempt.
    pub(crate) fn given(self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let Self::Through(proxy) = &self else { return self };
        let mut addresses = addresses.into_iter().peekable();
        let exempt = |addr: IpAddr| proxy.exempt.iter().any(|it| it.covers(addr));
        let all = addresses.peek().is_some() && addresses.all(exempt);
        if all { Self::Straight } else { self }
    }
}

/// Opens a tunnel to `to` through the proxy; `judged` are its addresses, where this machine knows them.
///
/// # Errors
/// The proxy is dead, slow or refuses; the error names it.
pub(crate) async fn through(
    proxy: &UpstreamProxy,
    to: &Destination,
    judged: &[JudgedAddr],
) -> Result<Connected, Refusal> {
    let opening = async {
        if proxy.resolve == Resolve::Pinned && !judged.is_empty() {
            return pinned(proxy, judged).await;
        }
        let reached = judged.first().map_or(Reached::Name, |judged| Reached::Address(*judged));
        Ok(Connected { stream: proxy.tunnel(to).await?, reached })
    };
    match timeout(DIAL_DEADLINE, opening).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(failure)) => Err(Refusal::Unreachable(format!("{to}: the upstream proxy {proxy} {failure}"))),
        Err(_) => Err(Refusal::Timeout(format!("{to}: the upstream proxy {proxy} did not answer in time"))),
    }
}

/// Tries one address after the other, IPv4 first: which families the proxy's own network has can't be known
/// here.
async fn pinned(proxy: &UpstreamProxy, judged: &[JudgedAddr]) -> Result<Connected, Failure> {
    let (v4, v6): (Vec<&JudgedAddr>, Vec<&JudgedAddr>) =
        judged.iter().partition(|judged| judged.addr().is_ipv4());
    let mut last = Failure::NotHttp;
    for judged in v4.into_iter().chain(v6).take(MAX_ATTEMPTS) {
        let to = Destination { host: Host::Addr(judged.addr().ip()), port: judged.addr().port() };
        match proxy.tunnel(&to).await {
            Ok(stream) => return Ok(Connected { stream, reached: Reached::Address(*judged) }),
            // These fail with any other address, too.
            Err(failure @ (Failure::Dead(_) | Failure::Credential { .. })) => return Err(failure),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// Suffixes of names that are internal to a network; none of them is a top-level domain of the root zone.
const INTERNAL: [&str; 9] =
    ["internal", "local", "lan", "home", "corp", "intranet", "private", "localdomain", "home.arpa"];
/// Names of services that hand out a machine's keys. No rule allows them.
const METADATA: [&str; 5] = [
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.tencentyun.com",
];

/// Judges a name whose addresses this machine won't see.
///
/// # Errors
/// A denial of the guard: the name is of a metadata service, or is internal and no entry names it exactly, or
/// the entry lists addresses, which can't be compared.
pub(crate) fn judge_unresolved(name: &DomainName, rule: &AddressRule) -> Result<(), Denial> {
    let denied = |detail: String, hint: Option<&str>| {
        Err(Denial { layer: Layer::Ssrf, detail, policy: None, hint: hint.map(str::to_owned) })
    };
    let text = name.as_str();
    let below = |suffix: &&str| text.strip_suffix(*suffix).is_some_and(|front| front.ends_with('.'));
    if METADATA.contains(&text) || METADATA.iter().any(below) {
        return denied(
            format!("`{name}` is a metadata service, which no rule can allow"),
            Some(NEVER_OPENED),
        );
    }
    if !rule.allowed_ips.is_empty() {
        return denied(
            format!(
                "the addresses of `{name}` are not known here (`resolve: proxy`), so `allowed_ips` can't be judged"
            ),
            Some("have this machine resolve names (`resolve: local`), or leave `allowed_ips` out"),
        );
    }
    if !rule.exact_host && (!text.contains('.') || INTERNAL.contains(&text) || INTERNAL.iter().any(below)) {
        return denied(
            format!("`{name}` is an internal name, and its addresses are not known here (`resolve: proxy`)"),
            Some("name the host exactly, without wildcard"),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
