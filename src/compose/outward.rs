//! The ways to upstream servers, made from the operator's configuration and its secrets: TLS with our
//! certificates, and the operator's proxy.

use std::collections::BTreeMap;
use std::sync::Arc;

use proxy::guard::{Lookup, SystemLookup};
use proxy::route::{Routes, UpstreamProxy};
use proxy::tls::ClientCertificates;
use proxy::trusted::Trusted;
use redactor::Secret;
use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::stores::Refused;
use crate::config::upstream as config;
use crate::plan::{Plan, PlannedCert};

/// Keys by their references.
pub struct Keys(BTreeMap<String, Secret>);

impl Keys {
    /// Makes the map from pairs of a reference and its key.
    pub fn new(pairs: &[(String, Secret)]) -> Self {
        Self(pairs.iter().cloned().collect())
    }

    fn find(&self, reference: &str) -> Result<&Secret, Refused> {
        self.0.get(reference).ok_or_else(|| format!("the key of {reference} was not handed over").into())
    }
}

/// What the configuration says about the ways to upstream servers.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// Additional root certificates, PEM.
    pub upstream_ca: Option<&'a str>,
    /// Client certificates for servers that demand one.
    pub client_certs: &'a [PlannedCert],
    /// The proxy that all connections go through, except to the hosts that it exempts.
    pub upstream_proxy: Option<&'a config::UpstreamProxy>,
}

impl<'a> From<&'a Plan> for Said<'a> {
    fn from(plan: &'a Plan) -> Self {
        Self {
            upstream_ca: plan.upstream_ca.as_deref(),
            client_certs: &plan.client_certs,
            upstream_proxy: plan.upstream_proxy.as_ref(),
        }
    }
}

/// Returns the dialer to servers that the operator named, as the supervisor uses it, for a command that has
/// no supervisor.
pub fn trusted(said: Said<'_>, keys: &Keys) -> Result<Trusted, Refused> {
    let lookup = Arc::new(SystemLookup::new()?);
    let routes = routes(said, keys, Arc::<SystemLookup>::clone(&lookup))?;
    Ok(Trusted::new(lookup, upstream(said, keys)?, routes))
}

/// Returns the TLS configuration towards upstream servers. What the operator named is checked now; what takes
/// milliseconds is read when it is first needed.
pub fn upstream(said: Said<'_>, keys: &Keys) -> Result<proxy::Upstream, Refused> {
    let extra = extra_roots(said.upstream_ca)?;
    proxy::tls::check_extra_roots(&extra)?;
    proxy::tls::check_named_roots()?;
    let mut ours = ClientCertificates::default();
    for cert in said.client_certs {
        ours.add(cert.to.clone(), &cert.chain, keys.find(&cert.key)?)?;
    }
    Ok(proxy::Upstream::lazy(ours, move || proxy::tls::upstream_config(extra.clone())))
}

/// Returns which connections go through an upstream proxy, if there is one.
pub fn routes(said: Said<'_>, keys: &Keys, lookup: Arc<dyn Lookup>) -> Result<Routes, Refused> {
    let Some(wanted) = said.upstream_proxy else { return Ok(Routes::default()) };
    let reference = wanted.credential()?;
    let credential = reference.map(|reference| keys.find(&reference.to_string())).transpose()?;
    let proxy = UpstreamProxy::new(wanted.address()?, credential, wanted.exempt()?, wanted.resolve, lookup);
    Ok(Routes::through(proxy))
}

/// Returns the password of the proxy's `user:password` as a secret of its own, so that it is redacted also
/// where it is printed without its user.
pub fn password(said: Said<'_>, keys: &[(String, Secret)]) -> Option<(String, Secret)> {
    let reference = said.upstream_proxy?.credential.as_ref()?;
    let (_, pair) = keys.iter().find(|(name, _)| name == reference)?;
    let at = pair.expose().iter().position(|byte| *byte == b':')?;
    let password = pair.expose().get(at + 1..).filter(|password| !password.is_empty())?;
    Some((reference.clone(), Secret::new(password)))
}

/// The authorities that the configuration adds.
fn extra_roots(pem: Option<&str>) -> Result<Vec<CertificateDer<'static>>, Refused> {
    let Some(pem) = pem else { return Ok(Vec::new()) };
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    roots.map_err(|e| format!("upstream_ca: {e}").into())
}
