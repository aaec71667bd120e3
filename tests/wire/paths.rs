//! Paths that mean one thing to a judge and another to a server. Only `/ok/**` is allowed.

use crate::case::{BAD, BAD_OR_DENIED, Case, DENIED, Expect, Road, arrives, arrives_without, get};

/// All of them, on all roads.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for road in Road::ALL {
        for (target, expect) in targets() {
            let name: String = target.escape_debug().collect();
            all.push(Case::message(*road, &format!("path {name}"), get(target, ""), expect));
        }
        let raw = [
            &b"GET {U}/ok/{M}\xe9 HTTP/1.1\r\nHost: {H}\r\n\r\n"[..],
            b"GET {U}/ok/{M}\xff HTTP/1.1\r\nHost: {H}\r\n\r\n",
        ];
        for (number, bytes) in raw.into_iter().enumerate() {
            all.push(Case::message(*road, &format!("path of bytes {number}"), bytes, BAD));
        }
        for (field, expect) in seconds() {
            let name = format!("a second path: {field}");
            let text = get("/ok/{M}", &format!("{field}\r\n"));
            all.push(Case::message(*road, &name, text, expect));
        }
    }
    all
}

/// Header fields that name a second resource to which the request itself would be refused.
fn seconds() -> Vec<(&'static str, Expect)> {
    vec![
        ("Destination: /secret/x", DENIED),
        ("Destination: http://{H}/secret/x", DENIED),
        ("Destination: https://elsewhere.bed.test/ok/x", DENIED),
        ("Destination: /ok/../secret/x", DENIED),
        ("Destination: /ok/%2e%2e/secret/x", DENIED),
        ("Destination: /ok/..%2fsecret/x", DENIED),
        ("Destination: //{H}/secret/x", DENIED),
        ("Destination: /ok/x\r\nDestination: /secret/x", DENIED),
        ("Destination:", DENIED),
        ("x-amz-copy-source: secret/x", DENIED),
        ("x_amz_copy_source: secret/x", DENIED),
        ("X.Amz.Copy.Source: secret/x", DENIED),
        ("x-amz-copy-source: ok%2Fx", DENIED),
        ("x-amz-copy-source: arn:aws:s3:::secret/x", DENIED),
        ("X-Goog-Copy-Source: /secret/x", DENIED),
        ("Destination: /ok/x#/../../secret/x", DENIED),
        ("Destination: /ok/x;y", DENIED),
        ("Destination-Account: secret", DENIED),
        ("x-amz-copy-source: ok/x?secret", DENIED),
        ("x-amz-copy-source: secret/../ok/x", DENIED),
        ("x-cos-copy-source: elsewhere.bed.test/ok/x", DENIED),
        ("x-ms-copy-source: https://elsewhere.bed.test/ok/x", DENIED),
        ("x-ms-rename-source: /secret/x", DENIED),
        ("x-ms-file-rename-source: /secret/x", DENIED),
        ("x-copy-from: secret/x", DENIED),
        ("X-Symlink-Target: secret/x", DENIED),
        ("X-Object-Manifest: ok/x", DENIED),
        ("x-oss-symlink-target: ok/x", DENIED),
        ("x-bce-copy-source: /ok/x", DENIED),
        ("x-qs-move-source: /ok/x", DENIED),
        ("Destination: /ok/x", arrives(&["/ok/x"])),
        ("x-amz-copy-source: ok/x?versionId=1", arrives(&["ok/x?versionId=1"])),
        ("x-ms-meta-destination: /secret/x", arrives(&["/secret/x"])),
        ("x-ms-meta-copy-source: /secret/x", arrives(&["/secret/x"])),
    ]
}

fn targets() -> Vec<(&'static str, Expect)> {
    vec![
        ("/ok/../secret/{M}", DENIED),
        ("/ok/./../secret/{M}", DENIED),
        ("/ok/%2e%2e/secret/{M}", DENIED),
        ("/ok/.%2e/secret/{M}", DENIED),
        ("/ok/%2E./secret/{M}", DENIED),
        ("/ok/..;/secret/{M}", DENIED),
        ("/ok/..;a=b/secret/{M}", DENIED),
        ("/ok/%2e%2e;/secret/{M}", DENIED),
        ("/ok/%2e%2e%3b/secret/{M}", BAD_OR_DENIED),
        ("/ok;/../secret/{M}", DENIED),
        ("/ok/a/../../secret/{M}", DENIED),
        ("/ok//../secret/{M}", DENIED),
        ("/ok//../../secret/{M}", BAD_OR_DENIED),
        ("/secret/{M}", DENIED),
        ("//secret/{M}", BAD_OR_DENIED),
        ("/./secret/{M}", DENIED),
        ("/%73ecret/{M}", DENIED),
        ("/%53ecret/{M}", DENIED),
        ("/secret;x/{M}", DENIED),
        ("/OK/{M}", DENIED),
        ("/ok", DENIED),
        ("/okay/{M}", DENIED),
        ("/{M}/ok/", DENIED),
        ("/secret/{M}?/ok/", DENIED),
        ("/secret/{M}?x=/../ok/", DENIED),
        ("/../ok/{M}", BAD),
        ("/ok/../../ok/{M}", BAD),
        ("/ok/..%2fsecret/{M}", BAD_OR_DENIED),
        ("/ok/%2e%2e%2fsecret/{M}", BAD_OR_DENIED),
        ("/ok%2f{M}", BAD_OR_DENIED),
        ("/ok/..%5csecret/{M}", BAD),
        ("/ok/..\\secret/{M}", BAD),
        ("/ok\\{M}", BAD),
        ("/ok/{M}%00", BAD),
        ("/ok/{M}%00.html", BAD),
        ("/ok/%0d%0aX:%20y/{M}", BAD),
        ("/ok/{M}%0a", BAD),
        ("/ok/{M}%7f", BAD),
        ("/ok/%c0%ae%c0%ae/secret/{M}", BAD),
        ("/ok/%e0%80%ae%e0%80%ae/secret/{M}", BAD),
        ("/ok/%ff/{M}", BAD),
        ("/ok/%ed%a0%80/{M}", BAD),
        ("/ok/%u002e%u002e/secret/{M}", BAD),
        ("/ok/{M}%", BAD),
        ("/ok/{M}%2", BAD),
        ("/ok/{M}%zz", BAD),
        ("/ok/{M}#/x", BAD),
        ("/ok/{M}\u{7f}", BAD),
        ("/ok/{M}\u{1}", BAD),
        ("/ok/{M}\"<>", BAD),
        // What is judged is what is sent: the canonical form, decoded once and never again.
        ("/ok/a/../{M}", arrives(&["GET /ok/{M} HTTP/1.1\r\n"])),
        ("//ok///{M}", arrives(&["GET /ok/{M} HTTP/1.1\r\n"])),
        ("/ok/%7e{M}", arrives(&["GET /ok/~{M} HTTP/1.1\r\n"])),
        ("/ok/%252e%252e/{M}", BAD),
        ("/ok/;x/{M};y", arrives_without(&["GET /ok/"], &[";"])),
        ("/ok/{M}?_method=DELETE", DENIED),
        ("/ok/{M}?%5fMethod[]=+delete", DENIED),
        ("/ok/{M}?_method=POST&method=list", arrives(&["GET /ok/{M}?_method=POST&method=list"])),
        ("/ok/{M}?a=%2e%2e/&b", arrives(&["GET /ok/{M}?"])),
    ]
}
