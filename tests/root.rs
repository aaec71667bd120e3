//! `--root`: directories and pinned images, tested in the whole program. Hostile archives are tested in the
//! `agent` crate (`image::tests`); here it is about what a user gets, as root and as an ordinary user.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test fails by panic"
)]

mod common;
#[path = "root/interrupted.rs"]
mod interrupted;
#[path = "root/little.rs"]
mod little;
#[path = "root/shared.rs"]
mod shared;

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bed::Stage;

use common::{COFFERDAM, policy};
use interrupted::*;
use little::*;
use shared::*;

fn main() -> ExitCode {
    bed::harness::main(
        "root",
        Path::new(COFFERDAM),
        bed::cases![
            a_directory_is_the_root,
            an_image_is_unpacked_once_and_shared,
            a_name_without_a_digest_is_refused_with_the_digest,
            a_changed_byte_is_refused_naming_the_layer,
            what_is_not_there_is_told,
            writable_paths_get_an_overlay_of_the_sandboxs_own,
            a_killed_unpacking_leaves_nothing_that_is_used,
            an_interrupted_unpacking_leaves_nothing,
            what_a_broken_off_removal_leaves_is_no_image,
            a_file_may_name_the_root,
            a_failed_start_leaves_no_overlay,
            no_overlay_is_made_behind_a_link,
            a_hostile_roots_links_lead_nowhere_else,
            shared_mounts_stay_as_they_are,
        ],
    )
}

fn a_directory_is_the_root(stage: &Stage) -> Result<()> {
    let tree = tree(stage)?.display().to_string();
    // The control: this machine has files that the little root lacks, and vice versa.
    ensure!(Path::new("/usr/bin/env").exists() && !Path::new("/usr/share/in-root").exists());
    let script = "cat /usr/share/in-root && ls /usr/bin && cat /etc/os-release && ls /sandbox /tmp /proc/self/fd >/dev/null \
        && touch /sandbox/mine /tmp/mine && cat /run/cofferdam/ca-bundle.pem /etc/ssl/certs/ca-certificates.crt >/dev/null";
    let done = stage.run(&["--root", &tree], &["sh", "-c", script])?.expect_code(0)?;
    let mut lines = done.out();
    lines = lines.replacen("in the root", "", 1);
    let listed: BTreeSet<&str> = lines.lines().filter(|line| !line.contains('=')).collect();
    ensure!(listed == PROGRAMS.iter().copied().collect(), "{listed:?}");
    ensure!(lines.contains("NAME=little"), "{lines}");
    for refused in
        ["touch /usr/share/new", "cat /etc/shadow", "ls /root", "ls /home", "echo x >> /usr/share/in-root"]
    {
        let done = stage.run(&["--root", &tree], &["sh", "-c", refused])?;
        ensure!(done.code() != 0 && done.code() != 125, "{refused}: {} {}", done.code(), done.err());
    }
    let missing = stage.run(&["--root", &tree], &["env"])?;
    ensure!(missing.code() == 127, "{}: {}", missing.code(), missing.err());
    ensure!(std::fs::read_to_string(format!("{tree}/usr/share/in-root"))? == "in the root");
    Ok(())
}

fn an_image_is_unpacked_once_and_shared(stage: &Stage) -> Result<()> {
    for form in [Stored::Gzip, Stored::Zstd] {
        for archived in [false, true] {
            let _ = std::fs::remove_dir_all(stage.dir().join("tree"));
            let _ = std::fs::remove_dir_all(stage.dir().join("layout"));
            let _ = std::fs::remove_dir_all(stage.state().join(".images"));
            let image = image(stage, form, 0)?;
            let root = pinned(if archived { &image.archive } else { &image.layout }, &image);
            let script = "cat /usr/share/second && ! cat /usr/share/in-root 2>/dev/null && ! touch /usr/new 2>/dev/null";
            let run = || stage.call(&["run", "--root", &root, "--", "sh", "-c", script])?.expect_code(0);
            let first = run()?;
            ensure!(first.out() == "of the second layer", "{}", first.out());
            ensure!(first.err().contains("unpacking"), "{}", first.err());
            let store = stage.state().join(".images");
            let whole = store.join(image.digest.trim_start_matches("sha256:"));
            let made = std::fs::metadata(&whole)?;
            ensure!(
                std::fs::metadata(&store)?.permissions().mode() & 0o077 == 0,
                "others may enter the store"
            );
            // Again, with nothing to unpack from: the pinned image is in the store already.
            std::fs::remove_dir_all(&image.layout)?;
            std::fs::remove_file(&image.archive)?;
            let second = run()?;
            ensure!(!second.err().contains("unpacking"), "{}", second.err());
            ensure!(std::fs::metadata(&whole)?.ino() == made.ino());
            ensure!(stored(stage).len() == 1, "{:?}", stored(stage));
        }
    }
    Ok(())
}

fn a_name_without_a_digest_is_refused_with_the_digest(stage: &Stage) -> Result<()> {
    let image = image(stage, Stored::Gzip, 0)?;
    for typed in [
        image.archive.display().to_string(),
        format!("{}:latest", image.archive.display()),
        image.layout.display().to_string(),
        format!("{}:latest", image.layout.display()),
    ] {
        let said = stage.run(&["--root", &typed], &["sh", "-c", "exit 0"])?.expect_code(125)?.err();
        let (_, mend) = said.split_once("pin it: --root ").with_context(|| said.clone())?;
        let mend = mend.split_whitespace().next().unwrap_or_default();
        ensure!(mend.ends_with(&image.digest), "{said}");
        stage.run(&["--root", mend], &["sh", "-c", "exit 7"])?.expect_code(7)?;
    }
    Ok(())
}

fn a_changed_byte_is_refused_naming_the_layer(stage: &Stage) -> Result<()> {
    let image = image(stage, Stored::Gzip, 0)?;
    let blob = image.layout.join("blobs/sha256").join(image.layers[1].trim_start_matches("sha256:"));
    let whole = std::fs::read(&blob)?;
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&blob, &changed)?;
    pack(&image.layout, &image.archive)?;
    for path in [&image.layout, &image.archive] {
        let said =
            stage.run(&["--root", &pinned(path, &image)], &["sh", "-c", "exit 0"])?.expect_code(125)?.err();
        ensure!(said.contains("layer 2 of 2") && said.contains(&image.layers[1]), "{said}");
        ensure!(stored(stage).is_empty(), "{:?}", stored(stage));
    }
    std::fs::write(&blob, &whole)?;
    stage.run(&["--root", &pinned(&image.layout, &image)], &["sh", "-c", "exit 7"])?.expect_code(7)?;
    Ok(())
}

fn what_is_not_there_is_told(stage: &Stage) -> Result<()> {
    let image = image(stage, Stored::Gzip, 0)?;
    let other = "0123456789abcdef".repeat(4);
    for (typed, why) in [
        ("/nowhere/image:tag".to_owned(), "nothing is pulled"),
        (format!("/nowhere/image@sha256:{other}"), "doesn't exist"),
        (format!("{}@sha256:{other}", image.archive.display()), "is not in it"),
        (format!("{}@sha256:12", image.archive.display()), "is no digest"),
        (stage.write("text", "no archive")?.display().to_string(), "needs @sha256"),
        ("/".to_owned(), "is the default"),
    ] {
        let said = stage.run(&["--root", &typed], &["sh", "-c", "exit 0"])?.expect_code(125)?.err();
        ensure!(said.contains(why), "{typed}: {said}");
    }
    Ok(())
}

fn writable_paths_get_an_overlay_of_the_sandboxs_own(stage: &Stage) -> Result<()> {
    if !std::fs::read_to_string("/proc/filesystems")?.contains("overlay") {
        bed::skip!("this kernel has no overlayfs");
    }
    let image = image(stage, Stored::Gzip, 0)?;
    let root = pinned(&image.archive, &image);
    let text = policy("").replace(
        "    - /sandbox\n",
        "    - /sandbox\n    - /usr/share\n    - { path: /opt, optional: true }\n",
    );
    let file = stage.write("writable.yaml", text)?.display().to_string();
    let run = |name: &str, script: &str| {
        stage.run(&["--name", name, "--policy", &file, "--root", &root], &["sh", "-c", script])
    };
    let script = "echo changed > /usr/share/second && mkdir /opt/new && ! touch /usr/bin/new 2>/dev/null && cat /usr/share/second";
    let first = run("one", script)?;
    let first = first.expect_code(0)?;
    ensure!(first.out() == "changed\n", "{:?}", first.out());
    // A sandbox's changes are its own, and kept; no other sandbox has them, and the shared image is
    // unchanged.
    ensure!(run("one", "cat /usr/share/second; ls /opt")?.expect_code(0)?.out() == "changed\nnew\n");
    ensure!(run("two", "cat /usr/share/second; ls /opt")?.expect_code(0)?.out() == "of the second layer");
    let plain = stage.run(&["--root", &root], &["cat", "/usr/share/second"])?.expect_code(0)?;
    ensure!(plain.out() == "of the second layer");
    Ok(())
}

/// If a start fails after the overlay for a root's changes was made, the overlay is removed like everything
/// else.
fn a_failed_start_leaves_no_overlay(stage: &Stage) -> Result<()> {
    let root = tree(stage)?.display().to_string();
    let text =
        policy("").replace("    - /sandbox\n", "    - /sandbox\n    - { path: /opt, optional: true }\n");
    let file = stage.write("writable.yaml", text)?.display().to_string();
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let metrics = taken.local_addr()?.to_string();
    let options = ["--root", &*root, "--policy", &file, "--metrics", &metrics, "--name", "failed"];
    let said = stage.run(&options, &["true"])?.expect_code(125)?.err();
    ensure!(said.contains("can't listen on"), "{said}");
    ensure!(!stage.state().join("failed").exists(), "its directory stayed");
    Ok(())
}

/// In rooted mode the gateway may write in a sandbox's directory: a link that it left there must not make the
/// start change the owner of something else.
fn no_overlay_is_made_behind_a_link(stage: &Stage) -> Result<()> {
    let root = tree(stage)?.display().to_string();
    let text =
        policy("").replace("    - /sandbox\n", "    - /sandbox\n    - { path: /opt, optional: true }\n");
    let file = stage.write("writable.yaml", text)?.display().to_string();
    let run = || stage.run(&["--root", &root, "--policy", &file, "--name", "one"], &["sh", "-c", "exit 7"]);
    run()?.expect_code(7)?;
    let (overlays, victim) = (stage.state().join("one/root"), stage.dir().join("victim"));
    std::fs::remove_dir_all(&overlays)?;
    std::fs::create_dir(&victim)?;
    std::os::unix::fs::symlink(&victim, &overlays)?;
    let said = run()?.expect_code(125)?.err();
    ensure!(said.contains("overlay"), "{said}");
    ensure!(std::fs::read_dir(&victim)?.next().is_none(), "something was made there");
    std::fs::remove_file(&overlays)?;
    run()?.expect_code(7)?;
    Ok(())
}

fn a_file_may_name_the_root(stage: &Stage) -> Result<()> {
    tree(stage)?;
    let file = stage.write("cofferdam.yaml", "root: ./tree\n")?.display().to_string();
    let done = stage.run(&["--config", &file], &["cat", "/usr/share/in-root"])?.expect_code(0)?;
    ensure!(done.out() == "in the root", "{}", done.out());
    Ok(())
}

/// A root that has links leading out of it, and links and files in places where the cage puts something of
/// its own.
fn a_hostile_roots_links_lead_nowhere_else(stage: &Stage) -> Result<()> {
    use std::os::unix::fs::symlink;
    let tree = tree(stage)?;
    let secret = stage.write("secret", "of the host")?;
    let up = format!("{}{}", "../".repeat(24), secret.display().to_string().trim_start_matches('/'));
    symlink(&secret, tree.join("usr/share/absolute"))?;
    symlink(&up, tree.join("usr/share/upwards"))?;
    symlink("/proc/self/root/etc/shadow", tree.join("usr/share/magic"))?;
    // The control: outside, the first two lead there.
    ensure!(std::fs::read_to_string(tree.join("usr/share/absolute"))? == "of the host");
    ensure!(std::fs::read_to_string(tree.join("usr/share/upwards"))? == "of the host");
    symlink("/usr/share/in-root", tree.join("etc/passwd"))?;
    symlink("/usr/share/in-root", tree.join("etc/hosts"))?;
    std::fs::remove_dir_all(tree.join("etc/ssl"))?;
    symlink("../usr/share", tree.join("etc/ssl"))?;
    symlink("usr", tree.join("dev"))?;
    symlink("usr/share", tree.join("tmp"))?;
    symlink("/usr", tree.join("run"))?;
    std::fs::write(tree.join("etc/group"), "root:of the root")?;
    std::fs::create_dir(tree.join("boot"))?;
    std::fs::write(tree.join("sandbox"), "a file")?;
    std::fs::write(tree.join("proc"), "a file")?;
    let root = tree.display().to_string();
    let script = "for one in absolute upwards magic; do ! cat /usr/share/$one 2>/dev/null || exit 1; done; \
        echo x > /dev/null && cat /proc/self/status > /dev/null && touch /sandbox/mine /tmp/mine && cat /etc/passwd /etc/hosts";
    let done = stage.run(&["--root", &root], &["sh", "-c", script])?.expect_code(0)?;
    ensure!(done.out().contains("sandbox:x:") && done.out().contains("localhost"), "{}", done.out());
    ensure!(!done.out().contains("in the root"), "{}", done.out());
    ensure!(!tree.join("usr/share/mine").exists(), "the root was written to");
    // A path of the policy that is a link in the root: it is resolved within the root, and never mounted
    // where it would cover the cage's own.
    let file = stage.write("opt.yaml", policy("").replace("{ path: /opt, optional: true }", "/opt"))?;
    ensure!(std::fs::read_to_string(&file)?.contains("- /opt\n"), "the policy doesn't name /opt");
    let run = |script: &str| {
        stage.run(&["--root", &root, "--policy", &file.display().to_string()], &["sh", "-c", script])
    };
    run("exit 7")?.expect_code(7)?;
    std::fs::remove_dir(tree.join("opt"))?;
    for target in [&secret.display().to_string(), &up, "/boot", "/etc/shadow", "/etc/group"] {
        symlink(target, tree.join("opt"))?;
        let refused = run("exit 7")?.expect_code(125)?;
        ensure!(!refused.err().contains("of the host"), "{target}: {}", refused.err());
        std::fs::remove_file(tree.join("opt"))?;
    }
    Ok(())
}
