//! A full round trip: the tree, the approvals, the record, and what is refused even if nobody is hostile.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Mode, PATIENCE, poll};
use nix::sys::signal::Signal;

use crate::common::{self, START, program};
use crate::tree::tree;
use crate::{file, nothing_came, own, sandbox};

/// What an agent may do to its workspace, and a shell can.
const WORK: &str = r#"
mkdir -p project/src .config "$(printf 'new\nline')"
printf 'hello\n' > project/src/main
printf 'odd' > "$(printf 'a\377b\033[2J')"
printf '' > -rf
ln -s /etc/shadow outside; ln -s ../.. project/up; ln -s nowhere dangling
ln project/src/main second; chmod 640 project/src/main
printf '#!/bin/sh\n' > run; chmod 755 run
mkdir shut; printf s > shut/inner; chmod 400 shut/inner; chmod 000 shut
mkdir readonly; printf r > readonly/file; chmod 555 readonly
truncate -s 3000000 sparse; printf end >> sparse
touch -d '1969-12-31 23:59:58.25 UTC' old; touch -h -d '2001-01-01 00:00:00.5 UTC' dangling
touch -d '2002-02-02 UTC' project
n=$(printf '%0250d' 7); printf long > "$n"
d=deep; for i in $(seq 100); do d=$d/d; done; mkdir -p $d; printf deep > $d/file
"#;

pub fn a_round_trip_gives_the_same_tree(stage: &Stage) -> Result<()> {
    let (name, second) = (stage.name(), format!("{}-b", stage.name()));
    sandbox(stage, &name, WORK)?;
    // Set-id bits, which no process inside can set; a snapshot must not carry them in either direction.
    let run = own(stage, &name).join("run");
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o6755))?;
    let before = tree(&own(stage, &name))?;
    ensure!(before.len() > 120, "the control: there is something: {}", before.len());
    let (path, text) = file(stage, "one.cofferdam");
    let made = stage.json(&["snapshot", &name, &text, "--json"])?;
    ensure!(made["missing"].as_array().is_some_and(Vec::is_empty), "{made}");
    ensure!(std::fs::metadata(&path)?.mode() & 0o7777 == 0o600);
    ensure!(std::fs::metadata(&path)?.uid() == stage.uid());
    let stored = std::fs::metadata(&path)?.len();
    ensure!(made["size"].as_u64() == Some(stored) && stored < 200_000, "compressed: {made}");
    let check = stage.json(&["restore", "--check", &text, "--json"])?;
    ensure!(check["manifest"] == made["manifest"], "{check}");
    nothing_came(stage, &second)?;

    let restored = stage.json(&["restore", &text, "--name", &second, "--json"])?;
    ensure!(restored["name"] == second.as_str() && restored["approvals"] == false, "{restored}");
    let after = tree(&own(stage, &second))?;
    for (path, entry) in &before {
        ensure!(after.get(path) == Some(entry), "{path:?}: {entry:?}, restored {:?}", after.get(path));
    }
    ensure!(after.len() == before.len());
    ensure!(std::fs::metadata(own(stage, &second).join("run"))?.mode() & 0o7777 == 0o755, "no set-id bit");
    let inode =
        |name: &str| Ok::<u64, std::io::Error>(std::fs::metadata(own(stage, &second).join(name))?.ino());
    ensure!(inode("second")? == inode("project/src/main")?, "two names of one file");
    ensure!(std::fs::metadata(own(stage, &second).join("sparse"))?.blocks() < 1000, "holes are holes again");
    // The restored sandbox's agent has the files as its own.
    let read = "cat project/src/main shut/inner; chmod 700 shut && cat shut/inner; printf new > project/src/main && cat second";
    let told = stage.run(&["--name", &second], &["sh", "-c", read])?.expect_code(0)?.out();
    ensure!(told == "hello\nsnew", "{told:?}");
    // A snapshot of one that was never started, and of a restored one.
    let third = format!("{}-c", stage.name());
    stage.call(&["restore", &text, "--name", &third])?.expect_code(0)?;
    let (_, again) = file(stage, "again.cofferdam");
    stage.call(&["snapshot", &third, &again])?.expect_code(0)?;
    let again = stage.json(&["restore", "--check", &again, "--json"])?;
    ensure!(again["manifest"]["workspace"]["stored"] == made["manifest"]["workspace"]["stored"], "{again}");
    Ok(())
}

pub fn what_has_no_place_in_a_file_is_left_out_aloud(stage: &Stage) -> Result<()> {
    let (name, second) = (stage.name(), format!("{}-b", stage.name()));
    sandbox(stage, &name, "mkfifo pipe; printf kept > kept")?;
    deep(&own(stage, &name))?;
    let (_, text) = file(stage, "one.cofferdam");
    let said = stage.call(&["snapshot", &name, &text])?.expect_code(0)?.err();
    ensure!(said.contains("workspace: 1 devices, pipes or sockets were left out"), "{said}");
    ensure!(said.contains("workspace: 1 files or directories lie too deep, and were left out"), "{said}");
    let restored = stage.call(&["restore", &text, "--name", &second])?.expect_code(0)?;
    ensure!(restored.out().contains(&second), "{}", restored.out());
    let told = stage.call(&["restore", "--check", &text])?.expect_code(0)?.out();
    for word in [restored.err(), told] {
        ensure!(word.contains("workspace: 1 files or directories lie too deep"), "{word}");
    }
    let after = tree(&own(stage, &second))?;
    ensure!(after.len() == 129 && after.contains_key(std::ffi::OsStr::new("kept")), "{}", after.len());
    // Too deep for the code that cleans up after the tests.
    let removed = stage.command("rm").arg("-rf").arg(own(stage, &name).join("dddd")).status()?;
    ensure!(removed.success());
    Ok(())
}

/// Makes directories deeper than any path may be long, as an agent can that enters each before it makes the
/// next.
fn deep(workspace: &Path) -> Result<()> {
    use nix::fcntl::{OFlag, openat};
    use nix::sys::stat::{Mode, mkdirat};
    let owner = std::fs::metadata(workspace)?;
    let mut dir: std::os::fd::OwnedFd = std::fs::File::open(workspace)?.into();
    for _ in 0..1300 {
        mkdirat(&dir, "dddd", Mode::S_IRWXU)?;
        dir = openat(&dir, "dddd", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
        std::os::unix::fs::fchown(&dir, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

pub fn approvals_for_good_come_only_by_the_operators_word(stage: &Stage) -> Result<()> {
    let (name, mark, curl) = (stage.name(), stage.marker(), program("curl")?);
    let config = |hold: &str| -> Result<String> {
        let text = format!("approvals: {{ unlisted: ask, hold: {hold} }}\n");
        Ok(stage.write(&format!("{hold}.yaml"), text)?.display().to_string())
    };
    let policy = common::policy_file(stage, "")?;
    let get = format!("{curl} -s -m 50 -o /dev/null -w '%{{http_code}}' 'https://api.bed.test/{mark}'");
    let long = config("50s")?;
    let run = stage.start_run(&name, &["--config", &long, "--policy", &policy], &["sh", "-c", &get])?;
    let question = poll("a question", START, || {
        let list = stage.json(&["approvals", "list", &name, "--json"]).ok()?;
        list.as_array()?.iter().find(|q| q["state"] == "held").cloned()
    })?;
    let id = question["id"].as_str().context("an id")?.to_owned();
    stage.call(&["approvals", "approve", &id, "--for", "good"])?.expect_code(0)?;
    ensure!(run.finish(PATIENCE)?.expect_code(0)?.out().ends_with("200"), "the control");

    let (_, text) = file(stage, "one.cofferdam");
    stage.call(&["snapshot", &name, &text])?.expect_code(0)?;
    let told = stage.call(&["restore", "--check", &text])?.expect_code(0)?.out();
    ensure!(told.contains(&format!("\"GET api.bed.test:443/{mark}\" by \"{curl}\" (sha256 ")), "{told}");
    let of = |word: &str| format!("{}-{word}", stage.name());
    let refused = stage.call(&["restore", &text, "--name", &of("none")])?.expect_code(125)?.err();
    ensure!(
        refused.contains("brings 1 approvals for good") && refused.contains("--approvals drop"),
        "{refused}"
    );
    nothing_came(stage, &of("none"))?;
    let short = config("1s")?;
    for (word, code) in [("keep", "200"), ("drop", "403")] {
        let done =
            stage.call(&["restore", &text, "--name", &of(word), "--approvals", word])?.expect_code(0)?;
        ensure!(
            done.out().contains("1 approvals for good are in force") == (word == "keep"),
            "{}",
            done.out()
        );
        let options = ["--config", &short, "--policy", &policy];
        let run = stage.start_run(&of(word), &options, &["sh", "-c", &get])?.finish(PATIENCE)?;
        ensure!(run.out().ends_with(code), "{word}: {} {}", run.out(), run.err());
    }
    Ok(())
}

pub fn the_record_of_before_is_put_aside_and_counts_go_on(stage: &Stage) -> Result<()> {
    let (name, second) = (stage.name(), format!("{}-b", stage.name()));
    sandbox(stage, &name, "echo said by the first")?;
    let counts = br#"{"version":1,"budgets":[]}"#;
    stage.write(&format!("state/{name}/budgets.json"), counts)?;
    for stray in ["secret.txt", "logs/secret.txt", "approvals-unreadable.json"] {
        stage.write(&format!("state/{name}/{stray}"), "no part of it")?;
    }
    let (_, text) = file(stage, "one.cofferdam");
    stage.call(&["snapshot", &name, &text])?.expect_code(0)?;
    stage.call(&["restore", &text, "--name", &second])?.expect_code(0)?;
    let dir = stage.state().join(&second);
    ensure!(std::fs::read(dir.join("budgets.json"))? == counts);
    let told = stage.call(&["restore", "--check", &text])?.expect_code(0)?.out();
    ensure!(told.contains("counts of budgets") && told.contains("0, which go on from there"), "{told}");
    let mut there: Vec<String> =
        std::fs::read_dir(&dir)?.flatten().map(|entry| entry.file_name().to_string_lossy().into()).collect();
    there.sort();
    // In rooted mode there may be one more file, with the sandbox's user ids.
    there.retain(|name| name != "ids");
    ensure!(there == ["budgets.json", "earlier", "lock", "places", "workspace"], "{there:?}");
    ensure!(common::files_below(&dir).iter().all(|path| !path.display().to_string().contains("secret")));
    let first = common::audit(stage, &name)?;
    let earlier = dir.join("earlier").display().to_string();
    stage.call(&["audit", "verify", &earlier])?.expect_code(0)?;
    ensure!(std::fs::read_to_string(dir.join("earlier/audit.jsonl"))?.lines().count() == first.len());
    let log = std::fs::read_to_string(dir.join("earlier/logs/sh.log"))?;
    ensure!(log.contains("said by the first"), "{log}");
    // The restored sandbox has a new log of its own, from the first record on.
    sandbox(stage, &second, "echo said by the second")?;
    let own = common::audit(stage, &second)?;
    ensure!(own.first().is_some_and(|record| record["seq"] == 1), "{own:?}");
    stage.call(&["audit", "verify", &second])?.expect_code(0)?;
    stage.call(&["audit", "verify", &earlier])?.expect_code(0)?;
    ensure!(std::fs::metadata(dir.join("earlier"))?.mode() & 0o077 == 0, "nobody else's to look into");
    Ok(())
}

pub fn a_workspace_elsewhere_is_taken_in_where_it_is_named(stage: &Stage) -> Result<()> {
    let (name, second) = (stage.name(), format!("{}-b", stage.name()));
    let workspace = common::workspace(stage);
    stage
        .run(&["--name", &name, "--workspace", &workspace], &["sh", "-c", "printf mine > mine"])?
        .expect_code(0)?;
    let (_, without) = file(stage, "without.cofferdam");
    let said = stage.call(&["snapshot", &name, &without])?.expect_code(0)?.err();
    ensure!(said.contains("the agent's files are not in it") && said.contains("--workspace DIR"), "{said}");
    let (_, with) = file(stage, "with.cofferdam");
    let said = stage.call(&["snapshot", &name, &with, "--workspace", &workspace])?.expect_code(0)?.err();
    ensure!(said.is_empty(), "{said}");
    stage.call(&["restore", &with, "--name", &second])?.expect_code(0)?;
    let told = stage.run(&["--name", &second], &["cat", "mine"])?.expect_code(0)?.out();
    ensure!(told == "mine", "{told}");
    let third = format!("{}-c", stage.name());
    let said = stage.call(&["restore", &without, "--name", &third])?.expect_code(0)?.out();
    ensure!(said.contains("which lay elsewhere"), "{said}");
    ensure!(!own(stage, &third).exists());
    // Whoever has had both: its own is taken in, and the other one named.
    let fourth = format!("{}-d", stage.name());
    sandbox(stage, &fourth, "true")?;
    stage.run(&["--name", &fourth, "--workspace", &workspace], &["true"])?.expect_code(0)?;
    let (_, both) = file(stage, "both.cofferdam");
    let said = stage.call(&["snapshot", &fourth, &both])?.expect_code(0)?.err();
    ensure!(said.contains(&workspace) && said.contains("is not in it"), "{said}");
    Ok(())
}

/// A snapshot of root's can be restored by an ordinary user, and the other way round: no uid is in the file.
pub fn a_file_of_roots_is_an_ordinary_users_sandbox_too(stage: &Stage) -> Result<()> {
    const SOMEBODY: u32 = 23_456;
    let (name, back) = (stage.name(), format!("{}-b", stage.name()));
    sandbox(stage, &name, "printf roots > it; mkdir shut; printf x > shut/in; chmod 000 shut")?;
    let (there, text) = file(stage, "one.cofferdam");
    stage.call(&["snapshot", &name, &text])?.expect_code(0)?;
    let home = stage.dir().join("somebodys");
    std::fs::create_dir(&home)?;
    for path in [&home, &there] {
        std::os::unix::fs::chown(path, Some(SOMEBODY), Some(SOMEBODY))?;
    }
    let (state, again) = (home.join("state"), home.join("again.cofferdam").display().to_string());
    let as_somebody = |args: &[&str]| {
        use std::os::unix::process::CommandExt;
        let mut command = stage.command(stage.binary());
        command.env("COFFERDAM_STATE", &state).args(args).uid(SOMEBODY).gid(SOMEBODY);
        bed::stage::finish(command, PATIENCE)?.expect_code(0)
    };
    as_somebody(&["restore", &text])?;
    let told =
        as_somebody(&["run", "--quiet", "--name", &name, "--", "sh", "-c", "cat it; printf theirs > it"])?;
    ensure!(told.out() == "roots", "{}", told.out());
    as_somebody(&["snapshot", &name, &again])?;
    stage.call(&["restore", &again, "--name", &back])?.expect_code(0)?;
    let told = stage.run(&["--name", &back], &["sh", "-c", "cat it; chmod 700 shut; cat shut/in"])?;
    ensure!(told.expect_code(0)?.out() == "theirsx");
    Ok(())
}

pub fn what_is_there_is_never_written_over(stage: &Stage) -> Result<()> {
    let name = stage.name();
    sandbox(stage, &name, "printf first > it")?;
    let (path, text) = file(stage, "one.cofferdam");
    std::fs::write(&path, "precious")?;
    let refused = stage.call(&["snapshot", &name, &text])?.expect_code(125)?.err();
    ensure!(refused.contains("is there already") && refused.lines().count() == 1, "{refused}");
    ensure!(std::fs::read(&path)? == b"precious");
    std::fs::remove_file(&path)?;
    stage.call(&["snapshot", &name, &text])?.expect_code(0)?;
    for there in ["the sandbox", "an empty directory", "a link"] {
        let taken = match there {
            "the sandbox" => name.clone(),
            "an empty directory" => {
                std::fs::create_dir(stage.state().join("empty"))?;
                "empty".into()
            }
            _ => {
                std::os::unix::fs::symlink("/nowhere", stage.state().join("link"))?;
                "link".into()
            }
        };
        let refused = stage.call(&["restore", &text, "--name", &taken])?.expect_code(125)?.err();
        ensure!(refused.contains("is there already: choose another --name"), "{there}: {refused}");
    }
    ensure!(std::fs::read(own(stage, &name).join("it"))? == b"first");
    for (args, words) in [
        (vec!["snapshot", "nobody", &text], "no sandbox named 'nobody'"),
        (vec!["snapshot", &name, "/no/such/directory/file"], "can't write /no/such/directory/file"),
        (vec!["snapshot", &name, "elsewhere", "--workspace", "/etc"], "/etc can't be a workspace"),
        (vec!["snapshot", &name, "elsewhere", "--workspace", "/no/such"], "workspace /no/such doesn't exist"),
        (vec!["restore", "/no/such/file"], "can't read /no/such/file"),
        (vec!["restore", "/dev/null"], "it is no plain file"),
        (vec!["restore", &text, "--name", "../up"], "../up"),
    ] {
        let refused = stage.call(&args)?.expect_code(125)?.err();
        ensure!(refused.contains(words) && refused.lines().count() == 1, "{args:?}: {refused}");
    }
    Ok(())
}

pub fn more_than_may_be_is_refused(stage: &Stage) -> Result<()> {
    let name = stage.name();
    sandbox(stage, &name, "truncate -s 9G huge")?;
    let (path, text) = file(stage, "one.cofferdam");
    let refused = stage.call(&["snapshot", &name, &text])?.expect_code(125)?.err();
    ensure!(refused.contains("the size of \"huge\"") && refused.contains("8589934592"), "{refused}");
    ensure!(!path.exists(), "no part of one");
    sandbox(stage, &name, "rm huge; truncate -s 3M large; printf x > small")?;
    let refused = stage.call(&["snapshot", &name, &text, "--max-size", "2MiB"])?.expect_code(125)?.err();
    ensure!(
        refused.contains("\"large\"") && refused.contains("more than 2097152: raise it with --max-size"),
        "{refused}"
    );
    stage.call(&["snapshot", &name, &text, "--max-size", "4MiB"])?.expect_code(0)?;
    let second = format!("{name}-b");
    let refused =
        stage.call(&["restore", &text, "--name", &second, "--max-size", "2MiB"])?.expect_code(125)?.err();
    ensure!(refused.contains("more than 2097152: raise it with --max-size"), "{refused}");
    nothing_came(stage, &second)
}

pub fn a_running_sandbox_is_refused_and_a_snapshot_holds_the_name(stage: &Stage) -> Result<()> {
    let (name, second) = (stage.name(), format!("{}-b", stage.name()));
    let sandbox = common::Sandbox::start(stage, &[], &["sh", "-c", "echo ready; sleep 1000"], "ready")?;
    let (path, text) = file(stage, "one.cofferdam");
    let refused = stage.call(&["snapshot", &name, &text])?.expect_code(125)?.err();
    ensure!(refused.contains(&format!("`cofferdam stop {name}` first")), "{refused}");
    ensure!(!path.exists());
    drop(sandbox);
    // Large enough to be stopped in the middle.
    crate::sandbox(stage, &name, "head -c 60000000 /dev/urandom > noise")?;
    let lock = stage.state().join(&name).join("lock");
    let is_held = || std::fs::File::open(&lock).is_ok_and(|lock| lock.try_lock_shared().is_err());
    let snapshot = stage.start(stage.cofferdam(["snapshot", &name, &text]))?;
    poll("the name to be held", PATIENCE, || is_held().then_some(()))?;
    snapshot.signal(Signal::SIGSTOP)?;
    ensure!(is_held() && !path.exists(), "the control: it was stopped in the middle");
    let refused = stage.run(&["--name", &name], &["true"])?.expect_code(125)?.err();
    ensure!(refused.contains("is in use") && refused.contains("a snapshot of it is made"), "{refused}");
    snapshot.signal(Signal::SIGCONT)?;
    snapshot.finish(Duration::from_secs(300))?.expect_code(0)?;
    stage.run(&["--name", &name], &["true"])?.expect_code(0)?;
    stage.call(&["restore", &text, "--name", &second])?.expect_code(0)?;
    let of = |name: &str| std::fs::read(own(stage, name).join("noise"));
    ensure!(of(&name)? == of(&second)?, "what can't be compressed is the same, too");
    if stage.mode() == Mode::Rooted {
        let owner =
            |name: &str| Ok::<u32, std::io::Error>(std::fs::metadata(own(stage, name).join("noise"))?.uid());
        ensure!(
            owner(&name)? != owner(&second)? && owner(&second)? != 0,
            "each sandbox has a user of its own"
        );
    }
    let listed = own(stage, &second);
    ensure!(listed.as_os_str().as_bytes().starts_with(stage.state().as_os_str().as_bytes()));
    Ok(())
}
