//! The repository itself: the order of the program's parts, each crate's dependencies, and what the pages say
//! of the repository. Read out of the source; nothing is run.

#![expect(clippy::unwrap_used, reason = "a test fails by panic")]

mod dependencies;
mod layers;
mod pages;
mod width;

use std::fs;
use std::path::{Path, PathBuf};

/// Every Rust file below a directory; none where there is no such directory.
fn rust_below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => rust_below(&path),
            false => Vec::from_iter(path.extension().is_some_and(|end| end == "rs").then_some(path)),
        })
        .collect()
}
