//! Judges the report that the scripts inside print, line by line.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// One line of a script (`inside/probe.py` says what the fields mean).
#[derive(Debug, Deserialize)]
struct Line {
    kind: Kind,
    name: String,
    expect: Vec<String>,
    got: String,
    said: String,
    why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Attack,
    Control,
}

/// How much a theme tries: fewer lines mean that a script broke off, and a broken script proves nothing.
#[derive(Debug, Clone, Copy)]
pub struct AtLeast {
    /// Refusals.
    pub attacks: usize,
    /// Controls that must work.
    pub controls: usize,
}

/// Fails if any line isn't as it must be, else returns the numbers of attacks and controls as text.
pub fn judge(theme: &str, lines: &str, at_least: AtLeast) -> Result<String> {
    let lines: Vec<Line> = lines
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("{theme}: no line of ours: {line}")))
        .collect::<Result<_>>()?;
    let wrong: Vec<String> = lines.iter().filter(|line| !line.expect.contains(&line.got)).map(told).collect();
    ensure!(
        wrong.is_empty(),
        "{theme}: {} of {} went wrong:\n{}",
        wrong.len(),
        lines.len(),
        wrong.join("\n")
    );
    let (attacks, controls): (Vec<&Line>, Vec<&Line>) =
        lines.iter().partition(|line| line.kind == Kind::Attack);
    ensure!(
        attacks.len() >= at_least.attacks && controls.len() >= at_least.controls,
        "{theme}: only {} attacks and {} controls ran, not {at_least:?}",
        attacks.len(),
        controls.len()
    );
    let names: BTreeSet<&str> = lines.iter().map(|line| line.name.as_str()).collect();
    ensure!(names.len() == lines.len(), "{theme}: two lines have one name");
    ensure!(lines.iter().all(|line| !line.why.is_empty()), "{theme}: a line doesn't say why");
    Ok(format!("{} attacks refused, {} controls alive", attacks.len(), controls.len()))
}

fn told(line: &Line) -> String {
    let must = match line.kind {
        Kind::Attack => "must be refused by",
        Kind::Control => "must give",
    };
    format!(
        "  {} {must} {}, gave {}: {} ({})",
        line.name,
        line.expect.join(" or "),
        line.got,
        line.said,
        line.why
    )
}
