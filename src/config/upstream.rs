//! `client_certs` and `upstream_proxy`: what the operator decides about the way to upstream servers.
//!
//! Each value is checked by the method that returns it. Credentials are references here; the command resolves
//! them, and the keys never appear here.

use std::path::PathBuf;

use policy::{Destination, Host};
use proxy::route::{Exempt, Resolve};
use redactor::Reference;
use serde::{Deserialize, Serialize};

/// A client certificate that is presented to one upstream server, and to no other.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCert {
    /// The server's name or address, exactly.
    pub host: String,
    /// Its port.
    #[serde(default = "https")]
    pub port: u16,
    /// A PEM file, relative to this file, with the certificate and the intermediate certificates up to its
    /// root.
    pub cert: PathBuf,
    /// Reference to its private key, PEM: `file:` or `systemd:`.
    pub key: String,
}

fn https() -> u16 {
    443
}

impl ClientCert {
    /// Returns the server that the certificate is presented to.
    pub fn destination(&self) -> Result<Destination, String> {
        let host = Host::parse(&self.host).map_err(|e| {
            format!("client_certs: host '{}': {e}: name one host, without wildcard", self.host)
        })?;
        match self.port {
            0 => Err(format!("client_certs: {host}: port 0 is not valid")),
            port => Ok(Destination { host, port }),
        }
    }

    /// Returns the reference to its private key.
    pub fn key(&self) -> Result<Reference, String> {
        match Reference::parse(&self.key) {
            Ok(Reference::Env(_)) => Err(format!(
                "client_certs: {}: `key` is a file:/absolute/path (mode 0600 or stricter) or systemd:NAME: an \
                 environment is no place for a private key",
                self.host
            )),
            Ok(reference) => Ok(reference),
            Err(why) => Err(format!("client_certs: {}: `key`: {why}", self.host)),
        }
    }
}

/// The proxy through which everything goes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamProxy {
    /// `http://HOST:PORT`.
    pub url: String,
    /// Reference to its `user:password`.
    #[serde(default)]
    pub credential: Option<String>,
    /// What is reached without it: names, `.suffix`, addresses, networks.
    #[serde(default)]
    pub no_proxy: Vec<String>,
    /// Which side resolves names.
    #[serde(default)]
    pub resolve: Resolve,
}

impl UpstreamProxy {
    /// Its host and port.
    pub fn address(&self) -> Result<(Host, u16), String> {
        // The URL is never repeated in an error: it may hold a password.
        let wrong = |why: &str| {
            Err(format!(
                "upstream_proxy: `url` {why}: write http://HOST:PORT, such as http://proxy.corp:3128"
            ))
        };
        let Some(rest) = self.url.strip_prefix("http://") else {
            return wrong(
                "does not begin with http:// (a proxy that is itself reached by TLS is not supported)",
            );
        };
        if rest.contains('@') {
            return wrong("holds a user: name `user:password` by reference in `credential`");
        }
        let Some((host, port)) = rest.trim_end_matches('/').rsplit_once(':') else {
            return wrong("has no port");
        };
        match (Host::parse(host), port.parse::<u16>()) {
            (Ok(host), Ok(port @ 1..)) => Ok((host, port)),
            _ => wrong("is not HOST:PORT"),
        }
    }

    /// Returns the reference to its credential.
    pub fn credential(&self) -> Result<Option<Reference>, String> {
        let parse = |text: &String| Reference::parse(text);
        self.credential
            .as_ref()
            .map(parse)
            .transpose()
            .map_err(|why| format!("upstream_proxy: `credential`: {why}"))
    }

    /// What is reached without it.
    pub fn exempt(&self) -> Result<Vec<Exempt>, String> {
        let all: Result<_, _> = self.no_proxy.iter().map(|entry| Exempt::parse(entry)).collect();
        all.map_err(|why| format!("upstream_proxy: no_proxy: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(url: &str) -> UpstreamProxy {
        UpstreamProxy { url: url.into(), credential: None, no_proxy: Vec::new(), resolve: Resolve::default() }
    }

    #[test]
    fn a_proxy_is_a_host_and_a_port_and_errors_repeat_no_secret() {
        let at = |url: &str| proxy(url).address().map(|(host, port)| format!("{host} {port}"));
        assert_eq!(at("http://proxy.corp:3128").unwrap(), "proxy.corp 3128");
        assert_eq!(at("http://10.0.0.1:8080/").unwrap(), "10.0.0.1 8080");
        for wrong in [
            "https://a:1",
            "http://a",
            "http://u:hunter2@a:1",
            "socks5://a:1",
            "a:1",
            "http://a:0",
            "http://:1",
        ] {
            let why = at(wrong).unwrap_err();
            assert!(why.contains("http://HOST:PORT") && !why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn a_key_is_no_environments_and_a_host_is_one() {
        let cert = |host: &str, key: &str| ClientCert {
            host: host.into(),
            port: 443,
            cert: "client.pem".into(),
            key: key.into(),
        };
        assert!(cert("a.test", "file:/etc/key.pem").key().is_ok());
        assert!(cert("a.test", "env:KEY").key().unwrap_err().contains("file:"));
        assert!(cert("a.test", "-----BEGIN").key().is_err());
        assert!(cert("*.test", "systemd:k").destination().is_err());
        assert_eq!(cert("A.test", "systemd:k").destination().unwrap().to_string(), "a.test:443");
    }
}
