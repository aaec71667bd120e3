//! The root certificates that programs inside trust: the system's and the sandbox's own authority.
//!
//! They are made and written on blocking threads while init still builds the cage: on a worker, the rest of
//! the start would wait behind this. No certificate is parsed.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use agent::client::ClientError;
use agent::roots::{RootFiles, Roots};
use proxy::tls::Authority;
use tokio::task::{JoinHandle, spawn_blocking};

use super::stores::Refused;
use crate::plan::Plan;

/// Where distributions keep the system's roots in one file.
const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Writes the roots to where programs inside look for them. The task ends when they are there; no agent may
/// run before.
pub fn put(
    plan: &Arc<Plan>,
    authority: &Arc<Authority>,
    files: JoinHandle<Result<RootFiles, ClientError>>,
) -> JoinHandle<Result<(), Refused>> {
    let (plan, authority) = (Arc::clone(plan), Arc::clone(authority));
    let made = spawn_blocking(move || Roots::of_pem(bundle(&plan, authority.certificate_pem())));
    tokio::spawn(async move {
        let (roots, files) = tokio::try_join!(made, files)?;
        let files = files?;
        Ok(spawn_blocking(move || files.write(&roots)).await??)
    })
}

/// Returns the first of the system's bundles that can be read, followed by the authority's certificate.
fn bundle(plan: &Plan, authority: &str) -> Vec<u8> {
    let named = plan.system_roots.iter().map(std::path::PathBuf::as_path);
    let candidates = named.chain(SYSTEM_BUNDLES.iter().map(Path::new));
    // Reserves room for the certificate and a newline, so that the bundle is never reallocated.
    let system = candidates.filter_map(|path| read(path, authority.len() + 1).ok()).next();
    joined(system.unwrap_or_default(), authority)
}

/// Appends a certificate on a line of its own, as PEM demands.
fn joined(mut bundle: Vec<u8>, certificate: &str) -> Vec<u8> {
    if bundle.last().is_some_and(|last| *last != b'\n') {
        bundle.push(b'\n');
    }
    bundle.extend_from_slice(certificate.as_bytes());
    bundle
}

/// Reads a file into a buffer with `room` spare bytes.
fn read(path: &Path, room: usize) -> io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut content = Vec::with_capacity(length.saturating_add(room));
    file.read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_comes_last_on_a_line_of_its_own() {
        assert_eq!(joined(b"roots".to_vec(), "ours\n"), b"roots\nours\n");
        assert_eq!(joined(b"roots\n".to_vec(), "ours\n"), b"roots\nours\n");
        assert_eq!(joined(Vec::new(), "ours\n"), b"ours\n");
    }

    #[test]
    fn a_file_is_read_with_room_for_more() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "roots\n").unwrap();
        let read = read(file.path(), 100).unwrap();
        assert_eq!(read, b"roots\n");
        assert!(read.capacity() >= 106);
    }
}
