//! A Python package index (PEP 503) and an npm registry, each with one package, `bedpkg` 1.0.0.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::json;
use sha2::{Digest, Sha256, Sha512};

use crate::archive;
use crate::server::{Body, json, respond};

/// What the package says when it is used.
pub const GREETING: &str = "hello from bedpkg";

const WHEEL_NAME: &str = "bedpkg-1.0.0-py3-none-any.whl";

static WHEEL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let code = format!("GREETING = {GREETING:?}\n");
    let files = [
        ("bedpkg/__init__.py", code.as_str()),
        ("bedpkg-1.0.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: bedpkg\nVersion: 1.0.0\n"),
        (
            "bedpkg-1.0.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: bed\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        (
            "bedpkg-1.0.0.dist-info/RECORD",
            "bedpkg/__init__.py,,\nbedpkg-1.0.0.dist-info/METADATA,,\nbedpkg-1.0.0.dist-info/WHEEL,,\nbedpkg-1.0.0.dist-info/RECORD,,\n",
        ),
    ];
    archive::zip(&files.map(|(name, text)| (name, text.as_bytes())))
});

static TARBALL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let code = format!("module.exports = {GREETING:?};\n");
    archive::tgz(&[
        ("package/package.json", br#"{"name":"bedpkg","version":"1.0.0","main":"index.js"}"#),
        ("package/index.js", code.as_bytes()),
    ])
});

/// Answers pip.
pub fn pypi(request: &Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/simple/bedpkg/" => {
            let digest = hex::encode(Sha256::digest(&*WHEEL));
            let page = format!(
                "<!DOCTYPE html><html><body><a href=\"/files/{WHEEL_NAME}#sha256={digest}\">{WHEEL_NAME}</a></body></html>"
            );
            respond(200, "text/html", page)
        }
        path if path.strip_prefix("/files/") == Some(WHEEL_NAME) => {
            respond(200, "application/octet-stream", WHEEL.as_slice())
        }
        _ => respond(404, "text/plain", "no such page\n"),
    }
}

/// Answers npm.
pub fn npm(request: &Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/bedpkg" => {
            let integrity = format!("sha512-{}", STANDARD.encode(Sha512::digest(&*TARBALL)));
            let dist = json!({ "tarball": "https://npm.bed.test/bedpkg/-/bedpkg-1.0.0.tgz", "integrity": integrity });
            let version = json!({ "name": "bedpkg", "version": "1.0.0", "dist": dist });
            let page = json!({ "name": "bedpkg", "dist-tags": { "latest": "1.0.0" }, "versions": { "1.0.0": version } });
            json(200, &page)
        }
        "/bedpkg/-/bedpkg-1.0.0.tgz" => respond(200, "application/octet-stream", TARBALL.as_slice()),
        _ => json(404, &json!({ "error": "not found" })),
    }
}
