//! Where a provider answers, and how a request's path is joined to it.
//!
//! Parsing is strict: `http` or `https`, a host, perhaps a port and a path, and nothing else. This module
//! never resolves a name: whether the host may be dialled is decided by the implementation of
//! [`crate::Dial`].

use std::net::IpAddr;
use std::sync::Arc;

/// A parsed `base_url`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    /// Whether it is `https`.
    pub tls: bool,
    /// Name or address, lower-case, without brackets.
    pub host: Arc<str>,
    /// The port as given, or 443 for `https` and 80 for `http`.
    pub port: u16,
    /// Empty, or beginning with a slash and not ending with one.
    pub path: Box<str>,
}

/// What is wrong with a `base_url`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Not http or https.
    #[error("must begin with https:// or http://")]
    Scheme,
    /// User information.
    #[error("must not hold a user or a password: use `credential`")]
    UserInfo,
    /// Query or fragment.
    #[error("must not hold `?` or `#`")]
    Query,
    /// There is no host, or it isn't in a plain form.
    #[error("has no usable host: a name in ASCII, an IPv4 address, or an IPv6 address in brackets")]
    Host,
    /// Not a port.
    #[error("the port must lie between 1 and 65535")]
    Port,
    /// A path that another parser would read differently.
    #[error("the path may hold letters, digits, `-._~` and single slashes, and no dot segments")]
    Path,
}

impl BaseUrl {
    /// Parses strictly.
    ///
    /// # Errors
    /// The first thing that is wrong. The error doesn't hold the URL, as that may hold a password.
    pub fn parse(text: &str) -> Result<Self, BadUrl> {
        let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(BadUrl::Scheme),
        };
        if rest.contains(['?', '#']) {
            return Err(BadUrl::Query);
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(BadUrl::UserInfo);
        }
        let (host, port) = split_port(authority)?;
        let port = match port {
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|p| *p != 0).ok_or(BadUrl::Port)?
            }
            Some(_) => return Err(BadUrl::Port),
        };
        let path = path.strip_suffix('/').unwrap_or(path);
        let tame = |c: u8| c.is_ascii_alphanumeric() || b"-._~/".contains(&c);
        if !path.bytes().all(tame)
            || path.contains("//")
            || path.ends_with('/')
            || path.split('/').any(|s| s == "." || s == "..")
        {
            return Err(BadUrl::Path);
        }
        Ok(Self { tls, host: host.to_ascii_lowercase().into(), port, path: path.into() })
    }

    /// The path upstream for a request path that begins with `/v1`.
    ///
    /// Joins as the providers' own client libraries do: an OpenAI base names the version (`…/v1`,
    /// `…/api/paas/v4`) and the rest is appended to it; an Anthropic base does not
    /// (`https://api.anthropic.com`). A base without a path, and one that ends with `/v1`, mean the same for
    /// both.
    pub fn join(&self, request_path: &str, base_names_version: bool) -> String {
        let below = request_path.strip_prefix("/v1").filter(|rest| rest.starts_with('/'));
        match below {
            Some(rest) if self.path.ends_with("/v1") || (base_names_version && !self.path.is_empty()) => {
                format!("{}{rest}", self.path)
            }
            _ => format!("{}{request_path}", self.path),
        }
    }

    /// Whether the host, as written, is this machine.
    pub fn is_loopback(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        &*self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// The value for `Host` or `:authority`, without a default port.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), BadUrl> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(BadUrl::Host)?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| BadUrl::Host)?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(BadUrl::Host),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    if is_name(host) { Ok((host, port)) } else { Err(BadUrl::Host) }
}

/// A DNS name or a plain dotted IPv4 address; a name whose last label is a number is refused, since resolvers
/// disagree on what it means.
fn is_name(host: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let numeric = |l: &str| {
        l.bytes().all(|b| b.is_ascii_digit()) || l.get(..2).is_some_and(|p| p.eq_ignore_ascii_case("0x"))
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253
        && host.split('.').all(label)
        && (!numeric(last) || host.parse::<std::net::Ipv4Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_as_the_client_libraries_do() {
        for (base, names_version, joined) in [
            ("https://api.openai.com/v1", true, "/v1/chat/completions"),
            ("https://api.openai.com/v1/", true, "/v1/chat/completions"),
            ("http://127.0.0.1:8000", true, "/v1/chat/completions"),
            ("https://x.example/api/paas/v4", true, "/api/paas/v4/chat/completions"),
            ("https://x.example/openai/v1", true, "/openai/v1/chat/completions"),
        ] {
            assert_eq!(
                BaseUrl::parse(base).unwrap().join("/v1/chat/completions", names_version),
                joined,
                "{base}"
            );
        }
        for (base, joined) in [
            ("https://api.anthropic.com", "/v1/messages"),
            ("https://api.anthropic.com/v1", "/v1/messages"),
            ("https://x.example/anthropic", "/anthropic/v1/messages"),
        ] {
            assert_eq!(BaseUrl::parse(base).unwrap().join("/v1/messages", false), joined, "{base}");
        }
    }

    #[test]
    fn authorities() {
        for (base, authority) in [
            ("https://A.Example/v1", "a.example"),
            ("http://127.0.0.1:8000/v1", "127.0.0.1:8000"),
            ("https://[2001:db8::1]:8443", "[2001:db8::1]:8443"),
            ("http://[::1]", "[::1]"),
        ] {
            assert_eq!(BaseUrl::parse(base).unwrap().authority(), authority);
        }
    }

    #[test]
    fn odd_spellings_are_refused() {
        for (base, fault) in [
            ("ftp://x", BadUrl::Scheme),
            ("api.openai.com/v1", BadUrl::Scheme),
            ("https://u:p@x/v1", BadUrl::UserInfo),
            ("https://x/v1?k=1", BadUrl::Query),
            ("https://", BadUrl::Host),
            ("https://x y/", BadUrl::Host),
            ("https://0x7f.1/", BadUrl::Host),
            ("https://127.1/", BadUrl::Host),
            ("https://2130706433/", BadUrl::Host),
            ("https://x./", BadUrl::Host),
            ("https://b\u{fc}cher.example/", BadUrl::Host),
            ("https://[fe80::1%25eth0]/", BadUrl::Host),
            ("https://x:0/", BadUrl::Port),
            ("https://x:99999/", BadUrl::Port),
            ("https://x:+80/", BadUrl::Port),
            ("https://x/a/../b", BadUrl::Path),
            ("https://x//v1", BadUrl::Path),
            ("https://x/%2e", BadUrl::Path),
        ] {
            assert_eq!(BaseUrl::parse(base), Err(fault), "{base}");
        }
    }
}
