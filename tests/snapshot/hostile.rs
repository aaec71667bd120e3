//! A hostile workspace: files that are swapped while they are read, files that aren't the agent's, and
//! workspaces in which the snapshot itself must not lie.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use bed::Stage;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::{file, nothing_came, own, sandbox};

const SECRET: &str = "the-operators-own-secret";

/// The user who makes the snapshot may read the secret, but must never do so by way of the workspace.
pub fn links_lead_nowhere_while_they_are_exchanged(stage: &Stage) -> Result<()> {
    /// Number of snapshots, while names are swapped all the time.
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

/// Root, who makes the snapshot, may read everything; but the workspace is read as the sandbox's user.
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

/// A named workspace, which a start shows as the agent's own by an id-mapped mount, and which `onboard` makes
/// with no access for other users.
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
        // The agent may not read another user's file in there.
        let (theirs, not) = (workspace.join("theirs"), if owner == 0 { SOMEBODY + 1 } else { 0 });
        std::fs::write(&theirs, SECRET)?;
        std::fs::set_permissions(&theirs, Permissions::from_mode(0o640))?;
        std::os::unix::fs::chown(&theirs, Some(not), Some(not))?;
        let (_, text) = file(stage, &format!("{owner}-{group}.cofferdam"));
        // The command runs as a root that has root's group, as after a login.
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

/// A directory that may be listed but not entered must not make the whole snapshot fail.
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

/// A snapshot holds more than agents may see, and agents could change it there.
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
    // Also in a workspace other than the one that the snapshot is of: agents wrote there once.
    refused(&["snapshot", &name, &below])?;
    let mut here = stage.cofferdam(["snapshot", &name, "--workspace", "."]);
    here.current_dir(&workspace);
    let said = bed::stage::finish(here, bed::stage::PATIENCE)?.expect_code(125)?.err();
    ensure!(said.contains("name a file elsewhere"), "{said}");
    let other = format!("{name}-own");
    sandbox(stage, &other, "true")?;
    refused(&["snapshot", &other, &own(stage, &other).join("one").display().to_string()])?;
    // A directory that no agent of the sandbox had before, but that is named now.
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

/// The snapshot would hold all sandboxes' records, as an agent's files.
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

/// The rests are deeper than any path may be long, have directories that nobody may enter, or belong to
/// another user.
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
    if !nix::unistd::geteuid().is_root() {
        bed::skip!("only root can leave what the operator can't remove");
    }
    // A non-empty directory of root's, which the operator can't remove.
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
    // A sandbox may be called `lock`, like the lock file.
    stage.call(&["restore", &text, "--name", "lock"])?.expect_code(0)?;
    ensure!(std::fs::read(own(stage, "lock").join("file"))? == b"x");
    nothing_came(stage, "none")
}
