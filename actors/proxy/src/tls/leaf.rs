//! Certificates for the hosts that the agent talks to, minted at the first connection and kept while they
//! last.
//!
//! All leaves share one key that lives as long as this process: it never leaves it, and a fresh one for each
//! would double the price. Minting costs some 20 µs, less than the handshake that follows, so nothing is made
//! ahead or stored.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use policy::Host;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, SerialNumber, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::ring::{Ticketer, sign::any_supported_type};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::authority::{Authority, AuthorityError, random_serial, unix_now};
use super::{Alpn, provider};

/// How long a leaf is valid. Short, since it is made anew whenever it is needed.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(14 * 86_400);
/// A leaf with less than this left is minted anew: a connection set up with it may last for days.
pub const LEAF_RENEWAL: Duration = Duration::from_secs(4 * 86_400);
/// Most leaves kept. The hosts that one policy allows are fewer; wildcards can name more, which are then
/// minted again.
pub const MAX_LEAVES: u64 = 1024;
/// A leaf is valid from this long ago, for a clock set back meanwhile.
const BACKDATED: Duration = Duration::from_secs(3600);
/// Longest common name (RFC 5280 appendix A.1, ub-common-name). Longer names stand in the alternative name
/// alone.
const MAX_COMMON_NAME: usize = 64;
/// Tickets sent per TLS 1.3 handshake: one resumption is enough for clients that keep connections alive.
const TICKETS: usize = 1;

/// The cache, and what all leaves share.
pub(super) struct Leaves {
    cache: Cache<(Host, Alpn), Arc<Leaf>>,
    key: KeyPair,
    signer: Arc<dyn SigningKey>,
}

struct Leaf {
    config: Arc<ServerConfig>,
    /// Unix seconds.
    renew_at: u64,
}

impl Leaves {
    pub(super) fn new() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Self { cache: Cache::new(MAX_LEAVES), signer: any_supported_type(&der)?, key })
    }
}

impl Authority {
    /// Returns the server's configuration for connections that the agent believes to be with `host`: a leaf
    /// for it, TLS 1.2 and 1.3, resumption by tickets. A client that asks for another name by SNI is refused.
    ///
    /// # Errors
    /// When a leaf can't be made, or the authority has expired.
    pub fn server_config_for(&self, host: &Host, alpn: Alpn) -> Result<Arc<ServerConfig>, AuthorityError> {
        self.server_config_at(host, alpn, unix_now())
    }

    fn server_config_at(
        &self,
        host: &Host,
        alpn: Alpn,
        now: u64,
    ) -> Result<Arc<ServerConfig>, AuthorityError> {
        let key = (host.clone(), alpn);
        if let Some(leaf) = self.leaves.cache.get(&key)
            && now < leaf.renew_at
        {
            return Ok(leaf.config.clone());
        }
        let leaf = Arc::new(self.mint(host, alpn, now)?);
        self.leaves.cache.insert(key, leaf.clone());
        Ok(leaf.config.clone())
    }

    fn mint(&self, host: &Host, alpn: Alpn, now: u64) -> Result<Leaf, AuthorityError> {
        if now >= self.not_after() {
            return Err(AuthorityError::Expired);
        }
        // No leaf outlives its authority.
        let not_after = now.saturating_add(LEAF_LIFETIME.as_secs()).min(self.not_after());
        let params = params(host, now.saturating_sub(BACKDATED.as_secs()), not_after)?;
        let certificate = params.signed_by(&self.leaves.key, self.issuer())?;
        let certified = CertifiedKey::new(vec![certificate.der().clone()], self.leaves.signer.clone());
        let resolver =
            OneHost { name: host.name().map(|n| n.as_str().into()), certified: Arc::new(certified) };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = alpn.protocols();
        config.ignore_client_order = true;
        // Tickets of its own: with shared ones a session with one address could be resumed as one with
        // another, since without SNI nothing in the ticket tells them apart.
        config.ticketer = Ticketer::new()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = TICKETS;
        let renew_at = not_after.saturating_sub(LEAF_RENEWAL.as_secs());
        Ok(Leaf { config: Arc::new(config), renew_at })
    }
}

fn params(host: &Host, not_before: u64, not_after: u64) -> Result<CertificateParams, AuthorityError> {
    let epoch = date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let (alternative, common) = match host {
        Host::Name(name) => (SanType::DnsName(name.as_str().try_into()?), name.as_str().to_owned()),
        Host::Addr(addr) => (SanType::IpAddress(*addr), addr.to_string()),
    };
    if common.len() <= MAX_COMMON_NAME {
        params.distinguished_name.push(DnType::CommonName, common);
    }
    params.subject_alt_names = vec![alternative];
    params.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(not_after);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Serves one host's certificate, to clients that ask for this host or for none.
#[derive(Debug)]
struct OneHost {
    /// None for an address, for which SNI has no form (RFC 6066 section 3).
    name: Option<Box<str>>,
    certified: Arc<CertifiedKey>,
}

impl ResolvesServerCert for OneHost {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match (hello.server_name(), &self.name) {
            (Some(asked), Some(name)) if !asked.eq_ignore_ascii_case(name) => None,
            (Some(_), None) => None,
            _ => Some(self.certified.clone()),
        }
    }
}

#[cfg(test)]
mod tests;
