//! Comments are as wide as code: rustfmt wraps the one and leaves the other.

use std::fs;
use std::path::Path;

use super::rust_below;

/// `max_width` of rustfmt.toml, in characters.
const WIDTH: usize = 110;

/// A row of a table, and what is drawn or set in columns: another width would be another picture.
fn is_drawn(comment: &str) -> bool {
    let text = comment.trim_start_matches(['/', '!']).trim();
    text.starts_with('|') || text.contains(['─', '▶', '→']) || text.contains("  ")
}

#[test]
fn comments_are_no_wider_than_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut comments = 0;
    for file in
        ["actors", "benches", "src", "tests", "tui"].iter().flat_map(|dir| rust_below(&root.join(dir)))
    {
        for (number, line) in (1..).zip(fs::read_to_string(&file).unwrap().lines()) {
            let text = line.trim_start();
            if !text.starts_with("//") {
                continue;
            }
            comments += 1;
            assert!(
                line.chars().count() <= WIDTH || is_drawn(text),
                "{}:{number}: a comment of more than {WIDTH} columns",
                file.display()
            );
        }
    }
    assert!(comments > 10_000, "{comments}");
}
