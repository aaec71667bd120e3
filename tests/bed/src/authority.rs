//! The world's certificate authority: one trusted root, one that nobody trusts, one for clients, and the
//! leaves of every host.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};

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
    /// By name: certificates with a fault, and servers that ask for the client's.
    special: HashMap<&'static str, Arc<ServerConfig>>,
    client: ClientPair,
}

/// A client's certificate and key, PEM, that `mtls.bed.test` and `asks.bed.test` take.
#[derive(Debug, Clone)]
pub struct ClientPair {
    /// The certificate.
    pub cert: String,
    /// Its private key.
    pub key: String,
}

impl Authority {
    /// Makes fresh keys: nothing of the world's trust is kept anywhere.
    pub fn new() -> Result<Self> {
        let (pem, _, trusted) = root("bed test root")?;
        let (_, _, stranger) = root("nobody trusts this root")?;
        let (_, clients_root, clients) = root("bed client root")?;
        let beyond = names::BEYOND.iter().map(|(name, _)| *name);
        let hosts: Vec<String> =
            names::HOSTS.iter().map(|(name, _)| *name).chain(beyond).map(str::to_owned).collect();
        let only = |name: &str| vec![name.to_owned()];
        let h1: &[&[u8]] = &[b"http/1.1"];
        let both: &[&[u8]] = &[b"h2", b"http/1.1"];
        let verifier = |required: bool| -> Result<Arc<dyn ClientCertVerifier>> {
            let mut roots = RootCertStore::empty();
            roots.add(clients_root.clone())?;
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            Ok(if required { builder.build()? } else { builder.allow_unauthenticated().build()? })
        };
        let past = |params: &mut CertificateParams| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        };
        let leaf = |name: &str| Leaf::of(&trusted, &only(name), |_| {});
        let special = HashMap::from([
            (UNTRUSTED, Leaf::of(&stranger, &only(UNTRUSTED), |_| {})?.config(h1, None)?),
            ("expired.bed.test", Leaf::of(&trusted, &only("expired.bed.test"), past)?.config(h1, None)?),
            ("othername.bed.test", leaf("elsewhere.bed.test")?.config(h1, None)?),
            ("selfsigned.bed.test", Leaf::signing_itself("selfsigned.bed.test")?.config(h1, None)?),
            ("mtls.bed.test", leaf("mtls.bed.test")?.config(both, Some(verifier(true)?))?),
            ("asks.bed.test", leaf("asks.bed.test")?.config(both, Some(verifier(false)?))?),
        ]);
        let all = Leaf::of(&trusted, &hosts, |_| {})?;
        Ok(Self {
            pem,
            both: all.config(both, None)?,
            h1: all.config(h1, None)?,
            h2: all.config(&[b"h2"], None)?,
            special,
            client: Leaf::of(&clients, &only("client.bed.test"), |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            })?
            .pair(),
        })
    }

    /// What a client shows to those who ask.
    pub fn client(&self) -> &ClientPair {
        &self.client
    }

    /// The trusted root, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// What a host presents, by the name that the client asked for.
    pub fn for_host(&self, host: Option<&str>) -> Arc<ServerConfig> {
        let special = host.and_then(|host| self.special.get(host));
        Arc::clone(match (special, host) {
            (Some(special), _) => special,
            (_, Some("h1.bed.test")) => &self.h1,
            (_, Some("h2.bed.test")) => &self.h2,
            _ => &self.both,
        })
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn root(name: &str) -> Result<(String, CertificateDer<'static>, Issuer<'static, KeyPair>)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), certificate.der().clone(), Issuer::new(params, key)))
}

/// A certificate that is no authority's, with its key.
struct Leaf {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Leaf {
    fn params(hosts: &[String]) -> Result<CertificateParams> {
        let mut params = CertificateParams::new(hosts.to_vec())?;
        params.distinguished_name.push(DnType::CommonName, "bed.test");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        Ok(params)
    }

    fn of(
        issuer: &Issuer<'static, KeyPair>,
        hosts: &[String],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = Self::params(hosts)?;
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        Ok(Self { certificate: params.signed_by(&key, issuer)?, key })
    }

    fn signing_itself(host: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        Ok(Self { certificate: Self::params(&[host.to_owned()])?.self_signed(&key)?, key })
    }

    fn pair(&self) -> ClientPair {
        ClientPair { cert: self.certificate.pem(), key: self.key.serialize_pem() }
    }

    fn config(
        &self,
        protocols: &[&[u8]],
        clients: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Arc<ServerConfig>> {
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| anyhow!("TLS versions: {e}"))?;
        let builder = match clients {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(vec![self.certificate.der().clone()], private)?;
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        Ok(Arc::new(config))
    }
}
