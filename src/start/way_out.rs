//! Resolves and checks the operator's client certificates and proxy before anything is started.
//!
//! Keys that references stand for go into [`Secrets`]; certificates go into the plan as text. What can't be
//! used is refused here, by name.

use proxy::tls::ClientCertificates;

use crate::config::upstream::{ClientCert, UpstreamProxy};
use crate::failure::Failure;
use crate::given;
use crate::plan::{PlannedCert, Secrets};

/// Reads the certificates, resolves their keys, and checks that each certificate and key match.
pub fn client_certs(wanted: &[ClientCert], secrets: &mut Secrets) -> Result<Vec<PlannedCert>, Failure> {
    let mut checked = ClientCertificates::default();
    wanted
        .iter()
        .map(|cert| {
            let to = cert.destination().map_err(Failure::refused)?;
            let refused = |why: String| Failure::refused(format!("client_certs: {to}: {why}"));
            let chain = given::read_certificates(&cert.cert, &format!("client_certs: {to}:"))?;
            let reference = cert.key().map_err(Failure::refused)?;
            let key = reference.resolve_pem().map_err(|e| refused(e.to_string()))?;
            checked.add(to.clone(), &chain, &key).map_err(|e| refused(e.to_string()))?;
            secrets.add(reference.to_string(), &key);
            Ok(PlannedCert { to: to.clone(), chain, key: reference.to_string() })
        })
        .collect()
}

/// Checks that the proxy can be used, and resolves its credential.
pub fn upstream_proxy(wanted: &UpstreamProxy, secrets: &mut Secrets) -> Result<(), Failure> {
    wanted.address().map_err(Failure::refused)?;
    wanted.exempt().map_err(Failure::refused)?;
    let Some(reference) = wanted.credential().map_err(Failure::refused)? else { return Ok(()) };
    let pair = reference.resolve().map_err(|e| Failure::refused(format!("upstream_proxy: {e}")))?;
    if !pair.expose().contains(&b':') {
        return Err(Failure::refused(format!(
            "upstream_proxy: {reference} is not of the form user:password"
        )));
    }
    secrets.add(reference.to_string(), &pair);
    Ok(())
}
