//! Certificates of ours for upstream servers that demand one, each bound to one destination.
//!
//! A destination with a certificate has a configuration and a session store of its own, so that neither the
//! certificate nor a session that was opened with it is ever shown to another. The keys live in this process
//! alone.

use std::collections::HashMap;
use std::sync::Arc;

use policy::Destination;
use redactor::Secret;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::upstream::SESSIONS;

/// Which destination is shown which certificate. Prints no key.
#[derive(Clone, Default)]
pub struct ClientCertificates(HashMap<Destination, Arc<CertifiedKey>>);

impl std::fmt::Debug for ClientCertificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why a client certificate can't be used. Says nothing of the key but that it is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ClientCertError {
    /// No certificate in the chain's PEM.
    #[error("its `cert` holds no certificate in PEM form")]
    NoCertificate,
    /// No private key in the key's PEM.
    #[error("its `key` holds no private key in PEM form (PKCS#8, PKCS#1 or SEC1, without a passphrase)")]
    NoKey,
    /// The key is of a kind that isn't supported.
    #[error("its `key` is of a kind that can't be used: RSA, ECDSA (P-256, P-384) and Ed25519 can")]
    UnknownKey,
    /// The two don't belong together.
    #[error("its `cert` and `key` don't belong together")]
    Mismatch,
    /// The same destination twice.
    #[error("it has another certificate already")]
    Twice,
}

impl ClientCertificates {
    /// Adds one: `chain` is PEM, the client's certificate first; `key` is PEM.
    ///
    /// # Errors
    /// [`ClientCertError`].
    pub fn add(&mut self, to: Destination, chain: &str, key: &Secret) -> Result<(), ClientCertError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| ClientCertError::NoCertificate)?;
        if chain.is_empty() {
            return Err(ClientCertError::NoCertificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key.expose()).map_err(|_| ClientCertError::NoKey)?;
        let key =
            rustls::crypto::ring::sign::any_supported_type(&key).map_err(|_| ClientCertError::UnknownKey)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| ClientCertError::Mismatch)?;
        match self.0.insert(to, Arc::new(certified)) {
            None => Ok(()),
            Some(_) => Err(ClientCertError::Twice),
        }
    }

    /// For each destination, `base` with its certificate.
    pub(crate) fn configs<'c>(
        &'c self,
        base: &'c ClientConfig,
    ) -> impl Iterator<Item = (Destination, Arc<ClientConfig>)> + 'c {
        self.0.iter().map(|(to, certified)| {
            let mut config = base.clone();
            config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(certified)));
            config.resumption = Resumption::in_memory_sessions(SESSIONS);
            (to.clone(), Arc::new(config))
        })
    }
}

#[cfg(test)]
mod tests {
    use policy::Host;

    use super::*;

    fn made() -> (String, Secret) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["client".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), Secret::from(key.serialize_pem()))
    }

    fn at(host: &str) -> Destination {
        Destination { host: Host::parse(host).unwrap(), port: 443 }
    }

    #[test]
    fn only_a_whole_pair_is_taken_and_once() {
        let ((chain, key), (_, other)) = (made(), made());
        let mut all = ClientCertificates::default();
        assert!(matches!(all.add(at("a.test"), "", &key), Err(ClientCertError::NoCertificate)));
        let public = Secret::from(chain.as_str());
        assert!(matches!(all.add(at("a.test"), &chain, &public), Err(ClientCertError::NoKey)));
        assert!(matches!(all.add(at("a.test"), &chain, &other), Err(ClientCertError::Mismatch)));
        all.add(at("a.test"), &chain, &key).unwrap();
        assert!(matches!(all.add(at("a.test"), &chain, &key), Err(ClientCertError::Twice)));
        all.add(at("b.test"), &chain, &key).unwrap();
        assert!(!format!("{all:?}").contains("BEGIN"));
        let base = crate::tls::upstream_config_with_roots(Vec::new()).unwrap();
        assert!(!base.client_auth_cert_resolver.has_certs());
        assert!(all.configs(&base).all(|(_, config)| config.client_auth_cert_resolver.has_certs()));
    }
}
