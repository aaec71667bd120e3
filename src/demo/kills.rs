//! The second half of the tour: every part of cofferdam is killed while the agent counts on.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::agent::Line;
use super::show::Show;
use super::stage::{Sandbox, Stage};
use super::{PATIENCE, WARM_UP};

/// The actors, in the order in which they are killed.
const ACTORS: &[&str] = &["proxy", "gateway", "policy", "redactor", "operator", "telemetry"];
/// How many numbers must come after a part is back, before the next one is killed.
const BREATH: u64 = 15;

/// The agent's numbers as they arrive: how many are missing, and the longest pause.
struct Count {
    lines: Receiver<String>,
    last: u64,
    missing: usize,
    heard: Instant,
    longest: Duration,
}

impl Count {
    /// Reads on until this many more numbers have come.
    fn more(&mut self, numbers: u64) -> anyhow::Result<()> {
        let until = self.last + numbers;
        while self.last < until {
            let line = match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => anyhow::bail!("the agent fell silent at {}", self.last),
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the agent ended at {}", self.last),
            };
            let Line::Count(n) = serde_json::from_str(&line)? else { continue };
            // A number may come twice when the whole supervisor died; it must never be missing.
            if n > self.last + 1 {
                self.missing += usize::try_from(n - self.last - 1).unwrap_or(usize::MAX);
            }
            self.last = self.last.max(n);
            self.longest = self.longest.max(self.heard.elapsed());
            self.heard = Instant::now();
        }
        Ok(())
    }

    fn begin(&mut self) {
        self.longest = Duration::ZERO;
        self.heard = Instant::now();
    }
}

/// Kills every part. Returns how many numbers were missing, and how many parts did not come back.
pub fn every_part(
    show: &Show,
    stage: &Stage,
    sandbox: &mut Sandbox,
    lines: impl Iterator<Item = io::Result<String>> + Send + 'static,
) -> anyhow::Result<(usize, usize)> {
    let (send, receive) = channel();
    std::thread::spawn(move || lines.map_while(Result::ok).all(|line| send.send(line).is_ok()));
    let mut count =
        Count { lines: receive, last: WARM_UP, missing: 0, heard: Instant::now(), longest: Duration::ZERO };
    let mut lost = 0;
    show.layer("every part killed, one after another")?;
    for actor in ACTORS {
        count.begin();
        let before = stage.restarts_of(actor)?;
        stage.crash(actor)?;
        let back = stage.wait(|stage| Ok(stage.restarts_of(actor)? > before && stage.is_up(actor)?));
        count.more(BREATH)?;
        lost += usize::from(!back);
        show.killed(actor, count.last, count.longest, back.then_some("back"))?;
    }
    show.layer("the tree by now")?;
    show.text(&stage.tree()?)?;

    show.layer("and the whole supervisor process")?;
    count.begin();
    let pid = stage.supervisor()?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    let back = stage.wait(|stage| Ok(stage.supervisor()? != pid && stage.is_up("proxy")?));
    count.more(BREATH)?;
    lost += usize::from(!back);
    show.killed("-9 the supervisor", count.last, count.longest, back.then_some("back"))?;
    show.aside(&format!(
        "supervisors started after the first: {}; the agent is still the process that was started",
        stage.supervisor_restarts()?
    ))?;
    sandbox.finish()?;
    Ok((count.missing, lost))
}
