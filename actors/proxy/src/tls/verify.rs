//! Verifies an upstream's certificate: the usual verification against roots, and plain words for what fails.
//!
//! The verifier decides nothing that webpki doesn't; it only looks closer at a certificate that was refused,
//! since "unknown issuer" and "signed by itself" are mended in different ways.

use std::error::Error;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::VerifierBuilderError;
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::provider;

/// Verifies as [`WebPkiServerVerifier`] does.
#[derive(Debug)]
pub(super) struct Verifier(Arc<WebPkiServerVerifier>);

/// Why a certificate was refused whose issuer is itself.
#[derive(Debug, thiserror::Error)]
enum SelfSigned {
    #[error("the certificate is self-signed")]
    Unknown,
    /// Also if it is among the roots: an authority's certificate is no server's.
    #[error("the certificate is self-signed, and an authority's")]
    Authority,
}

impl Verifier {
    pub(super) fn new(roots: RootCertStore) -> Result<Self, VerifierBuilderError> {
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().map(Self)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verdict.map_err(|error| match error {
            rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::Other(_),
            ) if signs_itself(end_entity) => {
                let why = match error {
                    rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => SelfSigned::Unknown,
                    _ => SelfSigned::Authority,
                };
                rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
            }
            error => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.0.root_hint_subjects()
    }
}

fn signs_itself(certificate: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(certificate).is_ok_and(|cert| cert.issuer() == cert.subject())
}

/// Why TLS with an upstream failed, in words that say how to mend it; none if it wasn't TLS that failed.
pub(crate) fn explain(error: &(dyn Error + 'static)) -> Option<String> {
    let mut error = Some(error);
    while let Some(at) = error {
        if let Some(tls) = at.downcast_ref::<rustls::Error>() {
            return Some(words(tls));
        }
        // An I/O error that wraps another is not its own source.
        let io = at.downcast_ref::<std::io::Error>();
        error = match io.and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => at.source(),
        };
    }
    None
}

fn words(error: &rustls::Error) -> String {
    use AlertDescription as Alert;
    use CertificateError as Bad;
    let text = match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::Expired | Bad::ExpiredContext { .. } => "its certificate has expired",
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => "its certificate is not valid yet",
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "its certificate is for another name"
            }
            Bad::UnknownIssuer => {
                "its certificate is from an unknown issuer (`upstream_ca` in cofferdam.yaml adds one)"
            }
            Bad::Revoked => "its certificate was revoked",
            Bad::Other(other) => match other.0.downcast_ref() {
                Some(SelfSigned::Unknown) => {
                    "its certificate is self-signed (`upstream_ca` in cofferdam.yaml can name it)"
                }
                Some(SelfSigned::Authority) => {
                    "its certificate is self-signed and an authority's (CA:TRUE), which is no server's: make it one with \
                     CA:FALSE, and name that by `upstream_ca` in cofferdam.yaml"
                }
                None => return format!("its certificate is not valid: {other}"),
            },
            other => return format!("its certificate is not valid: {other}"),
        },
        rustls::Error::AlertReceived(Alert::CertificateRequired) => {
            "it demands a client certificate (`client_certs` in cofferdam.yaml names one)"
        }
        rustls::Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied,
        ) => "it does not take our client certificate, or demands one (`client_certs` in cofferdam.yaml)",
        rustls::Error::AlertReceived(Alert::NoApplicationProtocol) | rustls::Error::NoApplicationProtocol => {
            "it speaks neither HTTP/1.1 nor HTTP/2"
        }
        other => return format!("the TLS handshake failed: {other}"),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(ca: rcgen::IsCa, named: bool) -> Result<ServerCertVerified, String> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["us.test".to_owned()]).unwrap();
        params.is_ca = ca;
        params.distinguished_name.push(rcgen::DnType::CommonName, "us.test");
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let other = rcgen::generate_simple_self_signed(vec!["us.test".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(if named { certificate.clone() } else { other.cert.der().clone() }).unwrap();
        let name = ServerName::try_from("us.test").unwrap();
        Verifier::new(roots)
            .unwrap()
            .verify_server_cert(&certificate, &[], &name, &[], UnixTime::now())
            .map_err(|error| words(&error))
    }

    #[test]
    fn a_servers_own_certificate_is_good_if_it_is_named_and_no_authoritys() {
        let authority = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        assert!(verdict(rcgen::IsCa::ExplicitNoCa, true).is_ok() && verdict(rcgen::IsCa::NoCa, true).is_ok());
        assert!(verdict(rcgen::IsCa::NoCa, false).unwrap_err().contains("can name it"));
        for named in [true, false] {
            assert!(verdict(authority, named).unwrap_err().contains("CA:FALSE"));
        }
    }

    #[test]
    fn a_tls_error_is_found_below_others_and_others_are_none() {
        let tls = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        let io = std::io::Error::other(std::io::Error::other(tls));
        assert!(explain(&io).unwrap().contains("client_certs"));
        assert_eq!(explain(&std::io::Error::from(std::io::ErrorKind::ConnectionReset)), None);
    }
}
