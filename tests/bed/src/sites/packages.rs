//! A Python package index (PEP 503) with one package, `bedpkg` 1.0.0, and an npm registry with that and some
//! more.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
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

/// Packages that `bedmany` depends on.
const MANY: u32 = 30;

/// Answers npm, yarn and pnpm: `bedpkg`, `bedpkg-1` and on, and `bedmany`, which depends on those.
pub fn npm(request: &Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    let (name, wanted) = match path.strip_prefix('/').and_then(|path| path.split_once("/-/")) {
        Some((name, _tarball)) => (name, true),
        None => (path.trim_start_matches('/'), false),
    };
    let number = |text: &str| text.parse().is_ok_and(|number: u32| (1..=MANY).contains(&number));
    let known = matches!(name, "bedpkg" | "bedmany") || name.strip_prefix("bedpkg-").is_some_and(number);
    match (known, wanted) {
        (false, _) => json(404, &json!({ "error": "not found" })),
        (true, true) => respond(200, "application/octet-stream", tarball(name)),
        (true, false) => json(200, &about(name)),
    }
}

fn manifest(name: &str) -> Value {
    let many = (1..=MANY).filter(|_| name == "bedmany").map(|n| (format!("bedpkg-{n}"), json!("1.0.0")));
    json!({ "name": name, "version": "1.0.0", "main": "index.js", "dependencies": many.collect::<Map<_, _>>() })
}

fn tarball(name: &str) -> Vec<u8> {
    let code = format!("module.exports = {GREETING:?};\n");
    archive::tgz(&[
        ("package/package.json", manifest(name).to_string().as_bytes()),
        ("package/index.js", code.as_bytes()),
    ])
}

fn about(name: &str) -> Value {
    let tarball = tarball(name);
    let mut version = manifest(name);
    version["dist"] = json!({
        "tarball": format!("https://npm.bed.test/{name}/-/{name}-1.0.0.tgz"),
        "integrity": format!("sha512-{}", STANDARD.encode(Sha512::digest(&tarball))),
        "shasum": hex::encode(sha1::Sha1::digest(&tarball)),
    });
    json!({
        "name": name, "dist-tags": { "latest": "1.0.0" }, "versions": { "1.0.0": version },
        "time": { "1.0.0": "2020-01-01T00:00:00.000Z" },
    })
}
