//! The documentation is current: the reference is the code's, every YAML example is read, the JSON Schema is
//! the one that the code makes. `COFFERDAM_BLESS=1 cargo test -p cofferdam-policy --test docs` writes the
//! made parts anew.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};

use cofferdam_policy::{Severity, parse, parse_preset, reference, schema};

const BEGIN: &str = "<!-- reference: begin (made from the code; see actors/policy/tests/docs.rs) -->\n";
const END: &str = "<!-- reference: end -->\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn bless() -> bool {
    std::env::var_os("COFFERDAM_BLESS").is_some()
}

/// Compares a file with what it should be; writes it if told to.
fn current(path: &Path, wanted: &str) {
    if bless() {
        std::fs::write(path, wanted).unwrap();
    }
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text == wanted, "{} is not current; COFFERDAM_BLESS=1 writes it anew", path.display());
}

#[test]
fn the_reference_is_the_codes() {
    let path = root().join("docs/policy.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    current(&path, &format!("{before}{BEGIN}{}\n{END}{after}", reference()));
}

#[test]
fn the_json_schema_is_the_codes() {
    let text = format!("{}\n", serde_json::to_string_pretty(&schema()).unwrap());
    current(&root().join("policies/policy.schema.json"), &text);
}

/// Blocks of `yaml` are read as they stand, after what makes a policy of a part of one; `yaml error` blocks
/// must be refused, `yaml preset` blocks are presets.
#[test]
fn every_yaml_example_is_what_it_says() {
    let text = std::fs::read_to_string(root().join("docs/policy.md")).unwrap();
    let mut count = 0;
    for block in text.split("\n```yaml").skip(1) {
        let (info, rest) = block.split_once('\n').unwrap();
        let body = rest.split("\n```").next().unwrap();
        let result = if info.trim() == "preset" {
            parse_preset("example", body).map(|_| ())
        } else {
            parse("example", &complete(body)).map(|_| ())
        };
        match (info.trim(), result) {
            ("error", Err(errors)) => assert!(errors.items().iter().any(|e| e.severity == Severity::Error)),
            ("error", Ok(())) => panic!("this should be refused:\n{body}"),
            (_, Ok(())) => {}
            (_, Err(errors)) => panic!("{errors}"),
        }
        count += 1;
    }
    assert!(count >= 8, "only {count} examples were found");
}

/// A part of a policy made whole: a section, an entry's fields, or an endpoint's.
fn complete(body: &str) -> String {
    let indented = |by: &str| body.lines().map(|line| format!("{by}{line}\n")).collect::<String>();
    let first = body.lines().find(|line| !line.starts_with('#')).unwrap_or_default();
    if first.starts_with("version:") {
        body.to_owned()
    } else if first.starts_with("- host:") || first.starts_with("- port") {
        format!(
            "version: 1\nnetwork_policies:\n  example:\n    endpoints:\n{}    binaries: [ {{ path: /usr/bin/curl }} ]\n",
            indented("      ")
        )
    } else if first.starts_with("binaries:") {
        format!(
            "version: 1\nnetwork_policies:\n  example:\n    endpoints: [ {{ host: a.example.com, port: 22 }} ]\n{}",
            indented("    ")
        )
    } else {
        format!("version: 1\n{body}\n")
    }
}
