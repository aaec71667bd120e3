//! cofferdam's messages where nothing reads them: a pager, Ctrl-S, a log's pipe that is stuck.

use std::io::Write;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, poll};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::START;

/// The smallest capacity of a pipe, in bytes.
const PAGE: i32 = 4096;
/// Time for a stop: a moment, plus a second each that the heart and its supervisor wait for a reader.
const STOPPED_WITHIN: Duration = Duration::from_secs(6);

/// Neither a supervisor's first message nor the heart's messages about its deaths block anything.
pub fn messages_that_nobody_reads_stop_nothing(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let config = format!(
        "name: {name}\nmetrics: {{ listen: \"off\" }}\nagents: {{ idle: {{ command: [sleep, \"1000\"] }} }}\n"
    );
    let file = stage.write("unread.yaml", config)?.display().to_string();
    let (unread, mut full) = std::io::pipe()?;
    fcntl(&full, FcntlArg::F_SETPIPE_SZ(PAGE))?;
    full.write_all(&[b'x'; PAGE as usize])?;
    let mut command = stage.cofferdam(["up", "-f", &file]);
    let mut heart = command.stdout(Stdio::null()).stderr(full).spawn()?;
    drop(command);
    let done = is_stopped_in_time(stage, &name, &mut heart);
    // The heart may have ended already.
    let _over = heart.kill();
    heart.wait()?;
    drop(unread);
    done
}

fn is_stopped_in_time(stage: &Stage, name: &str, heart: &mut Child) -> Result<()> {
    let supervisor = || stage.json(&["status", name, "--json"]).ok()?["supervisor_pid"].as_i64();
    for _ in 0..3 {
        let now = poll("a supervisor", START, supervisor)?;
        kill(Pid::from_raw(i32::try_from(now)?), Signal::SIGKILL)?;
        poll("another", START, || supervisor().filter(|next| *next != now))?;
    }
    let began = Instant::now();
    stage.call(&["stop", name])?.expect_code(0)?;
    poll("the heart to end", PATIENCE, || heart.try_wait().ok().flatten()).context("it is told to stop")?;
    ensure!(began.elapsed() < STOPPED_WITHIN, "it took {:?}", began.elapsed());
    stage.run(&["--name", name], &["true"])?.expect_code(0).map(drop)
}
