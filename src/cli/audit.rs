//! `cofferdam audit`: verifies and shows the audit log of a running or ended sandbox.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use telemetry::audit::{HEAD_NAME, Line, Lines, Record, Report, Trouble, open_all, verify};

use crate::cli::Place;
use crate::cli::args::AuditCommand;
use crate::console::{harmless, print, print_json, table};
use crate::failure::{Failure, Outcome};
use crate::state::Name;

/// Runs `audit verify` or `audit show`.
pub(super) fn audit(place: &Place, command: &AuditCommand) -> Outcome {
    match command {
        AuditCommand::Verify { name, json } => check(&directory(place, name)?, *json),
        AuditCommand::Show { name, json } => {
            show(&directory(place, name)?, *json, |line| print(&format!("{line}\n")))?;
            Ok(0)
        }
    }
}

/// Returns the directory of the audit log. `name` is a sandbox's name, or a path to a log or to its
/// directory.
fn directory(place: &Place, name: &str) -> Result<PathBuf, Failure> {
    let path = Path::new(name);
    if name.contains('/') || path.extension().is_some() {
        let dir = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        // The parent of a bare file name is the empty path.
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        return match holds_a_log(dir) {
            true => Ok(dir.to_owned()),
            false => {
                Err(Failure::refused(format!("no audit log in {}: name the directory of one", dir.display())))
            }
        };
    }
    let dir = place.root()?.enter(&Name::parse(name)?)?;
    match holds_a_log(&dir) {
        true => Ok(dir),
        false => {
            let why = format!("no audit log in {}: is '{name}' the sandbox's name?", dir.display());
            Err(Failure::refused(why))
        }
    }
}

/// Whether any file of an audit log is there. If only the head file is left, the log was removed: `verify`
/// reports that, and also why an existing log can't be read.
fn holds_a_log(dir: &Path) -> bool {
    dir.join(HEAD_NAME).exists() || open_all(dir).map_or(dir.is_dir(), |files| !files.is_empty())
}

fn check(dir: &Path, json: bool) -> Outcome {
    let report = verify(dir).map_err(|e| Failure::refused(e.to_string()))?;
    if json {
        print_json(&report)?;
    } else if report.intact() {
        print(&format!(
            "{} records, {} to {}, unbroken; the last hash is {}\n",
            report.records, report.first_seq, report.last_seq, report.last_hash
        ))?;
    } else {
        print(&findings(&report))?;
    }
    if report.intact() {
        return Ok(0);
    }
    Err(Failure::refused(format!(
        "the audit log in {} is not what was written: keep it as it is, and compare it with a copy that was made elsewhere",
        dir.display()
    )))
}

fn findings(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report
        .findings
        .iter()
        .map(|f| vec![format!("{}:{}", f.file.display(), f.line), words(&f.trouble)])
        .collect();
    table(&rows)
}

fn words(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Malformed => "not a record".into(),
        Trouble::Changed => "changed after it was written".into(),
        Trouble::Replaced => "the record before it is not the one it was written after".into(),
        Trouble::Missing { from, to } => format!("records {from} to {to} are missing"),
        Trouble::OutOfOrder { expected, found } => format!("record {found} stands where {expected} belongs"),
        Trouble::CutOff { written, found } => {
            format!("cut off: {written} records were written, {found} are here")
        }
        Trouble::PrunedUnread { through } => {
            format!("records up to {through} were deleted though the one behind them couldn't be read")
        }
        Trouble::NotTheHead => "the last record is not the one that was written last".into(),
        Trouble::NoHead => "the head file is missing, so a cut end could not be seen".into(),
    }
}

fn show(dir: &Path, json: bool, mut put: impl FnMut(&str) -> io::Result<()>) -> Result<(), Failure> {
    for (_, file) in open_all(dir).map_err(|e| Failure::refused(e.to_string()))? {
        let mut lines = Lines::of(file);
        while let Some(line) = lines.next()? {
            let line = match line {
                Line::Whole(line) => String::from_utf8_lossy(line),
                Line::TooLong if json => continue,
                Line::TooLong => Cow::from("a line longer than any record"),
                // The line is being written, or a crash left it unfinished; `verify` and the next start
                // report that.
                Line::Unfinished(_) => break,
            };
            let text = if json { line.into_owned() } else { harmless(&human(&line)) };
            put(&text)?;
        }
    }
    Ok(())
}

/// Formats a record as one line: time, kind, and the fields that aren't empty.
fn human(line: &str) -> String {
    let Ok(record) = serde_json::from_str::<Record>(line) else { return format!("(not a record) {line:?}") };
    let mut text = format!("{:>6}  {}  ", record.seq, record.t.strftime("%Y-%m-%d %H:%M:%S%.3f"));
    let Value::Object(fields) = &record.event else { return text };
    text.push_str(fields.get("kind").and_then(Value::as_str).unwrap_or("?"));
    for (key, value) in fields.iter().filter(|(key, _)| *key != "kind") {
        match value {
            Value::Null => {}
            Value::String(value) if value.is_empty() => {}
            // JSON's own escapes keep an agent's control bytes off the terminal.
            other => text.push_str(&format!("  {key}={other}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line that its writer hasn't finished is no record, and a line that isn't UTF-8 doesn't end the
    /// output.
    #[test]
    fn whole_lines_are_shown_and_all_of_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(telemetry::audit::LOG_NAME), b"{}\n\xff\n[]\n{\"seq\":4,\"t\"")
            .unwrap();
        for json in [true, false] {
            let mut shown = Vec::new();
            show(dir.path(), json, |line| {
                shown.push(line.to_owned());
                Ok(())
            })
            .unwrap();
            let wanted = ["{}", "\u{fffd}", "[]"]
                .map(|line| if json { line.to_owned() } else { format!("(not a record) {line:?}") });
            assert_eq!(shown, wanted);
        }
    }
}
