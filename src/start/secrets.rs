//! Resolves the operator's credentials into a sealed file that only the supervisor reads.
//!
//! A child resolves them and exits, because this process becomes the heart, which lives for months and must
//! keep no credential; what its environment held is overwritten.

use std::os::fd::OwnedFd;

use agent::launch;
use redactor::Reference;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::plan::{PlannedCert, Secrets};
use crate::sealed;
use crate::start::Wanted;
use crate::start::way_out;

/// What the child answers: the public halves of what it found, or an exit code and why.
#[derive(Serialize, Deserialize)]
enum Answer {
    Sealed(Vec<PlannedCert>),
    Refused(u8, String),
}

/// Resolves every reference that a sandbox needs. Returns the sealed [`Secrets`], and the certificates that
/// belong to some of them.
///
/// # Errors
/// The first reference that can't be resolved or used, by name.
pub fn seal(wanted: &Wanted) -> Result<(OwnedFd, Vec<PlannedCert>), Failure> {
    let file = sealed::open_sealable("cofferdam-secrets")?;
    let work = || match resolve(wanted).and_then(|(secrets, certs)| {
        sealed::seal_json_into(&file, &secrets)?;
        Ok(certs)
    }) {
        Ok(certs) => Answer::Sealed(certs),
        Err(Failure { code, message }) => Answer::Refused(code, message),
    };
    let answer = if references(wanted)?.is_empty() {
        work()
    } else {
        let bytes = launch::in_child(|| serde_json::to_vec(&work()).unwrap_or_default());
        let bytes = bytes.map_err(|e| Failure::refused(format!("resolving credentials: {e}")))?;
        serde_json::from_slice(&bytes).map_err(|e| Failure::refused(format!("resolving credentials: {e}")))?
    };
    match answer {
        Answer::Sealed(certs) => Ok((file.into(), certs)),
        Answer::Refused(code, message) => Err(Failure { code, message }),
    }
}

/// Returns every reference that a sandbox needs.
///
/// # Errors
/// The first text that is no reference.
pub fn references(wanted: &Wanted) -> Result<Vec<Reference>, Failure> {
    let mut all: Vec<Reference> = wanted.credentials.references().map(|(_, found)| found.clone()).collect();
    all.extend(wanted.inference.iter().flat_map(|inference| inference.references().cloned()));
    for cert in &wanted.client_certs {
        all.push(cert.key().map_err(Failure::refused)?);
    }
    if let Some(proxy) = &wanted.upstream_proxy {
        all.extend(proxy.credential().map_err(Failure::refused)?);
    }
    Ok(all)
}

fn resolve(wanted: &Wanted) -> Result<(Secrets, Vec<PlannedCert>), Failure> {
    let mut secrets = Secrets::default();
    for (reference, key) in wanted.credentials.resolve().map_err(Failure::refused)? {
        secrets.add(reference, &key);
    }
    if let Some(inference) = &wanted.inference {
        inference.check().map_err(|faults| Failure::refused(faults.to_string()))?;
        for reference in inference.references() {
            let key = reference.resolve().map_err(|e| Failure::refused(e.to_string()))?;
            secrets.add(reference.to_string(), &key);
        }
    }
    let certs = way_out::client_certs(&wanted.client_certs, &mut secrets)?;
    if let Some(proxy) = &wanted.upstream_proxy {
        way_out::upstream_proxy(proxy, &mut secrets)?;
    }
    Ok((secrets, certs))
}
