//! `--root`: directories and pinned images, in the whole program. What an archive may try is tested in the `agent` crate
//! (`image::tests`); here it is what a user gets, as root and as an ordinary user.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Finished, PATIENCE, poll};
use nix::sys::signal::Signal;
use sha2::{Digest, Sha256};

use common::{COFFERDAM, policy};

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
        ],
    )
}

/// The whole of the little root's `/usr/bin`.
const PROGRAMS: &[&str] = &["sh", "cat", "ls", "touch", "mkdir", "sleep"];

/// A root made of a few of this machine's programs and their libraries; nothing else of `/usr` is in it.
fn tree(stage: &Stage) -> Result<PathBuf> {
    let tree = stage.dir().join("tree");
    for dir in ["usr/bin", "usr/share", "etc/ssl/certs", "opt"] {
        std::fs::create_dir_all(tree.join(dir))?;
    }
    for program in PROGRAMS {
        let Some(path) = bed::stage::program(program) else { bed::skip!("no {program} on this machine") };
        let path = std::fs::canonicalize(path)?;
        std::fs::copy(&path, tree.join("usr/bin").join(program))?;
        let listed = std::process::Command::new("ldd").arg(&path).output();
        let Ok(listed) = listed else { bed::skip!("no ldd on this machine") };
        for library in
            String::from_utf8_lossy(&listed.stdout).split_whitespace().filter(|w| w.starts_with('/'))
        {
            let to = tree.join(library.trim_start_matches('/'));
            std::fs::create_dir_all(to.parent().context("a library below /")?)?;
            std::fs::copy(library, to)?;
        }
    }
    std::os::unix::fs::symlink("usr/bin", tree.join("bin"))?;
    std::fs::write(tree.join("usr/share/in-root"), "in the root")?;
    std::fs::write(tree.join("etc/shadow"), "root:secret")?;
    std::fs::write(tree.join("etc/os-release"), "NAME=little\n")?;
    Ok(tree)
}

#[derive(Clone, Copy, PartialEq)]
enum Stored {
    Gzip,
    Zstd,
}

/// An OCI layout of the tree in two layers, as a directory and as an archive, and its digest.
struct Image {
    layout: PathBuf,
    archive: PathBuf,
    digest: String,
    layers: Vec<String>,
}

fn image(stage: &Stage, stored: Stored, ballast: usize) -> Result<Image> {
    let tree = tree(stage)?;
    let mut first = tar::Builder::new(Vec::new());
    first.follow_symlinks(false);
    first.append_dir_all(".", &tree)?;
    let mut second = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        Ok(second.append_data(&mut header, name, bytes)?)
    };
    add("usr/share/second", b"of the second layer")?;
    add("usr/share/.wh.in-root", b"")?;
    if ballast > 0 {
        // Nothing compresses it: the unpacking takes its time.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take(ballast / 8)
        .flatten()
        .collect();
        add("opt/ballast", &noise)?;
    }
    let layout = stage.dir().join("layout");
    std::fs::create_dir_all(layout.join("blobs/sha256"))?;
    let blob = |bytes: &[u8]| -> Result<String> {
        let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        std::fs::write(layout.join("blobs/sha256").join(&hex), bytes)?;
        Ok(format!("sha256:{hex}"))
    };
    let (mut layers, mut descriptors, mut diff_ids) = (Vec::new(), Vec::new(), Vec::new());
    for plain in [first.into_inner()?, second.into_inner()?] {
        diff_ids.push(format!(
            "sha256:{}",
            Sha256::digest(&plain).iter().map(|b| format!("{b:02x}")).collect::<String>()
        ));
        let (bytes, kind) = match stored {
            Stored::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&plain)?;
                (encoder.finish()?, "gzip")
            }
            Stored::Zstd => {
                let level = ruzstd::encoding::CompressionLevel::Fastest;
                (ruzstd::encoding::compress_to_vec(plain.as_slice(), level), "zstd")
            }
        };
        let digest = blob(&bytes)?;
        let media_type = format!("application/vnd.oci.image.layer.v1.tar+{kind}");
        descriptors
            .push(serde_json::json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }));
        layers.push(digest);
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = serde_json::json!({ "os": "linux", "architecture": architecture,
        "rootfs": { "type": "layers", "diff_ids": diff_ids } })
    .to_string();
    let manifest = serde_json::json!({ "schemaVersion": 2, "layers": descriptors, "config": {
        "mediaType": "application/vnd.oci.image.config.v1+json", "digest": blob(config.as_bytes())?, "size": config.len() } })
    .to_string();
    let digest = blob(manifest.as_bytes())?;
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{ "digest": digest, "size": manifest.len(),
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "annotations": { "org.opencontainers.image.ref.name": "latest" } }] });
    std::fs::write(layout.join("index.json"), index.to_string())?;
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let archive = stage.dir().join("image.tar");
    pack(&layout, &archive)?;
    Ok(Image { layout, archive, digest, layers })
}

fn pack(layout: &Path, archive: &Path) -> Result<()> {
    let mut builder = tar::Builder::new(std::fs::File::create(archive)?);
    builder.append_dir_all(".", layout)?;
    builder.finish()?;
    Ok(())
}

fn pinned(path: &Path, image: &Image) -> String {
    format!("{}@{}", path.display(), image.digest)
}

/// The names in the store that are not locks.
fn stored(stage: &Stage) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(stage.state().join(".images")) else { return BTreeSet::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.ends_with(".lock")).collect()
}

fn a_directory_is_the_root(stage: &Stage) -> Result<()> {
    let tree = tree(stage)?.display().to_string();
    // The control: this machine has what the little root hasn't, and the other way about.
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
            // Again, with nothing to unpack from: what is pinned is there.
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
    // Its own, and kept; nobody else's; and the shared image is as it was.
    ensure!(run("one", "cat /usr/share/second; ls /opt")?.expect_code(0)?.out() == "changed\nnew\n");
    ensure!(run("two", "cat /usr/share/second; ls /opt")?.expect_code(0)?.out() == "of the second layer");
    let plain = stage.run(&["--root", &root], &["cat", "/usr/share/second"])?.expect_code(0)?;
    ensure!(plain.out() == "of the second layer");
    Ok(())
}

fn a_killed_unpacking_leaves_nothing_that_is_used(stage: &Stage) -> Result<()> {
    let image = image(stage, Stored::Gzip, 16 << 20)?;
    let root = pinned(&image.archive, &image);
    let begun = |name: &String| name.ends_with(".partial");
    in_time(stage, || {
        let running = stage.start_run(&stage.name(), &["--root", &root], &["sh", "-c", "exit 7"])?;
        poll("the unpacking", PATIENCE, || (!stored(stage).is_empty()).then_some(()))?;
        running.signal(Signal::SIGKILL)?;
        let _ = running.finish(PATIENCE)?;
        // The process that unpacked dies with it.
        poll("the unpacking process's end", PATIENCE, || {
            stage.cofferdam_processes().is_empty().then_some(())
        })?;
        let left = stored(stage);
        ensure!(left.len() == 1, "one was begun: {left:?}");
        Ok(left.iter().all(begun))
    })?;
    stage.run(&["--root", &root], &["sh", "-c", "exit 7"])?.expect_code(7)?;
    ensure!(stored(stage).iter().all(|name| !begun(name)), "{:?}", stored(stage));
    Ok(())
}

/// Tries until `caught` was in time: on a busy machine an image may be unpacked by the time that its beginning is seen.
fn in_time(stage: &Stage, mut caught: impl FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..50 {
        if caught()? {
            return Ok(());
        }
        std::fs::remove_dir_all(stage.state().join(".images"))?;
    }
    anyhow::bail!("too late, fifty times")
}

/// Ctrl-C while an image is unpacked, and while somebody else unpacks it: at once, and as if there had been no start.
fn an_interrupted_unpacking_leaves_nothing(stage: &Stage) -> Result<()> {
    let image = image(stage, Stored::Gzip, 16 << 20)?;
    let root = pinned(&image.archive, &image);
    let partial = |name: &String| name.ends_with(".partial");
    let interrupted = |starting: &str, ready: &dyn Fn() -> bool| -> Result<Finished> {
        let running = stage.start_run(starting, &["--root", &root], &["true"])?;
        poll("the start", PATIENCE, || ready().then_some(()))?;
        running.signal(Signal::SIGINT)?;
        running.finish(PATIENCE)
    };
    let left_nothing = |starting: &str, done: &Finished| -> Result<()> {
        ensure!(done.code() == 130, "{}: {}", done.code(), done.err());
        ensure!(!stage.state().join(starting).exists(), "its directory stayed");
        Ok(())
    };
    in_time(stage, || {
        let done = interrupted("first", &|| !stored(stage).is_empty())?;
        if stored(stage).iter().any(|name| !partial(name)) {
            let _ = std::fs::remove_dir_all(stage.state().join("first"));
            return Ok(false);
        }
        left_nothing("first", &done)?;
        ensure!(stored(stage).is_empty(), "{:?}", stored(stage));
        Ok(true)
    })?;
    let digest = root.rsplit(':').next().context("a digest")?;
    let lock = stage.state().join(format!(".images/{digest}.lock"));
    let lock = std::fs::OpenOptions::new().write(true).open(lock)?;
    lock.lock()?;
    let waits = || {
        let holder = stage.state().join("second/lock");
        std::fs::read_to_string(holder).is_ok_and(|pid| !pid.is_empty())
    };
    left_nothing("second", &interrupted("second", &waits)?)?;
    drop(lock);
    stage.run(&["--root", &root], &["sh", "-c", "exit 7"])?.expect_code(7)?;
    Ok(())
}

/// `rm -r`, interrupted: asked before each step, it is told to go on so many times, and then no more.
fn what_a_broken_off_removal_leaves_is_no_image(stage: &Stage) -> Result<()> {
    let image = image(stage, Stored::Gzip, 0)?;
    let root = pinned(&image.archive, &image);
    let whole = stage.state().join(".images").join(image.digest.trim_start_matches("sha256:"));
    let run = || stage.call(&["run", "--root", &root, "--", "cat", "/usr/share/second"]);
    run()?.expect_code(0)?;
    let names = || walked(&whole).len();
    let all = names();
    let interrupted = |removed: &Path, more: usize| -> Result<usize> {
        for steps in 1..100 {
            remove_interrupted(removed, steps + more)?;
            if names() < all {
                break;
            }
        }
        let left = names();
        ensure!(0 < left && left < all, "the control: {left} of {all} are left");
        Ok(left)
    };
    // The least that a removal can do, and more than that; of the image, and of the place of all images.
    for (removed, more) in [(&*whole, 0), (&*whole, 5), (&*stage.state().join(".images"), 0)] {
        interrupted(removed, more)?;
        let again = run()?.expect_code(0)?;
        ensure!(again.err().contains("unpacking") && again.out() == "of the second layer", "{}", again.err());
        ensure!(names() == all, "{} of {all}", names());
        ensure!(!run()?.expect_code(0)?.err().contains("unpacking"), "it is whole again");
    }
    // With nothing to unpack from it is told, and what is left stays.
    let left = interrupted(&whole, 0)?;
    std::fs::remove_file(&image.archive)?;
    let said = run()?.expect_code(125)?.err();
    ensure!(
        said.contains("was removed in part") && said.contains(&image.archive.display().to_string()),
        "{said}"
    );
    ensure!(names() == left, "{} of {left}", names());
    Ok(())
}

fn remove_interrupted(path: &Path, steps: usize) -> Result<()> {
    let mut rm = std::process::Command::new(common::program("rm")?);
    rm.arg("-ri").arg(path).stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let mut rm = rm.spawn()?;
    let asked = rm.stdin.take().context("its input")?.write_all("y\n".repeat(steps).as_bytes());
    // It may be done before it has read all.
    asked
        .or_else(|error| if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })?;
    rm.wait()?;
    Ok(())
}

/// All that lies below a directory.
fn walked(path: &Path) -> Vec<PathBuf> {
    let below = std::fs::read_dir(path).into_iter().flatten().flatten();
    below
        .flat_map(|entry| {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let below = if is_dir { walked(&entry.path()) } else { Vec::new() };
            std::iter::once(entry.path()).chain(below)
        })
        .collect()
}

/// What was made for a root's changes goes with the rest of a start that fails after it.
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

/// As root the gateway may write in a sandbox's directory: a link that it left there must not have something else change its owner.
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

/// A root of links out of itself, and of links and files where the cage has something of its own.
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
    // What the policy names, as a link: it is looked for in the root, and never shown where it would cover ours.
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
