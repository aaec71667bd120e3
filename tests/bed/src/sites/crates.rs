//! A crates registry with a sparse index (RFC 2789) and one crate, `bedcrate` 1.0.0.

use std::sync::LazyLock;

use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::packages::GREETING;
use crate::archive;
use crate::server::{Body, json, respond};

static CRATE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let code = format!("/// What it says.\npub const GREETING: &str = {GREETING:?};\n");
    archive::tgz(&[
        (
            "bedcrate-1.0.0/Cargo.toml",
            b"[package]\nname = \"bedcrate\"\nversion = \"1.0.0\"\nedition = \"2021\"\n",
        ),
        ("bedcrate-1.0.0/src/lib.rs", code.as_bytes()),
    ])
});

/// Answers cargo.
pub fn answer(request: &Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/index/config.json" => json(200, &json!({ "dl": "https://crates.bed.test/dl" })),
        "/index/be/dc/bedcrate" => {
            let line = json!({
                "name": "bedcrate", "vers": "1.0.0", "deps": [], "features": {}, "yanked": false,
                "cksum": hex::encode(Sha256::digest(&*CRATE)),
            });
            respond(200, "text/plain", format!("{line}\n"))
        }
        "/dl/bedcrate/1.0.0/download" => respond(200, "application/gzip", CRATE.as_slice()),
        _ => respond(404, "text/plain", "no such page\n"),
    }
}
