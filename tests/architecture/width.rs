//! Comments are no wider than code: rustfmt wraps code and leaves comments alone.

use std::fs;
use std::path::Path;

use super::rust_below;

/// `max_width` of rustfmt.toml, in characters.
const WIDTH: usize = 110;

/// Whether a comment is a table's row, a drawing or text in columns, which can't be wrapped.
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
        let mut is_example = false;
        for (number, line) in (1..).zip(fs::read_to_string(&file).unwrap().lines()) {
            let text = line.trim_start();
            if !text.starts_with("//") {
                is_example = false;
                continue;
            }
            comments += 1;
            is_example ^= text.contains("```");
            assert!(
                line.chars().count() <= WIDTH || is_example || is_drawn(text),
                "{}:{number}: a comment of more than {WIDTH} columns",
                file.display()
            );
        }
    }
    assert!(comments > 10_000, "{comments}");
}
