//! Checks what the pages say of this repository: each file that they name by its path exists, and each test.

use std::fs;
use std::path::{Path, PathBuf};

use super::rust_below;

/// What a path from the repository's root begins with.
const PLACES: [&str; 9] =
    ["actors/", "benches/", "deploy/", "docs/", "fuzz/", "policies/", "src/", "tests/", "tui/"];
/// Names with at least this many words are taken for tests: tests' names are sentences, other functions'
/// names are shorter.
const WORDS_OF_A_TEST: usize = 5;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let of = |dir: PathBuf| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let pages: Vec<PathBuf> = of(root().into())
        .chain(of(root().join("docs")))
        .filter(|path| path.extension().is_some_and(|e| e == "md") && !path.ends_with("CHANGELOG.md"))
        .collect();
    assert!(pages.len() > 10, "{pages:?}");
    pages
}

/// What stands between backticks on one line.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn what_the_pages_name_is_there() {
    let files = ["actors", "src", "tests", "tui"].into_iter().flat_map(|dir| rust_below(&root().join(dir)));
    let all: String = files.map(|file| fs::read_to_string(file).unwrap()).collect();
    let mut tests = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        for word in quoted(&page) {
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
            if PLACES.iter().any(|place| word.starts_with(place)) && word.chars().all(plain) {
                assert!(root().join(word).exists(), "{}: there is no `{word}`", path.display());
            }
            let parts = word.split('_').collect::<Vec<_>>();
            let lower = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase());
            if parts.len() >= WORDS_OF_A_TEST
                && parts.iter().all(lower)
                && !all.contains(&format!("\"{word}\""))
            {
                assert!(
                    all.contains(&format!("fn {word}(")),
                    "{}: there is no test `{word}`",
                    path.display()
                );
                tests += 1;
            }
        }
    }
    assert!(tests > 3, "{tests}: the pages name tests");
}
