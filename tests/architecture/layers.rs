//! Which part of the program may import which. Read out of the source, so that an import against the order is
//! found.

use std::fs;
use std::path::Path;

use super::rust_below;

/// Every part of the program, in an order in which each comes after all that it imports, also within a level.
/// Items directly under `crate::` (the names of the program's roles) may be used by all parts.
const ORDER: [&[&str]; 5] = [STANDS_ALONE, WHAT_IT_IS_TO_BE, PROCESSES, WHAT_IS_DONE, &["main"]];
/// Parts that import no other level.
const STANDS_ALONE: &[&str] =
    &["failure", "built_in", "kept", "sealed", "steps", "logs", "users", "name", "console", "given"];
/// Parts that describe what a sandbox is to be, and where its files are.
const WHAT_IT_IS_TO_BE: &[&str] = &["config", "plan", "waits", "state", "ids", "site"];
/// The processes, in the order in which one makes the other; the supervisor is started by execve.
const PROCESSES: &[&str] = &["children", "builder", "heart", "compose", "start"];
/// The commands on sandboxes.
const WHAT_IS_DONE: &[&str] = &["snapshot", "demo", "cli"];

/// The parts that a line of source imports, singly or in a list.
fn imported(line: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.split("crate::")
        .skip(1)
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(list) => list.split(['}', ',']).map(str::trim).collect(),
            None => vec![rest],
        })
        .map(|text| text.split(|c| !is_word(c)).next().unwrap_or_default())
        .filter(|part| part.starts_with(|c: char| c.is_ascii_lowercase()))
        .collect()
}

#[test]
fn no_arrow_points_back() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let all = rust_below(&src);
    let place = |part: &str| ORDER.iter().copied().flatten().position(|known| *known == part);
    let (mut arrows, mut wrong) = (0, Vec::new());
    for file in &all {
        let from = file.strip_prefix(&src).unwrap();
        let top = from.iter().next().and_then(|top| top.to_str()).unwrap().trim_end_matches(".rs");
        let Some(own) = place(top) else {
            wrong.push(format!("{top} has no place in the order"));
            continue;
        };
        let text = fs::read_to_string(file).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for part in code.flat_map(imported).filter(|part| *part != top) {
            arrows += 1;
            if place(part).is_none_or(|below| below > own) {
                wrong.push(format!("{} imports {part}", from.display()));
            }
        }
    }
    assert!(arrows > 300, "the parts are where they were: {arrows}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn imports_are_read_alone_and_as_a_list() {
    assert_eq!(imported("use crate::state::Name;"), ["state"]);
    assert_eq!(imported("use crate::{given, ids};"), ["given", "ids"]);
    assert_eq!(imported("    crate::console::warn(&crate::SUPERVISOR_ROLE)"), ["console"]);
    assert!(imported("use agent::plan::Ids;").is_empty());
}
