//! The world's certificate authority: one trusted root, one that nobody trusts, and the leaves of every host.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::names;

/// The name that is signed by the authority that nobody trusts.
const UNTRUSTED: &str = "untrusted.bed.test";

/// A root and the TLS configurations made under it.
#[derive(Debug)]
pub struct Authority {
    pem: String,
    both: Arc<ServerConfig>,
    h1: Arc<ServerConfig>,
    h2: Arc<ServerConfig>,
    untrusted: Arc<ServerConfig>,
}

impl Authority {
    /// Makes fresh keys: nothing of the world's trust is kept anywhere.
    pub fn new() -> Result<Self> {
        let (pem, trusted) = root("bed test root")?;
        let (_, stranger) = root("nobody trusts this root")?;
        let hosts: Vec<String> = names::HOSTS
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .filter(|name| name != UNTRUSTED)
            .collect();
        Ok(Self {
            pem,
            both: config(&trusted, &hosts, &[b"h2", b"http/1.1"])?,
            h1: config(&trusted, &hosts, &[b"http/1.1"])?,
            h2: config(&trusted, &hosts, &[b"h2"])?,
            untrusted: config(&stranger, &[UNTRUSTED.to_owned()], &[b"http/1.1"])?,
        })
    }

    /// The trusted root, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// What a host presents, by the name that the client asked for.
    pub fn for_host(&self, host: Option<&str>) -> Arc<ServerConfig> {
        Arc::clone(match host {
            Some("h1.bed.test") => &self.h1,
            Some("h2.bed.test") => &self.h2,
            Some(UNTRUSTED) => &self.untrusted,
            _ => &self.both,
        })
    }
}

fn root(name: &str) -> Result<(String, Issuer<'static, KeyPair>)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pem = params.self_signed(&key)?.pem();
    Ok((pem, Issuer::new(params, key)))
}

fn config(
    issuer: &Issuer<'static, KeyPair>,
    hosts: &[String],
    protocols: &[&[u8]],
) -> Result<Arc<ServerConfig>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(hosts.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, "bed.test");
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = params.signed_by(&key, issuer)?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| anyhow!("TLS versions: {e}"))?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], private)?;
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}
