//! Interruptions: an unpacking that is killed or interrupted, and a removal that was interrupted.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Finished, PATIENCE, poll};
use nix::sys::signal::Signal;

use crate::common;
use crate::little::{Stored, image, pinned, stored};

pub fn a_killed_unpacking_leaves_nothing_that_is_used(stage: &Stage) -> Result<()> {
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

/// Tries until `caught` was in time: on a busy machine an image may be completely unpacked by the time that
/// the test sees its beginning.
fn in_time(stage: &Stage, mut caught: impl FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..50 {
        if caught()? {
            return Ok(());
        }
        std::fs::remove_dir_all(stage.state().join(".images"))?;
    }
    anyhow::bail!("too late, fifty times")
}

/// Ctrl-C while an image is unpacked, and while another start unpacks it: the start ends at once, and leaves
/// nothing.
pub fn an_interrupted_unpacking_leaves_nothing(stage: &Stage) -> Result<()> {
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

/// An interrupted `rm -r`: it asks before each step, and is told to go on a given number of times, then no
/// more.
pub fn what_a_broken_off_removal_leaves_is_no_image(stage: &Stage) -> Result<()> {
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
    // The smallest step of a removal, and more than that; of the image, and of the directory of all images.
    for (removed, more) in [(&*whole, 0), (&*whole, 5), (&*stage.state().join(".images"), 0)] {
        interrupted(removed, more)?;
        let again = run()?.expect_code(0)?;
        ensure!(again.err().contains("unpacking") && again.out() == "of the second layer", "{}", again.err());
        ensure!(names() == all, "{} of {all}", names());
        ensure!(!run()?.expect_code(0)?.err().contains("unpacking"), "it is whole again");
    }
    // With nothing to unpack from, the start reports that, and the rest of the image stays.
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
    // `rm` may end before it has read all answers.
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
