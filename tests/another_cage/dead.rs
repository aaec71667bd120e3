//! A file system that never answers, like a network file system whose server is gone: a move that has to look
//! there fails, and blocks nobody else.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, poll};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;

use crate::common::processes;
use crate::service::{Service, showing};

/// A FUSE mount that nobody serves. A process that accesses it blocks until this is dropped.
struct Dead {
    at: PathBuf,
    _served_by_nobody: File,
}

impl Dead {
    fn mount(at: &Path) -> Result<Self> {
        let Ok(device) = File::options().read(true).write(true).open("/dev/fuse") else {
            bed::skip!("no /dev/fuse to be had");
        };
        let how = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        if let Err(error) = mount(Some("dead"), at, Some("fuse"), MsFlags::empty(), Some(how.as_str())) {
            bed::skip!("FUSE can't be mounted: {error}");
        }
        Ok(Self { at: at.to_owned(), _served_by_nobody: device })
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        let _unmounted = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

/// A policy that shows a directory inside the mount. (About the mount point itself the kernel knows enough
/// without asking the server.)
fn within(stage: &Stage) -> Result<String> {
    let seen = stage.dir().join("data/seen");
    Ok(stage.write("there.yaml", showing(&seen))?.display().to_string())
}

pub fn a_dead_file_system_holds_up_no_builder(stage: &Stage) -> Result<()> {
    let service = Service::start(stage, "")?;
    let there = within(stage)?;
    let more = stage.dir().join("more");
    std::fs::create_dir(&more)?;
    let another = stage.write("another.yaml", showing(&more))?.display().to_string();
    let before = service.both().context("status")?;
    let dead = Dead::mount(&stage.dir().join("data"))?;
    let first = service.start_set(&there)?;
    // The first request blocks there, and the next one waits behind it.
    looks(stage)?;
    let second = service.start_set(&another)?;
    let refused = first.finish(PATIENCE)?.expect_code(125)?.err();
    ensure!(refused.contains("is a file system dead"), "{refused}");
    ensure!(refused.contains("the agents keep running under the policy in force"), "{refused}");
    second.finish(PATIENCE)?.expect_code(0)?;
    let now = poll("both agents", PATIENCE, || service.both())?;
    ensure!(now["policy"]["generation"] == 2 && now["agents"] != before["agents"], "{now}");
    service.says("narrow")?;
    ensure!(processes(stage, "cofferdam: bld").len() == 1, "who looked is there still");
    drop(dead);
    service.moved(&service.wide)?;
    service.says("wide")
}

/// Waits until a process of the builder's blocks there.
fn looks(stage: &Stage) -> Result<()> {
    poll("the look", PATIENCE, || (processes(stage, "cofferdam: bld").len() == 2).then_some(()))
}

/// Nor does the dead file system keep the builder alive after the heart's end.
pub fn a_dead_file_system_holds_up_no_end(stage: &Stage) -> Result<()> {
    let mut service = Service::start(stage, "")?;
    let there = within(stage)?;
    let _dead = Dead::mount(&stage.dir().join("data"))?;
    let command = service.start_set(&there)?;
    looks(stage)?;
    service.sandbox.heart().signal(Signal::SIGKILL)?;
    service.sandbox.running.take().context("it ran")?.finish(PATIENCE)?;
    command.finish(PATIENCE)?.expect_code(125)?;
    poll("every process to end", PATIENCE, || stage.cofferdam_processes().is_empty().then_some(()))?;
    let socket = stage.state().join(&service.sandbox.name).join("build.sock");
    ensure!(!socket.exists(), "its socket is left");
    Ok(())
}
