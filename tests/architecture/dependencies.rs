//! Every crate uses all the dependencies that its manifest declares.

use std::fs;
use std::path::{Path, PathBuf};

use super::rust_below;

/// The manifests of this repository, by their directories. Not the fuzz targets', which take in files of
/// other crates.
fn packages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let actors = fs::read_dir(root.join("actors")).unwrap().map(|entry| entry.unwrap().path());
    actors.chain(["", "tui", "tests/bed"].map(|dir| root.join(dir))).collect()
}

/// The names in a manifest's tables of dependencies.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut table = "";
    for line in manifest.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = name;
        } else if table.ends_with("dependencies") && !table.starts_with("workspace") {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            if !name.is_empty() && !name.starts_with('#') {
                found.push(name.to_owned());
            }
        }
    }
    found
}

fn names(text: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    text.match_indices(word).any(|(at, _)| {
        let (before, rest) = text.split_at(at);
        !is_part(before.chars().next_back()) && !is_part(rest.chars().nth(word.len()))
    })
}

#[test]
fn what_a_manifest_names_is_used() {
    let (mut checked, mut unused) = (0, Vec::new());
    for package in packages() {
        let files = ["src", "tests", "benches"].into_iter().flat_map(|part| rust_below(&package.join(part)));
        // The test bed is a package of its own.
        let own = files.filter(|file| !file.starts_with(package.join("tests/bed")));
        let text: String = own.map(|file| fs::read_to_string(file).unwrap()).collect();
        let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap();
        for name in dependencies(&manifest) {
            checked += 1;
            if !names(&text, &name.replace('-', "_")) {
                unused.push(format!("{}: {name}", package.display()));
            }
        }
    }
    assert!(checked > 150, "the manifests are where they were: {checked}");
    assert!(unused.is_empty(), "{}", unused.join("\n"));
}

#[test]
fn a_name_is_a_whole_word() {
    assert!(names("use serde::Serialize;", "serde") && !names("use serde_json::Value;", "serde"));
    assert_eq!(dependencies("[dependencies]\na.workspace = true\nb = 1\n[lints]\nc = 1\n"), ["a", "b"]);
}
