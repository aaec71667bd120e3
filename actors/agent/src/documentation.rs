//! The tables of docs/cage.md, from the data that the code runs on.

use crate::control::Control;
use crate::credential_files::{EXCEPT, KNOWN, NAMES, PASSED_BY};
use crate::isolation::{etc, landlock_versions, masks};
use std::fmt::Write;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cage.md");

fn code(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn table(name: &str) -> String {
    let mut out = String::new();
    match name {
        "controls" => {
            out.push_str("| control | what it does |\n|---|---|\n");
            for control in Control::ALL {
                let _ = writeln!(out, "| `{control}` | {} |", control.meaning());
            }
        }
        "etc" => {
            out.push_str("| `/etc/…` | why |\n|---|---|\n");
            for (name, reason) in etc::BOUND {
                let _ = writeln!(out, "| `{name}` | {reason} |");
            }
            let runtimes: Vec<String> =
                etc::BOUND_PREFIXES.iter().map(|prefix| format!("`{prefix}*`")).collect();
            let _ = writeln!(out, "| {} | settings of runtimes |", runtimes.join(", "));
        }
        "masks" => {
            let _ = writeln!(out, "{}.", code(&[masks::FILES, masks::DIRECTORIES].concat()));
        }
        "landlock" => out = landlock_versions::table(),
        "known" => {
            let _ = writeln!(out, "{}.", code(KNOWN));
        }
        "names" => {
            let _ = writeln!(
                out,
                "{}; but nothing that ends in {}, no `id_*` with a dot, and nothing in {}.",
                code(NAMES),
                code(EXCEPT),
                code(PASSED_BY)
            );
        }
        other => panic!("no table `{other}`"),
    }
    out
}

/// The page with every table as the code has it.
fn rendered(page: &str) -> String {
    let mut out = String::new();
    let mut rest = page;
    while let Some((before, after)) = rest.split_once("<!-- table: ") {
        let (name, after) = after.split_once(" -->\n").expect("a marker's end");
        let (_, after) = after.split_once("<!-- end -->").expect("a table's end");
        let _ = write!(out, "{before}<!-- table: {name} -->\n{}<!-- end -->", table(name));
        rest = after;
    }
    out.push_str(rest);
    out
}

mod tests {
    use super::*;

    #[test]
    fn the_page_says_what_the_code_does() {
        let page = std::fs::read_to_string(PAGE).unwrap();
        let now = rendered(&page);
        assert_eq!(now.matches("<!-- table: ").count(), 6);
        if std::env::var_os("COFFERDAM_BLESS").is_some() {
            std::fs::write(PAGE, now).unwrap();
            return;
        }
        assert!(page == now, "docs/cage.md differs from the code: COFFERDAM_BLESS=1 writes it anew");
    }
}
