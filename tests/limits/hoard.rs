//! Descriptors that an agent's starts leave behind: each start opens pipes for the agent's output, and the
//! agent may hand their ends to a process that keeps them.

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, poll};

use crate::common::{program, replace_supervisor};

/// Keeps every descriptor that it is handed, and writes how many it has.
const HOARD: &str = "import array, os, socket
server = socket.socket(socket.AF_UNIX)
server.bind('/sandbox/hoard.new')
server.listen(64)
os.rename('/sandbox/hoard.new', '/sandbox/hoard')
kept = []
while True:
    peer, _ = server.accept()
    kept += socket.recv_fds(peer, 8, 2)[1]
    open('/sandbox/count', 'w').write(str(len(kept)))
";
/// Hands its output's descriptors on, and ends.
const STARTER: &str = "import socket, time
while True:
    try:
        peer = socket.socket(socket.AF_UNIX)
        peer.connect('/sandbox/hoard')
        break
    except OSError: time.sleep(0.01)
socket.send_fds(peer, [b'x'], [1, 2])
";
/// The number of starts whose descriptors are handed on.
const KEPT: usize = 240;
/// The most descriptors that a heart or supervisor has open if it keeps none of those, including those of the
/// starts within a second.
const AT_MOST: usize = 200;

pub fn pipes_that_somebody_keeps_cost_nobody_else(stage: &Stage) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bed::skip!("the descriptors of processes that aren't dumpable are shown to root alone");
    }
    let python = program("python3")?;
    stage.script("hoard.py", HOARD)?;
    stage.script("starter.py", STARTER)?;
    let name = stage.name();
    let policy = |host: &str| {
        format!(
            "version: 1\nnetwork_policies: {{ it: {{ endpoints: [ {{ host: {host}, port: 443, tls: skip }} ], binaries: [ {{ path: /x }} ] }} }}\n"
        )
    };
    stage.write("p.yaml", policy("before.test"))?;
    let after = stage.write("after.yaml", policy("after.test"))?.display().to_string();
    let text = format!(
        "name: {name}\npolicy: p.yaml\nworkspace: {}\nmetrics: {{ listen: \"off\" }}\nagents:\n  \
         hoard: {{ command: [{python}, -B, /sandbox/hoard.py] }}\n  \
         starter: {{ command: [{python}, -B, /sandbox/starter.py], \
         restart: {{ policy: always, backoff: {{ min: 10ms, max: 10ms }}, at_most: 10000, within: 10m }} }}\n",
        stage.workspace().display()
    );
    let file = stage.write("cofferdam.yaml", text)?.display().to_string();
    let running = stage.start(stage.cofferdam(["up", "--quiet", "-f", &file]))?;
    let count = stage.workspace().join("count");
    poll("the descriptors to be handed on", PATIENCE * 3, || {
        let kept: usize = std::fs::read_to_string(&count).ok()?.parse().ok()?;
        (kept >= KEPT).then_some(())
    })?;
    let status = stage.json(&["status", &name, "--json"])?;
    let heart = status["heart_pid"].as_i64().context("a heart")?;
    let supervisor = status["supervisor_pid"].as_i64().context("a supervisor")?;
    for pid in [heart, supervisor] {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        ensure!(open < AT_MOST, "{pid} has {open} descriptors open, of {KEPT} that somebody keeps");
    }
    // A policy that is set now is in force under the next supervisor.
    stage.call(&["policy", "set", &name, &after])?.expect_code(0)?;
    replace_supervisor(stage, &name)?;
    let shown = stage.call(&["policy", "show", &name])?.expect_code(0)?.out();
    ensure!(shown.contains("after.test"), "{shown}");
    stage.call(&["stop", &name])?.expect_code(0)?;
    running.finish(PATIENCE)?;
    Ok(())
}
