//! Which part of the program may import which: read out of the source, so that an arrow that points back is seen.

use std::fs;
use std::path::{Path, PathBuf};

/// A part, and those that may not know of it.
const BELOW: [(&str, &[&str]); 3] = [
    // The command line imports all others; only the demo, a command in itself, speaks of its arguments.
    (
        "cli",
        &[
            "builder", "compose", "config", "console", "failure", "heart", "kept", "plan", "snapshot",
            "start", "state",
        ],
    ),
    (
        "demo",
        &["builder", "compose", "config", "console", "heart", "kept", "plan", "snapshot", "start", "state"],
    ),
    ("compose", &["config", "console", "failure", "heart", "kept", "plan", "sealed", "state", "waits"]),
];

fn sources(below: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|end| end == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn no_arrow_points_back() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    sources(&src, &mut all);
    let (mut checked, mut wrong) = (0, Vec::new());
    for (part, lower) in BELOW {
        for file in &all {
            let from = file.strip_prefix(&src).unwrap();
            let top = from.iter().next().and_then(|top| top.to_str()).unwrap();
            if !lower.contains(&top.trim_end_matches(".rs")) {
                continue;
            }
            checked += 1;
            let text = fs::read_to_string(file).unwrap();
            if text.lines().any(|line| {
                !line.trim_start().starts_with("//") && line.contains(&format!("crate::{part}::"))
            }) {
                wrong.push(format!("{} imports {part}", from.display()));
            }
        }
    }
    assert!(checked > 50, "the parts are where they were: {checked}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
