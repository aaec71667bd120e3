//! The ways to upstream servers, from the plan and its secrets: TLS with our certificates, and the operator's proxy.

use std::collections::BTreeMap;
use std::sync::Arc;

use proxy::guard::Lookup;
use proxy::route::{Routes, UpstreamProxy};
use proxy::tls::ClientCertificates;
use redactor::Secret;

use super::stores::{Refused, extra_roots};
use crate::plan::Plan;

/// Keys by their references.
pub struct Keys(BTreeMap<String, Secret>);

impl Keys {
    /// From pairs of a reference and its key.
    pub fn new(pairs: &[(String, Secret)]) -> Self {
        Self(pairs.iter().cloned().collect())
    }

    fn find(&self, reference: &str) -> Result<&Secret, Refused> {
        self.0.get(reference).ok_or_else(|| format!("the key of {reference} was not handed over").into())
    }
}

/// TLS towards upstreams. What the operator named is looked at now, what takes milliseconds is read when it is needed.
pub fn upstream(plan: &Plan, keys: &Keys) -> Result<proxy::Upstream, Refused> {
    let extra = extra_roots(plan)?;
    proxy::tls::check_extra_roots(&extra)?;
    proxy::tls::check_named_roots()?;
    let mut ours = ClientCertificates::default();
    for cert in &plan.client_certs {
        ours.add(cert.to.clone(), &cert.chain, keys.find(&cert.key)?)?;
    }
    Ok(proxy::Upstream::lazy(ours, move || proxy::tls::upstream_config(extra.clone())))
}

/// Whether an upstream proxy lies on the way, and for what.
pub fn routes(plan: &Plan, keys: &Keys, lookup: Arc<dyn Lookup>) -> Result<Routes, Refused> {
    let Some(wanted) = &plan.upstream_proxy else { return Ok(Routes::default()) };
    let reference = wanted.credential()?;
    let credential = reference.map(|reference| keys.find(&reference.to_string())).transpose()?;
    let proxy = UpstreamProxy::new(wanted.address()?, credential, wanted.exempt()?, wanted.resolve, lookup);
    Ok(Routes::through(proxy))
}

/// The password alone of the proxy's `user:password`: whoever prints it without its user prints it all the same.
pub fn password(plan: &Plan, keys: &[(String, Secret)]) -> Option<(String, Secret)> {
    let reference = plan.upstream_proxy.as_ref()?.credential.as_ref()?;
    let (_, pair) = keys.iter().find(|(name, _)| name == reference)?;
    let at = pair.expose().iter().position(|byte| *byte == b':')?;
    let password = pair.expose().get(at + 1..).filter(|password| !password.is_empty())?;
    Some((reference.clone(), Secret::new(password)))
}
