//! The corpus on stable: every file of a target's corpus is given to its property, in the tests of the crate
//! that owns it.
//!
//! Included by path (`fuzz/` is a workspace of its own, and needs nightly). What a fuzzer once found stays
//! found.

#![allow(clippy::print_stdout, reason = "shown where the test fails")]

use std::path::{Path, PathBuf};

/// Calls `property` with each file of `fuzz/corpus/TARGET`. The one that it fails for is printed.
pub fn corpus(target: &str, property: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", corpus.display());
    for file in files {
        let _named = NamedWhereItFails(&file);
        property(&std::fs::read(&file).unwrap());
    }
}

/// Prints its file where a property panics.
struct NamedWhereItFails<'a>(&'a Path);

impl Drop for NamedWhereItFails<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("fails for {}", self.0.display());
        }
    }
}
