//! A flat apt repository (sources.list(5)) with one package, `bedpkg` 1.0.0: unsigned, so its source says
//! `[trusted=yes]`.

use std::sync::LazyLock;

use http::{Request, Response};
use hyper::body::Incoming;
use sha2::{Digest, Sha256};

use super::packages::GREETING;
use crate::archive;
use crate::server::{Body, respond};

const CONTROL: &str = "Package: bedpkg\nVersion: 1.0.0\nArchitecture: all\nMaintainer: bed <bed@bed.test>\nDescription: says hello\n";

static DEB: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let control = archive::tgz(&[("./control", CONTROL.as_bytes())]);
    let data = archive::tgz(&[("./usr/share/bedpkg/greeting", GREETING.as_bytes())]);
    archive::ar(&[("debian-binary", b"2.0\n"), ("control.tar.gz", &control), ("data.tar.gz", &data)])
});

/// Answers apt.
pub fn answer(request: &Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/Packages" => {
            let (size, digest) = (DEB.len(), hex::encode(Sha256::digest(&*DEB)));
            let entry =
                format!("{CONTROL}Filename: ./bedpkg_1.0.0_all.deb\nSize: {size}\nSHA256: {digest}\n");
            respond(200, "text/plain", entry)
        }
        "/bedpkg_1.0.0_all.deb" => respond(200, "application/octet-stream", DEB.as_slice()),
        _ => respond(404, "text/plain", "no such page\n"),
    }
}
