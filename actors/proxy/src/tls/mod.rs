//! TLS on both sides: the sandbox's own authority and its leaves towards the agent, verified connections
//! towards upstream, and a look at a ClientHello before anything answers it.
//!
//! The provider is always named (`ring`), never looked up in the process: a second provider somewhere in the
//! dependency tree would otherwise make rustls panic. Nothing here decides who may talk to whom.

use std::sync::Arc;

use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;

mod authority;
mod client_cert;
mod hello;
mod leaf;
mod noting;
mod prefixed;
mod upstream;
mod verify;

pub use authority::{Authority, AuthorityError, CA_LIFETIME};
pub use client_cert::{ClientCertError, ClientCertificates};
pub use hello::{
    BadHello, Greeting, Hello, HelloError, MAX_HELLO_BYTES, Mismatch, Parsed, parse_hello, read_hello,
};
pub(crate) use hello::{Next, asks_again, first_hello_ends, next};
pub use leaf::{LEAF_LIFETIME, LEAF_RENEWAL, MAX_LEAVES};
pub(crate) use noting::{Fault, Noting};
pub use prefixed::Prefixed;
pub use upstream::{
    SESSIONS, UpstreamError, check_extra_roots, check_named_roots, http1_only, system_roots, upstream_config,
    upstream_config_with_roots,
};
pub(crate) use verify::explain;

/// The application protocols that a side may choose from (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/2 preferred, HTTP/1.1 otherwise.
    H2OrHttp1,
    /// HTTP/1.1 alone.
    Http1,
}

impl Alpn {
    /// As rustls wants them, in order of preference.
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::H2OrHttp1 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Self::Http1 => vec![b"http/1.1".to_vec()],
        }
    }
}

/// The one provider of this crate. AES-128 comes first: its SHA-256 is in the processor, where the SHA-384 of
/// AES-256 costs a tenth of a handshake.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}
