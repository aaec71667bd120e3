//! `cofferdam snapshot` and `cofferdam restore`: pack what a stopped sandbox has left into one file, and make
//! a sandbox of that file again.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use agent::plan::{Id, Ids};
use bytesize::ByteSize;
use nix::unistd::{getegid, geteuid};
use serde::Serialize;

use crate::cli::Place;
use crate::cli::args::{ApprovalsWord, RestoreArgs, SnapshotArgs};
use crate::console::{as_word, print, print_json, table, warn};
use crate::failure::{Failure, Outcome};
use crate::heart;
use crate::snapshot::{Found, Made, Manifest, Meter, Origin, Wanted, bring, look, make};
use crate::state::{Name, Root};

/// Bytes between two reports of progress.
const WORD_EVERY: u64 = 32 << 20;
/// Characters of an approval that are shown in a table.
const MAX_SHOWN: usize = 200;
/// Clears the current line of a terminal.
const CLEAR: &str = "\r\x1b[K";
/// The id `nobody`: as root, a file is only checked under this id.
const NOBODY: Id = Id { uid: 65534, gid: 65534 };

#[derive(Serialize)]
struct Snapshot<'a> {
    file: &'a Path,
    size: u64,
    manifest: &'a Manifest,
    missing: &'a [String],
}

#[derive(Serialize)]
struct Restored<'a> {
    name: &'a str,
    dir: &'a Path,
    approvals: bool,
    manifest: &'a Manifest,
}

/// `cofferdam snapshot`.
pub fn snapshot(root: &Root, args: &SnapshotArgs) -> Outcome {
    let name = Name::parse(&args.name)?;
    let wanted = Wanted {
        name: &name,
        file: args.file.as_deref(),
        workspace: args.workspace.as_deref(),
        most: args.max_size.as_u64(),
        meter: meter(),
    };
    let made = whole(|| make(root, &wanted))?;
    made.missing.iter().for_each(|text| warn(text));
    match args.json {
        true => print_json(&Snapshot {
            file: &made.file,
            size: made.size,
            manifest: &made.manifest,
            missing: &made.missing,
        })?,
        false => print(&summary(&made))?,
    }
    Ok(0)
}

fn summary(made: &Made) -> String {
    format!(
        "{} holds {} of {} in {}; `cofferdam restore {}` makes a sandbox of it\n",
        made.file.display(),
        size(made.manifest.bytes()),
        made.manifest.name,
        size(made.size),
        as_word(&made.file)
    )
}

/// `cofferdam restore`.
pub(super) fn restore(place: &Place, args: &RestoreArgs) -> Outcome {
    let shown = args.file.display();
    let file = open(&args.file)?;
    let judged = |failure: Failure| Failure { message: format!("{shown}: {}", failure.message), ..failure };
    whole(|| {
        let found = look(&file, looker(), args.max_size.as_u64(), meter()).map_err(judged)?;
        if args.check {
            return told(&found, args.json);
        }
        let Found { manifest, approvals, .. } = found;
        let name = args.name.as_deref().unwrap_or(&manifest.name);
        let name = Name::parse(name)?;
        let keep = decide(&args.file, &approvals, args.approvals)?;
        let brought = bring(&place.root()?, &name, (&file, &manifest), keep, meter()).map_err(judged)?;
        manifest.left_out().iter().for_each(|text| warn(&format!("of the sandbox it was made of, {text}")));
        if args.json {
            let restored = Restored {
                name: name.as_str(),
                dir: &brought.dir,
                approvals: brought.approvals,
                manifest: &manifest,
            };
            print_json(&restored)?;
        } else {
            print(&restored(&name, &manifest, if keep { approvals.len() } else { 0 }))?;
        }
        Ok(0)
    })
}

fn restored(name: &Name, manifest: &Manifest, approvals: usize) -> String {
    let how = match manifest.origin {
        Origin::Elsewhere => "has no files of the agent's, which lay elsewhere",
        Origin::Named | Origin::Own => "has the agent's files in a workspace of its own",
    };
    let approvals = match approvals {
        0 => String::new(),
        n => format!(", and {n} approvals for good are in force"),
    };
    format!(
        "{name} is there, and {how}{approvals}; start it with its policy or cofferdam.yaml, such as `cofferdam run --name {name} -- COMMAND`\n"
    )
}

/// Decides whether to keep the approvals in the file. The maker of the file gave them, who may be another
/// operator, so this operator must say.
fn decide(file: &Path, approvals: &[String], word: Option<ApprovalsWord>) -> Result<bool, Failure> {
    match (approvals, word) {
        ([], _) => Ok(false),
        (_, Some(word)) => Ok(word == ApprovalsWord::Keep),
        (some, None) => Err(Failure::refused(format!(
            "{} brings {} approvals for good, and whoever made it gave them: see `cofferdam restore --check {}`, then say \
             --approvals keep or --approvals drop",
            file.display(),
            some.len(),
            as_word(file)
        ))),
    }
}

fn told(found: &Found, json: bool) -> Outcome {
    let Found { manifest, approvals, budgets } = found;
    if json {
        print_json(&found)?;
        return Ok(0);
    }
    let entries = |n: u64, bytes: u64| format!("{n} entries, {}", size(bytes));
    let workspace = manifest.workspace.as_ref();
    let mut rows = vec![
        vec!["sandbox".into(), manifest.name.clone()],
        vec!["made".into(), format!("{} by cofferdam {}", manifest.made, manifest.cofferdam)],
        vec!["records".into(), entries(manifest.state.holds.entries, manifest.state.holds.bytes)],
        vec![
            "workspace".into(),
            workspace.map_or_else(
                || "not in it: it lay elsewhere".into(),
                |member| entries(member.holds.entries, member.holds.bytes),
            ),
        ],
    ];
    rows.extend(budgets.map(|n| vec!["counts of budgets".into(), format!("{n}, which go on from there")]));
    rows.extend(manifest.left_out().into_iter().map(|text| vec!["not in it".into(), text]));
    rows.extend(approvals.iter().map(|line| vec!["approved for good".into(), cut(line)]));
    print(&table(&rows))?;
    Ok(0)
}

/// Cuts a line of ASCII characters to what a table shows; `--json` has all of it.
fn cut(line: &str) -> String {
    match line.get(..MAX_SHOWN) {
        Some(begin) if line.len() > MAX_SHOWN => format!("{begin}... (cut: --json has all of it)"),
        _ => line.to_owned(),
    }
}

/// Opens a file to restore. Never blocks, even if it is a pipe.
fn open(path: &Path) -> Result<File, Failure> {
    let told = |e: &dyn std::fmt::Display| {
        Failure::refused(format!(
            "can't read {}: {e}; name a file that `cofferdam snapshot` made",
            path.display()
        ))
    };
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|e| told(&e))?;
    match file.metadata().map_err(|e| told(&e))?.is_file() {
        true => Ok(file),
        false => Err(told(&"it is no plain file")),
    }
}

fn looker() -> Ids {
    let operator = match geteuid().is_root() {
        true => NOBODY,
        false => Id { uid: geteuid().as_raw(), gid: getegid().as_raw() },
    };
    Ids::Rootless { operator }
}

/// Does the work with signals held: one that arrives waits until what was half made is removed.
fn whole<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let signals = heart::hold_signals()?;
    agent::own::no_core_files()?;
    let done = work();
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr().lock(), "{CLEAR}");
    }
    // A signal that arrived meanwhile ends this process here.
    match done {
        Ok(_) => signals.release()?,
        Err(_) => signals.heed()?,
    }
    done
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// Returns the function that reports progress on a terminal. It prints only numbers, since the confined
/// process that reads the file calls it.
fn meter() -> Meter {
    static SAID: AtomicU64 = AtomicU64::new(0);
    if !io::stderr().is_terminal() {
        return |_| {};
    }
    |bytes| {
        let word = bytes / WORD_EVERY;
        if word > 0 && SAID.swap(word, Ordering::Relaxed) != word {
            let _ = write!(io::stderr().lock(), "{CLEAR}cofferdam: {} so far", ByteSize(word * WORD_EVERY));
        }
    }
}
