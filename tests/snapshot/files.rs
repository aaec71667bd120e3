//! Files that another program has written: their content is checked, and nothing is restored from a file that
//! no snapshot would have made.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Result, ensure};
use bed::Stage;
use tar::EntryType;

use crate::attacks::attacks;
use crate::forge::{Forged, Member, a_directory, a_file, entry, write};
use crate::{file, nothing_came, own, sandbox};

pub fn counts_of_budgets_are_judged_and_nobody_elses(stage: &Stage) -> Result<()> {
    let counts = r#"{"version":1,"budgets":[{"per":"day","window":1796083200,"tokens":5,"requests":1}]}"#;
    for (n, bad) in
        ["garbage", "{}", r#"{"version":1,"counts":[]}"#, &counts.replace("5,", "-5,")].iter().enumerate()
    {
        let forged = Forged { state: vec![a_file("budgets.json", bad)], ..Forged::of(Vec::new()) };
        let path = write(stage, &format!("{n}.cofferdam"), &forged.bytes())?.display().to_string();
        for args in [vec!["restore", &path], vec!["restore", "--check", &path]] {
            let said = stage.call(&args)?.expect_code(125)?.err();
            ensure!(said.contains("its counts of budgets (budgets.json) can't be read"), "{bad}: {said}");
        }
        nothing_came(stage, "forged")?;
    }
    // A sandbox that has such files is warned about when the snapshot is made, before it is needed.
    let name = stage.name();
    sandbox(stage, &name, "true")?;
    stage.write(&format!("state/{name}/budgets.json"), "garbage")?;
    let (path, text) = file(stage, "made.cofferdam");
    let said = stage.call(&["snapshot", &name, &text])?.expect_code(125)?.err();
    let dir = stage.state().join(&name).display().to_string();
    ensure!(said.contains("counts of budgets (budgets.json) can't be read") && said.contains(&dir), "{said}");
    ensure!(!path.exists());
    let member = Member { mode: 0, ..a_file("budgets.json", counts) };
    let forged = Forged { state: vec![member], ..Forged::of(Vec::new()) };
    let path = write(stage, "good.cofferdam", &forged.bytes())?.display().to_string();
    let check = stage.json(&["restore", "--check", &path, "--json"])?;
    ensure!(check["budgets"] == 1, "{check}");
    stage.call(&["restore", &path])?.expect_code(0)?;
    let found = std::fs::metadata(stage.state().join("forged/budgets.json"))?;
    ensure!(found.mode() & 0o7777 == 0o600, "{:o}", found.mode());
    Ok(())
}

/// A program's long name must not push the path beyond the place where a line is cut.
pub fn approvals_are_shown_whole_and_what_they_open_first(stage: &Stage) -> Result<()> {
    let binary = format!("/usr/bin/{}", "x".repeat(300));
    let path = |n: u64| format!("/{n}/{}\u{1b}[2J", "p".repeat(1000));
    let question = |n: u64| {
        serde_json::json!({
            "asked": { "host": "api.bed.test", "port": 443, "method": "GET", "path": path(n), "binary": binary, "sha256": "0" },
            "answer": { "approved": { "scope": "good", "rule": {} } },
            "generation": 1, "count": 1, "first_at": "2026-01-01T00:00:00Z", "last_at": "2026-01-01T00:00:00Z", "by": 0,
        })
    };
    let questions: serde_json::Map<_, _> = (1..=250).map(|n| (n.to_string(), question(n))).collect();
    let kept = serde_json::json!({ "last_id": 250, "questions": questions }).to_string();
    let forged = Forged { state: vec![a_file("approvals.json", &kept)], ..Forged::of(Vec::new()) };
    let file = write(stage, "one.cofferdam", &forged.bytes())?.display().to_string();
    let check = stage.json(&["restore", "--check", &file, "--json"])?;
    let lines = check["approvals"].as_array().cloned().unwrap_or_default();
    ensure!(lines.len() == 250, "{}", lines.len());
    let spelt = path(1).replace('\u{1b}', "\\u{1b}");
    let whole = format!("\"GET api.bed.test:443{spelt}\" by \"{binary}\" (sha256 0)");
    ensure!(lines[0] == whole.as_str(), "{}", lines[0]);
    let told = stage.call(&["restore", "--check", &file])?.expect_code(0)?.out();
    ensure!(
        told.contains("\"GET api.bed.test:443/1/ppp") && told.contains("(cut: --json has all of it)"),
        "{told}"
    );
    ensure!(!told.contains('\u{1b}') && told.lines().all(|line| line.len() < 300), "{told}");
    Ok(())
}

/// Empty entries count too: they fill a disk as well.
pub fn every_entry_counts(stage: &Stage) -> Result<()> {
    let name = stage.name();
    sandbox(stage, &name, "for n in $(seq 600); do : > $n; done")?;
    let (path, text) = file(stage, "one.cofferdam");
    let said = stage.call(&["snapshot", &name, &text, "--max-size", "2MiB"])?.expect_code(125)?.err();
    ensure!(said.contains("4096 for each entry") && said.contains("raise it with --max-size"), "{said}");
    ensure!(!path.exists());
    stage.call(&["snapshot", &name, &text])?.expect_code(0)?;
    for args in [vec!["restore", "--check", &text], vec!["restore", &text, "--name", "second"]] {
        let said = stage.call(&[args.as_slice(), &["--max-size", "2MiB"]].concat())?.expect_code(125)?.err();
        ensure!(said.contains("raise it with --max-size"), "{said}");
    }
    nothing_came(stage, "second")
}

fn refuses_all(stage: &Stage) -> Result<()> {
    let outside = stage.dir().join("outside");
    std::fs::create_dir(&outside)?;
    std::fs::write(outside.join("canary"), "as it was")?;
    if stage.uid() != nix::unistd::geteuid().as_raw() {
        std::os::unix::fs::chown(&outside, Some(stage.uid()), Some(stage.uid()))?;
        std::os::unix::fs::chown(outside.join("canary"), Some(stage.uid()), Some(stage.uid()))?;
    }
    let attacks = attacks(&outside);
    ensure!(attacks.len() > 45, "{}", attacks.len());
    for (what, bytes, said) in attacks {
        let path = write(stage, "hostile.cofferdam", &bytes)?.display().to_string();
        let check = stage.call(&["restore", "--check", &path])?;
        let done = stage.call(&["restore", &path])?;
        ensure!(done.code() == 125, "{what}: {} {}", done.code(), done.out());
        ensure!(done.err().contains(said), "{what}: {}", done.err());
        ensure!(done.err().lines().count() == 1, "{what}: {}", done.err());
        // `--check` doesn't check the name.
        ensure!(
            check.code() == 125 || what.contains("name with a dot") || what.contains("as the sandbox's"),
            "{what}: {}",
            check.out()
        );
        nothing_came(stage, "forged")?;
        ensure!(std::fs::read_to_string(outside.join("canary"))? == "as it was", "{what}");
        ensure!(std::fs::metadata(outside.join("canary"))?.nlink() == 1, "{what}");
        ensure!(!outside.join("escaped").exists() && !Path::new("/tmp/escaped").exists(), "{what}");
        ensure!(!stage.state().join("escaped").exists() && !stage.dir().join("escaped").exists(), "{what}");
    }
    // The control: a well-formed forged snapshot is restored, and links that lead out are restored as links.
    let links = vec![
        a_directory("d"),
        a_file("d/f", "content"),
        entry(EntryType::Symlink, "out", &outside.display().to_string(), ""),
        entry(EntryType::Link, "again", "d/f", ""),
        entry(EntryType::Symlink, "longest", &"x".repeat(4095), ""),
    ];
    let path = write(stage, "good.cofferdam", &Forged::of(links).bytes())?.display().to_string();
    stage.call(&["restore", &path])?.expect_code(0)?;
    let restored = own(stage, "forged");
    ensure!(std::fs::read(restored.join("again"))? == b"content");
    ensure!(std::fs::read_link(restored.join("longest"))?.as_os_str().len() == 4095);
    ensure!(std::fs::read_link(restored.join("out"))? == outside);
    let seen = stage.run(&["--name", "forged"], &["sh", "-c", "cat out/canary; cat d/f"])?;
    ensure!(!seen.out().contains("as it was") && seen.out().contains("content"), "{}", seen.out());
    Ok(())
}

pub fn hostile_files_make_nothing(stage: &Stage) -> Result<()> {
    refuses_all(stage)
}

pub fn a_hostile_file_writes_nothing_elsewhere_as_root(stage: &Stage) -> Result<()> {
    refuses_all(stage)
}

/// A flipped bit is noticed wherever it is: every byte is covered by a check.
pub fn every_changed_byte_is_noticed(stage: &Stage) -> Result<()> {
    let name = stage.name();
    sandbox(stage, &name, "printf content > file")?;
    let (path, text) = file(stage, "one.cofferdam");
    stage.call(&["snapshot", &name, &text])?.expect_code(0)?;
    let whole = std::fs::read(&path)?;
    let legible = ["made", "cofferdam", "name"];
    let mut noticed = 0;
    for at in (0..whole.len()).step_by(whole.len().div_ceil(160)) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        let changed = write(stage, "changed.cofferdam", &bytes)?.display().to_string();
        let check = stage.call(&["restore", "--check", &changed])?;
        if check.code() == 0 {
            // The time and the name in the manifest aren't covered by any digest.
            let line = whole[..at].iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
            let line = String::from_utf8_lossy(&whole[line..(at + 60).min(whole.len())]).into_owned();
            ensure!(
                legible.iter().any(|key| line.contains(key))
                    || line.contains("left_out")
                    || line.contains("\": 0"),
                "byte {at}: {line}"
            );
        } else {
            noticed += 1;
        }
    }
    ensure!(noticed > 100, "{noticed}");
    Ok(())
}
