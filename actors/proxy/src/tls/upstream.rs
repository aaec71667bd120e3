//! The client's side towards the world: roots, protocols, resumption.
//!
//! One configuration per set of roots, shared by all connections, since the session store in it is what makes
//! the second handshake with a host cost a third of the first.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::verify::Verifier;
use super::{Alpn, provider};

/// Most hosts whose last session is kept for resumption.
pub const SESSIONS: usize = 1024;
/// The variables by which an operator names roots of their own (as OpenSSL reads them).
const ROOT_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Why upstream can't be verified; then nothing is sent there.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The operator named roots of their own, and there is none. Falling back to others would trust whom they
    /// left out.
    #[error("{variables} is set, but no certificate can be read there: {why}")]
    NamedRoots {
        /// The variables that are set.
        variables: String,
        /// What went wrong with the first file.
        why: String,
    },
    /// A certificate that the configuration adds can't be used.
    #[error("certificate number {number} of the additional authorities can't be used: {why}")]
    ExtraRoot {
        /// Which one, from 1.
        number: usize,
        /// rustls' reason.
        why: rustls::Error,
    },
    /// The roots can't be used.
    #[error("no certificate can be verified: {0}")]
    Roots(#[from] rustls::server::VerifierBuilderError),
    /// rustls refused the configuration.
    #[error("a TLS configuration can't be made: {0}")]
    Tls(#[from] rustls::Error),
}

/// The system's roots, or those that `SSL_CERT_FILE` or `SSL_CERT_DIR` of this process's environment name.
/// Empty if the system has none.
///
/// # Errors
/// [`UpstreamError::NamedRoots`], if the environment names roots and none can be read.
pub fn system_roots() -> Result<Vec<CertificateDer<'static>>, UpstreamError> {
    let found = rustls_native_certs::load_native_certs();
    let named: Vec<_> = ROOT_VARIABLES.into_iter().filter(|v| std::env::var_os(v).is_some()).collect();
    check_named(found.certs, &named, found.errors.first().map(ToString::to_string))
}

/// Whether the roots that the operator named by `SSL_CERT_FILE` can be read, by their first certificate: a
/// cheap look at start, so that a wrong name is reported then and not at the first connection.
///
/// # Errors
/// [`UpstreamError::NamedRoots`].
pub fn check_named_roots() -> Result<(), UpstreamError> {
    std::env::var_os(ROOT_VARIABLES[0]).map_or(Ok(()), |file| check_root_file(file.as_ref()))
}

fn check_root_file(file: &Path) -> Result<(), UpstreamError> {
    let why = match policy::open_regular(file) {
        Ok(file) => match CertificateDer::pem_reader_iter(file).next() {
            Some(Ok(_)) => return Ok(()),
            Some(Err(error)) => error.to_string(),
            None => "there is nothing".to_owned(),
        },
        Err(error) => error.to_string(),
    };
    Err(UpstreamError::NamedRoots { variables: ROOT_VARIABLES[0].to_owned(), why })
}

/// Checks that these certificates can be used as roots.
///
/// # Errors
/// [`UpstreamError::ExtraRoot`].
pub fn check_extra_roots(roots: &[CertificateDer<'static>]) -> Result<(), UpstreamError> {
    add(&mut RootCertStore::empty(), roots.iter().cloned())
}

fn check_named(
    certs: Vec<CertificateDer<'static>>,
    named: &[&str],
    error: Option<String>,
) -> Result<Vec<CertificateDer<'static>>, UpstreamError> {
    if certs.is_empty() && !named.is_empty() {
        let why = error.unwrap_or_else(|| "there is nothing".to_owned());
        return Err(UpstreamError::NamedRoots { variables: named.join(" and "), why });
    }
    if let Some(error) = error {
        tracing::warn!(error, "some of the system's root certificates can't be read");
    }
    Ok(certs)
}

/// Verifies upstream by [`system_roots`] (Mozilla's, as built in, if the system has none) and these in
/// addition. HTTP/2 preferred; see [`http1_only`].
///
/// # Errors
/// [`UpstreamError`].
pub fn upstream_config(
    extra_roots: Vec<CertificateDer<'static>>,
) -> Result<Arc<ClientConfig>, UpstreamError> {
    let mut roots = RootCertStore::empty();
    // A system's bundle may hold oddities of the past; one of them must not cost the others.
    roots.add_parsable_certificates(system_roots()?);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    finish(roots, extra_roots)
}

/// Verifies upstream by these roots alone.
///
/// # Errors
/// [`UpstreamError`], also if one of them can't be used.
pub fn upstream_config_with_roots(
    roots: Vec<CertificateDer<'static>>,
) -> Result<Arc<ClientConfig>, UpstreamError> {
    finish(RootCertStore::empty(), roots)
}

fn add(
    roots: &mut RootCertStore,
    extra: impl Iterator<Item = CertificateDer<'static>>,
) -> Result<(), UpstreamError> {
    for (index, root) in extra.enumerate() {
        roots.add(root).map_err(|why| UpstreamError::ExtraRoot { number: index + 1, why })?;
    }
    Ok(())
}

fn finish(
    mut roots: RootCertStore,
    extra: Vec<CertificateDer<'static>>,
) -> Result<Arc<ClientConfig>, UpstreamError> {
    add(&mut roots, extra.into_iter())?;
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let mut config = match roots.is_empty() {
        // Without roots nobody is trusted; the verifier can't be built without any.
        true => builder.with_root_certificates(roots).with_no_client_auth(),
        false => {
            let verifier = Arc::new(Verifier::new(roots)?);
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
    };
    config.alpn_protocols = Alpn::H2OrHttp1.protocols();
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(Arc::new(config))
}

/// The same configuration, offering HTTP/1.1 alone (for an Upgrade, which HTTP/2 doesn't have). Sessions are
/// shared with the first.
#[must_use]
pub fn http1_only(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = Alpn::Http1.protocols();
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_always_roots_and_both_protocols() {
        let config = upstream_config(Vec::new()).unwrap();
        assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        assert_eq!(http1_only(&config).alpn_protocols, [b"http/1.1".to_vec()]);
    }

    #[test]
    fn named_roots_that_are_missing_are_an_error_and_not_a_fallback() {
        let error = check_named(Vec::new(), &["SSL_CERT_FILE"], Some("no such file".into())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "SSL_CERT_FILE is set, but no certificate can be read there: no such file"
        );
        assert!(check_named(Vec::new(), &[], None).unwrap().is_empty());
        let some = vec![CertificateDer::from(vec![1])];
        assert_eq!(check_named(some.clone(), &["SSL_CERT_DIR"], Some("one bad".into())).unwrap(), some);
    }

    #[test]
    fn a_named_file_is_looked_at_by_its_first_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let (good, bad) = (dir.path().join("good.pem"), dir.path().join("bad.pem"));
        let authority = crate::tls::Authority::generate().unwrap();
        std::fs::write(&good, authority.certificate_pem()).unwrap();
        std::fs::write(&bad, "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n").unwrap();
        check_root_file(&good).unwrap();
        // A FIFO is refused without waiting for a writer.
        let pipe = dir.path().join("pipe.pem");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for refused in [bad, pipe, dir.path().join("missing.pem")] {
            let error = check_root_file(&refused).unwrap_err();
            assert!(matches!(error, UpstreamError::NamedRoots { .. }), "{error}");
        }
    }

    #[test]
    fn a_bad_additional_root_is_named() {
        let bad = vec![CertificateDer::from(b"not DER".to_vec())];
        let error = upstream_config_with_roots(bad).unwrap_err();
        assert!(matches!(error, UpstreamError::ExtraRoot { number: 1, .. }), "{error}");
    }
}
