//! Attacks: a workspace that exchanges its files while it is read, and files that somebody else has written.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use bed::Stage;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tar::EntryType;

use crate::forge::{
    Forged, Lies, Member, a_directory, a_file, archive, bomb, compressed, container, entry, record, write,
};
use crate::{file, nothing_came, own, sandbox};

const SECRET: &str = "the-operators-own-secret";

/// The secret may be read by whoever makes the snapshot, and never by way of the workspace.
pub fn links_lead_nowhere_while_they_are_exchanged(stage: &Stage) -> Result<()> {
    /// Snapshots, beside which names are exchanged all the time.
    const ROUNDS: usize = 12;
    let (name, workspace) = (stage.name(), stage.workspace());
    let secrets = stage.dir().join("secrets");
    std::fs::create_dir(&secrets)?;
    std::fs::write(secrets.join("key"), SECRET)?;
    std::fs::set_permissions(secrets.join("key"), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    std::fs::create_dir(workspace.join("dir"))?;
    for plain in ["file", "dir/key", "stable"] {
        std::fs::write(workspace.join(plain), "plain")?;
    }
    std::os::unix::fs::symlink(secrets.join("key"), workspace.join("file.link"))?;
    std::os::unix::fs::symlink(&secrets, workspace.join("dir.link"))?;
    stage
        .run(&["--name", &name, "--workspace", &workspace.display().to_string()], &["true"])?
        .expect_code(0)?;
    let done = AtomicBool::new(false);
    let exchanged = std::thread::scope(|scope| -> Result<u64> {
        let exchange = scope.spawn(|| {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                for (one, other) in [("file", "file.link"), ("dir", "dir.link")] {
                    let (one, other) = (workspace.join(one), workspace.join(other));
                    count += u64::from(
                        renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).is_ok(),
                    );
                }
            }
            count
        });
        let rounds = (0..ROUNDS).try_for_each(|n| -> Result<()> {
            let (path, text) = file(stage, &format!("{n}.cofferdam"));
            let args = ["snapshot", &name, &text, "--workspace", &workspace.display().to_string()];
            stage.call(&args)?.expect_code(0)?;
            let second = format!("{name}-{n}");
            stage.call(&["restore", &text, "--name", &second])?.expect_code(0)?;
            let files = crate::common::files_below(&own(stage, &second));
            ensure!(!files.is_empty());
            for file in files {
                ensure!(!std::fs::read_to_string(&file)?.contains(SECRET), "{} has it", file.display());
            }
            Ok(std::fs::remove_file(path)?)
        });
        done.store(true, Ordering::Relaxed);
        let exchanged = exchange.join().expect("the other thread");
        rounds.map(|()| exchanged)
    })?;
    ensure!(exchanged > 1000, "the control: they were exchanged {exchanged} times");
    Ok(())
}

/// Who makes the snapshot may read all; who reads the workspace for it is the sandbox's user.
pub fn roots_own_files_are_not_read_for_the_agent(stage: &Stage) -> Result<()> {
    let (name, second) = (stage.name(), format!("{}-b", stage.name()));
    sandbox(stage, &name, "mkdir d; printf mine > d/mine; chmod 000 d/mine d")?;
    let secret = stage.dir().join("secret");
    std::fs::write(&secret, SECRET)?;
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    std::fs::hard_link(&secret, own(stage, &name).join("second-name"))?;
    let (_, text) = file(stage, "one.cofferdam");
    let said = stage.call(&["snapshot", &name, &text])?.expect_code(0)?.err();
    ensure!(
        said.contains("1 files or directories can't be read by the user whose directory it is"),
        "{said}"
    );
    stage.call(&["restore", &text, "--name", &second])?.expect_code(0)?;
    let files = crate::common::files_below(&own(stage, &second));
    ensure!(
        files == [own(stage, &second).join("d/mine")],
        "its own are there, whatever their modes: {files:?}"
    );
    Ok(())
}

/// What a start makes the agent's own by an id-mapped mount, and `onboard` makes: nobody else may look into it.
pub fn a_named_workspace_is_read_as_its_owner(stage: &Stage) -> Result<()> {
    const SOMEBODY: u32 = 23_456;
    for (owner, group) in [(0, 0), (SOMEBODY, SOMEBODY), (0, SOMEBODY)] {
        let name = format!("{}-{owner}-{group}", stage.name());
        let workspace = stage.dir().join(format!("work-{owner}-{group}"));
        std::fs::create_dir(&workspace)?;
        std::os::unix::fs::chown(&workspace, Some(owner), Some(group))?;
        std::fs::set_permissions(&workspace, Permissions::from_mode(0o700))?;
        let named = workspace.display().to_string();
        let work = "umask 077; printf mine > mine; mkdir d; printf in > d/in; chmod 744 d; mkdir shut; printf s > shut/s; chmod 0 shut";
        stage.run(&["--name", &name, "--workspace", &named], &["sh", "-c", work])?.expect_code(0)?;
        ensure!(std::fs::metadata(workspace.join("mine"))?.uid() == owner, "the control: an id-mapped mount");
        // Somebody else's in there is not the agent's to read.
        let (theirs, not) = (workspace.join("theirs"), if owner == 0 { SOMEBODY + 1 } else { 0 });
        std::fs::write(&theirs, SECRET)?;
        std::fs::set_permissions(&theirs, Permissions::from_mode(0o640))?;
        std::os::unix::fs::chown(&theirs, Some(not), Some(not))?;
        let (_, text) = file(stage, &format!("{owner}-{group}.cofferdam"));
        // By a root that is in root's group, as one that logs in is.
        let mut command = stage.command(&crate::common::program("setpriv")?);
        command.args(["--groups", "0"]).arg(stage.binary()).env("COFFERDAM_STATE", stage.state());
        command.args(["snapshot", &name, &text, "--workspace", &named]);
        let said = bed::stage::finish(command, bed::stage::PATIENCE)?.expect_code(0)?.err();
        ensure!(said.contains("workspace: 1 files or directories can't be read"), "{said}");
        let second = format!("{name}-b");
        stage.call(&["restore", &text, "--name", &second])?.expect_code(0)?;
        let told =
            stage.run(&["--name", &second], &["sh", "-c", "chmod 700 shut; cat mine d/in shut/s; ls"])?;
        let told = told.expect_code(0)?.out();
        ensure!(told == "mineinsd\nmine\nshut\n", "{told}");
    }
    Ok(())
}

/// One that may be listed and not entered refused the whole.
pub fn what_may_not_be_looked_into_is_counted(stage: &Stage) -> Result<()> {
    let (name, second) = (stage.name(), format!("{}-b", stage.name()));
    sandbox(stage, &name, "printf kept > kept; mkdir d; printf in > d/in; chmod 744 d")?;
    for (sub, mode) in [("listed", 0o744), ("entered", 0o711), ("shut", 0o700)] {
        let dir = own(stage, &name).join(sub);
        std::fs::create_dir(&dir)?;
        std::fs::write(dir.join("in"), SECRET)?;
        std::fs::set_permissions(dir.join("in"), Permissions::from_mode(0o600))?;
        std::fs::set_permissions(&dir, Permissions::from_mode(mode))?;
    }
    let (_, text) = file(stage, "one.cofferdam");
    let said = stage.call(&["snapshot", &name, &text])?.expect_code(0)?.err();
    ensure!(said.contains("workspace: 3 files or directories can't be read"), "{said}");
    stage.call(&["restore", &text, "--name", &second])?.expect_code(0)?;
    let files = crate::common::files_below(&own(stage, &second));
    ensure!(files.len() == 2, "{files:?}");
    Ok(())
}

/// It has more in it than they may see, and would be theirs to change.
pub fn a_snapshot_lies_where_no_agent_writes(stage: &Stage) -> Result<()> {
    let (name, workspace) = (stage.name(), stage.workspace());
    let named = workspace.display().to_string();
    stage.run(&["--name", &name, "--workspace", &named], &["mkdir", "sub"])?.expect_code(0)?;
    let below = workspace.join("sub/one.cofferdam").display().to_string();
    let refused = |args: &[&str]| -> Result<()> {
        let said = stage.call(args)?.expect_code(125)?.err();
        ensure!(said.contains("name a file elsewhere") && said.lines().count() == 1, "{said}");
        ensure!(said.contains("could read and change it"), "{said}");
        Ok(())
    };
    refused(&["snapshot", &name, &below, "--workspace", &named])?;
    // Also where it is not the one that is taken in: agents wrote there once.
    refused(&["snapshot", &name, &below])?;
    let mut here = stage.cofferdam(["snapshot", &name, "--workspace", "."]);
    here.current_dir(&workspace);
    let said = bed::stage::finish(here, bed::stage::PATIENCE)?.expect_code(125)?.err();
    ensure!(said.contains("name a file elsewhere"), "{said}");
    let other = format!("{name}-own");
    sandbox(stage, &other, "true")?;
    refused(&["snapshot", &other, &own(stage, &other).join("one").display().to_string()])?;
    // A directory that no agent of it had before, but is named now.
    let third = stage.dir().join("third");
    std::fs::create_dir(&third)?;
    refused(&[
        "snapshot",
        &other,
        &third.join("one").display().to_string(),
        "--workspace",
        &third.display().to_string(),
    ])?;
    ensure!(std::fs::read_dir(&workspace)?.count() == 1 && std::fs::read_dir(&third)?.count() == 0);
    Ok(())
}

/// All sandboxes' records would be in it, as an agent's files.
pub fn a_directory_with_state_in_it_is_no_workspace(stage: &Stage) -> Result<()> {
    let name = stage.name();
    sandbox(stage, &name, "true")?;
    let (path, text) = file(stage, "one.cofferdam");
    for state in [stage.state().to_owned(), stage.state().join(&name), stage.state().join(&name).join("logs")]
    {
        let args = ["snapshot", &name, &text, "--workspace", &state.display().to_string()];
        let said = stage.call(&args)?.expect_code(125)?.err();
        ensure!(said.contains("holds state of cofferdam's"), "{said}");
        ensure!(!path.exists());
    }
    let named = own(stage, &name).display().to_string();
    stage.call(&["snapshot", &name, &text, "--workspace", &named])?.expect_code(0)?;
    Ok(())
}

/// Deeper than a path is long, with directories that nobody may enter; and what is another user's.
pub fn what_an_earlier_restore_left_refuses_no_later_one(stage: &Stage) -> Result<()> {
    use nix::fcntl::{OFlag, openat};
    use nix::sys::stat::{Mode, fchmod, mkdirat};
    let (name, second) = (stage.name(), format!("{}-b", stage.name()));
    sandbox(stage, &name, "printf x > file")?;
    let (_, text) = file(stage, "one.cofferdam");
    stage.call(&["snapshot", &name, &text])?.expect_code(0)?;
    let restoring = stage.state().join(".restoring");
    let owned =
        |dir: &std::os::fd::OwnedFd| std::os::unix::fs::fchown(dir, Some(stage.uid()), Some(stage.uid()));
    std::fs::create_dir(&restoring)?;
    std::fs::set_permissions(&restoring, Permissions::from_mode(0o700))?;
    let mut way: Vec<std::os::fd::OwnedFd> = vec![std::fs::File::open(&restoring)?.into()];
    owned(&way[0])?;
    let long = "d".repeat(250);
    for _ in 0..40 {
        let above = way.last().expect("one");
        mkdirat(above, long.as_str(), Mode::S_IRWXU)?;
        let below = openat(above, long.as_str(), OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
        owned(&below)?;
        way.push(below);
    }
    for dir in way.iter().skip(1) {
        fchmod(dir, Mode::empty())?;
    }
    drop(way);
    // Root's, with something in it: the operator can't.
    let roots = restoring.join(&second);
    std::fs::create_dir(&roots)?;
    std::fs::write(roots.join("file"), "x")?;
    let said = stage.call(&["restore", &text, "--name", &second])?.expect_code(0)?.err();
    ensure!(said.contains("what an earlier restore left can't be removed"), "{said}");
    ensure!(said.contains(&roots.display().to_string()) && !said.contains(&long), "{said}");
    ensure!(std::fs::read(own(stage, &second).join("file"))? == b"x");
    let there = std::fs::read_dir(&restoring)?.count();
    ensure!(there == 2, "the lock, and what can't go: {there}");
    std::fs::remove_dir_all(&roots)?;
    // The lock is nobody's name.
    stage.call(&["restore", &text, "--name", "lock"])?.expect_code(0)?;
    ensure!(std::fs::read(own(stage, "lock").join("file"))? == b"x");
    nothing_came(stage, "none")
}

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
    // A sandbox that has such is told before it is needed.
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

/// A long name of a program hid the path behind the place where a line was cut.
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
    ensure!(lines[0] == format!("GET api.bed.test:443{spelt} by {binary}").as_str(), "{}", lines[0]);
    let told = stage.call(&["restore", "--check", &file])?.expect_code(0)?.out();
    ensure!(
        told.contains("GET api.bed.test:443/1/ppp") && told.contains("(cut: --json has all of it)"),
        "{told}"
    );
    ensure!(!told.contains('\u{1b}') && told.lines().all(|line| line.len() < 300), "{told}");
    Ok(())
}

/// Empty ones, too: a disk is full of them as of any other.
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

/// A file, and what is said of it.
type Attack = (&'static str, Vec<u8>, &'static str);

fn members(what: &'static str, workspace: Vec<Member>, said: &'static str) -> Attack {
    (what, Forged::of(workspace).bytes(), said)
}

fn attacks(outside: &Path) -> Vec<Attack> {
    let outside = outside.display().to_string();
    let link = |name: &str, target: &str| entry(EntryType::Symlink, name, target, "");
    let hard = |name: &str, target: &str| entry(EntryType::Link, name, target, "");
    let usual = a_file("f", "x").extended();
    let headers =
        |what, before, said| members(what, vec![Member { before: Some(before), ..a_file("f", "x") }], said);
    let mut all = vec![
        members("a name that leads upwards", vec![a_file("../escaped", "x")], "leads upwards"),
        members("one in the middle", vec![a_directory("a"), a_file("a/../../escaped", "x")], "leads upwards"),
        members("an absolute name", vec![a_file("/tmp/escaped", "x")], "absolute"),
        members(
            "a file behind a link",
            vec![link("l", &outside), a_file("l/escaped", "x")],
            "no directory that came before it",
        ),
        members(
            "a directory that is a link by then",
            vec![a_directory("l"), link("l", &outside), a_file("l/escaped", "x")],
            "there twice",
        ),
        members(
            "a hard link outside",
            vec![hard("h", &format!("../../../../..{outside}/canary"))],
            "leads upwards",
        ),
        members("an absolute hard link", vec![hard("h", &format!("{outside}/canary"))], "absolute"),
        members(
            "a hard link to a link",
            vec![link("l", &outside), hard("h", "l")],
            "no file that came before it",
        ),
        members(
            "a hard link to what comes later",
            vec![hard("h", "f"), a_file("f", "x")],
            "no file that came before it",
        ),
        members("a device", vec![entry(EntryType::Char, "null", "", "")], "a device or a pipe"),
        members("a pipe", vec![entry(EntryType::Fifo, "pipe", "", "")], "a device or a pipe"),
        members("a file twice", vec![a_file("f", "one"), a_file("f", "two")], "there twice"),
        members(
            "the same by another spelling",
            vec![a_file("f", "one"), a_file("./f", "two")],
            "there twice",
        ),
        members("no directory", vec![a_file("d/f", "x")], "no directory that came before it"),
        members("the directory itself", vec![a_directory(".")], "the directory itself"),
        members("an unknown kind", vec![entry(EntryType::new(b'Z'), "z", "", "")], "unknown"),
        members(
            "a set-id bit",
            vec![Member { mode: 0o4755, ..a_file("f", "x") }],
            "not written as a snapshot's",
        ),
        members(
            "a name in its own header",
            vec![Member { plain_name: Some("other"), ..a_file("f", "x") }],
            "not written as",
        ),
        headers("no extended header", vec![], "has no extended header"),
        headers("two extended headers", vec![usual.clone(), usual.clone()], "two extended headers"),
        headers(
            "a long name of GNU's behind it",
            vec![usual.clone(), (EntryType::GNULongName, b"other\0".to_vec())],
            "no snapshot has",
        ),
        headers(
            "a long name of GNU's before it",
            vec![(EntryType::GNULongName, b"other\0".to_vec()), usual.clone()],
            "no snapshot has",
        ),
        headers(
            "a long link of GNU's",
            vec![(EntryType::GNULongLink, b"other\0".to_vec()), usual.clone()],
            "no snapshot has",
        ),
        headers(
            "a global header",
            vec![(EntryType::XGlobalHeader, record("path", b"other")), usual.clone()],
            "no snapshot has",
        ),
        headers(
            "a second name",
            vec![(EntryType::XHeader, [record("path", b"other"), usual.1.clone()].concat())],
            "not written as",
        ),
        headers(
            "another key",
            vec![(EntryType::XHeader, [usual.1.clone(), record("hdrcharset", b"BINARY")].concat())],
            "not written as",
        ),
        headers(
            "a size",
            vec![(EntryType::XHeader, [usual.1.clone(), record("size", b"1")].concat())],
            "not written as",
        ),
        headers("no time", vec![(EntryType::XHeader, record("path", b"f"))], "not written as"),
        headers(
            "a long extended header",
            vec![(EntryType::XHeader, record("comment", &[b'x'; 8400]))],
            "an extended header is more than",
        ),
        members("a link that no system takes", vec![link("l", &"x".repeat(4096))], "too long"),
        members("a sparse file of GNU's", vec![entry(EntryType::GNUSparse, "s", "", "")], "sparse"),
    ];
    let state = |what, member: Member, said| {
        (what, Forged { state: vec![member], ..Forged::of(Vec::new()) }.bytes(), said)
    };
    all.extend([
        state("another file of the state directory", a_file("ids", "0\n"), "no place in a snapshot"),
        state("a lock", a_file("lock", ""), "no place in a snapshot"),
        state("a link among the records", link("audit.jsonl", "/etc/passwd"), "records have none"),
        state("approvals that are none", a_file("approvals.json", "{}"), "its approvals can't be read"),
        state(
            "numbers that overflow",
            a_file("approvals.json", r#"{"last_id":18446744073709551615,"questions":{}}"#),
            "numbers that can't be",
        ),
        state("a directory that is a file", a_directory("approvals.json"), "no place in a snapshot"),
    ]);
    let lies = |what, lies: Lies, said| {
        (what, Forged { lies, ..Forged::of(vec![a_file("f", "content"), a_file("g", "")]) }.bytes(), said)
    };
    all.extend([
        lies(
            "a wrong digest",
            Lies { digest: Some(format!("sha256:{}", "0".repeat(64))), ..Lies::default() },
            "is not what its digest",
        ),
        lies("no digest", Lies { digest: Some("sha256:0".into()), ..Lies::default() }, "no digest"),
        lies(
            "fewer entries said",
            Lies { entries: Some(1), ..Lies::default() },
            "more entries than its manifest says",
        ),
        lies("no entries said", Lies { entries: Some(0), ..Lies::default() }, "larger than what is in it"),
        lies("more entries said", Lies { entries: Some(3), ..Lies::default() }, "its manifest says"),
        lies("fewer bytes said", Lies { bytes: Some(1), ..Lies::default() }, "more than its manifest says"),
        lies(
            "a smaller archive said",
            Lies { archive: Some(512), ..Lies::default() },
            "more than its manifest says",
        ),
    ]);
    let stored = |what, stored: Vec<u8>, lies: Lies, said| {
        (what, Forged { lies, stored: Some(stored), ..Forged::of(vec![a_file("f", "x")]) }.bytes(), said)
    };
    let whole = archive(&[a_file("f", "x")]);
    let behind = [whole.clone(), vec![0; 4096], b"more".to_vec()].concat();
    all.extend([
        stored(
            "a second gzip member",
            [compressed(&whole), compressed(b"")].concat(),
            Lies::default(),
            "behind its compressed archive",
        ),
        stored(
            "something behind the gzip member",
            [compressed(&whole), b"x".to_vec()].concat(),
            Lies::default(),
            "behind its compressed archive",
        ),
        stored("a bomb", bomb(64 << 20), Lies::default(), "hold more than its manifest says"),
        stored(
            "a bomb in its archive",
            bomb(64 << 20),
            Lies { bytes: Some(1 << 30), archive: Some(4096), ..Lies::default() },
            "unpacks to more than its manifest says",
        ),
        stored(
            "a bomb that says so",
            bomb(4 << 20),
            Lies { bytes: Some(1 << 40), archive: Some(1 << 40), ..Lies::default() },
            "raise it with --max-size",
        ),
        stored(
            "one in what pads it",
            bomb(4 << 20),
            Lies { archive: Some(1 << 40), ..Lies::default() },
            "larger than what is in it",
        ),
        stored(
            "something behind the end",
            compressed(&behind),
            Lies { archive: Some(behind.len() as u64), ..Lies::default() },
            "behind the end",
        ),
        stored("no compression", whole.clone(), Lies::default(), "can't be read"),
        stored("half an archive", compressed(&whole[..700]), Lies::default(), "can't be read"),
        stored("nothing", Vec::new(), Lies::default(), "can't be read"),
    ]);
    let good = Forged::of(vec![a_file("f", "x")]).bytes();
    all.extend([
        ("an empty file", Vec::new(), "no snapshot of cofferdam's"),
        ("another file", b"#!/bin/sh\n".repeat(1000), "no snapshot of cofferdam's"),
        ("one that is cut off", good[..good.len() - 512].to_vec(), "cut off"),
        ("one that is cut in a member", good[..900].to_vec(), "cut off"),
        ("something behind it", [good.clone(), vec![b'x'; 512]].concat(), "where it should end"),
        ("zeros behind it", [good.clone(), vec![0; 512]].concat(), "where it should end"),
        (
            "another member",
            container([("evil", b"x".to_vec()), ("manifest.json", b"{}".to_vec())]),
            "has no place in it",
        ),
        (
            "a member twice",
            container([
                ("state.tar.gz", Vec::new()),
                ("state.tar.gz", Vec::new()),
                ("manifest.json", b"{}".to_vec()),
            ]),
            "has no place in it",
        ),
        ("no manifest's text", container([("manifest.json", b"[".to_vec())]), "its manifest"),
        ("a later format", container([("manifest.json", br#"{"format":2}"#.to_vec())]), "of format 2"),
    ]);
    let named = |name: &str| {
        let at = good.windows(6).position(|bytes| bytes == b"forged").expect("its name");
        let mut bytes = good.clone();
        bytes[at..at + 6].copy_from_slice(name.as_bytes());
        bytes
    };
    all.extend([
        ("a name that leads upwards, as the sandbox's", named("../../"), "name"),
        ("a name with a dot", named(".choos"), "name"),
    ]);
    all
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
        // A name is no part of what is checked.
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
    // The control: what is forged as it should be is restored, and links that lead out are but links.
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

/// Wherever one bit is another, it is noticed: there are no bytes that nobody answers for.
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
            // What the manifest says of the time and the name is nobody's digest.
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
